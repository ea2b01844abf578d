"""What the papers claim of E9's networks, as data, and the values that judge it.

A sample has one value per trial, that of several networks of a control being their mean. Times are compared
as logarithms of the early-stop iteration. Conv-2, 4 and 6 are judged at the early stop unless a claim says
"at the end", ResNet-20 and VGG-16 at the end, against the dense networks of their own recipe. A question at
several sizes is a family. The claims were written before anything was trained.

The papers give numbers at other sizes for each network, so that those of Conv-2, 4 and 6 are judged where
they are published, and all claims again at 51, 26 and 9 %. Of deep networks ICLR 2019 has ResNet-18 and
VGG-19: what it says of these is asked of ours.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.conv_tickets import measures
from experiments.conv_tickets.config import DEEP, PAPER, Config
from experiments.conv_tickets.measures import DENSE, Reading
from lth_jax.analysis.stats import Claim, Verdict, judge_families, under

SMALL, LARGE, LATER = "ICLR 2019 §3", "ICLR 2019 §4", "arXiv:1903.01611"
TIME, POINTS = "times the iterations", "accuracy points"
LEAST, SOONER = 0.5, 1.1
"""The least difference that counts where none is published: in points, and in times the iterations."""
MATCHES, NEARLY = 0.2, 1.0
"""Points within which a ticket matches its dense network, and within which ``low`` is said to."""
SMALLEST = 0.02
"""While more than this is kept tickets are said to be above dense networks."""
SIZES = {"51": 0.51, "26": 0.26, "9": 0.09}
DEEP_SIZES = {"51": 0.51, "26": 0.26, "17": 0.17}
CONTROLS = {"reinit": "reinit", "random_mask": "random masks"}
NAMES = {"conv2": "Conv-2", "conv4": "Conv-4", "conv6": "Conv-6", "resnet20": "ResNet-20", "vgg16": "VGG-16"}
FOUND = {
    "low": ("a highest rate of 0.01", NEARLY, "VGG-19: within a point while 3.5 % or more are kept", LARGE),
    "warmup": ("warmup", MATCHES, "VGG-19: above dense while 1.5 % or more are kept", LARGE),
    "rewinding": ("rewinding", MATCHES, "tickets are found when they are reset to an early iteration", LATER),
}
"""Recipes that find tickets: in words, within which margin, as published, and where."""


class Published(NamedTuple):
    """The largest gains: times sooner and at which size, points more and at which size."""

    times: float
    soonest: float
    points: float
    best: float


PUBLISHED = {
    "conv2": Published(3.5, 0.088, 3.4, 0.046),
    "conv4": Published(3.5, 0.092, 3.5, 0.111),
    "conv6": Published(2.5, 0.151, 3.3, 0.264),
}


class Cell(NamedTuple):
    """Networks of a family at a size; ``EVERY``: at each one smaller than dense and above ``SMALLEST``."""

    family: str
    size: float
    recipe: str = "standard"


EVERY = 0.0
WHOLE = Cell("ticket", DENSE)


class Row(NamedTuple):
    """A claim about a measure, see ``measures.read``, in two cells."""

    claim: Claim
    measure: str
    first: Cell
    second: Cell


def sooner(name: str, text: str, published: str, late: Cell, soon: Cell, times: float = SOONER) -> Row:
    """A claim that one cell stops before another."""
    effect, base = float(np.log(times)), float(np.e)
    claim = Claim(name, SMALL, text, published, "greater", unit=TIME, effect=effect, base=base)
    return Row(claim, "stop", late, soon)


def better(
    name: str, text: str, published: str, good: Cell, bad: Cell, measure: str = "accuracy",
    points: float = LEAST, document: str = SMALL,
) -> Row:  # fmt: skip
    """A claim that one cell is more accurate than another."""
    return Row(
        Claim(name, document, text, published, "greater", unit=POINTS, effect=points), measure, good, bad
    )


def no_worse(
    name: str, text: str, published: str, good: Cell, bad: Cell, margin: float, document: str
) -> Row:
    """A claim that one cell is at least as accurate as another at the end, within a margin."""
    return Row(Claim(name, document, text, published, "at_least", margin), "end", good, bad)


def rows_of_small(part: str) -> list[Row]:
    """The claims about Conv-2, Conv-4 or Conv-6."""
    own, name = PUBLISHED[part], NAMES[part]
    at = lambda size: f"{100 * size:.3g}"  # noqa: E731
    above = "above the dense accuracy while more than 2 % are kept"
    rows = [
        sooner(f"{part}-soonest", f"{name}: at {at(own.soonest)} % tickets stop sooner than dense networks",
               f"{own.times} times sooner", WHOLE, Cell("ticket", own.soonest), own.times),
        better(f"{part}-best", f"{name}: at {at(own.best)} % tickets are more accurate than dense networks",
               f"{own.points} points", Cell("ticket", own.best), WHOLE, points=own.points),
        better(f"{part}-above-dense",
               f"{name}: tickets are more accurate than dense networks at every size above 2 %",
               above, Cell("ticket", EVERY), WHOLE),
    ]  # fmt: skip
    for word, size in SIZES.items():
        ticket, where = Cell("ticket", size), f"{name}: at {word} % tickets"
        rows += [
            better(f"{part}-above-dense-{word}", f"{where} are more accurate than dense networks", above,
                   ticket, WHOLE),
            better(f"{part}-ends-above-dense-{word}",
                   f"{where} are more accurate than dense networks at the end", "more accurate",
                   ticket, WHOLE, "end"),
            sooner(f"{part}-sooner-{word}", f"{where} stop sooner than dense networks", "sooner",
                   WHOLE, ticket),
        ]  # fmt: skip
        for control, beside in CONTROLS.items():
            other, short = Cell(control, size), control.split("_")[0]
            rows += [
                sooner(f"{part}-sooner-than-{short}-{word}", f"{where} stop sooner than {beside}",
                       "sooner", other, ticket),
                better(f"{part}-better-than-{short}-{word}", f"{where} are more accurate than {beside}",
                       "more accurate", ticket, other),
                better(f"{part}-ends-better-than-{short}-{word}",
                       f"{where} are more accurate than {beside} at the end", "more accurate",
                       ticket, other, "end"),
            ]  # fmt: skip
    return rows


def rows_of_deep(part: str) -> list[Row]:
    """The claims about ResNet-20 or VGG-16."""
    name, rows = NAMES[part], []
    none = "no tickets at the rate of 0.1, no better than reinitialized (VGG-19)"
    for word, size in DEEP_SIZES.items():
        ticket, where = Cell("ticket", size), f"{name}: at {word} %"
        rows += [
            better(f"{part}-standard-below-dense-{word}",
                   f"{where} tickets of the rate 0.1 and θ0 are less accurate than dense networks", none,
                   WHOLE, ticket, "end", document=LARGE),
            no_worse(f"{part}-standard-as-reinit-{word}",
                     f"{where} tickets of the rate 0.1 and θ0 are no better than reinit, within "
                     f"{MATCHES:g} points", none, Cell("reinit", size), ticket, MATCHES, LARGE),
        ]  # fmt: skip
        for recipe, (what, margin, published, document) in FOUND.items():
            own = Cell("ticket", size, recipe)
            rows.append(
                no_worse(f"{part}-{recipe}-matches-{word}",
                         f"{where} tickets of {what} are as accurate as their dense networks, within "
                         f"{margin:g} points", published, own, Cell("ticket", DENSE, recipe), margin,
                         document)
            )  # fmt: skip
            rows += [
                better(f"{part}-{recipe}-over-{control.split('_')[0]}-{word}",
                       f"{where} tickets of {what} are more accurate than {beside}", "more accurate",
                       own, Cell(control, size, recipe), "end", document=document)
                for control, beside in CONTROLS.items()
            ]  # fmt: skip
            rows.append(
                better(f"{part}-{recipe}-loses-less-{word}",
                       f"{where} tickets of {what} lose less of the dense accuracy than those of the rate "
                       "0.1 and θ0", "tickets are found with it, and not without", own, ticket, "gain",
                       document=document)
            )  # fmt: skip
    return rows


def rows_of(part: str) -> list[Row]:
    """The claims about a part's network."""
    return rows_of_deep(part) if part in DEEP else rows_of_small(part)


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to, by t tests, as few trials allow."""
    config = json.loads(measured.attrs["config"])
    reading, found, bounds = measures.read(measured), [], {}
    for row in rows_of(config["part"]):
        sides = [side(reading, row.measure, cell, row) for cell in (row.first, row.second)]
        if any(values is None for values in sides):
            continue
        found.append((row.claim, *sides))
        if row.measure == "stop":
            bounds[row.claim.identifier] = [
                float(np.mean(side(reading, "bound", cell, row))) for cell in (row.first, row.second)
            ]
    judged = judge_families(found, family, method="student")
    judged = [warned(verdict, *bounds.get(verdict.claim.identifier, (0, 0))) for verdict in judged]
    return under(judged, protocol(config, str(measured.attrs.get("dataset", ""))))


def side(reading: Reading, measure: str, cell: Cell, row: Row) -> Any:
    """One side of a row: values by trial; by size where the row is of every one; ``None`` without any."""
    if EVERY not in (row.first.size, row.second.size):
        return measures.at_size(reading, measure, *cell)
    if reading.kept.min() > SMALLEST * (1 + measures.NEAR):
        return None
    levels = [level for level in range(1, len(reading.kept)) if reading.kept[level] > SMALLEST]
    values = {
        f"{100 * reading.kept[level]:.3g} %": measures.at_level(
            reading, measure, cell.family, level if cell.size == EVERY else 0, cell.recipe
        )
        for level in levels
    }
    return None if any(each is None for each in values.values()) else values


def family(claim: Claim) -> str:
    """What is judged together: one question at several sizes."""
    return re.sub(r"-\d+$", "", claim.identifier)


def warned(verdict: Verdict, first: float, second: float) -> Verdict:
    """The verdict, with the shares of its times that are lower bounds in its note, if any are."""
    if first == second == 0:
        return verdict
    note = f"lower bounds: {first:.0%} of a's times, {second:.0%} of b's"
    return verdict._replace(note=f"{verdict.note}; {note}".removeprefix("; "))


def protocol(config: Mapping[str, Any], dataset: str) -> str:
    """How a run differs from the papers' protocol; empty where it does not.

    Args:
      config: the run's.
      dataset: the title of what it was trained on.
    """
    part = config["part"]
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Config)}
    usual |= PAPER[part]
    plain = lambda value: tuple(value) if isinstance(value, list) else value  # noqa: E731
    other = {name: plain(value) for name, value in config.items() if plain(value) != usual[name]}
    told = [] if dataset == "CIFAR-10" else [dataset]
    if "iterations" in other:
        told.append(f"{other['iterations']:,} of {usual['iterations']:,} iterations")
    deep = part in DEEP
    rates = {"rate": "" if deep else " of dense layers"} | ({} if deep else {"conv_rate": " of convolutions"})
    told += [
        f"{100 * other[name]:.3g} %{of} pruned at a level, not {100 * usual[name]:g} %"
        for name, of in rates.items()
        if name in other
    ]
    of_deep = ("low_rate", "warm_rate", "warmup", "rewind") if deep else ("hidden",)
    for name in ("width", "batch_size", "learning_rate", "validation", *of_deep):
        told += [f"{name.replace('_', ' ')} {other[name]}"] if name in other else []
    return ", ".join(told)
