"""Signals: Ctrl-C and SIGTERM let the level in hand finish if that takes seconds, and lose nothing if not.

Python handles signals between bytecodes, in the main thread, and JAX dispatches asynchronously: so a level is
dispatched, which returns at once, and :func:`block` polls whether its arrays are there. A machine that is
about to be taken away says so by SIGTERM, half a minute before.
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


_raised: int | None = None
"""The signal that has raised :class:`Stopped`. Python drops what is raised in a callback or destructor; it is
looked for again where the program asks whether to stop."""


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Signals raise :class:`Stopped` where they meet the program."""
    global _raised

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        global _raised
        _raised = number
        raise Stopped(number)

    hook = sys.unraisablehook
    try:
        # What is dropped is not lost, so nothing has to be said of it.
        sys.unraisablehook = lambda what: None if isinstance(what.exc_value, Stopped) else hook(what)
        with _handling(stop):
            yield
            stop_if_requested()
    finally:
        sys.unraisablehook, _raised = hook, None


_request: Request | None = None
"""Of the block that defers signals, if there is one: signals belong to the whole process."""


@contextlib.contextmanager
def defer_signals() -> Iterator[Request]:
    """The first signal is noted, for :func:`block` and :func:`stop_if_requested`; the second raises.

    Inside another such block, its request is shared. One that nobody has asked for raises at the end.
    """
    global _request
    if _request is not None:
        yield _request
        return
    stop_if_requested()
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            raise Stopped(number, computing=True)
        request.number, request.deadline = number, time.monotonic() + GRACE

    _request = request
    try:
        with _handling(note):
            yield request
        stop_if_requested()  # it may have come after the block has asked for the last time
    finally:
        _request = None


def block(tree: Tree) -> Tree:
    """Block until a tree of JAX arrays is computed, or until the grace of a deferred signal is over.

    Raises:
      Stopped: a signal came, and the arrays were not there in time.
    """
    told = False
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "is_ready")]  # which keys have not
    while _request is not None and not all(leaf.is_ready() for leaf in leaves):
        if _request.number is not None:
            if time.monotonic() >= _request.deadline:
                raise Stopped(_request.number, computing=True)
            if not told:
                text = f"stopping: the level in hand has {GRACE:g} s to finish; once more leaves it at once"
                print(text, file=sys.stderr, flush=True)
                told = True
        time.sleep(POLL)
    return jax.block_until_ready(tree)


def stop_if_requested() -> None:
    """Raise :class:`Stopped` if a signal has come and was deferred, or dropped: where everything is saved."""
    if _request is not None and _request.number is not None:
        raise Stopped(_request.number)
    if _raised is not None:
        raise Stopped(_raised)
