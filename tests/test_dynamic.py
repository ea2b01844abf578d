"""Masks that change while networks are trained: SET, RigL, gradual magnitude pruning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_levels import DIGITS, LAYERS, NETWORK, PRUNABLE, SHAPES, assert_equal, at, initial, kernels, play

import lth_jax
from lth_jax import levels, models, networks, search, training
from lth_jax.errors import InputError
from lth_jax.keys import stream
from lth_jax.search import Choices
from lth_jax.tickets import dynamic, early, masks, schedules
from lth_jax.tickets.dynamic import RULES, Dynamic, Seen

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, 0.9),
    "adam": optax.adam(0.01),
    "decaying": optax.adamw(0.01, weight_decay=0.1),
    "factored": optax.adafactor(0.01, min_dim_size_to_factor=4),
}
STEPS, EVERY = 40, 5
HALF = {"hidden_0": 40, "output": 10}


def recipe_of(rule, optimizer="adam", eval_every=1, **options):
    way = Dynamic(RULES[rule], EVERY, **options)
    return training.Recipe(NETWORK, OPTIMIZERS[optimizer], 20, STEPS, eval_every, dynamic=way)


def half_mask(seed=0):
    """Masks that keep 40 of 128 and 10 of 32 weights, and every bias."""
    rng = np.random.default_rng(seed)
    mask = jax.tree.map(np.array, masks.ones_like(SHAPES))
    for layer, count in HALF.items():
        flat = np.zeros(mask[layer]["kernel"].size, bool)
        flat[rng.permutation(flat.size)[:count]] = True
        mask[layer]["kernel"] = flat.reshape(mask[layer]["kernel"].shape)
    return jax.tree.map(jnp.asarray, mask)


@functools.cache
def trained(rule, optimizer="adam", **options):
    """The state and the masks after every iteration."""
    recipe, mask = recipe_of(rule, optimizer, **options), half_mask()
    state = training.init_state(recipe, initial(42), {}, mask)
    watch = {"mask": lambda state: state.mask, "params": lambda state: state.params}
    run = jax.jit(lambda key: training.train(key, state, mask, DIGITS, recipe, watch))
    state, curves = run(jax.random.key(1))
    return state, jax.tree.map(np.asarray, curves.observed), mask


def of_kernels(tree, layer):
    return np.asarray(tree[layer]["kernel"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_as_many_weights_are_kept_after_every_iteration_and_all_others_are_zero(rule, optimizer):
    _, seen, start = trained(rule, optimizer)
    for layer, count in HALF.items():
        kept = of_kernels(seen["mask"], layer)
        assert (kept.sum((1, 2)) == count).all()
        assert (of_kernels(seen["params"], layer)[~kept] == 0).all()
        changed = np.flatnonzero((kept[1:] != kept[:-1]).any((1, 2))) + 2  # counted from 1
        assert set(changed) <= {5, 10, 15, 20, 25, 30}
        assert {5, 10} <= set(changed)
        assert seen["mask"][layer]["bias"].all()
        np.testing.assert_array_equal(kept[0], of_kernels(start, layer))


@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_the_smallest_go_and_the_rule_says_which_come(rule):
    rng = np.random.default_rng(3)
    weights, gradient = rng.normal(size=(10, 10)), rng.normal(size=(10, 10))
    mask = rng.permutation(np.arange(100) < 40).reshape(10, 10)
    weights = np.where(mask, weights, 0).astype(np.float32)
    share, count = 0.5, int(mask.sum())
    wanted = round(0.3 / 2 * (1 + np.cos(np.pi * share)) * count)
    wrap = lambda array: {"w": jnp.asarray(array)}  # noqa: E731
    seen = Seen(
        jax.random.key(0), jnp.float32(share), 0.3, wrap(mask), wrap(mask),
        wrap(weights), wrap(gradient.astype(np.float32)),
    )  # fmt: skip
    found = np.asarray(RULES[rule](seen)["w"])
    active = np.argwhere(mask)
    order = np.argsort(np.abs(weights[mask]), kind="stable")
    left = mask.copy()
    left[tuple(active[order[:wanted]].T)] = False
    assert wanted == 6
    assert found.sum() == count
    assert (found & left).sum() == left.sum()
    grown = found & ~left
    if rule == "rigl":
        free = np.argwhere(~left)
        best = free[np.argsort(-np.abs(gradient[~left]), kind="stable")[:wanted]]
        expected = np.zeros_like(mask)
        expected[tuple(best.T)] = True
        np.testing.assert_array_equal(grown, expected)
    else:
        other = np.asarray(RULES[rule](seen._replace(key=jax.random.key(1)))["w"])
        assert (other != found).any()
        many = [
            np.asarray(RULES[rule](seen._replace(key=jax.random.key(n)))["w"]) & ~left for n in range(400)
        ]
        rates = np.mean(many, axis=0)[~left]
        assert abs(rates.mean() - wanted / (~left).sum()) < 1e-9
        assert rates.min() > 0.03  # each free place has its turn: 6 of 66 is 0.09
        assert rates.max() < 0.16


def test_what_is_replaced_falls_by_a_cosine_and_dense_layers_stay():
    kept = jnp.asarray(np.arange(1000) < 400)
    counts = [int(dynamic.replaced(jnp.float32(share), 0.3, kept)) for share in (0, 1 / 3, 0.5, 1)]
    assert counts == [120, 90, 60, 0]
    assert int(dynamic.replaced(jnp.float32(0), 0.3, jnp.ones(1000, bool))) == 0
    assert int(dynamic.replaced(jnp.float32(0), 0.9, jnp.arange(1000) < 990)) == 10


def test_gradients_are_those_of_the_whole_network():
    """A change by RigL grows where automatic differentiation, written out here, is largest."""
    recipe, mask, key = recipe_of("rigl"), half_mask(), jax.random.key(5)
    state = training.init_state(recipe, initial(42), {}, mask)._replace(mask=mask)
    batch = jax.tree.map(lambda leaf: leaf[:20], DIGITS)
    after, value = training.mask_step(key, state, mask, batch, recipe, jnp.int32(EVERY))

    def loss(params):
        hidden = (
            batch[0].reshape(20, -1) / 255 @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"][None]
        )
        logits = jax.nn.relu(hidden) @ params["output"]["kernel"] + params["output"]["bias"][None]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(20), batch[1]])

    expected, gradient = jax.value_and_grad(loss)(masks.apply(mask, state.params))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for layer in LAYERS:
        old, new = of_kernels(mask, layer), of_kernels(after.mask, layer)
        sizes = np.abs(of_kernels(gradient, layer))
        count = round(0.15 * (1 + np.cos(np.pi * EVERY / 30)) * old.sum())
        kept = np.abs(of_kernels(state.params, layer))
        dropped = old & (kept <= np.sort(kept[old])[count - 1])
        left = old & ~dropped
        grown = new & ~left
        assert grown.sum() == count > 0
        assert sizes[grown].min() >= sizes[~left & ~new].max()


@pytest.mark.parametrize("rule", ["set", "rigl", "gradual"])
def test_what_grows_begins_at_zero_with_fresh_moments_and_what_stays_keeps_its_own(rule):
    recipe, mask = recipe_of(rule), half_mask()
    before = training.init_state(recipe, initial(42), {}, mask)
    before, _ = training.train(jax.random.key(1), before, mask, DIGITS, recipe, steps=EVERY - 1)
    batch = jax.tree.map(lambda leaf: leaf[:20], DIGITS)
    after, _ = training.mask_step(jax.random.key(2), before, mask, batch, recipe, EVERY)
    moments = (before.opt_state[0], after.opt_state[0])
    assert int(moments[1].count) == int(moments[0].count) == EVERY - 1
    for layer in LAYERS:
        old, new = of_kernels(before.mask, layer), of_kernels(after.mask, layer)
        stays = old & new
        assert (old != new).any()
        one, other = of_kernels(before.params, layer), of_kernels(after.params, layer)
        np.testing.assert_array_equal(other[stays], one[stays])
        assert (other[~stays] == 0).all()
        for name in ("mu", "nu"):
            one, other = (of_kernels(getattr(moment, name), layer) for moment in moments)
            np.testing.assert_array_equal(other[stays], one[stays])
            assert (other[~stays] == 0).all()
            assert (other[stays] != 0).any()
        np.testing.assert_array_equal(after.params[layer]["bias"], before.params[layer]["bias"])


def test_gradual_pruning_begins_dense_follows_the_cubic_and_ends_exactly():
    state, seen, mask = trained("gradual")
    for layer, final in HALF.items():
        kept = of_kernels(seen["mask"], layer)
        size = kept[0].size
        for iteration in range(1, STEPS + 1):
            share = min(iteration // EVERY * EVERY, 30) / 30
            expected = final + round((size - final) * (1 - share) ** 3)
            assert abs(int(kept[iteration - 1].sum()) - expected) <= (0 if share in (0, 1) else 1)
        assert not (kept[1:] & ~kept[:-1]).any()  # nested
        assert (of_kernels(seen["params"], layer)[~kept] == 0).all()
        assert of_kernels(state.mask, layer).sum() == of_kernels(mask, layer).sum() == final
        assert (of_kernels(state.mask, layer) != of_kernels(mask, layer)).any()


@pytest.mark.parametrize("rule", RULES)
def test_a_training_can_be_cut_anywhere(rule):
    whole, _, mask = trained(rule)
    recipe = recipe_of(rule)
    for cut in (EVERY, 13):
        state = training.init_state(recipe, initial(42), {}, mask)
        state, _ = training.train(jax.random.key(1), state, mask, DIGITS, recipe, steps=cut)
        state, _ = training.train(jax.random.key(1), state, mask, DIGITS, recipe, first=cut)
        assert_equal(state.mask, whole.mask)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, whole.params
        )


def plan_of(rule, eval_every=0, **changes):
    recipe = recipe_of(rule, eval_every=eval_every)
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5, 0.5])
    return levels.Plan(recipe, sizes, PRUNABLE, score=early.SCORES["random"], prune_at="start", **changes)


@pytest.mark.parametrize("rule", RULES)
def test_levels_record_the_masks_that_training_ended_with(rule):
    controls = {"dense": lambda run: run.ticket._replace(mask=masks.ones_like(run.ticket.mask))}
    found = play(plan_of(rule, controls=controls), (42, 43))
    for level, share in enumerate([1, 0.5, 0.25]):
        for layer, size in {"hidden_0": 128, "output": 32}.items():
            mask = of_kernels(found[level].inspected, layer)
            assert (mask.sum((1, 2)) == share * size).all()
            weights = of_kernels(found[level].trained.params, layer)[:, 0]
            assert (weights[~mask] == 0).all()
            assert ((weights != 0) <= mask).all()
            dense = of_kernels(found[level].trained.params, layer)[:, 1]
            assert (dense != 0).mean() > 0.9
    given = found[0].runs.ticket.mask
    assert (of_kernels(found[1].inspected, "hidden_0") != of_kernels(given, "hidden_0")).any()


@pytest.mark.parametrize("rule", RULES)
def test_a_seed_alone_is_what_it_is_among_others(rule):
    alone, among = (play(plan_of(rule), seeds, count=2)[1] for seeds in [(43,), (42, 43, 44)])
    assert_equal(at(alone.inspected, 0), at(among.inspected, 1))
    one, other = at(alone.trained.params, 0, 0), at(among.trained.params, 1, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


OPTIONS = {"levels": 1, "epochs": 2, "batch_size": 20, "density": 0.2, "seeds": [42, 43]}


def find(rule, **options):
    chosen = {"score": early.SCORES["random"], "prune_at": "start", "budget": "erk", **OPTIONS, **options}
    way = Dynamic(RULES[rule], every=2)
    module = chosen.pop("model", models.MLP((8,), classes=4))
    return lth_jax.find_tickets(module, optax.adam(0.01), DIGITS, DIGITS, dynamic=way, **chosen)


def test_find_tickets_gives_the_mask_that_was_measured():
    found = find("rigl", keep_weights=True, controls=["reinit"])
    assert found.results["kept"].dims == ("network", "seed", "level")
    np.testing.assert_allclose(found.results["kept"], 0.2)
    weights = kernels(jax.tree.map(lambda leaf: leaf[0, :, 0], found.weights[0]))
    for layer in LAYERS:
        mask = of_kernels(found.masks, layer)[0]
        assert (weights[layer][~mask] == 0).all()
        assert (weights[layer][mask] != 0).mean() > 0.9
    assert sum(int(of_kernels(found.masks, layer)[0, 0].sum()) for layer in LAYERS) == 32


def test_convolutions_are_trained_with_masks_that_change():
    found = find("rigl", model=networks.MODELS["conv2"](classes=4))
    np.testing.assert_allclose(found.results["kept"], 0.2, atol=1e-4)
    network = models.from_linen(networks.MODELS["conv2"](classes=4))
    static = Choices(1, 2, 20, density=0.2, budget="erk", prune_at="start", score=early.SCORES["random"])
    initial_of = lambda key: network.init(key, jnp.zeros((1, 4, 4, 1)))  # noqa: E731
    plan = search.prepare(network, optax.adam(0.01), 200, initial_of, static)
    params, other = initial_of(stream(42, "init"))
    run = levels.prune_first(levels.begin(42, params, other, plan.plan), plan.plan, DIGITS)
    given = run.ticket.mask
    found = found._replace(masks=jax.tree.map(lambda leaf: leaf[0, 0], found.masks))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), found.masks, given)
    assert any(jax.tree.leaves(moved))


ODD = {
    "masked": optax.masked(optax.adam(0.01), lambda tree: jax.tree.map(lambda _: True, tree)),
    "muon": optax.contrib.muon(0.01),
    "sm3": optax.sm3(0.01),
    "lbfgs": optax.lbfgs(0.01, memory_size=2, linesearch=None),
    "apart": optax.partition(
        {"a": optax.adam(0.01), "b": optax.sgd(0.1, 0.9)},
        lambda tree: jax.tree.map(lambda leaf: "a" if leaf.ndim == 2 else "b", tree),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_any_optimizer_trains_masks_that_change(name):
    mask = half_mask()
    recipe = dataclasses.replace(recipe_of("rigl"), optimizer=ODD[name], steps=12, eval_every=0)
    state = training.init_state(recipe, initial(42), {}, mask)
    state, _ = jax.jit(lambda key: training.train(key, state, mask, DIGITS, recipe))(jax.random.key(1))
    for layer, count in HALF.items():
        kept = of_kernels(state.mask, layer)
        assert kept.sum() == count
        assert (of_kernels(state.params, layer)[~kept] == 0).all()
        assert np.isfinite(of_kernels(state.params, layer)).all()


def test_the_learning_rate_is_where_it_would_be_with_a_mask_that_stays():
    mask = half_mask()
    recipe = dataclasses.replace(recipe_of("set"), optimizer=optax.sgd(optax.linear_schedule(0.1, 0, STEPS)))
    state = training.init_state(recipe, initial(42), {}, mask)
    state, _ = training.train(jax.random.key(1), state, mask, DIGITS, recipe)
    has_count = lambda node: not callable(getattr(node, "count", len))  # noqa: E731  # a tuple's is a method
    nodes = jax.tree.leaves(state.opt_state, is_leaf=has_count)
    counts = [int(node.count) for node in nodes if has_count(node)]
    assert counts == [STEPS]


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("dynamic: masks change from one that is there", {"prune_at": "trained", "levels": 2}),
        ("children 2: copies of a dynamic mask", {"children": 2}),
        ("every 2 iterations .* the last time at 0", {"epochs": 1, "batch_size": 200}),
        (
            "the last time at 14; a level has 20 iterations, from 16",
            {"levels": 2, "rewind": 16, "rewind_schedule": "kept"},
        ),
        ("rewind 3: there is one level", {"rewind": 3}),
    ],
)
def test_choices_that_do_not_go_together_are_refused(message, options):
    with pytest.raises(InputError, match=message):
        find("set", **options)


def test_a_search_that_is_read_back_gives_the_masks_that_it_gave(tmp_path):
    options = {"levels": 2, "controls": ["reinit"], "keep_weights": True, "folder": tmp_path / "run"}
    whole, again = find("rigl", **options), find("rigl", **options)
    assert_equal(again.masks, whole.masks)
    assert_equal(again.weights, whole.weights)
    assert_equal(whole.masks, find("rigl", **options | {"folder": None}).masks)


@pytest.mark.parametrize("control", ["random_mask", "shuffle", "rearrange", "invert"])
def test_gradual_pruning_has_no_controls_that_change_its_mask(control):
    with pytest.raises(InputError, match=f"controls {control}: gradual pruning begins dense"):
        find("gradual", controls=[control])


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 1.5}, {"fraction": 0}, {"fraction": 2}, {"until": 0}, {"until": 1.1}]
)
def test_impossible_schedules_are_refused(options):
    with pytest.raises(InputError, match="dynamic"):
        Dynamic(RULES["set"], **options)


def test_the_last_change_is_where_it_is_said():
    assert Dynamic(RULES["set"], 100, until=0.75).last(24_000) == 18_000
    assert Dynamic(RULES["set"], 1, until=0.29).last(100) == 29
    assert Dynamic(RULES["set"], 100, until=0.5).last(150) == 0
    way = Dynamic(RULES["set"], 2, until=0.5)
    assert [n for n in range(1, 21) if way.changes(n, 20)] == [2, 4, 6, 8, 10]
