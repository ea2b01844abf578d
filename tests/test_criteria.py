"""Criteria against their formulas in float64, and the orders that they put weights in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth_jax.tickets import pruning, scores
from lth_jax.tickets.scores import CRITERIA

INITIAL = np.float32([0.1, -0.2, 0.3, -0.4, 0.5, -0.05])
FINAL = np.float32([-0.3, -0.05, 0.2, -0.6, 0.55, 0.45])
SIZE = 40


def ranks(score):
    """0 for the lowest … equals by position."""
    return np.argsort(np.argsort(score, kind="stable"), kind="stable").astype(np.float64)


def increase(wi, wf):
    return np.abs(wf) - np.abs(wi)


ORACLES = {
    "large_final": lambda wi, wf: np.abs(wf),
    "small_final": lambda wi, wf: -np.abs(wf),
    "large_init": lambda wi, wf: np.abs(wi),
    "small_init": lambda wi, wf: -np.abs(wi),
    "large_init_large_final": lambda wi, wf: np.minimum(ranks(np.abs(wi)), ranks(np.abs(wf))),
    "small_init_small_final": lambda wi, wf: np.minimum(ranks(-np.abs(wi)), ranks(-np.abs(wf))),
    "magnitude_increase": increase,
    "movement": lambda wi, wf: np.abs(wf - wi),
    "large_final_same_sign": lambda wi, wf: np.sign(wi) * wf,
    "large_final_diff_sign": lambda wi, wf: -np.sign(wi) * wf,
    "magnitude_increase_same_sign": lambda wi, wf: increase(wi, wf) - 100 * (np.sign(wi) != np.sign(wf)),
    "magnitude_increase_diff_sign": lambda wi, wf: increase(wi, wf) - 100 * (np.sign(wi) == np.sign(wf)),
}
COMPILED = {name: jax.jit(criterion) for name, criterion in CRITERIA.items()}
values = st.lists(st.integers(-1000, 1000).filter(bool), min_size=SIZE, max_size=SIZE, unique_by=abs)


def test_every_criterion_has_an_oracle():
    assert set(CRITERIA) == {*ORACLES, "random"}
    assert CRITERIA["large_final"] is pruning.magnitude


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=15, deadline=None)
@given(values, values)
def test_criteria_order_weights_as_their_formulas(name, initial, final):
    # Thousandths apart and no magnitude twice: float32 cannot change an order, but for equal differences.
    initial, final = np.array(initial) / 1000, np.array(final) / 1000 + 1e-4
    found = COMPILED[name](jnp.asarray(initial, jnp.float32), jnp.asarray(final, jnp.float32))
    expected = np.round(ORACLES[name](initial, final), 9)[np.argsort(np.asarray(found), kind="stable")]
    assert (np.diff(expected) >= -1e-6).all()


def kept(name, count):
    score = CRITERIA[name](jnp.asarray(INITIAL), jnp.asarray(FINAL))
    removed = jnp.asarray(len(INITIAL) - count)
    return np.flatnonzero(pruning.remove_lowest(jnp.ones(len(INITIAL), bool), score, removed)).tolist()


@pytest.mark.parametrize(
    ("name", "three"),
    [
        ("large_final", [3, 4, 5]),
        ("small_final", [0, 1, 2]),
        ("large_init", [2, 3, 4]),
        ("small_init", [0, 1, 5]),
        ("magnitude_increase", [0, 3, 5]),
        ("movement", [0, 3, 5]),
        ("large_final_same_sign", [2, 3, 4]),
        ("magnitude_increase_same_sign", [2, 3, 4]),
        ("magnitude_increase_diff_sign", [0, 3, 5]),
    ],
)
def test_what_three_of_six_weights_are_kept(name, three):
    assert kept(name, 3) == three


def test_large_at_both_ends():
    # Magnitudes rank 1 2 3 4 5 0 at the start and 2 0 1 5 4 3 at the end: the smaller ranks are 1 0 1 4 4 0.
    found = CRITERIA["large_init_large_final"](jnp.asarray(INITIAL), jnp.asarray(FINAL))
    np.testing.assert_array_equal(found, [1, 0, 1, 4, 4, 0])


def test_the_documents_example():
    """Document 004, §2.1: with t = 0.1 the first criterion keeps 0.1 and 0.3, the other 0.3 alone."""
    initial, final = jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([-0.2, 0.05, 0.3])
    np.testing.assert_array_equal(CRITERIA["large_final"](initial, final) >= 0.1, [True, False, True])
    same = CRITERIA["large_final_same_sign"](initial, final)
    np.testing.assert_array_equal(same >= 0.1, [False, False, True])


def test_random_depends_on_the_draw_and_on_nothing_else():
    initial, other = (jax.random.normal(jax.random.key(seed), (20_000,)) for seed in (0, 1))
    score = np.asarray(scores.random(initial, other))
    np.testing.assert_array_equal(score, scores.random(initial, -3 * other))
    assert np.corrcoef(score, scores.random(other, other))[0, 1] == pytest.approx(0, abs=0.03)
    for property_of in (np.abs, np.sign):
        assert np.corrcoef(score, property_of(initial))[0, 1] == pytest.approx(0, abs=0.03)
    assert len(np.unique(score)) > 19_900
    share = np.histogram(score, bins=10, range=(0, 2**32))[0] / len(score)
    np.testing.assert_allclose(share, 0.1, atol=0.01)


def test_sign_changers_go_first_whatever_the_criterion():
    rng = np.random.default_rng(0)
    initial, final = (jnp.asarray(rng.normal(size=(8, 9)), jnp.float32) for _ in range(2))
    same = np.sign(initial) == np.sign(final)
    for wrapped, first in ((scores.same_sign, ~same), (scores.diff_sign, same)):
        score = np.asarray(wrapped(scores.movement)(initial, final))
        assert score[first].max() < score[~first].min()


def test_a_criterion_of_ones_own_is_one_line():
    tree = {"hidden": {"kernel": jnp.asarray([[1.0, -2.0], [3.0, -4.0]])}}
    score = pruning.scores(lambda initial, final: -initial, tree, tree)
    np.testing.assert_array_equal(score["hidden"]["kernel"], [[-1, 2], [-3, 4]])
