"""MNIST's four files with a few made-up digits in them."""

import gzip
import struct
from pathlib import Path

import numpy as np

from lth_jax.data import formats as data_formats

TRAIN, TEST = 60, 20


def gzipped(content: bytes, level: int = 9) -> bytes:
    """Gzipped without a time, so that all test workers collect tests of the same name."""
    return gzip.compress(content, level, mtime=0)


def idx_bytes(array: np.ndarray) -> bytes:
    """Bytes in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def digits(seed: int = 0) -> data_formats.Arrays:
    """Small stand-ins for MNIST's four files, pictures [n, 28, 28]."""
    rng = np.random.default_rng(seed)
    halves = []
    for count in (TRAIN, TEST):
        halves += [rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10]
    return data_formats.Arrays(*(half.astype(np.uint8) for half in halves))


def some_arrays() -> data_formats.Arrays:
    """``digits()`` as they are loaded, pictures [n, 28, 28, 1]."""
    arrays = digits()
    return arrays._replace(
        train_images=arrays.train_images[..., None], test_images=arrays.test_images[..., None]
    )


def write_idx(folder: Path, seed: int = 0, ending: str = "", dotted: bool = False) -> Path:
    """The four files in a folder, gzipped where ``ending`` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in digits(seed)._asdict().items():
        stem = data_formats.IDX_STEMS[part]
        content = idx_bytes(array)
        name = (stem.replace("-idx", ".idx") if dotted else stem) + ending
        (folder / name).write_bytes(gzipped(content, 1) if ending else content)
    return folder
