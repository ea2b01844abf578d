"""What is known about the data sets that have names, before a file is opened."""

from collections.abc import Mapping
from typing import NamedTuple

from lth_jax.data import formats


class Known(NamedTuple):
    """A data set's facts."""

    title: str
    shape: tuple[int, int, int]  # of an image: height, width, channels
    counts: tuple[int, int]  # training, test
    files: str  # what its files are, for people
    archives: tuple[str, ...]  # the official downloads, as TFDS looks for them
    folders: tuple[str, ...]  # where the files may lie inside a named directory, in this order
    official: str = ""  # fingerprint of the official files, where we know it
    unordered: str = ""  # the same of their examples in whatever order
    classes: int = 10
    tfds: str = ""  # TFDS's name, where it is another one
    stems: Mapping[str, str] = formats.IDX_STEMS  # of IDX files, by part
    first: int = 0  # the label of the first class in the files


def _idx(stems: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    names = list(stems.values())
    return f"IDX files ({', '.join(names)}; .gz or not)", tuple(f"{stem}.gz" for stem in names)


def _emnist(part: str, counts: tuple[int, int], classes: int, first: int = 0) -> Known:
    ends = [*((kind, "train") for kind in ("images", "labels")), *((k, "test") for k in ("images", "labels"))]
    stems = {
        f"{split}_{kind}": f"emnist-{part}-{split}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
        for kind, split in ends
    }
    folders = ("emnist", "EMNIST/raw", "gzip", ".")
    return Known(
        f"EMNIST {part}", (28, 28, 1), counts, _idx(stems)[0], ("gzip.zip",), folders,
        classes=classes, stems=stems, first=first,
    )  # fmt: skip


_IDX = _idx(formats.IDX_STEMS)
# fmt: off
KNOWN: dict[str, Known] = {
    "mnist": Known(
        "MNIST", (28, 28, 1), (60_000, 10_000), *_IDX, ("mnist", "MNIST/raw", "."), "2ebe2baa6c06265f",
        "715b6cc07aebac10",
    ),
    "fashion_mnist": Known(
        "Fashion-MNIST", (28, 28, 1), (60_000, 10_000), *_IDX,
        ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "."), "d569deb9a49b227c",
    ),
    "cifar10": Known(
        "CIFAR-10", (32, 32, 3), (50_000, 10_000),
        "binary batches (data_batch_1.bin … data_batch_5.bin, test_batch.bin), or Python ones without .bin",
        ("cifar-10-binary.tar.gz",),
        (
            "cifar10/cifar-10-batches-bin", "cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-py",
            "cifar-10-batches-py", ".",
        ),
    ),
    "cifar100": Known(
        "CIFAR-100", (32, 32, 3), (50_000, 10_000),
        "train.bin and test.bin, or the Python files train and test",
        ("cifar-100-binary.tar.gz",),
        (
            "cifar100/cifar-100-binary", "cifar100/cifar-100-python", "cifar100", "cifar-100-binary",
            "cifar-100-python", ".",
        ),
        classes=100,
    ),
    "kmnist": Known("KMNIST", (28, 28, 1), (60_000, 10_000), *_IDX, ("kmnist", "KMNIST/raw", ".")),
    "svhn": Known(
        "SVHN", (32, 32, 3), (73_257, 26_032), "MATLAB files (train_32x32.mat, test_32x32.mat)",
        ("train_32x32.mat", "test_32x32.mat"), ("svhn", "SVHN", "."), tfds="svhn_cropped",
    ),
    "emnist/balanced": _emnist("balanced", (112_800, 18_800), 47),
    "emnist/byclass": _emnist("byclass", (697_932, 116_323), 62),
    "emnist/bymerge": _emnist("bymerge", (697_932, 116_323), 47),
    "emnist/digits": _emnist("digits", (240_000, 40_000), 10),
    "emnist/letters": _emnist("letters", (124_800, 20_800), 26, first=1),
    "emnist/mnist": _emnist("mnist", (60_000, 10_000), 10),
}
# fmt: on
"""By name. EMNIST's pictures lie on their side, as its files have them; its letters begin with label 1."""

OWN = {
    "npz": "FILE.npz with train_images, train_labels, test_images, test_labels",
    "npy": "a folder with train_images.npy, train_labels.npy, test_images.npy, test_labels.npy",
    "folder": "a folder with train/CLASS/*.png and test/CLASS/*.png, or JPEG",
    "tfds": "the name of any image classification of TensorFlow Datasets",
}
"""Data sets of one's own, by what stands before the colon: ``npz:FILE.npz``."""


def is_own(name: object) -> bool:
    """Whether a name is a kind of :data:`OWN`, a colon, and something behind it."""
    kind, _, rest = str(name).partition(":")
    return kind in OWN and bool(rest)


class Names(tuple[str, ...]):
    """Names of data sets; those of one's own are in it without being listed."""

    def __contains__(self, name: object) -> bool:
        return tuple.__contains__(self, name) or is_own(name)
