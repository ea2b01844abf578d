"""The level loop and the run axis: what a ticket is, one compilation, runs that do not see each other."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import initializers, levels, models, training
from lth_jax.keys import STREAMS, stream
from lth_jax.runs import axis
from lth_jax.tickets import masks, pruning, rewinding

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)


def plan(optimizer=None, **changes):
    recipe = training.Recipe(NETWORK, optimizer or optax.adam(0.01), 20, 20, 20)
    return levels.Plan(recipe, pruning.rates(SHAPES, 0.2), PRUNABLE, **changes)


def start(seed, rules):
    params = initializers.initialize(stream(seed, "init"), SHAPES, initializers.get("xavier_normal"))
    return levels.begin(seed, params, {}, rules)


def play(seeds, digits, rules, levels, **options):
    runs = axis.stack([start(seed, rules) for seed in seeds])
    return runs, list(levels.play(runs, digits, {"test": digits}, rules, levels, **options))


def at(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


@pytest.fixture(scope="module")
def sweep(request):
    """Three seeds, four levels, Adam: played once for the tests that only look."""
    digits = request.getfixturevalue("module_digits")
    return play([42, 43, 44], digits, plan(), 4)


@pytest.fixture(scope="module")
def module_digits():
    from conftest import make_digits

    return make_digits()


def test_levels_keep_what_the_rate_says(sweep):
    _, levels = sweep
    counts = [at(level.kept_counts, 0) for _, level in levels]
    # 16×8 = 128 and 8×4 = 32 weights: round(0.2·n) fewer each time.
    assert [int(c["hidden_0"]["kernel"]) for c in counts] == [128, 102, 82, 66]
    assert [int(c["output"]["kernel"]) for c in counts] == [32, 26, 21, 17]
    np.testing.assert_allclose(levels[3][1].kept, [83 / 160] * 3, rtol=1e-6)


def test_every_level_starts_from_theta_0_and_masks_are_nested(sweep):
    runs, levels = sweep
    for number, (after, level) in enumerate(levels):
        jax.tree.map(np.testing.assert_array_equal, after.params, runs.params)  # θ0, to the last bit
        assert (after.level == number + 1).all()
        assert bool(masks.is_nested(after.mask, level.mask))
        assert not bool(masks.is_nested(level.mask, after.mask))


def test_the_pruned_are_the_smallest_of_the_trained_survivors(sweep):
    _, levels = sweep
    after, level = levels[1]
    for layer in ("hidden_0", "output"):
        before, kept = (np.asarray(m[layer]["kernel"][0]) for m in (level.mask, after.mask))
        trained = np.abs(np.asarray(level.trained.params[layer]["kernel"][0]))
        assert (trained[~before] == 0).all()
        assert trained[before & ~kept].max() <= trained[kept].min()


def test_all_levels_share_one_compilation(digits):
    rules = plan()
    step = axis.map_runs(lambda run, data: levels.play_level(run, data, {}, rules))
    runs = axis.stack([start(seed, rules) for seed in (1, 2, 3)])
    data = axis.replicate(digits)
    for _ in range(3):
        runs, _ = step(runs, data)
    assert step.compiled._cache_size() == 1


def test_a_seed_alone_and_in_a_sweep_agree(sweep, module_digits):
    # Not bitwise: XLA may order a sum differently when runs are vectorised or padded. One level of Adam at
    # these sizes keeps such differences near float32's rounding, far below one example of 200.
    _, together = sweep
    _, alone = play([43], module_digits, plan(), 4)
    for (_, whole), (_, one) in zip(together, alone, strict=True):
        np.testing.assert_allclose(
            whole.curves.watched["test"].loss[1], one.curves.watched["test"].loss[0], rtol=1e-4
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            at(whole.trained.params, 1),
            at(one.trained.params, 0),
        )
        jax.tree.map(np.testing.assert_array_equal, at(whole.mask, 1), at(one.mask, 0))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing_but_rounding(sweep, module_digits, chunk):
    _, expected = sweep
    _, found = play([42, 43, 44], module_digits, plan(), 2, chunk=chunk)
    for (_, a), (_, b) in zip(expected[:2], found, strict=True):
        np.testing.assert_allclose(a.curves.watched["test"].loss, b.curves.watched["test"].loss, rtol=1e-4)


def test_a_diverged_run_changes_no_other_by_a_bit(module_digits, sweep):
    rules = plan()
    runs = axis.stack([start(seed, rules) for seed in (42, 43, 44)])
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), runs.params)
    runs = runs._replace(params=broken, rewind_to=broken)
    (_, level), *_ = levels.play(runs, module_digits, {"test": module_digits}, rules, 1)
    expected = sweep[1][0][1].trained.params
    assert np.isnan(np.asarray(level.curves.watched["test"].loss)[1])
    for index in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, at(level.trained.params, index), at(expected, index))


def test_one_optimizer_for_all_levels_is_carried_and_still_keeps_zeros(digits):
    rules = plan(carry_optimizer=True)
    _, levels = play([7, 8], digits, rules, 2)
    assert (np.asarray(levels[1][0].opt_state[0].count) == 40).all()
    _, fresh = play([7, 8], digits, plan(), 2)
    assert (np.asarray(fresh[1][0].opt_state[0].count) == 20).all()
    trained, mask = at(levels[1][1].trained.params, 0), at(levels[1][1].mask, 0)
    assert all((w[~m] == 0).all() for w, m in zip(*map(jax.tree.leaves, (trained, mask)), strict=True))


def test_no_reset_goes_on_from_the_trained_weights(digits):
    _, levels = play([7, 8], digits, plan(rewind=rewinding.no_reset), 1)
    jax.tree.map(np.testing.assert_array_equal, levels[0][0].params, levels[0][1].trained.params)


def test_play_goes_on_from_the_level_that_runs_are_at(sweep, module_digits):
    _, levels = sweep
    resumed = list(levels.play(levels[1][0], module_digits, {"test": module_digits}, plan(), 4))
    assert len(resumed) == 2
    jax.tree.map(np.testing.assert_array_equal, resumed[-1][0], levels[-1][0])


def test_streams_differ_by_name_seed_and_index():
    keys = [stream(seed, name, index) for seed in (1, 2) for name in STREAMS for index in (0, 1)]
    drawn = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
    assert len(drawn) == len(keys)
    with pytest.raises(ValueError, match="unknown random stream 'ordre'"):
        stream(1, "ordre")


def test_pad_runs_repeats_the_last():
    padded = axis.pad_runs({"a": jnp.arange(3)}, 4)
    np.testing.assert_array_equal(padded["a"], [0, 1, 2, 2])
    np.testing.assert_array_equal(axis.pad_runs(jnp.arange(4), 2), [0, 1, 2, 3])


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_map_runs_gives_each_run_its_own_result(runs):
    squares = axis.map_runs(lambda x, shift: {"y": x * x + shift})
    found = squares(jnp.arange(float(runs)), jnp.asarray(1.0))["y"]
    np.testing.assert_array_equal(found, np.arange(runs) ** 2 + 1.0)
    assert found.devices() == {jax.devices()[0]}  # of a CPU: what is asked of them next is no collective


SPINNING = """
import jax, jax.numpy as jnp, numpy as np
from lth_jax import parallel

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
