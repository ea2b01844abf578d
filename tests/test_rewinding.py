"""Where pruned networks start again, and the masks of their controls: what is kept, moved and drawn anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth_jax import models
from lth_jax.tickets import masks, rewinding

SHAPES = models.parameter_shapes(models.from_flax(models.MLP((7,), classes=4)), (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)
LAYERS = ("hidden_0", "output")
seeds = st.integers(0, 2**31 - 1)


def ticket(seed, kept=0.4):
    """Distinct weights, none of them 0, and a random mask of the kernels."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), SHAPES)
    choose = lambda leaf, yes: jnp.asarray(rng.random(leaf.shape) < (kept if yes else 1.0))  # noqa: E731
    mask = jax.tree.map(choose, SHAPES, PRUNABLE)
    return params, mask


shuffle = jax.jit(lambda key, mask, params: rewinding.shuffle(key, mask, params, PRUNABLE))


def survivors(params, mask, layer):
    return np.sort(np.asarray(params[layer]["kernel"])[np.asarray(mask[layer]["kernel"])])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_shuffle_keeps_each_layers_multiset_its_mask_and_its_biases(seed):
    params, mask = ticket(seed)
    shuffled = shuffle(jax.random.key(seed), mask, params)
    for layer in LAYERS:
        np.testing.assert_array_equal(survivors(shuffled, mask, layer), survivors(params, mask, layer))
        assert (np.asarray(shuffled[layer]["kernel"])[~np.asarray(mask[layer]["kernel"])] == 0).all()
        np.testing.assert_array_equal(shuffled[layer]["bias"], params[layer]["bias"])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_rearrange_moves_weights_and_mask_together(seed):
    params, mask = ticket(seed)
    moved, places = rewinding.rearrange(jax.random.key(seed), mask, params, PRUNABLE)
    for layer in LAYERS:
        np.testing.assert_array_equal(survivors(moved, places, layer), survivors(params, mask, layer))
        np.testing.assert_array_equal(moved[layer]["bias"], params[layer]["bias"])
        np.testing.assert_array_equal(places[layer]["bias"], mask[layer]["bias"])


def test_shuffle_and_rearrange_do_move_what_they_should():
    params, mask = ticket(0)
    shuffled = rewinding.shuffle(jax.random.key(1), mask, params, PRUNABLE)
    moved, places = rewinding.rearrange(jax.random.key(1), mask, params, PRUNABLE)
    kept = np.asarray(mask["hidden_0"]["kernel"])
    before = np.asarray(params["hidden_0"]["kernel"])
    assert (np.asarray(shuffled["hidden_0"]["kernel"])[kept] != before[kept]).mean() > 0.8
    assert (np.asarray(moved["hidden_0"]["kernel"]) != before).mean() > 0.8
    assert (np.asarray(places["hidden_0"]["kernel"]) != kept).any()


def test_layers_that_are_not_chosen_stay():
    params, mask = ticket(3)
    of = {**jax.tree.map(lambda _: False, PRUNABLE), "hidden_0": PRUNABLE["hidden_0"]}
    moved, places = rewinding.rearrange(jax.random.key(0), mask, params, of)
    jax.tree.map(np.testing.assert_array_equal, moved["output"], params["output"])
    jax.tree.map(np.testing.assert_array_equal, places["output"], mask["output"])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_permuted_mask_keeps_each_layers_count(seed):
    _, mask = ticket(seed)
    permuted = masks.permute(jax.random.key(seed), mask, PRUNABLE)
    jax.tree.map(np.testing.assert_array_equal, masks.counts(permuted), masks.counts(mask))
    assert not np.array_equal(permuted["hidden_0"]["kernel"], mask["hidden_0"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, permuted["output"]["bias"], mask["output"]["bias"])


@pytest.mark.parametrize("pooled", [False, True])
def test_resampled_weights_come_from_the_tickets_survivors(pooled):
    params, mask = ticket(5)
    places = masks.permute(jax.random.key(9), mask, PRUNABLE)
    drawn = rewinding.resample(jax.random.key(2), places, mask, params, PRUNABLE, pooled)
    pool = {layer: set(survivors(params, mask, layer).tolist()) for layer in LAYERS}
    everywhere = pool["hidden_0"] | pool["output"]
    for layer in LAYERS:
        kernel, kept = (np.asarray(tree[layer]["kernel"]) for tree in (drawn, places))
        assert set(kernel[kept].tolist()) <= (everywhere if pooled else pool[layer])
        assert (kernel[~kept] == 0).all()
        np.testing.assert_array_equal(drawn[layer]["bias"], params[layer]["bias"])
    if pooled:
        assert not set(survivors(drawn, places, "output").tolist()) <= pool["output"]


def test_signed_constants_by_hand():
    params = {"a": {"kernel": jnp.array([[0.3, -2.0], [0.0, -0.1]]), "bias": jnp.array([0.7, 0.7])}}
    of = {"a": {"kernel": True, "bias": False}}
    found = rewinding.signed_constant(params, {"a": {"kernel": 0.5, "bias": 0.5}}, of)
    np.testing.assert_array_equal(found["a"]["kernel"], [[0.5, -0.5], [0.0, -0.5]])
    np.testing.assert_allclose(found["a"]["bias"], [0.7, 0.7])


def test_frozen_weights_stay_where_they_are_told_to():
    params, mask = ticket(2)
    other, _ = ticket(3)
    found = rewinding.frozen(mask, params, other)
    for layer in LAYERS:
        kept = np.asarray(mask[layer]["kernel"])
        expected = np.where(kept, params[layer]["kernel"], other[layer]["kernel"])
        np.testing.assert_array_equal(found[layer]["kernel"], expected)
        np.testing.assert_array_equal(found[layer]["bias"], params[layer]["bias"])


def test_two_ways_to_go_on():
    params, other = ticket(2)[0], ticket(3)[0]
    assert rewinding.to_start(params, other) is params
    assert rewinding.no_reset(params, other) is other


def test_connections_by_hand():
    dense = jnp.array([[True, False, True], [False, False, True]])
    below, above = masks.connections(dense)
    np.testing.assert_array_equal(below, [2, 1])
    np.testing.assert_array_equal(above, [1, 0, 2])
    filters = jnp.stack([dense, ~dense])[None]  # a 1×2 window, 2 channels in, 3 out
    below, above = masks.connections(filters)
    np.testing.assert_array_equal(below, [3, 3])
    np.testing.assert_array_equal(above, [2, 2, 2])
