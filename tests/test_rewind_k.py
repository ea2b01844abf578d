"""Rewinding to an iteration: where levels start, with which optimizer, and how far they then go."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits

from lth_jax import models, search, training
from lth_jax.analysis import records
from lth_jax.choices import Choices, rewind_step
from lth_jax.keys import stream
from lth_jax.runs import sweep
from lth_jax.tickets import masks, rewinding


class Normalized(nn.Module):
    """With batch statistics, which are rewound too."""

    @nn.compact
    def __call__(self, images, train: bool):
        x = nn.Dense(8)(images.reshape(images.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(4)(nn.relu(x))


NETWORK, DIGITS, SEEDS = models.from_flax(Normalized()), make_digits(), (3, 4)
K, STEPS = 13, 30  # 10 steps an epoch: in the second of three
RATE = optax.linear_schedule(0.02, 0.0, STEPS)
ADAM = optax.adam(RATE)


def initial(key):
    return NETWORK.init(key, jnp.zeros((1, 4, 4, 1)))


def prepare(**choices):
    given = Choices(**{"levels": 3, "epochs": 3, "batch_size": 20, "rate": 0.3} | choices)
    return search.prepare(NETWORK, ADAM, len(DIGITS.images), initial, given)


def play(found, count=None):
    runs = search.start_runs(found, SEEDS, DIGITS)
    options = {"watch": {"test": DIGITS}, "record": lambda outcome: outcome}
    return runs, list(sweep.run_levels(runs, DIGITS, found.plan, count, **options))


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, found, expected)


def differ(a, b):
    return all(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def trained(seed, level, state, mask, **options):
    """What ``training.train`` alone makes of a level's start."""
    recipe = training.Recipe(NETWORK, ADAM, 20, STEPS)
    order, noise = stream(seed, "order", level), stream(seed, "model", level)
    return training.train(order, state, mask, DIGITS, recipe, model_key=noise, **options)[0]


def dense(seed, **options):
    """The dense network's training from its very start."""
    params, collections = initial(stream(seed, "init"))
    state = training.TrainState(params, collections, ADAM.init(params))
    return trained(seed, 0, state, masks.ones_like(params), **options)


@pytest.fixture(scope="module")
def theta_k():
    return {seed: dense(seed, steps=K) for seed in SEEDS}


@pytest.fixture(scope="module")
def whole():
    return {seed: dense(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def kept():
    found = prepare(rewind=str(K))
    return found, *play(found)


# The place in a learning-rate schedule


def test_a_schedule_is_put_back_and_moments_stay():
    params = {"w": jnp.asarray([1.0, 2.0])}
    state, gradient = ADAM.init(params), {"w": jnp.asarray([0.5, -1.0])}
    with jax.numpy_dtype_promotion("standard"):  # which Optax needs
        for _ in range(5):
            _, state = ADAM.update(gradient, state, params)
    found = rewinding.schedule_at(state, 2)
    assert_equal(found[0], state[0])
    assert (int(found[0].count), int(state[1].count), int(found[1].count)) == (5, 5, 2)
    with jax.numpy_dtype_promotion("standard"):
        now, there = (ADAM.update(gradient, each, params)[0]["w"] for each in (state, found))
    np.testing.assert_allclose(there / now, float(RATE(2) / RATE(5)), rtol=1e-5)
    assert found[1].count.dtype == state[1].count.dtype


@pytest.mark.parametrize("step", [0, 7, jnp.asarray(7)])
def test_injected_hyperparameters_are_put_back_too(step):
    rule = optax.inject_hyperparams(optax.sgd)(learning_rate=RATE, momentum=0.9)
    params, gradient = {"w": jnp.asarray([1.0, 2.0])}, {"w": jnp.asarray([0.5, -1.0])}
    state = rule.init(params)
    for _ in range(3):
        _, state = rule.update(gradient, state, params)
    found = rewinding.schedule_at(state, step)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert_equal(found.inner_state, state.inner_state)
    updates, _ = rule.update(gradient, found, params)
    velocity = (1 + 0.9 + 0.81 + 0.729) * gradient["w"]
    np.testing.assert_allclose(updates["w"], -RATE(int(step)) * velocity, rtol=1e-5)


def test_schedules_inside_a_chain_are_found():
    inner = optax.chain(optax.trace(0.9), optax.scale_by_schedule(RATE))
    rule = optax.chain(optax.clip(1.0), optax.masked(inner, {"w": True, "b": False}))
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    counts = lambda state: [int(leaf) for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]  # noqa: E731
    state = rule.init(params)
    assert counts(state) == [0]
    assert counts(rewinding.schedule_at(state, 9)) == [9]


def test_an_optimizer_without_a_schedule_is_left_as_it_is():
    state = optax.adam(0.1).init({"w": jnp.ones(2)})
    assert_equal(rewinding.schedule_at(state, 9), state)


def test_a_traced_step_does():
    state = ADAM.init({"w": jnp.ones(2)})
    found = jax.vmap(lambda step: rewinding.schedule_at(state, step))(jnp.arange(3))
    np.testing.assert_array_equal(found[1].count, [0, 1, 2])


# To θ_k, with its place in the schedule


def test_runs_begin_where_the_dense_network_is_after_k_iterations(kept, theta_k):
    found, runs, _ = kept
    assert (found.early, found.plan.first) == (K, K)
    for index, seed in enumerate(SEEDS):
        assert_close(at(runs.ticket.params, index), theta_k[seed].params)
        assert_close(at(runs.ticket.collections, index), theta_k[seed].collections)
        assert_close(at(runs.opt_state, index), theta_k[seed].opt_state)
    assert differ(at(runs.ticket.params, 0), initial(stream(SEEDS[0], "init"))[0])
    assert jax.tree.map(lambda a: (a.shape[1:], a.dtype), runs) == jax.tree.map(
        lambda a: (a.shape, a.dtype), jax.eval_shape(lambda: found.begin(0))
    )


def test_the_dense_level_is_the_training_of_the_dense_network(kept, whole):
    _, _, (first, *_) = kept
    for index, seed in enumerate(SEEDS):
        outcome = at(first.networks, index, 0)
        assert_close(outcome.trained, whole[seed])
        expected = training.evaluate(whole[seed], DIGITS, NETWORK)
        np.testing.assert_allclose(outcome.measured["test"]["loss"], expected["loss"], rtol=1e-4)


def test_later_levels_go_from_theta_k_to_the_last_iteration(kept):
    _, runs, found = kept
    for level, (before, after) in enumerate(itertools.pairwise(found), start=1):
        start = before.runs
        assert_equal(start.ticket.params, runs.ticket.params)  # to the last bit
        assert_equal(start.ticket.collections, runs.ticket.collections)
        adam, schedule = start.opt_state
        assert (np.asarray(schedule.count) == K).all()
        assert (np.asarray(adam.count) == 0).all()
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves((adam.mu, adam.nu)))
        for index, seed in enumerate(SEEDS):
            ticket = at(start.ticket, index)
            state = training.TrainState(
                masks.apply(ticket.mask, ticket.params), ticket.collections, at(start.opt_state, index)
            )
            outcome = at(after.networks, index, 0)
            assert_close(outcome.trained, trained(seed, level, state, ticket.mask, first=K))
            adam, schedule = outcome.trained.opt_state
            assert (int(adam.count), int(schedule.count)) == (STEPS - K, STEPS)


def test_a_level_is_observed_from_k_on():
    found = prepare(rewind=str(K), eval_every=5, levels=2)
    runs, done = play(found)
    assert training.observed_at(found.plan.recipe, found.plan.first) == [18, 23, 28, 30]
    for level in done:
        assert level.networks.curves.observed["test"]["loss"].shape == (2, 1, 4)
    swept = sweep.sweep(
        None, SEEDS, jax.eval_shape(lambda: found.begin(0)), lambda _: runs, DIGITS, found.plan,
        describe=records.describe, watch={"test": DIGITS},
        record=lambda each: records.record(each, found.plan),
    )  # fmt: skip
    labelled = records.labelled(found.plan, found.shapes, swept, SEEDS)
    assert labelled["iteration"].values.tolist() == [18, 23, 28, 30]
    assert dict(labelled["test_loss_curve"].sizes) == {"seed": 2, "level": 2, "iteration": 4}
    np.testing.assert_array_equal(labelled["test_loss_curve"][..., -1], labelled["test_loss"])


def test_the_optimizers_moments_may_be_rewound_too(kept, theta_k):
    _, runs, (first, *_) = (None, *play(prepare(rewind=str(K), optimizer="rewound"), 1))
    assert_equal(first.runs.opt_state, runs.opt_state)
    for index, seed in enumerate(SEEDS):
        assert_close(at(first.runs.opt_state, index), theta_k[seed].opt_state)
    assert (np.asarray(first.runs.opt_state[0].count) == K).all()
    assert_equal(first.runs.ticket, kept[2][0].runs.ticket)


# A whole level from θ_k


def test_a_restarted_schedule_makes_every_level_a_whole_one(theta_k, whole):
    found = prepare(rewind=str(K), rewind_schedule="restarted")
    assert (found.early, found.plan.first) == (K, 0)
    runs, (first, second, _) = play(found)
    for index, seed in enumerate(SEEDS):
        params, collections = initial(stream(seed, "init"))
        assert_close(at(runs.ticket.params, index), params)
        assert_close(at(first.networks, index, 0).trained, whole[seed])
        ticket = at(first.runs.ticket, index)
        assert_close(ticket.params, theta_k[seed].params)
        assert_close(ticket.collections, collections)
        masked = masks.apply(ticket.mask, ticket.params)
        state = training.TrainState(masked, collections, ADAM.init(masked))
        outcome = at(second.networks, index, 0)
        assert_close(outcome.trained, trained(seed, 1, state, ticket.mask))
        assert int(outcome.trained.opt_state[1].count) == STEPS
    assert first.runs.opt_state == {}


# Weights that stay


def test_the_learning_rate_alone_is_rewound(kept, whole):
    found = prepare(rewind=f"lr:{K}")
    assert (found.early, found.plan.first) == (K, K)
    runs, (first, second, _) = play(found)
    assert_equal(runs.ticket, kept[1].ticket)
    assert_equal(runs.opt_state, kept[1].opt_state)
    for index, seed in enumerate(SEEDS):
        assert_close(at(first.networks, index, 0).trained, whole[seed])
    after = first.runs
    assert_equal(after.ticket.params, at(first.trained.params, slice(None), 0))
    assert_equal(after.ticket.collections, at(first.trained.collections, slice(None), 0))
    assert_equal(after.ticket.mask, kept[2][0].runs.ticket.mask)
    assert (np.asarray(after.opt_state[1].count) == K).all()
    adam, schedule = at(second.networks, 0, 0).trained.opt_state
    assert (int(adam.count), int(schedule.count)) == (STEPS - K, STEPS)


@pytest.mark.parametrize(
    ("rewind", "resets"), [("none", False), ("lr:0", False), ("start", True), (0, True), ("0", True)]
)
def test_without_an_iteration_levels_are_whole_and_begin_with_a_fresh_optimizer(rewind, resets, whole):
    found = prepare(rewind=rewind)
    assert (found.early, found.plan.first) == (0, 0)
    runs, (first, second, _) = play(found)
    for index, seed in enumerate(SEEDS):
        assert_close(at(first.networks, index, 0).trained, whole[seed])
    expected = runs.ticket if resets else at(first.trained, slice(None), 0)
    assert_equal(first.runs.ticket.params, expected.params)
    assert_equal(first.runs.ticket.collections, expected.collections)
    assert first.runs.opt_state == {}
    assert (np.asarray(at(second.networks, slice(None), 0).trained.opt_state[1].count) == STEPS).all()


def test_without_rewinding_an_optimizer_may_be_carried_on():
    _, (first, second, _) = play(prepare(rewind="none", optimizer="carried"))
    assert (np.asarray(first.runs.opt_state[0].count) == STEPS).all()
    assert (np.asarray(second.runs.opt_state[0].count) == 2 * STEPS).all()
    assert differ(first.runs.opt_state[0].mu, second.runs.opt_state[0].mu)


def test_one_compilation_serves_all_levels(kept):
    found, runs, _ = kept
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        loop = sweep.run_levels(runs, DIGITS, found.plan)
        next(loop)
        assert any("backend_compile" in event for event in compiled)
        compiled.clear()
        list(loop)
        assert not [event for event in compiled if "backend_compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()


# What cannot be


@pytest.mark.parametrize(
    ("rewind", "expected"),
    [("0", ("weights", 0)), (500, ("weights", 500)), ("start", ("weights", 0)), ("none", ("nothing", 0)),
     ("lr:500", ("nothing", 500)), ("lr:0", ("nothing", 0))],
)  # fmt: skip
def test_ways_to_say_where_levels_start(rewind, expected):
    assert rewind_step(rewind) == expected


@pytest.mark.parametrize(
    "rewind", ["", "-1", "1.5", "lr", "lr:", "lr:-1", "LR:5", "end", "5:lr", "lr:lr:5", "٣", "9" * 12, -1]
)  # fmt: skip
def test_other_ways_are_refused(rewind, tally):
    with pytest.raises(ValueError, match="expected start, none, an iteration such as 500, or lr:500"):
        prepare(rewind=rewind)
    tally("malformed inputs refused")


@pytest.mark.parametrize("rewind", ["30", "lr:30", "31"])
def test_a_level_has_to_be_longer_than_what_it_is_rewound_to(rewind):
    with pytest.raises(ValueError, match=f"rewind {rewind}: a level has 30 iterations"):
        prepare(rewind=rewind)
    assert prepare(rewind="29").plan.first == 29


@pytest.mark.parametrize("choices", [{}, {"rewind": "none"}, {"rewind": "5", "rewind_schedule": "restarted"}])
def test_an_optimizer_is_rewound_only_where_there_is_an_iteration(choices):
    with pytest.raises(ValueError, match="optimizer rewound: needs an iteration to rewind to"):
        prepare(optimizer="rewound", **choices)
