"""The run axis: each run its own result, on few cores too, and streams of chance that are told apart."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lth_jax.keys import STREAMS, stream
from lth_jax.runs import axis


def test_streams_differ_by_name_seed_and_index():
    keys = [stream(seed, name, index) for seed in (1, 2) for name in STREAMS for index in (0, 1)]
    drawn = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
    assert len(drawn) == len(keys)
    with pytest.raises(ValueError, match="unknown random stream 'ordre'"):
        stream(1, "ordre")


def test_streams_keep_the_positions_that_published_numbers_have():
    assert STREAMS[:8] == ("init", "order", "model", "default_init", "reinit", "shuffle", "mask", "sample")


def test_pad_runs_repeats_the_last():
    padded = axis.pad_runs({"a": jnp.arange(3)}, 4)
    np.testing.assert_array_equal(padded["a"], [0, 1, 2, 2])
    np.testing.assert_array_equal(axis.pad_runs(jnp.arange(4), 2), [0, 1, 2, 3])


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_map_runs_gives_each_run_its_own_result(runs, chunk):
    squares = axis.map_runs(lambda x, shift: {"y": x * x + shift}, chunk=chunk)
    found = squares(jnp.arange(float(runs)), jnp.asarray(1.0))["y"]
    np.testing.assert_array_equal(found, np.arange(runs) ** 2 + 1.0)
    assert found.devices() == {jax.devices()[0]}  # of a CPU: what is asked of them next is no collective


def test_map_runs_on_a_mesh_of_ones_own():
    mesh = axis.run_mesh(jax.devices()[1:])
    found = axis.map_runs(lambda x: x + 1, mesh)(jnp.arange(3))
    np.testing.assert_array_equal(found, [1, 2, 3])
    assert found.devices() == {jax.devices()[1]}


def test_one_program_serves_all_calls_of_one_shape():
    added = axis.map_runs(lambda x, shift: x + shift)
    runs = jnp.arange(3)
    for shift in range(3):
        runs = added(runs, jnp.asarray(shift))
    np.testing.assert_array_equal(runs, [3, 4, 5])
    assert added.compiled._cache_size() == 1


def test_what_is_spread_comes_to_the_first_device():
    mesh = axis.run_mesh()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis.AXIS))
    tree = {"runs": axis.place(jnp.arange(4), sharding), "shared": axis.replicate(jnp.ones(2))}
    assert all(leaf.devices() == set(jax.devices()) for leaf in tree.values())
    found = axis.to_first_device(tree, mesh)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in found.values())
    jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_networks_of_runs_stand_in_one_row_and_back():
    tree = {"a": jnp.arange(24).reshape(2, 3, 4), "b": jnp.arange(6).reshape(2, 3)}
    flat = axis.flatten(tree)
    assert {name: leaf.shape for name, leaf in flat.items()} == {"a": (6, 4), "b": (6,)}
    np.testing.assert_array_equal(flat["b"], np.arange(6))
    jax.tree.map(np.testing.assert_array_equal, axis.unflatten(flat, 3), tree)


SPINNING = """
import jax, jax.numpy as jnp, numpy as np
from lth_jax.runs import axis

def spin(steps):
    x = jax.lax.fori_loop(0, steps, lambda i, x: jnp.sin(x) + i, jnp.zeros(50))
    return {size: x[None] + jnp.zeros((size, 1)) for size in range(100, 112)}

jax.config.update("jax_num_cpu_devices", 2)
mapped, rng = axis.map_runs(spin, chunk=1), np.random.default_rng(0)
for _ in range(50):
    found = mapped(jnp.asarray(rng.integers(1, 20000, RUNS)))
    firsts = jax.tree.map(lambda leaf: leaf.reshape(1, RUNS, *leaf.shape[1:])[:, 0], found)
    jax.block_until_ready(jax.device_put(firsts, jax.devices()[0]))
"""


@pytest.mark.parametrize("runs", [3, 4])
def test_asking_for_runs_on_few_cores_never_waits_for_ever(runs):
    # Cut and indexed where they lie, as they once were, they end in XLA's timeout after some 10 rounds.
    seconds = "_timeout_seconds=5 --xla_cpu_collective_call_"
    flags = f"--xla_cpu_collective_call_warn_stuck{seconds}terminate_timeout_seconds=5"
    environment = {**os.environ, "XLA_FLAGS": flags}
    program = [sys.executable, "-c", f"RUNS = {runs}{SPINNING}"]
    ended = subprocess.run(program, env=environment, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
