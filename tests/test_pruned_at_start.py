"""Levels pruned before they are trained: masks of θ0 or θ_k alone, exact sizes, controls, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import make_digits
from small_levels import (
    DIGITS,
    LAYERS,
    NETWORK,
    PRUNABLE,
    SHAPES,
    assert_equal,
    begin,
    initial,
    kernels,
    play,
)
from sweeps import TINY, make_place

import lth_jax
from lth_jax import commands, levels, models, training
from lth_jax.analysis import tables
from lth_jax.errors import InputError
from lth_jax.runs import checks, sweep
from lth_jax.tickets import controls, early, masks, pruning, schedules, scores

OPTIONS = {"levels": 3, "epochs": 1, "batch_size": 20, "rate": 0.5, "scope": "global"}
STEPPED = {"score": early.synflow, "prune_at": "start", "score_steps": 5, "score_batch": 1}


def plan_of(rate=0.01, **changes):
    recipe = training.Recipe(NETWORK, optax.sgd(rate), 20, 20)
    sizes = changes.pop("sizes", schedules.iterative(SHAPES, PRUNABLE, [0.5, 0.5], scope="global"))
    return levels.Plan(recipe, sizes, PRUNABLE, **{"score": early.snip, "score_batch": 40, **changes})


@pytest.mark.parametrize("score", [{"score": early.snip, "score_batch": 40}, {**STEPPED}])
def test_masks_do_not_depend_on_training_and_are_exact(score):
    score = {"prune_at": "start", **score}
    slow, fast = play(plan_of(**score)), play(plan_of(rate=0.5, **score))
    for level, kept in enumerate([160, 80, 40]):
        assert_equal(slow[level].inspected, fast[level].inspected)
        mask = kernels(slow[level].inspected)
        assert (sum(mask[layer].sum((1, 2)) for layer in LAYERS) == kept).all()
    weights = kernels(slow[0].trained.params)["hidden_0"]
    assert (weights != kernels(fast[0].trained.params)["hidden_0"]).any()
    pruned = ~np.asarray(slow[2].inspected["hidden_0"]["kernel"])[:, None]
    assert (kernels(slow[2].trained.params)["hidden_0"][pruned] == 0).all()


def test_the_dense_level_is_the_one_that_is_pruned_after_training():
    early_plan, late = plan_of(prune_at="start"), plan_of()
    first, other = play(early_plan, count=1)[0], play(late, count=1)[0]
    assert_equal(first.trained.params, other.trained.params)
    ours, theirs = (kernels(level.runs.ticket.mask)["hidden_0"] for level in (first, other))
    assert (ours != theirs).any()


def test_magnitude_at_the_start_ranks_the_initial_weights():
    found = play(plan_of(score=scores.magnitude, score_batch=0, prune_at="start"), (42,))[2].inspected
    weights = {layer: np.abs(initial(42)[layer]["kernel"]) for layer in LAYERS}
    mask = {layer: np.asarray(found[layer]["kernel"])[0] for layer in LAYERS}
    least = min(weights[layer][mask[layer]].min() for layer in LAYERS)
    assert least >= max(weights[layer][~mask[layer]].max() for layer in LAYERS)


def test_pruned_at_a_later_start_its_weights_are_ranked():
    plan = plan_of(score=scores.magnitude, score_batch=0, prune_at="start", first=5)
    late = jax.tree.map(lambda leaf: -leaf[::-1, ...] if leaf.ndim > 1 else leaf, initial(3))
    run = levels.begin(3, initial(3), {}, plan, rewind_to=late)
    after = levels.advance(run, training.TrainState(initial(4), {}, {}), plan, DIGITS)
    count = jnp.asarray(plan.sizes.keep["all layers"][1])
    whole = masks.ones_like(late)
    expected = pruning.prune_global(whole, jax.tree.map(jnp.abs, late), count, PRUNABLE)
    assert_equal(after.ticket.mask, expected)
    assert_equal(after.ticket.params, late)


def test_levels_go_on_from_where_they_were():
    plan = plan_of(**STEPPED)
    whole = play(plan)
    rest = list(sweep.run_levels(whole[0].runs, DIGITS, plan, inspect=lambda run: run.ticket.mask))
    assert len(rest) == 2
    assert_equal(rest[-1].inspected, whole[-1].inspected)
    assert_equal(rest[-1].trained.params, whole[-1].trained.params)


def test_the_first_level_can_be_pruned():
    sizes = schedules.without_first(schedules.to_density(SHAPES, PRUNABLE, 0.25, 2, scope="global"))
    alone = play(plan_of(sizes=sizes, prune_at="start"))
    second = play(plan_of(prune_at="start"))[2]  # which keeps as many
    assert len(alone) == 1
    assert_equal(alone[0].inspected, second.inspected)
    mask = kernels(alone[0].inspected)
    assert (sum(mask[layer].sum((1, 2)) for layer in LAYERS) == 40).all()


def test_steps_after_training_score_what_is_left():
    """SNIP in two steps by hand: half of the way by the dense network's, the rest by what that leaves."""
    plan = plan_of(score_steps=2, sizes=schedules.iterative(SHAPES, PRUNABLE, [0.75], scope="global"))
    run, trained = levels.begin(3, initial(3), {}, plan), initial(4)
    found = levels.advance(run, training.TrainState(trained, {}, {}), plan, DIGITS).ticket.mask
    mask, seen = masks.ones_like(trained), []

    def watch(scoring):
        seen.append(scoring.loss)
        return scores.magnitude(scoring)

    once = plan_of(score=watch)
    levels.advance(run, training.TrainState(trained, {}, {}), once, DIGITS)
    for count in (80, 40):
        weights = masks.apply(mask, trained)
        slope = jax.grad(seen[0])(weights)
        score = jax.tree.map(lambda w, g: jnp.abs(w * g), weights, slope)
        mask = pruning.prune_global(mask, score, jnp.asarray(count), PRUNABLE)
    assert_equal(found, mask)


@pytest.mark.parametrize("how", ["start", "one_shot"])
def test_invert_is_the_mask_of_the_negated_score(how):
    score = {"score": early.snip, "score_batch": 40}
    if how == "one_shot":
        score = {"score": scores.magnitude, "score_batch": 0}
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5, 0.5], scope="global")
    at = {"prune_at": "start"} if how == "start" else {"sizes": sizes._replace(one_shot=True)}
    plan = plan_of(**score, **at, invert=True, controls={"invert": controls.invert})
    found = play(plan, (42, 43))
    for level, kept in enumerate([160, 80, 40]):
        ticket, inverted = (
            {layer: np.asarray(found[level].networks.ticket.mask[layer]["kernel"])[:, n] for layer in LAYERS}
            for n in (0, 1)
        )
        for mask in (ticket, inverted):
            assert (sum(mask[layer].sum((1, 2)) for layer in LAYERS) == kept).all()
        both = sum((ticket[layer] & inverted[layer]).sum((1, 2)) for layer in LAYERS)
        assert (both == (160 if level == 0 else 0)).all()  # the highest and the lowest 80 or 40 of 160


# Collapse


def collapsing(scoring):
    """The output layer's weights count for less than all others."""
    return {
        layer: jax.tree.map(lambda leaf, layer=layer: jnp.abs(leaf) + (layer != "output") * 100, tree)
        for layer, tree in scoring.trained.items()
    }


@pytest.mark.parametrize("at", ["trained", "start"])
def test_a_layer_without_a_weight_is_named(at, capsys):
    play(plan_of(score=collapsing, score_batch=0, prune_at=at), (42, 43))
    said = capsys.readouterr().err.splitlines()
    line = "warning: level {}: output/kernel has no weight left in 2 of 2 runs: it has collapsed"
    assert said == [line.format(1), line.format(2)]  # 80 and 40 of 160, of which the output has 32


def test_layers_that_keep_a_weight_are_not_named(capsys):
    play(plan_of(prune_at="start"), (42,))
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5])
    runs = begin(plan_of(sizes=sizes))
    checks.report_collapse(runs, plan_of(sizes=sizes))
    assert capsys.readouterr().err == ""


def test_results_name_what_has_collapsed():
    kept = np.full((2, 3, 4, 2), 5)  # network, seed, level, layer
    kept[0, 1, 2:, 0] = kept[1, 2, 3, 0] = 0
    coords = {"network": ["ticket", "invert"], "seed": [42, 43, 44], "level": range(4), "layer": ["a", "b"]}
    measured = xr.Dataset({"kept_weights": (list(coords), kept)}, coords)
    line = "collapsed: a has no weight left at level 2–3 (network ticket, invert; seed 43, 44)"
    assert tables.collapsed_lines(measured) == [line]
    assert tables.collapsed_lines(measured.isel(level=[0, 1])) == []
    assert tables.collapsed_lines(xr.Dataset()) == []


# Both ways in


def net():
    return models.MLP((8,), classes=4)


def find(**options):
    digits = make_digits()
    return lth_jax.find_tickets(net(), optax.sgd(0.1), digits, digits, (42, 43), **{**OPTIONS, **options})


def test_tickets_pruned_at_the_start_with_every_control(tmp_path):
    names = ("reinit", "shuffle", "random_mask", "invert")
    options = {"score": early.grasp, "score_batch": 40, "prune_at": "start", "controls": names}
    found = find(**options, folder=tmp_path / "run")
    again = find(**options, folder=tmp_path / "run")
    assert_equal(found.masks, again.masks)
    kept = found.results["kept"]
    assert kept.dims == ("network", "seed", "level")
    np.testing.assert_allclose(kept, np.broadcast_to([1, 0.5, 0.25], kept.shape))
    assert found.results["network"].values.tolist() == ["ticket", *names]
    assert found.ticket(42, 2)[1]["hidden_0"]["kernel"].shape == (16, 8)


def test_one_level_of_a_density():
    found = find(levels=1, density=0.1, prune_at="start", score=scores.magnitude)
    np.testing.assert_allclose(found.results["kept"], [[0.1], [0.1]])
    assert sum(int(found.masks[layer]["kernel"][0, 0].sum()) for layer in LAYERS) == 16
    with pytest.raises(ValueError, match="1 levels: expected 2 or more"):
        find(levels=1, density=0.1)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("prune_at first: expected one of trained, start", {"prune_at": "first"}),
        ("score_steps 0: expected at least 1", {"score_steps": 0}),
        ("score_batch 201: larger than the 200", {"score_batch": 201}),
        ("prune_at start: with rewind none a level", {"prune_at": "start", "rewind": "none"}),
        ("prune_at start: with rewind lr:3 a level", {"prune_at": "start", "rewind": "lr:3"}),
        ("one_shot: prune_at start cuts every level", {"prune_at": "start", "one_shot": True}),
        ("score_steps 2: one_shot scores the dense", {"score_steps": 2, "one_shot": True}),
        ("invert: takes masks that are cut out", {"controls": ["invert"]}),
        ("'invert:1': unknown control", {"controls": ["invert:1"], "prune_at": "start"}),
        ("'invert:': unknown control", {"controls": ["invert:"], "prune_at": "start"}),
        ("say score_batch", {"score": early.snip, "prune_at": "start"}),
    ],
)
def test_choices_that_do_not_go_together_are_refused(message, options):
    with pytest.raises(ValueError, match=message) as error:
        find(**options)
    assert isinstance(error.value, InputError) or "score_batch" in message


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits and somebody's module."""
    return make_place(tmp_path_factory.mktemp("early"))


SMALL = ["--model", "mlp", "--hidden", "8", "--seeds", "42", "--levels", "2", *TINY]


@pytest.mark.parametrize("score", ["snip", "grasp", "synflow", "fisher", "taylor", "magnitude", "random"])
def test_every_score_is_a_flag(place, monkeypatch, score):
    monkeypatch.chdir(place)
    flags = ["--score", score, "--prune-at", "start", "--scope", "global", "--controls", "invert"]
    commands.main(["sweep", *SMALL, *flags, "--rate", "0.9", "--out", score])
    with xr.open_dataset(place / score / "results.nc") as found:
        np.testing.assert_allclose(found["kept"].isel(level=1), 0.1, atol=1e-4)
        assert found["network"].values.tolist() == ["ticket", "invert"]
    masks_of = commands_mask(place / score)
    assert masks_of.sum() == round(0.1 * 6352)  # 784·8 + 8·10 weights


def commands_mask(folder):
    from lth_jax.analysis import ticket_files

    kept = ticket_files.read_mask(folder / "tickets.npz", 42, 1)
    return np.concatenate([kept[f"{layer}/kernel"].ravel() for layer in LAYERS])


def test_scores_by_gradients_rank_what_is_trained_too(place, monkeypatch):
    monkeypatch.chdir(place)
    commands.main(["sweep", *SMALL, "--score", "snip", "--score-batch", "20", "--out", "late"])
    commands.main(["sweep", *SMALL, "--score", "synflow", "--score-steps", "3", "--out", "late flow"])
    for name in ("late", "late flow"):
        assert commands_mask(place / name).sum() == round(0.8 * 6272) + 64


def test_wrong_flags_are_named(refused):
    def line(*flags):
        return refused("sweep", *SMALL, *flags)

    assert "--score-batch 61: larger than the 60" in line("--score", "snip", "--score-batch", "61")
    assert "--score-batch 5: large_final looks at no" in line("--score-batch", "5")
    assert "--prune-at init: unknown" in line("--prune-at", "init")
    assert "--score-steps -1" in line("--score-steps=-1")
    assert "one_shot: prune_at start" in line("--one-shot", "true", "--prune-at", "start")
    assert "invert: takes masks" in line("--controls", "invert")
