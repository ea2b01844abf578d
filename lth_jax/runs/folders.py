"""A run's folder: made or joined, for one configuration, one data set and one process at a time.

The lock is the system's (``flock``) on a file in the folder, which says who has it. The system takes it back
from a process that ends in any way, so no lock is ever left behind.
"""

import contextlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lth_jax.errors import InputError, StorageError
from lth_jax.runs.config import differences, to_json
from lth_jax.runs.results import CONFIG, DATA
from lth_jax.runs.storage import write_text

LOCK = ".lock"


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
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def open_folder(folder: Path, config: Any, dataset: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Make a run's folder, or join the run that it holds; no other process can until the block ends.

    Args:
      folder: the folder.
      config: the run's configuration.
      dataset: what tells the run's data from others, ``None`` for a run without any.

    Raises:
      InputError: it holds a run of another configuration or other data, is in use, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            _check_folder(folder, config, dataset)  # before anything is written
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(folder))
            _check_folder(folder, config, dataset)
            for remains in folder.rglob(".*"):  # what a killed process was writing
                if re.fullmatch(r"\.(\d+\..+|.+\.\d+)", remains.name) and remains.is_file():
                    remains.unlink()
            for name, text in ((CONFIG, to_json(config)), (DATA, json.dumps(dataset, indent=2))):
                if not (folder / name).exists() and text != "null":
                    write_text(folder / name, text)
        except (OSError, StorageError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"--out {folder}: cannot be written: {reason}") from None
        yield folder


def _check_folder(folder: Path, config: Any, dataset: Mapping[str, Any] | None) -> None:
    """Raise ``InputError`` unless a folder is new, empty, or holds the run of this configuration and data."""
    path = folder / CONFIG
    if path.exists():
        if different := differences(config, _read_json(path)):
            raise InputError(
                f"--out {folder}: holds another configuration's run ({'; '.join(different)}); "
                "choose another --out or repeat its flags"
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"--out {folder}: is not empty and holds no run; choose another --out")
    if dataset is not None and (folder / DATA).exists():
        begun = _read_json(folder / DATA)
        if begun.get("fingerprint") != dataset["fingerprint"]:
            raise InputError(
                f"--data-dir: these data have the fingerprint {dataset['fingerprint']}, the run in {folder} "
                f"was begun with {begun.get('fingerprint')} ({begun.get('source')}); choose another --out"
            )
        if begun.get("program") != dataset.get("program"):
            raise InputError(
                f"--out {folder}: holds the run of another program (its model's code, or a library, has "
                "changed since); choose another --out"
            )
    if folder.exists() and not os.access(folder, os.W_OK):
        raise InputError(f"--out {folder}: cannot be written; choose another --out")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run's folder.

    Raises:
      InputError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise InputError(f"{path} is damaged ({error}): mend it or choose another --out") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (no JSON object): mend it or choose another --out")
    return content
