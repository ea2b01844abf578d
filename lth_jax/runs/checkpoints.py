"""Checkpoints: the state of a sweep after each level, through Orbax.

A checkpoint is a folder named by the number of levels finished. It holds one tree (the runs and what was
recorded so far) as Orbax writes it, and the digests of its files. It is written aside, brought to the disk
and renamed, so a process killed at any moment leaves whole checkpoints only; damage that comes later is
found by the digests, and the checkpoint before is taken.
"""

import contextlib
import errno
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from lth_jax.errors import InputError, storage_error, warn
from lth_jax.runs import processes, storage
from lth_jax.tickets.masks import path_names

KEEP = 2
"""Checkpoints kept: the newest and the one before it."""

NOT_OF_FOLDERS = (
    *(errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
)
"""What file systems say that cannot open a folder, or cannot bring it to the disk."""

TREE, SUMS, ASIDE = "default", "SHA256SUMS", ".aside"


def save(folder: Path, finished: int, tree: PyTree) -> None:
    """Write the state after ``finished`` levels; older checkpoints than the last two are removed.

    Several processes call it together: each writes what lies on its devices, the first does the rest.

    Raises:
      StorageError: it cannot be written; the checkpoints before it are as they were.
    """
    folder = folder.absolute()
    aside, place = folder / ASIDE, folder / str(finished)
    try:
        if processes.is_first():
            _discard(aside)
        processes.barrier(f"checkpoint {place} begins")
        with _silent_threads(), _checkpointer() as checkpointer:
            checkpointer.save(aside / TREE, args=ocp.args.StandardSave(without_keys(tree)))
        if processes.is_first():
            _put_in_place(aside, place)
        processes.barrier(f"checkpoint {place} is there")
    except Exception as error:  # Orbax and TensorStore report a full disk as whatever they like
        if processes.is_first():
            shutil.rmtree(aside, ignore_errors=True)
        raise storage_error(place, error) from error


def write_alone(folder: Path, tree: PyTree, texts: Mapping[str, str]) -> None:
    """Write a tree as a checkpoint for others, with some text files in its folder, whole or not at all.

    Orbax reads it with nothing of ours: ``StandardCheckpointer().restore(folder.absolute())``. What is in the
    folder already is replaced.

    Args:
      folder: where.
      tree: arrays.
      texts: what the text files say, by their names.

    Raises:
      StorageError: it cannot be written; what was there is as it was.
    """
    folder = folder.absolute()
    aside = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        with _silent_threads(), _checkpointer() as checkpointer:
            checkpointer.save(aside, args=ocp.args.StandardSave(tree))
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        _discard(folder)
        aside.rename(folder)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise storage_error(folder, error) from error


@contextlib.contextmanager
def _silent_threads() -> Iterator[None]:
    """Nothing on standard error while Orbax writes: its threads print tracebacks of a full disk.

    What went wrong comes back as an exception all the same, and is said in one line.
    """
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "wb") as before:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        except BaseException:
            time.sleep(1)  # writes that are still under way fail a moment later
            raise
        finally:
            os.dup2(before.fileno(), 2)


def _put_in_place(aside: Path, place: Path) -> None:
    """Give a checkpoint its digests and its name, and remove what is older than the last two."""
    files = storage.files_below(aside, SUMS)
    (aside / SUMS).write_text(storage.listing(aside, files), encoding="utf-8")
    for path in (*files, aside / SUMS, aside):
        _to_disk(path)
    if place.exists():  # a damaged one, whose level was played again
        _discard(place)
    aside.rename(place)
    _to_disk(place.parent)
    for level in numbers(place.parent)[KEEP:]:
        _discard(place.parent / str(level))


def numbers(folder: Path) -> list[int]:
    """The checkpoints in a folder by their number of levels finished, newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)


def restore_newest(folder: Path, like: PyTree) -> tuple[int, PyTree] | None:
    """Read the newest checkpoint that is whole; a damaged one is named, and the one before it is read.

    Args:
      folder: where :func:`save` wrote.
      like: a tree of the expected structure, shapes and dtypes.

    Returns:
      Levels finished, and the tree; ``None`` when there is no whole checkpoint.

    Raises:
      InputError: a whole checkpoint holds another tree.
    """
    plain = without_keys(like)
    for finished in numbers(folder):
        place = folder.absolute() / str(finished)
        problem = _problem(place)
        if problem is None:
            _check_same(place, plain)
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, plain)
            with _checkpointer() as checkpointer:
                tree = checkpointer.restore(place / TREE, args=ocp.args.StandardRestore(abstract))
            return finished, with_keys(tree, like)
        warn(f"checkpoint {place} is damaged ({problem}): left out")
    return None


def _is_key(leaf: Any) -> bool:
    """Whether an array is one of typed PRNG keys, as in the state of an optimizer that adds noise."""
    dtype: Any = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def without_keys(tree: PyTree) -> PyTree:
    """The tree with the data of its typed keys instead of them, which Orbax can write."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def with_keys(tree: PyTree, like: PyTree) -> PyTree:
    """What :func:`without_keys` made plain, with typed keys again where ``like`` has them."""

    def typed(wanted: Any, leaf: Any) -> Any:
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(wanted)) if _is_key(wanted) else leaf

    return jax.tree.map(typed, like, tree)


def _checkpointer() -> ocp.Checkpointer:
    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _problem(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, ``None`` if nothing is known to be."""
    try:
        expected = (place / SUMS).read_text(encoding="utf-8")
        return storage.problem(place, expected, storage.files_below(place, SUMS))
    except FileNotFoundError:
        return f"it has no {SUMS}"
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _check_same(place: Path, like: PyTree) -> None:
    """Raise ``InputError`` unless a checkpoint holds a tree like ``like``: Orbax lets other shapes pass."""
    with _checkpointer() as checkpointer:
        held = checkpointer.metadata(place / TREE).item_metadata.tree
    found = {leaf.name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for leaf in jax.tree.leaves(held)}
    wanted = {
        ".".join(path_names(path)): (tuple(np.shape(leaf)), np.dtype(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(like)
    }
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            there, here = (
                "absent" if entry is None else f"{entry[1]}{list(entry[0])}"
                for entry in (found.get(name), wanted.get(name))
            )
            raise InputError(
                f"checkpoint {place} is another program's: {name} is {there} there, {here} here; "
                "choose another --out"
            )


def _discard(path: Path) -> None:
    """Remove a folder; killed on the way, it leaves nothing that looks like a checkpoint."""
    gone = path.with_name(f"{ASIDE}-gone")
    shutil.rmtree(gone, ignore_errors=True)
    if path.exists():
        path.rename(gone)
        shutil.rmtree(gone)


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, not in memory only."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in NOT_OF_FOLDERS:
            raise
