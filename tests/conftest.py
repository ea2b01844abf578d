"""Shared by all tests: two host devices, shapes checked at run time, tiny data and a tiny network."""

import os

from jaxtyping import install_import_hook

# Every function of the package checks the shapes and dtypes that its annotations promise.
install_import_hook("lth_jax", "beartype.beartype")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

os.environ.setdefault("XDG_CACHE_HOME", os.path.join(os.path.dirname(__file__), "..", "runs", "test-cache"))
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


def make_digits():
    """200 separable 4×4 'digits' of 4 classes as uint8, and their labels: learnable in a few steps."""
    from lth_jax.types import Split

    rng = np.random.default_rng(0)
    labels = np.arange(200, dtype=np.int32) % 4
    images = rng.integers(0, 60, (200, 4, 4, 1), dtype=np.uint8)
    for label in range(4):
        images[labels == label, label] += 180
    return Split(jax.numpy.asarray(images), jax.numpy.asarray(labels))


@pytest.fixture
def digits():
    """A tiny data set."""
    return make_digits()
