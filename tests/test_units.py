"""Whole units: literal scores, exact removal, and a masked network that is a narrower one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth_jax import models
from lth_jax.tickets import masks, units

INCOMING = jnp.array([[1.0, -2.0, 3.0], [-1.0, 4.0, 0.0]])
OUTGOING = jnp.array([[2.0], [-1.0], [0.5]])


def test_the_documents_scores_by_hand():
    np.testing.assert_allclose(units.input_magnitude(INCOMING, OUTGOING), [1.0, 3.0, 1.5])
    np.testing.assert_allclose(units.output_magnitude(INCOMING, OUTGOING), [2.0, 1.0, 0.5])
    np.testing.assert_allclose(units.magnitude_product(INCOMING, OUTGOING), [4.0, 6.0, 1.5])


def test_several_outputs_count_by_their_mean():
    outgoing = jnp.array([[1.0, -3.0], [0.0, 1.0], [-2.0, -2.0]])
    np.testing.assert_allclose(units.output_magnitude(INCOMING, outgoing), [2.0, 0.5, 2.0])
    np.testing.assert_allclose(units.magnitude_product(INCOMING, outgoing), [4.0, 3.0, 6.0])


def test_scores_read_the_named_layers():
    params = {"a": {"kernel": INCOMING}, "b": {"kernel": OUTGOING}}
    np.testing.assert_allclose(units.scores(params, "a", "b", units.input_magnitude), [1.0, 3.0, 1.5])


@pytest.mark.parametrize("layers", [("a", "c"), ("b", "a"), ("a", "a")])
def test_layers_that_do_not_follow_each_other_are_refused(layers):
    params = {"a": {"kernel": INCOMING}, "b": {"kernel": OUTGOING}}
    with pytest.raises(ValueError, match=r"no layer 'c'|does not read"):
        units.scores(params, *layers, units.input_magnitude)


def test_the_lowest_go_and_of_equals_the_earlier():
    alive, score = jnp.array([True, True, False, True, True]), jnp.array([2.0, 1.0, 0.0, 1.0, 3.0])
    left = units.remove_units(alive, score, 1)
    np.testing.assert_array_equal(left, [True, False, False, True, True])
    left = units.remove_units(left, score, jnp.asarray(2))
    np.testing.assert_array_equal(left, [False, False, False, False, True])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_removal_is_exact_and_nested(seed, count):
    rng = np.random.default_rng(seed)
    alive = np.zeros(12, bool)
    alive[rng.permutation(12)[:7]] = True
    score = rng.integers(0, 4, 12).astype(np.float32)
    left = np.asarray(units.remove_units(jnp.asarray(alive), jnp.asarray(score), count))
    assert left.sum() == 7 - count
    assert not (left & ~alive).any()
    if count:
        assert score[alive & ~left].max() <= score[left].min()


def test_a_removed_unit_loses_input_weights_bias_and_output_weights():
    network = models.from_flax(models.MLP((3, 2), classes=2))
    shapes = models.parameter_shapes(network, (1, 2, 1))
    mask = masks.ones_like(shapes)
    mask["hidden_0"]["kernel"] = mask["hidden_0"]["kernel"].at[0, 0].set(False)
    cut = units.restrict(mask, "hidden_0", "hidden_1", jnp.array([True, False, True]))
    np.testing.assert_array_equal(cut["hidden_0"]["kernel"], [[False, False, True], [True, False, True]])
    np.testing.assert_array_equal(cut["hidden_0"]["bias"], [True, False, True])
    np.testing.assert_array_equal(cut["hidden_1"]["kernel"], [[True] * 2, [False] * 2, [True] * 2])
    assert cut["hidden_1"]["bias"].all()
    assert jax.tree.all(jax.tree.map(jnp.all, cut["output"]))
    assert mask["hidden_0"]["bias"].all(), "the mask that was given is left alone"
    assert masks.is_nested(cut, mask)


def test_the_masked_network_is_the_narrower_one():
    rng = np.random.default_rng(1)
    network = models.from_flax(models.MLP((6,), classes=3))
    shapes = models.parameter_shapes(network, (2, 2, 1))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    kept = np.array([0, 3, 5])
    alive = jnp.zeros(6, bool).at[kept].set(True)
    masked = masks.apply(units.restrict(masks.ones_like(params), "hidden_0", "output", alive), params)
    images = rng.uniform(size=(5, 2, 2, 1)).astype(np.float32)
    wide, _ = network.apply(masked, {}, jnp.asarray(images), None)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden, output = exact["hidden_0"], exact["output"]
    before = images.reshape(5, 4) @ hidden["kernel"][:, kept] + hidden["bias"][kept]
    narrow = np.maximum(before, 0) @ output["kernel"][kept] + output["bias"]
    np.testing.assert_allclose(wide, narrow, rtol=1e-5, atol=1e-6)
