"""Stage 3 on the command line: `python -m analysis`."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
OUT = Path("analysis/output")


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    runs: Annotated[Path | None, typer.Option(help="Where the runs are.  [default: data/runs]")] = None,
    out: Annotated[Path, typer.Option(help="Where tables, figures and the report go.")] = OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn run directories into comparison tables, figures and a report."""
    if context.invoked_subcommand is not None:
        return
    from classify.runs import runs_folder

    report(runs or runs_folder(), out, as_json=as_json)


@app.command()
def experiment(
    preset: Annotated[str, typer.Option(help="quick (minutes) or full (overnight).")] = "quick",
    data: Annotated[str, typer.Option(help="As for python -m featurize.")] = "cifar10",
    folder: Annotated[
        Path | None, typer.Option(help="Where features and runs go.  [default: data/experiments/PRESET]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where tables, figures and the report go.")] = OUT,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads of the heads.  [default: all cores]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make the whole experiment from nothing, and the report on it; the same command goes on after an interruption."""
    from analysis.experiment import run_experiment

    report(run_experiment(preset, data, folder=folder, threads=jobs or 0), out, as_json=as_json)


def report(runs: Path, out: Path, *, as_json: bool) -> None:
    """Write everything there is to say about the runs in a folder, and print the four answers."""
    # Imported here so that --help does not wait for pandas and matplotlib.
    from analysis.report.build import write_answer
    from classify.runs import load_runs

    found, left_out = load_runs(runs)
    answers, written = write_answer(found, left_out, out)
    if as_json:
        omitted = [{"run_dir": str(path), "reason": reason} for path, reason in left_out]
        print(json.dumps({"answers": answers, "written": [str(path) for path in written], "left_out": omitted}))
        return
    for test_set, sentences in answers.items():
        print(f"{test_set}\n")
        for sentence in sentences:
            print(f"- {sentence}")
        print()
    for path in written:
        print(f"wrote {path}")
