"""The command ``lth-jax``, also as ``python -m lth_jax COMMAND …``."""

import os
import signal
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


def main() -> None:
    """Run the command."""
    stop_at_once()
    from lth_jax import commands

    commands.main()


if __name__ == "__main__":
    main()
