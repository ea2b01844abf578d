"""What the model of ``lth-jax sweep`` is given of an image: augmentation and normalization, from flags."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lth_jax import augmentation
from lth_jax.commands import theirs
from lth_jax.errors import InputError, require
from lth_jax.tasks import Task, classification, described


def check(augment: Sequence[str]) -> None:
    """Refuse steps that are none.

    Raises:
      InputError: the message names the entry.
    """
    for entry in augment:
        own = ":" in entry and all(entry.partition(":")) and not augmentation.is_named(entry)
        try:
            _ = own or augmentation.named(entry)
        except InputError as error:
            raise InputError(f"--augment {error}") from None


def normalization(normalize: bool, images: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of the training images; {} without ``--normalize``.

    Args:
      normalize: the flag.
      images: uint8, as the data set has them, without those held out for validation.

    Raises:
      InputError: a channel has one value everywhere.
    """
    if not normalize:
        return {}
    try:
        mean, std = augmentation.statistics(images)
    except InputError as error:
        raise InputError(f"--normalize: {error}") from None
    return {"mean": mean.tolist(), "std": std.tolist()}


def make_task(augment: Sequence[str], normalize: bool, images: np.ndarray) -> Task:
    """Classification of augmented and normalized images.

    ``--augment`` is applied in its order, to pixels in [0, 1]; then the images are normalized; cutout comes
    behind that, so its square has the mean's color.

    Raises:
      InputError: a function that cannot be imported or refuses an image, or a channel without any spread.
    """
    first, last = [], []
    image = jax.ShapeDtypeStruct(images.shape[1:], jnp.float32)
    for entry in augment:
        known = augmentation.is_named(entry)
        step = augmentation.named(entry) if known else theirs.imported("--augment", entry, _checked(image))
        (last if entry.startswith("cutout:") else first).append(step)
    middle = normalization(normalize, images)
    steps = [*first, *([augmentation.normalize(**middle)] if middle else []), *last]
    return augmentation.augmented(classification(), *steps) if steps else classification()


def _checked(image: jax.ShapeDtypeStruct) -> Any:
    """What refuses a function that makes something else than an image of an image."""

    def check(step: Any) -> Any:
        change = isinstance(step, augmentation.Fixed)
        given = (
            jax.eval_shape(step.change, image) if change else jax.eval_shape(step, jax.random.key(0), image)
        )
        fits = getattr(given, "shape", None) == image.shape and given.dtype == image.dtype
        require(fits, f"it gives {described(given)} for an image {described(image)}")
        return step

    return check
