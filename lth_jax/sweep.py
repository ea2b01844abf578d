"""A sweep with a memory: the level loop, checkpointed, resumable, reported as it goes."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from lth_jax import checkpoints, lottery
from lth_jax.types import Split


class Progress(NamedTuple):
    """What a reporter is told after a level; ``record`` holds all levels, NaN or 0 where not yet played."""

    level: int
    levels: int
    record: PyTree
    seconds: np.ndarray
    resumed: int


Reporter = Callable[[Progress], None]


def _blank(like: PyTree, levels: int) -> PyTree:
    """NumPy arrays for the records of all levels: a leading axis *level* before *run*."""

    def blank(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fill = np.nan if np.issubdtype(leaf.dtype, np.floating) else 0
        return np.full((levels, *leaf.shape), fill, leaf.dtype)

    return jax.tree.map(blank, like)


def sweep(
    folder: Path,
    runs: lottery.Run,
    data: Split,
    watch: Mapping[str, Split],
    plan: lottery.Plan,
    levels: int,
    select: Callable[[lottery.Level], PyTree],
    report: Reporter = lambda progress: None,
    mesh: Mesh | None = None,
    chunk: int | None = None,
) -> tuple[lottery.Run, PyTree, np.ndarray]:
    """Play all levels, saving after each; a sweep already begun in ``folder`` goes on where it stopped.

    Args:
      folder: where the checkpoints are.
      runs: the runs before level 0, a leading axis on every leaf.
      data: training examples.
      watch: splits to evaluate.
      plan: what happens at every level.
      levels: how many.
      select: what to record of each level of each run.
      report: called after every level, and once at the start when resuming.
      mesh, chunk: see ``parallel.map_runs``.

    Returns:
      The runs after the last level; the records as NumPy arrays ``[level, run, ...]``; seconds per level.
    """
    like = jax.eval_shape(
        lambda r: jax.vmap(lambda one: select(lottery.play_level(one, data, watch, plan)[1]))(r), runs
    )
    record, seconds, finished = _blank(like, levels), np.zeros(levels), 0
    if (newest := checkpoints.latest(folder)) is not None:
        finished = newest
        tree = {"runs": runs, "record": record, "seconds": seconds}
        restored = checkpoints.restore(folder, finished, tree)
        runs, seconds = restored["runs"], np.array(restored["seconds"])
        record = jax.tree.map(np.array, restored["record"])
        report(Progress(finished - 1, levels, record, seconds, finished))

    started = time.perf_counter()
    played = lottery.play(runs, data, watch, plan, levels, mesh, chunk, select)
    for level, (runs, kept) in enumerate(played, start=finished):  # the runs move on
        jax.tree.map(lambda whole, one, at=level: whole.__setitem__(at, np.asarray(one)), record, kept)
        seconds[level], started = time.perf_counter() - started, time.perf_counter()
        checkpoints.save(folder, level + 1, {"runs": runs, "record": record, "seconds": seconds})
        report(Progress(level, levels, record, seconds, finished))
    return runs, record, seconds
