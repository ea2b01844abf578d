"""Pruning against a brute-force NumPy oracle: exact counts, ties by position, nested masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lth_jax.tickets import masks, pruning

SCORES = st.sampled_from(np.float32([-np.inf, -2, -1, -0.0, 0.0, 0.5, 1, 2, np.inf, np.nan]))


def oracle(kept, score, count):
    """Sort the kept entries by (is NaN, score, position) and drop the first ``count``."""
    flat, positions = score.ravel(), np.flatnonzero(kept)
    order = sorted(positions, key=lambda i: (np.isnan(flat[i]), 0 if np.isnan(flat[i]) else flat[i], i))
    mask = kept.ravel().copy()
    mask[order[:count]] = False
    return mask.reshape(kept.shape)


@given(st.data(), st.integers(1, 40))
@settings(deadline=None, max_examples=150)
def test_remove_lowest_is_the_oracles(draw, size):
    score = draw.draw(hnp.arrays(np.float32, size, elements=SCORES))
    kept = draw.draw(hnp.arrays(bool, size))
    count = draw.draw(st.integers(0, int(kept.sum())))
    padded = np.zeros(40, bool), np.zeros(40, np.float32)  # one shape, one compilation
    padded[0][:size], padded[1][:size] = kept, score
    found = jax.jit(pruning.remove_lowest)(*map(jnp.asarray, padded), jnp.asarray(count))
    np.testing.assert_array_equal(found, oracle(*padded, count))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_remove_lowest_in_other_precisions(dtype):
    score = jnp.asarray([3.0, -1.0, 2.0, -5.0, 0.0], dtype)
    found = pruning.remove_lowest(jnp.ones(5, bool), score, jnp.asarray(2))
    np.testing.assert_array_equal(found, [True, False, True, False, True])


@given(st.integers(0, 2**31 - 1), st.integers(1, 9999))
@settings(deadline=None, max_examples=300)
def test_removal_count_rounds_the_exact_product_half_to_even(survivors, tenthousandths):
    exact, rest = divmod(survivors * tenthousandths, 10_000)
    expected = exact + (2 * rest > 10_000 or (2 * rest == 10_000 and exact % 2 == 1))
    assert int(pruning.removal_count(jnp.asarray(survivors), tenthousandths / 10_000)) == expected


def tree(first, bias, last):
    return {
        "hidden": {"kernel": jnp.asarray(first, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)},
        "output": {"kernel": jnp.asarray(last, jnp.float32)},
    }


PARAMS = tree([[0.1, -0.2, 0.3], [-0.4, 0.5, -0.6]], [0.01, 0.02, 0.03], [[1.0], [-2.0], [3.0]])


def test_prune_layers_takes_each_layers_own_fraction():
    rate = pruning.rates(PARAMS, 0.5, {"output": 0.3})
    score = pruning.scores(pruning.magnitude, PARAMS, PARAMS)
    mask = pruning.prune_layers(masks.ones_like(PARAMS), score, rate)
    np.testing.assert_array_equal(mask["hidden"]["kernel"], [[False, False, False], [True, True, True]])
    np.testing.assert_array_equal(mask["output"]["kernel"], [[False], [True], [True]])
    assert bool(mask["hidden"]["bias"].all())


def test_prune_global_ranks_all_layers_together():
    score = pruning.scores(pruning.magnitude, PARAMS, PARAMS)
    mask = pruning.prune_global(masks.ones_like(PARAMS), score, pruning.rates(PARAMS, 7 / 9))
    np.testing.assert_array_equal(mask["hidden"]["kernel"], np.zeros((2, 3), bool))
    np.testing.assert_array_equal(mask["output"]["kernel"], [[False], [True], [True]])


def test_prune_global_refuses_several_rates():
    rate = pruning.rates(PARAMS, 0.5, {"output": 0.1})
    with pytest.raises(ValueError, match=r"one rate for all layers, got \[0.1, 0.5\]"):
        pruning.prune_global(masks.ones_like(PARAMS), PARAMS, rate)


@functools.cache
def prune(scope, rate):
    """Compiled once for each scope and rate."""
    rates = pruning.rates(PARAMS, rate)
    return jax.jit(
        lambda mask, final: pruning.SCOPES[scope](
            mask, pruning.scores(pruning.magnitude, PARAMS, final), rates
        )
    )


@given(st.integers(0, 10_000), st.sampled_from(["layer", "global"]), st.sampled_from([0.1, 0.2, 0.5]))
@settings(deadline=None, max_examples=20)
def test_successive_masks_are_nested_and_counts_exact(seed, scope, rate):
    rng = np.random.default_rng(seed)
    mask, prunable = masks.ones_like(PARAMS), masks.prunable(PARAMS)
    for _ in range(4):
        final = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), PARAMS)
        smaller = prune(scope, rate)(mask, final)
        assert bool(masks.is_nested(smaller, mask))
        sizes = [int(m["hidden"]["kernel"].sum()) for m in (mask, smaller)]
        if scope == "layer":
            assert sizes[1] == sizes[0] - round(rate * sizes[0])
        total = [round(9 * float(masks.kept_fraction(m, prunable))) for m in (mask, smaller)]
        if scope == "global":
            assert total[1] == total[0] - round(rate * total[0])
        mask = smaller


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_rates_outside_the_open_interval(rate):
    with pytest.raises(ValueError, match=r"outside 0\.0001"):
        pruning.rates(PARAMS, rate)


def test_rate_of_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="no layer called outptu; the model has hidden, output"):
        pruning.rates(PARAMS, 0.2, {"outptu": 0.1})
