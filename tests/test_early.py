"""Scores at initialization against float64 oracles: gradients by hand, differences, sums over paths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits

from lth_jax import initializers, levels, models, scoring, training
from lth_jax.keys import stream
from lth_jax.tasks import regression
from lth_jax.tickets import early, masks, pruning, schedules, scores

NETWORK = models.from_flax(models.MLP((8,), classes=4, activation=jnp.tanh))
RELU = models.from_flax(models.MLP((8, 6), classes=4))
DIGITS = make_digits()
EVERY = len(DIGITS.labels)
LAYERS = ("hidden_0", "output")


def initial(network=NETWORK, seed=3):
    shapes = models.parameter_shapes(network, (4, 4, 1))
    return initializers.initialize(stream(seed, "init"), shapes, initializers.get("xavier_normal"))


def told(network=NETWORK, seed=3, examples=EVERY, mask=None, params=None, data=DIGITS, **options):
    """What a score is told of a network before it is trained."""
    params = initial(network, seed) if params is None else params
    mask = masks.ones_like(params) if mask is None else mask
    params = masks.apply(mask, params)
    recipe = training.Recipe(network, optax.sgd(0.1), 20, 20, **options)
    key, of = stream(seed, "score", 0), masks.prunable(params)
    return scoring.describe(key, params, params, mask, {}, recipe, of, data, examples, balanced=True)


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def oracle(weights, temperature=1.0, chosen=slice(None)):
    """The gradient of the mean cross-entropy of tempered logits."""
    x = np.asarray(DIGITS.images, np.float64).reshape(EVERY, -1)[chosen] / 255
    first, last = weights["hidden_0"], weights["output"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"])
    logits = (hidden @ last["kernel"] + last["bias"]) / temperature
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    error = (chances - np.eye(4)[np.asarray(DIGITS.labels)[chosen]]) / len(x) / temperature
    back = (error @ last["kernel"].T) * (1 - hidden**2)
    return {
        "hidden_0": {"kernel": x.T @ back, "bias": back.sum(0)},
        "output": {"kernel": hidden.T @ error, "bias": error.sum(0)},
    }


def assert_close(found, expected, relative=1e-4):
    """Every kernel within a part of its largest entry."""
    for layer in LAYERS:
        most = np.abs(expected[layer]["kernel"]).max()
        assert most > 0
        np.testing.assert_allclose(found[layer]["kernel"], expected[layer]["kernel"], atol=relative * most)


def some_mask(params, seed=0):
    rng = np.random.default_rng(seed)
    whole = masks.ones_like(params)
    for layer in whole:
        whole[layer]["kernel"] = jnp.asarray(rng.random(params[layer]["kernel"].shape) < 0.6)
    return whole


def test_snip_is_the_gradient_times_the_weight():
    weights = float64(initial())
    gradient = oracle(weights)
    expected = {
        layer: {"kernel": np.abs(weights[layer]["kernel"] * gradient[layer]["kernel"])} for layer in LAYERS
    }
    assert_close(early.snip(told()), expected)
    squared = {layer: {"kernel": expected[layer]["kernel"] ** 2} for layer in LAYERS}
    assert_close(early.taylor(told()), squared)


def test_snip_is_the_slope_of_the_loss_in_the_mask():
    """Lee et al. 2019: the derivative by c of the loss at c ⊙ θ, where c is 1."""
    scoring = told(mask=some_mask(initial()))

    def loss(c):
        return scoring.loss(jax.tree.map(jnp.multiply, c, scoring.trained))

    slope = jax.grad(loss)(jax.tree.map(jnp.ones_like, scoring.trained))
    expected = masks.apply(scoring.mask, jax.tree.map(jnp.abs, slope))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), early.snip(scoring), expected)


def kernels_only(tree):
    return {name: {"kernel": layer["kernel"], "bias": 0 * layer["bias"]} for name, layer in tree.items()}


def moved(weights, direction, step):
    return jax.tree.map(lambda w, v: w + step * v, weights, direction)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [200.0, 1.0])
def test_grasp_is_the_weight_times_a_finite_difference_of_the_gradient(temperature, masked):
    mask = some_mask(initial()) if masked else masks.ones_like(initial())
    weights = float64(masks.apply(mask, initial()))
    kept = jax.tree.map(lambda m: np.asarray(m, np.float64), mask)

    def gradient(at):
        return jax.tree.map(np.multiply, kernels_only(oracle(at, temperature)), kept)

    flow = gradient(weights)
    step = 1e-4 / max(np.abs(leaf).max() for leaf in jax.tree.leaves(flow))
    ahead, behind = (gradient(moved(weights, flow, e)) for e in (step, -step))
    expected = jax.tree.map(lambda w, a, b: w * (a - b) / (2 * step), weights, ahead, behind)
    assert_close(early.grasp(told(mask=mask), temperature=temperature), expected, 1e-3)


def test_without_its_lowest_scored_weight_the_gradients_norm_grows_and_without_its_highest_it_shrinks():
    """The sign: the first to go are those whose loss makes the gradient's flow larger (Wang et al. 2020)."""
    weights = float64(initial())
    found = early.grasp(told(), temperature=1.0)

    def norm(at):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(kernels_only(oracle(at))))

    for layer in LAYERS:
        score = np.asarray(found[layer]["kernel"])
        for place, sign in ((np.argmin(score), 1), (np.argmax(score), -1)):
            at = np.unravel_index(place, score.shape)
            less = jax.tree.map(np.copy, weights)
            less[layer]["kernel"][at] *= 1 - 1e-3
            change = (norm(less) - norm(weights)) / 1e-3
            assert np.sign(change) == sign
            assert change == pytest.approx(-2 * score[at], rel=1e-2)


def test_fisher_squares_each_examples_gradient():
    weights, total = float64(initial()), None
    for example in range(EVERY):
        own = jax.tree.map(np.square, oracle(weights, chosen=slice(example, example + 1)))
        total = own if total is None else jax.tree.map(np.add, total, own)
    expected = jax.tree.map(lambda w, t: w**2 * t / EVERY, weights, total)
    assert_close(early.fisher(told()), expected)


def flow_of(kernels):
    """1ᵀ ∏|θ| 1, and what each weight carries of it: the paths in front of it times those behind."""
    sizes = [np.abs(kernel) for kernel in kernels]
    before, behind = [np.ones(len(sizes[0]))], [np.ones(sizes[-1].shape[1])]
    for size in sizes:
        before.append(before[-1] @ size)
    for size in reversed(sizes):
        behind.insert(0, size @ behind[0])
    carried = [
        np.outer(front, back) * size for size, front, back in zip(sizes, before[:-1], behind[1:], strict=True)
    ]
    return before[-1].sum(), carried


def kernels_of(params):
    return [np.asarray(params[layer]["kernel"], np.float64) for layer in ("hidden_0", "hidden_1", "output")]


def test_synflow_counts_the_flow_through_each_weight():
    params = initial(RELU)
    found, (whole, expected) = early.synflow(told(RELU, examples=0)), flow_of(kernels_of(params))
    for score, each in zip(kernels_of(found), expected, strict=True):
        np.testing.assert_allclose(score, each, rtol=1e-5)
        assert each.sum() == pytest.approx(whole)  # the oracle's own conservation


@pytest.mark.parametrize("masked", [False, True])
def test_every_layers_synflow_adds_up_to_the_whole_also_in_a_convolutional_network(masked):
    """Tanaka et al. 2020: scores are conserved from layer to layer."""
    network = models.from_flax(models.LeNet5((3, 4), (10, 8)))
    params, _ = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    data = (jnp.zeros((5, 16, 16, 1), jnp.uint8), jnp.arange(5))
    mask = some_mask(params) if masked else masks.ones_like(params)
    known = told(network, examples=0, params=params, mask=mask, data=data)
    found = early.synflow(known)
    whole = float(known.flow(jax.tree.map(jnp.abs, known.trained)))
    assert whole > 0
    for layer in params:
        assert float(jnp.sum(found[layer]["kernel"])) == pytest.approx(whole, rel=1e-4)
        assert float(jnp.min(found[layer]["kernel"])) >= 0


def test_a_hundred_exponential_steps_are_the_float64_loops():
    params = initial(RELU)
    shapes, of = models.parameter_shapes(RELU, (4, 4, 1)), masks.prunable(params)
    sizes = schedules.to_density(shapes, of, 0.2, 2, scope="global")
    counts = schedules.stepped(sizes, shapes, 100, from_dense=True)
    counts = jax.tree.map(lambda each: jnp.asarray(each[1], jnp.int32), counts)
    whole = masks.ones_like(params)
    assert sizes.keep["all layers"].tolist() == [200, 40]
    found = scoring.cut(whole, told(RELU, examples=0), early.synflow, counts, sizes)
    kernels = kernels_of(params)
    total = sum(kernel.size for kernel in kernels)
    for step in range(1, 101):
        score = np.concatenate([each.ravel() for each in flow_of(kernels)[1]])
        keep = (
            round(total * 0.2) if step == 100 else round(total * (round(total * 0.2) / total) ** (step / 100))
        )
        order = np.argsort(score, kind="stable")
        flat = np.concatenate([kernel.ravel() for kernel in kernels])
        flat[order[: total - keep]] = 0
        kernels = [
            part.reshape(kernel.shape)
            for part, kernel in zip(
                np.split(flat, np.cumsum([k.size for k in kernels])[:-1]), kernels, strict=True
            )
        ]
    for layer, kernel in zip(("hidden_0", "hidden_1", "output"), kernels, strict=True):
        np.testing.assert_array_equal(found[layer]["kernel"], kernel != 0)
        assert kernel.any()
    at_once = pruning.prune_global(whole, early.synflow(told(RELU, examples=0)), jnp.asarray(40), of)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(*map(jax.tree.leaves, (found, at_once)), strict=True)
    )


def test_synflow_takes_floats_and_a_level():
    with pytest.raises(ValueError, match="synflow looks at the network: say prune_at start"):
        early.synflow(told(RELU, data=None, examples=0))
    tokens = (jnp.zeros((3, 16), jnp.int32), jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="takes inputs that are floats"):
        early.synflow(told(RELU, data=tokens, examples=0))


def test_an_inverted_score_turns_its_order():
    score, turned = early.snip(told()), scores.inverted(early.snip)(told())
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(-a, b), score, turned)


@pytest.mark.parametrize(("examples", "each"), [(40, [10] * 4), (8, [2] * 4), (4, [1] * 4)])
def test_a_balanced_batch_has_as_many_of_each_class(examples, each):
    rare = jnp.asarray([0] * 150 + [1] * 20 + [2] * 18 + [3] * 12)
    data = (jnp.arange(200), rare)
    for seed in range(3):
        places, labels = scoring.draw(jax.random.key(seed), data, examples, balanced=True)
        np.testing.assert_array_equal(np.bincount(labels, minlength=4), each)
        np.testing.assert_array_equal(labels, rare[places])
        assert len(set(places.tolist())) == examples
    others = [set(scoring.draw(jax.random.key(s), data, 40, balanced=True)[0].tolist()) for s in (0, 1)]
    assert others[0] != others[1]


def test_a_batch_without_classes_is_drawn_as_ever():
    data = (jnp.arange(20.0), jnp.arange(20.0))
    for balanced in (False, True):
        found, _ = scoring.draw(jax.random.key(1), data, 7, balanced=balanced)
        np.testing.assert_array_equal(found, jax.random.permutation(jax.random.key(1), 20)[:7])


def test_a_task_of_numbers_has_gradients_too():
    data = (jnp.ones((6, 4, 4, 1)), jnp.ones((6, 4)))
    found = early.snip(told(RELU, data=data, examples=6, task=regression()))
    assert float(jnp.sum(found["output"]["kernel"])) > 0


def test_sizes_step_by_step():
    shapes = {"a": {"kernel": jax.ShapeDtypeStruct((10, 100), "float32")}}
    of = masks.prunable(shapes)
    sizes = schedules.iterative(shapes, of, [0.5, 0.8])  # 1000, 500, 100
    apart = schedules.stepped(sizes, shapes, 2)["a"]["kernel"].tolist()
    # √(1000·500) = 707.1 and √(500·100) = 223.6
    assert apart == [[1000, 1000], [707, 500], [224, 100]]
    dense = schedules.stepped(sizes, shapes, 2, from_dense=True)["a"]["kernel"].tolist()
    assert dense == [[1000, 1000], [707, 500], [316, 100]]  # √(1000·100) = 316.2
    assert schedules.stepped(sizes, shapes, 1)["a"]["kernel"].ravel().tolist() == [1000, 500, 100]
    assert schedules.begins_dense(sizes, shapes)
    alone = schedules.without_first(sizes)
    assert not schedules.begins_dense(alone, shapes)
    assert alone.keep["a"]["kernel"].tolist() == [500, 100]


@pytest.mark.parametrize(
    ("name", "asked", "expected"), [("snip", 0, 40), ("grasp", 7, 7), ("synflow", 0, 0), ("random", 0, 0)]
)
def test_how_large_a_batch_is(name, asked, expected):
    assert early.examples_of_batch(name, asked, 4, 200) == expected
    assert early.examples_of_batch("snip", 0, 40, 200) == 200


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="score-batch 9: larger than the 8"):
        early.examples_of_batch("snip", 9, 4, 8)
    with pytest.raises(ValueError, match="score-batch 3: random looks at no examples"):
        early.examples_of_batch("random", 3, 4, 8)


def test_a_level_takes_its_score_from_early():
    """The plan's own score at θ0 keeps the float64 oracle's weights, and exactly as many."""
    params = initial()
    shapes, of = models.parameter_shapes(NETWORK, (4, 4, 1)), masks.prunable(params)
    sizes = schedules.iterative(shapes, of, [0.5], scope="global")
    recipe = training.Recipe(NETWORK, optax.sgd(0.1), 20, 20)
    plan = levels.Plan(recipe, sizes, of, early.snip, EVERY, "start")
    run = levels.begin(3, params, {}, plan)
    far = training.TrainState(jax.tree.map(lambda leaf: leaf + 7, params), {}, {})
    mask = levels.advance(run, far, plan, DIGITS).ticket.mask
    gradient, weights = oracle(float64(params)), float64(params)
    score = {layer: np.abs(weights[layer]["kernel"] * gradient[layer]["kernel"]) for layer in LAYERS}
    kept = np.concatenate([np.asarray(mask[layer]["kernel"]).ravel() for layer in LAYERS])
    flat = np.concatenate([score[layer].ravel() for layer in LAYERS])
    assert kept.sum() == kept.size // 2
    assert flat[~kept].max() <= flat[kept].min() + 1e-9
