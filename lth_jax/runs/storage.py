"""Files that are whole: written aside and renamed; digests find damage done later before it is read.

The lists of digests are what ``sha256sum`` writes and ``sha256sum -c`` checks: a digest, two spaces and a
file's name per line, names relative to the list's own folder.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lth_jax.errors import KEPT, InputError, StorageError, storage_error


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(folder: Path, files: Iterable[Path]) -> str:
    """The list of some files of a folder, sorted by name."""
    return "".join(f"{of_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in sorted(files))


def files_below(folder: Path, leave_out: str) -> list[Path]:
    """Every file in a folder and its folders, except those called ``leave_out``."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != leave_out]


def by_name(text: str) -> dict[str, str]:
    """A list's digests by their files' names."""
    lines = [line.partition("  ") for line in text.splitlines() if "  " in line]
    return {name: digest for digest, _, name in lines}


def problem(folder: Path, expected: str, files: Iterable[Path]) -> str | None:
    """What is wrong with some files of a folder, by the list they should give; ``None`` if nothing is."""
    found, wanted = by_name(listing(folder, files)), by_name(expected)
    if missing := sorted(wanted.keys() - found.keys()):
        return f"{missing[0]} is missing"
    if changed := sorted(name for name in found if found[name] != wanted.get(name)):
        return f"{changed[0]} is not what was written"
    return None


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step.

    Raises:
      StorageError: it cannot be written.
    """
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # netCDF4 raises the latter
        raise error if isinstance(error, StorageError) else storage_error(path, error) from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM)
"""What another try may get over; all else is wrong with the place."""


@contextlib.contextmanager
def in_a_place_of(flag: str) -> Iterator[None]:
    """What is written in the block goes where a flag has said.

    Raises:
      InputError: nothing can be written there: it is read-only, somebody else's, below a file …
      StorageError: there is no room.
    """
    try:
        yield
    except StorageError as error:
        if (number := _number(error.__cause__)) is not None and number not in FULL:
            raise InputError(f"{flag}: {str(error).removesuffix(KEPT)}") from None
        raise


PLACES = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What is wrong with a place, of what Orbax and TensorStore quote of the system in errors of their own."""


def _number(error: BaseException | None) -> int | None:
    """The system's number of an error, or of what it wraps or quotes; ``None`` if it has none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        quoted = [number for number in (*FULL, *PLACES) if os.strerror(number) in str(error)]
        if quoted:
            return quoted[0]
        error = error.__cause__ or error.__context__
    return None


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))
