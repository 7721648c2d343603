"""Finished runs on disk: result, predictions, saved head, model card.

May import: featurize.core, featurize.cache.
"""

from classify.runs.card import CARD, model_card
from classify.runs.codes import CODES, Code, check_codes, code_of, coded
from classify.runs.persist import AGAIN, GUARANTEE, HEAD, load_guarantee, load_head, save_head, save_own_head
from classify.runs.predictions import read_predictions, with_predictions
from classify.runs.results import (
    RESULT,
    SET_COVERAGE,
    LoadedRuns,
    RunResult,
    find_run,
    load_runs,
    new_run,
    runs_folder,
    tested_digest,
    write_result,
)
from classify.runs.words import head_name, markdown_table

__all__ = [
    "AGAIN",
    "CARD",
    "CODES",
    "GUARANTEE",
    "HEAD",
    "RESULT",
    "SET_COVERAGE",
    "Code",
    "LoadedRuns",
    "RunResult",
    "check_codes",
    "code_of",
    "coded",
    "find_run",
    "head_name",
    "load_guarantee",
    "load_head",
    "load_runs",
    "markdown_table",
    "model_card",
    "new_run",
    "read_predictions",
    "runs_folder",
    "save_head",
    "save_own_head",
    "tested_digest",
    "with_predictions",
    "write_result",
]
