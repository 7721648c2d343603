"""Stage 2 on the command line: `python -m classify`."""

import functools
import json
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurize.core.errors import HeadError, UsageError

if TYPE_CHECKING:
    from classify.runs import RunResult

logger = logging.getLogger("frozenbench")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
JSON_KEYS = (
    "model", "features", "train_rows", "test_rows", "seed", "class_weight", "tuned", "accuracy", "accuracy_low",
    "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high", "log_loss", "brier", "ece", "test_opened",
    "fit_seconds", "predict_ms_per_image", "iterations", "converged", "warnings",
)  # fmt: skip


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="Comma-separated: logreg, svm, linear-svm, xgboost, mlp, cnn, stack, knn, dummy; all = logreg, svm, "
            "xgboost, mlp."
        ),
    ] = "all",
    features: Annotated[
        list[Path] | None, typer.Option(help="A feature cache; may be given several times.  [default: the newest]")
    ] = None,
    layers: Annotated[str, typer.Option(help="Use only these layers of the cache, comma-separated.")] = "",
    train_size: Annotated[
        str, typer.Option(help="Train on so many images, comma-separated; each set holds the smaller ones.")
    ] = "",
    tune: Annotated[int, typer.Option(min=0, help="Search the settings by N trials within the training split.")] = 0,
    class_weight: Annotated[str, typer.Option(help="none, or balanced: every class counts the same.")] = "none",
    time_limit: Annotated[
        float | None, typer.Option(help="Stop a head after so many seconds, its search included.")
    ] = None,
    seed: Annotated[str, typer.Option(help="For whatever is random; comma-separated for several runs.")] = "0",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Threads; without effect with --cluster.  [default: all cores]")
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Spread heads and trials over Dask workers: local:N, or tcp://HOST:PORT.")
    ] = "",
    runs: Annotated[Path | None, typer.Option(help="Where runs are kept.  [default: data/runs]")] = None,
    save: Annotated[bool, typer.Option(help="Keep the fitted heads, for predict.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Run again what is already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train heads on cached features and compare them on the test split."""
    if context.invoked_subcommand is not None:
        return
    # Imported here so that --help does not wait for them.
    from classify.heads import head_names
    from classify.runs import runs_folder
    from classify.training import VERSIONS_OF, Job, train_heads
    from featurize.cache import read_info
    from featurize.core.cluster import connected
    from featurize.core.environment import library_versions

    if class_weight not in ("none", "balanced"):
        raise UsageError(f"--class-weight {class_weight}: expected none or balanced")
    names, seeds = head_names(model), numbers("--seed", seed, 0)
    sizes: list[int | None] = [*numbers("--train-size", train_size, 1)]
    if not seeds:
        raise UsageError("--seed names no seed; expected whole numbers, such as 0 or 0,1,2")
    wanted = tuple(name.strip() for name in layers.split(",") if name.strip())
    infos = [read_info(path) for path in features or [newest_cache()]]
    todo = [
        Job(
            name, info, wanted, rows, number, None if class_weight == "none" else class_weight, tune,
            jobs or os.cpu_count() or 1,
        )
        for info in infos
        for rows in sizes or [None]
        for number in seeds
        for name in names
    ]  # fmt: skip
    # What runs depend on, and what travels between here and the workers.
    packages = (*VERSIONS_OF, "joblib", "distributed", *(["optuna"] if tune else []))
    with connected(cluster, functools.partial(library_versions, packages)) if cluster else nullcontext() as client:
        results, stopped = train_heads(
            todo, runs or runs_folder(), time_limit=time_limit, force=force, keep_heads=save, client=client
        )
    if results:
        report(results, as_json=as_json)
    if stopped:
        raise HeadError("; ".join(stopped))


@app.command()
def predict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files; folders, for all files in them; - for a list on standard input, a name a line.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 5,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each class named.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Classify image files with the saved head of a run. Exit code 1 if any of them cannot be read."""
    from classify.predict import named_files, predict_images, show

    if as_csv and as_json:
        raise UsageError("--csv and --json: expected one of them")
    show(predict_images(run_dir, named_files(images), top), as_csv=as_csv, as_json=as_json)


@app.command("list")
def list_runs(
    runs: Annotated[Path | None, typer.Option(help="Where runs are kept.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the runs that are there, best first."""
    from classify.runs import load_runs, runs_folder

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


def numbers(option: str, text: str, least: int) -> list[int]:
    """The whole numbers of a comma-separated list.

    Raises:
        UsageError: something in it is none, or is below `least`.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not part.isascii() or not part.isdigit() or int(part) < least:
            raise UsageError(f"{option} {part}: expected whole numbers from {least} on, such as 100 or 100,1000")
        found.append(int(part))
    return list(dict.fromkeys(found))


def report(results: "dict[Path, RunResult]", *, as_json: bool) -> None:
    """Print the comparison on standard output, best first, a table for each test set."""
    ranked = sorted(results.items(), key=lambda item: (-item[1].accuracy, item[1].features, item[1].model))
    if as_json:
        rows = [{**{key: getattr(result, key) for key in JSON_KEYS}, "run_dir": str(path)} for path, result in ranked]
        print(json.dumps({"runs": rows}))
        return
    for test_digest in dict.fromkeys(result.test_digest for _, result in ranked):
        print_table({path: result for path, result in ranked if result.test_digest == test_digest})


def print_table(results: "dict[Path, RunResult]") -> None:
    """Print runs on one test set as a table, and which of their differences may be chance."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from classify.runs import head_name, read_predictions
    from classify.statistics import compare, size_warning

    comparison = compare({path: read_predictions(path) for path in results})
    first = next(iter(results.values()))
    table = Table(
        title=f"{first.dataset}: {first.test_rows:,} test images",
        caption="Heads that share a letter do not differ significantly (exact McNemar tests, Holm, 5%)."
        if len(results) > 1 else None,
    )  # fmt: skip
    table.add_column("features", overflow="fold")
    for heading in ("head", "train", "accuracy %", "95% interval", "group", "macro F1 %", "log loss", "ECE %", "fit s",
                    "ms/image"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("head", "group") else "right", no_wrap=True)
    for path, result in results.items():
        table.add_row(
            result.features.removeprefix(f"{result.dataset}-"),
            head_name(result, details=True),
            f"{result.train_rows:,}",
            f"{100 * result.accuracy:.1f}",
            f"{100 * result.accuracy_low:.1f} to {100 * result.accuracy_high:.1f}",
            comparison.groups[path] if len(results) > 1 else "",
            f"{100 * result.macro_f1:.1f}",
            f"{result.log_loss:.3f}",
            f"{100 * result.ece:.1f}",
            f"{result.fit_seconds:.1f}",
            f"{result.predict_ms_per_image:.3f}",
        )
    # A pipe has no width of its own: give it room, so that no figure is cut off.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if warning := size_warning(comparison, lambda path: head_name(results[path], details=True)):
        logger.info(warning)
