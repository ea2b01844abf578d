"""What document 004 publishes of E6, as data, and the values that judge it."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.supermask.config import is_document
from experiments.supermask.zhou_claims import grid_claims, learned_claims
from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_all


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
    """A number of the document's text: mean and standard deviation over ten seeds."""

    identifier: str
    text: str
    mean: float
    std: float
    unit: str


NUMBERS = (
    Number("initial-accuracy", "accuracy before training", 10.1, 1.6, "%"),
    Number("trained-accuracy", "accuracy after retraining", 97.7, 0.1, "%"),
    Number("size-at-0", "relative size at t = 0", 64.6, 0.4, "%"),
    Number("size-at-0.2", "relative size at t = 0.2", 4.1, 0.6, "%"),
    Number("best-threshold", "best threshold", 0.049, 0.049, "threshold"),
    Number("ticket-size", "relative size at the best threshold", 38.7, 17.9, "%"),
    Number("masked-accuracy", "untrained accuracy at the best threshold", 42.6, 15.2, "%"),
)
COLUMNS = {"final_loss": "nats", "minimum_loss": "nats", "iteration": "iterations"}
"""Table 1's columns that have a standard deviation, with their units."""

LOSS_MARGIN = 0.005
"""Nats within which a loss counts as the same: half the smallest gap that the document draws on."""
SIZE_MARGIN = 2.0


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
    return {name: values.values.astype(np.float64) for name, values in found.items()}


def follows_document(measured: xr.Dataset) -> bool:
    """Whether the document's numbers are those of this protocol."""
    return is_document(json.loads(measured.attrs["config"]))


def best_rival(measured: xr.Dataset) -> str:
    """The architecture, ticket apart, whose mean final loss is lowest."""
    means = table(measured)["final_loss"].mean("seed").drop_sel(network=TICKET)
    return str(means["network"].values[int(means.argmin("network"))])


Triple = tuple[Claim, np.ndarray, np.ndarray | float]


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim; each family is corrected on its own. Sign flips need six seeds, Student's t two."""
    method = "bootstrap" if measured.sizes["seed"] >= 6 else "student"
    judged = judge_all(list(statements(measured)), method=method)
    if follows_document(measured):
        judged += judge_all(list(numbers(measured)))
        judged += judge_all(list(table_cells(measured)))
    if "criterion" in measured.dims:
        judged += judge_all(list(grid_claims(measured)), method="student")
    if "weights" in measured.dims:
        judged += judge_all(list(learned_claims(measured)), method="student")
    return judged


def say(name: str, text: str, published: str, kind: Kind, margin: float, unit: str) -> Claim:
    """A claim of the document's words."""
    return Claim(name, "004", text, published, kind, margin, unit)


def of(variable: xr.DataArray, network: str) -> np.ndarray:
    """A variable ``[network, seed]`` of one network."""
    return variable.sel(network=network).values.astype(np.float64)


def statements(measured: xr.Dataset) -> Iterator[Triple]:
    """What the document says in words."""
    long, untrained = measured["overtraining_loss"], measured["initial_accuracy"].values * 100
    yield (
        say("overtrained", "overtraining raises the loss above its minimum", "yes", "greater", 0.0, "nats"),
        long.isel(long_iteration=-1).values, long.min("long_iteration").values,
    )  # fmt: skip
    yield (
        say("supermask", "a masked untrained network is better than the untrained one", "42.6 against 10.1 %",
            "greater", 0.0, "accuracy points"),
        at_best_threshold(measured, "masked_accuracy").values * 100, untrained,
    )  # fmt: skip
    loss, rival = table(measured)["final_loss"], best_rival(measured)
    for name in loss["network"].values.tolist():
        if name != TICKET:
            published = f"0.091 against {TABLE[name].final_loss[0]}" if name in TABLE else "yes"
            text = f"the ticket trains at least as well as {name} (final loss)"
            yield (
                say(f"ticket-beats-{name}", text, published, "at_least", LOSS_MARGIN, "nats"),
                of(loss, name), of(loss, TICKET),
            )  # fmt: skip
    text = f"the ticket trains at least as well as every other architecture; the best is {rival} (final loss)"
    yield (
        say("ticket-beats-all", text, "0.091 against 0.100", "at_least", LOSS_MARGIN, "nats"),
        of(loss, rival), of(loss, TICKET),
    )  # fmt: skip
    yield from size_statements(table(measured)["size"])


def size_statements(size: xr.DataArray) -> Iterator[Triple]:
    """The other half of the claim: at the size of the smallest."""
    others = size.drop_sel(network=TICKET)
    smallest = str(others["network"].values[int(others.mean("seed").argmin("network"))])
    text = f"the ticket is as small as the smallest architecture, {smallest}"
    unit = "points of size"
    yield (
        say("ticket-size-of-smallest", text, "38.7 against 24.2 %", "at_least", SIZE_MARGIN, unit),
        of(size, smallest), of(size, TICKET),
    )  # fmt: skip
    low = [n for n in size["network"].values.tolist() if n in TABLE and TABLE[n].category == GROUPS[-1]]
    if low:
        text = "the ticket is as small as the low performers, their mean"
        yield (
            say("ticket-size-of-low", text, "38.7 against 36.3 %", "at_least", SIZE_MARGIN, unit),
            size.sel(network=low).mean("network").values, of(size, TICKET),
        )  # fmt: skip


def numbers(measured: xr.Dataset) -> Iterator[Triple]:
    """The text's numbers: is our mean within two published standard deviations?"""
    found = measured_numbers(measured)
    for number in NUMBERS:
        published = f"{number.mean:g} ± {number.std:g} {number.unit}"
        claim = Claim(number.identifier, "004", number.text, published, "equal", 2 * number.std, number.unit)
        yield claim, found[number.identifier], number.mean


def table_cells(measured: xr.Dataset) -> Iterator[Triple]:
    """Table 1's cells, likewise."""
    ours = table(measured)
    for name, row in TABLE.items():
        for column, unit in COLUMNS.items():
            mean, std = getattr(row, column)
            text = f"{name}: {column.replace('_', ' ')}"
            claim = Claim(
                f"{name}-{column}", "004, Table 1", text, f"{mean:g} ± {std:g}", "equal", 2 * std, unit
            )
            yield claim, ours[column].sel(network=name).values.astype(np.float64), mean
