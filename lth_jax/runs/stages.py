"""Stages: a job as a list of named results, each saved when it is finished and never computed again."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import xarray as xr

from lth_jax.runs import progress, results, signals
from lth_jax.runs.job import Job

Done = Mapping[str, xr.Dataset]
"""What the stages so far have found, by their names."""


class Stage(NamedTuple):
    """One stage: what it is called, what it costs, and how its results come of those before it.

    ``compute`` is given them; it may be a level loop with checkpoints of its own. ``network_steps`` counts
    training steps over all its networks, for the speed that is shown; ``cost`` its multiplications, for the
    time that is left. ``describe`` says in a few words what came out.
    """

    name: str
    compute: Callable[[Done], xr.Dataset]
    describe: Callable[[xr.Dataset], str] = lambda found: ""
    networks: int = 0
    network_steps: int = 0
    cost: float = 0.0


def run_stages(job: Job, stages: Sequence[Stage]) -> tuple[dict[str, xr.Dataset], float]:
    """All stages in order; those saved in the job's folder are read back.

    Args:
      job: a stage is ``checkpoints/NAME.nc`` in its folder.
      stages: each may use the results of those before it.

    Returns:
      Their results by name, and the seconds all of them took, saved ones included.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came; what is finished is saved.
      StorageError: a stage's results cannot be written.
    """
    done: dict[str, xr.Dataset] = {}
    spent, paid, paced = 0.0, 0.0, 0.0  # paid: multiplications of the stages computed here; paced: seconds
    with signals.defer_signals(), progress.live_bar("stage") as (bar, live):

        def report(finished: int, line: str) -> None:
            if live:
                bar(finished, len(stages), line)
            else:
                print(f"stage {finished}/{len(stages)}  {line}", flush=True)

        for number, stage in enumerate(stages, start=1):
            path = job.checkpoints / f"{stage.name}.nc"
            found = results.finished(path)
            resumed = found is not None
            if found is None:
                report(number - 1, f"{stage.name}: {stage.networks:,} networks …")
                started = time.perf_counter()
                found = stage.compute(done)
                seconds = time.perf_counter() - started
                found.attrs["seconds"] = seconds
                results.save(found, path)
                speed = stage.network_steps / seconds if seconds else math.nan
                progress.note(
                    job, {"part": stage.name, "seconds": seconds, "network_steps_per_second": speed}
                )
                paid, paced = paid + stage.cost, paced + seconds
            done[stage.name] = found
            spent += float(found.attrs["seconds"])
            left = sum(later.cost for later in stages[number:]) * paced / paid if paid else math.nan
            report(number, _line(stage, found, resumed, left))
            signals.stop_if_requested()
    return done, spent


def _line(stage: Stage, found: xr.Dataset, resumed: bool, left: float) -> str:
    """What is said of a finished stage; ``left`` in seconds."""
    seconds = found.attrs["seconds"]
    speed = f", {stage.network_steps / seconds:,.0f} network-steps/s" if stage.network_steps else ""
    text = f"{stage.name}: {stage.describe(found)}  {seconds:.1f} s{speed}"
    later = f"  {left / 60:.1f} min left" if math.isfinite(left) else ""
    return text + ("  (from before)" if resumed else later)
