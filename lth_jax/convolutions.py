"""Convolutions as matrix products, behind the parameters of ``flax.linen.Conv``.

Every run has filters of its own, so many runs at once turn XLA's convolution into a grouped one, which is
slow, and inside a ``lax.scan`` on a CPU even a single one is. Two ways to one matrix product:

``patches`` gathers every window into a row: ``[batch · rows · columns, window · in] @ [window · in, out]``.
It does no needless arithmetic, but its product has only ``out`` columns, 6 or 16 in a LeNet-5.

``banded`` convolves whole rows: the filters become a banded (Toeplitz) matrix from input rows to an output
row, ``[batch · rows, height · columns · in] @ [height · columns · in, columns' · out]``. It multiplies by
the zeros outside the band, 2.8 to 6.4 times the arithmetic in a LeNet-5, at the full speed of a wide product.

LeNet-5 on 32×32×3, batch 1024, images trained per second of one core's time: ``flax.linen.Conv`` 200,
patches 2,000, banded 4,200 (``python -m experiments benchmark`` measures them again). Hence banded on a CPU.
Elsewhere patches, which needs the least memory and arithmetic when the runs of a chunk make the product a
batched one; that choice has not been timed yet.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

METHODS = ("auto", "patches", "banded")

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "rows columns in_channels features"]
Convolved = Float[Array, "batch out_height out_width features"]
Pads = Sequence[tuple[int, int]]


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
    edges = [((0, 0), (x, width - columns - x), (0, 0), (0, 0)) for x in places]
    return jnp.stack([jnp.pad(kernel, edge) for edge in edges], axis=3)


def banded(images: Images, kernel: Kernel, strides: Sequence[int]) -> Convolved:
    """Convolve without padding: whole rows times a banded matrix. One infinite pixel spoils its rows."""
    rows, _, channels, features = kernel.shape
    batch, height, width, _ = images.shape
    out_height = (height - rows) // strides[0] + 1
    matrix = band(kernel, width, strides[1])
    flat = images.reshape(batch, height, width * channels)
    shifted = [flat[:, y : y + (out_height - 1) * strides[0] + 1 : strides[0]] for y in range(rows)]
    product = jnp.concatenate(shifted, axis=-1) @ matrix.reshape(rows * width * channels, -1)
    return product.reshape(batch, out_height, -1, features)


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
