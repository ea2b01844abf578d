"""How many runs fit: rules by literal numbers, the estimate by hand, a thousand seeds in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from idx import write_idx

from lth_jax import levels, models, training
from lth_jax.runs import axis, blocks, memory
from lth_jax.tickets import schedules

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("count", "limit", "multiple", "size"),
    [
        (88, 88, 1, 88),
        (88, 1000, 1, 88),
        (88, 30, 1, 22),  # four alike rather than 30, 30, 28
        (89, 30, 1, 30),  # a prime number: 30, 30, 29
        (100, 60, 1, 50),
        (1000, 168, 2, 100),
        (11, 7, 2, 6),  # 6 and 5 on two devices
        (11, 1, 2, 2),  # one each, whatever the limit
    ],
)
def test_even_parts(count, limit, multiple, size):
    assert memory.evenly(count, limit, multiple) == size


@given(count=st.integers(1, 300), limit=st.integers(1, 300), multiple=st.integers(1, 8))
def test_parts_are_within_the_limit_and_few(count, limit, multiple):
    size = memory.evenly(count, limit, multiple)
    assert 1 <= size <= max(limit, multiple)
    assert size == count or size % multiple == 0
    if limit >= multiple and count > limit:
        assert 2 * size > limit // multiple * multiple or size * 2 >= limit - multiple


def test_the_chunk_by_hand():
    # 80 % of 1000 less 100 for results leaves 700. Alone a run needs 40, all of ten 940: 100 more each.
    assert memory.fitting_chunk(1000, 10, 40, 940, 100) == 5  # 7 would fit; two of 5 are alike
    assert memory.fitting_chunk(1000, 7, 40, 640, 100) == 7
    assert memory.fitting_chunk(1000, 1, 4000, 4000, 100) == 1
    assert memory.fitting_chunk(100, 10, 400, 4000, 0) == 1


def test_the_block_by_hand():
    # Half of 8 GiB are 236 times four states of LeNet-300-100, 17 bytes a weight: 200 go into 1000.
    state = 17 * 266_610
    assert memory.fitting_block(8 * 2**30, 1000, state, 2) == 200
    assert memory.fitting_block(8 * 2**30, 88, state, 2) == 88
    assert memory.fitting_block(1, 88, state, 2) == 2


def test_what_a_sweep_holds_of_a_run_by_hand():
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((100, 10), "float32")}}
    recipe = training.Recipe(models.from_flax(models.MLP()), optax.adam(0.1), 1, 1)

    def held(rates=(0.2,), **choices):
        sizes = schedules.iterative(shapes, {"a": {"kernel": True}}, rates)
        sizes = sizes._replace(one_shot=choices.pop("one_shot", False))
        plan = levels.Plan(recipe, sizes, {"a": {"kernel": True}}, **choices)
        zeros = {"a": {"kernel": jnp.zeros((100, 10))}}
        run = jax.eval_shape(lambda: levels.begin(0, zeros, {}, plan))
        return memory.tree_bytes(blocks.block_state(run, plan)) // 1000

    # Of each weight: 4 + 1 with its mask and 4 to rewind to, 4 + 1 where a network starts, 4 trained.
    assert held() == 9 + 5 + 4
    assert held(controls={"again": lambda run: run.ticket}) == 9 + 2 * (5 + 4)
    assert held(optimizer="carried") == 9 + 5 + 4 + 2 * 8  # Adam's two moments, in the run and at the start
    assert held(one_shot=True) == 9 + 5 + 4 + 4  # the dense network's


def test_live_bytes_by_hand():
    x, y = jnp.zeros(10), jnp.zeros((10, 10))

    def chain(x):  # the 400 bytes of the outer product, and the 400 of its sine while both are there
        return jnp.sum(jnp.sin(jnp.outer(x, x)))

    def loop(y):  # two of 400 in the body, one of them its result; not ten times
        return jax.lax.fori_loop(0, 10, lambda _, a: jnp.cos(jnp.sin(a)), y)

    assert memory.live_bytes(jax.make_jaxpr(lambda x: x + 1)(x).jaxpr) == 40
    assert memory.live_bytes(jax.make_jaxpr(chain)(x).jaxpr) in range(800, 1000)
    assert memory.live_bytes(jax.make_jaxpr(loop)(y).jaxpr) in range(800, 1000)


def test_the_chunk_follows_the_free_memory(monkeypatch):
    """On a stand-in for an accelerator: twelve runs on two devices, each of 8 MB while it is computed."""
    mesh, size = axis.run_mesh(), 1000
    runs, shared = jnp.ones(12), jnp.ones(size)

    def function(run, shared):
        return jnp.sum(jnp.sin(run * shared[:, None] * shared[None]))

    assert memory.chunk_for(function, runs, (shared,), mesh) == 1  # a CPU
    monkeypatch.setattr(memory, "on_cpu", lambda mesh: False)
    found = {}
    for megabytes in (1000, 40, 20, 1, None):
        monkeypatch.setattr(memory, "free", lambda mesh, m=megabytes: m and m * 10**6)
        found[megabytes] = memory.chunk_for(function, runs, (shared,), mesh)
    # 6 runs a device need 48 MB: sine and its argument. 32 MB hold 3 (of 3 or 4), 16 MB hold 1 (or 2).
    assert found[1000] == found[None] == 6
    assert found[40] == 3
    assert found[20] in (1, 2)
    assert found[1] == 1


def test_a_chunk_stays_what_it_was(monkeypatch):
    answers = iter([2, 3])
    monkeypatch.setattr(memory, "chunk_for", lambda *_: next(answers))
    squares = axis.map_runs(lambda x: x * x)
    for _ in range(2):
        np.testing.assert_array_equal(squares(jnp.arange(7.0)), np.arange(7.0) ** 2)
    assert squares.compiled._cache_size() == 1


def test_blocks_have_a_folder_each(tmp_path, monkeypatch):
    state = {"x": jax.ShapeDtypeStruct((1000,), jnp.float32)}
    seeds = list(range(10))
    assert list(blocks.blocks(tmp_path, seeds, state)) == [(tmp_path, seeds)]
    cut = list(blocks.blocks(tmp_path, seeds, state, 4))
    assert [(place.name, part) for place, part in cut] == [
        ("runs 1-4", [0, 1, 2, 3]),
        ("runs 5-8", [4, 5, 6, 7]),
        ("runs 9-10", [8, 9]),
    ]
    monkeypatch.setattr(memory, "total", lambda: 130_000)  # half of it holds four times 16,000
    assert [len(part) for _, part in blocks.blocks(tmp_path, seeds, state)] == [4, 4, 2]


class Host:
    """A device that says nothing of its memory."""

    def memory_stats(self):
        return None


class Accelerator(NamedTuple):
    """A device with memory of its own."""

    size: int

    def memory_stats(self):
        return {"bytes_limit": self.size}


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the system has no /proc/meminfo")
def test_the_hosts_memory_is_what_the_system_says_in_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "local_devices", lambda: [Host(), Host()])
    limits = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "Path", lambda _: limits)
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal:"))
    _, kibibytes, unit = line.split()
    machine = 1024 * int(kibibytes)
    assert unit == "kB"
    assert memory.total() == pytest.approx(machine, rel=0.01)
    for granted, expected in ((f"{machine // 2}\n", machine // 2), ("max\n", machine), (f"{2**63}", machine)):
        limits.write_text(granted)
        assert memory.total() == pytest.approx(expected, rel=0.01), granted


def test_the_memory_of_accelerators_is_theirs_together(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator(80 * 2**30), Accelerator(40 * 2**30)])
    assert memory.total() == 120 * 2**30
    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator(80 * 2**30), Host()])
    assert memory.total() != 80 * 2**30


MEASURED = """
import collections, json, resource, sys
import jax
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rsplit("/", 1)[1]]))
from experiments import cli
from experiments.init_comparison import experiment as init_comparison
cli.main(cli.find("init_comparison"), sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, seen["cache_misses"], seen["cache_hits"]]))
"""


def peak_of(flags: list[str], out: Path, cache: Path) -> tuple[int, int, int]:
    """Bytes that a whole sweep held at most, in a process of its own; programs it compiled, and found."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURED, *flags, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_blocks_share_one_program_and_change_no_number(tmp_path):
    flags = ["--initializers", "kaiming_normal", "--levels", "1", "--epochs-per-level", "1"]
    flags += ["--batch-size", "4000", "--hidden", "30,10"]
    cache = tmp_path / "cache"
    _, compiled, found = peak_of([*flags, "--seeds", "0-9"], tmp_path / "few", cache)
    assert compiled >= 1
    assert found == 0
    _, compiled, found = peak_of([*flags, "--seeds", "0-29", "--block", "10"], tmp_path / "many", cache)
    assert compiled == 0  # a block of 10 is the program of the first sweep, kept in the cache's folder
    assert found >= 1
    some, all_of_them = (xr.load_dataset(tmp_path / name / "results.nc") for name in ("few", "many"))
    assert all_of_them.sizes["seed"] == 30
    assert np.isfinite(all_of_them["test_loss"]).all()
    np.testing.assert_allclose(all_of_them["test_loss"][:, :10], some["test_loss"], rtol=1e-4)


@pytest.mark.long
def test_a_thousand_seeds_of_lenet_300_100_take_less_than_8_gib(tmp_path):
    """Its states of 4.5 MB take 18.1 GB at once; in blocks of 200, and with 60 examples, a fifth of it."""
    write_idx(tmp_path / "digits")
    flags = ["--dataset", "mnist", "--data-dir", str(tmp_path / "digits"), "--initializers", "kaiming_normal"]
    flags += ["--levels", "1", "--epochs-per-level", "1", "--seeds", "0-999", "--block", "200"]
    peak, *_ = peak_of(flags, tmp_path / "out", tmp_path / "cache")
    assert peak < 8 * 2**30
    measured = xr.load_dataset(tmp_path / "out" / "results.nc")
    assert dict(measured["test_loss"].sizes) == {"initializer": 1, "seed": 1000, "level": 1}
    assert np.isfinite(measured["test_loss"]).all()
    assert len(np.unique(measured["test_loss"])) > 900  # 20 test images, but every seed its own network
