"""Numbers as text: no more digits than their intervals support."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd


def decimals(low: float, high: float) -> int:
    """The number of decimals of a percentage that its interval supports, at most three.

    The last decimal shown is the first digit of the interval's half-width: none for 2.8 points, one
    for 0.9, two for 0.05. An interval without width gives one decimal. The bounds are shares, 0..1.
    """
    half = 50 * (high - low)  # points
    if half <= 0:
        return 1
    return min(max(-math.floor(math.log10(half)), 0), 3)


def rounded(value: float, low: float, high: float) -> str:
    """A share (0..1) in percent, without the sign, to the decimals that its interval supports."""
    return f"{100 * value:.{decimals(low, high)}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A share (0..1) and its bounds in percent, such as `72 (69 to 74)`."""
    return f"{rounded(value, low, high)} ({rounded(low, low, high)} to {rounded(high, low, high)})"


def percent(value: float, low: float, high: float) -> str:
    """A share and its bounds, such as `72% (69 to 74)`."""
    return with_interval(value, low, high).replace(" ", "% ", 1)


def accuracy(value: float, low: float, high: float) -> str:
    """An accuracy and its bounds, such as `72% accuracy (69 to 74)`."""
    return with_interval(value, low, high).replace(" ", "% accuracy ", 1)


def points(gain: float, low: float, high: float) -> list[str]:
    """A difference of shares and its bounds in points, with their signs, to the decimals that the bounds support."""
    digits = decimals(low, high)
    return [f"{round(100 * share, digits) + 0.0:+.{digits}f}" for share in (gain, low, high)]  # + 0.0: no -0


def deviation(value: float, low: float, high: float) -> str:
    """A standard deviation of shares and its bounds in points, such as `1.4 (1.3 to 1.5)`; or that there is none."""
    if high == 0:
        return "0 (no effect)"
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def p_value(p: float) -> str:
    """A p value to three decimals, or `below 0.001`."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def two_digits(value: float) -> str:
    """A positive number to two digits, whole from 10 on."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def seconds(value: float) -> str:
    """Seconds to two digits; `-` if they are not finite."""
    if not math.isfinite(value):
        return "-"
    return "below 0.01" if value < 0.01 else two_digits(value)


def images(row: Any) -> str:
    """The images in a row of `images_needed`; an interpolated number has two digits."""
    number = row["images"]
    if math.isinf(number):
        return f"more than {row['largest']:,}"
    if row["at_most"]:
        return f"at most {number:,.0f}"
    return f"about {round(number, 1 - math.floor(math.log10(number))):,.0f}"


def count(value: float) -> str:
    """A number with at most one decimal."""
    return f"{value:,.1f}".removesuffix(".0")


def mean_and_range(values: pd.Series, write: Callable[[float], str]) -> str:
    """The mean of a column, with the smallest and largest value if they differ; `-` if all are NaN."""
    numbers = values.dropna().astype(float)
    if numbers.empty:
        return "-"
    mean, low, high = (write(number) for number in (numbers.mean(), numbers.min(), numbers.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
