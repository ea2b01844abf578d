"""What the two papers claim of LeNet-300-100, as data, and the values that judge it.

A sample has one value per initialization: the mean over its copies, or over the pairs of them. With three of
them the test is Student's. A question at several sizes is a family; so are the order of the earlier paper's
table, and its numbers.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_families, under

STABLE, MATCHES, CLOSE = 2.0, 0.2, 0.1
"""Points of a barrier below which a network is stable, and of accuracy within which one matches, as the paper
has them; share of a published distance or angle within which ours is the same. Where two networks are
compared, what counts at least is what no longer matches, and half the barrier of an unstable one."""

EPOCHS, RATE = 24, 0.2
"""Of the paper's levels."""
TABLE_LEVELS, TABLE_EPOCHS, TABLE_SIZE = 11, 50, 0.107
"""Of its table."""

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
    """Networks of one start, at k = 0, at the level nearest to a size; ``EVERY``: all from dense to 3.5 %."""

    parent: str
    kept: float


EVERY = 0.0


class Row(NamedTuple):
    """A claim about two cells, or about one and a number."""

    claim: Claim
    measure: str
    first: Cell | float
    second: Cell | float


def _row(
    name: str, text: str, published: str, kind: Kind, measure: str, first: Cell | float, second: Cell | float,
    margin: float = 0.0, effect: float = np.nan,
) -> Row:  # fmt: skip
    claim = Claim(name, PAPER, text, published, kind, margin, UNITS[measure], effect)
    return Row(claim, measure, first, second)


WHOLE = Cell("ticket", 1.0)
SMALLEST = 0.0352
SIZES = {"21": 0.21, "10.7": 0.107, "3.5": SMALLEST}
# fmt: off
ROWS = (
    _row("dense-stable", "dense copies at k = 0 are stable: their barrier is below 2 points",
         "stable at k = 0, the only network that is", "greater", "barrier", STABLE, WHOLE),
    _row("tickets-stable", "tickets at k = 0 are stable at every level down to 3.5 %",
         "stable and matching to 3.5 %", "greater", "barrier", STABLE, Cell("ticket", EVERY)),
    _row("tickets-match", "tickets at k = 0 match the dense network at every level down to 3.5 %",
         "stable and matching to 3.5 %", "at_least", "accuracy", Cell("ticket", EVERY), WHOLE, MATCHES),
    _row("dense-below-a-point", "between dense copies at k = 0 the error rises by less than a point",
         "less than a percentage point", "greater", "barrier", 1.0, WHOLE),
    _row("dense-published", "test accuracy of dense networks: within 0.2 points of the published",
         "98.3 ± 0.1", "equal", "accuracy", WHOLE, 98.3, MATCHES),
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
           "only tickets match", "greater", "accuracy", Cell("ticket", size), Cell(parent, size),
           effect=MATCHES)
      for parent in ("random_mask", "reinit") for name, size in SIZES.items()),
    *(_row(f"ticket-below-{parent.split('_')[0]}-3.5",
           f"tickets have a lower barrier than {NAMES[parent]} at 3.5 %",
           "only tickets are stable when small", "greater", "barrier", Cell(parent, SMALLEST),
           Cell("ticket", SMALLEST), effect=STABLE / 2)
      for parent in ("random_mask", "reinit")),
)
# fmt: on


def sides(measured: xr.Dataset, row: Row) -> tuple[Any, Any] | None:
    """The two samples of a row, by level where it speaks of every one; ``None`` where there are none."""
    kept = measured["kept"].sel(network="ticket").mean(["rewind", "seed"]).values
    if 0 not in measured["rewind"].values:
        return None
    if EVERY not in [cell.kept for cell in row[2:] if isinstance(cell, Cell)]:
        first, second = (sample(measured, row.measure, cell, kept) for cell in row[2:])
        return None if first is None or second is None else (first, second)
    if kept.min() > SMALLEST * 1.1:
        return None
    levels = [level for level in range(1, len(kept)) if kept[level] > SMALLEST * 0.9]
    both = [
        {f"{kept[level]:.1%}": sample(measured, row.measure, cell, kept, level) for level in levels}
        for cell in row[2:]
    ]
    return both[0], both[1]


def sample(
    measured: xr.Dataset, measure: str, cell: Cell | float, kept: np.ndarray, level: int | None = None
) -> np.ndarray | None:
    """One value per initialization, in points, at the cell's size or at a level; ``None`` without one."""
    if not isinstance(cell, Cell):
        return np.full(measured.sizes["seed"], cell)
    if cell.kept != EVERY:
        level = int(np.argmin(abs(np.log(kept / cell.kept))))
    if cell.parent not in measured["parent"].values or level is None:
        return None
    if cell.kept != EVERY and abs(np.log(kept[level] / cell.kept)) > 0.1:
        return None
    at = measured.sel(rewind=0).isel(level=level)
    if measure == "barrier":
        return at["test_error_barrier"].sel(parent=cell.parent).mean("pair", skipna=False).values * 100
    copies = copies_of(measured, cell.parent)
    return at["test_accuracy"].sel(network=copies).mean("network", skipna=False).values * 100


def copies_of(measured: xr.Dataset, parent: str) -> list[str]:
    """The names of a parent's networks: itself and its copies."""
    return [name for name in measured["network"].values.tolist() if name.split("/")[0] == parent]


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to; all are of LeNet-300-100."""
    config = json.loads(measured.attrs.get("config", "{}"))
    if config.get("network", "mlp") != "mlp":
        return []
    lines: list[Any] = [(row.claim, *both) for row in ROWS if (both := sides(measured, row)) is not None]
    size = (1 - config.get("rate", RATE)) ** (config.get("table_levels", TABLE_LEVELS) - 1)
    there = "kind" in measured.dims and abs(np.log(size / TABLE_SIZE)) < 0.1
    table: list[Any] = table_rows(measured) if there else []
    judged = judge_families(lines + table, family, method="student")
    epochs = config.get("table_epochs", TABLE_EPOCHS)
    shorter = f"{epochs} of {TABLE_EPOCHS} epochs" if epochs < TABLE_EPOCHS else ""
    return under(judged[: len(lines)], protocol(config)) + under(judged[len(lines) :], shorter)


def protocol(config: Mapping[str, Any]) -> str:
    """How the levels differ from the paper's; empty where they do not."""
    epochs, rate = config.get("epochs", EPOCHS), config.get("rate", RATE)
    told = [f"{epochs} of {EPOCHS} epochs"] if epochs < EPOCHS else []
    told += [f"{100 * rate:.3g} % pruned at a level, not {100 * RATE:g} %"] if rate != RATE else []
    return ", ".join(told)


def family(claim: Claim) -> str:
    """What is judged together: one question at several sizes, the table's order, the table's numbers."""
    if claim.document == EARLIER:
        return "order" if claim.identifier.startswith("smaller-") else "numbers"
    return re.sub(r"-[\d.]+$", "", claim.identifier)


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
