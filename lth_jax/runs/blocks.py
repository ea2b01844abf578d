"""Blocks: more runs than memory holds are taken through all levels block after block."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from lth_jax.errors import require
from lth_jax.levels import Plan, Run, branch
from lth_jax.runs import checkpoints, memory, processes


def block_state(run: Run, plan: Plan) -> PyTree:
    """What a sweep holds of one run beside what it computes: the run, its networks, and what they become."""
    starts = jax.eval_shape(lambda run: branch(run, plan), run)
    trained = [start.ticket.params for start in starts]
    return run, starts, trained


def blocks(
    folder: Path | None, runs: Sequence[Any], state: PyTree, size: int = 0
) -> Iterator[tuple[Path | None, Sequence[Any]]]:
    """Cut runs into blocks that memory can hold, each to be swept through all levels before the next.

    Args:
      folder: where the checkpoints are, of one block or of all.
      runs: the runs, or whatever names one.
      state: what is held of one run, arrays or their ``jax.ShapeDtypeStruct``, see :func:`block_state`.
      size: runs in a block; 0 chooses by memory, see ``memory.fitting_block``.

    Yields:
      A folder for the block's checkpoints, and its part of ``runs``.

    Raises:
      InputError: the folder has checkpoints of blocks of another size.
    """
    fitting = memory.fitting_block(memory.total(), len(runs), memory.tree_bytes(state), jax.device_count())
    if begun := 0 if folder is None else _begun_block(folder, len(runs)):
        problem = f"{folder}: these levels were begun with blocks of {begun} runs"
        same = min(size, len(runs)) in (0, begun)
        require(same, f"--block {size}: {problem}; repeat that, or choose another --out")
        fitting = begun
    size = processes.smallest(size or fitting)
    for first in range(0, len(runs), size):
        last = min(first + size, len(runs))
        place = folder if size >= len(runs) or folder is None else folder / f"runs {first + 1}-{last}"
        yield place, runs[first:last]


def _begun_block(folder: Path, runs: int) -> int:
    """Runs in a block of the checkpoints that a folder has; 0 if it has none."""
    if checkpoints.numbers(folder):
        return runs
    first = [re.fullmatch(r"runs 1-(\d+)", path.name) for path in folder.glob("runs 1-*")]
    return max((int(found[1]) for found in first if found), default=0)
