"""What document 000 claims of E1, as data, and the values that judge it.

Every claim is judged twice: on test accuracy, which the document says it shows, and on training accuracy,
which is what its curves turned out to be; the second is another reading of one statement. Where single
runs collapse, at 2.8 % and below, means say little: the shares of collapsed runs stand in the note, and the
statement is judged again among the others.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import (
    Claim,
    Kind,
    Share,
    Verdict,
    fact,
    judge_families,
    share_interval,
    under,
)

MARGIN = 0.1
"""Accuracy points within which two means count as the same; below the ± that the document draws."""
LARGE = 1.0
"""Accuracy points that a difference has to have to count where runs collapse: a tenth of a lost class."""
COLLAPSE = 5.0
"""Accuracy points below its own dense network where a run has collapsed: half of what a lost class costs."""

XAVIER, KAIMING = ("xavier_uniform", "xavier_normal"), ("kaiming_uniform", "kaiming_normal")
ALL = XAVIER + KAIMING
UNIFORM, NORMAL = ("xavier_uniform", "kaiming_uniform"), ("xavier_normal", "kaiming_normal")
HALF = ("xavier_uniform_half", "xavier_normal_half")
DOUBLE = ("xavier_uniform_double", "xavier_normal_double")


class Cell(NamedTuple):
    """Runs of some initializers at the levels between two fractions kept."""

    initializers: tuple[str, ...]
    low: float
    high: float


Measure = Literal["accuracy", "distance"]
"""Accuracy in points, or how far a run's lies from the mean over seeds."""


class Row(NamedTuple):
    """A claim about a measure in two cells; about every pair of cells where there are several."""

    claim: Claim
    measure: Measure
    parts: dict[str, tuple[Cell, Cell]]


def _claim(name: str, text: str, published: str, kind: Kind, margin: float = 0.0, effect: float = np.nan):
    document = "000, Figure 4" if name.startswith("narrow") else "000, Figure 3"
    return Claim(name, document, text, published, kind, margin, effect=effect)


DENSE, AT_6, AT_5, TO_3 = (0.999, 1.0), (0.066, 0.072), (0.053, 0.058), (0.034, 1.0)
PRUNED_TO_3, AFTER_3, AT_2, AT_1 = (0.034, 0.99), (0.0215, 0.030), (0.0215, 0.0235), (0.017, 0.019)
KEPT = tuple(0.8**n for n in range(15, -1, -1))
"""The fractions kept down to 3.5 %."""
SHAPES = {"Xavier": XAVIER, "Kaiming": KAIMING}


def _one(first: tuple[str, ...], where: tuple, second: tuple[str, ...], there: tuple) -> dict:
    return {"": (Cell(first, *where), Cell(second, *there))}


ROWS = (
    Row(
        _claim("tickets-to-6.9",
               "networks pruned to 6.9 % of their weights are at least as accurate as dense ones",
               "winning tickets up to 6.9 %", "at_least", MARGIN),
        "accuracy", _one(ALL, AT_6, ALL, DENSE),
    ),
    Row(
        _claim("none-below-6.9", "below 6.9 % (at 5.5 %) networks are less accurate than dense ones",
               "all drop below dense at around 6.9 %", "greater", effect=MARGIN),
        "accuracy", _one(ALL, DENSE, ALL, AT_5),
    ),
    Row(
        _claim("alike-above-3.5", "any two of the four are equally accurate, mean over the levels to 3.5 %",
               "very similar", "equal", MARGIN),
        "accuracy",
        {f"{a}, {b}": (Cell((a,), *TO_3), Cell((b,), *TO_3)) for a, b in itertools.combinations(ALL, 2)},
    ),
    Row(
        _claim("stable-to-3.5", "down to 3.5 % runs lie no farther from their mean than dense ones, any of "
               "the four", "stable", "at_least", MARGIN),
        "distance", {name: (Cell((name,), *DENSE), Cell((name,), *PRUNED_TO_3)) for name in ALL},
    ),
    Row(
        _claim("xavier-beats-kaiming", "Xavier is more accurate than Kaiming at 2.8 % and 2.3 %",
               "both Xavier above both Kaiming after 3.5 %", "greater", effect=LARGE),
        "accuracy", _one(XAVIER, AFTER_3, KAIMING, AFTER_3),
    ),
    Row(
        _claim("xavier-steadier", "Xavier's runs lie closer to their mean than Kaiming's at 2.8 % and 2.3 %",
               "Kaiming more erratic", "greater", effect=LARGE),
        "distance", _one(KAIMING, AFTER_3, XAVIER, AFTER_3),
    ),
    Row(
        _claim("normal-equals-uniform", "normal and uniform are equally accurate, Xavier's and Kaiming's, "
               "mean over the levels to 3.5 %", "no difference", "equal", MARGIN),
        "accuracy",
        {name: (Cell((pair[0],), *TO_3), Cell((pair[1],), *TO_3)) for name, pair in SHAPES.items()},
    ),
    Row(
        _claim("normal-equals-uniform-each", "normal and uniform are equally accurate, Xavier's and "
               "Kaiming's, at every level to 3.5 %", "no difference", "equal", MARGIN),
        "accuracy",
        {f"{name} at {kept:.1%}": (Cell((pair[0],), kept * 0.97, kept * 1.03),
                                   Cell((pair[1],), kept * 0.97, kept * 1.03))
         for name, pair in SHAPES.items() for kept in KEPT},
    ),
    *(
        Row(
            _claim(f"normal-equals-uniform-small-{name.lower()}",
                   f"{name}: normal and uniform are equally accurate at 2.8 % and 2.3 %",
                   "no difference", "equal", LARGE),
            "accuracy", _one(pair[:1], AFTER_3, pair[1:], AFTER_3),
        )
        for name, pair in SHAPES.items()
    ),
    *(
        Row(
            _claim(f"narrow-beats-{name}", f"Xavier narrowed by 2 is more accurate than {text} at 2.3 %",
                   "both narrowed above all others", "greater", effect=LARGE),
            "accuracy", _one(HALF, AT_2, others, AT_2),
        )
        for name, text, others in (("wide", "widened by 2", DOUBLE), ("plain", "Xavier itself", XAVIER),
                                   ("kaiming", "Kaiming", KAIMING))
    ),
    Row(
        _claim("narrow-steadier", "narrowed by 2, Xavier's runs lie closer to their mean at 2.3 % than any "
               "other's", "smaller standard deviation than all others", "greater", effect=LARGE),
        "distance",
        {name: (Cell(others, *AT_2), Cell(HALF, *AT_2))
         for name, others in (("widened", DOUBLE), ("Xavier", XAVIER), ("Kaiming", KAIMING))},
    ),
    Row(
        _claim("unstable-at-1.8", "runs lie farther from their mean at 1.8 % than at full size",
               "erratic at 1.8 % and below", "greater", effect=LARGE),
        "distance", _one(ALL, AT_1, ALL, DENSE),
    ),
)  # fmt: skip
WIDER = Claim(
    "xavier-wider", "000, Figure 1", "Xavier's distributions are wider than Kaiming's in every layer",
    "wider for every layer", "greater", unit="times as wide, the layer nearest to 1", base=float(np.e),
)  # fmt: skip


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that the levels and initializers of these results can speak to."""
    judged = []
    for split in ("test", "train"):
        for reading in ("", "standing"):
            pairs = [
                (replace(claim, identifier=":".join(filter(None, (claim.identifier, reading, split)))), a, b)
                for claim, a, b in comparisons(measured, f"{split}_accuracy", bool(reading))
            ]
            judged += [with_shares(v, measured, f"{split}_accuracy") for v in judge_families(pairs)]
    run = json.loads(measured.attrs.get("config", "{}")).get("variant") == "as-run"
    return under([*judged, *widths(measured)], "as its program ran" if run else "")


def comparisons(measured: xr.Dataset, variable: str, standing: bool = False) -> Iterator[tuple]:
    """Each claim with the samples it compares, in accuracy points, paired by seed.

    Args:
      measured: the results.
      variable: ``test_accuracy`` or ``train_accuracy``.
      standing: only claims about sizes at which runs collapse, among the runs that have not.
    """
    points, kept = measured[variable] * 100, fractions(measured)
    points = points.where(~collapsed(measured, variable)) if standing else points
    have = set(measured["initializer"].values.tolist())

    def sample(measure: Measure, cell: Cell) -> np.ndarray:
        at = np.flatnonzero((kept >= cell.low) & (kept <= cell.high))
        values = points.sel(initializer=list(cell.initializers)).isel(level=at)
        if measure == "distance":
            values = abs(values - values.mean("seed"))
        return values.mean("initializer", skipna=standing).mean("level", skipna=False).values

    for claim, measure, parts in ROWS:
        cells = [cell for pair in parts.values() for cell in pair]
        if not all(set(cell.initializers) <= have and kept.min() <= cell.high for cell in cells):
            continue
        if standing and (measure == "distance" or not comparable_small(parts)):
            continue
        text = f"{claim.text}, of runs that have not collapsed" if standing else claim.text
        claim = replace(claim, text=text, statement=claim.identifier)
        a, b = ({name: sample(measure, pair[i]) for name, pair in parts.items()} for i in (0, 1))
        yield (claim, a, b) if len(parts) > 1 else (claim, a[""], b[""])


def comparable_small(parts: dict[str, tuple[Cell, Cell]]) -> bool:
    """Whether a claim compares initializers at one small size, at which runs collapse."""
    return len(parts) == 1 and all(cell.high <= AFTER_3[1] for cell in parts[""])


def fractions(measured: xr.Dataset) -> np.ndarray:
    """The fraction kept at every level."""
    return measured["kept"].mean(["initializer", "seed"]).values


def collapsed(measured: xr.Dataset, variable: str) -> xr.DataArray:
    """Which runs have collapsed, at every level: see ``COLLAPSE``."""
    points = measured[variable] * 100
    return points < points.isel(level=0) - COLLAPSE


def with_shares(verdict: Verdict, measured: xr.Dataset, variable: str) -> Verdict:
    """The verdict with the shares of collapsed runs in its note, exact intervals, where runs may collapse."""
    row = next(row for row in ROWS if row.claim.identifier == verdict.claim.statement)
    if not comparable_small(row.parts) or "standing" in verdict.claim.identifier:
        return verdict
    kept, lost = fractions(measured), collapsed(measured, variable)
    shares = [
        share_interval(lost.sel(initializer=list(names)).isel(level=(kept >= low) & (kept <= high)).values)
        for names, low, high in row.parts[""]
    ]
    note = f"collapsed: {_told(shares[0])} of a's networks, {_told(shares[1])} of b's"
    return verdict._replace(note=f"{verdict.note}; {note}".removeprefix("; "))


def _told(share: Share) -> str:
    return f"{share.count} of {share.n} [{100 * share.low:.0f}, {100 * share.high:.0f} %]"


def widths(measured: xr.Dataset) -> list[Verdict]:
    """Xavier's standard deviation over Kaiming's, √(2 fi / (fi + fo)), from the document's Table 1."""
    hidden = json.loads(measured.attrs.get("config", "{}")).get("hidden")
    if hidden is None:
        return []
    layers = [int(measured.attrs["inputs"]), *hidden, int(measured.attrs["classes"])]
    ratios = [np.sqrt(2 * i / (i + o)) for i, o in itertools.pairwise(layers)]
    return [fact(WIDER, float(np.log(min(ratios))))]
