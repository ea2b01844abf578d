"""Gradients of convolutions and poolings as a CPU computes them, against JAX's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from lth_jax import networks, training
from lth_jax.kernels import gradients, rewriting


def rewritten(function):
    return rewriting.rewrite(function, gradients.fast_in_a_loop, gradients.OPERATIONS)


def operations(function, *args):
    """The names of all operations of a function, in loops and calls as well."""
    return str(jax.make_jaxpr(function)(*args))


def test_the_gradient_of_filters_by_hand():
    # Two images of three pixels, one filter of two: d/dw[p] of the sum of dy · y is Σ x[p + w] dy[w].
    images = jnp.array([[1.0, 2, 3], [4, 5, 6]])[..., None]
    gradient = jnp.array([[10.0, 100], [1, 0]])[..., None]
    geometry = gradients.Geometry([2], [(0, 0)], [1], [1])
    found = gradients.at_few_places(images, gradient, geometry)
    np.testing.assert_array_equal(found[:, 0, 0], [10 + 200 + 4, 20 + 300 + 5])


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 2))
    window = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    reach = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    space = [least + draw(st.integers(2, 5)) for least in reach]
    padding = draw(st.sampled_from(["VALID", "SAME", [(2, 0)] * rank, [(0, 1)] * rank]))
    examples, channels, features = (draw(st.integers(1, most)) for most in (5, 9, 4))
    return (examples, *space, channels), (*window, channels, features), strides, dilation, padding


@settings(max_examples=25, deadline=None)
@given(geometry=geometries(), at_once=st.sampled_from([1, 400, 2**17]))
def test_gradients_of_filters_are_jaxs_own(geometry, at_once):
    """One example at a time, a few with a remainder, all; images shifted, and windows, and steps of two."""
    images, filters, strides, dilation, padding = geometry
    letters = "XY"[: len(strides)]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    rng = np.random.default_rng(sum(images))
    images, filters = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (images, filters))

    def loss(filters):
        found = lax.conv_general_dilated(
            images, filters, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )
        return jnp.sum(jnp.sin(found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "PATCHES_AT_ONCE", at_once)
        found = rewritten(jax.grad(loss))(filters)
    np.testing.assert_allclose(found, jax.grad(loss)(filters), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("channels", [1, 16])
def test_no_large_window_is_left_to_xla(channels):
    """Few channels and many: the gradient of 3×3 filters is matrix products, in a loop over the examples."""
    images = jnp.ones((4, 32, 32, channels))
    loss = lambda filters: jnp.sum(  # noqa: E731
        lax.conv(jnp.moveaxis(images, -1, 1), filters, (1, 1), "SAME") ** 2
    )
    filters = jnp.ones((16, channels, 3, 3))
    assert operations(jax.grad(loss), filters).count("conv_general_dilated[") == 2
    told = operations(rewritten(jax.grad(loss)), filters)
    assert (told.count("conv_general_dilated["), told.count("scan[")) == (1, 1)
    assert told.count("dot_general[") == (1 if channels == 1 else 3)


@pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 6, 4, 3), (2, 2)), ((3, 7, 9, 2), (3, 2)), ((1, 2, 2, 1), (2, 2)), ((2, 9, 3), (2,))],
)
def test_the_first_of_the_largest_gets_the_gradient(shape, window):
    """Bit by bit as XLA has it, with many pixels alike and a rest that no window covers."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(-1, 2, shape), jnp.float32)
    loss = lambda images: jnp.sum(jnp.exp(nn.max_pool(images, window, window)) * weights)  # noqa: E731
    weights = jnp.asarray(rng.standard_normal(nn.max_pool(images, window, window).shape), jnp.float32)
    expected = jax.grad(loss)(images)
    assert 0 < np.count_nonzero(expected) < expected.size
    np.testing.assert_array_equal(rewritten(jax.grad(loss))(images), expected)
    assert "select_and_scatter" in operations(jax.grad(loss), images)
    assert "select_and_scatter" not in operations(rewritten(jax.grad(loss)), images)


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "VALID"), ((2, 2), "SAME")])
def test_windows_that_overlap_or_reach_out_are_left_as_they_are(strides, padding):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 5, 3)), jnp.float32)
    loss = lambda images: jnp.sum(nn.max_pool(images, (2, 2), strides, padding) ** 2)  # noqa: E731
    np.testing.assert_array_equal(rewritten(jax.grad(loss))(images), jax.grad(loss)(images))
    assert "select_and_scatter" in operations(rewritten(jax.grad(loss)), images)


def test_a_resnets_gradient_is_jaxs_own():
    module = networks.ResNet(8, width=4)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 16, 3)), jnp.float32)
    variables = module.init(jax.random.key(0), images)

    def loss(params):
        outputs, state = module.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(outputs**2), state

    params = variables["params"]
    found, expected = (
        jax.jit(gradient(loss))(params)
        for gradient in (training.value_and_grad, lambda loss: jax.value_and_grad(loss, has_aux=True))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)
