"""Multiply-adds against counts by hand: LeNets, paddings, strides, groups, loops, weights reshaped."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lth_jax import models
from lth_jax.analysis import flops
from lth_jax.errors import InputError


def count(module, *shape):
    network = models.as_network(module)
    inputs = jax.ShapeDtypeStruct((1, *shape), "float32")
    params, collections = jax.eval_shape(network.init, jax.random.key(0), inputs)
    return flops.multiply_adds(network, params, collections, inputs)


def test_lenet_300_100():
    found = count(models.MLP((300, 100)), 28, 28, 1)
    expected = {"hidden_0/kernel": 235_200, "hidden_1/kernel": 30_000, "output/kernel": 1_000}
    assert found == expected
    assert list(found) == list(expected)  # in the order of the network


@pytest.mark.parametrize("activation", [models.leaky_relu, nn.gelu, nn.silu, nn.elu, lambda x: x])
def test_biases_are_no_products_whatever_is_done_to_their_sums(activation):
    found = count(models.MLP((30, 20), activation=activation), 8, 8, 1)
    assert found == {"hidden_0/kernel": 1920, "hidden_1/kernel": 600, "output/kernel": 200}


@pytest.mark.parametrize("method", ["auto", "banded", "patches"])
def test_lenet_5(method):
    # 28×28 → 24×24×6 of 25 weights → 12×12 → 8×8×16 of 150 → 4×4×16 = 256 → 120 → 84 → 10
    expected = {
        "conv_0/kernel": 24 * 24 * 6 * 25,
        "conv_1/kernel": 8 * 8 * 16 * 150,
        "hidden_0/kernel": 256 * 120,
        "hidden_1/kernel": 120 * 84,
        "output/kernel": 840,
    }
    found = count(models.LeNet5(method=method), 28, 28, 1)
    assert found == expected
    assert list(found) == list(expected)
    assert sum(found.values()) == 86_400 + 153_600 + 30_720 + 10_080 + 840


class Flaxes(nn.Module):
    """LeNet-5 of Flax's own layers."""

    @nn.compact
    def __call__(self, images):
        x = nn.max_pool(nn.relu(nn.Conv(6, (5, 5), padding="VALID", name="conv_0")(images)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(16, (5, 5), padding="VALID", name="conv_1")(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(120, name="hidden_0")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="output")(nn.relu(nn.Dense(84, name="hidden_1")(x)))


def test_flaxs_convolutions_count_as_ours_do():
    assert count(Flaxes(), 28, 28, 1) == count(models.LeNet5(), 28, 28, 1)


class Mixed(nn.Module):
    """Padding, strides, groups, a product of several axes, BatchNorm, a layer used twice, a remat."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(8, (3, 3), (2, 2), padding="SAME", name="strided")(images)  # 8×8×4 → 4×4×8
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x)  # 4×4×8, a channel each
        x = nn.remat(nn.Conv)(6, (1, 1), name="pointwise")(x)
        twice = nn.Dense(6, name="twice")
        x = nn.DenseGeneral((2, 5), axis=(-2, -1), name="general")(twice(twice(x)))  # 4 × [4, 6] → [2, 5]
        return nn.Dense(3, name="output")(x.reshape(len(x), -1))


def test_all_kinds_of_layers():
    assert count(Mixed(), 8, 8, 4) == {
        "strided/kernel": 16 * 8 * 9 * 4,
        "depthwise/kernel": 16 * 8 * 9,
        "pointwise/kernel": 16 * 6 * 8,
        "twice/kernel": 2 * 16 * 36,
        "general/kernel": 4 * 24 * 10,
        "output/kernel": 40 * 3,
    }


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2, name="output")(nn.RNN(nn.SimpleCell(5), name="cell")(tokens)[:, -1])


def test_a_loop_counts_every_turn():
    found = count(Recurrent(), 7, 3)
    own = {name.rpartition("/")[0].rpartition("/")[2]: value for name, value in found.items()}
    assert own == {"i": 7 * 3 * 5, "h": 7 * 5 * 5, "output": 10}


class Attending(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embedded = nn.Embed(11, 8, name="embedding")(tokens)
        return nn.Dense(2, name="output")(
            nn.MultiHeadDotProductAttention(2, name="attention")(embedded)[:, 0]
        )


def test_attention_counts_its_projections_and_an_embedding_nothing():
    network = models.from_linen(Attending())
    tokens = jax.ShapeDtypeStruct((1, 6), "int32")
    params, _ = jax.eval_shape(network.init, jax.random.key(0), tokens)
    found = flops.multiply_adds(network, params, {}, tokens)
    expected = {f"attention/{name}/kernel": 6 * 64 for name in ("query", "key", "value", "out")}
    assert found == {**expected, "output/kernel": 16}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.linear = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(nnx.relu(self.conv(images)).reshape(len(images), -1))


def test_nnx():
    assert count(models.from_nnx(lambda rngs: Net(rngs=rngs)), 4, 4, 1) == {
        "conv/kernel": 16 * 9 * 4,
        "linear/kernel": 192,
    }


def functions(apply, **shapes):
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    network = models.Network(lambda key, x: (params, {}), lambda p, c, x, key: (apply(p, x), c))
    return flops.multiply_adds(network, params, {}, jax.ShapeDtypeStruct((1, 4), "float32"))


def test_weights_are_followed_through_what_they_go_through():
    glued = lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], axis=1)  # noqa: E731
    assert functions(glued, a=(4, 3), b=(4, 5)) == {"a": 12, "b": 20}
    normed = lambda p, x: x @ (p["g"][None] * p["v"] / jnp.sqrt(jnp.sum(p["v"] ** 2, 0))[None])  # noqa: E731
    assert functions(normed, g=(3,), v=(4, 3)) == {"v": 12}
    half = lambda leaf: leaf.astype("bfloat16")  # noqa: E731
    turned = lambda p, x: jnp.einsum("bi,oi->bo", half(x), half(p["w"].reshape(3, 4)))  # noqa: E731
    assert functions(turned, w=(12,)) == {"w": 12}
    pair = lambda p, x: x @ (p["a"] @ p["b"])  # noqa: E731
    assert functions(pair, a=(4, 2), b=(2, 3)) == {"a": 24, "b": 24}
    chosen = lambda p, x: jax.lax.cond(x.sum() > 0, lambda w: (x @ w) @ w, lambda w: x @ w, p["w"])  # noqa: E731
    assert functions(chosen, w=(4, 4)) == {"w": 32}
    mapped = lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]  # noqa: E731
    assert functions(mapped, w=(5, 4, 4)) == {"w": 80}


def test_a_loop_of_unknown_length_is_refused():
    def loop(p, x):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ p["w"], x)

    with pytest.raises(InputError, match="length is not known"):
        functions(loop, w=(4, 4))


def test_what_reduces_a_parameter_counts_nothing():
    def norm(p, x):
        return (x @ p["w"]) * jax.lax.reduce(p["w"], 0.0, lambda a, b: a * a + b, (0, 1))

    assert functions(norm, w=(4, 3)) == {"w": 12}


def test_a_ticket_has_the_multiply_adds_of_its_weights():
    """The sum over kept weights of how often each is used: counted one weight at a time."""
    rng = np.random.default_rng(0)
    conv, dense = rng.random((5, 5, 1, 6)) < 0.3, rng.random((256, 120)) < 0.1
    found = flops.of_ticket(
        {"conv_0/kernel": 86_400, "hidden_0/kernel": 30_720},
        {"conv_0/kernel": conv, "hidden_0/kernel": dense},
    )
    assert found == {"conv_0/kernel": 576 * conv.sum(), "hidden_0/kernel": dense.sum()}
