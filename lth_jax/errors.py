"""What goes wrong, in one line: the two errors that users meet, and how they are said."""

import codecs
import contextlib
import errno
import io
import operator
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn


class InputError(ValueError):
    """Wrong input, in one line: what was expected, what came, what to do. The command line exits with 2."""


class StorageError(RuntimeError):
    """A file could not be written: what is on the disk already is whole. The command line exits with 1."""


KEPT = "; what was saved before it is whole"


def storage_error(path: Path, error: BaseException) -> StorageError:
    """What kept a file from being written, in one line, whichever library met it."""
    reason = getattr(error, "strerror", None)
    if reason is None:  # HDF5 and TensorStore quote the system, or say only that they failed
        known = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
        reason = next((text for text in known if text in str(error)), " ".join(str(error).split())[:200])
    return StorageError(f"{path} cannot be written: {reason}{KEPT}")


PLAIN = dict(zip("×–−’²", "x--'2", strict=True)) | {
    "±": "+/-",
    "θ": "theta",
    "…": "...",
    "→": "->",
    "σ": "sigma",
}
"""How characters are written where an output's encoding has none for them; all others become ``?``."""


def write_any_text() -> None:
    """Let standard output and error write any text, whatever their encoding: nobody's sweep ends by a ±."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(PLAIN.get(char, "?") for char in error.object[error.start : error.end]), error.end

    codecs.register_error("lth_jax", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lth_jax")


def require(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


@contextlib.contextmanager
def in_one_line(
    what: str, kinds: tuple[type[BaseException], ...] = (Exception, SystemExit)
) -> Iterator[None]:
    """Somebody else's code is called in the block: what it raises becomes an :class:`InputError`.

    ``sys.exit`` in a model would end the program as if all were done.

    Args:
      what: the beginning of the line; the error's own words follow.
      kinds: of errors; others are let through.
    """
    try:
        yield
    except kinds as error:
        raise InputError(f"{what}: {own_words(error)}") from error


def own_words(error: BaseException) -> str:
    """An error's kind and message, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line of error and leave: with exit code 2 for wrong input, 1 for what else went wrong."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def warn(message: str) -> None:
    """Print one line that people should see, and go on."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A number that is whole and at least ``least``: 2, ``np.int64(2)`` and 2.0 are.

    Raises:
      InputError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        whole = (
            not isinstance(value, str | bytes)
            and getattr(value, "ndim", 0) == 0
            and hasattr(value, "__float__")
        )
        require(whole and float(value).is_integer(), f"{name} {value}: expected a whole number")
        number = int(value)
    require(number >= least, f"{name} {value}: expected at least {least}")
    return number
