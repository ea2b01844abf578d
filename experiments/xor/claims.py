"""What document 002 §2 says of XOR: its two tables, its claims as data, and how far ours lie from them."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import Claim, Published, Verdict, judge_all

PUBLISHED = {
    ("random", 10): (98.5, 92.9),
    ("random", 8): (96.8, 87.5),
    ("random", 6): (92.5, 76.8),
    ("random", 4): (78.3, 55.3),
    ("random", 2): (49.1, 17.6),
    ("one_shot_product", 10): (99.2, 93.3),
    ("one_shot_product", 4): (98.0, 90.3),
    ("one_shot_product", 2): (82.4, 65.3),
    ("input", 10): (98.9, 93.5),
    ("input", 4): (97.9, 92.2),
    ("input", 2): (83.8, 76.5),
    ("output", 10): (99.0, 93.3),
    ("output", 4): (96.9, 85.9),
    ("output", 2): (78.6, 56.1),
    ("product", 10): (98.5, 92.9),
    ("product", 4): (97.6, 90.3),
    ("product", 2): (91.5, 79.4),
}
"""Percent of networks with the right decision boundary (DB) and with zero loss (ZL), by strategy, units."""

PUBLISHED_NETWORKS = 1000
COLUMNS = {"DB": "% with the right boundary", "ZL": "% with zero loss"}
READINGS = {"tolerant": "DB", "strict": "ZL", "loss": "ZL"}
"""Our readings of success, each with the published column that it stands beside."""
_SPREAD = PUBLISHED_NETWORKS / (PUBLISHED_NETWORKS - 1)
SAME_SHARE = 5.0
"""Percentage points within which a share of networks counts as the published one."""
TITLES = {
    "random": "random weights",
    "one_shot_product": "one-shot, product",
    "product": "iterative, product",
    "input": "iterative, input magnitude",
    "output": "iterative, output magnitude",
}


def success(measured: xr.Dataset, reading: str) -> xr.DataArray:
    """Which networks succeed, as bools ``[network, strategy, units]``.

    Args:
      measured: with ``logit[network, strategy, units, point]`` and ``target[point]``.
      reading: ``strict``: the sign is right on all four points; ``tolerant``: a logit within the
        configuration's ``tie`` of zero counts as right; ``loss``: mean cross-entropy below its threshold.
    """
    config = json.loads(measured.attrs["config"])
    margin = measured["logit"].astype("float64") * (2 * measured["target"] - 1)
    if reading == "strict":
        return (margin > 0).all("point")
    if reading == "tolerant":
        return (margin > -config["tie"]).all("point")
    if reading == "loss":
        return xr.ufuncs.logaddexp(0, -margin).mean("point") < config["loss_threshold"]
    raise ValueError(f"unknown reading {reading!r}; expected one of {', '.join(READINGS)}")


def errors_apart(ours: float, n: int, theirs: float, m: int) -> float:
    """Standard errors between two shares: (a − b) / √(p(1 − p)(1/n + 1/m)), p being the pooled share.

    Args:
      ours: share in [0, 1] of ``n`` networks.
      n: how many.
      theirs: share in [0, 1] of ``m`` networks.
      m: how many.
    """
    pooled = (ours * n + theirs * m) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return float((ours - theirs) / error) if error > 0 else 0.0


def distances(measured: xr.Dataset, reading: str) -> dict[tuple[str, int], float]:
    """Standard errors between our share and the published one, for every published cell that was run."""
    rate = success(measured, reading).mean("network")
    column = [*COLUMNS].index(READINGS[reading])
    run = {(s, u) for s in measured["strategy"].values.tolist() for u in measured["units"].values.tolist()}
    return {
        cell: errors_apart(
            float(rate.sel(strategy=cell[0], units=cell[1])),
            measured.sizes["network"],
            shares[column] / 100,
            PUBLISHED_NETWORKS,
        )
        for cell, shares in PUBLISHED.items()
        if cell in run
    }


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Both published tables with ours: percent of networks (the published percent, standard errors apart)."""
    rows, near, cells = [], 0, 0
    sizes = measured["units"].values.tolist()
    for reading, column in READINGS.items():
        rate = success(measured, reading).mean("network") * 100
        apart = distances(measured, reading)
        if reading != "loss":
            near, cells = near + sum(abs(z) < 2 for z in apart.values()), cells + len(apart)
        for strategy in measured["strategy"].values.tolist():
            row = [f"{TITLES[strategy]}: {reading}"]
            for size in sizes:
                ours = f"{float(rate.sel(strategy=strategy, units=size)):.1f}"
                if (strategy, size) in apart:
                    theirs = PUBLISHED[strategy, size][[*COLUMNS].index(column)]
                    ours += f" ({theirs:.1f}, {apart[strategy, size]:+.1f})"
                row.append(ours)
            rows.append(row)
    title = (
        f"Success in percent of {measured.sizes['network']:,} networks (published, standard errors apart); "
        f"{near} of {cells} published cells (tolerant as DB, strict as ZL) lie within 2 standard errors"
    )
    return title, ["networks and reading", *(f"{size} units" for size in sizes)], rows


class Comparison(NamedTuple):
    """The document says that the first cell (strategy, units) succeeds more often than the second."""

    identifier: str
    text: str
    better: tuple[str, int]
    worse: tuple[str, int]


COMPARISONS = (
    Comparison("small-fails", "10 random units beat 2 random units", ("random", 10), ("random", 2)),
    Comparison(
        "one-shot-beats-random",
        "2 units left by one-shot pruning beat 2 random units",
        ("one_shot_product", 2),
        ("random", 2),
    ),
    Comparison(
        "iterative-beats-random",
        "2 units left by iterative pruning beat 2 random units",
        ("product", 2),
        ("random", 2),
    ),
    Comparison(
        "iterative-beats-one-shot",
        "2 units left by iterative pruning beat 2 left by one-shot pruning",
        ("product", 2),
        ("one_shot_product", 2),
    ),
    Comparison(
        "product-beats-input",
        "2 units left by the product beat 2 left by the input magnitude",
        ("product", 2),
        ("input", 2),
    ),
    Comparison(
        "product-beats-output",
        "2 units left by the product beat 2 left by the output magnitude",
        ("product", 2),
        ("output", 2),
    ),
)


def readings(measured: xr.Dataset) -> dict[str, xr.DataArray]:
    """Which networks succeed by each reading, in percent; one that says the same as another stands once."""
    found: dict[str, xr.DataArray] = {}
    for reading in READINGS:
        percent = success(measured, reading) * 100.0
        if not any(percent.equals(other) for other in found.values()):
            found[reading] = percent
    return found


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim under every reading: a family the comparisons, paired by seed, another the tables."""
    judged = []
    for reading, percent in readings(measured).items():
        at = {
            (s, u): percent.sel(strategy=s, units=u).values
            for s in percent["strategy"].values.tolist()
            for u in percent["units"].values.tolist()
        }
        judged += judge_all(list(comparisons(at, reading)), method="student")
        judged += judge_all(list(cells(at, reading)), method="student")
    return judged


def alternatives(measured: xr.Dataset) -> dict[str, list[Verdict]]:
    """The claims about zero loss, where a logit within ``tie`` of zero counts as right."""
    judged = [verdict for verdict in verdicts(measured) if verdict.claim.identifier.endswith(":tolerant")]
    renamed = [
        v._replace(claim=replace(v.claim, identifier=v.claim.identifier.replace(":tolerant", ":strict")))
        for v in judged
    ]
    return {"ties count as right": renamed}


Cells = dict[tuple[str, int], np.ndarray]


def comparisons(at: Cells, reading: str) -> Iterator[tuple]:
    """What the document says in words; two tests that are copies of each other are one."""
    column, index = COLUMNS[READINGS[reading]], [*COLUMNS].index(READINGS[reading])

    def claim(name: str, text: str, told: str, effect: float) -> Claim:
        unit = "percent of networks"
        return Claim(f"{name}:{reading}", "002 §2", f"{text} ({reading})", told, "greater", 0.0, unit, effect)

    for identifier, text, better, worse in COMPARISONS:
        if {better, worse} <= at.keys():
            ours, theirs = (PUBLISHED[cell][index] for cell in (better, worse))
            told = f"{ours} against {theirs} {column}"
            yield claim(identifier, text, told, ours - theirs), at[better], at[worse]
    steps = [(larger, smaller) for larger, smaller in itertools.pairwise((10, 8, 6, 4, 2))]
    if all(("random", units) in at for units in (10, 8, 6, 4, 2)):
        shares = [PUBLISHED["random", units][index] for units in (10, 8, 6, 4, 2)]
        told = f"{', '.join(map(str, shares))} {column}"
        least = min(a - b for a, b in itertools.pairwise(shares))
        yield (
            claim("units-help", "10 random units beat 8, 8 beat 6, 6 beat 4, 4 beat 2", told, least),
            {f"{a} and {b} units": at["random", a] for a, b in steps},
            {f"{a} and {b} units": at["random", b] for a, b in steps},
        )
    pruned = [name for name in TITLES if name != "random" and (name, 4) in at]
    if pruned and ("random", 4) in at:
        base = PUBLISHED["random", 4][index]
        shares = [PUBLISHED[name, 4][index] for name in pruned]
        told = f"{', '.join(map(str, shares))} against {base} {column}"
        yield (
            claim("pruned-4-beat-random", "4 units left by pruning beat 4 random units, however pruned", told,
                  min(shares) - base),
            {TITLES[name]: at[name, 4] for name in pruned},
            {TITLES[name]: at["random", 4] for name in pruned},
        )  # fmt: skip


def cells(at: Cells, reading: str) -> Iterator[tuple]:
    """Both published tables, of every cell: the share of networks is the published one, of a thousand."""
    index = [*COLUMNS].index(READINGS[reading])
    for name, text in (("random", "random networks"), ("pruned", "pruned networks")):
        theirs = {
            f"{TITLES[strategy]}, {units} units": Published(
                share := shares[index], float(np.sqrt(share * (100 - share) * _SPREAD)), PUBLISHED_NETWORKS
            )
            for (strategy, units), shares in PUBLISHED.items()
            if (strategy, units) in at and (strategy == "random") == (name == "random")
        }
        ours = {f"{TITLES[strategy]}, {units} units": values for (strategy, units), values in at.items()}
        if theirs:
            claim = Claim(
                f"table-{name}:{reading}", "002 §2, tables",
                f"the published shares of {text}, each of {len(theirs)} ({reading})",
                f"{COLUMNS[READINGS[reading]]}, as printed", "equal", SAME_SHARE, "percent of networks",
            )  # fmt: skip
            yield claim, {name: ours[name] for name in theirs}, theirs
