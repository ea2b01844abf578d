"""Data sets of one's own: an ``.npz``, ``.npy`` files, a folder of class folders of pictures.

Every file is checked before memory is asked for; what does not fit is a :class:`DataError` that names it.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lth_jax.data.formats import MAX_BYTES, MAX_DEFLATE_RATIO, Arrays, DataError, reading

NAMES = {
    "train_images": ("train_images", "x_train"),
    "train_labels": ("train_labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}
"""An archive's arrays by part: the names of this library's, and those of Keras's archives."""

ENDINGS = (".png", ".jpg", ".jpeg")
"""Of pictures, whatever their case."""

MAX_HEADER = 10_000
"""Bytes of an ``.npy`` file's header, at most: NumPy's own limit, which it minds once they are read."""

MODES = {"L": 1, "RGB": 3}
"""Pillow's modes that are read, and their channels."""


def fitted(place: Path | str, arrays: Arrays) -> Arrays:
    """Images with an axis of channels, labels without one.

    Args:
      place: where they come from.
      arrays: as they lie there.

    Raises:
      DataError: the labels of both parts start at 1.
    """
    parts: dict[str, Any] = {}
    for part, array in arrays._asdict().items():
        grey = part.endswith("images") and array.ndim == 3
        column = part.endswith("labels") and array.ndim == 2 and array.shape[1] == 1
        parts[part] = array[..., None] if grey else array[:, 0] if column else array
    labels = parts["train_labels"], parts["test_labels"]
    if all(each.size and np.issubdtype(each.dtype, np.integer) for each in labels):
        least, most = min(int(each.min()) for each in labels), max(int(each.max()) for each in labels)
        if least == 1:
            raise DataError(
                f"{place}: labels are 1 … {most}: they start at 1; store labels - 1, which start at 0"
            )
    return Arrays(**parts)


def read_array(file: io.BufferedIOBase, size: int) -> np.ndarray:
    """The array of an ``.npy`` file.

    Args:
      file: at its start.
      size: its bytes.

    Raises:
      ValueError: it is no such file, promises other bytes than it has, or holds objects.
    """
    if size > MAX_BYTES + 2**16:
        raise ValueError(f"has {size:,} bytes, over {MAX_BYTES:,}")
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is unknown")
    field = file.read(2 * version[0])
    length = int.from_bytes(field, "little")
    if length > MAX_HEADER:
        raise ValueError(f"the header has {length:,} bytes, over {MAX_HEADER:,}")
    header: Any = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, fortran, dtype = header(io.BytesIO(field + file.read(length)))
    if dtype.hasobject or dtype.kind not in "uif":
        raise ValueError(f"holds {dtype}, expected numbers")
    promised, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised != found or promised > MAX_BYTES:
        raise ValueError(f"the header promises {promised:,} bytes, the file has {found:,}")
    content = file.read(promised)
    if len(content) != promised or file.read(1):
        raise ValueError(f"expected {promised:,} bytes, found {len(content):,}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def read_npz(path: Path) -> Arrays:
    """The four arrays of an ``.npz``, named as in :data:`NAMES`.

    Raises:
      DataError: an array is missing or damaged, or labels start at 1.
    """
    parts = {}
    with reading(path), zipfile.ZipFile(path) as archive:
        inside = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for part, spellings in NAMES.items():
            name = next((each for each in spellings if each in inside), None)
            if name is None:
                found = ", ".join(sorted(inside))[:200] or "nothing"
                raise DataError(f"{path}: holds {found}, expected {', '.join(NAMES)}")
            size, packed = inside[name].file_size, inside[name].compress_size
            if size > packed * MAX_DEFLATE_RATIO + 2**10:
                raise DataError(f"{path / name}: {packed:,} bytes cannot hold the {size:,} that are promised")
            with reading(path / name), archive.open(inside[name]) as file:
                parts[part] = read_array(file, size)  # type: ignore[arg-type]
    return fitted(path, Arrays(**parts))


def read_npy_folder(folder: Path) -> Arrays:
    """The two pairs of ``.npy`` files of a folder: images and labels to train on, and to test on.

    Raises:
      DataError: a file is missing or damaged, or labels start at 1.
    """
    parts = {}
    for part in NAMES:
        path = folder / f"{part}.npy"
        with reading(path), path.open("rb") as file:
            parts[part] = read_array(file, path.stat().st_size)
    return fitted(folder, Arrays(**parts))


def picture_files(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """A folder's pictures by part (``train``, ``test``) and class, in the order of their names.

    Folders without pictures are no classes, and what is hidden (``.ipynb_checkpoints``) is left out.

    Raises:
      DataError: a part or its pictures are missing, or ``test`` has a class that ``train`` has not.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder}: has no folder {part}; expected train/CLASS/*.png and test/CLASS/*.png"
            )
        pictures = {
            path.name: [file for file in _visible(path) if file.suffix.lower() in ENDINGS]
            for path in _visible(folder / part)
            if path.is_dir()
        }
        found[part] = {name: files for name, files in pictures.items() if files}
        if not found[part]:
            raise DataError(f"{folder / part}: holds no class folders with PNG or JPEG files")
    if unknown := [name for name in found["test"] if name not in found["train"]]:
        raise DataError(f"{folder / 'test'}: class {unknown[0]} has no pictures to train on")
    return found


def _visible(folder: Path) -> list[Path]:
    """What is in a folder in the order of names, but for what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_pictures(found: dict[str, dict[str, list[Path]]]) -> Arrays:
    """Pictures, as :func:`picture_files` finds them: classes are numbered in the order of their names.

    Raises:
      DataError: a picture is damaged, of another size or kind than the first, or there are too many of them.
    """
    names, halves, shape = list(found["train"]), [], None
    total = sum(len(files) for classes in found.values() for files in classes.values())
    for classes in found.values():
        images, labels = [], []
        for name, files in classes.items():
            for path in files:
                picture = _picture(path, shape, total)
                shape = picture.shape
                images.append(picture)
                labels.append(names.index(name))
        halves += [np.stack(images), np.asarray(labels)]
    return Arrays(*halves)


def _picture(path: Path, shape: tuple[int, ...] | None, total: int) -> np.ndarray:
    """One picture, uint8 [height, width, channels]."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as picture:
            if picture.mode not in MODES:
                raise ValueError(f"is of mode {picture.mode}, expected {' or '.join(MODES)}: convert it")
            size = (picture.height, picture.width, MODES[picture.mode])
            if shape is not None and size != shape:
                raise ValueError(f"is {size}, the first picture {shape}: all have to be of one size")
            if total * math.prod(size) > MAX_BYTES:
                raise ValueError(f"{total:,} pictures of {size} take over {MAX_BYTES:,} bytes")
            return np.asarray(picture).reshape(size)
    except Exception as error:  # whatever a damaged picture raises
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: {problem}") from None
