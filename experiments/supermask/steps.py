"""E6's steps: computed one after the other, each saved when it is finished and never computed again."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xarray as xr
from jaxtyping import PyTree
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments import cli
from lth_jax.runs import logs, results, signals

Done = Mapping[str, xr.Dataset]
"""What the steps so far have found, by their names."""
Wait = Callable[[PyTree], PyTree]
"""Gives back what it is given once that is computed, or raises to stop."""


class Step(NamedTuple):
    """One step: what it is called, what it costs, and how its results come of those before it.

    ``network_steps`` counts training steps over all its networks, for the speed that is shown; ``cost`` its
    multiplications, for the time that is left. ``describe`` says in a few words what came out.
    """

    name: str
    networks: int
    network_steps: int
    cost: float
    compute: Callable[[Done, Wait], xr.Dataset]
    describe: Callable[[xr.Dataset], str] = lambda found: ""


def play(folder: Path, steps: Sequence[Step]) -> tuple[dict[str, xr.Dataset], float]:
    """All steps in order; those saved in ``folder`` are read back.

    Args:
      folder: the run's folder; a step is ``checkpoints/NAME.nc`` in it.
      steps: each may use the results of those before it.

    Returns:
      Their results by name, and the seconds all of them took, saved ones included.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came; what is finished is saved.
      StorageError: a step's results cannot be written.
    """
    done: dict[str, xr.Dataset] = {}
    spent, pace = 0.0, [0.0, 0.0]  # pace: multiplications and seconds of the steps computed here
    with signals.asked() as request, _reporter(len(steps)) as report:
        wait = functools.partial(signals.wait, request=request)
        for number, step in enumerate(steps, start=1):
            path = folder / results.CHECKPOINTS / f"{step.name}.nc"
            found = cli.finished(path)
            resumed = found is not None
            if found is None:
                report(number - 1, f"{step.name}: {step.networks:,} networks …")
                started = time.perf_counter()
                found = step.compute(done, wait)
                found.attrs["seconds"] = time.perf_counter() - started
                results.save(found, path)
                seconds = found.attrs["seconds"]
                speed = step.network_steps / seconds if seconds else math.nan
                logs.note({"part": step.name, "seconds": seconds, "network_steps_per_second": speed})
                pace = [pace[0] + step.cost, pace[1] + found.attrs["seconds"]]
            done[step.name] = found
            spent += found.attrs["seconds"]
            left = sum(later.cost for later in steps[number:]) * pace[1] / pace[0] if pace[0] else math.nan
            report(number, _line(step, found, resumed, left))
            signals.leave(request)
    return done, spent


def _line(step: Step, found: xr.Dataset, resumed: bool, left: float) -> str:
    """What is said of a finished step; ``left`` in seconds."""
    seconds = found.attrs["seconds"]
    speed = f", {step.network_steps / seconds:,.0f} network-steps/s" if step.network_steps else ""
    text = f"{step.name}: {step.describe(found)}  {seconds:.1f} s{speed}"
    later = f"  {left / 60:.1f} min left" if math.isfinite(left) else ""
    return text + ("  (from before)" if resumed else later)


@contextlib.contextmanager
def _reporter(count: int) -> Iterator[Callable[[int, str], None]]:
    """Report steps: a progress bar on a terminal, a line a step elsewhere."""
    console = Console(markup=False)
    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=count)

        def report(finished: int, line: str) -> None:
            if console.is_terminal:
                bar.update(task, completed=finished, description=line)
            else:
                print(f"step {finished}/{count}  {line}", flush=True)

        yield report
