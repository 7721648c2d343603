"""Stage 2 on the command line: `python -m classify`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurize.errors import UsageError, run_command_line

if TYPE_CHECKING:
    from classify.results import RunResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
JSON_KEYS = (
    "model", "features", "train_rows", "test_rows", "seed", "accuracy", "accuracy_low", "accuracy_high", "macro_f1",
    "log_loss", "ece", "fit_seconds", "predict_ms_per_image", "iterations", "converged", "warnings",
)  # fmt: skip


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="Comma-separated: logreg, svm, linear-svm, xgboost, mlp, knn, dummy; all = logreg, svm, xgboost, mlp."
        ),
    ] = "all",
    features: Annotated[
        list[Path] | None, typer.Option(help="A feature cache; may be given several times.  [default: the newest]")
    ] = None,
    layers: Annotated[str, typer.Option(help="Use only these layers of the cache, comma-separated.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="For whatever is random in a head.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads.  [default: all cores]")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs are kept.  [default: data/runs]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what is already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train heads on cached features and compare them on the test split."""
    if context.invoked_subcommand is not None:
        return
    # Imported here so that --help does not wait for them.
    from classify.heads import head_names
    from classify.results import runs_folder
    from classify.train import train_heads
    from featurize.cache import read_info

    names = head_names(model)
    wanted = tuple(name.strip() for name in layers.split(",") if name.strip())
    infos = [read_info(path) for path in features or [newest_cache()]]
    results: dict[Path, RunResult] = {}
    for info in infos:
        results.update(
            train_heads(names, info, runs or runs_folder(), wanted, seed, jobs or os.cpu_count() or 1, force=force)
        )
    report(results, as_json=as_json)


@app.command("list")
def list_runs(
    runs: Annotated[Path | None, typer.Option(help="Where runs are kept.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the runs that are there, best first."""
    from classify.results import load_runs, runs_folder

    report(load_runs(runs or runs_folder())[0], as_json=as_json)


def newest_cache() -> Path:
    """The feature cache that was written last.

    Raises:
        UsageError: there is none.
    """
    from featurize.cache import features_folder

    caches = sorted(features_folder().glob("*.h5"), key=lambda path: path.stat().st_mtime)
    if not caches:
        raise UsageError(
            f"no feature cache in {features_folder()}; make one with python -m featurize, or name one with --features"
        )
    return caches[-1]


def report(results: "dict[Path, RunResult]", *, as_json: bool) -> None:
    """Print the comparison on standard output, best first, a table for each test set."""
    ranked = sorted(results.items(), key=lambda item: (-item[1].accuracy, item[1].features, item[1].model))
    if as_json:
        rows = [{**{key: getattr(result, key) for key in JSON_KEYS}, "run_dir": str(path)} for path, result in ranked]
        print(json.dumps({"runs": rows}))
        return
    for test_digest in dict.fromkeys(result.test_digest for _, result in ranked):
        print_table([result for _, result in ranked if result.test_digest == test_digest])


def print_table(results: "list[RunResult]") -> None:
    """Print runs on one test set as a table."""
    import sys

    from rich.console import Console
    from rich.table import Table

    first = results[0]
    table = Table(title=f"{first.dataset}: {first.test_rows:,} test images")
    table.add_column("features", overflow="fold")
    for heading in ("head", "accuracy %", "95% interval", "macro F1 %", "log loss", "ECE %", "fit s", "ms/image"):
        table.add_column(heading, justify="left" if heading == "head" else "right", no_wrap=True)
    for result in results:
        table.add_row(
            result.features.removeprefix(f"{result.dataset}-"),
            result.model + ("" if result.converged is not False else " (not converged)"),
            f"{100 * result.accuracy:.1f}",
            f"{100 * result.accuracy_low:.1f} to {100 * result.accuracy_high:.1f}",
            f"{100 * result.macro_f1:.1f}",
            "-" if result.log_loss is None else f"{result.log_loss:.3f}",
            "-" if result.ece is None else f"{100 * result.ece:.1f}",
            f"{result.fit_seconds:.1f}",
            f"{result.predict_ms_per_image:.3f}",
        )
    # A pipe has no width of its own: give it room, so that no figure is cut off.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    run_command_line(app)
