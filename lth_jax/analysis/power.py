"""Power: how often a claim would be decided if it were true, and the number of runs that it takes.

By the t tests of `differences`, from the spread seen; a claim that is judged by sign flips has nearly the
same. Of one claim alone: with `alpha` divided by the size of its family, of the first step of Holm's.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import scipy

MOST = 100_000
"""Runs beyond which a number is not worth looking for."""
_CHI = np.linspace(0, 1, 2001)[1::2]


class Spread(NamedTuple):
    """How the error of a difference comes about: ours √(s²/n), plus a published one that more runs leave."""

    std: float  # of the differences, run by run
    published: float = 0.0  # squared standard error of what we compare with, S²/N
    freedom: float = np.inf  # its degrees of freedom, N - 1
    single: bool = False  # one published run: error s √(1 + 1/n)


def error_of(spread: Spread, n: int) -> tuple[float, float]:
    """The standard error of a mean difference of n runs, and its degrees of freedom (Satterthwaite)."""
    ours = spread.std**2 * (1 + 1 / n if spread.single else 1 / n)
    total = ours + spread.published
    parts = ours**2 / (n - 1) + spread.published**2 / spread.freedom
    return float(np.sqrt(total)), float(total**2 / parts) if parts > 0 else n - 1.0


def power(
    kind: Literal["greater", "equal", "at_least", "one_of"],
    effect: float,
    margin: float,
    spread: Spread,
    n: int,
    alpha: float = 0.05,
) -> float:
    """The probability that a claim is found supported when a - b is `effect`; NaN for fewer than two runs.

    greater, at_least: the two-sided t test rejects on the right side, from the noncentral t
    distribution. equal: both one-sided tests reject (Phillips 1990), integrated over the standard
    error's distribution. one_of: the probability to notice that a published run lies `margin` off.
    """
    if n < 2 or not np.isfinite([effect, spread.std]).all() or spread.std <= 0:
        return np.nan
    error, freedom = error_of(spread, n)
    if kind == "equal":
        seen = error * np.sqrt(scipy.stats.chi2.ppf(_CHI, freedom) / freedom)
        room = margin - scipy.stats.t.ppf(1 - alpha, freedom) * seen
        normal = scipy.stats.norm
        inside = normal.cdf((room - effect) / error) - normal.cdf((-room - effect) / error)
        return float(np.mean(np.where(room > 0, inside, 0.0)))
    bar = scipy.stats.t.ppf(1 - alpha / 2, freedom)
    if kind == "one_of":
        return float(_upper_tail(bar, freedom, margin / error) + _upper_tail(bar, freedom, -margin / error))
    shift = (effect - (margin if kind == "greater" else -margin)) / error
    return float(_upper_tail(bar, freedom, shift))


def needed(power_at: Callable[[int], float], wanted: float = 0.9) -> float:
    """The least n with `power_at(n) >= wanted`, power rising with n; inf if 100,000 do not do, NaN of NaN."""
    if np.isnan(power_at(2)):
        return np.nan
    low, high = 1, 2
    while power_at(high) < wanted:
        low, high = high, 2 * high
        if high > MOST:
            return np.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= wanted else (middle, high)
    return float(high)


def _upper_tail(bar: float, freedom: float, shift: float) -> float:
    """P(T > bar) of a noncentral t; far out, where SciPy's fails, that of the normal near it."""
    if abs(shift) > 30:
        return float(scipy.stats.norm.sf(bar - shift))
    return float(scipy.stats.nct.sf(bar, freedom, shift))
