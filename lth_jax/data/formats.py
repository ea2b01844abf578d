"""How data sets lie on disk: files in, four arrays out; and what those arrays must be.

* IDX (the MNIST page): bytes 0, 0, 8 (= uint8), rank; ``rank`` big-endian uint32 sizes; the payload.
* A folder that TensorFlow Datasets (TFDS) prepared, read without TensorFlow.
* Our own cache of what is slow to read.

A file is somebody else's until it is checked: sizes are compared with what the header promises before
memory is asked for, nothing is unpickled, and every problem is a :class:`DataError` naming the file.
"""

import gzip
import hashlib
import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_BYTES = 2**31
"""A header that promises more is refused."""

MAX_DEFLATE_RATIO = 1032
"""Deflate codes at most 258 bytes in 2 bits: a smaller gzip file cannot hold what is promised."""

IDX_STEMS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CACHE_LAYOUT = 2


class DataError(ValueError):
    """Data that is missing, damaged or not what it should be; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Arrays(NamedTuple):
    """A data set's numbers: images uint8 [n, height, width, channels], labels integer [n]."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def checked(name: str, arrays: Arrays) -> Arrays:
    """Copies that cannot be written to, images as uint8 and labels as int32, once they fit each other.

    Raises:
      DataError: something is empty, of a wrong shape, dtype or range, or counts differ.
    """
    parts = {}
    for part, values in arrays._asdict().items():
        try:
            array = np.asarray(values)
        except (TypeError, ValueError) as error:  # ragged lists
            raise DataError(f"{name}: {part}: not an array ({error})") from None
        check = _as_labels if part.endswith("labels") else _as_images
        parts[part] = check(f"{name}: {part}", array)
    arrays = Arrays(**parts)
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        if len(images) != len(labels):
            raise DataError(f"{name}: {len(images)} {split} images, but {len(labels)} labels")
    shapes = arrays.train_images.shape[1:], arrays.test_images.shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"{name}: train images are of shape {shapes[0]}, test images {shapes[1]}")
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _as_images(what: str, array: np.ndarray) -> np.ndarray:
    """A copy as uint8 [n, height, width, channels]."""
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{what}: expected [n, height, width, channels], none of them 0, found {array.shape}")
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if array.dtype not in (np.float32, np.float64):
        raise DataError(f"{what}: expected uint8, or float32 or float64 in [0, 1], found {array.dtype}")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise DataError(f"{what}: expected finite floats in [0, 1], or uint8")
    pixels = np.rint(array * 255)
    if np.abs(array * 255 - pixels).max() > 1e-3:
        raise DataError(f"{what}: expected floats k / 255 (8-bit pixels), found values in between")
    return pixels.astype(np.uint8, order="C")


def _as_labels(what: str, array: np.ndarray) -> np.ndarray:
    """A copy as int32 [n]."""
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{what}: expected [n], n > 0, found {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what}: expected integers, found {array.dtype}")
    if array.min() < 0 or array.max() >= 2**31 - 1:
        raise DataError(f"{what}: expected labels from 0, found {array.min()} … {array.max()}")
    return np.array(array, np.int32, order="C")


def fingerprint(arrays: Arrays) -> str:
    """16 hex digits of a SHA-256 over shapes, dtypes and bytes, the same on every machine."""
    digest = hashlib.sha256()
    for part, array in arrays._asdict().items():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{part} {little.dtype.str} {little.shape}\n".encode())
        digest.update(little.data)
    return digest.hexdigest()[:16]


def unordered(arrays: Arrays) -> str:
    """A fingerprint of a data set's examples that does not depend on their order within each part."""
    digest = hashlib.sha256()
    for images, labels in (arrays[:2], arrays[2:]):
        examples = zip(np.ascontiguousarray(images), labels, strict=True)
        whole = sorted(
            hashlib.sha256(image.tobytes() + bytes([int(label) % 256])).digest() for image, label in examples
        )
        digest.update(f"{images.dtype.str} {images.shape}\n".encode() + b"".join(whole))
    return digest.hexdigest()[:16]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what the system says while ``path`` is read into an error that names it."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextmanager
def reading(path: Path, expected: str = "") -> Iterator[None]:
    """Turns whatever a damaged file makes its reader raise into an error that names the file."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        problem = ascii(" ".join(f"{type(error).__name__}: {error}".split())[:200])[1:-1]
        raise DataError(f"{path}: {expected or 'cannot be read'}: {problem}") from None


def read_idx(path: Path, item_shape: Sequence[int]) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped or not (its first bytes tell, not its name).

    Args:
      path: the file.
      item_shape: shape of one example: ``(28, 28)`` for images, ``()`` for labels.

    Returns:
      uint8 ``[n, *item_shape]``, n ≥ 1.

    Raises:
      DataError: the file is not an IDX file of such examples, or is longer or shorter than it says.
    """
    with naming(path), path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        on_disk = os.fstat(raw.fileno()).st_size
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        shape = _read_idx_shape(stream, path, tuple(item_shape))
        promised = math.prod(shape)
        # Before anything is allocated: neither a header nor a gzip bomb decides how much memory we take.
        if promised > MAX_BYTES:
            raise DataError(f"{path}: the header promises {promised:,} bytes, over {MAX_BYTES:,}")
        if promised > on_disk * (MAX_DEFLATE_RATIO if zipped else 1):
            raise DataError(
                f"{path}: truncated: expected {promised:,} bytes of data, the file has {on_disk:,}"
            )
        payload = stream.read(promised)
        if len(payload) < promised:
            raise DataError(f"{path}: truncated: expected {promised:,} bytes, got {len(payload):,}")
        if stream.read(1):  # at the end this also makes gzip check its checksum
            raise DataError(f"{path}: trailing bytes after the {promised:,} that the header promises")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _read_idx_shape(stream: io.BufferedIOBase, path: Path, item_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in an IDX header, once it is one of ``item_shape`` examples."""
    rank = 1 + len(item_shape)
    header = stream.read(4 + 4 * rank)
    magic = bytes([0, 0, 8, rank])
    if header[:4] != magic:
        raise DataError(f"{path}: expected IDX magic {magic.hex()}, found {header[:4].hex() or 'nothing'}")
    if len(header) < 4 + 4 * rank:
        raise DataError(f"{path}: truncated: the IDX header has {len(header)} of {4 + 4 * rank} bytes")
    count, *found = struct.unpack(f">{rank}I", header[4:])
    if tuple(found) != item_shape:
        raise DataError(f"{path}: expected examples of shape {item_shape}, found {tuple(found)}")
    if count == 0:
        raise DataError(f"{path}: holds no examples")
    return count, *item_shape


def check_labels(path: Path | str, labels: np.ndarray, classes: int) -> None:
    """Refuse labels that are not 0 … ``classes`` − 1.

    Raises:
      DataError: the message says what to do where they start at 1.
    """
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        hint = "; they start at 1: store labels - 1" if least == 1 and most == classes else ""
        wrong = least if least < 0 else most
        raise DataError(f"{path}: expected labels 0 … {classes - 1}, found {wrong}{hint}")


def check_missing(folder: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Refuse a folder that has some of the files that belong together.

    Raises:
      DataError: the message has those that are there and those that are not.
    """
    if missing := [name for name in wanted if name not in present]:
        raise DataError(f"{folder}: holds {', '.join(present)} but not {', '.join(missing)}")


def read_idx_folder(
    folder: Path,
    image_size: tuple[int, int],
    classes: int,
    stems: Mapping[str, str] = IDX_STEMS,
    first: int = 0,
) -> Arrays | None:
    """The four IDX files of a folder; None where it holds none of them.

    Args:
      folder: where.
      image_size: height, width.
      classes: how many.
      stems: the files' names by part, without ``.gz``.
      first: the label of the first class in the files; labels are counted from it.

    Raises:
      DataError: some are missing or damaged, or do not belong together.
    """
    found = {}
    for part, stem in stems.items():
        spellings = [s + end for s in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
        if path := next((folder / name for name in spellings if (folder / name).is_file()), None):
            found[part] = path
    if not found:
        return None
    check_missing(folder, list(stems.values()), [stems[part] for part in found])
    read = {}
    for split in ("train", "test"):
        image_path, label_path = found[f"{split}_images"], found[f"{split}_labels"]
        labels = read_idx(label_path, ())
        if first:
            labels = labels.astype(np.int64) - first
        images = read_idx(image_path, image_size)[..., None]
        check_labels(label_path, labels, classes)
        if len(images) != len(labels):
            raise DataError(f"{image_path}: {len(images)} images, but {len(labels)} labels in {label_path}")
        read |= {f"{split}_images": images, f"{split}_labels": labels}
    return Arrays(**read)


def prepared_folder(root: Path, name: str) -> Path | None:
    """The newest version that TFDS prepared in ``root/name``, if any."""
    versions = {
        tuple(map(int, path.parent.name.split("."))): path.parent
        for path in root.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # not 'incomplete.…'
    }
    return versions[max(versions)] if versions else None


def read_prepared(folder: Path) -> Arrays:
    """The examples of a folder that TFDS prepared, in its (shuffled, fixed) order, without TensorFlow.

    Raises:
      DataError: TFDS is not installed, or cannot read the folder.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(folder)
        halves = []
        for split in ("train", "test"):
            _check_prepared(folder, builder, split)
            images, labels, expected = [], [], builder.info.splits[split].num_examples
            for example in _examples(builder, split):
                image = np.asarray(example["image"])
                size = expected * image.nbytes
                if size > MAX_BYTES:
                    raise DataError(f"{folder}: {split} takes {size:,} bytes, over {MAX_BYTES:,}")
                if images and image.shape != images[0].shape:
                    raise DataError(f"{folder}: {split} images are {images[0].shape} and {image.shape}")
                images.append(image)
                labels.append(example["label"])
            if len(images) != expected or not images:
                raise DataError(f"{folder}: expected {expected} {split} examples, found {len(images)}")
            halves += [np.stack(images), np.asarray(labels)]
        return Arrays(*halves)
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{folder}: TensorFlow Datasets is needed to read it ({error}): pip install 'lth_jax[tfds]'"
        ) from None
    except Exception as error:  # TFDS and the formats beneath it raise whatever they like
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{folder}: TFDS cannot read it: {problem}") from error


def _check_prepared(folder: Path, builder: Any, split: str) -> None:
    """Refuse what is no image classification, or larger than memory should be asked for."""
    splits, features = builder.info.splits, builder.info.features
    if split not in splits:
        raise DataError(f"{folder}: has the splits {', '.join(splits) or 'none'}, expected train and test")
    if not {"image", "label"} <= {*features}:
        raise DataError(f"{folder}: has {', '.join(features)}, expected an image and a label")
    shape = features["image"].shape
    size = splits[split].num_examples * math.prod(each or 1 for each in shape)
    if size > MAX_BYTES:
        raise DataError(f"{folder}: {split} takes {size:,} bytes, over {MAX_BYTES:,}")


def _examples(builder: Any, split: str, batch: int = 1000) -> Iterator[dict[str, Any]]:
    """One split's examples as TFDS decodes them with NumPy."""
    info = builder.info
    if info.file_format.value == "tfrecord":  # TFDS's default; it needs TensorFlow to read it
        for path in info.splits[split].filepaths:
            yield from map(info.features.deserialize_example_np, _tfrecords(Path(path)))
        return
    source = builder.as_data_source(split=split)
    for start in (0, *range(1, len(source), batch)):  # in batches it is three times as fast; the first alone
        stop = min(start + batch if start else 1, len(source))
        yield from source.__getitems__(list(range(start, stop)))


def _tfrecords(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file: uint64 length, its CRC (4 bytes), the record, its CRC."""
    content = path.read_bytes()
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        if position + length + 16 > len(content):
            raise DataError(f"{path}: truncated at byte {position:,}")
        yield content[position + 12 : position + 12 + length]
        position += length + 16


def _stored(entry: Path) -> Arrays | None:
    """A cache's entry, ``None`` where it is damaged or missing."""
    try:
        # Its zip has a checksum a member. (Opened here: np.load leaves a damaged file open.)
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Arrays(**{field: stored[field] for field in Arrays._fields})
    except Exception:  # whatever a damaged file raises: the sources are still there
        return None


def cached(
    name: str, files: Sequence[Path], folder: Path, read: Callable[[], Arrays], fresh: bool = False,
    layout: object = (),
) -> Arrays:  # fmt: skip
    """``read()``, or what it gave the last time that ``files`` looked as they do now.

    The cache is a convenience: damaged, it is rebuilt; where it cannot be written, none is kept.

    Args:
      name: what the entry is called.
      files: its sources; path, size and modification time of each are part of the key.
      folder: where entries lie.
      read: gives the arrays.
      fresh: read in any case.
      layout: what else ``read()`` depends on, also part of the key.
    """
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((CACHE_LAYOUT, name, stats, layout)).encode()).hexdigest()[:16]
    entry = folder / f"{name}-{key}.npz"
    if not fresh and (stored := _stored(entry)):
        return stored
    arrays = read()
    aside = folder / f".{os.getpid()}-{entry.name}"
    with suppress(OSError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(aside, **arrays._asdict())
            os.replace(aside, entry)
        finally:
            aside.unlink(missing_ok=True)
    return arrays
