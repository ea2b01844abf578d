"""The run axis: many runs in one compiled program, added here and nowhere else.

Functions elsewhere describe one run. :func:`map_runs` gives them a leading axis *run* (seed × initializer …),
shards it over the devices of a mesh, and inside each device goes through it ``chunk`` runs at a time: a
vectorised chunk as large as memory allows on a GPU or TPU, one after the other on a CPU core, whose cache
holds one LeNet with its Adam moments and not eleven. The devices may be those of several processes, see
:mod:`lth_jax.runs.processes`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lth_jax.devices import use_host_devices as use_host_devices
from lth_jax.runs import memory, processes, signals

AXIS = "run"


def run_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A one-dimensional mesh over all devices (or those given), its axis called ``run``."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def pad_runs(runs: PyTree, multiple: int) -> PyTree:
    """Repeat the last run until the leading axis is a multiple of ``multiple``."""
    count = jax.tree.leaves(runs)[0].shape[0]
    extra = -count % multiple
    if extra == 0:
        return runs
    index = np.minimum(np.arange(count + extra), count - 1)
    return jax.tree.map(lambda leaf: leaf[index], runs)


def map_runs(
    function: Callable[..., PyTree],
    mesh: Mesh | None = None,
    chunk: int | None = None,
) -> Callable[..., PyTree]:
    """Turn ``function(run, *shared)`` for one run into ``mapped(runs, *shared)`` for a leading axis of runs.

    Args:
      function: pure; its first argument is one run's tree, the others are the same for every run.
      mesh: the devices, see :func:`run_mesh`.
      chunk: runs vectorised at a time inside one device; :func:`memory.chunk_for` when not given.

    Returns:
      A compiled function: ``runs`` has a leading axis on every leaf, as has the result. It is compiled once
      per shape: levels of a sweep, whose masks are data, share one program. It returns when all devices have
      finished, or raises ``signals.Stopped``. The results of a CPU's cores lie on the first of them, see
      :func:`to_first_device`; those of
      accelerators stay where they were made, unless their number is not a multiple of the devices'.
    """
    mesh = mesh or run_mesh()
    sizes: dict[int, int] = {}  # by number of runs: what is free may change, the program must not

    def on_device(size: int, runs: PyTree, *shared: Any) -> PyTree:
        share = jax.tree.leaves(runs)[0].shape[0]
        one = lambda run: function(run, *shared)  # noqa: E731
        return jax.lax.map(one, runs, batch_size=None if size == 1 else min(size, share))

    across, everywhere = PartitionSpec(AXIS), PartitionSpec()

    @functools.partial(jax.jit, static_argnums=0)
    def sharded(size: int, runs: PyTree, *shared: Any) -> PyTree:
        specs = (across, *(everywhere for _ in shared))
        body = functools.partial(on_device, size)
        return jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=across, check_vma=False)(
            runs, *shared
        )

    def mapped(runs: PyTree, *shared: Any) -> PyTree:
        count = jax.tree.leaves(runs)[0].shape[0]
        # One placement at every call, or the second level would compile anew for the first one's output.
        placed = place(pad_runs(runs, mesh.size), NamedSharding(mesh, across))
        if count not in sizes:
            sizes[count] = chunk or processes.smallest(memory.chunk_for(function, placed, shared, mesh))
        result = signals.block(sharded(sizes[count], placed, *shared))
        del placed  # before there is another copy
        uneven = count % mesh.size
        if uneven or memory.on_cpu(mesh):
            result = to_first_device(result, mesh)
        return jax.tree.map(lambda leaf: leaf[:count], result) if uneven else result

    mapped.compiled = sharded  # type: ignore[attr-defined]  # for its cache size, in tests
    return mapped


def to_first_device(tree: PyTree, mesh: Mesh) -> PyTree:
    """What is spread over the devices of a mesh, copied to its first; what other processes share stays.

    Cutting, indexing or averaging runs where they lie is a collective of all devices, one for every leaf. The
    devices of a CPU have one pool of threads, as many as there are cores, and several collectives at once can
    take them all and wait for ever: XLA then ends the process.
    """
    home = mesh.devices.flat[0]

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, home) if getattr(leaf, "is_fully_addressable", True) else leaf

    return jax.tree.map(put, tree)


def replicate(tree: PyTree, mesh: Mesh | None = None) -> PyTree:
    """A copy of the tree on every device of the mesh, made once instead of at every call."""
    mesh = mesh or run_mesh()
    return place(tree, NamedSharding(mesh, PartitionSpec()))


def spread(runs: PyTree, mesh: Mesh | None = None) -> PyTree:
    """Runs as several processes share them: padded to the number of devices, each on its own.

    What a level makes of them stays so: cutting the padding off would bring every run to every process. With
    one process they are left as they are.
    """
    mesh = mesh or run_mesh()
    if jax.process_count() == 1:
        return runs
    return place(pad_runs(runs, mesh.size), NamedSharding(mesh, PartitionSpec(AXIS)))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Put arrays on devices, those of other processes too; what lies there already is not copied."""

    def put(leaf: Any) -> jax.Array:
        elsewhere = not sharding.is_fully_addressable
        if elsewhere and getattr(leaf, "is_fully_addressable", True):
            values = np.asarray(leaf)  # every process has all of it and keeps its part
            return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(put, tree)


def flatten(tree: PyTree) -> PyTree:
    """``[run, network, ...]`` as ``[run × network, ...]``, run by run."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def unflatten(tree: PyTree, networks: int) -> PyTree:
    """``[run × network, ...]`` as ``[run, network, ...]``."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, networks, *leaf.shape[1:]), tree)


def on_own_runs(function: Callable[..., PyTree], mesh: Mesh) -> Callable[..., PyTree]:
    """A function of stacked runs, applied by each device to those that lie on it; no device asks another.

    With one process, whose CPU's runs all lie on the first device, it is applied there.
    """
    if jax.process_count() == 1:
        return jax.jit(function)
    across = PartitionSpec(AXIS)
    shared = jax.shard_map(function, mesh=mesh, in_specs=across, out_specs=across, check_vma=False)
    return jax.jit(shared)


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Trees of one structure as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
