"""Numbers: float64 oracles, a frozen run, no NaN and no leaked tracer, x64 on, and seeds that diverge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import make_digits

from experiments import cli
from lth_jax import initializers, levels, models, training
from lth_jax.keys import stream
from lth_jax.runs import axis, results, sweep
from lth_jax.tickets import masks, schedules

HERE = Path(__file__).parent
NETWORK = models.from_flax(models.MLP((8, 6), classes=4, activation=models.leaky_relu))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
LAYERS, LEVELS = ("hidden_0", "hidden_1", "output"), 4


def params(seed):
    scheme, biases = initializers.get("xavier_normal"), initializers.get("torch_default")
    return initializers.initialize(stream(seed, "init"), SHAPES, scheme, biases)


def make_plan(optimizer, steps=30, **options):
    recipe = training.Recipe(NETWORK, optimizer, 20, steps, steps)
    prunable = masks.prunable(SHAPES)
    sizes = schedules.iterative(SHAPES, prunable, [0.2] * (LEVELS - 1))
    return levels.Plan(recipe, sizes, prunable, **options)


def runs(plan, seeds=(42, 43, 44)):
    return axis.stack([levels.begin(seed, params(seed), {}, plan) for seed in seeds])


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def oracle(weights, mask, images, labels):
    """Mean cross-entropy of the masked network with LeakyReLU(0.05), and its masked gradient, in float64."""
    weights = jax.tree.map(lambda w, m: np.where(m, w, 0), float64(weights), mask)
    slope, inputs = [], [np.asarray(images, np.float64).reshape(len(images), -1) / 255]
    for layer in LAYERS:
        x = inputs[-1] @ weights[layer]["kernel"] + weights[layer]["bias"]
        slope.append(np.where(x > 0, 1, 0.05))
        inputs.append(x * slope[-1])
    logits = inputs.pop() / slope.pop()
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    error = (chances - np.eye(4)[labels]) / len(labels)
    gradient = {}
    for position, layer in reversed(list(enumerate(LAYERS))):
        gradient[layer] = {"kernel": inputs[position].T @ error, "bias": error.sum(0)}
        error = (error @ weights[layer]["kernel"].T) * (slope[position - 1] if position else 1)
    loss = -np.log(chances[np.arange(len(labels)), labels]).mean()
    return loss, jax.tree.map(lambda g, m: np.where(m, g, 0), gradient, mask)


def some_mask():
    draws = iter(jax.random.split(jax.random.key(5), 6))
    return jax.tree.map(lambda s: jax.random.bernoulli(next(draws), 0.6, s.shape), SHAPES)


def assert_close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), b, **tolerance), found, expected)


def test_the_gradient_is_the_float64_oracles(digits):
    mask = some_mask()
    plan = make_plan(optax.sgd(1.0))  # its step is the gradient
    state = training.init_state(plan.recipe, params(42), {}, mask)
    step = jax.jit(lambda state: training.train_step(jax.random.key(0), state, mask, digits, plan.recipe))
    after, loss = step(state)
    expected_loss, gradient = oracle(state.params, mask, digits.images, digits.labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    found = jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), state.params, after.params)
    assert_close(found, gradient, atol=3e-7)
    assert max(np.abs(g).max() for g in jax.tree.leaves(gradient)) > 0.05  # far above the tolerance


def test_an_adam_step_in_mid_run_is_the_float64_oracles(digits):
    mask, plan = some_mask(), make_plan(optax.adam(0.0012))
    state = training.init_state(plan.recipe, params(42), {}, mask)
    step = jax.jit(lambda key, state: training.train_step(key, state, mask, digits, plan.recipe))
    for index in range(6):
        state, _ = step(jax.random.key(index), state)
    after, _ = step(jax.random.key(6), state)
    _, gradient = oracle(state.params, mask, digits.images, digits.labels)
    moments = state.opt_state[0]
    assert int(moments.count) == 6
    mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, float64(moments.mu), gradient)
    nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, float64(moments.nu), gradient)
    expected = jax.tree.map(
        lambda w, m, v: w - 0.0012 * (m / (1 - 0.9**7)) / (np.sqrt(v / (1 - 0.999**7)) + 1e-8),
        float64(state.params), mu, nu,
    )  # fmt: skip
    assert_close(after.params, expected, rtol=1e-5, atol=1e-7)
    assert_close(after.opt_state[0].mu, mu, atol=1e-7)
    assert_close(after.opt_state[0].nu, nu, rtol=1e-4, atol=1e-10)


# A frozen run

GOLDEN = HERE / "golden.json"


def played():
    """Two seeds, four levels of three epochs: what a change of any number on the way would change."""
    digits, plan = make_digits(), make_plan(optax.adam(0.01))
    started = runs(plan, (42, 43))
    found = {"weights": [float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(started.ticket.params)]}
    played = sweep.run_levels(
        started, digits, plan, watch={"all": digits}, record=lambda outcome: outcome, inspect=kept_weights
    )
    for number, level in enumerate(played):
        found[f"level {number}"] = {
            "loss": level.networks.measured["all"]["loss"][:, 0].tolist(),
            "batch loss": level.networks.curves.batch_loss[:, 0, -1].tolist(),
            "accuracy": level.networks.measured["all"]["accuracy"][:, 0].tolist(),
            "kept": [int(np.asarray(n)[0]) for n in jax.tree.leaves(level.inspected)],
        }
    return found


def kept_weights(run):
    return masks.counts(run.ticket.mask)


def test_the_frozen_run_has_not_drifted_and_meets_no_nan():
    # Processors round differently, and 120 steps of Adam carry that on: 1e-3 is far above what was seen of
    # it, and far below what another seed, order, rate or formula gives.
    with jax.debug_nans(True):
        found = played()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found.keys() == golden.keys()
    np.testing.assert_allclose(found.pop("weights"), golden.pop("weights"), rtol=1e-6)
    for level, expected in golden.items():
        assert found[level].pop("kept") == expected.pop("kept")
        for name, values in expected.items():
            np.testing.assert_allclose(found[level][name], values, rtol=1e-3, atol=1e-3, err_msg=level)


def test_debug_nans_would_have_seen_one():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.jit(lambda x: x / x)(jnp.zeros(()))


def play_level(run, data, plan):
    """One level of one run: the run after it."""
    (start,) = levels.branch(run, plan)
    outcome = levels.train_network(start, data, {"all": data}, plan.recipe)
    return levels.advance(run, outcome.trained, plan, data)


def test_a_level_leaks_no_tracer(digits):
    plan, leaked = make_plan(optax.adam(0.01), steps=2), []
    run = levels.begin(42, params(42), {}, plan)
    with jax.checking_leaks():
        following = jax.eval_shape(lambda r: play_level(r, digits, plan), run)
    assert following.level.shape == ()
    with jax.checking_leaks(), pytest.raises(Exception, match="Leaked"):  # it would have been seen
        jax.jit(lambda x: leaked.append(x) or x)(jnp.zeros(()))


@pytest.mark.long
def test_the_core_passes_with_x64_on():
    files = [str(HERE / f"test_{name}.py") for name in ("masks", "pruning", "schedules", "training")]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", *files, "-m", "not long"]
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parent)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "passed" in ended.stdout


# Seeds that diverge


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_seed_that_diverges_changes_no_other_by_a_bit(digits, chunk):
    plan = make_plan(optax.adam(0.01))
    step = axis.map_runs(lambda run, data: play_level(run, data, plan), chunk=chunk)
    whole = runs(plan, (42, 43, 44, 45))
    start = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), whole.ticket.params)
    lost = whole.ticket._replace(params=start), whole.rewind_to._replace(params=start)
    healthy, beside = whole, whole._replace(ticket=lost[0], rewind_to=lost[1])
    for _ in range(2):
        healthy, beside = step(healthy, digits), step(beside, digits)
    assert np.isnan(beside.ticket.params["output"]["kernel"][1]).all()
    others = np.array([0, 2, 3])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), healthy, beside)
    kept = [m.sum(axis=tuple(range(1, m.ndim))).tolist() for m in jax.tree.leaves(beside.ticket.mask)]
    assert all(len(set(counts)) == 1 for counts in kept)  # it was pruned by number all the same
    assert [counts[1] for counts in kept] == [8, 82, 6, 30, 4, 15]  # two levels of a fifth each


@pytest.mark.parametrize(
    ("ranked", "expected"),
    [
        # the ticket diverges at level 1, its control at level 0
        ("before", [[0, 1, 1, 1], [1, 0, 1, 1]]),
        ("dense", [[0, 1, 0, 0], [1, 0, 0, 0]]),
        ("start", [[0, 1, 0, 0], [1, 0, 0, 0]]),
    ],
)
def test_what_a_ticket_spoils_are_the_masks_that_come_of_it(ranked, expected):
    loss = np.array([[[0.5, np.nan, 0.3, 0.3], [np.inf, 0.4, 0.3, 0.3]]])
    values = {"test_loss": (("seed", "network", "level"), loss)}
    labels = {"seed": [42], "network": ["ticket", "reinit"], "level": [0, 1, 2, 3]}
    marked = results.mark_diverged(results.by_label(values, labels, {}), ranked)
    np.testing.assert_array_equal(marked["diverged"].values[0], np.array(expected, bool))
    turned = {"test_loss": (("seed", "network", "level"), loss[:, ::-1])}
    whole = results.mark_diverged(results.by_label(turned, labels, {}), "dense")  # the dense ticket itself
    np.testing.assert_array_equal(whole["diverged"].values[0], [[1, 1, 1, 1], [0, 1, 1, 1]])


def test_marking_is_by_loss_and_for_all_levels_after():
    dims = ("initializer", "seed", "level")
    loss = np.array([[[0.5, 0.4, 0.3], [0.5, np.nan, 0.3]], [[np.inf, 1, 1], [0.5, 0.4, 0.3]]])
    accuracy = np.full((2, 2, 3), 0.9)
    values = {"test_loss": (dims, loss), "train_loss": (dims, np.ones((2, 2, 3)))}
    values |= {"test_accuracy": (dims, accuracy), "kept": (dims, accuracy)}
    labels = {"initializer": ["a", "b"], "seed": [42, 43], "level": [0, 1, 2]}
    marked = results.mark_diverged(results.by_label(values, labels, {}))
    expected = [[[0, 0, 0], [0, 1, 1]], [[1, 1, 1], [0, 0, 0]]]
    np.testing.assert_array_equal(marked["diverged"], np.array(expected, bool))
    np.testing.assert_array_equal(np.isnan(marked["test_accuracy"]), np.array(expected, bool))
    assert not np.isnan(marked["kept"]).any()
    assert results.diverged_runs(marked) == [
        "initializer a seed 43 from level 1",
        "initializer b seed 42 from level 0",
    ]


def test_a_network_of_nan_has_no_accuracy(digits):
    state = training.init_state(make_plan(optax.adam(0.01)).recipe, params(1), {}, masks.ones_like(SHAPES))
    lost = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    assert np.isnan(training.evaluate(lost, digits, NETWORK)["accuracy"])
    assert 0 <= float(training.evaluate(state, digits, NETWORK)["accuracy"]) <= 1


def test_a_run_whose_seeds_all_diverge_ends_with_their_names(tmp_path, capsys):
    arguments = ["--levels", "2", "--epochs-per-level", "1", "--hidden", "4"]
    arguments += ["--initializers", "xavier_uniform"]
    cli.main(
        cli.find("init_comparison"),
        [*arguments, "--seeds", "42-43", "--learning-rate", "1e30", "--out", str(tmp_path / "run")],
    )
    with xr.open_dataset(tmp_path / "run" / "results.nc") as measured:
        assert measured["diverged"].dtype == bool
        assert bool(measured["diverged"].all())
        assert bool(np.isnan(measured["test_accuracy"]).all())
    printed, report = capsys.readouterr().out, (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for text in (printed, report):
        assert "diverged, and in no mean: initializer xavier_uniform seed 43 from level 0" in text
        assert "nan ± nan (2 diverged)" in text


if __name__ == "__main__":  # PYTHONPATH=. python tests/test_numerics.py: freeze anew, after a meant change
    GOLDEN.write_text(json.dumps(played(), indent=1) + "\n", encoding="utf-8")
