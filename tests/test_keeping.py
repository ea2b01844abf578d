"""A mask in a loop of one's own: pruned parameters stay 0 under every optimizer, the rest goes as ever."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits
from flax import nnx
from small_levels import NETWORK, SHAPES, initial

import lth_jax
from lth_jax import training
from lth_jax.errors import InputError
from lth_jax.tickets import masks

DIGITS = make_digits()
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9, nesterov=True),
    "decayed momentum": optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9)),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "lion": optax.lion(0.003, weight_decay=0.1),
    "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=4, weight_decay_rate=1e-3),
    "lamb": optax.lamb(0.01, weight_decay=0.1),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01)),
    "several steps": optax.MultiSteps(optax.adamw(0.01), 2).gradient_transformation(),
    "scheduled": optax.adamw(optax.cosine_decay_schedule(0.01, 20)),
    "schedule free": optax.contrib.schedule_free_adamw(0.01),
}


def some_mask(shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(rng.random(leaf.shape) < 0.4) if leaf.ndim > 1 else jnp.ones(leaf.shape, bool)
        ),
        shapes,
    )


def loss(params, batch):
    outputs, _ = NETWORK.apply(params, {}, batch.images.astype("float32") / 255, None)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.labels).mean()


def loop(optimizer, params, steps=12):
    """Somebody's training loop: every parameter after every step, and the last state."""
    state, seen = optimizer.init(params), []

    @jax.jit
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(params, DIGITS), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params)
    return seen, state


def pruned_entries(tree, mask):
    return np.concatenate(
        [
            np.asarray(leaf)[~np.asarray(m)]
            for leaf, m in zip(*map(jax.tree.leaves, (tree, mask)), strict=True)
        ]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_parameters_are_exactly_0_after_every_step(name):
    mask = some_mask()
    seen, _ = loop(lth_jax.keep_mask(OPTIMIZERS[name], mask), masks.apply(mask, initial(3)))
    assert len(pruned_entries(seen[0], mask)) > 50
    for params in seen:
        assert (pruned_entries(params, mask) == 0).all()
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), seen[-1], masks.apply(mask, initial(3)))
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize("name", ["momentum", "adamw", "decayed momentum", "lion"])
def test_without_it_they_are_not_and_with_it_the_rest_is_the_librarys_own_training(name):
    """The library's step masks updates; both ways are one, and without a mask weights come back."""
    mask, start = some_mask(), masks.apply(some_mask(), initial(3))
    assert (pruned_entries(loop(OPTIMIZERS[name], start)[0][-1], mask) != 0).any()
    ours, _ = loop(lth_jax.keep_mask(OPTIMIZERS[name], mask), start)
    recipe = training.Recipe(NETWORK, OPTIMIZERS[name], 200, 12)
    state = training.TrainState(start, {}, OPTIMIZERS[name].init(start))
    for _ in range(12):
        state, _ = training.train_step(jax.random.key(0), state, mask, DIGITS, recipe)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours[-1], state.params)


def test_moments_of_pruned_entries_stay_0():
    mask = some_mask()
    _, state = loop(lth_jax.keep_mask(optax.adamw(0.01), mask), initial(3))
    adam = state[0]
    assert (pruned_entries(adam.mu, mask) == 0).all()
    assert (pruned_entries(adam.nu, mask) == 0).all()
    assert np.abs(adam.mu["output"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("params", "updates"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float16")]
)
def test_the_first_update_prunes_what_is_not_0_in_any_precision(params, updates):
    values = jax.tree.map(lambda leaf: jnp.asarray(leaf * 7.123, params), initial(3))
    mask = some_mask()
    optimizer = lth_jax.keep_mask(optax.sgd(0.1), mask)
    gradient = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, updates), values)
    moved, _ = optimizer.update(gradient, optimizer.init(values), values)
    with jax.numpy_dtype_promotion("standard"):
        found = optax.apply_updates(values, moved)
    assert (pruned_entries(found, mask) == 0).all()
    assert found["output"]["kernel"].dtype == params


def test_without_parameters_updates_are_masked():
    mask = some_mask()
    optimizer = lth_jax.keep_mask(optax.sgd(0.1), mask)
    moved, _ = optimizer.update(initial(3), optimizer.init(initial(3)))
    jax.tree.map(
        np.testing.assert_array_equal, moved, masks.apply(mask, jax.tree.map(lambda g: -0.1 * g, initial(3)))
    )


def test_extra_arguments_reach_the_optimizer():
    mask, start = some_mask(), masks.apply(some_mask(), initial(3))
    optimizer = lth_jax.keep_mask(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), mask)
    state = optimizer.init(start)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(jax.grad(loss)(start, DIGITS), state, start, value=jnp.float32(1))
    assert (pruned_entries(optax.apply_updates(start, updates), mask) == 0).all()


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)])

    def __call__(self, images):
        hidden, output = self.layers
        return output(nnx.relu(hidden(images.reshape(len(images), -1).astype("float32") / 255)))


def test_nnx_optimizers_keep_it_too():
    model = Linear(nnx.Rngs(0))
    mask = some_mask(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(
        model, lth_jax.keep_mask(optax.adamw(0.01, weight_decay=0.1), mask), wrt=nnx.Param
    )

    def nnx_loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(DIGITS.images), DIGITS.labels).mean()

    before = float(nnx_loss(model))
    for _ in range(10):
        with jax.numpy_dtype_promotion("standard"):
            optimizer.update(model, nnx.grad(nnx_loss)(model))
        now = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        assert (pruned_entries(now, mask) == 0).all()
    assert float(nnx_loss(model)) < before


def test_a_mask_of_some_leaves_keeps_the_others_whole():
    mask = {"hidden_0": {"kernel": some_mask()["hidden_0"]["kernel"]}}
    seen, _ = loop(lth_jax.keep_mask(optax.sgd(0.1), mask), initial(3), 2)
    plain, _ = loop(optax.sgd(0.1), initial(3), 1)
    assert (np.asarray(seen[0]["hidden_0"]["kernel"])[~np.asarray(mask["hidden_0"]["kernel"])] == 0).all()
    assert seen[0]["output"]["kernel"].shape == plain[0]["output"]["kernel"].shape
    assert (np.asarray(seen[1]["output"]["kernel"]) != 0).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"hiden": {"kernel": np.ones((16, 8), bool)}},
            "mask of hiden/kernel: there is no such parameter among",
        ),
        ({"output": {"kernel": np.ones((4, 8), bool)}}, r"is bool\[4, 8\], expected bool\[8, 4\]"),
        ({"output": {"kernel": np.ones((8, 4))}}, r"is float.*\[8, 4\], expected bool"),
        ({}, "the mask is empty"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(InputError, match=message):
        lth_jax.keep_mask(optax.sgd(0.1), mask).init(initial(3))


def test_the_example_is_two_lines_in_somebodys_loop():
    """What the docs show, of a module's own parameters."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(4)(nn.relu(nn.Dense(8)(images.reshape(len(images), -1))))

    params = Net().init(jax.random.key(0), DIGITS.images[:1].astype("float32"))["params"]
    mask = some_mask(params)
    params = lth_jax.masks.apply(mask, params)
    optimizer = lth_jax.keep_mask(optax.adamw(1e-2), mask)
    state = optimizer.init(params)
    images = DIGITS.images.astype("float32") / 255

    def net_loss(params):
        logits = Net().apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, DIGITS.labels).mean()

    before = float(net_loss(params))
    for _ in range(20):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(net_loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert (pruned_entries(params, mask) == 0).all()
    assert float(net_loss(params)) < before
