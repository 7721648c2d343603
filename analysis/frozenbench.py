"""The console command `frozenbench`: the three stages as subcommands, and what joins them."""

from typing import Annotated, NoReturn

import typer

import analysis
import analysis.cli
import classify.cli
import featurize.cli
from featurize.core.console import TYPER_OPTIONS, run_command_line, say

app = typer.Typer(**{**TYPER_OPTIONS, "add_completion": True}, no_args_is_help=True)
app.add_typer(featurize.cli.app, name="featurize")
app.add_typer(classify.cli.app, name="classify")
app.add_typer(analysis.cli.app, name="analysis")
app.command("run", epilog=analysis.cli.EXAMPLES)(analysis.cli.experiment)
app.command("audit", epilog=analysis.cli.AUDIT_EXAMPLES)(analysis.cli.audit)
app.command("export", epilog=classify.cli.EXPORT_EXAMPLES)(classify.cli.export)
app.command("serve", epilog=analysis.cli.SERVE_EXAMPLES)(analysis.cli.serve)


def print_version(asked: bool) -> None:
    """Print the version and exit, if `--version` was given."""
    if asked:
        say(f"frozenbench {analysis.__version__}")
        raise typer.Exit


@app.callback()
def frozenbench(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Measure what a frozen, pretrained network is worth on your images."""


def main() -> NoReturn:
    """The entry point of the command."""
    run_command_line(app)
