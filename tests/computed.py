"""What prose states of committed results, computed from their files: strings, in the order of the words.

A number that is published, a target or a setting comes from where the program has it. The words are in
``stated``.
"""

import csv
import decimal
import functools
import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.benchmark import cases, causes, measures
from experiments.compare_paths import MARGIN
from experiments.stability import claims as stability
from experiments.supermask import published as supermask
from experiments.supermask import zhou_claims as zhou
from experiments.ticket_distribution import claims as distribution
from experiments.ticket_distribution import published as networks
from experiments.variance_propagation import claims as variance
from lth_jax.analysis import stats

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
E1, E1_RUN = "init_comparison/as-described", "init_comparison/as-run"
E2, E2_RUN, LENET5 = (f"ticket_distribution/{name}" for name in ("as-described", "as-run", "lenet5"))
E4, E5, STABLE = "mnist_tickets/controls", "variance_propagation", "stability"
E6, E6_FIXED, E8 = "supermask/shuffled", "supermask/fixed-order", "early_pruning"


@functools.cache
def data(place: str, file: str = "results.nc") -> xr.Dataset:
    """A run's arrays."""
    with xr.open_dataset(RESULTS / place / file) as found:
        return found.load()


@functools.cache
def claims(place: str) -> dict[str, dict[str, str]]:
    """A run's verdicts by identifier."""
    with (RESULTS / place / "claims.csv").open(newline="", encoding="utf-8") as file:
        return {row["identifier"]: row for row in csv.DictReader(file)}


def config(place: str) -> dict:
    """A run's configuration."""
    return json.loads(data(place).attrs["config"])


def shown(value: float, digits: int = 2) -> str:
    """A number as prose writes it: halves are rounded up, those of float32 arithmetic too."""
    exact = decimal.Decimal(f"{value:.5f}")
    rounded = exact.quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_UP)
    return f"{rounded:,f}".replace("-", "−")


def spread(values: np.ndarray, digits: int = 2) -> list[str]:
    """Mean and standard deviation."""
    return [shown(values.mean(), digits), shown(values.std(ddof=1), digits)]


def verdict(place: str, identifier: str, sign: int = 1, digits: int = 2) -> list[str]:
    """A claim's difference and its interval; with sign -1 those of b - a."""
    row = claims(place)[identifier]
    ends = [float(row[name]) for name in ("low", "high")][::sign]
    return [shown(sign * value, digits) for value in (float(row["estimate"]), *ends)]


def estimates(place: str, *identifiers: str) -> np.ndarray:
    """Differences of some claims; of all whose identifier begins so where it ends in ``:``."""
    rows = claims(place)
    names = [n for one in identifiers for n in rows if n == one or (one[-1] == ":" and n.startswith(one))]
    return np.array([float(rows[name]["estimate"]) for name in names])


def ratio_of(place: str, identifier: str) -> float:
    """What people read of a claim on logarithms."""
    return float(claims(place)[identifier]["base"]) ** estimates(place, identifier)[0]


def size(level: int) -> str:
    """The weights kept at a level, in percent, as the runs have them."""
    kept = 100 * float(data(E1)["kept"].isel(level=level).mean())
    return shown(kept, 0 if kept > 20 else 1)


# 000


def variance_explained() -> list[str]:
    """By the number of classes that no path reaches, from 2.8 % down: the least and the greatest share."""
    runs = data(E1_RUN).stack(run=("initializer", "seed"))
    shares = []
    for level in range(16, 20):
        at = runs.isel(level=level)
        lost, accuracy = at["unreached_classes"].values, at["test_accuracy"].values.astype(float)
        groups = [accuracy[lost == count] for count in np.unique(lost)]
        shares.append(1 - sum(len(g) * g.var() for g in groups) / (len(accuracy) * accuracy.var()))
    return [shown(100 * min(shares), 0), shown(100 * max(shares), 0), str(runs.sizes["run"])]


def by_unreached() -> list[str]:
    """At 1.4 %: accuracies of the networks without such classes, and with one to four; how many have any."""
    at = data(E1_RUN).isel(level=19)
    lost, accuracy = at["unreached_classes"].values.ravel(), 100 * at["test_accuracy"].values.ravel()
    found = [spread(accuracy[lost == count], 1) for count in range(5)]
    return [size(19), *itertools.chain(*found), str(np.sum(lost > 0)), str(lost.size)]


# 001


def factors(place: str) -> np.ndarray:
    """Least mean training losses over the published ones."""
    rows = networks.PUBLISHED["fc1"].items()
    losses = [networks.at_best(data(place), name, "train_loss")[0].astype(float).mean() for name, _ in rows]
    return np.array(losses) / [row.loss for _, row in rows]


def bound(values: np.ndarray) -> str:
    """What no value's size exceeds, to two digits: rounded up."""
    return shown(np.ceil(100 * abs(values).max()) / 100)


def full_from_dn() -> list[str]:
    """Points by which a full network does worse from D_n than from its initialization."""
    found = distribution.question(data(E2), 10)
    return [shown(-value) for value in (found.mean, found.high, found.low)]


def counted() -> list[str]:
    """Images whose hits were counted, by whole batches, what they were divided by, and the share."""
    batch = config(E2)["batch_size"]
    whole = round(10_000 // batch * batch / networks.COUNTED)
    return [shown(whole // batch * batch, 0), shown(whole, 0), f"{networks.COUNTED:g}"]


def best_accuracies() -> list[str]:
    """Of LeNet-5 in the published order, and the weights kept."""
    names = ("full", "pruned-10", "reinit-10", "remask-10")
    return [*(shown(networks.points(data(LENET5), name).mean(), 1) for name in names), size(10)]


def reduced() -> list[str]:
    """LeNet-5's epochs and trials, of how many."""
    ours, whole = config(LENET5), len(config(E2)["seeds"])
    return [str(n) for n in (ours["epochs"], networks.EPOCHS["lenet5"], len(ours["seeds"]), whole)]


# 002


def sooner() -> list[str]:
    """At 21 %, per cent: than their own dense networks, the least and the greatest; than all; published."""
    measured = data(E4)
    stops = measured["iteration"].values[measured["validation_loss"].sel(arm="iterative").argmin("iteration")]
    own = 100 * (1 - stops[:, 7] / stops[:, 0])
    row = claims(E4)["ticket-sooner-21"]
    pooled = 100 * (1 - np.exp(-float(row["estimate"])))
    return [shown(own.min(), 0), shown(own.max(), 0), shown(pooled, 0), row["published"].split()[0]]


def ends() -> list[str]:
    """Accuracies of networks at the end: tickets of 21 %, dense, fresh weights under the tickets' masks."""
    end = 100 * data(E4)["test_accuracy"].isel(iteration=-1).astype(float)
    own = end.sel(arm="iterative")
    fresh = end.sel(arm=[f"reinit:{i}" for i in range(3)]).isel(level=7)
    return [x for v in (own.isel(level=7), own.isel(level=0), fresh) for x in spread(v.values.ravel())]


# 003


def decades() -> list[str]:
    ours = variance.ends(data(E5), "forward", 0.1).mean()
    return ["0.1", shown(ours - variance.PUBLISHED["forward"][0.1], 1)]


def fitting_neither() -> list[str]:
    """The ends that are contradicted as one more network's standard deviation."""
    rows = {n: row for n, row in claims(E5).items() if n.startswith("exponent-")}
    assert len(rows) == 10
    return [n.partition(":")[2] for n, row in rows.items() if row["verdict"] == "contradicted"]


# 004


def within_published_spread() -> list[str]:
    """Means within two published standard deviations; how many there are."""
    both = [pair for decidable in (True, False) for pair in supermask.numbers(data(E6), decidable)]
    pairs = [(ours, theirs) for _, ours, theirs in both]
    for _, ours, theirs in supermask.table_columns(data(E6)):
        pairs += [(ours[name], theirs[name]) for name in ours]
    near = [abs(np.mean(ours) - theirs.mean) <= 2 * theirs.std for ours, theirs in pairs]
    return [str(sum(near)), str(len(near))]


def different_by_welch() -> list[str]:
    told = [words for *_, words in supermask.descriptions(data(E6))]
    ps = [0.0 if "p < 0.001" in words else float(words.split("p = ")[1].split(";")[0]) for words in told]
    return [str(sum(p < 0.05 for p in ps)), str(len(ps)), "0.05"]


def minimum() -> list[str]:
    stops = [data(place)["stop_iteration"].values.astype(float) for place in (E6, E6_FIXED)]
    return [*spread(stops[0], 0), shown(supermask.STARTS_RISING, 0), shown(stops[1].mean(), 0)]


def above_minima() -> list[str]:
    """Final less minimal loss: fixed order, shuffled, published; then the final losses of the largest."""
    tables = [supermask.table(data(place)) for place in (E6_FIXED, E6)]
    rises = [float((t["final_loss"] - t["minimum_loss"]).mean()) for t in tables]
    rises.append(np.mean([row.final_loss[0] - row.minimum_loss[0] for row in supermask.TABLE.values()]))
    largest = [supermask.of(t["final_loss"], supermask.BASELINE) for t in tables]
    found = [shown(rise, 3) for rise in rises] + spread(largest[0], 3) + spread(largest[1], 3)
    return found + [shown(x, 3) for x in supermask.TABLE[supermask.BASELINE].final_loss]


def ticket_in_fixed_order() -> list[str]:
    ours = supermask.of(supermask.table(data(E6_FIXED))["final_loss"], supermask.TICKET)
    return [*spread(ours, 3), shown(supermask.TABLE[supermask.TICKET].final_loss[0], 3)]


def zhou_accuracy(identifier: str, published: float) -> list[str]:
    return [shown(published + estimates(E6, identifier)[0], 1), f"{published:g}"]


# Stability


def below_the_limit() -> list[str]:
    random, fresh = (verdict(STABLE, f"{name}-stable-3.5") for name in ("random", "reinit"))
    return [random[0], fresh[0], *random[1:], *fresh[1:]]


def apart() -> list[str]:
    """Distance and angle of two copies of a ticket and of a random mask, each with the published ones."""
    found = [shown(100 * 0.8 ** (config(STABLE)["table_levels"] - 1), 1)]
    for kind in ("ticket", "random_mask"):
        names = ("order_distance", "order_angle")
        found += [shown(float(data(STABLE)[name].sel(kind=kind).mean()), 1) for name in names]
        found += [shown(stability.TABLE[kind, name].mean, 1) for name in names]
    return found


# Pruning before and while training


def smallest() -> dict[str, str]:
    """At the smallest size: the weights kept, and the mean accuracy by pruner."""
    at = 100 * data(E8)[["test_accuracy", "kept"]].astype(float).sel(network="ticket").isel(level=-1)
    at = at.mean("seed")
    found = {str(name): shown(float(at["test_accuracy"].sel(pruner=name)), 1) for name in at["pruner"].values}
    return {"kept": shown(float(at["kept"].sel(pruner="imp")), 1)} | found


# Speed


def ratio(model: str, runs: int, kept: float = cases.HALF) -> str:
    """How many times as fast as PyTorch's best."""
    width, batch = 1, cases.USUAL_BATCH[model]
    for record in measures.records(data("benchmark")):
        key = (record["side"], record["model"], record["width"], record["batch"], record["kept"])
        if key == (cases.OURS, model, width, batch, kept) and record["runs"] == runs:
            return shown(record["ratio_to_best_torch"])
    raise LookupError(model)


def times(one: dict, other: dict) -> float:
    """A case's median rate over another's, by the fields that say which."""
    rates = []
    for wanted in (one, other):
        (found,) = [
            rates
            for case, rates in measures.rated(data("benchmark"))
            if all(getattr(case, name) == value for name, value in wanted.items())
        ]
        rates.append(np.median(found))
    return float(rates[0] / rates[1])


def target(identifier: str) -> str:
    return f"{np.exp(float(claims('benchmark')[identifier]['margin'])):.3g}"


def cost_of_a_step() -> list[str]:
    """Microseconds of a network-step whatever its batch, and the least of masked Adam; share of the peak."""
    measured = data("benchmark")
    cost = next(one for one in causes.step_costs(measured) if one["side"] == cases.OURS)
    case = next(c for c in measures.cases_of(measured) if (c.model, c.batch, c.width) == (cases.MLP, 60, 1))
    least = cases.step_bytes(case) / measures.peak(measured, cases.COPY_STATE)
    return [shown(1e6 * cost["per_step"], 0), shown(1e6 * least, 0)]


def share_of_peak() -> list[str]:
    records = measures.records(data("benchmark"))
    (found,) = [r for r in records if (r["side"], r["model"], r["runs"]) == (cases.OURS, cases.MLP, 88)]
    return [shown(100 * found["share_of_peak"], 0)]


def sparse_path() -> list[str]:
    """Time over that of the dense path; the margin, and the least size to which all levels are equal."""
    old, new = data(E1), data("sparse_path", "new.nc")
    gap = 100 * (new["test_accuracy"].astype(float) - old["test_accuracy"]).mean("initializer")
    level = 0
    while level < gap.sizes["level"] and (
        not gap.isel(level=level).any()
        or stats.equivalence(gap.isel(level=level).values, 0.0, MARGIN).verdict == "supported"
    ):
        level += 1
    return [shown(new.attrs["seconds"] / old.attrs["seconds"]), f"{MARGIN:g}", size(level - 1)]


def zhou_rescaled() -> list[str]:
    """Ours, published, and the margin."""
    ours, published = zhou_accuracy("rescaled-98-initial", zhou.RESCALED)
    return [ours, f"{float(published):.1f}", f"{float(claims(E6)['rescaled-98-initial']['margin']):g}"]


def alpha() -> float:
    """The level of a verdict."""
    return inspect.signature(stats.judge_all).parameters["alpha"].default


MLP, LEVEL = {"side": cases.OURS, "model": cases.MLP, "width": 1, "batch": 60, "runs": 11}, cases.LEVELS[13]


def level_by_dense() -> list[str]:
    return [size(13), shown(times({**MLP, "kept": LEVEL}, {**MLP, "kept": 1.0}), 1)]


def by_plain_loop() -> str:
    of = {"model": cases.CNN}
    return shown(times({**of, "side": cases.OURS}, {**of, "side": cases.PLAIN}), 1)
