"""Several processes: one program on many hosts, which share the runs.

Every process executes the same code. Arrays with the run axis lie on the devices of all of them
(:func:`axis.spread`); what a level recorded is brought together in each (:func:`gather`); the first process
alone writes results and prints, all of them write their share of a checkpoint. With one process, which is the
rule, nothing here does anything.
"""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lth_jax.errors import InputError

PATIENCE = 30
"""Seconds that a process which has failed waits for the others before it ends, and they with it."""


def join() -> None:
    """Become one of several processes, as the cluster says; before JAX starts.

    Raises:
      InputError: there is no cluster that JAX knows, or it cannot be reached.
    """
    try:
        jax.distributed.initialize(shutdown_timeout_seconds=PATIENCE)
    except (ValueError, RuntimeError) as error:
        known = "SLURM, Open MPI, Kubernetes or a TPU pod"
        reason = f"the other processes cannot be found ({error}); start it under {known}"
        raise InputError(f"--distributed: {reason}") from None


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


@contextlib.contextmanager
def first_prints() -> Iterator[None]:
    """Only the first process's standard output is seen; errors are seen from all."""
    if is_first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def barrier(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def smallest(value: int) -> int:
    """The smallest of the processes' values: what all of them then use."""
    if jax.process_count() == 1:
        return value
    return int(np.min(multihost_utils.process_allgather(np.int64(value))))


def gather(tree: PyTree) -> PyTree:
    """Arrays as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def own(array: jax.Array | np.ndarray) -> np.ndarray:
    """The part of an array that lies on this process's devices, by its leading axis; all if all does."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable:
        return np.asarray(array)
    parts = {shard.index[0].start or 0: np.asarray(shard.data) for shard in array.addressable_shards}
    return np.concatenate([parts[start] for start in sorted(parts)])
