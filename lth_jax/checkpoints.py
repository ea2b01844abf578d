"""Checkpoints: the state of a sweep after each level, through Orbax.

A checkpoint is one tree (runs and what was recorded so far) and a number, the levels finished. Orbax writes
it aside and renames it, so a process killed at any moment leaves whole checkpoints only.
"""

import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

KEEP = 2
"""Checkpoints kept: the newest and the one before it."""


def _manager(folder: Path) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(folder: Path, finished: int, tree: PyTree) -> None:
    """Write the state after ``finished`` levels; older checkpoints than the last two are removed."""
    with _manager(folder) as manager:
        manager.save(finished, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()


def latest(folder: Path) -> int | None:
    """Levels finished in the newest whole checkpoint, ``None`` when there is none."""
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def restore(folder: Path, finished: int, like: PyTree) -> PyTree:
    """Read the state after ``finished`` levels.

    Args:
      folder: where :func:`save` wrote it.
      finished: which checkpoint.
      like: a tree of the expected structure, shapes and dtypes.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with _manager(folder) as manager:
        return manager.restore(finished, args=ocp.args.StandardRestore(abstract))
