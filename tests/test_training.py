"""Training: one step against float64 NumPy, pruned weights under every optimizer, order, observers, cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import initializers, models, orders, tasks, training
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


def recipe(optimizer="adam", steps=20, eval_every=10, batch_size=20, **options):
    return training.Recipe(NETWORK, OPTIMIZERS[optimizer], batch_size, steps, eval_every, **options)


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
    order = np.asarray(orders.batch_order(jax.random.key(3), 10, 3, 7))
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.ravel())) == 9
        assert set(epoch.ravel()) <= set(range(10))
    assert (order[:3] != order[3:6]).any()
    with pytest.raises(ValueError, match="batch size 11 is larger than the 10 training examples"):
        orders.batch_order(jax.random.key(0), 10, 11, 1)


def test_evaluate_counts_every_example_also_the_last_incomplete_batch(digits, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 64)
    state = training.init_state(recipe(), params(), {}, masks.ones_like(SHAPES))
    metrics = training.evaluate(state, digits, NETWORK)
    loss, _ = numpy_gradient(state.params, np.asarray(digits.images), np.asarray(digits.labels))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    logits, _ = NETWORK.apply(state.params, {}, tasks.to_float(digits.images), None)
    assert float(metrics["accuracy"]) == pytest.approx(float((logits.argmax(-1) == digits.labels).mean()))


def begin(rule, mask=None):
    return training.init_state(rule, params(), {}, masks.ones_like(SHAPES) if mask is None else mask)


DENSE, KEY = masks.ones_like(SHAPES), jax.random.key(0)


def assert_close(found, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def test_training_learns_and_reports_where_it_was_told_to(digits):
    rule = recipe(steps=60, eval_every=20)
    watch = {"test": training.evaluation(digits, rule)}
    _, curves = training.train(KEY, begin(rule), DENSE, digits, rule, watch)
    accuracy = curves.observed["test"]["accuracy"]
    assert curves.batch_loss.shape == accuracy.shape == (3,)
    assert float(accuracy[-1]) > 0.95
    assert float(curves.batch_loss[-1]) < 0.6 * float(curves.batch_loss[0])


@pytest.mark.parametrize(
    ("eval_every", "places"),
    [(0, [20]), (10, [10, 20]), (7, [7, 14, 20]), (20, [20]), (50, [20]), (19, [19, 20])],
)
def test_observers_look_at_equal_distances_and_at_the_end(digits, eval_every, places):
    rule, step_by_step = recipe(eval_every=eval_every), recipe(eval_every=1)
    norms = {
        "norm": lambda state: optax.tree.norm(state.params),
        "count": lambda state: state.opt_state[0].count,
    }
    state, curves = training.train(KEY, begin(rule), DENSE, digits, rule, norms)
    expected, every = training.train(KEY, begin(rule), DENSE, digits, step_by_step, norms)
    assert_close(state, expected)
    assert training.observed_at(rule) == places
    np.testing.assert_array_equal(curves.observed["count"], places)
    np.testing.assert_allclose(
        curves.observed["norm"], every.observed["norm"][np.array(places) - 1], rtol=1e-5
    )
    parts = np.split(np.asarray(every.batch_loss), places)[:-1]
    np.testing.assert_allclose(curves.batch_loss, [part.mean() for part in parts], rtol=1e-5)


def test_observers_may_look_before_the_first_step(digits):
    rule, start = recipe(eval_every=8), begin(recipe())
    watch = {"state": lambda state: state.params, "all": training.evaluation(digits, rule)}
    state, curves = training.train(KEY, start, DENSE, digits, rule, watch, observe_start=True)
    assert training.observed_at(rule, start=True) == [0, 8, 16, 20]
    jax.tree.map(
        lambda seen, w: np.testing.assert_array_equal(seen[0], w), curves.observed["state"], start.params
    )
    jax.tree.map(
        lambda seen, w: np.testing.assert_array_equal(seen[-1], w), curves.observed["state"], state.params
    )
    assert np.isnan(curves.batch_loss).tolist() == [True, False, False, False]
    before = training.evaluate(start, digits, NETWORK)
    np.testing.assert_allclose(curves.observed["all"]["loss"][0], before["loss"], rtol=1e-5)
    _, without = training.train(KEY, start, DENSE, digits, rule, watch)
    assert_close(jax.tree.map(lambda leaf: leaf[1:], curves), without)


def test_nothing_is_observed_where_nobody_looks(digits):
    _, curves = training.train(KEY, begin(recipe()), DENSE, digits, recipe())
    assert curves.observed == {}
    assert curves.batch_loss.shape == (2,)


# A training of 37 steps, 10 to an epoch, cut inside its second epoch and at the end of it.
LONG = 37


@pytest.fixture(scope="module")
def whole():
    from conftest import make_digits

    rule, mask = recipe("sgd_momentum", LONG, eval_every=1), half_mask()
    count = {"params": lambda state: state.params}
    return training.train(KEY, begin(rule, mask), mask, make_digits(), rule, count)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("cut", [10, 13])
def test_a_training_in_two_parts_is_the_whole(digits, whole, cut, traced):
    rule, mask = recipe("sgd_momentum", LONG, eval_every=1), half_mask()
    start, watch = begin(rule, mask), {"params": lambda state: state.params}
    middle, early = training.train(KEY, start, mask, digits, rule, watch, first=0, steps=cut)
    if traced:
        rest = jax.jit(lambda first: training.train(
            KEY, middle, mask, digits, rule, watch, first=first, steps=LONG - cut
        ))  # fmt: skip
        end, late = rest(jnp.asarray(cut))
    else:
        end, late = training.train(KEY, middle, mask, digits, rule, watch, first=cut)
    assert_close(end, whole[0])
    assert_close(jax.tree.map(lambda *parts: jnp.concatenate(parts), early, late), whole[1])
    assert training.observed_at(rule, cut) == list(range(cut + 1, LONG + 1))


def test_one_program_goes_through_all_parts(digits, whole):
    rule, mask = recipe("sgd_momentum", LONG, eval_every=1), half_mask()
    part = jax.jit(
        lambda state, first: training.train(KEY, state, mask, digits, rule, first=first, steps=9)[0]
    )
    state = begin(rule, mask)
    for first in range(0, 36, 9):
        state = part(state, jnp.asarray(first))
    assert part._cache_size() == 1
    state, _ = training.train(KEY, state, mask, digits, rule, first=36)
    assert_close(state, whole[0])


def test_the_order_of_a_part_is_that_part_of_the_order():
    key, sizes = jax.random.key(3), (10, 3, 11)
    for order in (orders.shuffled, orders.in_sequence, orders.restarted):
        expected = np.asarray(orders.batch_order(key, *sizes, order))
        for first in range(8):
            found = orders.batch_order(key, 10, 3, 3, order, first)
            np.testing.assert_array_equal(found, expected[first : first + 3])
            traced = jax.jit(lambda first, order=order: orders.batch_order(key, 10, 3, 3, order, first))
            np.testing.assert_array_equal(traced(first), expected[first : first + 3])


def test_orders_of_examples():
    key, examples = jax.random.key(3), 10
    in_sequence = orders.batch_order(key, examples, 3, 6, orders.in_sequence)
    np.testing.assert_array_equal(in_sequence, np.arange(9).reshape(3, 3)[[0, 1, 2, 0, 1, 2]])
    default = orders.batch_order(key, examples, 3, 6)
    np.testing.assert_array_equal(default, orders.batch_order(key, examples, 3, 6, orders.shuffled))
    again = np.asarray(orders.batch_order(key, examples, 3, 6, orders.restarted))
    for epoch in range(2):  # each as the first epoch of a training with its own key
        own = orders.batch_order(jax.random.fold_in(key, epoch), examples, 3, 3)
        np.testing.assert_array_equal(again[3 * epoch : 3 * epoch + 3], own)
    assert len({np.asarray(order).tobytes() for order in (in_sequence, default, again)}) == 3


def test_a_recipes_order_is_the_one_that_is_trained_in(digits):
    rule = recipe("sgd_momentum", 12, order=orders.in_sequence)
    found, _ = training.train(KEY, begin(rule), DENSE, digits, rule)
    state, noise = begin(rule), jax.random.fold_in(KEY, 2**31 - 1)
    for index in range(12):
        batch = jax.tree.map(lambda leaf, i=index % 10: leaf[20 * i : 20 * i + 20], digits)
        state, _ = training.train_step(jax.random.fold_in(noise, index), state, DENSE, batch, rule)
    assert_close(found, state)


def test_stop_ends_training_early_and_holds_the_curves(digits):
    short, long = recipe(steps=20, eval_every=10), recipe(steps=40, eval_every=10)
    state, noise = begin(short), jax.random.key(1)
    # 200 examples make 10 batches an epoch, so the first 20 steps see the same order in both.
    watch, options = {"test": training.evaluation(digits, short)}, {"model_key": noise}
    expected, seen = training.train(KEY, state, DENSE, digits, short, watch, **options)
    found, held = training.train(KEY, state, DENSE, digits, long, watch, stop=20, **options)
    assert_close(found, expected)
    assert_close(jax.tree.map(lambda leaf: leaf[:2], held), seen)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[2:], np.repeat(leaf[1], 2)), held)


def test_each_run_stops_at_its_own_iteration(digits):
    rule = recipe(steps=25, eval_every=10)
    count = {"count": lambda state: state.opt_state[0].count}

    def run(stop):
        return training.train(KEY, begin(rule), DENSE, digits, rule, count, stop=stop)

    states, curves = jax.vmap(run)(jnp.asarray([0, 10, 20, 25]))
    np.testing.assert_array_equal(states.opt_state[0].count, [0, 10, 20, 25])
    np.testing.assert_array_equal(
        curves.observed["count"], [[0, 0, 0], [10, 10, 10], [10, 20, 20], [10, 20, 25]]
    )
    assert np.isnan(curves.batch_loss[0]).all()  # it has seen no batch
    assert np.isfinite(curves.batch_loss[1:]).all()
    jax.tree.map(lambda leaf, w: np.testing.assert_array_equal(leaf[0], w), states.params, params())


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}, {"eval_every": -1}])
def test_impossible_recipes(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        recipe(**change)


def test_a_task_of_ones_own_is_trained_and_measured(digits):
    """Regression on a tree of inputs and targets."""
    seen = []

    def inputs(key, batch):
        seen.append(key is None)
        return tasks.to_float(batch["x"])

    task = tasks.Task(
        inputs,
        loss=lambda outputs, batch: jnp.sum((outputs - batch["y"]) ** 2, -1),
        metrics={"error": lambda outputs, batch: jnp.max(jnp.abs(outputs - batch["y"]), -1)},
    )
    data = {"x": digits.images, "y": jax.nn.one_hot(digits.labels, 4)}
    rule = recipe(steps=60, task=task)
    watch = {"all": training.evaluation(data, rule)}
    state, curves = training.train(KEY, begin(rule), DENSE, data, rule, watch)
    assert set(curves.observed["all"]) == {"loss", "error"}
    assert set(seen) == {True, False}
    outputs, _ = NETWORK.apply(state.params, {}, tasks.to_float(digits.images), None)
    off = np.asarray(outputs, np.float64) - np.asarray(data["y"])
    np.testing.assert_allclose(curves.observed["all"]["loss"][-1], (off**2).sum(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(curves.observed["all"]["error"][-1], np.abs(off).max(-1).mean(), rtol=1e-5)
    assert float(curves.observed["all"]["loss"][-1]) < 0.5 * float(curves.observed["all"]["loss"][0])


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
    watch = {"test": training.evaluation(digits, rule)}
    after, curves = training.train(jax.random.key(0), state, mask, digits, rule, watch)
    moved = after.collections["batch_stats"]["BatchNorm_0"]["mean"]
    assert bool((moved != 0).all())
    assert float(curves.observed["test"]["accuracy"][-1]) > 0.95


def test_splits_are_watched_by_their_names(digits):
    rule = recipe(steps=10, eval_every=10)
    half = Split(digits.images[:100], digits.labels[:100])
    watch = {name: training.evaluation(split, rule) for name, split in {"half": half, "all": digits}.items()}
    state, curves = training.train(KEY, begin(rule), DENSE, digits, rule, watch)
    assert set(curves.observed) == {"half", "all"}
    for name, split in {"half": half, "all": digits}.items():
        np.testing.assert_allclose(
            curves.observed[name]["loss"][-1], training.evaluate(state, split, NETWORK)["loss"], rtol=1e-5
        )
