"""Convolutions and pooling against literal numbers and against Flax's own, outputs and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core

from lth_jax import models, training
from lth_jax.kernels import gradients, native
from lth_jax.kernels.convolutions import Conv, band, convolve, max_pool, piece_width
from lth_jax.tickets import masks

METHODS = ("patches", "banded")


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("method", METHODS)
def test_a_convolution_by_hand(method):
    image = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1)
    output = convolve(image, kernel, method=method)
    # 1·1 + 2·2 + 3·4 + 4·5 = 37, and so on: a correlation, the filter is not turned over.
    np.testing.assert_array_equal(output[0, :, :, 0], [[37, 47], [67, 77]])


def test_the_band_by_hand():
    matrix = band(jnp.array([5.0, 7]).reshape(1, 2, 1, 1), width=4, stride=2)[0, :, 0, :, 0]
    np.testing.assert_array_equal(matrix, [[5, 0], [7, 0], [0, 5], [0, 7]])


KINDS = {
    "plain": {}, "strides": {"strides": 2}, "valid": {"padding": "VALID"}, "dilated": {"kernel_dilation": 2},
    "groups": {"feature_group_count": 2}, "depthwise": {"feature_group_count": 4},
    "circular": {"padding": "CIRCULAR"},
    "all": {"strides": 2, "feature_group_count": 4, "kernel_dilation": 2},
}  # fmt: skip
SPACES = {"1-D": ((2, 9, 4), (3,)), "2-D": ((2, 9, 8, 4), (3, 2)), "3-D": ((2, 5, 6, 7, 4), (2, 3, 3))}


def canonical(program):
    """Whether every convolution of a program has batch, space, channels and space, input, output."""
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            numbers, rank = equation.params["dimension_numbers"], equation.invars[0].aval.ndim
            image, kernel = (0, rank - 1, *range(1, rank - 1)), (rank - 1, rank - 2, *range(rank - 2))
            if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != (image, kernel, image):
                return False
        if not all(map(canonical, core.jaxprs_in_params(equation.params))):
            return False
    return True


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", [*KINDS, "transposed", "remat"])
def test_a_gradients_convolutions_are_in_the_order_that_is_fast_in_a_loop(kind, space, monkeypatch):
    """Whatever somebody's module is, and the same gradients as JAX's own, whose order is another."""
    monkeypatch.setattr(gradients, "native", lambda: native.Native(False))
    shape, window = SPACES[space]
    layer = {"transposed": nn.ConvTranspose, "remat": nn.remat(nn.Conv)}.get(kind, nn.Conv)
    options = KINDS.get(kind, {})
    module = nn.Sequential([layer(8, window, **options), nn.relu, layer(8, window, **options)])
    images = random(0, *shape)
    variables = module.init(jax.random.key(0), images)
    loss = lambda variables: (jnp.mean(module.apply(variables, images) ** 2), None)  # noqa: E731
    own, theirs = training.value_and_grad(loss), jax.value_and_grad(loss, has_aux=True)
    assert canonical(jax.make_jaxpr(own)(variables).jaxpr)
    assert not canonical(jax.make_jaxpr(theirs)(variables).jaxpr)
    found, expected = (jax.jit(each)(variables) for each in (own, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


@st.composite
def shapes(draw):
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    image = (draw(st.integers(1, 2)), draw(st.integers(rows, 6)), draw(st.integers(columns, 6)))
    strides = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = draw(st.sampled_from(["VALID", "SAME", ((1, 0), (0, 2))]))
    channels, features = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return (*image, channels), features, (rows, columns), strides, padding, draw(st.booleans())


@settings(max_examples=12, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99))
def test_as_flax(shape, seed):
    image_shape, features, size, strides, padding, use_bias = shape
    arguments = {"strides": strides, "padding": padding, "use_bias": use_bias}
    modules = {"flax": nn.Conv(features, size, **arguments)}
    modules |= {method: Conv(features, size, **arguments, method=method) for method in METHODS}
    images = random(seed, *image_shape)

    @jax.jit
    def outcomes(images, bias):
        """Initial parameters, output and gradients of each module, at Flax's parameters and another bias."""
        drawn = {name: module.init(jax.random.key(seed), images) for name, module in modules.items()}
        variables = jax.tree.map(lambda leaf: leaf + bias, drawn["flax"])

        def value(variables, images, module):
            output = module.apply(variables, images)
            return jnp.sum(jnp.sin(output)), output

        pull = jax.grad(value, (0, 1), has_aux=True)
        return drawn, {name: pull(variables, images, module) for name, module in modules.items()}

    drawn, pulled = outcomes(images, 0.5)
    expected_gradients, expected = pulled["flax"]
    for method in METHODS:
        jax.tree.map(np.testing.assert_array_equal, drawn[method], drawn["flax"])
        gradients, output = pulled[method]
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), gradients, expected_gradients
        )


@pytest.mark.parametrize(
    ("batch", "width", "stride", "shape_of_pieces"),
    [(35, 15, 1, (2, 7)), (16, 12, 1, (2, 5)), (17, 23, 2, (2, 6)), (3, 10, 1, (1, 8))],
)
def test_pieces_of_rows_and_images_at_a_time(batch, width, stride, shape_of_pieces):
    """Chunks of 16 images with a remainder or without; pieces that fit and, first, one column too many."""
    images, kernel = random(0, batch, 5, width, 2), random(1, 3, 3, 2, 3)
    out_width = (width - 3) // stride + 1
    piece = piece_width(out_width)
    assert (-(-out_width // piece), piece) == shape_of_pieces

    def pulled(function):
        return jax.jit(jax.value_and_grad(lambda i, k: jnp.sum(jnp.sin(function(i, k))), (0, 1)))(
            images, kernel
        )

    ours = pulled(lambda i, k: convolve(i, k, (1, stride), method="banded"))
    numbers = ("NHWC", "HWIO", "NHWC")
    xla = pulled(
        lambda i, k: jax.lax.conv_general_dilated(i, k, (1, stride), "VALID", dimension_numbers=numbers)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, xla)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(3, 7),
    columns=st.integers(3, 7),
    size=st.integers(1, 3),
    values=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_pooling_as_flax_ties_included(rows, columns, size, values, seed):
    drawn = np.random.default_rng(seed).integers(0, values, (2, rows, columns, 2))
    images, weights = jnp.asarray(drawn, jnp.float32), random(seed, 2, rows // size, columns // size, 2)

    def pulled(pool):
        return jax.jit(jax.value_and_grad(lambda i: jnp.sum(weights * pool(i))))(images)

    ours = pulled(lambda i: max_pool(i, size))
    flax = pulled(lambda i: nn.max_pool(i, (size, size), (size, size)))
    np.testing.assert_allclose(ours[0], flax[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours[1], flax[1])


def test_pooling_by_hand_and_a_nan_stays():
    image = jnp.array([[1.0, 5, 2, 0], [3, 4, jnp.nan, 9]]).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(max_pool(image)[0, :, :, 0], [[5, np.nan]])
    np.testing.assert_array_equal(max_pool(image[:, ::-1])[0, :, :, 0], [[5, np.nan]])


@pytest.mark.parametrize("method", METHODS)
def test_a_filter_bank_for_each_run(method):
    images, kernels = random(0, 2, 6, 6, 2), random(1, 3, 3, 3, 2, 4)
    together = jax.vmap(lambda kernel: convolve(images, kernel, method=method))(kernels)
    for one, kernel in zip(together, kernels, strict=True):
        expected = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_convolved():
    images, kernel = random(0, 1, 4, 4, 2), random(1, 5, 3, 2, 1)
    with pytest.raises(ValueError, match="smaller than a window"):
        convolve(images, kernel)
    with pytest.raises(ValueError, match="2 channels, the filters 3"):
        convolve(images, random(1, 3, 3, 3, 1))
    with pytest.raises(ValueError, match="unknown convolution method 'fft'"):
        convolve(images, kernel[:3], method="fft")


@pytest.mark.parametrize(("shape", "weights"), [((32, 32, 3), 61_770), ((28, 28, 1), 44_190)])
def test_lenet5_counts(shape, weights):
    tree = models.parameter_shapes(models.from_flax(models.LeNet5()), shape)
    counted = jax.tree.map(lambda leaf, prunable: leaf.size * prunable, tree, masks.prunable(tree))
    assert sum(jax.tree.leaves(counted)) == weights
    assert list(tree) == ["conv_0", "conv_1", "hidden_0", "hidden_1", "output"]


@pytest.mark.parametrize("method", METHODS)
def test_lenet5_as_written_with_flax(method):
    module = models.LeNet5(filters=(2, 3), hidden=(5, 4), method=method)
    images = random(3, 2, 16, 16, 1)
    params = module.init(jax.random.key(0), images)["params"]

    def by_flax(params, x):
        for layer, features in enumerate((2, 3)):
            layer_params = {"params": params[f"conv_{layer}"]}
            x = nn.relu(nn.Conv(features, (5, 5), padding="VALID").apply(layer_params, x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(2, -1)
        for name, width in (("hidden_0", 5), ("hidden_1", 4), ("output", 10)):
            x = nn.Dense(width).apply({"params": params[name]}, x)
            x = x if name == "output" else nn.relu(x)
        return x

    expected = by_flax(params, images)
    np.testing.assert_allclose(module.apply({"params": params}, images), expected, rtol=1e-5, atol=1e-5)
    ours = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, images) ** 2))(params)
    flax = jax.grad(lambda p: jnp.sum(by_flax(p, images) ** 2))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, flax)
