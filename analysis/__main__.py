"""Stage 3 on the command line: `python -m analysis`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurize.errors import run_command_line

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def run(
    runs: Annotated[Path | None, typer.Option(help="Where the runs are.  [default: data/runs]")] = None,
    out: Annotated[Path, typer.Option(help="Where tables and figures go.")] = Path("analysis/output"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn run directories into comparison tables and figures."""
    # Imported here so that --help does not wait for pandas and matplotlib.
    from analysis.tables import comparison, markdown, write_comparison
    from classify.results import load_runs, runs_folder

    found, left_out = load_runs(runs or runs_folder())
    table = comparison(found)
    written = write_comparison(table, out)
    for _, rows in table.groupby("test_set", sort=False):
        written += draw(rows, out / "figures")
    if as_json:
        omitted = [{"run_dir": str(path), "reason": reason} for path, reason in left_out]
        print(json.dumps({"written": [str(path) for path in written], "left_out": omitted}))
        return
    print(markdown(table))
    for path in written:
        print(f"wrote {path}")


def draw(table: "pd.DataFrame", folder: Path) -> list[Path]:
    """The figures of one test set; returns the paths written."""
    import pandas as pd

    from analysis import plots
    from classify.results import PREDICTIONS, RunResult

    best = table.iloc[0]
    with plots.figure(8, 2.2 + 0.5 * table["model"].nunique() + 0.3 * table["features"].nunique()) as (drawn, ax):
        plots.accuracy(table, ax)
        written = plots.save(drawn, folder / f"accuracy-{best['test_set']}")
    run_dir = Path(best["run_dir"])
    class_names = RunResult.read(run_dir).class_names
    size = 3 + 0.5 * len(class_names)
    with plots.figure(size + 1, size) as (drawn, ax):
        plots.confusion(pd.read_parquet(run_dir / PREDICTIONS), class_names, ax)
        ax.set_title(f"{best['model']} on {best['features']}: {100 * best['accuracy']:.1f}%")
        return written + plots.save(drawn, folder / f"confusion-{best['test_set']}")


if __name__ == "__main__":
    run_command_line(app)
