"""CIFAR's and SVHN's files, each written as its publishers wrote it."""

import io
import pickle
import struct

import numpy as np
from scipy.io import savemat

from lth_jax.data import archives

RNG = np.random.default_rng(11)


def colours(count, classes=10):
    """Pictures uint8 [n, 32, 32, 3] and labels."""
    return RNG.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8), np.arange(count) % classes


def planes(images):
    """As CIFAR has them: a row a picture, one plane a colour."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def python2(entries):
    """A dictionary as Python 2 pickled it: byte strings, and NumPy by its old name."""
    out = io.BytesIO()

    def text(content):
        short = len(content) < 256
        out.write(b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<I", len(content)))
        out.write(content)

    out.write(b"\x80\x02}(")
    for key, value in entries.items():
        text(key)
        if isinstance(value, np.ndarray):
            out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01J")
            rows, columns = (struct.pack("<i", size) for size in value.shape)
            out.write(rows + b"J" + columns + b"\x86cnumpy\ndtype\n")
            out.write(b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
            text(value.tobytes())
            out.write(b"tb")
        elif isinstance(value, bytes):
            text(value)
        else:
            out.write(b"](" + b"".join(b"K" + bytes([each]) for each in value) + b"e")
    out.write(b"u.")
    return out.getvalue()


WRITERS = {
    "Python 2": python2,
    **{f"protocol {n}": (lambda entries, n=n: pickle.dumps(entries, n)) for n in (2, 3, 4)},
}


def batch(images, labels, name=b"labels"):
    """What one of CIFAR's pickles holds."""
    return {b"batch_label": b"batch", name: [int(each) for each in labels], b"data": planes(images)}


def write_cifar10(folder, write=WRITERS["protocol 2"]):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = colours(12)
    for number, name in enumerate(archives.PYTHON_BATCHES):
        part = slice(2 * number, 2 * number + 2)
        (folder / name).write_bytes(write(batch(images[part], labels[part])))
    return images, labels


def write_svhn(folder, labels=None):
    images, numbers = colours(20)
    numbers = np.where(numbers == 0, 10, numbers) if labels is None else labels
    for name, part in zip(archives.SVHN_FILES, (slice(12), slice(12, None)), strict=True):
        entries = {"X": images[part].transpose(1, 2, 3, 0), "y": numbers[part, None].astype(np.uint8)}
        savemat(folder / name, entries, do_compression=True)
    return images
