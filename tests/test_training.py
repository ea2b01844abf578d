"""Training: one step against float64 NumPy, pruned weights under every optimizer, order, evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import initializers, models, training
from lth_jax.keys import stream
from lth_jax.tickets import masks
from lth_jax.types import Split

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
OPTIMIZERS = {
    "adam": optax.adam(0.01),
    "sgd_momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "l2": optax.chain(optax.add_decayed_weights(1e-2), optax.adam(0.01)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.rmsprop(0.01, momentum=0.9)),
}


def recipe(optimizer="adam", steps=20, eval_every=10, batch_size=20):
    return training.Recipe(NETWORK, OPTIMIZERS[optimizer], batch_size, steps, eval_every)


def params(seed=0):
    return initializers.initialize(stream(seed, "init"), SHAPES, initializers.get("xavier_uniform"))


def half_mask(seed=1):
    mask = masks.ones_like(SHAPES)
    for position, layer in enumerate(mask.values()):
        key = jax.random.fold_in(jax.random.key(seed), position)
        layer["kernel"] = jax.random.bernoulli(key, 0.5, layer["kernel"].shape)
    return mask


def pruned_entries(mask, tree):
    return np.concatenate(
        [np.asarray(w)[~np.asarray(m)] for m, w in zip(*map(jax.tree.leaves, (mask, tree)), strict=True)]
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_exactly_zero_after_every_step(digits, optimizer):
    rule, mask = recipe(optimizer), half_mask()
    state = training.init_state(rule, params(), {}, mask)
    # Moments of the dense network, as an optimizer that lives through levels has them.
    dense = training.init_state(rule, params(), {}, masks.ones_like(SHAPES))
    step = jax.jit(lambda key, state, mask: training.train_step(key, state, mask, digits, rule))
    for index in range(3):
        dense, _ = step(jax.random.key(index), dense, masks.ones_like(SHAPES))
    state = state._replace(opt_state=dense.opt_state)
    for index in range(5):
        before = state.params
        state, _ = step(jax.random.key(index), state, mask)
        assert (pruned_entries(mask, state.params) == 0).all()
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, before)
        assert all(jax.tree.leaves(moved))  # and the others do move


def numpy_gradient(weights, images, labels):
    """Mean cross-entropy of a ReLU network 16–8–4 and its gradient, in float64, by hand."""
    x = images.reshape(len(images), -1).astype(np.float64) / 255
    w, b = (np.asarray(weights["hidden_0"][k], np.float64) for k in ("kernel", "bias"))
    v, c = (np.asarray(weights["output"][k], np.float64) for k in ("kernel", "bias"))
    hidden = np.maximum(x @ w + b, 0)
    logits = hidden @ v + c
    logits -= logits.max(1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(probability[np.arange(len(x)), labels]).mean()
    error = (probability - np.eye(4)[labels]) / len(x)
    back = (error @ v.T) * (hidden > 0)
    return loss, {
        "hidden_0": {"kernel": x.T @ back, "bias": back.sum(0)},
        "output": {"kernel": hidden.T @ error, "bias": error.sum(0)},
    }


def test_one_adam_step_is_the_float64_oracles(digits):
    mask, rule = half_mask(), recipe("adam")
    state = training.init_state(rule, params(), {}, mask)
    after, loss = training.train_step(jax.random.key(0), state, mask, digits, rule)
    expected_loss, gradient = numpy_gradient(
        state.params, np.asarray(digits.images), np.asarray(digits.labels)
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for layer, leaves in gradient.items():
        for name, g in leaves.items():
            masked = np.asarray(mask[layer][name]) * g
            m_hat, v_hat = masked, masked**2  # first step: bias correction undoes the decay
            expected = np.asarray(state.params[layer][name], np.float64) - 0.01 * m_hat / (
                np.sqrt(v_hat) + 1e-8
            )
            solid = np.abs(masked) > 1e-6  # where the gradient is above float32's rounding
            np.testing.assert_allclose(
                np.asarray(after.params[layer][name])[solid], expected[solid], rtol=1e-4, atol=1e-6
            )


def test_each_epoch_is_a_permutation_without_its_incomplete_batch():
    order = np.asarray(training.batch_order(jax.random.key(3), 10, 3, 7))
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.ravel())) == 9
        assert set(epoch.ravel()) <= set(range(10))
    assert (order[:3] != order[3:6]).any()
    with pytest.raises(ValueError, match="batch size 11 is larger than the 10 training examples"):
        training.batch_order(jax.random.key(0), 10, 11, 1)


def test_evaluate_counts_every_example_also_the_last_incomplete_batch(digits, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 64)
    state = training.init_state(recipe(), params(), {}, masks.ones_like(SHAPES))
    metrics = training.evaluate(state, digits, NETWORK)
    loss, _ = numpy_gradient(state.params, np.asarray(digits.images), np.asarray(digits.labels))
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    logits, _ = NETWORK.apply(state.params, {}, training.to_float(digits.images), None)
    assert float(metrics.accuracy) == pytest.approx(float((logits.argmax(-1) == digits.labels).mean()))


def test_training_learns_and_reports_where_it_was_told_to(digits):
    rule, mask = recipe(steps=60, eval_every=20), masks.ones_like(SHAPES)
    state = training.init_state(rule, params(), {}, mask)
    state, curves = training.train(jax.random.key(0), state, mask, digits, rule, {"test": digits})
    assert curves.batch_loss.shape == curves.watched["test"].accuracy.shape == (3,)
    assert float(curves.watched["test"].accuracy[-1]) > 0.95
    assert float(curves.batch_loss[-1]) < 0.6 * float(curves.batch_loss[0])


def test_stop_ends_training_early_and_holds_the_curves(digits):
    mask = masks.ones_like(SHAPES)
    short, long = recipe(steps=20, eval_every=10), recipe(steps=40, eval_every=10)
    state = training.init_state(short, params(), {}, mask)
    key, noise = jax.random.key(0), jax.random.key(1)
    # 200 examples make 10 batches an epoch, so the first 20 steps see the same order in both.
    expected, seen = training.train(key, state, mask, digits, short, {"test": digits}, noise)
    found, held = training.train(key, state, mask, digits, long, {"test": digits}, noise, stop=20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected.params, found.params)
    np.testing.assert_allclose(held.batch_loss[:2], seen.batch_loss, rtol=1e-6)
    np.testing.assert_array_equal(held.batch_loss[2:], np.repeat(held.batch_loss[1], 2))


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}, {"eval_every": 0}, {"eval_every": 7}])
def test_impossible_recipes(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        recipe(**change)


def test_batch_norm_and_dropout_train_and_evaluate(digits):
    import flax.linen as nn

    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool):
            x = nn.Dense(16)(images.reshape(images.shape[0], -1))
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
            x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
            return nn.Dense(4)(x)

    network = models.from_flax(Noisy())
    weights, collections = network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    assert set(collections) == {"batch_stats"}
    rule, mask = training.Recipe(network, optax.adam(0.02), 20, 60, 60), masks.ones_like(weights)
    state = training.init_state(rule, weights, collections, mask)
    after, curves = training.train(jax.random.key(0), state, mask, digits, rule, {"test": digits})
    moved = after.collections["batch_stats"]["BatchNorm_0"]["mean"]
    assert bool((moved != 0).all())
    assert float(curves.watched["test"].accuracy[-1]) > 0.95


def test_watched_splits_are_splits(digits):
    rule, mask = recipe(steps=10, eval_every=10), masks.ones_like(SHAPES)
    state = training.init_state(rule, params(), {}, mask)
    half = Split(digits.images[:100], digits.labels[:100])
    _, curves = training.train(jax.random.key(0), state, mask, digits, rule, {"half": half, "all": digits})
    assert set(curves.watched) == {"half", "all"}
