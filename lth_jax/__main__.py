"""The command ``lth-jax``, also as ``python -m lth_jax COMMAND …``."""

import os
import signal
import sys
import threading


def stop_at_once() -> None:
    """Let Ctrl-C and SIGTERM end the program without a traceback: while libraries are imported.

    The commands have handlers of their own, see ``runs.signals``.
    """

    def stop(number: int, frame: object) -> None:
        os.write(2, b"\nstopped\n")
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)


def stop_no_more() -> None:
    """Let no signal change the exit code of a program that is done: while the interpreter is torn down."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Run the command."""
    stop_at_once()
    try:
        from lth_jax import commands

        commands.main()
    finally:
        stop_no_more()


if __name__ == "__main__":
    if not sys.flags.safe_path:  # python -m looks into the working folder first: its json.py is not ours
        del sys.path[0]
    main()
