"""The interval of a difference between two classifiers on the same images, which all packages use."""

import math

LEVEL = 0.95


def paired_interval(only_a: float, only_b: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval, 95% by default, of the difference in accuracy of heads A and B on the same n rows, -1..1.

    Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
    Paired Data, Journal of Educational and Behavioral Statistics 37, 2012: Wald's interval after adding
    one row to each of the two discordant cells. Recommended by Fagerland, Lydersen and Laake,
    Statistics in Medicine 33, 2014.

    Args:
        only_a: number of rows that only A gets right.
        only_b: number of rows that only B gets right.
        n: number of all rows.
        level: the chance that it holds the true difference, 0..1.

    Where the rows are not independent, all three are divided by the design effect.
    """
    from scipy.stats import norm

    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = norm.ppf((1 + level) / 2) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return max(a - b - half, -1), min(a - b + half, 1)
