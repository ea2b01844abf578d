"""What document 004 publishes of E6 in numbers, ours beside them, and which of them can be judged."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.supermask.config import is_document
from lth_jax.analysis.stats import Claim, Published, judge_all, published_difference, summary

Triple = tuple[Claim, Any, Any]


class Row(NamedTuple):
    """A row of the document's Table 1; losses in nats, sizes in percent."""

    category: str
    size: float
    final_loss: tuple[float, float]  # mean, standard deviation
    minimum_loss: tuple[float, float]
    iteration: tuple[float, float]
    size_std: float = 0.0


TICKET, BASELINE = "ticket", "(200, 30)"
TABLE = {
    TICKET: Row("Lottery ticket", 38.7, (0.091, 0.007), (0.078, 0.004), (4340.0, 222.1), 17.9),
    BASELINE: Row("High performer", 100.0, (0.109, 0.019), (0.078, 0.001), (4360.0, 171.3)),
    "(100, 15)": Row("High performer", 49.1, (0.112, 0.015), (0.095, 0.005), (4600.0, 326.6)),
    "(100, 25)": Row("High performer", 49.8, (0.104, 0.008), (0.090, 0.003), (4540.0, 340.6)),
    "(150, 15)": Row("High performer", 73.6, (0.106, 0.021), (0.085, 0.003), (4660.0, 275.7)),
    "(150, 25)": Row("High performer", 74.6, (0.100, 0.012), (0.082, 0.003), (4330.0, 249.7)),
    "(50, 15)": Row("Medium performer", 24.6, (0.130, 0.010), (0.119, 0.006), (4700.0, 326.6)),
    "(50, 25)": Row("Medium performer", 25.0, (0.124, 0.012), (0.113, 0.004), (4870.0, 94.9)),
    "(150, 5)": Row("Medium performer", 72.6, (0.138, 0.017), (0.122, 0.010), (4640.0, 231.9)),
    "(100, 5)": Row("Low performer", 48.4, (0.161, 0.019), (0.146, 0.014), (4870.0, 94.9)),
    "(50, 5)": Row("Low performer", 24.2, (0.181, 0.023), (0.170, 0.020), (4770.0, 258.4)),
}
GROUPS = tuple(dict.fromkeys(row.category for row in TABLE.values()))


class Number(NamedTuple):
    """A number of the document's text: mean and standard deviation, and what counts as the same."""

    identifier: str
    text: str
    mean: float
    std: float
    unit: str
    margin: float
    n: int = 10


NUMBERS = (
    Number("initial-accuracy", "accuracy before training", 10.1, 1.6, "%", 1.0),
    Number("trained-accuracy", "accuracy after retraining", 97.7, 0.1, "%", 0.1),
    Number("size-at-0", "relative size at t = 0", 64.6, 0.4, "%", 2.0),
    Number("size-at-0.2", "relative size at t = 0.2", 4.1, 0.6, "%", 2.0),
    Number("best-threshold", "best threshold", 0.049, 0.049, "threshold", 0.01),
    Number("ticket-size", "relative size at the best threshold", 38.7, 17.9, "%", 2.0),
    Number("masked-accuracy", "untrained accuracy at the best threshold", 42.6, 15.2, "%", 5.0),
    Number("high-final-loss", "final loss of the high performers", 0.106, 0.016, "nats", 0.005, 50),
)
EXTREMES = (19.1, 70.0)
"""The least and the greatest of ten untrained accuracies at the best threshold, in percent."""
COLUMNS = {"final_loss": "nats", "minimum_loss": "nats", "iteration": "iterations"}
"""Table 1's columns that have a standard deviation, with their units."""

LOSS_MARGIN = 0.005
"""Nats within which a loss counts as the same: half the smallest gap that the document draws on."""
SIZE_MARGIN = 2.0
AROUND, STARTS_RISING = 0.1, 5000
"""The share of a number within which an iteration counts as it; where the document sees the minimum."""
ACCURACY = 0.1
"""Accuracy points that count."""


def table(measured: xr.Dataset) -> xr.Dataset:
    """Table 1 a seed: ``size`` (%), ``final_loss``, ``minimum_loss``, ``iteration``, ``[network, seed]``."""
    loss = measured["validation_loss"]
    finite = loss.where(np.isfinite(loss), np.inf)
    minimum = finite.min("iteration")
    return xr.Dataset(
        {
            "size": measured["relative_size"] * 100,
            "final_loss": loss.isel(iteration=-1, drop=True),
            "minimum_loss": minimum.where(np.isfinite(minimum)),
            "iteration": measured["iteration"][finite.argmin("iteration")].drop_vars("iteration") * 1.0,
        }
    )


def at_best_threshold(measured: xr.Dataset, variable: str) -> xr.DataArray:
    """A variable ``[seed, threshold]`` at each seed's own best threshold."""
    return measured[variable].sel(threshold=measured["best_threshold"])


def measured_numbers(measured: xr.Dataset) -> dict[str, np.ndarray]:
    """What stands beside ``NUMBERS``, one value a seed."""
    sizes = measured["masked_size"] * 100
    found = {
        "initial-accuracy": measured["initial_accuracy"] * 100,
        "trained-accuracy": measured["trained_accuracy"] * 100,
        "best-threshold": measured["best_threshold"],
        "ticket-size": at_best_threshold(measured, "masked_size") * 100,
        "masked-accuracy": at_best_threshold(measured, "masked_accuracy") * 100,
    }
    for t in (0, 0.2):
        if np.any(np.isclose(measured["threshold"], t)):
            found[f"size-at-{t:g}"] = sizes.sel(threshold=t, method="nearest")
    loss = table(measured)["final_loss"]
    high = group(loss, GROUPS[1])
    also = {} if high is None else {"high-final-loss": high}
    return {name: values.values.astype(np.float64) for name, values in found.items()} | also


def follows_document(measured: xr.Dataset) -> bool:
    """Whether the document's numbers are those of this protocol."""
    return is_document(json.loads(measured.attrs["config"]))


def of(variable: xr.DataArray, network: str) -> np.ndarray:
    """A variable ``[network, seed]`` of one network."""
    return variable.sel(network=network).values.astype(np.float64)


def group(variable: xr.DataArray, category: str) -> np.ndarray | None:
    """A variable's mean over a group of architectures, by seed; ``None`` if none was trained."""
    names = [n for n in variable["network"].values.tolist() if n in TABLE and TABLE[n].category == category]
    return variable.sel(network=names).mean("network").values.astype(np.float64) if names else None


def described(ours: np.ndarray, theirs: Published) -> str:
    """A published number and ours in words that are no verdict: inside its spread or not, and Welch's p."""
    difference = published_difference(ours, theirs)
    where = "within" if abs(difference.mean) <= 2 * theirs.std else "outside"
    p = "< 0.001" if difference.p_value < 0.001 else f"= {difference.p_value:.3f}"
    return f"{where} the published spread (2 SD); difference by Welch: p {p}"


def numbers(measured: xr.Dataset, decidable: bool) -> list[Triple]:
    """The text's numbers, as equal within what counts as the same; theirs have an error too.

    Args:
      measured: the results.
      decidable: those that some number of our runs could show equal, or else the others, whose published
        error is too wide.
    """
    found, pairs = measured_numbers(measured), []
    for number in NUMBERS:
        published = f"{number.mean:g} ± {number.std:g} {number.unit}"
        claim = Claim(
            number.identifier, "004, numbers", number.text, published, "equal", number.margin, number.unit
        )
        pairs.append((claim, found[number.identifier], Published(number.mean, number.std, number.n)))
    needed = [verdict.needed for verdict in judge_all(pairs)]
    return [pair for pair, n in zip(pairs, needed, strict=True) if bool(np.isfinite(n)) == decidable]


def table_columns(measured: xr.Dataset) -> Iterator[Triple]:
    """Table 1, a claim a column: all its cells are those published."""
    ours = table(measured)
    for column, unit in COLUMNS.items():
        margin = AROUND * STARTS_RISING if column == "iteration" else LOSS_MARGIN
        what = {"iteration": "iterations of the minimal loss"}.get(column, f"{column.replace('_', ' ')}es")
        claim = Claim(
            f"table-{column}", "004, Table 1", f"the {what} are those published, each of {len(TABLE)}",
            "Table 1", "equal", margin, unit,
        )  # fmt: skip
        theirs = {name: Published(*getattr(row, column), n=10) for name, row in TABLE.items()}
        yield claim, {name: of(ours[column], name) for name in theirs}, theirs


def descriptions(measured: xr.Dataset) -> list[tuple[str, str, str, str]]:
    """Every published number beside ours, in words that are no verdict: what, published, ours, how it lies.

    Of the text's numbers those that no number of our runs could show equal, and all cells of Table 1.
    """
    rows = [
        (claim.text, claim.published, ours, theirs)
        for claim, ours, theirs in numbers(measured, decidable=False)
    ]
    for claim, ours, theirs in table_columns(measured):
        column = claim.identifier.removeprefix("table-").replace("_", " ")
        rows += [
            (f"{name}: {column}", f"{theirs[name].mean:g} ± {theirs[name].std:g}", ours[name], theirs[name])
            for name in ours
        ]
    told = []
    for what, published, ours, theirs in rows:
        mean, std, _ = (float(number) for number in summary(ours))
        words = described(ours, theirs)
        if what.startswith("untrained accuracy"):
            words += f"; from {ours.min():.1f} to {ours.max():.1f}, published {EXTREMES[0]} to {EXTREMES[1]}"
        told.append((what, published, f"{mean:.4g} ± {std:.2g}", words))
    return told
