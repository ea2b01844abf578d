"""Signals: Ctrl-C and SIGTERM let the level in hand finish if that takes seconds, and lose nothing if not.

Python runs a signal's handler between two steps of its own, in the main thread, and a compiled program is
one step. So a level is dispatched, which returns at once, and :func:`wait` looks again and again whether its
arrays are there. A machine that is about to be taken away says so by SIGTERM, half a minute before.
"""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, TypeVar

import jax

GRACE = 10.0
"""Seconds that the level in hand has after the first signal. A second signal takes them away."""

POLL = 0.01
"""Seconds between two looks at a level in hand."""

HANDLED = (signal.SIGINT, signal.SIGTERM)

Tree = TypeVar("Tree")


class Stopped(KeyboardInterrupt):
    """A signal has ended the work.

    Attributes:
      number: the signal.
      computing: whether a level was left while the device computes it, which an ordinary exit waits for.
    """

    def __init__(self, number: int, computing: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.computing = number, computing


@dataclass
class Request:
    """Which signal has come, if any, and until when (monotonic seconds) the level in hand may take."""

    number: int | None = None
    deadline: float = math.inf


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Another handler for the signals in ``HANDLED``; none outside the main thread, which alone has any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in HANDLED}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Signals raise :class:`Stopped` where they meet the program."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def asked() -> Iterator[Request]:
    """The first signal is noted in the request, for :func:`wait` and :func:`leave`; the second raises."""
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            raise Stopped(number, computing=True)
        request.number, request.deadline = number, time.monotonic() + GRACE

    with _handling(note):
        yield request


def wait(tree: Tree, request: Request) -> Tree:
    """Block until a tree of JAX arrays is computed, or until a signal's grace is over.

    Raises:
      Stopped: a signal came, and the arrays were not there in time.
    """
    told = False
    while not all(leaf.is_ready() for leaf in jax.tree.leaves(tree)):
        if request.number is not None:
            if time.monotonic() >= request.deadline:
                raise Stopped(request.number, computing=True)
            if not told:
                text = f"stopping: the level in hand has {GRACE:g} s to finish; once more leaves it at once"
                print(text, file=sys.stderr, flush=True)
                told = True
        time.sleep(POLL)
    return jax.block_until_ready(tree)


def leave(request: Request) -> None:
    """Raise :class:`Stopped` if a signal has come: called where everything is saved."""
    if request.number is not None:
        raise Stopped(request.number)
