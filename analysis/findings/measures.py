"""The four numbers of the answer: accuracy gained, and how many times as much of each cost a control takes."""

import math
from dataclasses import dataclass

import pandas as pd

from analysis.findings import text
from analysis.findings.speed import Ratio

GAIN = "points of accuracy gained"
IMAGES = "times as many images without it"
TIME = "times as fast"
EPOCHS = "times as many epochs without it"
UNMEASURED = math.nan


@dataclass(frozen=True)
class Measure:
    """A number of the answer, with what is compared.

    Attributes:
        label: what the number counts.
        detail: what is compared, or why there is no number.
        value: points (0..100), or how many times as much a control takes; NaN if it was not measured.
        low: bound of the 95% interval; NaN if there is no interval, 0 or -inf if it is open.
        high: the other bound; infinite if it is open.
        neutral: the value that stands for no difference, 0 or 1.
        command: measures the number; empty if it was measured.
    """

    label: str
    detail: str
    value: float = UNMEASURED
    low: float = math.nan
    high: float = math.nan
    neutral: float = 1.0
    command: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether the interval has a bound at one end at least."""
        is_open = self.neutral == 1 and self.low <= 0 and math.isinf(self.high)
        return not math.isnan(self.low) and not is_open

    @property
    def written(self) -> str:
        """The value as text: `+17` points, `4.4` times; `-` if there is none."""
        if not self.is_measured:
            return "-"
        return self._texts()[0] if self.neutral == 0 else text.two_digits(self.value)

    @property
    def interval(self) -> str:
        """The interval as text: `3 to 29`, `2.1 or more`; or that there is none."""
        if not self.is_measured:
            return ""
        if not self.has_interval:
            return (
                "single runs: no interval" if math.isnan(self.low) else "the curves are too uncertain for an interval"
            )
        if self.neutral == 0:
            return " to ".join(self._texts()[1:])
        if math.isinf(self.high):
            return f"{text.two_digits(self.low)} or more"
        if self.low <= 0:
            return f"up to {text.two_digits(self.high)}"
        return f"{text.two_digits(self.low)} to {text.two_digits(self.high)}"

    def _texts(self) -> list[str]:
        return text.points(self.value / 100, self.low / 100, self.high / 100)


def unmeasured(label: str, reason: str, command: str) -> Measure:
    """A number that is missing."""
    return Measure(label, reason, neutral=0.0 if label == GAIN else 1.0, command=command)


def points_gained(gain: pd.Series) -> Measure:
    """The gain in a row of `analysis.findings.transfer.gains`."""
    value, low, high = (100 * float(gain[name]) for name in ("gain", "gain_low", "gain_high"))
    return Measure(GAIN, f"over {gain['control_approach']}", value, low, high, neutral=0.0)


def images_saved(ours: pd.Series, control: pd.Series, target: float, command: str) -> Measure:
    """How many times as many images a control needs, from two rows of `images_needed`.

    The interval combines those of both sides on the logarithmic scale (MOVER: Zou and Donner, Construction of
    confidence limits about effect measures, Statistics in Medicine 27, 2008). The sides share test images, so it is
    rather too wide than too narrow.
    """
    if control["at_most"]:
        return unmeasured(IMAGES, "the control was not trained on fewer images", command)
    value = control["images"] / ours["images"]
    down = math.hypot(_log_ratio(control["images"], control["low"]), _log_ratio(ours["high"], ours["images"]))
    up = math.hypot(_log_ratio(control["high"], control["images"]), _log_ratio(ours["images"], ours["low"]))
    if ours["at_most"]:
        up = math.inf
    detail = f"{'at least, ' if ours['at_most'] else ''}to {100 * target:.0f}% accuracy"
    return Measure(IMAGES, detail, value, value * math.exp(-down), value * math.exp(up))


def _log_ratio(large: float, small: float) -> float:
    """The distance of two numbers of images on the logarithmic scale; infinite if one of them is open."""
    return math.inf if small <= 0 or math.isinf(large) else math.log(large / small)


def times_as_fast(ours: pd.Series, control: pd.Series, target: float, ratio: Ratio | None, command: str) -> Measure:
    """How many times as long a control takes: on the same images if that was repeated, or to the same accuracy.

    Args:
        ours: with `cost` and `at_most`, of transfer.
        control: the same of the control.
        target: the accuracy that both reach, 0..1.
        ratio: of the seconds on the same images, with its interval.
        command: measures smaller sizes.
    """
    if ratio is not None:
        return _of_ratio(TIME, ratio)
    if ours["at_most"] or control["at_most"]:
        return unmeasured(TIME, "smaller training sets were not tried", command)
    return Measure(TIME, f"to {100 * target:.0f}% accuracy", control["cost"] / ours["cost"])


def epochs_saved(ours: float, control: float, ratio: Ratio | None) -> Measure:
    """How many times as many epochs a control takes, from means over seeds or a ratio with its interval."""
    if ratio is not None:
        return _of_ratio(EPOCHS, ratio)
    return Measure(EPOCHS, "each to 90% of its own final training accuracy", control / ours)


def _of_ratio(label: str, ratio: Ratio) -> Measure:
    detail = f"on the same {ratio.train_rows:,} images, {ratio.seeds} seeds"
    return Measure(label, detail, ratio.value, ratio.low, ratio.high)
