"""Progress for people: a bar on a terminal, a line a level elsewhere; and a line a level in the run's log."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lth_jax.analysis import stats
from lth_jax.runs import logs
from lth_jax.runs.sweep import Progress, Reporter


@contextlib.contextmanager
def reporter(
    describe: Callable[[Progress], str], network_steps: int, part: str = "", names: Sequence[str] = ()
) -> Iterator[Reporter]:
    """Report levels: a progress bar on a terminal, a line a level elsewhere, both logged (see ``logs``).

    Args:
      describe: a progress to its line.
      network_steps: network-steps in one level, for the speed.
      part: what the log calls these levels, where a run has other levels too.
      names: what the log calls the runs, in their order.
    """
    console = Console()
    live = console.is_terminal and not console.is_dumb_terminal
    columns = (TextColumn("level"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", markup=False)
    with (
        logs.opened(part, names, network_steps) as log,
        Bar(*columns, text, console=console, disable=not live) as bar,
    ):
        task = bar.add_task("compiling", total=None)
        started = time.perf_counter()

        def report(progress: Progress) -> None:
            log(progress)
            level, done = progress.level, progress.level + 1
            seconds = progress.seconds[level]
            line = f"{describe(progress)}  {network_steps / seconds:,.0f} network-steps/s"
            if live:
                bar.update(task, completed=done, total=progress.levels, description=line)
                return
            played = max(done - progress.resumed, 1)
            left = (time.perf_counter() - started) / played * (progress.levels - done)
            again = "resumed after " if done == progress.resumed else ""
            print(f"{again}level {done}/{progress.levels}  {line}  {left / 60:.1f} min left", flush=True)

        yield report


def accuracy(values: np.ndarray) -> str:
    """``97.93 ± 0.11`` in percent, over the last axis, with the number of runs left out if any diverged."""
    summary = stats.summary(np.asarray(values) * 100)
    lost = np.size(values) - int(summary.n)
    return f"{summary.mean:.2f} ± {summary.std:.2f}" + (f" ({lost} diverged)" if lost else "")
