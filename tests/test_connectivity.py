"""Pairs of networks: literal numbers, and planted cases whose answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits
from jax.flatten_util import ravel_pytree

from lth_jax import models, tasks
from lth_jax.analysis import connectivity
from lth_jax.errors import InputError
from lth_jax.runs.branching import Pair
from lth_jax.tickets import masks
from lth_jax.training import Recipe, TrainState, evaluate

DIGITS = make_digits()


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (2, 2), name="one")(x))
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, use_bias=False, name="two")(x))
        x = nn.relu(nn.Dense(7, name="three")(x.reshape(len(x), -1)))
        return nn.Dense(4, name="four")(x)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        return nn.Dense(4)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))


NETWORKS = {
    "MLP": (models.from_linen(models.MLP((9, 6), classes=4)), ("hidden_0", "hidden_1", "output")),
    "CNN": (models.from_linen(Plain()), ("one", "two", "three", "four")),
}


def drawn(network, seed):
    params, collections = network.init(jax.random.key(seed), DIGITS.images[:1].astype(jnp.float32))
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(seed + 9), leaf.shape), params
    )
    return TrainState(params, collections, {})


def test_the_line_by_hand():
    one, other = (
        {"w": jnp.array([0.0, 4.0]), "n": jnp.array(3)},
        {"w": jnp.array([2.0, 0.0]), "n": jnp.array(7)},
    )
    found = connectivity.between(one, other, 0.25)
    np.testing.assert_array_equal(found["w"], [0.5, 3.0])
    assert int(found["n"]) == 3


def test_a_barrier_by_hand():
    np.testing.assert_allclose(connectivity.barrier(jnp.array([0.02, 0.5, 0.3, 0.04])), 0.47)
    np.testing.assert_allclose(
        connectivity.barrier(jnp.array([[0.1, 0.1], [0.3, 0.1]])), [0.0, 0.1], atol=1e-7
    )


def test_distance_and_angle_by_hand():
    one, other = {"w": jnp.array([3.0, 0.0, 9.0])}, {"w": jnp.array([0.0, 4.0, -5.0])}
    length, angle = connectivity.distance(one, other, {"w": jnp.array([True, True, False])})
    np.testing.assert_allclose((length, angle), (5.0, 90.0), rtol=1e-6)
    length, angle = connectivity.distance(one, one, {"w": jnp.ones(3, bool)})
    np.testing.assert_allclose((length, angle), (0.0, 0.0), atol=0.03)


def test_overlap_by_hand():
    one = {"a": jnp.array([True, True, False, False]), "b": jnp.ones(2, bool)}
    other = {"a": jnp.array([True, False, True, False]), "b": jnp.ones(2, bool)}
    np.testing.assert_allclose(connectivity.overlap(one, other, {"a": True, "b": False}), 1 / 3)
    none = jax.tree.map(jnp.zeros_like, one)
    assert float(connectivity.overlap(none, none, {"a": True, "b": True})) == 1.0


def test_a_path_has_its_ends_and_their_predictions():
    network, _ = NETWORKS["MLP"]
    one, other = drawn(network, 0), drawn(network, 1)
    found = connectivity.path(one, other, DIGITS, network, points=4)
    for place, state in ((0, one), (-1, other)):
        for name, value in evaluate(state, DIGITS, network).items():
            np.testing.assert_allclose(found[name][place], value, rtol=1e-5)
    middle = TrainState(jax.tree.map(lambda a, b: (a + b) / 2, one.params, other.params), {}, {})
    np.testing.assert_allclose(found["loss"][2], evaluate(middle, DIGITS, network)["loss"], rtol=1e-5)
    answers = [
        np.asarray(network.apply(s.params, {}, DIGITS.images.astype(jnp.float32) / 255, None)[0]).argmax(-1)
        for s in (one, other)
    ]
    agree = connectivity.agreement(one, other, DIGITS, network)
    np.testing.assert_allclose(agree, np.mean(answers[0] == answers[1]))
    assert float(connectivity.agreement(one, one, DIGITS, network)) == 1.0


def test_pairs_are_taken_together():
    network, _ = NETWORKS["MLP"]
    pairs = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(drawn(network, s) for s in some))
        for some in ((0, 1), (2, 3))
    ]
    found = jax.vmap(lambda a, b: connectivity.path(a, b, DIGITS, network, points=2)["loss"])(*pairs)
    for place, (a, b) in enumerate(((0, 2), (1, 3))):
        alone = connectivity.path(drawn(network, a), drawn(network, b), DIGITS, network, points=2)["loss"]
        np.testing.assert_allclose(found[place], alone, rtol=1e-5)


def test_batch_statistics_are_taken_from_data_anew():
    network = models.from_linen(Normed())
    one, other = drawn(network, 0), drawn(network, 1)
    batches = jax.tree.map(lambda leaf: leaf.reshape(10, 20, *leaf.shape[1:]), DIGITS)
    mixed = TrainState(
        connectivity.between(one.params, other.params, 0.5),
        connectivity.between(one.collections, other.collections, 0.5),
        {},
    )
    fresh = connectivity.recomputed(mixed, batches, network)
    kernel, bias = (np.asarray(mixed.params["Dense_0"][name]) for name in ("kernel", "bias"))
    hidden = np.asarray(DIGITS.images, np.float64).reshape(200, -1) / 255 @ kernel + bias
    mean = np.zeros(8)
    for batch in hidden.reshape(10, 20, 8):
        mean = 0.5 * mean + 0.5 * batch.mean(0)
    np.testing.assert_allclose(fresh.collections["batch_stats"]["BatchNorm_0"]["mean"], mean, rtol=1e-3)
    found = connectivity.path(one, other, DIGITS, network, points=2, batches=batches)
    np.testing.assert_allclose(found["loss"][1], evaluate(fresh, DIGITS, network)["loss"], rtol=1e-5)
    interpolated = connectivity.path(one, other, DIGITS, network, points=2)
    assert abs(float(found["loss"][1] - interpolated["loss"][1])) > 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_permuted_copy_is_recovered_exactly(kind):
    """The planted case: apart before it is aligned, with a barrier; the same network after, without one."""
    network, layers = NETWORKS[kind]
    state = drawn(network, 3)
    rng, permuted, order = np.random.default_rng(0), {}, None
    for name in layers:
        leaf = {kind: np.asarray(values) for kind, values in state.params[name].items()}
        if order is not None:
            leaf["kernel"] = connectivity._take_inputs(leaf["kernel"], order)
        order = rng.permutation(leaf["kernel"].shape[-1]) if name != layers[-1] else np.arange(4)
        permuted[name] = {kind: values[..., order] for kind, values in leaf.items()}
    other = state._replace(params=permuted)
    inputs = DIGITS.images.astype(jnp.float32) / 255
    outputs = [network.apply(s.params, {}, inputs, None)[0] for s in (state, other)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)  # a permuted network computes what it did
    before = connectivity.path(state, other, DIGITS, network, points=10)["loss"]
    aligned = connectivity.align(state.params, permuted, layers)
    jax.tree.map(np.testing.assert_array_equal, aligned, jax.tree.map(np.asarray, dict(state.params)))
    after = connectivity.path(state, state._replace(params=aligned), DIGITS, network, points=10)["loss"]
    assert float(connectivity.barrier(before)) > 1e-3
    np.testing.assert_allclose(connectivity.barrier(after), 0, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_aligning_brings_networks_nearer_and_changes_no_output(kind):
    network, layers = NETWORKS[kind]
    one, other = drawn(network, 1), drawn(network, 2)
    aligned = connectivity.align(one.params, other.params, layers)
    inputs = DIGITS.images.astype(jnp.float32) / 255
    outputs = [network.apply(params, {}, inputs, None)[0] for params in (other.params, aligned)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)
    flat = [np.asarray(ravel_pytree(dict(params))[0]) for params in (one.params, other.params, aligned)]
    assert np.linalg.norm(flat[0] - flat[2]) < np.linalg.norm(flat[0] - flat[1])


def test_what_cannot_be_aligned_is_refused():
    params = drawn(models.from_linen(Normed()), 0).params
    with pytest.raises(InputError, match="a kernel and perhaps a bias"):
        connectivity.align(params, params, ("Dense_0", "BatchNorm_0", "Dense_1"))
    with pytest.raises(InputError, match="the network has BatchNorm_0, Dense_0, Dense_1"):
        connectivity.align(params, params, ("Dense_0", "Dense_1"))


def test_a_network_that_has_diverged_agrees_with_nobody():
    network, _ = NETWORKS["MLP"]
    one = drawn(network, 0)
    lost = one._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, one.params))
    assert float(connectivity.agreement(one, one, DIGITS, network)) == 1
    for pair in ((one, lost), (lost, lost)):
        assert np.isnan(connectivity.agreement(*pair, DIGITS, network))


def test_statistics_are_those_of_as_many_batches_however_few_the_data():
    """A statistic far off is forgotten: 100 batches, though an epoch has ten."""
    network, splits = models.from_linen(Normed()), {"test": DIGITS}
    far = drawn(network, 0)
    far = far._replace(collections=jax.tree.map(lambda leaf: leaf + 1e6, far.collections))
    pair = Pair(jnp.int32(1), masks.ones_like(far.params), far, far)
    recipe = Recipe(network, optax.sgd(0.1), 20, 10)
    every = jax.tree.map(lambda _: True, far.params)
    found = connectivity.compare(pair, DIGITS, splits, recipe, every, 1, "recomputed")
    near = drawn(network, 0)
    pair = Pair(jnp.int32(1), masks.ones_like(near.params), near, near)
    expected = connectivity.compare(pair, DIGITS, splits, recipe, every, 1, "recomputed")
    np.testing.assert_allclose(found["test_loss_path"], expected["test_loss_path"], rtol=1e-4)


def test_what_is_recomputed_sees_images_changed_as_in_training():
    network = models.from_linen(Normed())
    state = drawn(network, 0)
    batches = jax.tree.map(lambda leaf: leaf.reshape(10, 20, *leaf.shape[1:]), DIGITS)
    plain = tasks.classification()
    dark = plain._replace(inputs=lambda key, batch: plain.inputs(None, batch) * (0 if key is not None else 1))
    found = connectivity.recomputed(state, batches, network, dark)
    mean = np.asarray(found.collections["batch_stats"]["BatchNorm_0"]["mean"])
    bias = np.asarray(state.params["Dense_0"]["bias"])
    np.testing.assert_allclose(mean, bias * (1 - 0.5**10), rtol=1e-4, atol=1e-5)
