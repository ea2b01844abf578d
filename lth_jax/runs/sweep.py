"""A sweep with a memory: the level loop, checkpointed, resumable, reported as it goes."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from lth_jax import checks, levels
from lth_jax.errors import InputError
from lth_jax.runs import axis, checkpoints, memory, processes, signals
from lth_jax.tickets import pruning
from lth_jax.types import Split


class Progress(NamedTuple):
    """What a reporter is told after a level; ``record`` holds all levels, NaN or 0 where not yet played."""

    level: int
    levels: int
    record: PyTree
    seconds: np.ndarray
    resumed: int


Run = TypeVar("Run")
Reporter = Callable[[Progress], None]
Wait = Callable[[PyTree], PyTree]
"""Gives back what it is given once that is computed, or raises to stop."""


def _blank(like: PyTree, levels: int) -> PyTree:
    """NumPy arrays for the records of all levels: a leading axis *level* before *run*."""

    def blank(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fill = np.nan if np.issubdtype(leaf.dtype, np.floating) else 0
        return np.full((levels, *leaf.shape), fill, leaf.dtype)

    return jax.tree.map(blank, like)


def sweep(
    folder: Path,
    runs: levels.Run,
    data: Split,
    watch: Mapping[str, Split],
    plan: levels.Plan,
    levels: int,
    select: Callable[[levels.Level], PyTree],
    report: Reporter = lambda progress: None,
    mesh: Mesh | None = None,
    chunk: int | None = None,
) -> tuple[levels.Run, PyTree, np.ndarray]:
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
      mesh, chunk: see ``axis.map_runs``.

    Returns:
      The runs after the last level, padded and spread if there are several processes; the records as NumPy
      arrays ``[level, run, ...]``, whole in each of them; seconds per level.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came; what is finished is saved.
      StorageError: a checkpoint cannot be written.
      InputError: a layer would lose its last weight, or the checkpoints are another program's or of other
        seeds. Plan and data are not compared: a folder is for one sweep, see ``results.open_folder``.
    """
    checks.check_all(runs, data, watch, plan)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), runs.params)
    pruning.check_scope(one, plan.rates, plan.scope, levels)
    count, runs = len(runs.seed), axis.spread(runs, mesh)
    like = jax.eval_shape(
        lambda r: jax.vmap(lambda one: select(levels.play_level(one, data, watch, plan)[1]))(r), runs
    )

    def play(runs: levels.Run, wait: Wait) -> Iterator[tuple[levels.Run, PyTree]]:
        return levels.play(runs, data, watch, plan, levels, mesh, chunk, select, wait)

    def cut(record: PyTree) -> PyTree:  # without the runs that several processes are padded with
        return jax.tree.map(lambda whole: whole[:, :count], record)

    tell = lambda progress: report(progress._replace(record=cut(progress.record)))  # noqa: E731
    runs, record, seconds = remember(folder, runs, like, play, levels, tell)
    return runs, cut(record), seconds


def remember(
    folder: Path,
    runs: PyTree,
    like: PyTree,
    play: Callable[[PyTree, Wait], Iterator[tuple[PyTree, PyTree]]],
    levels: int,
    report: Reporter = lambda progress: None,
) -> tuple[PyTree, PyTree, np.ndarray]:
    """A level loop with a memory, whatever a level is: :func:`sweep` for any ``play``.

    Args:
      folder: where the checkpoints are.
      runs: the state before level 0.
      like: what is recorded of one level, as ``jax.ShapeDtypeStruct``s.
      play: a state and what waits for its arrays, to ``(state, record)`` after each of the levels left; the
        state knows how many it has behind it.
      levels: how many.
      report: called after every level, and once at the start when resuming.

    Returns:
      As :func:`sweep`, which also says what is raised.
    """
    record, seconds, finished = _blank(like, levels), np.zeros(levels), 0
    if begun := checkpoints.restore_newest(folder, {"runs": runs, "record": record, "seconds": seconds}):
        finished, restored = begun
        _check_seeds(folder, runs, restored["runs"])
        runs, seconds = restored["runs"], np.array(restored["seconds"])
        record = jax.tree.map(np.array, restored["record"])
        report(Progress(finished - 1, levels, record, seconds, finished))

    started = time.perf_counter()
    with signals.asked() as request:
        wait = functools.partial(signals.wait, request=request)
        played = play(runs, wait)
        for level, (runs, kept) in enumerate(played, start=finished):  # the runs move on
            kept = processes.gather(kept)
            jax.tree.map(lambda whole, one, at=level: whole.__setitem__(at, one), record, kept)
            seconds[level], started = time.perf_counter() - started, time.perf_counter()
            checkpoints.save(folder, level + 1, {"runs": runs, "record": record, "seconds": seconds})
            report(Progress(level, levels, record, seconds, finished))
            signals.leave(request)
    return runs, record, seconds


def _check_seeds(folder: Path, runs: PyTree, restored: PyTree) -> None:
    """Refuse to go on with other runs than those that a folder has."""
    ours, theirs = (processes.gather(getattr(state, "seed", ())) for state in (runs, restored))
    if not np.array_equal(ours, theirs):
        raise InputError(f"{folder} has a sweep of seeds {theirs.tolist()}, not {ours.tolist()}")


def blocks(
    folder: Path, runs: Sequence[Run], state: PyTree, size: int = 0
) -> Iterator[tuple[Path, Sequence[Run]]]:
    """Cut runs into blocks that memory can hold, each to be swept through all levels before the next.

    Args:
      folder: where the checkpoints are, of one block or of all.
      runs: the runs, or whatever names one.
      state: one run's arrays or their ``jax.ShapeDtypeStruct``s.
      size: runs in a block; 0 chooses by memory, see ``memory.fitting_block``.

    Yields:
      A folder for the block's checkpoints, and its part of ``runs``.
    """
    fitting = memory.fitting_block(memory.total(), len(runs), memory.tree_bytes(state), jax.device_count())
    size = processes.smallest(size or fitting)
    for first in range(0, len(runs), size):
        last = min(first + size, len(runs))
        place = folder if size >= len(runs) else folder / f"runs {first + 1}-{last}"
        yield place, runs[first:last]
