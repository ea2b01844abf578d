"""E6: a smaller layer is a mask of a larger one, thresholds, the grid's cells, claims, and the command."""

import functools
import json
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from experiments import cli
from experiments.supermask import (
    claims as supermask_claims,
)
from experiments.supermask import (
    grid as supermask_grid,
)
from experiments.supermask import (
    published as supermask_published,
)
from experiments.supermask import (
    recipe as supermask_recipe,
)
from experiments.supermask import (
    report as supermask_report,
)
from experiments.supermask.config import Config, is_document
from lth_jax import initializers, models, training
from lth_jax.errors import InputError
from lth_jax.keys import stream
from lth_jax.runs import results
from lth_jax.runs.job import Execution, Job
from lth_jax.tickets import masks, rewinding

TINY = Config(
    seeds=(1, 2), hidden=(12, 6), first_layers=(5,), second_layers=(3,), overtraining_steps=40, steps=20,
    eval_every=10, batch_size=20, thresholds=(0.0, 0.1), grid_hidden=(12, 8), grid_seeds=2,
    grid_criteria=("large_final", "random"), grid_levels=(2, 8), grid_trained_level=8, grid_dense_steps=20,
    grid_steps=20, learned_seeds=1, learned_steps=20, learned_batch_size=20, learned_draws=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    return supermask_recipe.make_setting(TINY, (4, 4, 1), 4)


@pytest.fixture(scope="module")
def grid():
    return supermask_grid.make_setting(TINY, (4, 4, 1), 4)


def test_a_smaller_network_is_a_mask_of_the_largest(setting, digits):
    small_network = models.from_flax(models.MLP((5, 3), classes=4))
    shapes = models.parameter_shapes(small_network, (4, 4, 1))
    scheme = initializers.get("torch_default")
    small = initializers.initialize(stream(1, "init", 2), shapes, scheme, scheme)
    large, mask = supermask_recipe.architecture(1, 1, setting)
    assert TINY.architectures()[1] == (5, 3)
    for layer, leaves in small.items():
        for kind, leaf in leaves.items():
            inside = tuple(slice(0, n) for n in leaf.shape)
            np.testing.assert_array_equal(large[layer][kind][inside], leaf)
            assert int(mask[layer][kind].sum()) == leaf.size == int(mask[layer][kind][inside].sum())
    second = np.abs(np.asarray(small["hidden_1"]["kernel"]))
    assert 0.7 / np.sqrt(5) < second.max() <= 1 / np.sqrt(5), "fan-in is the small layer's, 5, not 12"

    def run(network, params, kept):
        recipe = training.Recipe(network, optax.adam(1e-2), 20, 60, 20)
        state = training.init_state(recipe, params, {}, kept)
        watch = {"all": training.evaluation(digits, recipe)}
        return training.train(jax.random.key(0), state, kept, digits, recipe, watch)

    alone, curves = jax.jit(lambda p: run(small_network, p, masks.ones_like(small)))(small)
    inside, same = jax.jit(lambda p, m: run(setting.network, p, m))(large, mask)
    loss = curves.observed["all"]["loss"]
    np.testing.assert_allclose(same.observed["all"]["loss"], loss, rtol=1e-4)
    assert loss[-1] < 0.95 * loss[0], "it has learned something"
    embedded, _ = supermask_recipe.embed(alone.params, setting.shapes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), inside.params, embedded)


def test_relative_sizes_are_the_documents():
    config = Config()
    setting = supermask_recipe.make_setting(config, (28, 28, 1), 10)
    assert len(config.architectures()) == 10
    for index, pair in enumerate(config.architectures()):
        mask = jax.eval_shape(lambda i=index: supermask_recipe.architecture(0, i, setting))[1]
        assert jax.tree.structure(mask) == jax.tree.structure(setting.shapes)
        sizes = [width * (before + 1) for before, width in zip((784, *pair), (*pair, 10), strict=True)]
        published = supermask_published.TABLE[f"({pair[0]}, {pair[1]})"].size
        assert 100 * sum(sizes) / (200 * 785 + 30 * 201 + 10 * 31) == pytest.approx(published, abs=0.06)


def test_threshold_masks_by_hand():
    initial = {"kernel": jnp.asarray([[0.1, 0.2, -0.3]]), "bias": jnp.asarray([0.1])}
    trained = {"kernel": jnp.asarray([[-0.2, 0.05, -0.3]]), "bias": jnp.asarray([-0.2])}
    every = {"kernel": True, "bias": True}
    mask = supermask_recipe.threshold_mask(initial, trained, 0.1, every)
    np.testing.assert_array_equal(mask["kernel"], [[False, False, True]])
    np.testing.assert_array_equal(mask["bias"], [False])
    kernels = supermask_recipe.threshold_mask(initial, trained, 0.0, {"kernel": True, "bias": False})
    np.testing.assert_array_equal(kernels["kernel"], [[False, True, True]])
    np.testing.assert_array_equal(kernels["bias"], [True])


def test_best_iteration_is_the_first_finite_minimum():
    loss = np.array([[3.0, 1.0, 1.0, 2.0], [np.nan, 5.0, 4.0, -np.inf]])
    np.testing.assert_array_equal(supermask_recipe.best_iteration(loss, 100), [200, 300])


def test_every_seed_stops_at_its_own_iteration(setting, digits, tmp_path):
    starts = supermask_recipe.baseline_starts(setting, [10, 30], supermask_recipe.RETRAIN)
    found, curve = supermask_recipe.train_many(
        starts, (digits, digits), setting, 30, Job(tmp_path, Execution()), keep_weights=True
    )
    loss = curve["loss"]  # before the first step, and after 10, 20 and 30
    assert loss[0, 0] != loss[0, 1] == loss[0, 2] == loss[0, 3]
    assert len(set(loss[1].tolist())) == 4
    recipe = training.Recipe(setting.network, optax.adam(TINY.learning_rate), 20, 10, 10)
    for seed, steps, place in ((1, 10, 0), (2, 30, 1)):
        one = replace(recipe, steps=steps)
        params = supermask_recipe.initial_weights(seed, setting)
        dense = masks.ones_like(params)
        state = training.init_state(one, params, {}, dense)
        key = stream(seed, "order", 1)
        alone, _ = jax.jit(lambda k, s, m, r=one: training.train(k, s, m, digits, r))(key, state, dense)
        for path, leaf in jax.tree.leaves_with_path(alone.params):
            there = found[path[0].key][path[1].key][place]
            np.testing.assert_allclose(there, leaf, atol=1e-5)


def test_levels_keep_what_iterative_pruning_would(grid):
    keep = supermask_grid.kept_at(grid)
    kept = keep["hidden_0"]["kernel"], keep["output"]["kernel"]
    np.testing.assert_array_equal(kept[0], [round(0.64 * 192), round(0.8**8 * 192)])
    np.testing.assert_array_equal(kept[1], [round(0.81 * 32), round(0.9**8 * 32)])
    total = 16 * 12 + 12 * 8 + 8 * 4
    expected = [sum(int(keep[layer]["kernel"][i]) for layer in grid.shapes) / total for i in (0, 1)]
    np.testing.assert_allclose(supermask_grid.kept_fractions(grid), expected)


@functools.cache
def all_cells():
    """Every treatment's weights, masks and initial weights of one layer, ``[kept, pruned, ...]``."""
    grid = supermask_grid.make_setting(TINY, (4, 4, 1), 4)
    initial = supermask_grid.initial_weights(1, grid)
    score = jax.tree.map(jnp.abs, initial)
    keep = jax.tree.map(lambda leaf: leaf[1], supermask_grid.kept_at(grid))

    def one(kept, pruned):
        cell = supermask_grid.Cell(jnp.asarray(0), jnp.asarray(0), kept, pruned)
        return supermask_grid.start_cell(cell, jnp.asarray(1), initial, score, keep, grid)

    kept, pruned = jnp.arange(len(supermask_grid.KEPT)), jnp.arange(2)
    params, mask = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(kept, pruned)
    return tuple(np.asarray(tree["hidden_0"]["kernel"]) for tree in (params, mask, initial))


@pytest.mark.parametrize("pruned", [0, 1])
def test_what_kept_and_pruned_weights_become(pruned):
    for kept, name in enumerate(supermask_grid.KEPT):
        params, mask, initial = all_cells()
        params, mask = params[kept, pruned], mask[kept, pruned]
        np.testing.assert_array_equal(params[~mask], initial[~mask] if pruned else 0)
        survivors = params[mask]
        if name == "initial":
            np.testing.assert_array_equal(survivors, initial[mask])
        elif name == "reshuffled":
            np.testing.assert_array_equal(np.sort(survivors), np.sort(initial[mask]))
            assert (survivors != initial[mask]).any()
        elif name == "signed_constant":
            std = np.sqrt(2 / (16 + 12))  # Xavier
            np.testing.assert_allclose(survivors, np.sign(initial[mask]) * std, rtol=1e-6)
        else:
            assert not np.isin(survivors, initial).any()


def test_frozen_weights_stay_while_the_others_train(grid, digits):
    params = supermask_grid.initial_weights(1, grid)
    mask = jax.tree.map(lambda leaf: jnp.abs(leaf) > 0.2, params)
    fresh = supermask_grid.initial_weights(2, grid)
    start = rewinding.frozen(mask, fresh, params)
    recipe = training.Recipe(grid.network, optax.adam(1e-2), 20, 20, 20)
    state = training.TrainState(start, {}, recipe.optimizer.init(start))
    after, _ = jax.jit(lambda s: training.train(jax.random.key(0), s, mask, digits, recipe))(state)
    for layer in params:
        kept = np.asarray(mask[layer]["kernel"])
        before, now = (np.asarray(tree[layer]["kernel"]) for tree in (params, after.params))
        np.testing.assert_array_equal(now[~kept], before[~kept])
        assert (now[kept] != np.asarray(fresh[layer]["kernel"])[kept]).mean() > 0.5


def made_up(ticket_loss):
    """Results of the document's shape: published means, but for the ticket's final loss."""
    rng, seeds = np.random.default_rng(0), np.arange(10)
    names, at = list(supermask_published.TABLE), np.arange(100, 5001, 100)
    loss = np.full((len(names), len(seeds), len(at)), 1.0)
    sizes = np.zeros((len(names), len(seeds)))
    for i, (name, row) in enumerate(supermask_published.TABLE.items()):
        final = ticket_loss if name == supermask_published.TICKET else row.final_loss[0]
        loss[i, :, int(row.iteration[0]) // 100 - 1] = row.minimum_loss[0] + rng.normal(0, 1e-4, len(seeds))
        loss[i, :, -1] = final + rng.normal(0, 1e-4, len(seeds))
        sizes[i] = row.size / 100
    long = np.arange(100, 20_001, 100)
    thresholds = np.asarray(Config().thresholds)
    falling = np.linspace(0.646, 0.041, len(thresholds)) + rng.normal(0, 1e-4, (10, len(thresholds)))
    accuracy = np.tile(np.where(np.isclose(thresholds, 0.05), 0.426, 0.2), (10, 1))
    return xr.Dataset(
        {
            "initial_accuracy": ("seed", 0.101 + rng.normal(0, 1e-3, 10)),
            "trained_accuracy": ("seed", 0.977 + rng.normal(0, 1e-5, 10)),
            "overtraining_loss": (("seed", "long_iteration"), 0.1 + 1e-5 * np.tile(long, (10, 1))),
            "stop_iteration": ("seed", 4955 + 10 * np.arange(10)),
            "masked_size": (("seed", "threshold"), falling),
            "masked_accuracy": (("seed", "threshold"), accuracy + rng.normal(0, 1e-4, accuracy.shape)),
            "best_threshold": ("seed", np.full(10, thresholds[5])),
            "validation_loss": (("network", "seed", "iteration"), loss),
            "relative_size": (("network", "seed"), sizes + rng.normal(0, 1e-4, sizes.shape)),
        },
        {"seed": seeds, "network": names, "iteration": at, "long_iteration": long, "threshold": thresholds},
        {"config": json.dumps(asdict(Config()))},
    )


def test_claims_follow_the_results_both_ways():
    found = {v.claim.identifier: v.verdict for v in supermask_claims.verdicts(made_up(0.091))}
    assert found["ticket-beats-all"] == found["ticket-beats-high"] == found["supermask"] == "supported"
    assert not any(name.startswith("ticket-beats-(") for name in found)  # they are the parts of "all"
    assert found["ticket-size-of-smallest"] == "contradicted"  # 38.7 against 24.2 %
    assert found["size-at-0"] == found["minimum-around-5000"] == "supported"
    # Published spreads of 0.1 points, 15 points … leave nothing to be shown: described, not judged.
    assert not {"trained-accuracy", "best-threshold", "masked-accuracy"} & found.keys()
    described = {what: how for what, *_, how in supermask_published.descriptions(made_up(0.091))}
    assert described["best threshold"].startswith("within the published spread (2 SD)")
    assert described["ticket: final loss"].endswith("difference by Welch: p = 0.984")
    worse = {v.claim.identifier: v.verdict for v in supermask_claims.verdicts(made_up(0.15))}
    assert worse["ticket-beats-all"] == worse["ticket-beats-high"] == "contradicted"
    assert worse["table-final_loss"] == "contradicted"
    described = {what: how for what, *_, how in supermask_published.descriptions(made_up(0.15))}
    assert described["ticket: final loss"].startswith("outside the published spread (2 SD)")


def test_the_report_marks_what_lies_far_from_the_published():
    title, header, rows = supermask_report.make_table(made_up(0.15))
    assert "Table 1" in title
    assert len(rows) == 11
    assert len(header) == len(rows[0]) == 6
    assert rows[0][3] == "0.150 ± 0.000 (0.091 ± 0.007) *"
    assert rows[1][3] == "0.109 ± 0.000 (0.109 ± 0.019)"
    assert rows[1][5] == "4300 ± 0 (4360 ± 171)"
    far = supermask_report.deviations(made_up(0.15))
    assert "Lottery ticket: final loss" in far
    assert far.endswith("iteration 9.")  # two are published as whole hundreds, as they are here


def test_the_report_says_what_the_order_of_the_images_does():
    measured = made_up(0.091)
    text = supermask_report.data_order(measured)
    assert "Here epochs are shuffled; `--shuffle false`" in text
    assert "(nats) | 0.0162 | 0.0162 |" in text  # these made-up losses rise as the published ones do
    assert "| 0.000 | 0.019 |" in text  # and their seeds hardly differ
    measured["validation_loss"][..., -1] -= 0.01
    fixed = json.dumps(asdict(Config(shuffle=False)))
    text = supermask_report.data_order(measured.assign_attrs(config=fixed))
    assert "Here epochs keep the data set's order; `--shuffle true`" in text
    assert "(nats) | 0.0062 | 0.0162 |" in text


def test_the_report_lists_tickets_by_size():
    measured = made_up(0.091)
    measured["relative_size"][0] = np.linspace(0.5, 0.05, 10)
    measured["validation_loss"][0, :, 42] = np.linspace(0.07, 0.08, 10)  # the larger, the lower
    text = supermask_report.tickets(measured)
    assert "size and minimal loss: -1.00." in text
    rows = text.splitlines()[-10:]
    assert [row.split(" | ")[2] for row in rows] == [f"{size:.1f}" for size in np.linspace(5, 50, 10)]
    assert rows[0].startswith("| 9 | 0.05 | 5.0 | 42.6 | 0.091 | 0.080 |")


def test_published_numbers_need_the_documents_protocol():
    assert is_document(json.loads(json.dumps(asdict(Config()))))
    other = made_up(0.091)
    other.attrs["config"] = json.dumps(asdict(Config(steps=4900)))
    assert not supermask_published.follows_document(other)
    names = {v.claim.identifier for v in supermask_claims.verdicts(other)}
    assert "ticket-beats-all" in names
    assert "trained-accuracy" not in names
    assert "(0.109" not in supermask_report.make_table(other)[2][1][3]


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"hidden": (200,)}, "--hidden"),
        ({"first_layers": (200,)}, "--first-layers"),
        ({"second_layers": ()}, "--second-layers"),
        ({"thresholds": (0.2, 0.1)}, "--thresholds"),
        ({"thresholds": (-0.1,)}, "--thresholds"),
        ({"eval_every": 300}, "--eval-every"),
        ({"initialization": "xaviar"}, "--initialization"),
        ({"grid_criteria": ("large",)}, "--grid-criteria"),
        ({"grid_trained_level": 3}, "--grid-trained-level"),
        ({"grid_seeds": 11}, "--grid-seeds"),
        ({"learned_rate": 0.0}, "--learned-rate"),
        ({"learned_optimizer": "adamw"}, "--learned-optimizer"),
        ({"seeds": ()}, "--seeds"),
    ],
)
def test_impossible_configurations_name_their_flag(wrong, flag):
    with pytest.raises(InputError, match=flag):
        Config(**wrong)


def test_from_command_to_report_and_back(tmp_path, capsys):
    out = tmp_path / "run"
    options = {
        name: getattr(TINY, name)
        for name in Config.__dataclass_fields__
        if name not in ("dataset", "prune_biases")
    }
    arguments = ["--dataset", "mnist-5k", "--out", str(out)]
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
        arguments += [f"--{name.replace('_', '-')}", text]
    cli.main(cli.find("supermask"), arguments)
    assert "Table 1" in capsys.readouterr().out
    measured = results.load(out / results.RESULTS)
    assert measured["validation_loss"].dims == ("network", "seed", "iteration")
    assert measured["network"].values.tolist() == ["ticket", "(12, 6)", "(5, 3)"]
    assert measured["grid_untrained_accuracy"].shape == (2, 4, 2, 2, 2)
    assert measured["learned_accuracy"].shape == (2, 2, 1, 2)
    assert float(measured["relative_size"].sel(network="(12, 6)").mean()) == 1.0
    stop, curve = measured["stop_iteration"].values, measured["retraining_loss"].values
    np.testing.assert_array_equal(np.isfinite(curve).sum(1) * TINY.eval_every, stop)
    # Where nothing is pruned but frozen, an untrained network of initial weights is the dense one.
    frozen = measured["grid_untrained_accuracy"].sel(kept_weights="initial", pruned_weights="frozen")
    assert np.ptp(frozen.values, axis=(0, 2)).max() == 0
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {f"figure{n}" for n in range(1, 7)} == {name.split("_")[0] for name in figures if "figure" in name}
    assert {"criteria_grid", "criteria_untrained", "learned_masks"} <= figures
    report = (out / results.REPORT).read_text()
    assert "| Lottery ticket |" in report
    assert "Criteria grid" in report
    assert "Learned masks" in report

    steps = out / results.CHECKPOINTS
    before = {path.name: path.stat().st_mtime_ns for path in steps.iterdir()}
    (out / results.RESULTS).unlink()
    (steps / "thresholds.nc").unlink()
    cli.main(cli.find("supermask"), arguments)
    after = {path.name: path.stat().st_mtime_ns for path in steps.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {
        "thresholds.nc",
        "thresholds.nc.sha256",
    }
    again = results.load(out / results.RESULTS)
    xr.testing.assert_allclose(again, measured, rtol=1e-5)
