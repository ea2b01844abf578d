"""Criteria against their formulas in float64, and scores that ask for a loss against a float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth_jax import initializers, levels, models, training
from lth_jax.keys import stream
from lth_jax.runs import axis, sweep
from lth_jax.tickets import masks, pruning, schedules, scores
from lth_jax.tickets.scores import CRITERIA

INITIAL = np.float32([0.1, -0.2, 0.3, -0.4, 0.5, -0.05])
FINAL = np.float32([-0.3, -0.05, 0.2, -0.6, 0.55, 0.45])
SIZE = 40


def ranks(score):
    """0 for the lowest … equals by position."""
    return np.argsort(np.argsort(score, kind="stable"), kind="stable").astype(np.float64)


def increase(wi, wf):
    return np.abs(wf) - np.abs(wi)


ORACLES = {
    "large_final": lambda wi, wf: np.abs(wf),
    "small_final": lambda wi, wf: -np.abs(wf),
    "large_init": lambda wi, wf: np.abs(wi),
    "small_init": lambda wi, wf: -np.abs(wi),
    "large_init_large_final": lambda wi, wf: np.minimum(ranks(np.abs(wi)), ranks(np.abs(wf))),
    "small_init_small_final": lambda wi, wf: np.minimum(ranks(-np.abs(wi)), ranks(-np.abs(wf))),
    "magnitude_increase": increase,
    "movement": lambda wi, wf: np.abs(wf - wi),
    "large_final_same_sign": lambda wi, wf: np.sign(wi) * wf,
    "large_final_diff_sign": lambda wi, wf: -np.sign(wi) * wf,
    "magnitude_increase_same_sign": lambda wi, wf: increase(wi, wf) - 100 * (np.sign(wi) != np.sign(wf)),
    "magnitude_increase_diff_sign": lambda wi, wf: increase(wi, wf) - 100 * (np.sign(wi) == np.sign(wf)),
}
COMPILED = {name: jax.jit(criterion) for name, criterion in CRITERIA.items()}
values = st.lists(st.integers(-1000, 1000).filter(bool), min_size=SIZE, max_size=SIZE, unique_by=abs)


def test_every_criterion_has_an_oracle():
    assert set(CRITERIA) == {*ORACLES, "random"}
    assert CRITERIA["large_final"] is scores.large_final


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=15, deadline=None)
@given(values, values)
def test_criteria_order_weights_as_their_formulas(name, initial, final):
    # Thousandths apart and no magnitude twice: float32 cannot change an order, but for equal differences.
    initial, final = np.array(initial) / 1000, np.array(final) / 1000 + 1e-4
    found = COMPILED[name](jnp.asarray(initial, jnp.float32), jnp.asarray(final, jnp.float32))
    expected = np.round(ORACLES[name](initial, final), 9)[np.argsort(np.asarray(found), kind="stable")]
    assert (np.diff(expected) >= -1e-6).all()


def kept(name, count):
    score = CRITERIA[name](jnp.asarray(INITIAL), jnp.asarray(FINAL))
    removed = jnp.asarray(len(INITIAL) - count)
    return np.flatnonzero(pruning.remove_lowest(jnp.ones(len(INITIAL), bool), score, removed)).tolist()


@pytest.mark.parametrize(
    ("name", "three"),
    [
        ("large_final", [3, 4, 5]),
        ("small_final", [0, 1, 2]),
        ("large_init", [2, 3, 4]),
        ("small_init", [0, 1, 5]),
        ("magnitude_increase", [0, 3, 5]),
        ("movement", [0, 3, 5]),
        ("large_final_same_sign", [2, 3, 4]),
        ("magnitude_increase_same_sign", [2, 3, 4]),
        ("magnitude_increase_diff_sign", [0, 3, 5]),
    ],
)
def test_what_three_of_six_weights_are_kept(name, three):
    assert kept(name, 3) == three


def test_large_at_both_ends():
    # Magnitudes rank 1 2 3 4 5 0 at the start and 2 0 1 5 4 3 at the end: the smaller ranks are 1 0 1 4 4 0.
    found = CRITERIA["large_init_large_final"](jnp.asarray(INITIAL), jnp.asarray(FINAL))
    np.testing.assert_array_equal(found, [1, 0, 1, 4, 4, 0])


def test_the_documents_example():
    """Document 004, §2.1: with t = 0.1 the first criterion keeps 0.1 and 0.3, the other 0.3 alone."""
    initial, final = jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([-0.2, 0.05, 0.3])
    np.testing.assert_array_equal(CRITERIA["large_final"](initial, final) >= 0.1, [True, False, True])
    same = CRITERIA["large_final_same_sign"](initial, final)
    np.testing.assert_array_equal(same >= 0.1, [False, False, True])


def test_random_depends_on_the_draw_and_on_nothing_else():
    initial, other = (jax.random.normal(jax.random.key(seed), (20_000,)) for seed in (0, 1))
    score = np.asarray(scores.random(initial, other))
    np.testing.assert_array_equal(score, scores.random(initial, -3 * other))
    assert np.corrcoef(score, scores.random(other, other))[0, 1] == pytest.approx(0, abs=0.03)
    for property_of in (np.abs, np.sign):
        assert np.corrcoef(score, property_of(initial))[0, 1] == pytest.approx(0, abs=0.03)
    assert len(np.unique(score)) > 19_900
    share = np.histogram(score, bins=10, range=(0, 2**32))[0] / len(score)
    np.testing.assert_allclose(share, 0.1, atol=0.01)


def test_sign_changers_go_first_whatever_the_criterion():
    rng = np.random.default_rng(0)
    initial, final = (jnp.asarray(rng.normal(size=(8, 9)), jnp.float32) for _ in range(2))
    same = np.sign(initial) == np.sign(final)
    for wrapped, first in ((scores.same_sign, ~same), (scores.diff_sign, same)):
        score = np.asarray(wrapped(scores.movement)(initial, final))
        assert score[first].max() < score[~first].min()


def test_a_criterion_of_ones_own_is_one_line():
    tree = {"hidden": {"kernel": jnp.asarray([[1.0, -2.0], [3.0, -4.0]])}}
    for score in (
        scores.by_trees(lambda initial, final: -initial, tree, tree),
        scores.by_weight(lambda initial, final: -initial)(scoring(tree, tree)),
    ):
        np.testing.assert_array_equal(score["hidden"]["kernel"], [[-1, 2], [-3, 4]])


def scoring(start, trained, mask=None, loss=lambda params: jnp.float32(0)):
    mask = masks.ones_like(trained) if mask is None else mask
    return scores.Scoring(start, trained, mask, jax.random.key(0), loss)


def test_the_default_is_the_magnitude_after_training():
    start, trained = {"kernel": jnp.asarray(INITIAL)}, {"kernel": jnp.asarray(FINAL)}
    np.testing.assert_array_equal(scores.magnitude(scoring(start, trained))["kernel"], np.abs(FINAL))


# Scores that ask for the loss of a batch: tanh network 16–8–4, its gradient in float64 by hand.

NETWORK = models.from_flax(models.MLP((8,), classes=4, activation=jnp.tanh))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)
RECIPE = training.Recipe(NETWORK, optax.adam(0.01), 20, 10)
EVERY = 200
"""All examples of the data set: a batch of them is the same whatever is drawn."""


def make_plan(score, score_batch=EVERY, rates=(0.3, 0.3), **changes):
    sizes = schedules.iterative(SHAPES, PRUNABLE, list(rates))
    return levels.Plan(RECIPE, sizes, PRUNABLE, score, score_batch, **changes)


def initial(seed):
    return initializers.initialize(stream(seed, "init"), SHAPES, initializers.get("xavier_normal"))


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def oracle(weights, digits):
    """The gradient of the mean cross-entropy."""
    x = np.asarray(digits.images, np.float64).reshape(len(digits.images), -1) / 255
    first, last = weights["hidden_0"], weights["output"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"])
    logits = hidden @ last["kernel"] + last["bias"]
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    error = (chances - np.eye(4)[np.asarray(digits.labels)]) / len(x)
    back = (error @ last["kernel"].T) * (1 - hidden**2)
    return {
        "hidden_0": {"kernel": x.T @ back, "bias": back.sum(0)},
        "output": {"kernel": hidden.T @ error, "bias": error.sum(0)},
    }


def scored(digits, score, seed=3, level=0, score_batch=EVERY, **changes):
    """What a score makes of a level of one run: the trained weights, and what it gave."""
    plan, found = make_plan(score, score_batch, **changes), []

    def watching(scoring):
        found.append(score(scoring))
        return scores.magnitude(scoring)

    run = levels.begin(seed, initial(seed), {}, plan)._replace(level=jnp.asarray(level))
    trained = training.TrainState(initial(seed + 1), {}, {})
    levels.advance(run, trained, make_plan(watching, score_batch, **changes), digits)
    return trained.params, found[0]


def test_the_gradient_is_the_float64_oracles(digits):
    trained, found = scored(digits, scores.gradient)
    expected = oracle(float64(trained), digits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-7), found, expected)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.05  # far above the tolerance


def test_the_gradient_is_0_where_nothing_is_kept():
    mask = {"kernel": jnp.asarray([True, False, True])}
    tree = {"kernel": jnp.asarray([1.0, 2.0, 3.0])}
    found = scores.gradient(scoring(tree, tree, mask, lambda params: jnp.sum(params["kernel"] ** 2)))
    np.testing.assert_array_equal(found["kernel"], [2, 0, 6])


def test_the_hessian_times_a_vector_is_the_oracles_finite_difference(digits):
    vector = jax.tree.map(lambda leaf: leaf * 3 - 0.1, initial(9))
    trained, found = scored(digits, lambda s: scores.hessian_vector_product(s, vector))
    weights, direction, step = float64(trained), float64(vector), 1e-5
    ahead, behind = (
        oracle(jax.tree.map(lambda w, v, e=e: w + e * v, weights, direction), digits) for e in (step, -step)
    )
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.05


def test_a_score_sees_what_its_level_knows(digits):
    seen = []

    def look(scoring):
        seen.append(scoring)
        return scores.magnitude(scoring)

    plan = make_plan(look, rewind=lambda start, trained: trained)
    run = levels.begin(3, initial(3), {}, plan)
    middle = levels.advance(run, training.TrainState(initial(4), {}, {}), plan, digits)
    levels.advance(middle, training.TrainState(initial(5), {}, {}), plan, digits)
    for scoring, (start, trained, mask) in zip(
        seen, [(3, 4, run.ticket.mask), (4, 5, middle.ticket.mask)], strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, scoring.start, initial(start))
        jax.tree.map(np.testing.assert_array_equal, scoring.trained, initial(trained))
        jax.tree.map(np.testing.assert_array_equal, scoring.mask, mask)
    keys = {np.asarray(jax.random.key_data(scoring.key)).tobytes() for scoring in seen}
    assert len(keys) == 2
    assert jnp.array_equal(jax.random.key_data(seen[0].key), jax.random.key_data(stream(3, "score", 0)))


def test_the_batch_is_drawn_anew_at_each_level_and_is_each_seeds_own(digits):
    def loss_of(batch, **where):
        return float(scored(digits, lambda s: s.loss(initial(1)), score_batch=batch, **where)[1])

    everything = training.evaluate(training.TrainState(initial(1), {}, ()), digits, NETWORK)["loss"]
    assert loss_of(EVERY) == pytest.approx(float(everything), rel=1e-5)
    draws = [loss_of(20, seed=seed, level=level) for seed in (3, 4) for level in (0, 1)]
    assert len(set(draws)) == 4
    assert loss_of(20, seed=4, level=1) == draws[-1]
    key = jax.random.fold_in(stream(4, "score", 1), 1)
    some = jax.tree.map(lambda leaf: leaf[jax.random.permutation(key, 200)[:20]], digits)
    own = training.evaluate(training.TrainState(initial(1), {}, ()), some, NETWORK)["loss"]
    assert draws[-1] == pytest.approx(float(own), rel=1e-5)


def test_a_loss_without_a_batch_is_refused(digits):
    with pytest.raises(ValueError, match="say score_batch"):
        scored(digits, scores.gradient, score_batch=0)


def saliency(scoring):
    return jax.tree.map(lambda w, g: jnp.abs(w * g), scoring.trained, scores.gradient(scoring))


def test_levels_are_pruned_by_the_gradient_times_the_weight(digits):
    plan = make_plan(saliency)
    runs = axis.stack([levels.begin(seed, initial(seed), {}, plan) for seed in (3, 4)])
    first, second, last = sweep.run_levels(runs, digits, plan)
    sizes = {layer: [int(n) for n in plan.sizes.keep[layer]["kernel"]] for layer in ("hidden_0", "output")}
    for level, done in ((1, first), (2, second)):
        for layer, counts in sizes.items():
            kept = np.asarray(done.runs.ticket.mask[layer]["kernel"])
            assert kept.sum((1, 2)).tolist() == [counts[level]] * 2
    jax.tree.map(np.testing.assert_array_equal, last.runs.ticket.mask, second.runs.ticket.mask)
    trained = jax.tree.map(lambda leaf: leaf[1, 0], first.trained.params)
    gradient = oracle(float64(trained), digits)
    for layer in sizes:
        kept = np.asarray(first.runs.ticket.mask[layer]["kernel"])[1]
        product = np.abs(np.float64(trained[layer]["kernel"]) * gradient[layer]["kernel"])
        assert product[~kept].max() <= product[kept].min() + 1e-7
