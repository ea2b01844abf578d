"""Controls beside the trunk: the same tickets as without them, one compilation, and a loop that resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits

from lth_jax import branches, initializers, levels, models, training
from lth_jax.keys import stream
from lth_jax.runs import axis
from lth_jax.runs.sweep import remember
from lth_jax.tickets import masks, pruning, rewinding, scores

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)
RATES = pruning.rates(SHAPES, 0.3)
RECIPE = training.Recipe(NETWORK, optax.adam(0.01), 20, 20, 10)
SCHEME, LEVELS = initializers.get("xavier_normal"), 4
DIGITS = make_digits()


def reinit(line):
    return rewinding.fresh(stream(line.seed, "reinit", line.level), SHAPES, SCHEME), line.mask


def rearrange(line):
    key = stream(line.seed, "shuffle", line.level)
    return rewinding.rearrange(key, line.mask, line.params, PRUNABLE)


def rules(**changes):
    dense = changes.get("one_shot", False)
    removed = [pruning.rates(SHAPES, 1 - 0.7**n if dense else 0.3) for n in range(1, LEVELS)]
    keep = pruning.kept_counts(SHAPES, removed, from_dense=dense)
    return branches.Rules(RECIPE, keep, PRUNABLE, **changes)


def initial(seed):
    return initializers.initialize(stream(seed, "init"), SHAPES, SCHEME)


def begin():
    return axis.stack([branches.begin(seed, initial(seed)) for seed in (3, 4, 5)])


def play(given, levels=LEVELS, **options):
    return list(branches.play(begin(), DIGITS, {"test": DIGITS}, given, levels, **options))


@pytest.fixture(scope="module")
def alone():
    return play(rules(), inspect=lambda line: line.mask)


def kernels(tree):
    return {layer: np.asarray(tree[layer]["kernel"]) for layer in ("hidden_0", "output")}


def test_without_siblings_it_is_the_lottery(alone):
    plan = levels.Plan(RECIPE, RATES, PRUNABLE)
    runs = axis.stack([levels.begin(seed, initial(seed), {}, plan) for seed in (3, 4, 5)])
    expected = list(levels.play(runs, DIGITS, {"test": DIGITS}, plan, LEVELS))
    for (_, level), (_, (curves, mask)) in zip(expected, alone, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mask, level.mask)
        mine, theirs = curves.watched["test"].loss[:, 0], level.curves.watched["test"].loss
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_siblings_leave_the_ticket_as_it_was_and_keep_what_they_promise(alone):
    given = rules(siblings={"reinit": reinit, "rearrange": rearrange})

    def select(start, curves):
        return {"loss": curves.watched["test"].loss, "start": start}

    together = play(given, select=select)
    for level, ((_, (record, _)), (_, (curves, mask))) in enumerate(zip(together, alone, strict=True)):
        np.testing.assert_allclose(record["loss"][:, 0], curves.watched["test"].loss[:, 0], rtol=1e-5)
        places = kernels(record["start"].mask)
        weights = kernels(record["start"].params)
        for layer, kept in kernels(mask).items():
            ticket, fresh, moved = np.moveaxis(places[layer], 1, 0)
            np.testing.assert_array_equal(ticket, kept)
            np.testing.assert_array_equal(fresh, kept, "reinit keeps the mask")
            assert (weights[layer][:, 0] != weights[layer][:, 1]).all(), "and none of the weights"
            assert moved.sum() == kept.sum()
            assert level == 0 or (moved != kept).any()
            for seed in range(3):
                before = np.sort(weights[layer][seed, 0][kept[seed]])
                np.testing.assert_array_equal(np.sort(weights[layer][seed, 2][moved[seed]]), before)


def test_one_shot_prunes_every_size_from_the_dense_networks_weights():
    found = play(rules(one_shot=True), inspect=lambda line: (line.mask, line.trained))
    dense = kernels(found[0][0].trained)
    sizes = {"hidden_0": [128, 90, 63, 44], "output": [32, 22, 16, 11]}  # round(0.7^n · size)
    for level, (_, (_, (mask, _))) in enumerate(found):
        for layer, kept in kernels(mask).items():
            for seed in range(3):
                magnitude = np.abs(dense[layer][seed])
                lowest = np.sort(magnitude.ravel())[::-1][sizes[layer][level] - 1]
                np.testing.assert_array_equal(kept[seed], magnitude >= lowest)


def test_without_reset_the_survivors_go_on_from_where_they_are():
    found = play(rules(rewind=rewinding.no_reset), levels=2)
    line = found[0][0]
    jax.tree.map(np.testing.assert_array_equal, line.params, line.trained)
    assert bool(jnp.any(line.params["hidden_0"]["kernel"] != line.rewind_to["hidden_0"]["kernel"]))


def test_a_line_can_rewind_to_a_later_point_than_its_start():
    late = jax.tree.map(lambda leaf: leaf + 1, initial(3))
    line = branches.begin(3, initial(3), rewind_to=late)
    after = branches.advance(line, initial(4), rules())
    jax.tree.map(np.testing.assert_array_equal, line.params, initial(3))
    jax.tree.map(np.testing.assert_array_equal, after.params, late)


def test_all_levels_share_their_compilations():
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        levels = branches.play(begin(), DIGITS, {}, rules(siblings={"reinit": reinit}), LEVELS)
        next(levels)
        assert any("backend_compile" in event for event in compiled)
        compiled.clear()
        list(levels)
        assert not [event for event in compiled if "backend_compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()


class Killed(Exception):
    """What stands for the end of the process."""


def test_a_loop_that_was_stopped_goes_on_where_it_was(tmp_path):
    given = rules(siblings={"reinit": reinit})
    watch = {"test": DIGITS}
    choose = {"select": lambda start, curves: curves.watched["test"].loss, "inspect": lambda line: line.level}
    like = branches.record_shapes(begin(), DIGITS, watch, given, **choose)
    played = []

    def run(folder, report=lambda progress: None):
        def levels(lines, wait):
            for state in branches.play(lines, DIGITS, watch, given, LEVELS, wait=wait, **choose):
                played.append(folder.name)
                yield state

        return remember(folder, begin(), like, levels, LEVELS, report)

    def killed(progress):
        if progress.level == 1:
            raise Killed

    _, whole, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", killed)
    lines, resumed, _ = run(tmp_path / "parts")
    assert played.count("whole") == LEVELS
    assert played.count("parts") == LEVELS, "no level was played twice"
    np.testing.assert_allclose(resumed[0], whole[0], rtol=1e-5)
    np.testing.assert_array_equal(resumed[1], [[level] * 3 for level in range(LEVELS)])
    assert (np.asarray(lines.level) == LEVELS).all()
    assert whole[0].shape == (LEVELS, 3, 2, 2)  # levels, lines, networks, evaluations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": DIGITS.images / np.float32(255)}, "training images are float32"),
        ({"labels": DIGITS.labels + 3}, "the network has logits for 0 … 3"),
        ({"levels": LEVELS + 1}, "sizes for 4 levels, expected 5"),
        ({"keep": {"hidden_0": {}}}, "the rules' keep is a tree of another structure"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_compiled(change, message):
    data = DIGITS._replace(**{name: leaf for name, leaf in change.items() if name in DIGITS._fields})
    given = rules() if "keep" not in change else branches.Rules(RECIPE, change["keep"], PRUNABLE)
    with pytest.raises(ValueError, match=message):
        next(branches.play(begin(), data, {"test": DIGITS}, given, change.get("levels", LEVELS)))


def test_lines_at_different_levels_are_refused():
    lines = begin()._replace(level=jnp.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"at different levels, \[0, 1\]"):
        next(branches.play(lines, DIGITS, {"test": DIGITS}, rules(), LEVELS))


def test_both_loops_score_by_where_the_levels_training_began():
    plan = levels.Plan(
        RECIPE, RATES, PRUNABLE, criterion=scores.CRITERIA["movement"], rewind=rewinding.no_reset
    )
    runs = axis.stack([levels.begin(seed, initial(seed), {}, plan) for seed in (3, 4, 5)])
    played = list(levels.play(runs, DIGITS, {"test": DIGITS}, plan, 3))
    lines = play(rules(criterion=scores.CRITERIA["movement"], rewind=rewinding.no_reset), 3)
    for (run, _), (line, _) in zip(played, lines, strict=True):
        jax.tree.map(np.testing.assert_array_equal, run.mask, line.mask)
