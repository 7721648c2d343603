"""`python -m classify`."""

from classify.cli import app
from featurize.core.console import run_command_line

if __name__ == "__main__":
    run_command_line(app)
