"""Convolutions and poolings of any model as they are fast in a CPU's loop, their gradients above all.

Inside a ``lax.scan`` XLA takes a convolution's axes as they are written, and a gradient's are written in an
order in which it takes 25 times as long as outside (jax issue 12868). In the order that XLA is fast at,
outputs and the images' gradient are as fast as matrix products, where there are many channels. The gradient
of 3×3 filters has nine places for windows as large as the images, and takes five times as long as theirs. The
native kernels do all three at the speed of matrix products, on as many threads as XLA has. Without them
the gradient of the filters is products of shifted images with gradients, a few examples at a time, in half of
XLA's time.

XLA looks for the largest pixel of every pooling window one pixel at a time; all windows at once take a tenth.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float

from lth_jax.kernels.native import TARGETS, native

CONVOLUTION = "conv_general_dilated"
POOLING = "select_and_scatter_add"
"""The gradient of a maximum over windows."""
OPERATIONS = (CONVOLUTION, POOLING)

PATCHES_AT_ONCE = 2**17
"""Numbers that shifted images or windows may have at a time: half a megabyte stays in the cache."""

MOST_PLACES = 128
"""Of filters' pixels, each of which is a matrix product in the program where there are no native kernels."""

MOST_ENTRIES = 64
"""Of a pooling window, each of which is an operation in the program."""

Pads = Sequence[tuple[int, int]]


def fast_in_a_loop(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A rule for ``rewriting``: the same values up to rounding, in operations that a CPU is fast at."""
    rule = {CONVOLUTION: convolution, POOLING: pooling}.get(equation.primitive.name)
    return rule(equation, operands) if rule else None


def convolution(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A convolution and the gradient of filters by the native kernels, where they can.

    Where they cannot, the gradient is :func:`at_few_places`, and any other convolution has its axes brought
    into XLA's order.
    """
    params = equation.params
    outcome: Any = equation.outvars[0].aval
    images, windows, out = params["dimension_numbers"]
    space = range(2, operands[0].ndim)
    whole = params["feature_group_count"] == params["batch_group_count"] == 1
    dense = whole and all(step == 1 for step in params["lhs_dilation"])
    if not dense or not space or 0 in (*operands[0].shape, *operands[1].shape, *outcome.shape):
        return in_canonical_order(equation, operands)
    places = [outcome.shape[axis] for axis in out[2:]]
    padding = tuple((before, after) for before, after in params["padding"])
    geometry = Geometry(padding, tuple(params["window_strides"]), tuple(params["rhs_dilation"]))
    floats = all(each.dtype == jnp.float32 for each in (*operands, outcome))
    # Where filters have a gradient, the images' channels stand for examples, and a place for each pixel.
    if images[0] > images[1]:
        turned = _turn(operands[0], images, (1, *space, 0)), _turn(operands[1], windows, (1, *space, 0))
        if floats and is_native(geometry.strides):
            found = native_gradient(tuple(places), geometry, *turned)
        elif math.prod(places) <= MOST_PLACES:
            found = at_few_places(*turned, places, geometry, outcome.dtype)
        else:
            return in_canonical_order(equation, operands)
        return [_turn_back(found, out, (*space, 0, 1))]
    if floats and is_native(geometry.dilation):
        turned = _turn(operands[0], images, (0, *space, 1)), _turn(operands[1], windows, (*space, 1, 0))
        return [_turn_back(native_convolution(tuple(places), geometry, *turned), out, (0, *space, 1))]
    return in_canonical_order(equation, operands)


def _turn(operand: Array, spec: Sequence[int], order: Sequence[int]) -> Array:
    """The axes, which a specification names, in an order of its names."""
    return jnp.transpose(operand, [spec[name] for name in order])


def _turn_back(found: Array, spec: Sequence[int], order: Sequence[int]) -> Array:
    """Axes in an order of a specification's names, as the specification has them."""
    return jnp.transpose(found, np.argsort([spec[name] for name in order]).tolist())


class Geometry(NamedTuple):
    """Where windows meet images, by axis of space.

    ``padding`` is zeros before and after the images; below 0 it cuts pixels off. From one place to the next
    are ``strides`` pixels, from one pixel of a window to the next ``dilation``.
    """

    padding: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]


def is_native(spread: Sequence[int]) -> bool:
    """Whether the native kernels can: two axes of space, no gaps between the pixels of a filter's row."""
    return len(spread) == 2 and spread[1] == 1 and native().available


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def native_convolution(
    places: tuple[int, ...],
    geometry: Geometry,
    images: Float[Array, "examples height width channels"],
    filters: Float[Array, "rows columns channels features"],
) -> Float[Array, "examples out_height out_width features"]:
    """A convolution by the native kernel; its derivative, should anyone ask, is XLA's."""
    shape = (len(images), *places, filters.shape[-1])
    return _call("convolve", shape, images, filters, geometry.padding, geometry.strides, geometry.dilation[0])


@native_convolution.defjvp
def _(places: tuple[int, ...], geometry: Geometry, primals: Any, tangents: Any) -> tuple[Array, Array]:
    def linear(images: Array, filters: Array) -> Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        padding, strides, dilation = geometry
        return lax.conv_general_dilated(
            images, filters, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )

    (images, filters), (images_dot, filters_dot) = primals, tangents
    return native_convolution(places, geometry, images, filters), (
        linear(images_dot, filters) + linear(images, filters_dot)
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def native_gradient(
    places: tuple[int, ...],
    geometry: Geometry,
    images: Float[Array, "examples height width channels"],
    windows: Float[Array, "examples out_height out_width features"],
) -> Float[Array, "rows columns channels features"]:
    """As :func:`at_few_places`, by the native kernel.

    What are strides between places here is the convolution's dilation, and the other way round.
    """
    shape = (*places, images.shape[-1], windows.shape[-1])
    return _call("filters", shape, images, windows, geometry.padding, geometry.dilation, geometry.strides[0])


@native_gradient.defjvp
def _(places: tuple[int, ...], geometry: Geometry, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (images, windows), (images_dot, windows_dot) = primals, tangents
    return native_gradient(places, geometry, images, windows), (
        at_few_places(images_dot, windows, places, geometry, jnp.float32)
        + at_few_places(images, windows_dot, places, geometry, jnp.float32)
    )


def _call(
    name: str, shape: tuple[int, ...], left: Array, right: Array, padding: Pads, strides: Any, spread: int
) -> Array:
    (top, _), (left_side, _) = padding
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.ffi.ffi_call(TARGETS[name], result, vmap_method="sequential")
    return call(left, right, geometry=np.array([top, left_side, *strides, spread], np.int64))


def at_few_places(
    images: Float[Array, "examples *space channels"],
    windows: Float[Array, "examples *window features"],
    places: Sequence[int],
    geometry: Geometry,
    dtype: Any,
) -> Array:
    """Large windows at few places, summed over examples, as matrix products of a few examples at a time.

    Entry ``[p, c, f]`` is the sum over examples e and a window's pixels w of ``images[e, strides · p +
    dilation · w, c] · windows[e, w, f]``: the gradient of a convolution's filters. Either the images are
    shifted to all places side by side, or the windows to the places of their last axis, which writes less
    where images have many channels.

    Args:
      images: what the convolution was of.
      windows: the gradient of its outputs.
      places: of the windows, by axis of space: one for each of the filters' pixels.
      geometry: where they are.
      dtype: of the result; half precision is summed in single.
    """
    half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    sums = jnp.float32 if half else dtype
    padding, strides, dilation = geometry
    size, channels, features = windows.shape[1:-1], images.shape[-1], windows.shape[-1]
    few_channels = math.prod(places) * channels <= places[-1] * features
    if few_channels or max(*strides, *dilation) > 1:
        sides, along = list(padding), 0
    else:
        sides, along = [*padding[:-1], (0, 0)], places[-1]
        width, before = images.shape[-2], padding[-1][0]
        windows = _padded(
            windows, [(0, 0)] * (len(places) - 1) + [(along - 1 - before, width + before - size[-1])]
        )
    images = _padded(images, sides)

    def met(images: Array, place: tuple[int, ...]) -> Array:
        """The pixels that a window meets there."""
        axes = zip(place, strides, dilation, size, strict=False)
        return images[:, *(slice(p * by, p * by + (n - 1) * step + 1, step) for p, by, step, n in axes)]

    def product(images: Array, windows: Array) -> Array:
        if not along:
            left = jnp.concatenate([met(images, place) for place in np.ndindex(*places)], -1)
            return _summed(left, windows, sums)
        shifted = [windows[..., along - 1 - p : along - 1 - p + width, :] for p in range(along)]
        right = jnp.concatenate(shifted, -1)
        products = [_summed(met(images, place), right, sums) for place in np.ndindex(*places[:-1])]
        return jnp.stack(products)

    columns = along * features or math.prod(places) * channels
    at_once = min(len(images), max(1, PATCHES_AT_ONCE // (math.prod(size) * columns)))
    whole = len(images) // at_once * at_once
    parts = [part[:whole].reshape(-1, at_once, *part.shape[1:]) for part in (images, windows)]
    zero = jnp.zeros(jax.eval_shape(product, images, windows).shape, sums)
    found, _ = lax.scan(lambda total, part: (total + product(*part), None), zero, tuple(parts))
    if whole < len(images):
        found += product(images[whole:], windows[whole:])
    found = found.astype(dtype)
    if not along:
        return found.reshape(*places, channels, features)
    return jnp.moveaxis(found.reshape(*places[:-1], channels, along, features), -2, -3)


def _padded(images: Array, sides: Pads) -> Array:
    return lax.pad(
        images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*side, 0) for side in sides), (0, 0, 0)]
    )


def _summed(left: Array, right: Array, dtype: Any) -> Array:
    """The products of all channels with all features, summed over examples and pixels."""
    left, right = (side.reshape(-1, side.shape[-1]) for side in (left, right))
    return lax.dot_general(left, right, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


def pooling(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """The gradient of a maximum over windows side by side; others are left as they are.

    The first of the largest gets all of it, as XLA has it.
    """
    params, (gradient, images) = equation.params, operands
    window = params["window_dimensions"]
    apart = tuple(window) == tuple(params["window_strides"]) and not any(map(any, params["padding"]))
    if not apart or params["select_prim"].name != "ge" or math.prod(window) > MOST_ENTRIES:
        return None
    entries = list(np.ndindex(*window))
    inner = [count * size for count, size in zip(gradient.shape, window, strict=True)]
    pixels = [
        images[tuple(slice(at, stop, size) for at, stop, size in zip(entry, inner, window, strict=True))]
        for entry in entries
    ]
    largest, chosen = pixels[0], jnp.zeros(gradient.shape, jnp.int32)
    for number, pixel in enumerate(pixels[1:], 1):
        stays = largest >= pixel
        largest, chosen = jnp.where(stays, largest, pixel), jnp.where(stays, chosen, number)
    spread = lambda each: jnp.expand_dims(each, range(1, 2 * each.ndim, 2))  # noqa: E731
    numbers = np.arange(len(entries), dtype=np.int32).reshape([side for size in window for side in (1, size)])
    found = jnp.where(spread(chosen) == numbers, spread(gradient), 0).reshape(inner)
    rest = [(0, whole - part) for whole, part in zip(images.shape, inner, strict=True)]
    return [jnp.pad(found, rest)]


def in_canonical_order(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A rule for ``rewriting``: every convolution with its axes in the order that XLA computes fast.

    That is batch, space, channels and space, input, output. The gradient of a convolution is one in another
    order; a CPU's compiler brings it into this one, but not inside a loop, where it takes 25 times as long.
    """
    if equation.primitive.name != CONVOLUTION:
        return None
    params = dict(equation.params)
    given = params.pop("dimension_numbers")
    rank = operands[0].ndim
    space = range(2, rank)
    image, kernel = (0, *space, 1), (*space, 1, 0)  # of (batch, channels, space), of (output, input, space)
    specs = [given.lhs_spec, given.rhs_spec, given.out_spec]
    wanted = [image, kernel, image]
    orders = [[spec[axis] for axis in order] for spec, order in zip(specs, wanted, strict=True)]
    if all(order == list(range(rank)) for order in orders):
        return None
    numbers = lax.ConvDimensionNumbers(
        (0, rank - 1, *range(1, rank - 1)),
        (rank - 1, rank - 2, *range(rank - 2)),
        (0, rank - 1, *range(1, rank - 1)),
    )
    turned = [jnp.transpose(operand, order) for operand, order in zip(operands, orders, strict=False)]
    found = equation.primitive.bind(*turned, dimension_numbers=numbers, **params)
    return [jnp.transpose(found, [orders[2].index(axis) for axis in range(rank)])]
