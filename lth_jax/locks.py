"""One process on a folder at a time.

The system's lock (``flock``) on a file in the folder, which says who has it. The system takes the lock back
from a process that ends in any way, so no lock is ever left behind.
"""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from lth_jax.config import InputError

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
