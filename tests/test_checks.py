"""Checks before compiling: what does not fit together is a ``ValueError`` that names it."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lth_jax import initializers, levels, models, search, tasks, training
from lth_jax.data import datasets as data
from lth_jax.errors import InputError
from lth_jax.keys import stream
from lth_jax.runs import axis, checks, sweep
from lth_jax.runs.job import Execution, Job
from lth_jax.tickets import masks, pruning, schedules
from lth_jax.types import Split

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)
RECIPE = training.Recipe(NETWORK, optax.adam(0.01), 20, 10, 10)
PLAN = levels.Plan(RECIPE, schedules.iterative(SHAPES, PRUNABLE, [0.2]), PRUNABLE, optimizer="carried")


def runs(seeds=(1, 2), plan=PLAN):
    scheme = initializers.get("xavier_normal")
    params = [initializers.initialize(stream(seed, "init"), SHAPES, scheme) for seed in seeds]
    return axis.stack([levels.begin(*pair, {}, plan) for pair in zip(seeds, params, strict=True)])


def with_leaf(tree, layer, kind, change):
    """A tree with one leaf changed, or gone where ``change`` gives nothing."""
    changed = change(tree[layer][kind])
    rest = {name: leaf for name, leaf in tree[layer].items() if name != kind}
    return tree | {layer: rest if changed is None else rest | {kind: changed}}


def of_whole_mask(change):
    return lambda r: r._replace(ticket=r.ticket._replace(mask=change(r.ticket.mask)))


def of_mask(layer, kind, change):
    return of_whole_mask(lambda mask: with_leaf(mask, layer, kind, change))


def of_rewind(change):
    return lambda r: r._replace(rewind_to=r.rewind_to._replace(params=change(r.rewind_to.params)))


def of_moments(change):
    """A run whose first Adam moments are changed."""

    def changed(r):
        adam, *rest = r.opt_state
        return r._replace(opt_state=(adam._replace(mu=change(adam.mu)), *rest))

    return changed


RUNS = {
    "a mask without a layer": (of_whole_mask(lambda m: {"output": m["output"]}), "mask's tree is"),
    "a mask without a bias": (of_mask("output", "bias", lambda m: None), "mask's tree is"),
    "a mask of lists": (of_whole_mask(lambda m: [m]), "mask's tree is"),
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
        of_rewind(lambda params: {"output": params["output"]}),
        "rewind_to: hidden_0/bias is absent, expected float32[2,8]",
    ),
    "a rewind in float16": (
        of_rewind(lambda params: with_leaf(params, "output", "bias", lambda b: b.astype("float16"))),
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
        lambda r: r._replace(opt_state=optax.sgd(0.1, momentum=0.9).init(r.ticket.params)),
        "opt_state: 0/count is absent",
    ),
    "no optimizer": (lambda r: r._replace(opt_state=()), "opt_state: 0/count is absent, expected int32[2]"),
    "a seed for all": (lambda r: r._replace(seed=r.seed[0]), "seed is int32[]"),
    "seeds that are no integers": (lambda r: r._replace(seed=r.seed.astype("float32")), "seed is float32[2]"),
    "two levels": (lambda r: r._replace(level=jnp.arange(2)), "different levels, [0, 1]"),
}


def of_images(change):
    return lambda split: Split._make((change(split.images), split.labels))  # its fields are not checked


def of_labels(change):
    return lambda split: Split._make((split.images, change(split.labels)))


SPLITS = {
    "float images that nobody has scaled": (
        of_images(lambda x: x.astype("float32")),
        "images are float32[200,4,4,1] up to 239: scale them, or give uint8",
    ),
    "infinite images": (
        of_images(lambda x: x.astype("float32") / 0),
        "inputs are float32[200,4,4,1] with NaN or infinite entries",
    ),
    "images of NaN": (
        of_images(lambda x: x.astype("float32") * jnp.nan),
        "inputs are float32[200,4,4,1] with NaN or infinite entries",
    ),
    "flat images": (of_images(lambda x: x.reshape(200, 16)), "images are uint8[200,16]"),
    "no images": (of_images(lambda x: x[:0]), "0 images, but 200 labels"),
    "no examples": (lambda s: Split(s.images[:0], s.labels[:0]), "uint8[0,4,4,1], int32[0]: expected arrays"),
    "images of another size": (
        of_images(lambda x: x[:, :3]),
        "examples are uint8[200,3,4,1], int32[200]: the network refuses them",
    ),
    "fewer images": (of_images(lambda x: x[:199]), "199 images, but 200 labels"),
    "fewer labels": (of_labels(lambda y: y[:100]), "200 images, but 100 labels"),
    "float labels": (of_labels(lambda y: y.astype("float32")), "labels are float32[200]"),
    "one-hot labels": (of_labels(lambda y: jax.nn.one_hot(y, 4)), "labels are float32[200,4]"),
    "a label too high": (
        of_labels(lambda y: y.at[7].set(4)),
        "labels are 0 … 4, the network has logits for 0 … 3",
    ),
    "a label below 0": (of_labels(lambda y: y.at[7].set(-1)), "labels are -1 … 3"),
}


LOOKS = {f"jit({name})" for name in ("_reduce_min", "_reduce_max", "_reduce_all", "isfinite", "abs")}
"""All that may be compiled for an error: labels and floats are looked at where they are."""


@contextlib.contextmanager
def programs_compiled():
    """The names of what JAX compiles meanwhile, or finds in its folder of compiled programs."""
    names = []

    def listen(event, duration, fun_name="", **_):
        if "backend_compile" in event:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def refused(tally):
    """Call it with what ``run_levels`` is given: its error, once it is sure that nothing was compiled."""

    def call(runs, train, test, plan=PLAN, part="watch"):
        with programs_compiled() as compiled, pytest.raises(ValueError) as raised:  # noqa: PT011 (its text)
            next(sweep.run_levels(runs, train, plan, **{part: {"test": test}}))
        assert set(compiled) <= LOOKS
        tally("malformed inputs refused")
        return " ".join(str(raised.value).split())

    return call


def test_what_fits_is_compiled_and_seen(digits):
    for program in range(2):
        with programs_compiled() as compiled:
            next(sweep.run_levels(runs(), digits, PLAN, watch={"test": digits}))
        assert any("sharded" in name for name in compiled), program  # which is what map_runs compiles


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


def test_examples_for_the_end_of_a_level_are_looked_at_too(refused, digits):
    wrong = of_labels(lambda y: y.at[7].set(4))(digits)
    assert "test labels are 0 … 4" in refused(runs(), digits, wrong, part="final")


def test_runs_bring_an_optimizers_state_where_the_plan_carries_one_and_only_there(refused, digits):
    fresh = dataclasses.replace(PLAN, optimizer="fresh")
    message = refused(runs(), digits, digits, fresh)
    assert "opt_state: 0/count is int32[2], expected nothing" in message
    later = dataclasses.replace(fresh, first=5)
    assert "opt_state: 0/count is absent" in refused(runs(plan=fresh), digits, digits, later)
    for plan in (PLAN, fresh, later):
        checks.check_runs(runs(plan=plan), plan)


def test_plans_that_do_not_fit_are_named(refused, digits):
    def message(**changes):
        return refused(runs(), digits, digits, dataclasses.replace(PLAN, **changes))

    def sizes(**changes):
        return {"sizes": PLAN.sizes._replace(**changes)}

    assert "the plan's prunable" in message(prunable={"output": PRUNABLE["output"]})
    assert "the plan's sizes.keep" in message(**sizes(keep={"output": PLAN.sizes.keep["output"]}))
    assert "the plan's sizes.ranked" in message(**sizes(ranked={"output": PRUNABLE["output"]}))
    assert "unknown scope 'network'" in message(**sizes(scope="network"))


def of_task(**changes):
    task = tasks.classification()._replace(check=lambda *_: None, **changes)
    return dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, task=task))


def test_a_task_of_ones_own_is_held_to_what_it_promises(refused, digits):
    mean = of_task(loss=lambda logits, batch: jnp.mean(logits))
    assert "loss gives float32[] for 1 example" in refused(runs(), digits, digits, mean)

    def check(name, data, outputs):
        if outputs is not None:
            raise ValueError(f"{name} gives {tasks.described(outputs)}")

    asked = dataclasses.replace(
        PLAN, recipe=dataclasses.replace(RECIPE, task=tasks.classification()._replace(check=check))
    )
    assert refused(runs(), digits, digits, asked) == "training gives float32[1,4]"


def test_examples_are_any_tree_of_arrays_of_one_length(refused, digits):
    task = tasks.Task(
        inputs=lambda key, batch: tasks.to_float(batch["x"]),
        loss=lambda logits, batch: jnp.sum((logits - batch["y"]) ** 2, -1),
        metrics={},
    )
    plan = dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, task=task))
    tree = {"x": digits.images, "y": jax.nn.one_hot(digits.labels, 4)}
    checks.check_all(runs(), tree, {"test": tree}, plan)
    for changed in ({"y": tree["y"][:100]}, {"y": jnp.zeros(())}, {"x": tree["x"][:0], "y": tree["y"][:0]}):
        assert "expected arrays of one length, the examples'" in refused(runs(), tree | changed, tree, plan)
    assert "training: nothing: expected arrays" in refused(runs(), {}, tree, plan)


def test_trees_are_compared_leaf_by_leaf():
    tree = {"a": jnp.zeros(2), "b": {"c": jnp.zeros((3, 1), jnp.int32)}}
    checks.check_like("mine", tree, jax.eval_shape(lambda: tree))
    cases = {
        "mine: b/c is absent, expected int32[3,1]": {"a": tree["a"], "b": {}},
        "mine: a is int32[2], expected float32[2]": tree | {"a": jnp.zeros(2, jnp.int32)},
        "mine: d is float32[], expected nothing": tree | {"d": jnp.zeros(())},
    }
    for message, other in cases.items():
        with pytest.raises(ValueError) as raised:  # noqa: PT011 (the next line looks at its text)
            checks.check_like("mine", other, tree)
        assert str(raised.value) == message
    with pytest.raises(
        ValueError, match=r"mine is a PyTreeDef\(\(\*, \*\)\), expected PyTreeDef\(\[\*, \*\]\)"
    ):
        checks.check_like("mine", (tree["a"], tree["a"]), [tree["a"], tree["a"]])


def test_a_mask_that_revives_pruned_weights_is_refused(digits, monkeypatch):
    whole = runs().ticket.mask
    earlier = with_leaf(whole, "output", "kernel", lambda m: m.at[0, :3, 1].set(False))
    checks.check_nested(earlier, whole)
    with pytest.raises(ValueError, match="mask of output/kernel revives 3 pruned weights"):
        checks.check_nested(whole, earlier)
    # A scope of the user's own that forgets the mask it is given.
    forgetful = lambda mask, score, keep, ranked: masks.ones_like(mask)  # noqa: E731
    monkeypatch.setitem(pruning.SCOPES, "forgetful", forgetful)
    plan = dataclasses.replace(PLAN, sizes=PLAN.sizes._replace(scope="forgetful"))
    with pytest.raises(ValueError, match="mask of output/kernel revives 3 pruned weights"):
        next(sweep.run_levels(of_whole_mask(lambda _: earlier)(runs()), digits, plan))


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([], "at least one"),
        ([1, 1], "none twice"),
        ([1, np.int64(1)], "none twice"),
        ([2**31], "below 2³¹"),
        ([-(2**31) - 1], "below 2³¹"),
        ([1.0], "seeds \\[1.0\\]: "),
        (["1"], "seeds \\['1'\\]: "),
        ([None], "seeds"),
    ],
)
def test_seeds_that_name_no_run_are_refused(seeds, said, tally):
    with pytest.raises(ValueError, match=said):
        search.seed_numbers(seeds)
    tally("malformed inputs refused")


def test_seeds_are_whole_numbers_of_any_kind():
    found = search.seed_numbers([3, np.int32(4), np.uint8(5), True, -(2**31), 2**31 - 1])
    assert found == [3, 4, 5, 1, -(2**31), 2**31 - 1]
    assert all(type(number) is int for number in found)
    assert search.seed_numbers(range(2)) == [0, 1]


IMAGES, ANSWERS = np.zeros((4, 5, 6, 1), np.float32), np.array([0, 1, 2, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pixel_that_is_none_is_refused(value, dtype):
    broken = IMAGES.astype(dtype)
    broken[1, 2, 3, 0] = value
    with pytest.raises(ValueError, match="train_images: expected finite floats"):
        data.from_arrays("mine", broken, ANSWERS, IMAGES, ANSWERS)


def test_a_folder_with_another_sweeps_seeds_is_refused(digits, tmp_path, capsys):
    def go(seeds):
        job, shapes = Job(tmp_path, Execution()), jax.eval_shape(lambda: jax.tree.map(lambda a: a[0], runs()))
        options = {"describe": lambda progress: "", "watch": {"test": digits}}
        return sweep.sweep(job, seeds, shapes, runs, digits, PLAN, **options).networks

    first, again = go((1, 2)), go((1, 2))
    np.testing.assert_array_equal(first["test_loss"], again["test_loss"])
    with pytest.raises(InputError, match=r"has a sweep of seeds \[1, 2\], not \[8, 9\]"):
        go((8, 9))
    assert capsys.readouterr().err == ""


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
    tasks.check_logits(jnp.zeros((1, 10)), 1, 10)
    with pytest.raises(ValueError, match=said):
        tasks.check_logits(answer, 1, 10)
