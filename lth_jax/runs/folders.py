"""A run's folder: made or joined, for one configuration, one data set and one process at a time.

The lock is the system's (``flock``) on a file in the folder, which says who has it. The system takes it back
from a process that ends in any way, so no lock is ever left behind.
"""

import contextlib
import errno
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lth_jax.errors import InputError, StorageError, require, warn
from lth_jax.runs import storage
from lth_jax.runs.config import differences, to_json
from lth_jax.runs.results import CHECKPOINTS, CONFIG, DATA, RESULTS, Readable, digests, is_whole
from lth_jax.runs.storage import write_text

LOCK = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder, which must exist, until the block ends.

    Raises:
      InputError: another process holds it; the message has its number and its machine's name.
      OSError: the lock's file cannot be written.
    """
    if sys.platform == "win32":  # there is no flock
        yield
        return
    path = folder / LOCK
    descriptor = _locked(path)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """An open file at ``path`` that this process alone has locked."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder removes the file: one that was opened before and locked after is nobody's.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise InputError(
                f"--out {path.parent}: in use by {holder}; wait for it, end it or choose another folder"
            ) from None
        except OSError as error:
            if error.errno in UNSUPPORTED:  # some network file systems: nothing can be known of others
                warn(f"{path.parent}: this file system has no locks; start nothing else in this folder")
                return descriptor
            os.close(descriptor)
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def open_folder(
    folder: Path,
    config: Any,
    dataset: Mapping[str, Any] | None = None,
    leaves: Mapping[str, Readable] | None = None,
) -> Iterator[Path]:
    """Make a run's folder, or join the run that it holds; no other process can until the block ends.

    Args:
      folder: the folder.
      config: the run's configuration.
      dataset: what tells the run's data from others, ``None`` for a run without any.
      leaves: the files that a finished run must have beside its results, see ``results.problems``.

    Raises:
      InputError: it holds a run of another configuration or other data, or one that is not finished, or not
        whole, of other versions of a library; is in use, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            _check_folder(folder, config, dataset, leaves or {})  # before anything is written
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(folder))
            _check_folder(folder, config, dataset, leaves or {})
            for remains in folder.rglob(".*"):  # what a killed process was writing
                if re.fullmatch(r"\.(\d+\..+|.+\.\d+)", remains.name) and remains.is_file():
                    remains.unlink()
            for name, text in ((CONFIG, to_json(config)), (DATA, json.dumps(dataset, indent=2))):
                whole = _whole(folder, name, json.loads(text) or {})
                for path in _copies(folder, name):
                    if text == "null" or path in whole:
                        continue
                    if path.exists():
                        warn(f"{path} is damaged: written again")
                    write_text(path, whole[0].read_text(encoding="utf-8") if whole else text)
        except (OSError, StorageError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"--out {folder}: cannot be written: {reason}") from None
        yield folder


def _check_folder(
    folder: Path, config: Any, dataset: Mapping[str, Any] | None, leaves: Mapping[str, Readable]
) -> None:
    """Raise ``InputError`` unless a folder is new, empty, or holds the run of this configuration and data."""
    if (begun := _read_json(folder, CONFIG, json.loads(to_json(config)))) is not None:
        if different := differences(config, begun):
            raise InputError(
                f"--out {folder}: holds another configuration's run ({'; '.join(different)}); "
                "choose another --out or repeat its flags"
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"--out {folder}: is not empty and holds no run; choose another --out")
    if dataset is not None and (begun := _read_json(folder, DATA, dataset)) is not None:
        _check_versions(folder, begun.get("versions"), dataset.get("versions"), leaves)
        if begun.get("fingerprint") != dataset.get("fingerprint"):
            raise InputError(
                f"--data-dir: these data have the fingerprint {dataset['fingerprint']}, the run in {folder} "
                f"was begun with {begun.get('fingerprint')} ({begun.get('source')}); choose another --out"
            )
        if begun.get("program") != dataset.get("program"):
            raise InputError(
                f"--out {folder}: holds the run of another program (its model's code, a library, or whether "
                "there are native kernels, has changed since); choose another --out"
            )
    if folder.exists() and not os.access(folder, os.W_OK):
        raise InputError(f"--out {folder}: cannot be written; choose another --out")


def _check_versions(folder: Path, begun: Any, here: Any, leaves: Mapping[str, Readable]) -> None:
    """Raise ``InputError`` if a run of other versions of a library has anything left to be trained."""
    if not isinstance(begun, Mapping) or not here:
        return
    other = [
        f"{name} {begun.get(name)} there, {own} here" for name, own in here.items() if begun.get(name) != own
    ]
    if other and not is_whole(folder, leaves):
        kind = "damaged run" if (folder / RESULTS).exists() else "run"
        raise InputError(
            f"--out {folder}: holds a {kind} begun with other versions ({'; '.join(other)}), whose numbers "
            "may differ; go on with those, or choose another --out"
        )


def _read_json(folder: Path, name: str, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run's folder says of itself, from the file of that name or from its copy; ``None`` if nothing.

    Raises:
      InputError: both are damaged.
    """
    if whole := _whole(folder, name, own):
        return _parsed(whole[0])
    there = any(path.exists() for path in _copies(folder, name))
    require(not there, f"{folder / name} and its copy are damaged: mend one or choose another --out")
    return None


def _copies(folder: Path, name: str) -> list[Path]:
    """A file that says what the folder's run is, and a second one, lest the first be damaged."""
    return [folder / name, folder / CHECKPOINTS / name]


def _whole(folder: Path, name: str, own: Mapping[str, Any]) -> list[Path]:
    """Those of the two that are believed: all others are damaged.

    Where a finished run has a digest of them, those that have it. Where they say different things, a byte of
    one is another now: the one that says what this command does.

    Args:
      folder: of the run.
      name: of the file.
      own: what this command would write there.
    """
    found = {path: said for path in _copies(folder, name) if (said := _parsed(path)) is not None}
    digest = digests(folder / RESULTS).get(name)
    if as_written := [path for path in found if digest == storage.of_file(path)]:
        return as_written
    common = lambda said: sum(own.get(key) == value for key, value in said.items())  # noqa: E731
    best = max(found.values(), key=common, default=None)
    return [path for path, said in found.items() if said == best]


def _parsed(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; ``None`` if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing, no JSON, or no UTF-8
        return None
    return content if isinstance(content, dict) else None
