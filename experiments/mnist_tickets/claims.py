"""What document 002 (v1) and the ICLR 2019 version claim of E4, as data, and the values that judge it.

Times are compared as logarithms of the early-stop iteration, accuracies (points) at that iteration unless a
claim says "at the end", both paired by trial, controls averaged over their networks in a trial. A claim is
judged where a part has trained what it speaks of. Two sources: ``ICLR 2019``, whose protocol this is, and
``002``, whose optimizer, batch size and definition of convergence are not known; a section is a family.

*Dense networks* are all those of a trial: the ticket's own and those from which its controls start, seven in
the part ``controls``. Each claim about them is judged again against the ticket's own dense network alone.
This reference was decided on after trials 42 to 46 had been seen, whose own five happen to stop late, and
before any further ones.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.mnist_tickets import inside, measures
from experiments.mnist_tickets.measures import Reading
from lth_jax.analysis.stats import Claim, Verdict, judge_families, under

Sample = tuple[Claim, np.ndarray, np.ndarray]
Cell = tuple
"""A family, then the fraction kept, or the lowest and the highest whose levels are averaged."""

SAME_POINTS = 0.1
"""Accuracy points within which networks are as good as each other: the dense networks' spread over seeds."""
SAME_TIME = float(np.log(1.1))
"""Times within a tenth of each other are the same."""
TIME, POINTS = "times the iterations", "accuracy points"
ICLR = "ICLR 2019"
ITERATIONS = 50_000
"""That the document's networks train for."""


class Row(NamedTuple):
    """A claim about a measure, see ``measures.read``, in two cells; ``part`` if only one part serves."""

    claim: Claim
    measure: str
    first: Cell
    second: Cell
    part: str = ""
    each: bool = False  # at every size between those of the cells, not of their mean


def sooner(
    name: str, source: str, text: str, published: str, late: Cell, soon: Cell, part: str = "",
    times: float = 1.1,
) -> Row:  # fmt: skip
    """A claim that one cell stops before another; ``times`` as soon, published or the least that counts."""
    effect, base = float(np.log(times)), float(np.e)
    claim = Claim(name, source, text, published, "greater", unit=TIME, effect=effect, base=base)
    return Row(claim, "stop", late, soon, part)


def better(
    name: str, source: str, text: str, published: str, good: Cell, bad: Cell, measure: str = "accuracy",
    points: float = SAME_POINTS,
) -> Row:  # fmt: skip
    """A claim that one cell is more accurate than another, by ``points``."""
    claim = Claim(name, source, text, published, "greater", unit=POINTS, effect=points)
    return Row(claim, measure, good, bad)


def same(
    name: str, source: str, text: str, published: str, measure: str, cell: Cell, other: Cell,
    part: str = "", each: bool = False,
) -> Row:  # fmt: skip
    """A claim that two cells are alike in time or in accuracy."""
    margin, unit, base = (SAME_TIME, TIME, float(np.e)) if measure == "stop" else (SAME_POINTS, POINTS, 0.0)
    claim = Claim(name, source, text, published, "equal", margin, unit, base=base)
    return Row(claim, measure, cell, other, part, each)


DENSE = (measures.DENSE, 1.0)
SMALL = (0.0, 0.06)
# fmt: off
ROWS = (
    # Iterative pruning, ICLR 2019.
    sooner("ticket-sooner-21", ICLR, "at 21 % tickets stop sooner than dense networks",
           "38 % sooner; in a 5-seed reproduction 21 % (47, 0, −3, 45, 18 %)", DENSE, ("iterative", 0.211),
           times=1 / 0.62),
    better("ticket-better-13.5", ICLR, "at 13.5 % tickets are more accurate than dense networks",
           "more than 0.3 points", ("iterative", 0.135), DENSE, points=0.3),
    Row(Claim("ticket-as-dense-3.6", ICLR, "at 3.6 % tickets are as accurate as dense ones",
              "back to the dense accuracy", "at_least", SAME_POINTS),
        "accuracy", ("iterative", 0.036), DENSE),
    better("ticket-drops-2.9", ICLR, "at 2.9 % tickets are less accurate than dense networks",
           "drop off", DENSE, ("iterative", 0.029)),
    sooner("ticket-sooner-than-reinit-21", ICLR, "at 21 % tickets stop sooner than reinit",
           "2.51 times sooner", ("reinit", 0.211), ("iterative", 0.211), times=2.51),
    better("ticket-better-than-reinit-21", ICLR, "at 21 % tickets are more accurate than reinit",
           "0.5 points", ("iterative", 0.211), ("reinit", 0.211), points=0.5),
    better("ticket-ends-better-21", ICLR, "at 21 % tickets are more accurate at the end than dense networks",
           "more accurate", ("iterative", 0.211), DENSE, "end"),
    better("ticket-ends-better-than-reinit-21", ICLR,
           "at 21 % tickets are more accurate at the end than reinit",
           "more accurate", ("iterative", 0.211), ("reinit", 0.211), "end"),
    better("reinit-drops-21", ICLR, "at 21 % reinit is less accurate than dense networks",
           "drops off", DENSE, ("reinit", 0.211)),
    # Iterative pruning, v1.
    same("v1-ticket-as-fast-1.8", "002 §4", "at 1.8 % tickets stop when dense networks do",
         "back to the dense convergence time", "stop", ("iterative", 0.018), DENSE),
    same("v1-ticket-as-dense-1.8", "002 §4", "at 1.8 % tickets are as accurate as dense networks",
         "matches the original", "accuracy", ("iterative", 0.018), DENSE),
    better("v1-ticket-drops-1.5", "002 §4", "at 1.5 % tickets are less accurate than dense networks",
           "drop off", DENSE, ("iterative", 0.015)),
    better("v1-reinit-drops-37", "002 §4", "at 37 % control 1 (reinit) is less accurate than dense networks",
           "begins to drop off", DENSE, ("reinit", 0.37)),
    better("v1-rearrange-drops-52", "002 §4", "at 52 % control 2 (rearrange) is less accurate than dense",
           "begins to drop off", DENSE, ("rearrange", 0.52)),
    # One-shot pruning.
    sooner("one-shot-sooner", ICLR, "from 67.5 to 17.6 % one-shot tickets stop sooner than dense networks",
           "sooner", DENSE, ("one_shot", 0.176, 0.675)),
    better("one-shot-better", ICLR, "from 95 to 5.17 % one-shot tickets are more accurate than dense",
           "more accurate", ("one_shot", 0.0517, 0.95), DENSE),
    sooner("v1-one-shot-sooner", "002 §3", "from 75 to 25 % one-shot tickets stop sooner than dense networks",
           "by at least 25 %", DENSE, ("one_shot", 0.25, 0.75), times=1 / 0.75),
    Row(Claim("v1-one-shot-as-dense", "002 §3", "from 75 to 25 % one-shot tickets are as accurate as dense",
              "within 0.15 %", "equal", 0.15), "accuracy", ("one_shot", 0.25, 0.75), DENSE),
    better("v1-one-shot-drops-15", "002 §4", "at 15 % one-shot tickets are less accurate than dense networks",
           "begin to drop off", DENSE, ("one_shot", 0.15)),
    sooner("v1-one-shot-slow-5", "002 §4", "at 5 % one-shot tickets stop later than dense networks",
           "back to the dense time between 10 and 5 %", ("one_shot", 0.05), DENSE),
    sooner("v1-one-shot-sooner-than-reinit-35", "002 §3", "at 35 % one-shot tickets stop sooner than reinit",
           "1.91 times as fast", ("reinit", 0.35), ("one_shot", 0.35), "one_shot", 1.91),
    sooner("v1-one-shot-sooner-than-reinit-25", "002 §3", "at 25 % one-shot tickets stop sooner than reinit",
           "2.28 times as fast", ("reinit", 0.25), ("one_shot", 0.25), "one_shot", 2.28),
    sooner("v1-one-shot-sooner-55", "002 §3", "at 51 % one-shot tickets stop sooner than dense networks",
           "faster down to around 55 %", DENSE, ("one_shot", 0.55)),
    better("v1-one-shot-better-55", "002 §3", "at 51 % one-shot tickets are more accurate than dense",
           "accuracy increases down to around 55 %", ("one_shot", 0.55), DENSE),
    sooner("v1-one-shot-reinit-slower", "002 §3", "from 75 to 25 % one-shot masks with fresh weights stop "
           "later than dense networks", "more slowly", ("reinit", 0.25, 0.75), DENSE, "one_shot"),
    better("v1-one-shot-reinit-worse", "002 §3", "from 75 to 25 % one-shot masks with fresh weights are less "
           "accurate than dense networks", "lower accuracy", DENSE, ("reinit", 0.25, 0.75))._replace(
               part="one_shot"),
    same("v1-controls-alike", "002 §3", "both controls stop at the same time, at every size",
         "approximately the same trend", "stop", ("rearrange", 0.0, 0.99), ("reinit", 0.0, 0.99),
         "one_shot", True),
    # Iterative pruning and its controls, v1.
    sooner("v1-iterative-faster-longer", "002 §4", "from 17 to 5 % iterative tickets stop sooner than "
           "one-shot tickets", "remain flattened longer", ("one_shot", 0.05, 0.17),
           ("iterative", 0.05, 0.17)),
    better("v1-iterative-smaller", "002 §4", "from 5 to 1.5 % iterative tickets are more accurate than "
           "one-shot tickets", "can find far smaller tickets", ("iterative", 0.014, 0.05),
           ("one_shot", 0.014, 0.05)),
    sooner("v1-reinit-slows", "002 §4", "at 21 % control 1 (reinit) stops later than dense networks",
           "begins to slow down as the network is pruned", ("reinit", 0.211), DENSE),
    sooner("v1-rearrange-slows", "002 §4", "at 21 % control 2 (rearrange) stops later than dense networks",
           "slows as patterned by control 1", ("rearrange", 0.211), DENSE),
    same("v1-controls-slow-alike", "002 §4", "under iterative masks both controls stop at the same time, at "
         "every size", "convergence slows as patterned by control 1", "stop", ("rearrange", 0.0, 0.99),
         ("reinit", 0.0, 0.99), "controls", True),
    better("v1-rearrange-below-reinit", "002 §4", "from 52 % down control 2 (rearrange) is less accurate "
           "than control 1 (reinit), mean over sizes", "begins to drop off earlier", ("reinit", 0.0, 0.55),
           ("rearrange", 0.0, 0.55)),
    # Reset against no reset.
    sooner("v1-reset-sooner", "002 §6", "below 6 % networks that were reset stop sooner than others",
           "faster, at very small sizes only", ("no_reset", *SMALL), ("iterative", *SMALL)),
    better("v1-reset-better", "002 §6", "below 6 % networks that were reset are more accurate than others",
           "hold accuracy longer", ("iterative", *SMALL), ("no_reset", *SMALL)),
)
# fmt: on


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to, by t tests, as five trials allow.

    A section is a family, and so is what it says against the ticket's own dense network alone.
    """
    return judge_reading(measures.read(measured))


def alternatives(measured: xr.Dataset) -> dict[str, list[Verdict]]:
    """The claims about accuracies, by those at the end of training instead of at the early stop."""
    reading = measures.read(measured)
    at_end = reading._replace(values=reading.values | {"accuracy": reading.values["end"]})
    names = {row.claim.identifier for row in ROWS if row.measure == "accuracy"}
    judged = [v for v in judge_reading(at_end) if (v.claim.statement or v.claim.identifier) in names]
    return {"accuracy at the end": judged}


def judge_reading(reading: Reading) -> list[Verdict]:
    """:func:`verdicts` of measures that have been read."""
    measured, rows = reading.measured, [*ROWS, *rows_by_std(reading)]
    samples, bounds = [], {}
    for row in (*rows, *(against_own(row) for row in rows if DENSE in (row.first, row.second))):
        sides = [side(reading, row, cell) for cell in (row.first, row.second)]
        if row.part in ("", measured.attrs.get("variant")) and all(values is not None for values in sides):
            samples.append((row.claim, *sides))
            if row.measure == "stop" and not row.each:
                shares = [measures.at(reading, "bound", *cell) for cell in (row.first, row.second)]
                bounds[row.claim.identifier] = [
                    float(np.mean(share)) for share in shares if share is not None
                ]
    samples += [*inside.samples(reading), *by_size(reading), *by_rate(reading)]
    judged = judge_families(samples, lambda claim: (claim.document, bool(claim.statement)), method="student")
    return under([warned(v, *bounds.get(v.claim.identifier, (0, 0))) for v in judged], protocol_of(measured))


def side(reading: Reading, row: Row, cell: Cell) -> np.ndarray | dict[str, np.ndarray] | None:
    """One side of a row: values by trial, or those at every size."""
    if not row.each:
        return measures.at(reading, row.measure, *cell)
    if cell[0] not in reading.families:
        return None
    return measures.every(reading, row.measure, *cell)


def against_own(row: Row) -> Row:
    """A row against the ticket's own dense network, or the one that its one-shot pruning starts from."""
    other = row.second if row.first == DENSE else row.first
    own = ("one_shot" if other[0] == "one_shot" else "iterative", 1.0)
    claim = replace(
        row.claim,
        identifier=f"{row.claim.identifier}:own",
        statement=row.claim.identifier,
        text=f"{row.claim.text}, their trial's own one alone",
    )
    first, second = (own if cell == DENSE else cell for cell in (row.first, row.second))
    return row._replace(claim=claim, first=first, second=second)


def protocol_of(measured: xr.Dataset) -> str:
    """What sets these runs apart from the document's."""
    iterations = json.loads(measured.attrs.get("config", "{}")).get("iterations", ITERATIONS)
    return "" if iterations >= ITERATIONS else f"{iterations:,} of {ITERATIONS:,} iterations"


def warned(verdict: Verdict, first: float, second: float) -> Verdict:
    """The verdict, with the shares of its times that are lower bounds in its note, if any are."""
    if first == second == 0:
        return verdict
    note = f"lower bounds: {first:.0%} of a's times, {second:.0%} of b's"
    return verdict._replace(note=f"{verdict.note}; {note}".removeprefix("; "))


def rows_by_std(reading: Reading) -> list[Row]:
    """§6: wide initial weights are slow and inaccurate, narrow ones slow and accurate."""
    stds = sorted(float(name.split()[1]) for name in reading.families if name.startswith("std "))
    if 0.1 not in stds or len(stds) < 3:
        return []
    narrow, usual, wide = ((f"std {std:g}", 0.0, 1.0) for std in (stds[0], 0.1, stds[-1]))
    where = f"than {usual[0]}, mean over sizes"
    return [
        sooner("v1-wide-slower", "002 §6", f"{wide[0]} stops later {where}", "slower", wide, usual),
        sooner("v1-narrow-slower", "002 §6", f"{narrow[0]} stops later {where}", "slower", narrow, usual),
        better("v1-wide-worse", "002 §6", f"{wide[0]} is less accurate {where}", "less", usual, wide),
        better("v1-narrow-better", "002 §6", f"{narrow[0]} is more accurate {where}", "more", narrow, usual),
    ]


def by_size(reading: Reading) -> Iterator[Sample]:
    """§6: the best ticket grows with the network, and is smaller by iterative than by one-shot pruning."""
    sizes = [name.removesuffix(" iterative") for name in reading.families if name.endswith(" iterative")]
    if len(sizes) < 2:
        return
    small, *_, large = sorted(sizes, key=lambda size: tuple(map(int, size.split("-"))))
    for measure, what in (("stop", "stops soonest"), ("accuracy", "is most accurate")):
        pairs = [
            (f"v1-size-{measure}-{how}", f"{how}: the ticket that {what} is larger from {large} than {small}",
             "grows with the network", f"{large} {how}", f"{small} {how}")
            for how in ("iterative", "one-shot")
        ]  # fmt: skip
        text = f"{large}: the ticket that {what} is smaller by iterative than by one-shot pruning"
        pairs.append((f"v1-iterative-smaller-{measure}", text, "much smaller",
                      f"{large} one-shot", f"{large} iterative"))  # fmt: skip
        for name, text, published, first, second in pairs:
            unit, effect = "times the weights", float(np.log(1.25))  # a level of 20 %
            claim = Claim(
                name, "002 §6", text, published, "greater", unit=unit, effect=effect, base=float(np.e)
            )
            yield claim, best_size(reading, measure, first), best_size(reading, measure, second)


def best_size(reading: Reading, measure: str, family: str) -> np.ndarray:
    """ln(weights) of each trial's best ticket: the one that stops soonest, or is most accurate.

    NaN for a trial in which no ticket stops before the last evaluation.
    """
    values = measures.members(reading.values[measure], family).isel(arm=0)
    if measure == "stop":
        bound = measures.members(reading.values["bound"], family).isel(arm=0)
        values = values.where(bound == 0)
    worst_last = (values if measure == "stop" else -values).fillna(np.inf)
    weights = measures.members(reading.measured["kept_weights"], family).isel(arm=0)
    best = weights.isel(level=worst_last.argmin("level"))
    return np.log(best.where(values.notnull().any("level")).values)


def by_rate(reading: Reading) -> Iterator[Sample]:
    """§6: pruning fast costs time and accuracy, compared at the fast schedule's own sizes."""
    rates = sorted(float(name.split()[1]) for name in reading.families if name.startswith("rate "))
    if 0.2 not in rates or rates[-1] <= 0.2:
        return
    fast, slow = f"rate {rates[-1]:g}", "rate 0.2"
    sizes, floor = measures.kept(reading.measured, fast), np.nanmin(measures.kept(reading.measured, slow))
    at = sizes[np.isfinite(sizes) & (sizes < 0.999) & (sizes >= floor)]
    if len(at) == 0:
        return
    stop, accuracy = (
        {family: measures.interpolated(reading, measure, family, at).mean(1) for family in (fast, slow)}
        for measure in ("stop", "accuracy")
    )
    where = f"than {slow} at the same sizes"
    row = sooner("v1-fast-slower", "002 §6", f"{fast} stops later {where}", "poorer", (fast,), (slow,))
    yield row.claim, stop[fast], stop[slow]
    row = better("v1-fast-worse", "002 §6", f"{fast} is less accurate {where}", "poorer", (slow,), (fast,))
    yield row.claim, accuracy[slow], accuracy[fast]
