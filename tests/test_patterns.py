"""Patterns against NumPy, group by group; smaller networks that say what the pruned ones said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_levels import DIGITS, PRUNABLE, SHAPES, initial, kernels, play
from sweeps import TINY, make_place
from test_pruned_at_start import plan_of

import lth_jax
from lth_jax import commands, models
from lth_jax.analysis import flops, ticket_files
from lth_jax.errors import InputError
from lth_jax.tickets import masks, patterns, pruning, schedules, scores, shrinking, units


def told(params, mask=None, ranked=None):
    mask = masks.ones_like(params) if mask is None else mask
    return scores.Scoring(params, params, mask, jax.random.key(0), lambda p: jnp.float32(0), ranked=ranked)


def tree(*shape, seed=0):
    values = jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
    return {"a": {"kernel": values, "bias": jnp.zeros(shape[-1])}}


def cut(score, params, keep, mask=None):
    mask = masks.ones_like(params) if mask is None else mask
    ranked = masks.prunable(params)
    found = score(told(params, mask, ranked))
    counts = {"a": {"kernel": jnp.asarray(keep), "bias": jnp.asarray(params["a"]["bias"].size)}}
    return np.asarray(pruning.prune_layers(mask, found, counts, ranked)["a"]["kernel"])


@pytest.mark.parametrize("shape", [(16, 6), (3, 3, 8, 5)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
def test_the_n_largest_of_every_m_inputs_are_kept(shape, n, m):
    params = tree(*shape)
    size = np.abs(np.asarray(params["a"]["kernel"]))
    kept = cut(patterns.in_groups(scores.magnitude, m), params, size.size * n // m)
    for place in np.ndindex(*shape[:-2], shape[-2] // m, shape[-1]):
        *window, group, above = place
        here = (*window, slice(group * m, group * m + m), above)
        assert sorted(np.flatnonzero(kept[here])) == sorted(np.argsort(-size[here])[:n])
    mask = {"a": {"kernel": jnp.asarray(kept), "bias": jnp.ones(shape[-1], bool)}}
    assert patterns.most_in_groups(mask, m) == n


def test_groups_are_pruned_step_by_step_and_what_is_pruned_stays():
    params, score = tree(16, 6), patterns.in_groups(scores.by_weight(scores.random), 4)
    half = cut(score, params, 48)
    quarter = cut(score, params, 24, {"a": {"kernel": jnp.asarray(half), "bias": jnp.ones(6, bool)}})
    for kept, n in ((half, 2), (quarter, 1)):
        assert (kept.reshape(4, 4, 6).sum(1) == n).all()
    assert not (quarter & ~half).any()
    between = cut(score, params, 60)
    assert between.sum() == 60
    assert set(between.reshape(4, 4, 6).sum(1).ravel()) == {2, 3}


@pytest.mark.parametrize("shape", [(8, 6), (2, 2, 8, 6)])
def test_whole_blocks_of_the_largest_mean_are_kept(shape):
    params = tree(*shape)
    size = np.abs(np.asarray(params["a"]["kernel"], np.float64))
    parts = size.reshape(-1, shape[-2] // 4, 4, 3, 2)
    means = parts.mean((2, 4))
    kept = cut(patterns.in_blocks(scores.magnitude, 4, 2), params, 3 * 8)
    whole = kept.reshape(parts.shape).mean((2, 4))
    assert sorted(whole.ravel())[-3:] == [1, 1, 1]
    assert whole.sum() == 3
    assert means[whole == 1].min() > means[whole == 0].max()


@pytest.mark.parametrize("shape", [(10, 6), (3, 3, 4, 6)])
def test_whole_units_and_channels_are_kept(shape):
    params = tree(*shape)
    size = np.abs(np.asarray(params["a"]["kernel"], np.float64)).reshape(-1, 6).mean(0)
    kept = cut(patterns.in_units(scores.magnitude), params, 2 * np.prod(shape[:-1])).reshape(-1, 6)
    assert sorted(np.flatnonzero(kept.all(0))) == sorted(np.argsort(-size)[:2])
    assert kept.any(0).sum() == 2


def test_a_blocks_mean_is_of_what_is_left_of_it():
    params = {
        "a": {"kernel": jnp.asarray([[9.0, 1.0], [8.0, 1.0], [2.0, 4.0], [0.0, 4.0]]), "bias": jnp.zeros(2)}
    }
    mask = masks.ones_like(params)
    mask["a"]["kernel"] = jnp.asarray([[False, True], [True, True], [True, True], [False, True]])
    found = patterns.in_blocks(scores.magnitude, 2, 1)(told(params, mask))["a"]["kernel"]
    np.testing.assert_allclose(found, [[8, 1], [8, 1], [2, 4], [2, 4]])
    np.testing.assert_allclose(
        patterns.in_units(scores.magnitude)(told(params, mask))["a"]["kernel"][0], [5, 2.5]
    )


def test_patterns_leave_what_is_not_ranked():
    params = tree(7, 3)  # seven inputs are no groups of four
    none = {"a": {"kernel": False, "bias": False}}
    found = patterns.in_groups(scores.magnitude, 4)(told(params, ranked=none))
    np.testing.assert_array_equal(found["a"]["kernel"], jnp.abs(params["a"]["kernel"]))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            patterns.in_groups(scores.magnitude, 4),
            r"groups of 4: a kernel of shape \[7, 3\] has 7 inputs; spare",
        ),
        (patterns.in_groups(scores.magnitude, 0), "groups of 0"),
        (
            patterns.in_blocks(scores.magnitude, 7, 2),
            r"blocks of 7×2: do not tile a kernel of shape \[7, 3\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(score, message):
    with pytest.raises(InputError, match=message):
        score(told(tree(7, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("groups:4", patterns.in_groups(scores.magnitude, 4)),
        ("blocks:2x3", patterns.in_blocks(scores.magnitude, 2, 3)),
        ("units", patterns.in_units(scores.magnitude)),
        ("none", scores.magnitude),
    ],
)
def test_a_pattern_has_a_name(text, expected):
    params = tree(8, 6)
    found = patterns.named(text, scores.magnitude)(told(params))
    np.testing.assert_array_equal(found["a"]["kernel"], expected(told(params))["a"]["kernel"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2:4",
        "groups",
        "groups:",
        "groups:0",
        "groups:x",
        "groups:4x4",
        "blocks:4",
        "blocks:0x4",
        "units:2",
        "²",
    ],
)
def test_a_name_of_no_pattern_is_refused(text):
    with pytest.raises(InputError, match="expected none, units, groups:M or blocks:ROWSxCOLUMNS"):
        patterns.named(text, scores.magnitude)


def test_a_trained_ticket_of_units_says_how_small_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_place(tmp_path))
    flags = ["sweep", "--model", "mlp", "--hidden", "12,8", "--levels", "2", "--seeds", "1", *TINY]
    flags += ["--pattern", "units", "--rate", "0.5", "--layer-rates", "output=0", "--keep-weights", "all"]
    commands.main([*flags, "--out", "run"])
    taken = [
        "export",
        "run",
        "--seed",
        "1",
        "--level",
        "1",
        "--trained",
        "--measure",
        "--out",
        "one.safetensors",
    ]
    commands.main(taken)
    said = capsys.readouterr().out
    params, mask, card = lth_jax.load_ticket("one.safetensors")
    smaller = shrinking.shrink(params, mask, ("hidden_0", "hidden_1", "output"))
    small = card["shrunk"]
    assert small["units"] == dict(zip(("hidden_0", "hidden_1", "output"), smaller.widths, strict=True))
    one, two, classes = smaller.widths
    assert one < 12
    assert small["multiply_adds"] == 784 * one + one * two + two * classes
    assert small["parameters"] == small["multiply_adds"] + one + two + classes
    assert set(small["ms"]) == {"1", "1024"}
    assert f"hidden_0 {one}, hidden_1 {two}, output {classes}" in said
    images = jnp.asarray(np.random.default_rng(0).random((5, 28, 28, 1), np.float32))
    outputs = [
        models.from_linen(models.MLP(widths, 10)).apply(weights, {}, images, None)[0]
        for widths, weights in (((12, 8), params), ((one, two), smaller.params))
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def test_a_pattern_is_a_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(make_place(tmp_path))
    flags = ["sweep", "--model", "mlp", "--hidden", "8", "--levels", "2", "--seeds", "1", *TINY]
    commands.main(
        [*flags, "--pattern", "groups:4", "--density", "0.5", "--prune-at", "start", "--out", "run"]
    )
    mask = ticket_files.read_mask(tmp_path / "run" / "tickets.npz", 1, 1)
    for name in ("hidden_0/kernel", "output/kernel"):
        assert (mask[name].reshape(-1, 4, mask[name].shape[1]).sum(1) == 2).all()
    for wrong in ("2:4", "groups:3"):  # no name; 784 inputs are no groups of three
        with pytest.raises(SystemExit) as stop:
            commands.main([*flags, "--pattern", wrong, "--out", "other"])
        assert stop.value.code == 2
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("at", ["trained", "start"])
def test_a_level_of_a_pattern(at):
    """Every schedule and place serves it: one to two of every four inputs, exactly as many as asked."""
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5, 0.5])
    plan = plan_of(score=patterns.in_groups(scores.magnitude, 4), score_batch=0, sizes=sizes, prune_at=at)
    for level, n in zip(play(plan, (42,)), (4, 2, 1), strict=True):
        for mask in kernels(level.inspected).values():
            assert (mask[0].reshape(mask.shape[1] // 4, 4, -1).sum(1) == n).all()


# Smaller networks


def said(module, params, images):
    return module.apply({"params": params}, images)


def drawn(module, shape, seed=0):
    params = module.init(jax.random.key(seed), jnp.zeros((1, *shape)))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.1, "float32") if leaf.ndim == 1 else leaf,
        params,
    )


def sparse_mask(params, share, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.random(leaf.shape) < (share if leaf.ndim > 1 else 0.3)), params
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_smaller_mlp_says_the_same(share, seed):
    module, layers = models.MLP((40, 30), classes=4), models.MLP.layers(2)
    params = drawn(module, (4, 4, 1), seed)
    mask = sparse_mask(params, share, seed)
    found = shrinking.shrink(params, mask, layers)
    *hidden, classes = found.widths
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(50, 4, 4, 1)), jnp.float32)
    small = models.MLP(tuple(hidden), classes=classes)
    expected = said(module, masks.apply(mask, params), images)
    np.testing.assert_allclose(said(small, found.params, images), expected, atol=1e-6)
    assert classes == 4
    if share < 0.5:
        assert sum(hidden) < 70
        assert hidden != [40, 30]


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_a_smaller_convolutional_network_says_the_same(share):
    module = models.LeNet5((6, 8), (12, 10), classes=4)
    layers = ("conv_0", "conv_1", "hidden_0", "hidden_1", "output")
    params = drawn(module, (20, 20, 3))
    mask = sparse_mask(params, share)
    for layer, dead in (("conv_0", [1, 4]), ("conv_1", [0, 7])):  # whole channels, their biases too
        mask[layer]["kernel"] = mask[layer]["kernel"].at[..., jnp.asarray(dead)].set(False)
        mask[layer]["bias"] = mask[layer]["bias"].at[jnp.asarray(dead)].set(False)
    found = shrinking.shrink(params, mask, layers)
    first, second, *hidden, _ = found.widths
    assert first <= 4
    assert second <= 6
    assert not {1, 4} & set(found.units["conv_0"].tolist())
    small = models.LeNet5((first, second), tuple(hidden), classes=4)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(9, 20, 20, 3)), jnp.float32)
    expected = said(module, masks.apply(mask, params), images)
    np.testing.assert_allclose(said(small, found.params, images), expected, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-4 or share < 0.1  # it tells images apart

    def work(of, weights):
        return sum(flops.multiply_adds(models.from_linen(of), weights, {}, images[:1]).values())

    assert work(small, found.params) < work(module, params)


def test_units_die_of_each_other():
    """a → b → c: what only feeds a dead unit is dead, and what only a dead unit feeds."""
    ones = {name: {"kernel": np.ones((3, 3), np.float32)} for name in "abc"}
    mask = {name: {"kernel": np.ones((3, 3), bool)} for name in "abc"}
    mask["b"]["kernel"][0, 1:] = False  # unit 0 of a speaks to unit 0 of b alone
    mask["c"]["kernel"][0] = False  # which nobody reads
    mask["a"]["kernel"][:, 2] = False  # nothing enters unit 2 of a
    mask["b"]["kernel"][1, 2] = False  # so nothing enters unit 2 of b
    found = shrinking.shrink(ones, mask, "abc")
    assert {name: kept.tolist() for name, kept in found.units.items()} == {"a": [1], "b": [1], "c": [0, 1, 2]}
    assert found.params["b"]["kernel"].shape == (1, 1)


def test_a_unit_that_nothing_enters_stays_for_its_bias():
    params = drawn(models.MLP((5,), classes=3), (4, 4, 1))
    mask = masks.ones_like(params)
    alive = jnp.asarray([True, False, True, True, True])
    mask["hidden_0"]["kernel"] = mask["hidden_0"]["kernel"] & alive[None]
    assert shrinking.shrink(params, mask, ("hidden_0", "output")).widths == [5, 3]
    restricted = units.restrict(masks.ones_like(params), "hidden_0", "output", alive)
    assert shrinking.shrink(params, restricted, ("hidden_0", "output")).widths == [4, 3]


def test_a_layer_keeps_a_unit_though_all_are_dead():
    params = drawn(models.MLP((5,), classes=3), (4, 4, 1))
    mask = jax.tree.map(lambda leaf: leaf & False, masks.ones_like(params))
    found = shrinking.shrink(params, mask, ("hidden_0", "output"))
    assert found.widths == [1, 3]
    outputs = said(models.MLP((1,), classes=3), found.params, DIGITS.images.astype("float32"))
    np.testing.assert_array_equal(outputs, 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("hidden_0",), "layers hidden_0: the model has hidden_0, output"),
        (("hidden_0", "outptu"), "the model has hidden_0, output"),
        (("output", "hidden_0"), r"hidden_0 \[16, 8\] does not read output \[8, 4\]"),
        ((), "the model has"),
    ],
)
def test_layers_that_are_no_chain_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        shrinking.shrink(initial(3), masks.ones_like(initial(3)), layers)
