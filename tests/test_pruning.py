"""Pruning against a brute-force NumPy oracle: exact counts, ties by position, nested masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lth_jax.tickets import masks, pruning, schedules

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


def tree(first, bias, last):
    return {
        "hidden": {"kernel": jnp.asarray(first, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)},
        "output": {"kernel": jnp.asarray(last, jnp.float32)},
    }


PARAMS = tree([[0.1, -0.2, 0.3], [-0.4, 0.5, -0.6]], [0.01, 0.02, 0.03], [[1.0], [-2.0], [3.0]])
PRUNABLE = masks.prunable(PARAMS)
MAGNITUDE = jax.tree.map(jnp.abs, PARAMS)
DENSE = masks.ones_like(PARAMS)


def counts(hidden, output):
    hidden, bias, output = map(jnp.asarray, (hidden, 3, output))
    return {"hidden": {"kernel": hidden, "bias": bias}, "output": {"kernel": output}}


def test_prune_layers_keeps_each_layers_own_number():
    mask = pruning.prune_layers(DENSE, MAGNITUDE, counts(3, 2), PRUNABLE)
    np.testing.assert_array_equal(mask["hidden"]["kernel"], [[False, False, False], [True, True, True]])
    np.testing.assert_array_equal(mask["output"]["kernel"], [[False], [True], [True]])
    assert bool(mask["hidden"]["bias"].all())


def test_prune_global_ranks_all_layers_together():
    mask = pruning.prune_global(DENSE, MAGNITUDE, {"all layers": jnp.asarray(2)}, PRUNABLE)
    np.testing.assert_array_equal(mask["hidden"]["kernel"], np.zeros((2, 3), bool))
    np.testing.assert_array_equal(mask["output"]["kernel"], [[False], [True], [True]])
    assert bool(mask["hidden"]["bias"].all())
    once_more = pruning.prune_global(mask, MAGNITUDE, jnp.asarray(1), PRUNABLE)
    np.testing.assert_array_equal(once_more["output"]["kernel"], [[False], [False], [True]])


@pytest.mark.parametrize(("scope", "keep"), [("layer", counts(2, 1)), ("global", jnp.asarray(1))])
def test_a_leaf_that_is_not_ranked_is_left_alone(scope, keep):
    ranked = {"hidden": {"kernel": False, "bias": False}, "output": {"kernel": True}}
    mask = pruning.SCOPES[scope](DENSE, MAGNITUDE, keep, ranked)
    assert bool(mask["hidden"]["kernel"].all())
    np.testing.assert_array_equal(mask["output"]["kernel"], [[False], [False], [True]])


def test_scopes_are_those_of_the_schedules():
    assert tuple(pruning.SCOPES) == schedules.SCOPES


@functools.cache
def prune(scope, rate):
    """Three prunings and their sizes, compiled once for each scope and rate."""
    sizes = schedules.iterative(PARAMS, PRUNABLE, [rate] * 3, scope=scope)

    def one(mask, final, level):
        keep = jax.tree.map(lambda each: jnp.asarray(each)[level], sizes.keep)
        return pruning.SCOPES[scope](mask, jax.tree.map(jnp.abs, final), keep, sizes.ranked)

    return jax.jit(one)


@given(st.integers(0, 10_000), st.sampled_from(["layer", "global"]), st.sampled_from([0.1, 0.2, 0.5]))
@settings(deadline=None, max_examples=20)
def test_successive_masks_are_nested_and_counts_exact(seed, scope, rate):
    rng, mask = np.random.default_rng(seed), DENSE
    for level in range(1, 4):
        final = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), PARAMS)
        smaller = prune(scope, rate)(mask, final, level)
        assert bool(masks.is_nested(smaller, mask))
        sizes = [int(m["hidden"]["kernel"].sum()) for m in (mask, smaller)]
        if scope == "layer":
            assert sizes[1] == sizes[0] - round(rate * sizes[0])
        total = [round(9 * float(masks.kept_fraction(m, PRUNABLE))) for m in (mask, smaller)]
        if scope == "global":
            assert total[1] == total[0] - round(rate * total[0])
        mask = smaller


def random_ticket(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (16, 7), "b": (7, 4), "bias": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    mask = {name: jnp.asarray(rng.random(shape) < 0.7) for name, shape in shapes.items()}
    return params, mask | {"bias": jnp.ones(4, bool)}


RANKED = {"a": True, "b": True, "bias": False}
prune_layers = jax.jit(lambda mask, score, keep: pruning.prune_layers(mask, score, keep, RANKED))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_pruning_to_counts_is_exact_nested_and_takes_the_lowest(seed):
    params, mask = random_ticket(seed)
    score = jax.tree.map(jnp.abs, params)
    keep = jax.tree.map(lambda count: count - count // 3, masks.counts(mask))
    left = prune_layers(mask, score, keep)
    assert bool(masks.is_nested(left, mask))
    for name in ("a", "b"):
        before, after, magnitude = (np.asarray(each[name]) for each in (mask, left, score))
        assert after.sum() == int(keep[name])
        assert magnitude[before & ~after].max() <= magnitude[after].min()
    assert np.asarray(left["bias"]).all()
