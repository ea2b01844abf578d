"""A loop of rounds (levels, epochs, segments), saved after each, that goes on where it stopped."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from lth_jax.errors import InputError
from lth_jax.runs import axis, checkpoints, processes, signals
from lth_jax.runs.progress import Progress


def with_checkpoints(
    folder: Path | None,
    state: PyTree,
    like: tuple[PyTree, PyTree],
    play: Callable[[PyTree], Iterator[tuple[PyTree, PyTree, PyTree]]],
    levels: int,
    report: Callable[[Progress], None] = lambda progress: None,
    keep_levels: Sequence[int] = (),
    networks: Sequence[str] = (),
) -> tuple[PyTree, PyTree, np.ndarray]:
    """Run a loop whose state is saved after each round, a round being a level, an epoch, a segment …

    Args:
      folder: where the checkpoints are; ``None`` saves nothing.
      state: before the first round, a leading axis *run* on every leaf.
      like: what is recorded of one round, and what is kept of some, as ``jax.ShapeDtypeStruct``.
      play: a state to ``(state, record, kept)`` after each of the rounds left; the state knows how many it
        has behind it.
      levels: how many rounds.
      report: called after every round, and once at the start when resuming.
      keep_levels: the rounds whose ``kept`` is kept.
      networks: what the record's second axis is called, for logs, see ``Progress``.

    Returns:
      The records ``[round, run, ...]``, what was kept ``[kept round, run, ...]``, and seconds per round; runs
      that several processes are padded with are left out.

    Raises:
      As :func:`sweep`.
    """
    count, finished = jax.tree.leaves(state)[0].shape[0], 0
    state = axis.spread(state)
    wide = jax.tree.leaves(state)[0].shape[0]
    saved = {
        "record": _blank(like[0], levels, wide),
        "kept": _blank(like[1], len(keep_levels), wide) if len(keep_levels) else {},
        "seconds": np.zeros(levels),
    }
    begun = folder and checkpoints.restore_newest(folder, {"runs": state, **saved})
    if folder and begun:
        finished, restored = begun
        _check_seeds(folder, state, restored["runs"])
        state = restored.pop("runs")
        saved = jax.tree.map(np.array, restored)

    def progress(level: int) -> Progress:
        return Progress(level, levels, _cut(saved["record"], count), saved["seconds"], finished, networks)

    if finished:
        report(progress(finished - 1))
    started = time.perf_counter()
    with signals.defer_signals():
        for level, (state, record, kept) in enumerate(play(state), start=finished):  # noqa: B020
            _put(saved["record"], level, processes.gather(record))
            if level in keep_levels:
                _put(saved["kept"], list(keep_levels).index(level), processes.gather(kept))
            now = time.perf_counter()
            saved["seconds"][level], started = now - started, now
            if folder:
                checkpoints.save(folder, level + 1, {"runs": state, **saved})
            report(progress(level))
            signals.stop_if_requested()
    return _cut(saved["record"], count), _cut(saved["kept"], count), saved["seconds"]


def _blank(like: PyTree, levels: int, runs: int) -> PyTree:
    """NumPy arrays for the records of all levels: a leading axis *level* before *run*."""

    def blank(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fill = np.nan if jax.numpy.issubdtype(leaf.dtype, np.inexact) else 0
        return np.full((levels, runs, *leaf.shape[1:]), fill, leaf.dtype)

    return jax.tree.map(blank, like)


def _put(whole: PyTree, level: int, record: PyTree) -> None:
    jax.tree.map(lambda all_levels, one: all_levels.__setitem__(level, one), whole, record)


def _cut(record: PyTree, count: int) -> PyTree:
    """Without the runs that several processes are padded with."""
    return jax.tree.map(lambda whole: whole[:, :count], record)


def _check_seeds(folder: Path, runs: PyTree, restored: PyTree) -> None:
    """Refuse to go on with other runs than those that a folder has."""
    ours, theirs = (processes.gather(getattr(state, "seed", ())) for state in (runs, restored))
    if not np.array_equal(ours, theirs):
        raise InputError(f"{folder} has a sweep of seeds {theirs.tolist()}, not {ours.tolist()}")
