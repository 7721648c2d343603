"""Classifiers of the user's as heads: an unfitted one from Python, or `module:Class` on the command line.

Importing a module runs its code. So a name is imported only if the user gave it, never because a file holds it.
"""

import hashlib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from featurize.core.errors import HeadError, UsageError, first_line, suggestion

FORM = re.compile(r"[\w.]+:\w+", re.ASCII)


def is_own(name: str) -> bool:
    """Whether a head's name is a `module:Class`."""
    return ":" in name


def imported(name: str) -> Any:
    """The unfitted classifier that `module:Class` or `module:instance` names; a class is called without arguments.

    The module is looked for in the environment, then in the working directory.

    Raises:
        UsageError: the name has another form, the module cannot be imported or does not hold it, or the class
            takes arguments.
    """
    if not FORM.fullmatch(name):
        raise UsageError(f"--head {name}: expected module:Class, such as sklearn.ensemble:ExtraTreesClassifier")
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # last, so that a file there replaces no installed module
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code can fail anyhow
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"--head {name}: the module {module_name} cannot be imported ({reason})") from error
    if not hasattr(module, attribute):
        known = [each for each in dir(module) if hasattr(getattr(module, each), "fit")]
        raise UsageError(f"--head {name}: {module_name} has no {attribute}; {suggestion(attribute, known)}")
    found = getattr(module, attribute)
    if not isinstance(found, type):
        return found
    try:
        return found()
    except Exception as error:  # the class's own code
        raise UsageError(
            f"--head {name}: {attribute}() fails ({type(error).__name__}: {first_line(error)}); make an instance in a "
            "module and name that"
        ) from error


def code_digest(name: str) -> str:
    """SHA-256 (hexadecimal) of the file of the module in `module:Class`; empty if it is no file."""
    imported(name)
    file = sys.modules[name.partition(":")[0]].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def own_head(estimator: Any, seed: int, class_weight: str | None) -> Any:
    """A pipeline of one step: a copy of an unfitted classifier, which gets the vectors as they are.

    A classifier with `decision_function` alone is wrapped in temperature calibration.

    Args:
        estimator: the classifier.
        seed: becomes each `random_state` that is None.
        class_weight: becomes each `class_weight`, unless it is None.

    Raises:
        UsageError: it is no classifier, or has neither `predict_proba` nor `decision_function`.
        HeadError: there is a class weight, and the classifier takes none.
    """
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    if isinstance(estimator, type):
        raise UsageError(f"--head {estimator.__name__} is a class, expected an instance, or the name of a head")
    name = class_name(estimator)
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise UsageError(f"--head {name} is no classifier of scikit-learn: it lacks fit or get_params")
    try:
        classifier = clone(estimator)
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"--head {name}: scikit-learn cannot copy it ({first_line(error)})") from error
    settings: dict[str, Any] = {}
    for parameter, value in classifier.get_params().items():
        kind = parameter.rpartition("__")[2]
        if kind == "random_state" and value is None:
            settings[parameter] = seed
        elif kind == "class_weight" and class_weight is not None:
            settings[parameter] = class_weight
    if class_weight is not None and class_weight not in settings.values():
        raise HeadError(f"{name} has no parameter class_weight; use it without --class-weight {class_weight}")
    classifier.set_params(**settings)
    if hasattr(classifier, "predict_proba"):
        return make_pipeline(classifier)
    if hasattr(classifier, "decision_function"):
        from classify.heads.calibration import TemperatureCalibrated

        return make_pipeline(TemperatureCalibrated(classifier, random_state=seed))
    raise UsageError(f"--head {name} has neither predict_proba nor decision_function, and a head needs one of them")


def class_name(estimator: Any) -> str:
    """The name of a classifier's class; of a pipeline, that of its last step."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return type(last).__name__


def types_in(estimator: Any) -> tuple[str, ...]:
    """The full names of the classes and functions that an unfitted classifier is made of: what its saved head needs."""
    found = set()
    for part in (estimator, *estimator.get_params().values()):
        kind = part if callable(part) and hasattr(part, "__qualname__") else type(part)
        if kind is part or hasattr(part, "get_params"):
            found.add(f"{kind.__module__}.{kind.__qualname__}")
    return tuple(sorted(found))
