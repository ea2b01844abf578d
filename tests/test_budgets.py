"""Budgets: totals exact to the weight, ERK by hand and against floats, what is impossible refused."""

from fractions import Fraction

import jax
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import make_digits
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import TINY, make_place

import lth_jax
from lth_jax import commands, models
from lth_jax.errors import InputError
from lth_jax.tickets import budgets, masks


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def tree_of(*kernels):
    return {
        f"layer_{n}": {"kernel": shape(*sizes), "bias": shape(sizes[-1])} for n, sizes in enumerate(kernels)
    }


LENET = tree_of((784, 300), (300, 100), (100, 10))
CONV = tree_of((3, 3, 3, 16), (3, 3, 16, 32), (512, 10))


def counts(shapes, totals, budget, first=""):
    sizes = budgets.budgeted(shapes, masks.prunable(shapes), totals, budget, first)
    assert all((layer["bias"] == shapes[name]["bias"].shape[0]).all() for name, layer in sizes.keep.items())
    return {name: layer["kernel"].tolist() for name, layer in sizes.keep.items()}


def test_erk_by_hand():
    # Sums of dimensions 1084, 400, 110: of 13,310 weights 9051.5, 3340.0 and 918.5, which 1,000 can hold.
    found = counts(LENET, [266_200, 13_310], "erk")
    assert {name: each[1] for name, each in found.items()} == {
        "layer_0": 9051,  # 13310 · 1084 / 1594 = 9051.47
        "layer_1": 3340,  # 3340.02
        "layer_2": 919,  # 918.51: the largest remainder got the one that was left
    }
    # Of 53,240 the last would get 3,674: it keeps its 1,000, and 1084 to 400 share 52,240.
    found = counts(LENET, [53_240], "erk")
    assert [each[0] for each in found.values()] == [38_159, 14_081, 1_000]  # 38159.1 and 14080.9


def test_erk_counts_a_filters_dimensions():
    # 3+3+3+16 = 25, 3+3+16+32 = 54, 512+10 = 522: of 601 weights 25, 54 and 522.
    assert [each[0] for each in counts(CONV, [601], "erk").values()] == [25, 54, 522]


def test_uniform_and_uniform_plus():
    found = counts(LENET, [266_200, 26_620], "uniform")
    assert [each[1] for each in found.values()] == [23_520, 3_000, 100]
    found = counts(CONV, [10_160, 2_000], "uniform_plus", "layer_0/kernel")
    # 432 stay; of 1,568 for 4,608 and 5,120 weights 742.7 and 825.3
    assert {name: each[1] for name, each in found.items()} == {"layer_0": 432, "layer_1": 743, "layer_2": 825}
    sizes = budgets.budgeted(CONV, masks.prunable(CONV), [2_000], "uniform_plus", "layer_0/kernel")
    assert sizes.ranked["layer_0"]["kernel"] is False


def test_global_has_one_number():
    sizes = budgets.budgeted(LENET, masks.prunable(LENET), [266_200, 999], "global")
    assert (sizes.scope, sizes.keep["all layers"].tolist()) == ("global", [266_200, 999])


dimensions = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=6)


@given(dimensions, st.sampled_from(["uniform", "erk", "uniform_plus"]), st.data())
@settings(deadline=None, max_examples=150)
def test_totals_are_exact_and_no_layer_grows(kernels, budget, data):
    shapes = tree_of(*kernels)
    most = sum(a * b for a, b in kernels)
    totals = sorted(data.draw(st.lists(st.integers(1, most), min_size=1, max_size=8)), reverse=True)
    try:
        found = counts(shapes, totals, budget, "layer_0/kernel")
    except InputError:
        return
    kept = np.array([found[f"layer_{n}"] for n in range(len(kernels))])
    assert kept.sum(0).tolist() == totals
    assert (np.diff(kept, axis=1) <= 0).all()
    assert (kept >= 1).all()
    assert (kept <= [[a * b] for a, b in kernels]).all()
    if budget == "uniform_plus":
        assert (kept[0] == kernels[0][0] * kernels[0][1]).all()


@given(dimensions, st.integers(1, 10_000))
@settings(deadline=None, max_examples=150)
def test_erk_is_within_a_weight_of_its_formula(kernels, part):
    """ε of Evci et al. by rounds, in floats: density ε (n + m) / (n m), 1 where that is more."""
    sizes, sums = np.array([a * b for a, b in kernels]), np.array([a + b for a, b in kernels], float)
    total = round(sizes.sum() * part / 10_000)
    dense = np.zeros(len(sizes), bool)
    while True:
        epsilon = (total - sizes[dense].sum()) / sums[~dense].sum() if not dense.all() else 0
        more = ~dense & (epsilon * sums / sizes > 1)
        if not more.any():
            break
        dense |= more
    expected = np.where(dense, sizes, epsilon * sums)
    found = np.array(budgets.share_out(total, sizes.tolist(), sums.astype(int).tolist()))
    assert found.sum() == total
    assert (np.abs(found - expected) <= 1 + 1e-6).all()


def test_shares_are_exact_however_large():
    most = [2**40, 2**40, 2**40]
    total = 2**40 + 1
    found = budgets.share_out(total, most, [1, 1, 1])
    assert found == [total // 3 + (place < total % 3) for place in range(3)]
    assert all(abs(Fraction(total, 3) - each) < 1 for each in found)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("unknown budget 'ekr'", (LENET, [100], "ekr")),
        ("are too few: there are 3 layers", (LENET, [2], "erk")),
        ("are too few: the first layer alone has 432", (CONV, [433], "uniform_plus", "layer_0/kernel")),
        ("'no layer' is no pruned layer", (CONV, [2000], "uniform_plus")),
        ("no layer but the first", (tree_of((3, 4)), [5], "uniform_plus", "layer_0/kernel")),
        ("expected totals that fall, from 266,200", (LENET, [100, 101], "erk")),
        ("expected totals that fall, from 266,200", (LENET, [266_201], "global")),
        ("layer_2/kernel would have none of its 1000", (LENET, [130, 120], "uniform")),
        ("all layers would have none", (LENET, [100, 0], "global")),
    ],
)
def test_impossible_budgets_are_refused(message, arguments):
    with pytest.raises(ValueError, match=message):
        counts(*arguments) if arguments[2] != "global" else budgets.budgeted(
            arguments[0], masks.prunable(arguments[0]), *arguments[1:]
        )


def find(**options):
    digits = make_digits()
    given = {"levels": 3, "epochs": 1, "batch_size": 50, **options}
    return lth_jax.find_tickets(models.MLP((8,), classes=4), optax.sgd(0.1), digits, digits, (1,), **given)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"budget": "erk", "density": 0.25}, [[128, 32], [53, 27], [27, 13]]),  # 24 to 12 of 80 and of 40
        ({"budget": "uniform_plus", "rate": 0.1}, [[128, 32], [128, 16], [128, 2]]),  # 144 and 130 in all
        ({"budget": "uniform", "rate": 0.5}, [[128, 32], [64, 16], [32, 8]]),
        ({"budget": "erk", "rate": 0.5, "layers": {"output": 0}}, [[128, 32], [64, 32], [32, 32]]),
    ],
)
def test_tickets_of_a_budget(options, expected):
    """The network is hidden_0 16×8, output 8×4."""
    found = find(**options)
    assert found.results["kept_weights"].isel(seed=0).values.tolist() == expected


def test_the_first_layer_is_the_one_that_is_used_first():
    def net(params, x):
        return x.reshape(len(x), -1) @ params["z"]["kernel"] @ params["a"]["kernel"]

    def init(key, x):
        keys = jax.random.split(key)
        return {
            "a": {"kernel": jax.random.normal(keys[0], (8, 4))},
            "z": {"kernel": jax.random.normal(keys[1], (16, 8))},
        }, {}

    digits = make_digits()
    found = lth_jax.find_tickets(
        (init, lambda p, c, x, key: (net(p, x), c)), optax.sgd(0.1), digits, digits, (1,), 2, 1, 50,
        budget="uniform_plus", density=0.85,
    )  # fmt: skip
    assert found.results["kept_weights"].isel(seed=0, level=1).values.tolist() == [8, 128]


def test_a_budget_and_a_global_scope_do_not_go_together():
    with pytest.raises(InputError, match="budget erk: gives each layer a number of its own"):
        find(budget="erk", scope="global")
    assert find(budget="global", scope="global", rate=0.5).results["kept_weights"].sum(
        "layer"
    ).values.tolist() == [[160, 80, 40]]


def test_a_budget_is_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(make_place(tmp_path))
    flags = ["--model", "mlp", "--hidden", "8", "--levels", "2", "--seeds", "1", "--density", "0.05", *TINY]
    commands.main(["sweep", *flags, "--budget", "erk", "--out", "run"])
    with xr.open_dataset("run/results.nc") as found:
        # 6,352 weights: round(317.6) = 318, shared 792 to 18 between 784×8 and 8×10: 310.9 and 7.07
        assert found["kept_weights"].isel(level=1, seed=0).values.tolist() == [311, 7]
    with pytest.raises(SystemExit):
        commands.main(["sweep", *flags, "--budget", "ekr", "--out", "other"])
