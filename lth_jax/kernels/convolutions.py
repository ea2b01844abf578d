"""Convolutions as matrix products, behind the parameters of ``flax.linen.Conv``.

Every run has filters of its own, so many runs at once turn XLA's convolution into a grouped one, which is
slow, and inside a ``lax.scan`` on a CPU even a single one is. Two ways to one matrix product:

``patches`` gathers every window into a row: ``[batch · rows · columns, window · in] @ [window · in, out]``.
It does no needless arithmetic, but its product has only ``out`` columns, 6 or 16 in a LeNet-5.

``banded`` convolves pieces of rows: the filters become a banded (Toeplitz) matrix from the input's columns
to a few of the output's, ``[batch · rows · pieces, height · columns · in] @ [height · columns · in, piece ·
out]``. It multiplies by the zeros outside the band, about twice the arithmetic in a LeNet-5, at the speed of
a wide product; a few images at a time, gathered again for the gradient, so that all of it stays in the cache.

LeNet-5 on 32×32×3, batch 1024, trained on one core, speeds in turn in one run: whole rows as one band 1,
patches 0.3, pieces of rows 1.0, pieces of rows of 16 images at a time 1.5; ``flax.linen.Conv`` 0.05 in an
earlier one. ``python -m experiments benchmark`` measures patches and banded again. Hence banded on a CPU.
Elsewhere patches, which needs the least memory and arithmetic when the runs of a chunk make the product a
batched one; that choice has not been timed yet.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

METHODS = ("auto", "patches", "banded")

_PATCHES: contextvars.ContextVar[bool] = contextvars.ContextVar("patches only", default=False)

WIDEST_PIECE = 8
IMAGES_AT_ONCE = 16

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "rows columns in_channels features"]
Convolved = Float[Array, "batch out_height out_width features"]
Pads = Sequence[tuple[int, int]]


@contextlib.contextmanager
def as_patches() -> Iterator[None]:
    """Inside, :func:`convolve` does no needless arithmetic, whatever method is asked for: for counting it."""
    token = _PATCHES.set(True)
    try:
        yield
    finally:
        _PATCHES.reset(token)


def patches(images: Images, kernel: Kernel, strides: Sequence[int]) -> Convolved:
    """Convolve without padding: every window a row of one matrix product."""
    rows, columns, channels, features = kernel.shape
    down, along = strides
    height = (images.shape[1] - rows) // down + 1
    width = (images.shape[2] - columns) // along + 1
    shifted = [
        images[:, y : y + (height - 1) * down + 1 : down, x : x + (width - 1) * along + 1 : along]
        for y in range(rows)
        for x in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(rows * columns * channels, features)


def band(
    kernel: Kernel, width: int, stride: int
) -> Float[Array, "rows width in_channels out_width features"]:
    """The filters' rows as banded matrices: entry ``[y, w, c, x, f]`` is ``kernel[y, w − stride · x, c, f]``.

    Args:
      kernel: the filters.
      width: columns of the input, padding included.
      stride: columns from one window to the next.
    """
    columns = kernel.shape[1]
    places = range(0, width - columns + 1, stride)
    paddings = [((0, 0), (x, width - columns - x), (0, 0), (0, 0)) for x in places]
    return jnp.stack([jnp.pad(kernel, padding) for padding in paddings], axis=3)


def banded(images: Images, kernel: Kernel, strides: Sequence[int]) -> Convolved:
    """Convolve without padding: pieces of rows times a banded matrix. An infinite pixel spoils its pieces."""
    rows, columns, channels, features = kernel.shape
    down, along = strides
    out_width = (images.shape[2] - columns) // along + 1
    piece = piece_width(out_width)
    pieces, width = -(-out_width // piece), (piece - 1) * along + columns
    starts = range(0, pieces * piece * along, piece * along)
    missing = max(0, starts[-1] + width - images.shape[2])

    @jax.checkpoint
    def some(images: Images) -> Convolved:
        matrix = band(kernel, width, along).reshape(rows * width * channels, piece * features)
        if missing:
            images = jnp.pad(images, ((0, 0), (0, 0), (0, missing), (0, 0)))
        gathered = jnp.stack([side_by_side(images[:, :, x : x + width], rows, down) for x in starts], axis=2)
        return (gathered @ matrix).reshape(*gathered.shape[:2], -1, features)[:, :, :out_width]

    whole = len(images) // IMAGES_AT_ONCE * IMAGES_AT_ONCE
    if not whole:
        return some(images)
    chunks = lax.map(some, images[:whole].reshape(-1, IMAGES_AT_ONCE, *images.shape[1:]))
    convolved = chunks.reshape(whole, *chunks.shape[2:])
    return jnp.concatenate([convolved, some(images[whole:])]) if whole < len(images) else convolved


def side_by_side(images: Images, rows: int, stride: int) -> Float[Array, "batch out_height window"]:
    """For each row of the output, the ``rows`` rows of the input that it sees, one after the other."""
    flat = images.reshape(*images.shape[:2], -1)
    last = images.shape[1] - rows
    return jnp.concatenate([flat[:, y : y + last + 1 : stride] for y in range(rows)], axis=-1)


def piece_width(out_width: int) -> int:
    """Columns of the output that one banded matrix gives: at most eight, all pieces alike."""
    return -(-out_width // -(-out_width // WIDEST_PIECE))


def convolve(
    images: Images,
    kernel: Kernel,
    strides: Sequence[int] = (1, 1),
    padding: str | Pads = "VALID",
    method: str = "auto",
) -> Convolved:
    """A batch of images convolved with filters, as ``lax.conv_general_dilated`` in NHWC and HWIO.

    Args:
      images: the batch.
      kernel: the filters.
      strides: rows and columns from one window to the next.
      padding: ``VALID`` (none), ``SAME``, or zeros ``(before, after)`` for rows and for columns.
      method: ``patches``, ``banded``, or ``auto``: banded on a CPU, patches elsewhere.

    Raises:
      ValueError: an unknown method, other channels than the filters have, or images smaller than a window.
    """
    if method not in METHODS:
        raise ValueError(f"unknown convolution method {method!r}; expected one of {', '.join(METHODS)}")
    if images.shape[3] != kernel.shape[2]:
        raise ValueError(f"the images have {images.shape[3]} channels, the filters {kernel.shape[2]}")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    if any(side for pair in padding for side in pair):
        images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    if images.shape[1] < kernel.shape[0] or images.shape[2] < kernel.shape[1]:
        raise ValueError(f"images of {images.shape[1:3]} are smaller than a window of {kernel.shape[:2]}")
    if _PATCHES.get():
        method = "patches"
    if method == "auto":
        method = "banded" if jax.default_backend() == "cpu" else "patches"
    return {"patches": patches, "banded": banded}[method](images, kernel, strides)


class Conv(nn.Module):
    """``flax.linen.Conv`` for images as a matrix product: the same parameters, the same outputs to rounding.

    Parameters ``kernel`` [rows, columns, in, out] and ``bias`` [out]; the arguments are Flax's, and
    ``method`` is :func:`convolve`'s.
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] = (1, 1)
    padding: str | Pads = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()
    method: str = "auto"

    @nn.compact
    def __call__(self, images: Images) -> Convolved:
        shape = (*self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        output = convolve(images, kernel, self.strides, self.padding, self.method)
        if not self.use_bias:
            return output
        return output + self.param("bias", self.bias_init, (self.features,)).reshape(1, 1, 1, -1)


def max_pool(images: Images, size: int = 2) -> Float[Array, "batch out_height out_width channels"]:
    """The largest of every ``size`` × ``size`` block; a remainder at the right and bottom is left out.

    As ``nn.max_pool`` with window and strides ``size``: among equals the first one gets the gradient, and NaN
    stays NaN.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    blocks = images[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    largest = blocks[:, :, 0, :, 0]
    for entry in range(1, size * size):
        other = blocks[:, :, entry // size, :, entry % size]
        largest = jnp.where((largest >= other) | jnp.isnan(largest), largest, other)
    return largest
