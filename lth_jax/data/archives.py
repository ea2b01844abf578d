"""How CIFAR's and SVHN's own files lie on disk.

* CIFAR-10's binary batches: records of 1 label byte, then 3 × 1,024 bytes, one plane a colour, row-major.
* Python batches: a pickled dictionary with ``data`` uint8 [n, 3072], one plane a colour, and ``labels`` or
  ``fine_labels``. No code of the file is run: the few names that NumPy's arrays need stand for classes of
  this module, which keep what they are given; any other name is an error.
* CIFAR-100's binary files: records of a coarse label, a fine label, then 3 × 1,024 bytes.
* SVHN: ``X`` uint8 [32, 32, 3, n] and ``y`` 1 … 10, where 10 is the digit 0.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lth_jax.data.formats import (
    MAX_BYTES,
    MAX_DEFLATE_RATIO,
    Arrays,
    DataError,
    check_labels,
    check_missing,
    naming,
    read_idx_folder,
    reading,
)
from lth_jax.data.known import Known

CIFAR_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
PYTHON_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
PIXELS = 3 * 32 * 32
FARTHEST = 1_000_000
"""The last place of a pickle's memo: a batch of 10,000 names has not more than twice as many."""
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")

# The luminance steps of JPEG's quality 75 (Annex K's table halved, up), its 4 × 4 low frequencies.
JPEG75_STEPS = np.array([[8, 6, 5, 8], [6, 6, 7, 10], [7, 7, 8, 12], [7, 9, 11, 15]])


class Stored:
    """What stands for an array or a dtype in a pickle: the arguments and the state that it is given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): Stored,
    ("numpy._core.multiarray", "_reconstruct"): Stored,
    ("numpy", "ndarray"): Stored,
    ("numpy", "dtype"): Stored,
}
"""Names that a pickle may use, and what they are here; ``_codecs.encode`` is a reader's own."""


class Restricted(pickle.Unpickler):
    """An unpickler that runs nothing.

    Args:
      content: the pickle.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.left = len(content)
        """Bytes that it may still encode: a text of the memo, however long, costs a file only 8 each time."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What stands for a name; any other than those of an array is refused."""
        if (module_name, global_name) == ("_codecs", "encode"):
            return self._encoded
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module_name}.{global_name}, which no batch needs")
        return ALLOWED[module_name, global_name]

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """Bytes as Python 3 writes them for Python 2."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an unknown encoding")
        self.left -= len(text)
        if self.left < 0:
            raise pickle.UnpicklingError("encodes more bytes than the file has")
        return text.encode("latin1")


def check_opcodes(content: bytes) -> None:
    """Refuse a pickle that would have its reader ask for memory that no batch needs.

    Raises:
      UnpicklingError: it puts something at a huge place of the memo, or asks for a huge buffer.
      ValueError: it is no pickle.
    """
    for opcode, argument, _ in pickletools.genops(content):
        far = isinstance(argument, int) and "PUT" in opcode.name and argument > FARTHEST
        if far or opcode.name == "BYTEARRAY8":
            raise pickle.UnpicklingError(f"{opcode.name} asks for memory that no batch needs")


def _array(stored: Any) -> np.ndarray:
    """The uint8 array that a pickle describes.

    Raises:
      ValueError: it describes something else.
    """
    if not isinstance(stored, Stored) or not isinstance(stored.state, tuple) or len(stored.state) != 5:
        raise ValueError("data is no array")
    _, shape, dtype, fortran, content = stored.state
    kind = dtype.arguments[:1] if isinstance(dtype, Stored) else ()
    if kind not in (("u1",), (b"u1",)) or not isinstance(content, bytes) or fortran:
        raise ValueError("data is no array of uint8")
    fits = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not fits or math.prod(shape) != len(content):
        raise ValueError(f"data has {len(content):,} bytes, not those of its shape")
    return np.frombuffer(content, np.uint8).reshape(shape)


def check_size(path: Path) -> None:
    """Refuse a file that is larger than any of these data sets' files."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: over {MAX_BYTES:,} bytes")


def read_pickle(path: Path, label: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels [n] of one of CIFAR's Python files; nothing in it is run.

    Args:
      path: the file.
      label: the dictionary's entry with the labels.
      classes: how many there are.

    Raises:
      DataError: it is no such file, asks for anything but an array, or is damaged.
    """
    with reading(path, "expected one of CIFAR's Python files"):
        check_size(path)
        content = path.read_bytes()
        check_opcodes(content)
        found = Restricted(content).load()
        entries = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
        table, labels = _array(entries["data"]), entries[label]
        if not isinstance(labels, list) or not all(type(each) is int for each in labels):
            raise ValueError(f"{label} is no list of whole numbers")
        if table.ndim != 2 or table.shape[1] != PIXELS or len(table) != len(labels) or not labels:
            raise ValueError(f"data is {table.shape}, {label} are {len(labels)}")
        numbers = np.asarray(labels, np.int64)
    check_labels(path, numbers, classes)
    return pictures(table), numbers


def pictures(table: np.ndarray) -> np.ndarray:
    """Rows of three planes as [n, 32, 32, 3]."""
    return np.ascontiguousarray(table.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _present(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder has these files; an error where it has some of them."""
    present = [name for name in names if (folder / name).is_file()]
    if present:
        check_missing(folder, names, present)
    return bool(present)


def read_cifar10_pickles(folder: Path, classes: int = 10) -> Arrays | None:
    """CIFAR-10's six Python batches; None where the folder holds none of them.

    Raises:
      DataError: some are missing or damaged.
    """
    if not _present(folder, PYTHON_BATCHES):
        return None
    return _joined([read_pickle(folder / name, "labels", classes) for name in PYTHON_BATCHES])


def read_cifar100_pickles(folder: Path, classes: int = 100) -> Arrays | None:
    """CIFAR-100's Python files with their fine labels; None where the folder holds neither.

    Raises:
      DataError: one is missing or damaged.
    """
    if not _present(folder, ("train", "test")):
        return None
    train, test = (read_pickle(folder / name, "fine_labels", classes) for name in ("train", "test"))
    return Arrays(*train, *test)


def read_cifar100_binary(folder: Path, classes: int = 100) -> Arrays | None:
    """CIFAR-100's binary files with their fine labels; None where the folder holds neither.

    Raises:
      DataError: one is missing or damaged.
    """
    if not _present(folder, ("train.bin", "test.bin")):
        return None
    train, test = (_read_records(folder / name, 2, classes) for name in ("train.bin", "test.bin"))
    return Arrays(*train, *test)


def read_svhn(folder: Path, classes: int = 10) -> Arrays | None:
    """SVHN's two files of cropped digits; None where the folder holds neither.

    Raises:
      DataError: one is missing or damaged.
    """
    if not _present(folder, SVHN_FILES):
        return None
    from scipy.io import loadmat

    halves = []
    for path in (folder / name for name in SVHN_FILES):
        with reading(path):
            check_size(path)
            _check_mat(path)
            found = loadmat(path, variable_names=("X", "y"))
            images, labels = np.asarray(found["X"]), np.asarray(found["y"]).ravel()
        whole = images.dtype == np.uint8 and images.shape[:3] == (32, 32, 3) and images.ndim == 4
        if not whole or images.shape[3] != len(labels) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{path}: expected X uint8 [32, 32, 3, n] and y [n], found {images.shape}")
        if len(labels) == 0 or labels.min() < 1 or labels.max() > classes:
            raise DataError(f"{path}: expected labels 1 … {classes}")
        halves += [np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % classes]
    return Arrays(*halves)


def _check_mat(path: Path) -> None:
    """Refuse a MATLAB file whose headers are not those of SVHN, or promise more than it can hold.

    Raises:
      DataError: X or y is missing, there twice, of another shape or class, or too large.
    """
    from scipy.io import whosmat

    listed = [each for each in whosmat(path) if each[0] in ("X", "y")]
    found = {name: (shape, kind) for name, shape, kind in listed}
    (size, pixels), (column, number) = found.get("X", ((), "")), found.get("y", ((), ""))
    fits = len(listed) == 2 and pixels == "uint8" and len(size) == 4 and size[:3] == (32, 32, 3)
    # MATLAB's own numbers are doubles, which it stores as integers where they are whole.
    if not fits or not re.fullmatch(r"u?int\d+|double", number) or math.prod(column) != size[3]:
        said = ", ".join(f"{name} {kind} {[*shape]}" for name, shape, kind in listed)[:200]
        raise DataError(f"{path}: expected X uint8 [32, 32, 3, n] and y [n], found {said or 'neither'}")
    promised = PIXELS * size[3]
    if promised > min(MAX_BYTES, path.stat().st_size * MAX_DEFLATE_RATIO):
        raise DataError(f"{path}: the header promises {promised:,} bytes, more than the file can hold")


def read_cifar_folder(folder: Path, classes: int) -> Arrays | None:
    """CIFAR-10's six binary batches; None where the folder holds none of them.

    Raises:
      DataError: some are missing or damaged.
    """
    if not _present(folder, CIFAR_BATCHES):
        return None
    return _joined([_read_records(folder / name, 1, classes) for name in CIFAR_BATCHES])


def _joined(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Arrays:
    """Batches of training examples as one; the last batch is the test examples'."""
    images, labels = (np.concatenate(column) for column in zip(*batches[:-1], strict=True))
    return Arrays(images, labels, *batches[-1])


def _read_records(path: Path, labels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 32, 32, 3] and labels [n] of a binary file: the last of so many label bytes counts."""
    record = labels + PIXELS
    with naming(path):
        size = path.stat().st_size
        if size == 0 or size % record or size > MAX_BYTES:
            raise DataError(f"{path}: expected records of {record} bytes, found {size:,} bytes")
        table = np.fromfile(path, np.uint8)
    if table.size != size:
        raise DataError(f"{path}: changed while it was read")
    table = table.reshape(-1, record)
    check_labels(path, table[:, labels - 1], classes)
    return pictures(table[:, labels:]), table[:, labels - 1]


def went_through_jpeg75(images: np.ndarray) -> bool:
    """Whether pictures were JPEGs of quality 75: their luminance still sits on its quantization grid.

    Coefficients of 8 × 8 blocks lie 0.25 of a step from the grid on average in other pictures, and
    0.04 to 0.06 (pixels were rounded) in such JPEGs; in those of quality 50, twice as coarse, 0.11.

    Args:
      images: uint8 [n, height, width, 3], sizes multiples of 8; the first 1,000 are looked at.
    """
    luminance = images[:1000].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    count, height, width = luminance.shape
    blocks = luminance.reshape(count, height // 8, 8, width // 8, 8).swapaxes(2, 3).reshape(-1, 8, 8)
    # Clipping at black and white moves coefficients off the grid.
    blocks = blocks[(blocks.min((1, 2)) > 8) & (blocks.max((1, 2)) < 247)]
    frequency, pixel = np.arange(4)[:, None], np.arange(8)[None]
    cosines = 0.5 * np.cos((2 * pixel + 1) * frequency * np.pi / 16)
    cosines[0] *= math.sqrt(0.5)
    steps = ((cosines @ blocks @ cosines.T) / JPEG75_STEPS).reshape(-1, 16)[:, 1:]
    steps = steps[np.abs(steps) > 1]  # a zero is on every grid
    return steps.size >= 200 and float(np.abs(steps - np.rint(steps)).mean()) < 0.09


def readers(name: str, known: Known) -> Mapping[str, Callable[[Path], Arrays | None]]:
    """How a data set's files are read, by what they are called; each gives ``None`` where there are none."""
    if name == "cifar10":
        binary = lambda folder: read_cifar_folder(folder, known.classes)  # noqa: E731
        return {"binary batches": binary, "Python batches": read_cifar10_pickles}
    if name == "cifar100":
        return {
            "binary files": read_cifar100_binary,
            "Python files": read_cifar100_pickles,
        }
    if name == "svhn":
        return {"MATLAB files": read_svhn}
    size, options = known.shape[:2], (known.stems, known.first)
    return {"IDX files": lambda folder: read_idx_folder(folder, size, known.classes, *options)}
