"""What the two papers claim of LeNet-300-100, as data, and the values that judge it.

A sample has one value per initialization: the mean over its copies, or over the pairs of them. With three of
them the test is Student's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_all

STABLE, MATCHES, CLOSE = 2.0, 0.2, 0.1
"""Points of a barrier below which a network is stable, and of accuracy within which one matches, as the paper
has them; share of a published distance or angle within which ours is the same."""

PAPER, EARLIER = "arXiv:1912.05671", "arXiv:1903.01611"
UNITS = {"barrier": "points of error", "accuracy": "accuracy points"}


class Published(NamedTuple):
    """A cell of 1903.01611's table: mean and spread."""

    mean: float
    spread: float


TABLE = {
    ("ticket", "order_distance"): Published(20.7, 0.6),
    ("ticket", "order_angle"): Published(22.7, 0.5),
    ("ticket", "pruning_distance"): Published(48.1, 0.6),
    ("ticket", "pruning_angle"): Published(53.1, 0.8),
    ("ticket", "table_accuracy"): Published(98.3, 0.1),
    ("random_mask", "order_distance"): Published(58.6, 4.0),
    ("random_mask", "order_angle"): Published(49.2, 3.0),
    ("random_mask", "pruning_distance"): Published(75.7, 0.5),
    ("random_mask", "pruning_angle"): Published(83.6, 1.1),
    ("random_mask", "table_accuracy"): Published(97.5, 0.3),
}
DENSE = Published(98.0, 0.2)
NAMES = {
    "ticket": "tickets",
    "random_mask": "random masks",
    "reinit": "fresh weights under the ticket's mask",
}
QUANTITIES = {
    "order_distance": "distance between two orders",
    "order_angle": "angle between two orders (°)",
    "pruning_distance": "distance to the same weights in the whole network",
    "pruning_angle": "angle to the same weights in the whole network (°)",
    "table_accuracy": "test accuracy (%)",
}


class Cell(NamedTuple):
    """Networks of one start, rewound to k, at the level nearest to a size."""

    parent: str
    kept: float
    rewind: int = 0


class Row(NamedTuple):
    """A claim about two cells, or about one and a number."""

    claim: Claim
    measure: str
    first: Cell | float
    second: Cell | float


def _row(
    name: str, text: str, published: str, kind: Kind, measure: str, first: Cell | float, second: Cell | float,
    margin: float = 0.0,
) -> Row:  # fmt: skip
    return Row(Claim(name, PAPER, text, published, kind, margin, UNITS[measure]), measure, first, second)


WHOLE = Cell("ticket", 1.0)
SIZES = {"21": 0.21, "10.7": 0.107, "3.5": 0.0352}
# fmt: off
ROWS = (
    _row("dense-stable", "dense copies at k = 0 are stable: their barrier is below 2 points",
         "stable at k = 0, the only network that is", "greater", "barrier", STABLE, WHOLE),
    _row("dense-below-a-point", "between dense copies at k = 0 the error rises by less than a point",
         "less than a percentage point", "greater", "barrier", 1.0, WHOLE),
    *(_row(f"tickets-stable-{name}", f"tickets at k = 0 are stable at {name} %",
           "stable and matching to 3.5 %", "greater", "barrier", STABLE, Cell("ticket", size))
      for name, size in SIZES.items()),
    *(_row(f"tickets-match-{name}", f"tickets at k = 0 match the dense network at {name} %",
           "stable and matching to 3.5 %", "at_least", "accuracy", Cell("ticket", size), WHOLE, MATCHES)
      for name, size in SIZES.items()),
    *(_row(f"{parent.split('_')[0]}-stable-{name}", f"{NAMES[parent]} are still stable at {name} %",
           "stable for longer than other networks", "greater", "barrier", STABLE, Cell(parent, size))
      for parent in ("random_mask", "reinit") for name, size in SIZES.items()),
    *(_row(f"ticket-over-{parent.split('_')[0]}-{name}",
           f"tickets are more accurate than {NAMES[parent]} at {name} %",
           "only tickets match", "greater", "accuracy", Cell("ticket", size), Cell(parent, size))
      for parent in ("random_mask", "reinit") for name, size in SIZES.items()),
    *(_row(f"ticket-below-{parent.split('_')[0]}-3.5",
           f"tickets have a lower barrier than {NAMES[parent]} at 3.5 %",
           "only tickets are stable when small", "greater", "barrier", Cell(parent, 0.0352),
           Cell("ticket", 0.0352))
      for parent in ("random_mask", "reinit")),
)
# fmt: on


def sample(measured: xr.Dataset, measure: str, cell: Cell | float) -> np.ndarray | None:
    """One value per initialization, in points; ``None`` where there are none."""
    if not isinstance(cell, Cell):
        return np.full(measured.sizes["seed"], cell)
    kept = measured["kept"].isel(network=0).mean(["rewind", "seed"]).values
    level = int(np.argmin(abs(np.log(kept / cell.kept))))
    have = cell.parent in measured["parent"].values and cell.rewind in measured["rewind"].values
    if not have or abs(np.log(kept[level] / cell.kept)) > 0.1:
        return None
    at = measured.sel(rewind=cell.rewind).isel(level=level)
    if measure == "barrier":
        return at["test_error_barrier"].sel(parent=cell.parent).mean("pair", skipna=False).values * 100
    copies = copies_of(measured, cell.parent)
    return at["test_accuracy"].sel(network=copies).mean("network", skipna=False).values * 100


def copies_of(measured: xr.Dataset, parent: str) -> list[str]:
    """The names of a parent's networks: itself and its copies."""
    return [name for name in measured["network"].values.tolist() if name.split("/")[0] == parent]


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to; each paper is a family of its own."""
    rows = [
        (row.claim, sample(measured, row.measure, row.first), sample(measured, row.measure, row.second))
        for row in ROWS
    ]
    known = [(claim, a, b) for claim, a, b in rows if a is not None and b is not None]
    judged = judge_all(known, method="student") if known else []
    return judged + (judge_all(table_rows(measured), method="student") if "kind" in measured.dims else [])


def table_rows(measured: xr.Dataset) -> list[tuple[Claim, np.ndarray, np.ndarray | float]]:
    """The claims of the table: its order, and each of its numbers."""
    found = []
    for quantity in list(QUANTITIES)[:4]:
        name = QUANTITIES[quantity].removesuffix(" (°)")
        unit = "degrees" if "angle" in quantity else "distance"
        text = f"tickets have a smaller {name} than random masks have"
        published = f"{TABLE['ticket', quantity].mean} < {TABLE['random_mask', quantity].mean}"
        claim = Claim(f"smaller-{quantity.replace('_', '-')}", EARLIER, text, published, "greater", 0.0, unit)
        found.append(
            (
                claim,
                table_sample(measured, "random_mask", quantity),
                table_sample(measured, "ticket", quantity),
            )
        )
    for (kind, quantity), (mean, spread) in TABLE.items():
        accuracy = quantity == "table_accuracy"
        unit = "accuracy points" if accuracy else "degrees" if "angle" in quantity else "distance"
        margin = MATCHES if accuracy else CLOSE * mean
        close = "0.2 points" if accuracy else "a tenth"
        text = f"{QUANTITIES[quantity]} of {NAMES[kind]}: within {close} of the published"
        name = f"{kind.split('_')[0]}-{quantity.replace('_', '-')}"
        claim = Claim(name, EARLIER, text, f"{mean} ± {spread}", "equal", margin, unit)
        found.append((claim, table_sample(measured, kind, quantity), mean))
    text = "test accuracy (%) of dense networks: within 0.2 points of the published"
    claim = Claim("dense-accuracy", EARLIER, text, "98.0 ± 0.2", "equal", MATCHES)
    return [*found, (claim, measured["dense_accuracy"].values * 100, DENSE.mean)]


def table_sample(measured: xr.Dataset, kind: str, quantity: str) -> np.ndarray:
    """One value per initialization of a cell of the table."""
    values = measured[quantity].sel(kind=kind)
    scale = 100 if quantity == "table_accuracy" else 1
    others: Sequence[str] = [str(dim) for dim in values.dims if dim != "seed"]
    return values.mean(others, skipna=False).values * scale
