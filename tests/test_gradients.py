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
from lth_jax.kernels.native import Native, native

WAYS = ["native", "products"]
NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """By the native kernels, or as where there is no compiler."""
    if request.param == "products":
        monkeypatch.setattr(gradients, "native", lambda: Native(False))
    elif not native().available:
        pytest.skip(f"no native kernels: {native().reason}")
    return request.param


def rewritten(function):
    return rewriting.rewrite(function, gradients.fast_in_a_loop, gradients.OPERATIONS)


def operations(function, *args):
    """The names of all operations of a function, in loops and calls as well."""
    return str(jax.make_jaxpr(function)(*args))


def test_the_gradient_of_filters_by_hand():
    # Two images of three pixels, one filter of two: d/dw[p] of the sum of dy · y is Σ x[p + w] dy[w].
    images = jnp.array([[1.0, 2, 3], [4, 5, 6]])[..., None]
    gradient = jnp.array([[10.0, 100], [1, 0]])[..., None]
    expected = [10 + 200 + 4, 20 + 300 + 5]
    geometry = gradients.Geometry(((0, 0),), (1,), (1,))
    found = gradients.at_few_places(images, gradient, [2], geometry, jnp.float32)
    np.testing.assert_array_equal(found[:, 0, 0], expected)
    if native().available:
        geometry = gradients.Geometry(((0, 0), (0, 0)), (1, 1), (1, 1))
        found = gradients.native_gradient((1, 2), geometry, images[:, None], gradient[:, None])
        np.testing.assert_array_equal(found[0, :, 0, 0], expected)


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


@settings(max_examples=15, deadline=None)
@given(geometry=geometries(), at_once=st.sampled_from([1, 400, 2**17]), way=st.sampled_from(WAYS))
def test_convolutions_and_their_gradients_are_jaxs_own(geometry, at_once, way):
    """One example at a time, a few with a remainder, all; images shifted, and windows, and steps of two."""
    images, filters, strides, dilation, padding = geometry
    letters = "XY"[: len(strides)]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    rng = np.random.default_rng(sum(images))
    images, filters = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (images, filters))

    def loss(images, filters):
        found = lax.conv_general_dilated(
            images, filters, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )
        return jnp.sum(jnp.sin(found))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "PATCHES_AT_ONCE", at_once)
        if way == "products":
            patch.setattr(gradients, "native", lambda: Native(False))
        found = rewritten(jax.value_and_grad(loss, (0, 1)))(images, filters)
    expected = jax.value_and_grad(loss, (0, 1))(images, filters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=5e-5), found, expected)


@pytest.mark.parametrize("channels", [1, 16])
def test_no_large_window_is_left_to_xla(channels, way):
    """Few channels and many: the gradient of 3×3 filters is a kernel of ours, or a loop over the examples."""
    images = jnp.ones((4, 32, 32, channels))
    loss = lambda filters: jnp.sum(  # noqa: E731
        lax.conv(jnp.moveaxis(images, -1, 1), filters, (1, 1), "SAME") ** 2
    )
    filters = jnp.ones((16, channels, 3, 3))
    assert operations(jax.grad(loss), filters).count("conv_general_dilated[") == 2
    told = operations(rewritten(jax.grad(loss)), filters)
    names = ("conv_general_dilated[", "ffi_call[", "scan[", "dot_general[")
    products = 1 if channels == 1 else 3
    expected = (0, 2, 0, 0) if way == "native" else (1, 0, 1, products)
    assert tuple(told.count(name) for name in names) == expected


OTHERS = {
    "half precision": (jnp.ones((2, 5, 5, 4), jnp.bfloat16), nn.Conv(4, (3, 3), dtype=jnp.bfloat16)),
    "three axes of space": (jnp.ones((2, 4, 4, 4, 4)), nn.Conv(4, (3, 3, 3))),
    "gaps in a row": (jnp.ones((2, 7, 7, 4)), nn.Conv(4, (3, 3), kernel_dilation=(1, 2))),
    "groups": (jnp.ones((2, 5, 5, 4)), nn.Conv(4, (3, 3), feature_group_count=2)),
    "nothing in a batch": (jnp.ones((0, 5, 5, 4)), nn.Conv(4, (3, 3))),
    "a large window": (jnp.ones((2, 300, 2)), nn.Conv(2, (200,), padding="VALID")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_the_native_kernels_cannot_is_not_asked_of_them(case):
    images, module = OTHERS[case]
    images = images * jnp.asarray(np.random.default_rng(0).standard_normal(images.shape), images.dtype)
    variables = module.init(jax.random.key(0), images)
    loss = lambda v: jnp.sum(module.apply(v, images).astype(jnp.float32) ** 2)  # noqa: E731
    told = operations(rewritten(jax.grad(loss)), variables)
    assert "ffi_call[" not in told
    assert "conv_general_dilated[" in told
    found, expected = (gradient(variables) for gradient in (rewritten(jax.grad(loss)), jax.grad(loss)))
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [
        leaf.dtype for leaf in jax.tree.leaves(expected)
    ]
    close = 2e-2 if images.dtype == jnp.bfloat16 else 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=close, atol=close), found, expected)


def test_half_precision_is_summed_in_single():
    """A sum of many examples' parts in bfloat16 was wrong by 2.5 %."""
    rng = np.random.default_rng(0)
    images, filters = (
        jnp.asarray(rng.random(shape), jnp.bfloat16) for shape in ((512, 8, 8, 4), (3, 3, 4, 4))
    )

    def loss(filters):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(lax.conv_general_dilated(images, filters, (1, 1), "SAME", dimension_numbers=numbers))

    found, exact = (
        np.asarray(gradient(filters), np.float64) for gradient in (rewritten(jax.grad(loss)), jax.grad(loss))
    )
    np.testing.assert_allclose(found, exact, rtol=6e-3)


def test_an_ordinary_convolution_with_a_large_window_is_no_gradient():
    """Patches of 16 pixels, 2 × 2 of them, compiled for ten seconds as products of each."""
    images, module = jnp.ones((2, 32, 32, 3)), nn.Conv(8, (16, 16), (16, 16))
    variables = module.init(jax.random.key(0), images)
    apply = lambda v: module.apply(v, images)  # noqa: E731
    told = operations(rewritten(apply), variables)
    assert told.count("dot_general[") == 0
    assert told.count("ffi_call[") + told.count("conv_general_dilated[") == 1
    np.testing.assert_allclose(rewritten(apply)(variables), apply(variables), rtol=1e-5, atol=1e-5)


def test_it_can_be_differentiated_again(way):
    """A derivative of the gradient, as somebody's own score or meta-learning may ask for."""
    rng = np.random.default_rng(0)
    images, filters, along = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, 5, 5, 3), (3, 3, 3, 4), (3, 3, 3, 4))
    )

    def loss(filters):
        found = lax.conv_general_dilated(images, filters, (2, 1), "SAME", dimension_numbers=NUMBERS)
        return jnp.sum(jnp.sin(found))

    curved = lambda gradient: lambda f: jnp.sum(gradient(f) * along)  # noqa: E731
    found = jax.grad(curved(rewritten(jax.grad(loss))))(filters)
    np.testing.assert_allclose(found, jax.grad(curved(jax.grad(loss)))(filters), rtol=1e-4, atol=1e-4)


def test_a_pooling_over_whole_images_is_left_as_it_is():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 9, 3)), jnp.float32)
    loss = lambda images: jnp.sum(nn.max_pool(images, (9, 9), (9, 9)) ** 2)  # noqa: E731
    assert "select_and_scatter" in operations(rewritten(jax.grad(loss)), images)


@pytest.mark.skipif(not native().available, reason=f"no native kernels: {native().reason}")
def test_several_networks_at_once_have_each_ones_own_numbers():
    rng = np.random.default_rng(0)
    shapes = (3, 2, 6, 6, 4), (3, 3, 3, 4, 8)
    images, filters = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    module = nn.Conv(8, (3, 3), use_bias=False)

    def loss(filters, images):
        return jnp.sum(module.apply({"params": {"kernel": filters}}, images) ** 3)

    together = jax.jit(jax.vmap(rewritten(jax.grad(loss))))(filters, images)
    for alone, *network in zip(together, filters, images, strict=True):
        np.testing.assert_array_equal(alone, jax.jit(rewritten(jax.grad(loss)))(*network))


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


def test_a_resnets_gradient_is_jaxs_own(way):
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
