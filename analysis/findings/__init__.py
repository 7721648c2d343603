"""What the runs say about transfer learning.

`transfer`, `learning` and `speed` compute the numbers, `evidence` and `text` write them, `measures` holds the four that
matter most, `claims` makes sentences, `answer` gives the sentence that comes first, `notices` what to look at, `ledger`
how far accuracies vary.
Exports `answer`, `best_by_seconds`, `best_pretrained`, `Claim`, `claims`, `class_gains`, `class_sentences`,
`Correction`, `correction`, `learning_curves`, `Ledger`, `ledger`, `Measure`, `Notice`, `notices`, `paired_gain`,
`TRANSFER`; and `text`, which writes numbers.
May import: frame, classify.runs, classify.statistics, featurize.core.
"""

from analysis.findings import text
from analysis.findings.answer import Answer, Correction, answer, best_pretrained, correction
from analysis.findings.claims import Claim, claims
from analysis.findings.evidence import class_sentences
from analysis.findings.learning import learning_curves
from analysis.findings.ledger import Ledger, ledger
from analysis.findings.measures import Measure
from analysis.findings.notices import Notice, notices
from analysis.findings.speed import best_by_seconds
from analysis.findings.transfer import TRANSFER, class_gains, paired_gain

__all__ = [
    "TRANSFER",
    "Answer",
    "Claim",
    "Correction",
    "Ledger",
    "Measure",
    "Notice",
    "answer",
    "best_by_seconds",
    "best_pretrained",
    "claims",
    "class_gains",
    "class_sentences",
    "correction",
    "learning_curves",
    "ledger",
    "notices",
    "paired_gain",
    "text",
]
