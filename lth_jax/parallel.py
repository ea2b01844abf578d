"""The run axis: many runs in one compiled program, added here and nowhere else.

Functions elsewhere describe one run. :func:`map_runs` gives them a leading axis *run* (seed × method × trial
…), shards it over the devices of a mesh, and inside each device goes through it ``chunk`` runs at a time: a
vectorised chunk as large as memory allows on a GPU or TPU, one after the other on a CPU core, whose cache
holds one LeNet with its Adam moments and not eleven.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "run"


def use_host_devices(count: int | None = None) -> None:
    """Let the CPU backend show ``count`` devices (default: one per usable core). Call before JAX starts.

    Does nothing when a backend is already running, or when the user has chosen a number themselves.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if jax.config.jax_num_cpu_devices > 0:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", count or cores)
    except RuntimeError:  # the backend has started: keep the devices it has
        return


def run_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over all devices (or those given), its axis called ``run``."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def default_chunk(mesh: Mesh, runs: int) -> int:
    """Runs to vectorise inside one device: 1 on a CPU, all of its share elsewhere."""
    share = math.ceil(runs / mesh.size)
    return 1 if mesh.devices.flat[0].platform == "cpu" else share


def pad_runs(runs: PyTree, multiple: int) -> PyTree:
    """Repeat the last run until the leading axis is a multiple of ``multiple``."""
    count = jax.tree.leaves(runs)[0].shape[0]
    extra = -count % multiple
    if extra == 0:
        return runs
    index = np.minimum(np.arange(count + extra), count - 1)
    return jax.tree.map(lambda leaf: leaf[index], runs)


def map_runs(
    function: Callable[..., PyTree], mesh: Mesh | None = None, chunk: int | None = None
) -> Callable[..., PyTree]:
    """Turn ``function(run, *shared)`` for one run into ``mapped(runs, *shared)`` for a leading axis of runs.

    Args:
      function: pure; its first argument is one run's tree, the others are the same for every run.
      mesh: the devices, see :func:`run_mesh`.
      chunk: runs vectorised at a time inside one device; :func:`default_chunk` when not given.

    Returns:
      A compiled function: ``runs`` has a leading axis on every leaf, as has the result. It is compiled once
      per shape: levels of a sweep, whose masks are data, share one program.
    """
    mesh = mesh or run_mesh()

    def on_device(runs: PyTree, *shared: Any) -> PyTree:
        share = jax.tree.leaves(runs)[0].shape[0]
        size = chunk or default_chunk(mesh, share * mesh.size)
        one = lambda run: function(run, *shared)  # noqa: E731
        return jax.lax.map(one, runs, batch_size=None if size == 1 else min(size, share))

    spread, everywhere = PartitionSpec(AXIS), PartitionSpec()

    @jax.jit
    def sharded(runs: PyTree, *shared: Any) -> PyTree:
        specs = (spread, *(everywhere for _ in shared))
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False)(
            runs, *shared
        )

    def mapped(runs: PyTree, *shared: Any) -> PyTree:
        count = jax.tree.leaves(runs)[0].shape[0]
        # One placement at every call, or the second level would compile anew for the first one's output.
        placed = jax.device_put(pad_runs(runs, mesh.size), NamedSharding(mesh, spread))
        result = sharded(placed, *shared)
        return jax.tree.map(lambda leaf: leaf[:count], result) if count % mesh.size else result

    mapped.compiled = sharded  # type: ignore[attr-defined]  # for its cache size, in tests
    return mapped


def replicate(tree: PyTree, mesh: Mesh | None = None) -> PyTree:
    """A copy of the tree on every device of the mesh, made once instead of at every call."""
    mesh = mesh or run_mesh()
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Trees of one structure as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
