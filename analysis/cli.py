"""Stage 3 on the command line: `python -m analysis`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from featurize.core.console import TYPER_OPTIONS

app = typer.Typer(**TYPER_OPTIONS)
OUT = Path("analysis/output")


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the report.")] = OUT,
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
        Path | None, typer.Option(help="Folder for features and runs.  [default: data/experiments/PRESET]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the report.")] = OUT,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Threads of the heads.  [default: one per usable physical core]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the whole experiment and report on it. After an interruption, the same command resumes it."""
    from analysis.experiment import run_experiment

    report(run_experiment(preset, data, folder=folder, threads=jobs or 0), out, as_json=as_json)


def report(runs: Path, out: Path, *, as_json: bool) -> None:
    """Write tables, figures and reports on the runs in a folder, and print the findings."""
    # Imported here so that --help does not wait for pandas and matplotlib.
    from analysis.report.build import write_reports
    from classify.runs import load_runs

    found, skipped = load_runs(runs)
    summaries, written = write_reports(found, skipped, out)
    if as_json:
        left_out = [{"run_dir": str(path), "reason": reason} for path, reason in skipped]
        print(json.dumps({"answers": summaries, "written": [str(path) for path in written], "left_out": left_out}))
        return
    for test_set, findings in summaries.items():
        print(f"{test_set} (95% intervals in brackets)\n")
        for finding in findings:
            print(f"- {finding}")
        print()
    for path in written:
        print(f"wrote {path}")
