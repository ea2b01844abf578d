"""Levels of many runs: what a ticket is, what stands beside it, one compilation, and a loop that resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_levels import (
    DIGITS,
    LAYERS,
    LEVELS,
    MOVED,
    NETWORK,
    PRUNABLE,
    SCHEME,
    SEEDS,
    SHAPES,
    assert_close,
    assert_equal,
    at,
    begin,
    initial,
    kernels,
    make_plan,
    one_shot_sizes,
    play,
    reinit,
)

from lth_jax import initializers, levels, training
from lth_jax.keys import stream
from lth_jax.runs import sweep
from lth_jax.tickets import controls, masks, rewinding, schedules, scores


@pytest.fixture(scope="module")
def alone():
    """Three seeds, four levels, Adam, no controls: for the tests that only look."""
    return play(make_plan())


# The ticket


def test_levels_keep_what_the_rate_says(alone):
    counts = [masks.counts(at(level.inspected, 0)) for level in alone]
    # 16×8 = 128 and 8×4 = 32 weights: round(0.2·n) fewer each time.
    assert [int(c["hidden_0"]["kernel"]) for c in counts] == [128, 102, 82, 66]
    assert [int(c["output"]["kernel"]) for c in counts] == [32, 26, 21, 17]
    kept = [
        level.networks["kept"].tolist()
        for level in play(make_plan(), count=4, record=None, inspect=sweep.nothing)
    ]
    np.testing.assert_allclose(kept, [[[n / 160]] * 3 for n in (160, 128, 103, 83)], rtol=1e-6)


def test_every_level_starts_from_theta_0_and_masks_are_nested(alone):
    for number, level in enumerate(alone):
        for index, seed in enumerate(SEEDS):
            assert_equal(at(level.runs.ticket.params, index), initial(seed))  # θ0, to the last bit
            assert_equal(at(level.networks.ticket.params, index, 0), initial(seed))
        assert (level.runs.level == number + 1).all()
        assert bool(masks.is_nested(level.runs.ticket.mask, level.inspected))
        assert bool(masks.is_nested(level.inspected, level.runs.ticket.mask)) == (number == LEVELS - 1)


def test_after_the_last_size_nothing_more_is_pruned(alone):
    assert_equal(alone[-1].runs.ticket.mask, alone[-1].inspected)


def test_the_pruned_are_the_smallest_of_the_trained_survivors(alone):
    level = alone[1]
    for layer in LAYERS:
        before, kept = (np.asarray(m[layer]["kernel"][0]) for m in (level.inspected, level.runs.ticket.mask))
        trained = np.abs(np.asarray(level.trained.params[layer]["kernel"][0, 0]))
        assert (trained[~before] == 0).all()
        assert trained[before & ~kept].max() <= trained[kept].min()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_rankings_are_inside_layers_or_over_all(scope):
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5], scope=scope)
    first, _ = play(make_plan(sizes=sizes))
    for index in range(len(SEEDS)):
        trained, mask = (
            kernels(tree) for tree in (at(first.trained.params, index, 0), at(first.runs.ticket.mask, index))
        )
        magnitude = {layer: np.abs(leaf) for layer, leaf in trained.items()}
        if scope == "layer":
            for layer, count in (("hidden_0", 64), ("output", 16)):
                assert mask[layer].sum() == count
                assert magnitude[layer][~mask[layer]].max() <= magnitude[layer][mask[layer]].min()
        else:
            kept, gone = (
                np.concatenate([magnitude[layer][mask[layer] == yes] for layer in LAYERS])
                for yes in (True, False)
            )
            assert len(kept) == len(gone) == 80
            assert gone.max() <= kept.min()
            assert mask["output"].sum() != 16


def test_the_measurements_are_those_of_the_trained_network(alone):
    found = play(make_plan(), count=1, record=None)[0].networks
    assert set(found) == {"test_loss", "test_accuracy", "kept"}
    assert {values.shape for values in found.values()} == {(3, 1)}
    trained = alone[0].trained
    for index in range(3):
        state = training.TrainState(at(trained.params, index, 0), {}, ())
        expected = training.evaluate(state, DIGITS, NETWORK)
        np.testing.assert_allclose(found["test_loss"][index, 0], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(found["test_accuracy"][index, 0], expected["accuracy"], rtol=1e-6)


def test_some_splits_are_evaluated_at_the_end_only(alone):
    norm = {"norm": lambda state: optax.tree.norm(state.params)}
    found = play(make_plan(eval_every=10), count=1, final={"end": DIGITS}, observe=norm)[0].networks
    assert set(found.measured) == {"test", "end"}
    assert_close(found.measured["end"], found.measured["test"], rtol=1e-6)
    assert set(found.curves.observed) == {"test", "norm"}
    assert found.curves.observed["norm"].shape == (3, 1, 2)
    assert_close(
        at(found.curves.observed["test"]["loss"], ..., -1), found.measured["test"]["loss"], rtol=1e-6
    )


def test_without_reset_the_survivors_go_on_from_where_they_are():
    first, second = play(make_plan(rewind=rewinding.no_reset), count=2)
    trained = jax.tree.map(lambda leaf: leaf[:, 0], first.trained.params)
    assert_equal(first.runs.ticket.params, trained)
    assert_equal(at(second.networks.ticket.params, slice(None), 0), trained)
    assert (
        kernels(first.runs.ticket.params)["hidden_0"] != kernels(first.runs.rewind_to.params)["hidden_0"]
    ).any()


def test_a_run_can_rewind_to_a_later_point_than_its_start():
    plan, late = make_plan(), jax.tree.map(lambda leaf: leaf + 1, initial(3))
    run = levels.begin(3, initial(3), {}, plan, rewind_to=late)
    after = levels.advance(run, training.TrainState(initial(4), {}, {}), plan)
    assert_equal(run.ticket.params, initial(3))
    assert_equal(after.ticket.params, late)


def test_a_score_judges_by_where_the_levels_training_began():
    movement = scores.by_weight(scores.CRITERIA["movement"])
    first, second, _ = play(make_plan(count=3, score=movement, rewind=rewinding.no_reset))
    for level in (first, second):
        start, trained = kernels(level.networks.ticket.params), kernels(level.trained.params)
        held, kept = kernels(level.inspected), kernels(level.runs.ticket.mask)
        for layer, index in [(layer, index) for layer in LAYERS for index in range(len(SEEDS))]:
            moved = np.abs(trained[layer][index, 0] - start[layer][index, 0])
            there, left = held[layer][index], kept[layer][index]
            assert moved[there & ~left].max() <= moved[left].min()


def test_one_optimizer_for_all_levels_is_carried_and_still_keeps_zeros():
    carried = play(make_plan(optimizer="carried"), count=2)
    assert (np.asarray(carried[1].runs.opt_state[0].count) == 40).all()
    trained, mask = at(carried[1].trained.params, 0, 0), at(carried[1].inspected, 0)
    assert all((w[~m] == 0).all() for w, m in zip(*map(jax.tree.leaves, (trained, mask)), strict=True))
    fresh = play(make_plan(), count=2)
    assert (np.asarray(fresh[1].networks.trained.opt_state[0].count) == 20).all()
    assert fresh[1].runs.opt_state == {}


def test_a_network_that_is_told_to_stops_early():
    plan = make_plan(eval_every=5)
    start = levels.branch(levels.begin(3, initial(3), {}, plan), plan)[0]
    whole, stopped = (
        levels.train_network(each, DIGITS, {"test": DIGITS}, plan.recipe)
        for each in (start, start._replace(stop=jnp.asarray(10)))
    )
    assert int(stopped.trained.opt_state[0].count) == 10
    loss, held = (each.curves.observed["test"]["loss"] for each in (whole, stopped))
    np.testing.assert_allclose(held, np.asarray(loss)[[0, 1, 1, 1]], rtol=1e-5)
    np.testing.assert_array_equal(stopped.measured["test"]["loss"], held[-1])


# Runs beside each other


def test_a_seed_alone_and_in_a_sweep_agree(alone):
    # Not bitwise: XLA may order a sum differently when runs are vectorised or padded. One level of Adam at
    # these sizes keeps such differences near float32's rounding, far below one example of 200.
    by_itself = play(make_plan(), seeds=[43])
    for whole, one in zip(alone, by_itself, strict=True):
        losses = (
            at(level.networks.curves.observed["test"]["loss"], i, 0) for level, i in ((whole, 1), (one, 0))
        )
        np.testing.assert_allclose(*losses, rtol=1e-4)
        assert_close(at(whole.trained.params, 1), at(one.trained.params, 0), rtol=1e-3, atol=1e-5)
        assert_equal(at(whole.inspected, 1), at(one.inspected, 0))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing_but_rounding(alone, chunk):
    for a, b in zip(alone[:2], play(make_plan(), count=2, chunk=chunk), strict=True):
        losses = (level.networks.curves.observed["test"]["loss"] for level in (a, b))
        np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_diverged_run_changes_no_other_by_a_bit(alone):
    plan = make_plan()
    runs = begin(plan)
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), runs.ticket.params)
    runs = runs._replace(ticket=runs.ticket._replace(params=broken))
    level = next(sweep.run_levels(runs, DIGITS, plan, watch={"test": DIGITS}, record=lambda outcome: outcome))
    assert np.isnan(np.asarray(level.networks.measured["test"]["loss"])[1]).all()
    for index in (0, 2):
        assert_equal(at(level.trained.params, index), at(alone[0].trained.params, index))


def test_the_loop_goes_on_from_the_level_that_runs_are_at(alone):
    resumed = list(sweep.run_levels(alone[1].runs, DIGITS, make_plan()))
    assert len(resumed) == 2
    assert_equal(resumed[-1].runs, alone[-1].runs)
    assert list(sweep.run_levels(alone[-1].runs, DIGITS, make_plan())) == []


def test_shapes_of_a_level_are_known_beforehand(alone):
    plan, options = make_plan(), {"watch": {"test": DIGITS}, "inspect": lambda run: run.ticket.mask}
    options["record"] = lambda outcome: outcome
    like = sweep.level_shapes(begin(plan), DIGITS, plan, **options)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), like) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), alone[0]
    )


def compiled_after(first, rest):
    """Whether calling ``first`` compiles, and what ``rest`` compiles after it."""
    events = []
    listener = lambda event, seconds, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        first()
        some = any("backend_compile" in event for event in events)
        events.clear()
        rest()
        return some, [event for event in events if "backend_compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("one_shot", [False, True])
@pytest.mark.parametrize("optimizer", ["fresh", "carried"])
def test_all_levels_share_their_compilations(one_shot, optimizer):
    sizes = (one_shot_sizes if one_shot else schedules.iterative)(SHAPES, PRUNABLE, [0.2] * (LEVELS - 1))
    plan = make_plan(sizes=sizes, optimizer=optimizer, controls={"reinit": reinit, "moved": MOVED})
    loop = sweep.run_levels(begin(plan), DIGITS, plan, watch={"test": DIGITS})
    assert compiled_after(lambda: next(loop), lambda: list(loop)) == (True, [])


# Controls


def test_controls_leave_the_ticket_as_it_was_and_keep_what_they_promise(alone):
    kinds = {
        "reinit": reinit,
        "rearrange": MOVED,
        "shuffle": controls.shuffle(PRUNABLE),
        "random_mask": controls.random_mask(PRUNABLE),
    }
    plan = make_plan(controls=kinds)
    assert plan.networks == ["ticket", *kinds]
    for number, (level, before) in enumerate(zip(play(plan), alone, strict=True)):
        loss, expected = (each.networks.measured["test"]["loss"] for each in (level, before))
        assert loss.shape == (3, 5)
        np.testing.assert_allclose(loss[:, 0], expected[:, 0], rtol=1e-4)
        assert len(np.unique(np.asarray(loss))) >= (12 if number == 0 else 15), "each is its own network"
        places, weights = kernels(level.networks.ticket.mask), kernels(level.networks.ticket.params)
        for layer, kept in kernels(before.inspected).items():
            ticket, fresh, moved, shuffled, random = np.moveaxis(places[layer], 1, 0)
            for same in (ticket, fresh, shuffled):
                np.testing.assert_array_equal(same, kept)
            assert (weights[layer][:, 0] != weights[layer][:, 1]).all(), "fresh weights are all others"
            np.testing.assert_array_equal(weights[layer][:, 0], weights[layer][:, 4])
            for other in (moved, random):
                np.testing.assert_array_equal(other.sum((1, 2)), kept.sum((1, 2)))
                assert number == 0 or (other != kept).any((1, 2)).all()
            for seed in range(len(SEEDS)):
                own = weights[layer][seed]
                expected = np.sort(own[0][kept[seed]])
                np.testing.assert_array_equal(np.sort(own[2][moved[seed]]), expected)
                np.testing.assert_array_equal(np.sort(own[3][kept[seed]]), expected)
                assert (own[3][kept[seed]] != own[0][kept[seed]]).mean() > 0.5


def test_fresh_weights_are_the_schemes_own_and_others_at_each_level():
    plan = make_plan()
    run = levels.begin(5, initial(5), {}, plan)
    found = {}
    for level, trial in ((0, 0), (1, 0), (0, 1)):
        control = controls.reinit(lambda key: initializers.initialize(key, SHAPES, SCHEME), trial)
        ticket = control(run._replace(level=jnp.asarray(level)))
        key = stream(5, "reinit", level, trial)
        assert_equal(ticket.params, initializers.initialize(key, SHAPES, SCHEME))
        found[level, trial] = np.asarray(ticket.params["output"]["kernel"]).tobytes()
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("make", [controls.shuffle, controls.rearrange, controls.random_mask])
def test_trials_of_a_control_differ_and_so_do_levels_and_seeds(make):
    plan = make_plan()
    run = levels.begin(5, initial(5), {}, plan)
    half = jax.tree.map(lambda leaf: leaf > 0, initial(5))
    run = run._replace(ticket=run.ticket._replace(mask=half))
    drawn = []
    for seed, level, trial in ((5, 0, 0), (5, 0, 1), (5, 1, 0), (6, 0, 0), (5, 0, 0)):
        where = run._replace(seed=jnp.asarray(seed), level=jnp.asarray(level))
        ticket = make(PRUNABLE, trial)(where)
        leaves = (ticket.params["hidden_0"]["kernel"], ticket.mask["hidden_0"]["kernel"])
        drawn.append(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]


def test_a_control_may_start_from_what_a_run_carries():
    late = jax.tree.map(lambda leaf: leaf + 1, initial(3))
    plan = make_plan(controls={"late": controls.from_extra("late")})
    run = levels.begin(3, initial(3), {}, plan, extras={"late": late})
    ticket, control = levels.branch(run, plan)
    assert_equal(ticket.ticket.params, initial(3))
    assert_equal(control.ticket, run.ticket._replace(params=late))
    after = levels.advance(run, training.TrainState(initial(4), {}, {}), plan)
    assert_equal(levels.branch(after, plan)[1].ticket, after.ticket._replace(params=late))


# In one shot


def test_one_shot_prunes_every_size_from_the_dense_networks_weights():
    found = play(make_plan(sizes=one_shot_sizes(SHAPES, PRUNABLE, [0.3] * 3)))
    dense = kernels(at(found[0].trained.params, slice(None), 0))
    sizes = {"hidden_0": [128, 90, 63, 44], "output": [32, 22, 16, 11]}  # round(0.7^n · size)
    for number, level in enumerate(found):
        for layer, kept in kernels(level.inspected).items():
            for seed in range(len(SEEDS)):
                magnitude = np.abs(dense[layer][seed])
                lowest = np.sort(magnitude.ravel())[::-1][sizes[layer][number] - 1]
                np.testing.assert_array_equal(kept[seed], magnitude >= lowest)


def test_one_shot_may_skip_to_a_density_at_once():
    sizes = schedules.to_density(SHAPES, PRUNABLE, 0.05, 2, cut_from_dense=True)
    first, second = play(make_plan(sizes=sizes))
    for layer, count in (("hidden_0", 6), ("output", 2)):  # 6.4 and 1.6
        assert (kernels(second.inspected)[layer].sum((1, 2)) == count).all()
        magnitude = np.abs(kernels(first.trained.params)[layer][0, 0])
        assert magnitude[kernels(second.inspected)[layer][0]].min() == np.sort(magnitude.ravel())[-count]
