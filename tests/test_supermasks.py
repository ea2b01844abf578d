"""Learned masks: their gradients against NumPy, their values by hand, and that learning them helps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import models, tasks, training
from lth_jax.tickets import masks, supermasks

BASE = models.from_flax(models.MLP((12,), classes=4))
SHAPES = models.parameter_shapes(BASE, (4, 4, 1))
OF = masks.prunable(SHAPES)


def weights():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5, jnp.float32), SHAPES)


def sigmoid(a):
    return 1 / (1 + np.exp(-np.asarray(a, np.float64)))


def test_drawn_masks_are_zeros_and_ones_in_the_right_proportion():
    logits = {"kernel": jnp.full((100, 100), -1.0), "other": jnp.full((100, 100), 2.0)}
    mask = supermasks.draw_mask(jax.random.key(0), logits)
    for name, leaf in mask.items():
        assert set(np.unique(leaf)) == {0.0, 1.0}
        assert float(leaf.mean()) == pytest.approx(sigmoid(logits[name])[0, 0], abs=0.02)
    again = supermasks.draw_mask(jax.random.key(1), logits)
    assert (np.asarray(again["kernel"]) != np.asarray(mask["kernel"])).any()


def test_gradients_pass_straight_through_the_draw():
    logits = {"kernel": jnp.asarray([-2.0, 0.0, 0.5, 3.0])}
    factor = np.array([1.0, -2.0, 3.0, 4.0])

    def loss(logits):
        return jnp.sum(
            jnp.asarray(factor, jnp.float32) * supermasks.draw_mask(jax.random.key(3), logits)["kernel"]
        )

    expected = factor * sigmoid(logits["kernel"]) * (1 - sigmoid(logits["kernel"]))
    np.testing.assert_allclose(jax.grad(loss)(logits)["kernel"], expected, rtol=1e-5)


def test_rescaling_by_hand():
    tree = {"kernel": jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.asarray([5.0, 6.0])}
    mask = {"kernel": jnp.asarray([[True, False], [False, False]]), "bias": jnp.asarray([False, False])}
    of = {"kernel": True, "bias": False}
    plain = supermasks.masked_weights(tree, mask, of, False)
    np.testing.assert_array_equal(plain["kernel"], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(plain["bias"], [5, 6])
    rescaled = supermasks.masked_weights(tree, mask, of, True)
    np.testing.assert_array_equal(rescaled["kernel"], [[4, 0], [0, 0]])  # 4 weights, 1 kept
    traced = jax.jit(lambda rescale: supermasks.masked_weights(tree, mask, of, rescale))(jnp.asarray(True))
    np.testing.assert_array_equal(traced["kernel"], rescaled["kernel"])
    empty = jax.tree.map(jnp.zeros_like, mask)
    np.testing.assert_array_equal(
        supermasks.masked_weights(tree, empty, of, True)["kernel"], np.zeros((2, 2))
    )


def test_the_gradient_flows_through_rescaling_too():
    """W_j = w_j m_j n/Σm: ∂Σ c_j W_j/∂m_i = c_i w_i n/Σm − Σ_j c_j w_j m_j n/(Σm)²."""
    w, mask = np.array([1.0, -2.0, 3.0, 0.5]), np.array([1.0, 0.0, 1.0, 1.0])
    c = np.array([0.3, 0.7, -1.1, 2.0])

    def loss(m):
        tree = {"kernel": jnp.asarray(w, jnp.float32)}
        scaled = supermasks.masked_weights(tree, {"kernel": m}, {"kernel": True}, True)["kernel"]
        return jnp.sum(scaled * jnp.asarray(c, jnp.float32))

    kept, size = mask.sum(), len(mask)
    expected = c * w * size / kept - np.sum(c * w * mask) * size / kept**2
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(mask, jnp.float32)), expected, rtol=1e-5)


def test_expected_size_counts_masked_leaves_only():
    logits = {"kernel": jnp.asarray([[0.0, 100.0], [-100.0, 0.0]]), "bias": jnp.asarray([100.0])}
    assert float(supermasks.expected_kept(logits, {"kernel": True, "bias": False})) == pytest.approx(0.5)


def test_inference_is_by_the_likeliest_mask(digits):
    rng = np.random.default_rng(1)
    logits = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), SHAPES)
    network = supermasks.network(supermasks.SupermaskConfig(BASE, OF, False))
    images = tasks.to_float(digits.images)
    found, _ = network.apply(logits, {"weights": weights(), "model": {}}, images, None)
    kept = jax.tree.map(lambda w, a, yes: jnp.where(a > 0, w, 0) if yes else w, weights(), logits, OF)
    expected, _ = BASE.apply(kept, {}, images, None)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_certain_masks_are_drawn_alike(digits):
    learner = supermasks.SupermaskConfig(BASE, OF, True)
    logits = jax.tree.map(lambda leaf: jnp.where(leaf > 0, 60.0, -60.0), weights())
    collections = {"weights": weights(), "model": {}}
    drawn = supermasks.evaluate_draws(jax.random.key(0), logits, collections, digits, learner, draws=3)
    assert drawn["accuracy"].shape == drawn["loss"].shape == (3,)
    state = training.TrainState(logits, collections, ())
    likely = training.evaluate(state, digits, supermasks.network(learner))
    np.testing.assert_allclose(drawn["loss"], likely["loss"], rtol=1e-5)
    uncertain = jax.tree.map(jnp.zeros_like, logits)
    many = supermasks.evaluate_draws(jax.random.key(0), uncertain, collections, digits, learner, draws=3)
    assert len(np.unique(many["loss"])) == 3


@functools.cache
def learn():
    """Learn a mask and measure it before and after; one program with and without rescaling."""

    def one(rescale, digits):
        learner = supermasks.SupermaskConfig(BASE, OF, rescale)
        network, optimizer = supermasks.network(learner), optax.adam(0.1)
        logits, collections = supermasks.start_logits(weights()), {"weights": weights(), "model": {}}
        recipe = training.Recipe(network, optimizer, 20, 200, 100)
        start = training.TrainState(logits, collections, optimizer.init(logits))
        every = masks.ones_like(logits)
        watch = {"all": training.evaluation(digits, recipe)}
        state, curves = training.train(jax.random.key(0), start, every, digits, recipe, watch)
        key = jax.random.key(1)
        before, after = (
            supermasks.evaluate_draws(key, a, collections, digits, learner, draws=4)["accuracy"].mean()
            for a in (logits, state.params)
        )
        return state, before, after, curves.observed["all"]["accuracy"][-1]

    return jax.jit(one)


@pytest.mark.parametrize("rescale", [False, True])
def test_learning_a_mask_moves_logits_alone_and_helps(digits, rescale):
    state, before, after, likely = learn()(jnp.asarray(rescale), digits)
    jax.tree.map(np.testing.assert_array_equal, state.collections["weights"], weights())
    for layer in state.params:
        assert (np.asarray(state.params[layer]["bias"]) == 0).all(), "biases are not masked"
        assert (np.asarray(state.params[layer]["kernel"]) != 0).any()
    assert before < 0.6 < 0.85 < min(after, likely)


def test_a_network_of_ones_own_initializes_its_weights_and_equal_logits():
    network = supermasks.network(supermasks.SupermaskConfig(BASE, OF, False))
    logits, collections = network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    assert jax.tree.structure(logits) == jax.tree.structure(collections["weights"])
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(logits))
    outputs, after = network.apply(logits, collections, jnp.ones((2, 4, 4, 1)), jax.random.key(1))
    assert outputs.shape == (2, 4)
    assert set(after) == {"weights", "model"}
