"""What the papers claim, as data, and the values that judge it.

A sample has one value per initialization: the test accuracy, in points, averaged over all sizes that are
smaller than the dense network, or at one of them. What the abstract of 2009.08576 says of several methods is
a family; so is the order in the independent reproduction of RigL, whose differences were measured with
another network on other data (WRN-22-2, CIFAR-10): here the order is the claim.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.early_pruning.experiment import Config, kept, smaller, used
from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_families, under

ABSTRACT, ORDER = "arXiv:2009.08576 abstract", "RigL reproduction"
EPOCHS, SIZES = 24, 18
"""Of every training in the protocol, and sizes below the dense one."""
SAME = 0.2
"""Points of accuracy within which a network is as good as another."""
EVERY, SMALLEST, FIFTH = 0.0, 0.018, 0.2
"""All sizes together, and fractions of weights kept."""
NEAR = {SMALLEST: 0.1, FIFTH: 0.28}
"""How far, as a logarithm, a level's size may be from the one that is asked for."""
WAYS = {"magnitude": "magnitude at initialization", "snip": "SNIP", "grasp": "GraSP", "synflow": "SynFlow"}
LATE = {"one_shot": "magnitude after training", "imp": "iterative magnitude pruning"}
ABLATED = {"random_mask": "shuffled inside its layers", "reinit": "with fresh weights"}


class Cell(NamedTuple):
    """Networks of one way to prune, at a size."""

    pruner: str
    network: str = "ticket"
    size: float = EVERY


class Row(NamedTuple):
    """A claim about two cells, and what it is judged with."""

    claim: Claim
    first: Cell
    second: Cell
    family: str


def _row(
    family: str, name: str, text: str, published: str, kind: Kind, first: Cell, second: Cell,
    margin: float = 0.0, document: str = ABSTRACT, effect: float = np.nan,
) -> Row:  # fmt: skip
    return Row(Claim(name, document, text, published, kind, margin, effect=effect), first, second, family)


# fmt: off
ROWS = (
    *(_row("random", f"{way}-over-random", f"{name} is more accurate than random pruning, over all sizes",
           "these methods surpass random pruning", "greater", Cell(way), Cell("random"))
      for way, name in WAYS.items()),
    *(_row("random", f"{way}-over-random-1.8", f"{name} is more accurate than random pruning at 1.8 %",
           "these methods surpass random pruning", "greater",
           Cell(way, size=SMALLEST), Cell("random", size=SMALLEST))
      for way, name in WAYS.items()),
    *(_row(late, f"{way}-below-{late.replace('_', '-')}",
           f"{name} is less accurate than {text}, over all sizes",
           "they remain below magnitude pruning after training", "greater", Cell(late), Cell(way))
      for late, text in LATE.items() for way, name in WAYS.items()),
    *(_row("ablations", f"{way}-{control.split('_')[0]}",
           f"{name}'s mask {text} is at least as accurate, within {SAME:g} points, over all sizes",
           "randomly shuffling or resampling preserves or improves accuracy", "at_least",
           Cell(way, control), Cell(way), SAME)
      for way, name in WAYS.items() for control, text in ABLATED.items()),
    *(_row("late ablations", f"{late.replace('_', '-')}-{control.split('_')[0]}",
           f"the mask of {name} {text} is less accurate, over all sizes",
           "this behavior is unlike that of pruning after training", "greater",
           Cell(late), Cell(late, control))
      for late, name in LATE.items() for control, text in ABLATED.items()),
    _row("order", "set-over-static", "SET is more accurate than a static mask at a fifth of the weights",
         "92.7 > 91.2", "greater", Cell("set_uniform", size=FIFTH), Cell("static_uniform", size=FIFTH),
         document=ORDER, effect=1.5),
    _row("order", "rigl-over-static", "RigL is more accurate than a static mask at a fifth of the weights",
         "92.6 > 91.2", "greater", Cell("rigl_uniform", size=FIFTH), Cell("static_uniform", size=FIFTH),
         document=ORDER, effect=1.4),
    _row("order", "set-erk-over-uniform",
         "SET is more accurate with ERK than with layers of one density, at a fifth of the weights",
         "92.9 > 92.7", "greater", Cell("set_erk", size=FIFTH), Cell("set_uniform", size=FIFTH),
         document=ORDER, effect=0.2),
    _row("order", "rigl-erk-over-uniform",
         "RigL is more accurate with ERK than with layers of one density, at a fifth of the weights",
         "93.1 > 92.6", "greater", Cell("rigl_erk", size=FIFTH), Cell("rigl_uniform", size=FIFTH),
         document=ORDER, effect=0.5),
    _row("order", "gradual-over-rigl",
         "gradual pruning is more accurate than RigL, both with ERK, at a fifth of the weights",
         "93.2 > 93.1", "greater", Cell("gradual_erk", size=FIFTH), Cell("rigl_erk", size=FIFTH),
         document=ORDER, effect=0.1),
)
# fmt: on


def sample(measured: xr.Dataset, cell: Cell) -> np.ndarray | None:
    """One accuracy per initialization, in points; ``None`` where it was not measured."""
    if (cell.pruner, cell.network) not in used(measured):
        return None
    accuracy = measured["test_accuracy"].sel(pruner=cell.pruner, network=cell.network) * 100
    if cell.size == EVERY:
        return accuracy.isel(level=smaller(measured)).mean("level", skipna=False).values
    away = abs(np.log(kept(measured) / cell.size))
    level = int(np.argmin(away))
    return None if away[level] > NEAR[cell.size] else accuracy.isel(level=level).values


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to."""
    rows = [(row, sample(measured, row.first), sample(measured, row.second)) for row in ROWS]
    there = [(row.claim, a, b) for row, a, b in rows if a is not None and b is not None]
    families = {row.claim.identifier: row.family for row in ROWS}
    judged = judge_families(there, lambda claim: families[claim.identifier], method="student")
    told = protocol(json.loads(measured.attrs.get("config", "{}")))
    sizes = {row.claim.identifier: row.first.size for row in ROWS}
    at = kept(measured)
    found = []
    for verdict in judged:
        asked = sizes[verdict.claim.identifier]
        size = at[int(np.argmin(abs(np.log(at / asked))))] if asked != EVERY else asked
        other = f"at {size:.1%}" if asked != EVERY and abs(np.log(size / asked)) > 0.1 else ""
        found += under([verdict], ", ".join(filter(None, [told, other])))
    return found


def protocol(config: Mapping[str, Any]) -> str:
    """How the runs differ from the protocol; empty where they do not."""
    epochs, sizes = config.get("epochs", EPOCHS), config.get("levels", SIZES + 1) - 1
    told = [f"{epochs} of {EPOCHS} epochs"] if epochs < EPOCHS else []
    told += [f"{sizes} of {SIZES} sizes"] if sizes < SIZES else []
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    for name in ("dataset", "hidden", "batch_size", "learning_rate", "mask_every"):
        given = config.get(name, usual[name])
        given = tuple(given) if isinstance(given, list) else given
        told += [f"{name.replace('_', ' ')} {given}"] if given != usual[name] else []
    return ", ".join(told)
