"""The library's edges: what does not fit together is a ``ValueError`` that names it, before compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import checks, initializers, levels, models, training
from lth_jax.data import datasets as data
from lth_jax.errors import InputError
from lth_jax.keys import stream
from lth_jax.runs import axis, sweep
from lth_jax.tickets import masks, pruning
from lth_jax.types import Split

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
RECIPE = training.Recipe(NETWORK, optax.adam(0.01), 20, 10, 10)
PLAN = levels.Plan(RECIPE, pruning.rates(SHAPES, 0.2), masks.prunable(SHAPES))


def runs(seeds=(1, 2)):
    scheme = initializers.get("xavier_normal")
    return axis.stack(
        [levels.begin(s, initializers.initialize(stream(s, "init"), SHAPES, scheme), {}, PLAN) for s in seeds]
    )


def with_leaf(tree, layer, kind, change):
    """A tree with one leaf changed, or gone where ``change`` gives nothing."""
    changed = change(tree[layer][kind])
    rest = {name: leaf for name, leaf in tree[layer].items() if name != kind}
    return tree | {layer: rest if changed is None else rest | {kind: changed}}


def of_mask(layer, kind, change):
    return lambda r: r._replace(mask=with_leaf(r.mask, layer, kind, change))


def of_moments(change):
    """A run whose first Adam moments are changed."""

    def changed(r):
        adam, *rest = r.opt_state
        return r._replace(opt_state=(adam._replace(mu=change(adam.mu)), *rest))

    return changed


RUNS = {
    "a mask without a layer": (lambda r: r._replace(mask={"output": r.mask["output"]}), "mask's tree is"),
    "a mask without a bias": (of_mask("output", "bias", lambda m: None), "mask's tree is"),
    "a mask of lists": (lambda r: r._replace(mask=[r.mask]), "mask's tree is"),
    "a mask of no runs": (
        of_mask("output", "kernel", lambda m: m[0]),
        "mask of output/kernel has shape (8, 4)",
    ),
    "a transposed mask": (of_mask("output", "kernel", lambda m: m.mT), "output/kernel has shape (2, 4, 8)"),
    "a mask of one run": (
        of_mask("hidden_0", "bias", lambda m: m[:1]),
        "mask of hidden_0/bias has shape (1, 8)",
    ),
    "a mask of floats": (of_mask("output", "kernel", lambda m: m.astype("float32")), "dtype float32"),
    "a mask of integers": (of_mask("output", "kernel", lambda m: m.astype("uint8")), "dtype uint8"),
    "a rewind without a layer": (
        lambda r: r._replace(rewind_to={"output": r.rewind_to["output"]}),
        "rewind_to: hidden_0/bias is absent, expected float32[2,8]",
    ),
    "a rewind in float16": (
        lambda r: r._replace(
            rewind_to=with_leaf(r.rewind_to, "output", "bias", lambda b: b.astype("float16"))
        ),
        "rewind_to: output/bias is float16[2,4], expected float32[2,4]",
    ),
    "an optimizer of one run": (
        of_moments(lambda mu: with_leaf(mu, "output", "kernel", lambda leaf: leaf[:1])),
        "opt_state: 0/mu/output/kernel is float32[1,8,4], expected float32[2,8,4]",
    ),
    "an optimizer of a wider layer": (
        of_moments(lambda mu: with_leaf(mu, "hidden_0", "kernel", lambda leaf: jnp.ones((2, 16, 9)))),
        "opt_state: 0/mu/hidden_0/kernel is float32[2,16,9]",
    ),
    "an optimizer in float16": (
        of_moments(lambda mu: jax.tree.map(lambda leaf: leaf.astype("float16"), mu)),
        "opt_state: 0/mu/hidden_0/bias is float16[2,8]",
    ),
    "another optimizer": (
        lambda r: r._replace(opt_state=optax.sgd(0.1, momentum=0.9).init(r.params)),
        "opt_state: 0/count is absent",
    ),
    "no optimizer": (lambda r: r._replace(opt_state=()), "opt_state: 0/count is absent, expected int32[2]"),
    "a seed for all": (lambda r: r._replace(seed=r.seed[0]), "seed is int32[]"),
    "seeds that are no integers": (lambda r: r._replace(seed=r.seed * 1.0), "seed is float32[2]"),
    "two levels": (lambda r: r._replace(level=jnp.arange(2)), "different levels, [0, 1]"),
}


def of_images(change):
    return lambda split: Split(change(split.images), split.labels)


def of_labels(change):
    return lambda split: Split(split.images, change(split.labels))


SPLITS = {
    "float images": (of_images(lambda x: x / 255), "images are float32[200,4,4,1], expected uint8"),
    "signed images": (of_images(lambda x: x.astype("int32")), "images are int32[200,4,4,1], expected uint8"),
    "images of NaN": (of_images(lambda x: x * jnp.nan), "images are float32[200,4,4,1], expected uint8"),
    "flat images": (of_images(lambda x: x.reshape(200, 16)), "images are uint8[200,16]"),
    "no images": (of_images(lambda x: x[:0]), "images are uint8[0,4,4,1]"),
    "images of another size": (of_images(lambda x: x[:, :3]), "uint8[200,3,4,1]: the network refuses them"),
    "fewer images": (of_images(lambda x: x[:199]), "199 images, but 200 labels"),
    "fewer labels": (of_labels(lambda y: y[:100]), "200 images, but 100 labels"),
    "float labels": (of_labels(lambda y: y * 1.0), "labels are float32[200]"),
    "one-hot labels": (of_labels(lambda y: jax.nn.one_hot(y, 4)), "labels are float32[200,4]"),
    "a label too high": (
        of_labels(lambda y: y.at[7].set(4)),
        "labels are 0 … 4, the network has logits for 0 … 3",
    ),
    "a label below 0": (of_labels(lambda y: y.at[7].set(-1)), "labels are -1 … 3"),
}


@pytest.fixture
def refused(monkeypatch, tally):
    """Call it with what ``levels.play`` is given: its error, once it is sure that nothing was compiled."""

    def call(runs, train, test, plan=PLAN):
        with monkeypatch.context() as patched:
            patched.setattr(axis, "map_runs", None)  # the way to the compiler
            with pytest.raises(ValueError) as raised:  # noqa: PT011 (the caller looks at its text)
                next(levels.play(runs, train, {"test": test}, plan, 2))
        tally("malformed inputs refused")
        return " ".join(str(raised.value).split())

    return call


@pytest.mark.parametrize(("change", "named"), RUNS.values(), ids=RUNS)
def test_runs_that_do_not_fit_are_named(refused, digits, change, named):
    assert named in refused(change(runs()), digits, digits)


@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize(("change", "named"), SPLITS.values(), ids=SPLITS)
def test_examples_that_do_not_fit_are_named(refused, digits, change, named, part):
    given = (change(digits), digits) if part == "training" else (digits, change(digits))
    message = refused(runs(), *given)
    assert message.startswith(part)
    assert named in message


def test_plans_that_do_not_fit_are_named(refused, digits):
    def plan(**changes):
        given = {"recipe": RECIPE, "rates": PLAN.rates, "prunable": PLAN.prunable} | changes
        return levels.Plan(**given)

    short = {"output": PLAN.rates["output"]}
    assert "the plan's rates" in refused(runs(), digits, digits, plan(rates=short))
    short = {"output": PLAN.prunable["output"]}
    assert "the plan's prunable" in refused(runs(), digits, digits, plan(prunable=short))
    assert "unknown scope 'network'" in refused(runs(), digits, digits, plan(scope="network"))


def test_a_mask_that_revives_pruned_weights_is_refused(digits, monkeypatch):
    earlier = with_leaf(runs().mask, "output", "kernel", lambda m: m.at[0, :3, 1].set(False))
    masks.check_nested(earlier, runs().mask)
    with pytest.raises(ValueError, match="mask of output/kernel revives 3 pruned weights"):
        masks.check_nested(runs().mask, earlier)
    # A scope of the user's own that forgets the mask it is given.
    monkeypatch.setitem(pruning.SCOPES, "forgetful", lambda mask, score, rate: masks.ones_like(mask))
    plan = levels.Plan(RECIPE, PLAN.rates, PLAN.prunable, scope="forgetful")
    with pytest.raises(ValueError, match="mask of output/kernel revives 3 pruned weights"):
        list(levels.play(runs()._replace(mask=earlier), digits, {}, plan, 1))


def test_a_layer_that_would_lose_its_last_weight_is_named_before_training():
    rates = pruning.rates(SHAPES, 0.9)
    pruning.check_levels(SHAPES, rates, 2)  # 32 - round(28.8) = 3, and the 3 that go next are trained before
    with pytest.raises(
        ValueError, match="output/kernel would have none of its 32 weights left at level 2 of"
    ):
        pruning.check_levels(SHAPES, rates, 3)
    pruning.check_levels(SHAPES, pruning.rates(SHAPES, 0.5), 1000)  # round(0.5) is 0: the last one stays


def test_check_levels_counts_as_the_pruning_does():
    for rate in (0.1, 0.3, 0.75, 0.9, 0.999):
        survivors, level = 32, 0
        while survivors and level < 50:
            survivors -= int(pruning.removal_count(jnp.asarray(survivors), rate))
            level += 1
        rates = pruning.rates(SHAPES, 1e-4, {"output": rate})
        pruning.check_levels(SHAPES, rates, level)
        if survivors == 0:
            with pytest.raises(ValueError, match=f"at level {level} of {level + 1}"):
                pruning.check_levels(SHAPES, rates, level + 1)


IMAGES, ANSWERS = np.zeros((4, 5, 6, 1), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pixel_that_is_none_is_refused(value, dtype):
    broken = IMAGES.astype(dtype)
    broken[1, 2, 3, 0] = value
    with pytest.raises(ValueError, match="train_images: expected finite floats"):
        data.from_arrays("mine", broken, ANSWERS, IMAGES, ANSWERS)


def test_a_folder_with_another_sweeps_seeds_is_refused(digits, tmp_path):
    def go(seeds):
        return sweep.sweep(tmp_path, runs(seeds), digits, {"test": digits}, PLAN, 2, levels.measurements)

    _, record, _ = go((1, 2))
    _, again, _ = go((1, 2))
    np.testing.assert_array_equal(record["test_loss"], again["test_loss"])
    with pytest.raises(InputError, match=r"has a sweep of seeds \[1, 2\], not \[8, 9\]"):
        go((8, 9))


@pytest.mark.parametrize("rate", [1e-4, 0.9999])
def test_the_finest_rates_prune(rate):
    assert pruning.rates(SHAPES, rate)["output"]["kernel"] == rate
    assert 0 < int(pruning.removal_count(jnp.asarray(100_000), rate)) < 100_000


@pytest.mark.parametrize("rate", [0.0, 9e-5, 0.99995, 1.0])
def test_rates_finer_than_pruning_are_refused(rate):
    with pytest.raises(ValueError, match=r"is outside 0\.0001 … 0\.9999"):
        pruning.rates(SHAPES, rate)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (jnp.zeros((1, 9)), r"the network gives float32\[1,9\], expected logits \[1, 10 or more\]"),
        (jnp.zeros((10,)), r"the network gives float32\[10\]"),
        (jnp.zeros((1, 4, 10)), r"the network gives float32\[1,4,10\]"),
        ((jnp.zeros((1, 10)),), r"the network gives a tuple, expected logits"),
        ({"logits": jnp.zeros((1, 10))}, r"the network gives a dict, expected logits"),
    ],
)
def test_what_is_no_logits_is_refused(answer, said):
    checks.check_logits(jnp.zeros((1, 10)), 1, 10)
    with pytest.raises(ValueError, match=said):
        checks.check_logits(answer, 1, 10)
