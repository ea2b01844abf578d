"""Memory: how many runs fit at once, so that any number of them can be asked for.

Two bounds. A *chunk* is what one device computes at the same time: every run in it needs its intermediate
results, :func:`live_bytes` of the function. A *block* is what a sweep carries from level to level: every run
in it needs its state four times (before the sweep, before the level, where devices compute it, after the
level), 18.1 MB for E1's LeNet-300-100, whose 266,610 weights have a start, a value to rewind to, a mask and
Adam's two moments. What does not fit into one block is swept block after block, which changes no number: runs
do not know each other.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend import core
from jax.sharding import Mesh
from jaxtyping import PyTree

from lth_jax.errors import require

STATES = 4
"""Copies of a run's state that a sweep holds at most."""

USED = 0.8
"""Share of a device's free memory that is planned with; the rest is for what no estimate sees."""

SWEPT = 0.5
"""Share of all memory that a block may take: data and programs are there too, and checkpoints are copies."""


def tree_bytes(tree: PyTree) -> int:
    """Bytes of a tree of arrays or ``jax.ShapeDtypeStruct``."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def total() -> int:
    """Bytes of all accelerators together, or of the host as far as this process may use them."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    if all(limits):
        return sum(limits) * jax.process_count()
    physical = _physical()
    group = Path("/sys/fs/cgroup/memory.max")  # what a container or a batch job is given
    granted = group.read_text().strip() if group.exists() else ""
    return min(physical, int(granted)) if granted.isdecimal() else physical


def _physical() -> int:
    """Bytes of the host's memory; as good as without limit where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def check(state: PyTree, runs: int, named: str = "--initializers × --seeds") -> None:
    """Refuse more runs than memory can hold.

    Args:
      state: one run's arrays or their ``jax.ShapeDtypeStruct``; a level needs them twice.
      runs: how many.
      named: the flags that say so.

    Raises:
      InputError: they do not fit; the message has both numbers.
    """
    all_there_is, each = total(), 2 * tree_bytes(state)
    require(
        runs * each <= all_there_is,
        f"{runs:,} runs ({named}) of {each / 1e6:,.1f} MB do not fit into "
        f"{all_there_is / 1e9:,.1f} GB of memory; take fewer, or smaller layers",
    )


def on_cpu(mesh: Mesh) -> bool:
    """Whether a mesh is of a CPU's cores, whose memory is the host's."""
    return mesh.devices.flat[0].platform == "cpu"


def free(mesh: Mesh) -> int | None:
    """Free bytes of the fullest device of a mesh in this process, ``None`` where devices do not say."""
    statistics = [device.memory_stats() or {} for device in mesh.local_devices]
    if not all("bytes_limit" in each for each in statistics):
        return None
    return min(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in statistics)


def evenly(count: int, limit: int, multiple: int = 1) -> int:
    """The size of the parts into which ``count`` runs are cut: at most ``limit``, a multiple of ``multiple``.

    All parts alike, if that makes them no smaller than half the limit: another size is another program.
    Otherwise as few parts as possible, the last one smaller. At least ``multiple``, whatever the limit.
    """
    if count <= limit:
        return count
    limit = max(limit // multiple, 1) * multiple
    alike = [size for size in range(limit, limit // 2, -multiple) if count % size == 0]
    parts = -(-count // limit)
    return alike[0] if alike else -(-count // (parts * multiple)) * multiple


def fitting_chunk(free_bytes: int, share: int, one: int, every: int, result: int) -> int:
    """How many of a device's runs can be computed at the same time.

    Args:
      free_bytes: free on the device, the runs themselves being there already.
      share: the device's runs.
      one: bytes of intermediate results where one run is computed at a time, see :func:`live_bytes`.
      every: the same where all of the share are.
      result: bytes that the whole share leaves behind.
    """
    room = int(USED * free_bytes) - result
    if every <= room or share == 1:
        return share
    # live_bytes is a maximum of linear functions of the number of runs, so the chord lies above it.
    return evenly(share, max(1 + (room - one) * (share - 1) // max(every - one, 1), 1))


def fitting_block(memory_bytes: int, runs: int, state: int, devices: int) -> int:
    """How many runs a sweep can carry from level to level.

    Args:
      memory_bytes: all there is, see :func:`total`.
      runs: how many are asked for.
      state: bytes of one run between two levels.
      devices: they share the block evenly.
    """
    return evenly(runs, max(int(SWEPT * memory_bytes) // (STATES * max(state, 1)), 1), devices)


def live_bytes(jaxpr: core.Jaxpr) -> int:
    """The most bytes that intermediate results of a program hold at the same time, its inputs left out.

    Counted equation by equation, each result from where it is made to where it is last used, loops and calls
    by the most that one pass through their body holds. XLA fuses, so it needs less: an estimate from above.
    """
    last = {}
    for index, equation in enumerate(jaxpr.eqns):
        last |= {var: index for var in equation.invars if isinstance(var, core.Var)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    alive: dict[Any, int] = {}
    most = 0
    for index, equation in enumerate(jaxpr.eqns):
        inner = max((live_bytes(body) for body in core.jaxprs_in_params(equation.params)), default=0)
        made = {var: _bytes(var.aval) for var in equation.outvars}
        most = max(most, sum(alive.values()) + max(inner, sum(made.values())))
        alive |= made
        alive = {var: size for var, size in alive.items() if last.get(var, -1) > index}
    return most


def _bytes(aval: Any) -> int:
    """Bytes of an array that a program makes."""
    return aval.size * aval.dtype.itemsize


def chunk_for(function: Callable[..., PyTree], runs: PyTree, shared: Sequence[Any], mesh: Mesh) -> int:
    """How many runs of ``function(run, *shared)`` to vectorise inside one device of a mesh.

    One on a CPU. Elsewhere what the free memory of the fullest device allows, or all of a device's share if
    it does not say.

    Args:
      function: for one run.
      runs: all runs as they lie on the mesh, a leading axis on every leaf.
      shared: what is the same for every run.
      mesh: the devices.
    """
    share = jax.tree.leaves(runs)[0].shape[0] // mesh.size
    if on_cpu(mesh):
        return 1
    if (available := free(mesh)) is None:
        return share

    def trace(count: int) -> tuple[int, int]:
        some = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), runs)
        together = jax.vmap(function, in_axes=(0, *(None for _ in shared)))
        program, result = jax.make_jaxpr(together, return_shape=True)(some, *shared)
        return live_bytes(program.jaxpr), tree_bytes(result)

    one, (every, result) = trace(1)[0], trace(share)
    return fitting_chunk(available, share, one, every, result)
