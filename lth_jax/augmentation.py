"""Augmentation inside the compiled loop: random changes of single images, with a key for each example.

A step is a function of one image, ``(key, image[height, width, channels]) -> image``. :func:`augmented` puts
some before any task of images: while training every example of a batch goes through all of them, each with a
key of its own; in evaluation only those that are :class:`Fixed`. Keys come from the run's own stream, so what
is drawn for a seed is the same whatever is trained beside it.

>>> task = augmented(classification(), flip, crop(4), normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))

Sources: flip and a crop out of 4 pixels of padding: He et al. 2016, §4.2; cutout: DeVries & Taylor 2017, §3.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from lth_jax.errors import InputError, require, whole_number
from lth_jax.tasks import Task, described
from lth_jax.types import PRNGKey, Whole

Image = Float[Array, "height width channels"]

Step = Callable[[PRNGKey, Any], Any]
"""``(key, image) -> image``, the image ``[height, width, channels]`` as the task's inputs have it."""

MOST = 1000
"""Pixels of a border or a square, at most."""


class Fixed(NamedTuple):
    """A step that draws nothing, ``image -> image``: the one kind that evaluation has too."""

    change: Callable[[Any], Any]


def augmented(task: Task, *steps: Step | Fixed) -> Task:
    """A task whose images are changed before the model sees them.

    Args:
      task: of images, ``[example, height, width, channels]``; its other parts stay.
      *steps: in their order; what is no :class:`Fixed` is left out in evaluation. A function of your own will
        do.

    Raises:
      ValueError: when it is first used, if the task's inputs are no images.
    """

    def one(key: PRNGKey | None, image: Any) -> Any:
        for number, step in enumerate(steps):
            if isinstance(step, Fixed):
                image = step.change(image)
            elif key is not None:
                image = step(jax.random.fold_in(key, number), image)
        return image

    def inputs(key: PRNGKey | None, batch: PyTree) -> Any:
        own, below = (None, None) if key is None else jax.random.split(key)
        images = task.inputs(below, batch)
        if jnp.ndim(images) != 4:
            wanted = "images [examples, height, width, channels]"
            raise ValueError(f"the task's inputs are {described(images)}: augmentation takes {wanted}")
        if own is None:
            return jax.vmap(lambda image: one(None, image))(images)
        keys = jax.vmap(lambda place: jax.random.fold_in(own, place))(jnp.arange(len(images)))
        return jax.vmap(one)(keys, images)

    return task._replace(inputs=inputs)


def flip(key: PRNGKey, image: Image) -> Image:
    """Left for right, in one of two cases."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop(padding: Whole) -> Step:
    """A window of the image's own size, anywhere in the image with a black border around it.

    Args:
      padding: the border's width in pixels; the window is 0 to twice as many from the top and the left.

    Raises:
      InputError: it is no whole number from 1 to 1,000.
    """
    border = _pixels("crop", padding)

    def step(key: PRNGKey, image: Image) -> Image:
        return cropped(image, jax.random.randint(key, (2,), 0, 2 * border + 1), border)

    return step


def cropped(image: Image, offset: Int[Array, "2"], padding: int) -> Image:
    """The window that begins ``offset`` (row, column) into the image with a border of zeros around it."""
    whole = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(whole, (offset[0], offset[1], jnp.zeros_like(offset[0])), image.shape)


def cutout(size: Whole) -> Step:
    """A square of zeros whose center is anywhere in the image; the part outside is lost.

    Behind a normalization zero is the mean of the data.

    Args:
      size: pixels of a side.

    Raises:
      InputError: it is no whole number from 1 to 1,000.
    """
    side = _pixels("cutout", size)

    def step(key: PRNGKey, image: Image) -> Image:
        center = jax.random.randint(key, (2,), 0, jnp.asarray(image.shape[:2]))
        return cut(image, center, side)

    return step


def cut(image: Image, center: Int[Array, "2"], size: int) -> Image:
    """The image with 0 in a square: ``size`` rows and columns from ``center`` − size // 2 on."""
    first = center - size // 2
    inside = [
        (jnp.arange(length) >= first[axis]) & (jnp.arange(length) < first[axis] + size)
        for axis, length in enumerate(image.shape[:2])
    ]
    square = (inside[0][:, None] & inside[1][None, :])[..., None]
    return jnp.where(square, jnp.zeros((), image.dtype), image)


def normalize(mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray) -> Fixed:
    """Every channel less its mean and divided by its standard deviation.

    Args:
      mean: a number for each channel, or one for all.
      std: likewise, positive.

    Raises:
      InputError: a number is not finite, or a standard deviation not positive; where it is applied: the
        image is not of floats, or has another number of channels.
    """
    least, spread = (np.asarray(each, np.float32).reshape(1, 1, -1) for each in (mean, std))
    fits = np.isfinite(least).all() and np.isfinite(spread).all() and (spread > 0).all()
    require(bool(fits), f"mean {mean}, std {std}: expected finite numbers, standard deviations above 0")
    sizes = {least.size, spread.size}

    def change(image: Any) -> Any:
        floats = jnp.issubdtype(image.dtype, jnp.floating)
        require(floats, f"normalize: the image is {image.dtype}, expected floating point")
        channels = image.shape[-1]
        told = f"normalize: {least.size} means and {spread.size} standard deviations, {channels} channels"
        require(sizes <= {1, channels}, told)
        return (image - jnp.asarray(least, image.dtype)) / jnp.asarray(spread, image.dtype)

    return Fixed(change)


def statistics(
    images: UInt8[np.ndarray, "examples height width channels"],
) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
    """Mean and standard deviation of each channel, pixels as floats in [0, 1]: exact but for one rounding.

    Raises:
      InputError: a channel has one value everywhere.
    """
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = sum(
            np.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
            for start in range(0, len(images), 1000)
        )
        number = [int(count) for count in np.asarray(counts)]
        total = sum(number)
        first = sum(value * count for value, count in enumerate(number))
        second = sum(value * value * count for value, count in enumerate(number))
        spread = total * second - first * first
        require(spread > 0, f"channel {channel} has one value everywhere: its standard deviation is 0")
        means.append(first / total / 255)
        stds.append(spread**0.5 / total / 255)
    return np.asarray(means), np.asarray(stds)


KINDS: dict[str, Callable[[int], Step]] = {"crop": crop, "cutout": cutout}
"""Steps by name that take a number of pixels; ``flip`` takes none."""
NAMES = ("flip", *(f"{name}:PIXELS" for name in KINDS))


def named(text: str) -> Step:
    """``flip``, ``crop:4``, ``cutout:8`` as a step.

    Raises:
      InputError: it is none of these.
    """
    name, _, number = text.partition(":")
    if text == "flip":
        return flip
    known = name in KINDS and number.isascii() and number.isdecimal() and len(number) < 6
    require(known, f"{text[:40]}: expected {', '.join(NAMES)}")
    return KINDS[name](int(number))


def is_named(text: str) -> bool:
    """Whether a text begins as those that :func:`named` takes."""
    return text.partition(":")[0] in ("flip", *KINDS)


def _pixels(name: str, value: Any) -> int:
    """A number of pixels from 1 to ``MOST``."""
    number = whole_number(f"{name}:", value)
    if number > MOST:
        raise InputError(f"{name}: {number}: expected at most {MOST:,} pixels")
    return number
