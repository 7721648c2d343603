"""The codes of warnings and findings: what each means, why it matters, what to do. `docs/findings.md` shows them."""

from collections.abc import Sequence
from typing import NamedTuple

from featurize.core.errors import UsageError, suggestion


class Code(NamedTuple):
    """What a code stands for; a sentence or two each."""

    title: str
    found: str
    matters: str
    action: str


CODES = {
    "FB001": Code(
        "Classes are unequal",
        "The largest class has more than three times the training images of the smallest.",
        "A head that prefers large classes has a high accuracy and may miss the small ones.",
        "Look at macro F1 and at the recall of each class; try --class-weight balanced.",
    ),
    "FB002": Code(
        "Constant features",
        "Some features have the same value in all training images, up to one part in a million.",
        "They carry no information. Many of them hint at a wrong layer or wrong preprocessing.",
        "A few are usual after a ReLU. If there are many, check --layers and --preprocess.",
    ),
    "FB003": Code(
        "The same vector in several classes",
        "Training images of different classes have vectors with the same bits.",
        "They are copies of one image, so that all but one of their labels are wrong.",
        "Run frozenbench audit, and correct or remove the copies.",
    ),
    "FB004": Code(
        "Test images among the training images",
        "Test images have the same vectors as training images, bit by bit.",
        "The heads have seen the answers, so that accuracy on these images says nothing about new ones.",
        "Remove the copies from one of the splits, or let frozenbench split the images: copies share a split.",
    ),
    "FB005": Code(
        "A library warned during the fit",
        "scikit-learn, XGBoost or Keras gave a warning while a head was fitted.",
        "A head that did not converge may be less accurate than its kind.",
        "Read the warning. For logistic regression and linear SVMs, stronger regularisation helps: --tune 20.",
    ),
    "FB006": Code(
        "Too few test images to tell the best heads apart",
        "The two best heads differ by less than the test images can show, by McNemar's test.",
        "Which of them is better is open.",
        "Take the cheaper one, or test on more images: --folds 5 tests every image.",
    ),
    "FB007": Code(
        "No control",
        "There is no head on raw pixels or on an untrained network, and no network from scratch.",
        "Without a control, an accuracy does not show what the frozen network is worth.",
        "frozenbench run makes all controls.",
    ),
    "FB008": Code(
        "The gain may be chance",
        "The best head and the best control do not differ significantly on the test images.",
        "The frozen network may be worth nothing here, or the test images are too few to show it.",
        "Test on more images: --folds 5 tests every image.",
    ),
    "FB009": Code(
        "An untrained network does as well",
        "A head on the same network with random weights shares a letter with the best head.",
        "What helps may be the shape of the network or the size of the vectors, not what it learned on ImageNet.",
        "Try another network, a later layer or larger images.",
    ),
    "FB010": Code(
        "Probabilities are off",
        "The calibration error of the best head is above 10% on at least 500 test images.",
        "Its probabilities are not shares of right answers; thresholds on them mislead.",
        "Take a head with a lower ECE, or use its predictions without their probabilities.",
    ),
    "FB011": Code(
        "Few test images of a class",
        "A class has fewer than 20 test images.",
        "Its recall has a wide interval.",
        "Collect more images of it, or test every image: --folds 5.",
    ),
    "FB012": Code(
        "Image files were skipped",
        "Some files could not be read when the features were extracted.",
        "They are neither trained on nor tested; if they are all of one kind, the result says nothing about that kind.",
        "frozenbench featurize info CACHE lists them with the reasons.",
    ),
    "FB013": Code(
        "Runs were left out",
        "Some run directories could not be read, or their predictions do not fit their result.",
        "The report does not show them.",
        "Repeat them with frozenbench classify --force, or delete them.",
    ),
    "FB014": Code(
        "Several machines",
        "The runs were made on machines that differ.",
        "Their seconds cannot be compared.",
        "Repeat the runs whose time matters on one machine.",
    ),
}


def coded(code: str, text: str) -> str:
    """A warning with its code in front."""
    return f"{code}: {text}"


def code_of(text: str) -> str:
    """The code in front of a warning; empty if there is none, as in runs of earlier versions."""
    code, _, _ = text.partition(":")
    return code if code in CODES else ""


def check_codes(codes: Sequence[str]) -> frozenset[str]:
    """Codes to ignore, as given to `--ignore`, in capitals.

    Raises:
        UsageError: there is no such code.
    """
    wanted = [code.upper() for code in codes]
    for code in wanted:
        if code not in CODES:
            raise UsageError(f"--ignore {code}: {suggestion(code, list(CODES))}")
    return frozenset(wanted)
