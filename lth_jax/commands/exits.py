"""Exit codes: what a command line says, and leaves with, when it does not end by itself.

0 done, 2 wrong input, 1 no room, 130 or 143 stopped. Every end but the first is one line on standard error.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax

from lth_jax.data import DataError
from lth_jax.errors import InputError, StorageError, fail, write_any_text
from lth_jax.runs import signals

CODES = """\
exit codes:
  0        done
  2        wrong input: one line says what, nothing was written
  1        no room on the disk or in memory
  130 143  stopped by Ctrl-C or SIGTERM
After 1, 130 and 143 the same command goes on from what is saved."""


@contextlib.contextmanager
def exit_on_error(again: str = "", leave: bool = False) -> Iterator[None]:
    """Turn what goes wrong in the block into one line on standard error and an exit code.

    Args:
      again: how to go on after an interruption, for people; empty where there is nothing to go on with.
      leave: whether the block is the whole program, which a signal then ends at once: tearing an interpreter
        down while XLA compiles in other threads is a segmentation fault.
    """
    write_any_text()
    try:
        with signals.signals_raise():
            yield
    except (InputError, DataError) as error:
        fail(str(error))
    except (StorageError, OSError) as error:
        fail("; ".join(filter(None, [str(error), again])), 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"out of memory ({str(error)[:200]}); try a smaller --chunk, or fewer seeds", 1)
    except KeyboardInterrupt as stop:
        exit_for_signal(stop, again, leave)


def exit_for_signal(stop: KeyboardInterrupt, again: str = "", leave: bool = False) -> NoReturn:
    """Say how to go on, and leave with the exit code that shells give to a signal, 128 + its number."""
    number, computing = signal.SIGINT, False
    if isinstance(stop, signals.Stopped):
        number, computing = stop.number, stop.computing
    saved = f"; every finished level is saved; {again}" if again else ""
    print(f"\nstopped{saved}", file=sys.stderr, flush=True)
    if leave or computing:  # an ordinary exit would wait for the device
        sys.stdout.flush()
        os._exit(128 + number)
    raise SystemExit(128 + number) from None
