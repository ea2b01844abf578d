"""What document 000 claims of E1, as data, and the values that judge it.

Every claim is judged twice: on test accuracy, which the document says it shows, and on training accuracy,
which is what its curves turned out to be.
"""

from dataclasses import replace

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_all

MARGIN = 0.1
"""Accuracy points within which two means count as the same; below the ± that the document draws."""

XAVIER, KAIMING = ["xavier_uniform", "xavier_normal"], ["kaiming_uniform", "kaiming_normal"]
UNIFORM, NORMAL = ["xavier_uniform", "kaiming_uniform"], ["xavier_normal", "kaiming_normal"]
HALF = ["xavier_uniform_half", "xavier_normal_half"]
DOUBLE = ["xavier_uniform_double", "xavier_normal_double"]


def _claim(identifier: str, text: str, published: str, kind: Kind, margin: float = 0.0) -> Claim:
    return Claim(identifier, "000", text, published, kind, margin)


TICKETS = _claim(
    "tickets-to-6.9",
    "networks pruned to 6.9 % of their weights are at least as accurate as dense ones",
    "winning tickets up to 6.9 %", "at_least", MARGIN,
)  # fmt: skip
BELOW = _claim(
    "none-below-6.9",
    "below 6.9 % (at 5.5 %) networks are less accurate than dense ones",
    "all drop below dense at around 6.9 %", "greater",
)  # fmt: skip
XAVIER_BEATS = _claim(
    "xavier-beats-kaiming",
    "Xavier is more accurate than Kaiming at 2.8 % and 2.3 %",
    "both Xavier above both Kaiming after 3.5 %", "greater",
)  # fmt: skip
SHAPE = _claim(
    "normal-equals-uniform",
    "normal and uniform distributions are equally accurate, mean over the levels down to 2.3 %",
    "no difference", "equal", MARGIN,
)  # fmt: skip
ALIKE = _claim(
    "alike-above-3.5",
    "Xavier and Kaiming are equally accurate, mean over the levels down to 3.5 %",
    "very similar", "equal", MARGIN,
)  # fmt: skip
NARROW_WIDE = _claim(
    "narrow-beats-wide",
    "Xavier narrowed by 2 is more accurate than widened by 2 at 2.3 %",
    "both narrowed above all others", "greater",
)  # fmt: skip
NARROW_PLAIN = _claim(
    "narrow-beats-plain",
    "Xavier narrowed by 2 is more accurate than Xavier itself at 2.3 %",
    "both narrowed above all others", "greater",
)  # fmt: skip
UNSTABLE = _claim(
    "unstable-at-1.8",
    "runs lie farther from their mean at 1.8 % than at full size",
    "erratic at 1.8 % and below", "greater",
)  # fmt: skip


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that the levels and initializers of these results can speak to."""
    judged = []
    for split in ("test", "train"):
        family = comparisons(measured, f"{split}_accuracy")
        judged += judge_all([(replace(c, identifier=f"{c.identifier}:{split}"), a, b) for c, a, b in family])
    return judged


def comparisons(measured: xr.Dataset, variable: str) -> list[tuple[Claim, np.ndarray, np.ndarray]]:
    """Each claim with the two samples it compares, in accuracy points, paired by seed."""
    points = measured[variable] * 100
    kept = measured["kept"].mean(["initializer", "seed"]).values
    have = set(measured["initializer"].values.tolist())

    def sample(initializers: list[str], low: float, high: float) -> np.ndarray:
        levels = np.flatnonzero((kept >= low) & (kept <= high))
        chosen = points.sel(initializer=initializers).isel(level=levels)
        return chosen.mean(["initializer", "level"], skipna=False).values

    def spread(initializers: list[str], low: float, high: float) -> np.ndarray:
        levels = np.flatnonzero((kept >= low) & (kept <= high))
        values = points.sel(initializer=initializers).isel(level=levels)
        return abs(values - values.mean("seed")).mean(["initializer", "level"], skipna=False).values

    dense, document = (0.999, 1.0), XAVIER + KAIMING
    at = {6.9: (0.066, 0.072), 5.5: (0.053, 0.058), 2.3: (0.0215, 0.0235), 1.8: (0.017, 0.019)}
    table = [
        (TICKETS, document, sample, at[6.9], document, dense),
        (BELOW, document, sample, dense, document, at[5.5]),
        (XAVIER_BEATS, XAVIER, sample, (0.0215, 0.030), KAIMING, (0.0215, 0.030)),
        (SHAPE, UNIFORM, sample, (0.0215, 1.0), NORMAL, (0.0215, 1.0)),
        (ALIKE, XAVIER, sample, (0.034, 1.0), KAIMING, (0.034, 1.0)),
        (NARROW_WIDE, HALF, sample, at[2.3], DOUBLE, at[2.3]),
        (NARROW_PLAIN, HALF, sample, at[2.3], XAVIER, at[2.3]),
        (UNSTABLE, document, spread, at[1.8], document, dense),
    ]
    reached = kept.min()
    return [
        (claim, measure(ours, *where), measure(theirs, *there))
        for claim, ours, measure, where, theirs, there in table
        if {*ours, *theirs} <= have and reached <= min(where[1], there[1])
    ]
