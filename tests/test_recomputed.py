"""Committed claims recomputed from results.nc with xarray, NumPy and SciPy alone: nothing of ours computes.

Each entry reads two samples from the arrays as the claim's words say, and names the SciPy test. The
committed claims.csv has to agree in estimate, p-value (before Holm's correction) and n.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
E1, E2, E4 = "init_comparison/as-described", "ticket_distribution/as-described", "mnist_tickets/controls"
E3, E5, E6 = "xor", "variance_propagation", "supermask/shuffled"


def flips(d, unit=None):
    """Two-sided sign-flip p by SciPy's exact test; in whole units where d has any, as sums may tie."""
    d = d if unit is None else np.rint(d / unit)
    options = {"permutation_type": "samples", "n_resamples": np.inf}
    return stats.permutation_test((d,), np.sum, **options).pvalue


def tost(d, margin):
    """The larger of the two one-sided t tests' p-values."""
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    return max(above, stats.ttest_1samp(d, margin, alternative="less").pvalue)


def outside(d, margin):
    """p of |mean| at a margin being as large as seen, both tails."""
    error, mean = stats.sem(d), abs(d.mean())
    return stats.t.sf((mean - margin) / error, len(d) - 1) + stats.t.sf((mean + margin) / error, len(d) - 1)


def t(d, null=0.0):
    """Two-sided t test's p."""
    return stats.ttest_1samp(d, null).pvalue


def mean_of(data, names, *levels):
    """E1: test accuracy in points, mean over initializers and levels, by seed."""
    chosen = data["test_accuracy"].astype(float).sel(initializer=names).isel(level=list(levels))
    return 100 * chosen.mean(("initializer", "level")).values


ALL = ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]


def tickets(data):
    d = mean_of(data, ALL, 12) - mean_of(data, ALL, 0)
    return d, flips(d + 0.1, 1 / 400)


def below(data):
    d = mean_of(data, ALL, 0) - mean_of(data, ALL, 13)
    return d, flips(d, 1 / 400)


def xavier(data):
    d = mean_of(data, ALL[:2], 16, 17) - mean_of(data, ALL[2:], 16, 17)
    return d, flips(d, 1 / 400)


def shape(data):
    """Of Xavier's and Kaiming's pair, the one whose equality is the less certain."""
    found = []
    for uniform, normal in (ALL[:2], ALL[2:]):
        d = mean_of(data, [uniform], *range(16)) - mean_of(data, [normal], *range(16))
        found.append((d, tost(d, 0.1)))
    return max(found, key=lambda pair: pair[1])


def steady(data):
    points = 100 * data["test_accuracy"].astype(float)
    apart = abs(points - points.mean("seed"))
    d = (apart.sel(initializer=ALL).isel(level=18) - apart.sel(initializer=ALL).isel(level=0)).mean(
        "initializer"
    )
    return d.values, flips(d.values)


def best(data, name):
    values = data["test_accuracy"].sel(network=name).astype(float)
    return 100 * values.isel(epoch=int(values.mean("seed").argmax("epoch"))).values


def ticket_reinit(data):
    d = best(data, "pruned-10") - best(data, "reinit-10")
    return d, t(d)


def corrected(data):
    d = best(data, "remask-6") - 100 * 0.9028 * 10000 / 9216
    return d, tost(d, 0.3)


def losses(data):
    def least(name):
        values = data["train_loss"].sel(network=name).astype(float)
        return np.log10(values.isel(epoch=int(values.mean("seed").argmin("epoch"))).values)

    d = least("remask-10") - least("reinit-10")
    return d, t(d)


def positive(data):
    d = 100 * data["positive_share"].sel(prunings=10, part="network").values - 50
    return d, outside(d, 1.0)


def right(data, strategy):
    logit = data["logit"].sel(strategy=strategy, units=2).astype(float)
    return 100.0 * ((logit * (2 * data["target"] - 1)) > 0).all("point").values


def iterative_one_shot(data):
    d = right(data, "product") - right(data, "one_shot_product")
    return d, t(d)


def product_input(data):
    d = right(data, "product") - right(data, "input")
    return d, t(d)


def stops(data):
    return np.log(data["iteration"].values[data["validation_loss"].argmin("iteration")].astype(float))


def read_stops(data):
    return xr.DataArray(stops(data), data["validation_loss"].isel(iteration=0).drop_vars("iteration").coords)


def accuracy_at_stop(data):
    at = data["validation_loss"].argmin("iteration")
    return 100 * data["test_accuracy"].isel(iteration=at).astype(float)


DENSE = ["iterative", *(f"{kind}:{i}" for kind in ("reinit", "rearrange") for i in range(3))]
REINIT = [f"reinit:{i}" for i in range(3)]


def sooner(data):
    ours = read_stops(data)
    d = ours.sel(arm=DENSE).isel(level=0).mean("arm") - ours.sel(arm="iterative").isel(level=7)
    return d.values, t(d.values)


def better(data):
    ours = accuracy_at_stop(data)
    d = ours.sel(arm="iterative").isel(level=9) - ours.sel(arm=DENSE).isel(level=0).mean("arm")
    return d.values, t(d.values)


def better_than_reinit(data):
    ours = accuracy_at_stop(data)
    d = ours.sel(arm="iterative").isel(level=7) - ours.sel(arm=REINIT).isel(level=7).mean("arm")
    return d.values, t(d.values)


def own_reference(data):
    ours = read_stops(data)
    d = ours.sel(arm="iterative").isel(level=0) - ours.sel(arm="iterative").isel(level=7)
    return d.values, t(d.values)


def he_uniform(data):
    """Mean ratio of the variances of layers 6 to 50 to those of the layers before, in per cent, less 100."""
    line = data["scheme_forward_log10_variance"].sel(activation="relu", scheme="he_uniform").astype(float)
    ratios = 10 ** np.diff(line.values[:, 5:], axis=1)
    d = 100 * (ratios.mean(1) - 1)
    return d, tost(d, 2.0)


def half_inactive(data):
    d = 100 * data["inactive"].sel(training_scheme="he_normal").isel(epoch=0).astype(float).mean(
        "network_layer"
    )
    return d.values - 50, tost(d.values - 50, 2.0)


def published_end(data):
    """σ² = 1, forward: 41.4 against single networks of ours."""
    ends = data["forward_log10_variance"].sel(weight_variance=1.0).isel(layer=-1).astype(float).values / 2
    z = (ends.mean() - 41.4) / (ends.std(ddof=1) * np.sqrt(1 + 1 / len(ends)))
    return ends - 41.4, 2 * stats.t.sf(abs(z), len(ends) - 1)


def minimum(data):
    at = data["long_iteration"].values[data["overtraining_loss"].argmin("long_iteration")]
    d = at - 5000.0
    return d, outside(d, 500)


def final(data, name):
    return data["validation_loss"].sel(network=name).isel(iteration=-1).astype(float).values


def beats_all(data):
    """At least as good as every other: the largest p of ten, no correction."""
    names = [name for name in data["network"].values.tolist() if name != "ticket"]
    parts = [final(data, name) - final(data, "ticket") for name in names]
    return max(((d, flips(d + 0.005)) for d in parts), key=lambda pair: pair[1])


def size_at_0(data):
    """Welch's TOST against 64.6 ± 0.4 of ten."""
    ours = 100 * data["masked_size"].sel(threshold=0.0).astype(float).values
    a, b = ours.var(ddof=1) / 10, 0.4**2 / 10
    freedom, gap = (a + b) ** 2 / (a**2 / 9 + b**2 / 9), ours.mean() - 64.6
    tails = [stats.t.sf((2 + side * gap) / np.sqrt(a + b), freedom) for side in (-1, 1)]
    return ours - 64.6, max(tails)


def dense_stable(data):
    """Two points less the mean barrier of three pairs, Student's against 0."""
    error = 1 - data["test_accuracy_path"].sel(rewind=0, parent="ticket").isel(level=0)
    height = error.max("share") - (error.isel(share=0) + error.isel(share=-1)) / 2
    room = 2 - 100 * height.mean("pair").values
    return room, stats.ttest_1samp(room, 0).pvalue


def nearer_tickets(data):
    """Distance between orders: random masks less tickets, paired by initialization."""
    mean = data["order_distance"].mean("pair")
    apart = (mean.sel(kind="random_mask") - mean.sel(kind="ticket")).values
    return apart, stats.ttest_1samp(apart, 0).pvalue


def below_dense(data, pruner, network="ticket"):
    """E8: test accuracy in points of one way to prune, mean over the sizes below the dense one, by seed."""
    chosen = data["test_accuracy"].sel(pruner=pruner, network=network)
    smaller = (data["kept"].sel(pruner="imp", network="ticket") < 1).all("seed").values
    return 100 * chosen.isel(level=smaller).mean("level", skipna=False).values


def snip_random(data):
    d = below_dense(data, "snip") - below_dense(data, "random")
    return d, t(d)


def shuffled_tickets(data):
    d = below_dense(data, "imp") - below_dense(data, "imp", "random_mask")
    return d, t(d)


def shuffled_synflow(data):
    d = below_dense(data, "synflow", "random_mask") - below_dense(data, "synflow")
    return d, t(d, -0.2)


RECOMPUTED = [
    (E1, "tickets-to-6.9:test", tickets),
    (E1, "none-below-6.9:test", below),
    (E1, "xavier-beats-kaiming:test", xavier),
    (E1, "normal-equals-uniform:test", shape),
    (E1, "unstable-at-1.8:test", steady),
    (E2, "accuracy:pruned-10:reinit-10", ticket_reinit),
    (E2, "reproduced:remask-6", corrected),
    (E2, "loss:reinit-10:remask-10", losses),
    (E2, "symmetric:10", positive),
    (E3, "iterative-beats-one-shot:strict", iterative_one_shot),
    (E3, "product-beats-input:strict", product_input),
    (E4, "ticket-sooner-21", sooner),
    (E4, "ticket-sooner-21:own", own_reference),
    (E4, "ticket-better-13.5", better),
    (E4, "ticket-better-than-reinit-21", better_than_reinit),
    (E5, "keeps-forward:he_uniform", he_uniform),
    (E5, "training-half", half_inactive),
    (E5, "exponent-forward:1", published_end),
    (E6, "minimum-around-5000", minimum),
    (E6, "ticket-beats-all", beats_all),
    (E6, "size-at-0", size_at_0),
    ("stability", "dense-stable", dense_stable),
    ("stability", "smaller-order-distance", nearer_tickets),
    ("early_pruning", "snip-over-random", snip_random),
    ("early_pruning", "imp-random", shuffled_tickets),
    ("early_pruning", "synflow-random", shuffled_synflow),
]


@pytest.mark.parametrize(("place", "identifier", "compute"), RECOMPUTED, ids=[one[1] for one in RECOMPUTED])
def test_a_committed_claim_is_what_scipy_makes_of_the_arrays(place, identifier, compute):
    with (RESULTS / place / "claims.csv").open(newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["identifier"] == identifier]
    with xr.open_dataset(RESULTS / place / "results.nc") as data:
        values, p = compute(data.load())
    assert float(row["estimate"]) == pytest.approx(values.mean(), rel=1e-5, abs=1e-5)
    assert float(row["p_value"]) == pytest.approx(p, rel=1e-3, abs=1e-12)
    assert int(row["n"]) == len(values)
    if row["kind"] == "equal":
        assert (row["verdict"] == "supported") <= (abs(values.mean()) < float(row["margin"]))


def test_twenty_claims_of_every_experiment_are_recomputed():
    assert len(RECOMPUTED) >= 20
    assert {place.split("/")[0] for place, *_ in RECOMPUTED} == {
        path.parent.relative_to(RESULTS).parts[0] for path in RESULTS.rglob("results.nc")
    } - {"benchmark"}
