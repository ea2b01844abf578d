"""E9: end to end on tiny colour images, its sizes by hand, its optimizers, its claims on made-up results."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command_line import experiment_refuses
from invented import convolutional

from experiments import cli
from experiments.conv_tickets import claims, config, experiment, measures, report
from lth_jax import models
from lth_jax.errors import InputError
from lth_jax.runs import results
from lth_jax.tickets import masks, schedules

TINY = ["--preset", "paper", "--seeds", "3,4", "--batch-size", "10", "--levels", "3", "--control-levels", "2"]
TINY += ["--iterations", "6", "--eval-every", "2", "--validation", "10", "--control-trials", "1"]
TINY += ["--sparse-kernels", "off"]
CONV = ["--width", "4", "--hidden", "8,8", "--rate", "0.3"]
FAMILIES = ("ticket", "reinit", "random_mask")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 40 training and 20 test images of 32×32×3 in four classes, and one of grey images."""
    folder, rng = tmp_path_factory.mktemp("conv_tickets"), np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 4
    images = rng.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8)
    for label in range(4):
        images[labels == label, 8 * label : 8 * label + 8] += 180
    both = {"train_labels": labels[:40], "test_labels": labels[40:]}
    np.savez(folder / "colour.npz", train_images=images[:40], test_images=images[40:], **both)
    grey = images[..., :1]
    np.savez(folder / "grey.npz", train_images=grey[:40], test_images=grey[40:], **both)
    return folder


@pytest.fixture(scope="module")
def finished(place):
    line = [*TINY, *CONV, "--dataset", f"npz:{place / 'colour.npz'}", "--out", str(place / "run")]
    cli.main(cli.find("conv_tickets"), line)
    return place / "run"


def test_tickets_have_the_sizes_of_their_layers_rates(finished):
    """By hand: 10 % of convolutions, 30 % of dense layers, 15 % of the output layer, rounded each time."""
    found = results.load(finished / "results.nc")
    counts = found["kept_weights"].sel(network="ticket", recipe="standard")
    by_layer = {
        str(name).split("/")[0]: counts.sel(layer=name).isel(seed=0).values.tolist()
        for name in found["layer"].values
    }
    assert by_layer == {
        "conv_0": [108, 97, 87],  # 3·3·3·4
        "conv_1": [144, 130, 117],  # 3·3·4·4
        "hidden_0": [8192, 5734, 4014],  # 16·16·4·8: halved once
        "hidden_1": [64, 45, 31],
        "output": [32, 27, 23],
    }
    assert (counts.std("seed") == 0).all()


def test_controls_stand_beside_tickets_at_their_levels_alone(finished):
    found = results.load(finished / "results.nc")
    assert found["network"].values.tolist() == list(FAMILIES)
    assert not bool(found["diverged"].any())
    there = found["test_accuracy"].notnull().all(["recipe", "seed"])
    assert there.sel(network="ticket").values.tolist() == [True, True, True]
    for control in FAMILIES[1:]:
        assert there.sel(network=control).values.tolist() == [False, False, True]
        same = found["kept_weights"].isel(level=2)
        np.testing.assert_array_equal(same.sel(network=control), same.sel(network="ticket"))


def test_the_early_stop_is_where_validation_is_best(finished):
    found = results.load(finished / "results.nc").sel(recipe="standard", network="ticket")
    assert found["iteration"].values.tolist() == [2, 4, 6]
    best = found["validation_loss_curve"].argmin("iteration")
    np.testing.assert_array_equal(found["early_stop_iteration"], 2 * (best + 1))
    there = found["test_accuracy_curve"].isel(iteration=best)
    np.testing.assert_array_equal(found["early_stop_test_accuracy"], there)


def test_it_leaves_figures_claims_and_a_table(finished):
    assert {path.name for path in (finished / "figures").iterdir()} == {"against_size.png", "curves.png"}
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "## Tickets above dense networks" in text
    assert "| 100.00% |" in text
    assert "colour.npz, 6 of 20,000 iterations" in text, "a verdict says what sets its run apart"


def test_what_is_finished_is_not_trained_again(finished, place, capsys):
    before = results.load(finished / "results.nc")
    (finished / "results.nc").unlink()
    line = [*TINY, *CONV, "--dataset", f"npz:{place / 'colour.npz'}", "--out", str(finished)]
    cli.main(cli.find("conv_tickets"), line)
    assert capsys.readouterr().out.count("(from before)") == 1
    np.testing.assert_array_equal(results.load(finished / "results.nc")["test_loss"], before["test_loss"])


@pytest.mark.long
def test_a_deep_network_is_pruned_over_all_layers_and_rewound(place):
    line = [*TINY, "--part", "resnet20", "--width", "2", "--recipes", "rewinding", "--rewind", "2"]
    line += ["--levels", "2", "--control-levels", "0,1", "--validation", "0"]
    line += ["--dataset", f"npz:{place / 'colour.npz'}", "--out", str(place / "deep")]
    cli.main(cli.find("conv_tickets"), line)
    found = results.load(place / "deep" / "results.nc").sel(recipe="rewinding")
    assert found["iteration"].values.tolist() == [4, 6], "every level goes on from iteration 2"
    assert "early_stop_iteration" not in found
    assert found["network"].values.tolist() == list(FAMILIES)
    assert bool(found["test_loss"].notnull().all())
    kept, whole = found["kept_weights"].sum("layer"), int(found["weights"].sum())
    assert (kept.sel(level=0) == whole).all()
    assert (kept.sel(level=1) == whole - round(0.2 * whole)).all(), "exactly"
    share = found["kept_weights"].sel(network="ticket", level=1) / found["weights"]
    assert float(share.std("layer").min()) > 0.01, "of all layers together, not of each"
    names = {path.name for path in (place / "deep" / "figures").iterdir()}
    assert names == {"recipes.png", "curves.png"}
    text = (place / "deep" / "report.md").read_text(encoding="utf-8")
    assert "ResNet-20: on average tickets are" in text


def settings_of(*flags):
    return cli.parse(cli.find("conv_tickets"), list(flags))[0]


def rate_at(recipe, count):
    """The learning rate of an iteration, from the first update of a bias, and what a kernel's has more."""
    optimizer = experiment.optimizer_of(settings_of("--part", "resnet20", "--preset", "paper"), recipe)
    params = {"conv": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}}
    state = optax.tree_utils.tree_set(optimizer.init(params), count=jnp.asarray(count))
    gradient = {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    with jax.numpy_dtype_promotion("standard"):  # as a training step has it
        updates, _ = optimizer.update(gradient, state, params)
    kernel, bias = (-float(updates["conv"][name].ravel()[0]) for name in ("kernel", "bias"))
    return bias, kernel / bias - 1


@pytest.mark.parametrize(
    ("recipe", "count", "rate"),
    [
        ("standard", 0, 0.1), ("standard", 31_199, 0.1), ("standard", 31_200, 0.01),
        ("standard", 46_800, 0.001), ("rewinding", 0, 0.1), ("low", 0, 0.01), ("low", 31_200, 0.001),
        ("warmup", 10_000, 0.015), ("warmup", 20_000, 0.03), ("warmup", 46_800, 3e-4),
    ],
)  # fmt: skip
def test_the_schedules_of_deep_networks(recipe, count, rate):
    """Divided by 10 after 80 and 120 of 160 epochs of 390 iterations; kernels alone decay, by 1e-4 · 2."""
    found, decay = rate_at(recipe, count)
    assert found == pytest.approx(rate, rel=1e-5)
    assert decay == pytest.approx(2e-4, rel=1e-2)


def plan_sizes(part, preset):
    """Fractions kept at every level of a preset, its networks as wide as they are there."""
    settings = settings_of("--part", part, "--preset", preset)
    network = models.from_linen(experiment.module_of(settings, 10))
    shapes = models.parameter_shapes(network, experiment.IMAGE)
    prunable, pruning = masks.prunable(shapes), experiment.pruning_of(settings)
    rates = [pruning["rate"]] * (settings.levels - 1)
    sizes = schedules.iterative(shapes, prunable, rates, pruning["layers"], pruning.get("scope", "layer"))
    return settings, schedules.kept_fractions(sizes, shapes, prunable)


@pytest.mark.parametrize("part", config.PARTS)
def test_presets_lead_to_the_sizes_that_claims_are_about(part):
    wanted = claims.DEEP_SIZES if part in config.DEEP else claims.SIZES
    settings, kept = plan_sizes(part, "reduced")
    places = [measures.level_at(kept, size) for size in wanted.values()]
    assert places == list(settings.control_levels), "and controls are trained there"
    _, kept = plan_sizes(part, "paper")
    assert None not in [measures.level_at(kept, size) for size in wanted.values()]
    if part not in config.DEEP:
        own = claims.PUBLISHED[part]
        for size in (own.soonest, own.best):
            level = measures.level_at(kept, size)
            assert kept[level] == pytest.approx(size, rel=0.03), "the published size is a level of the paper"
        assert kept[-1] < claims.SMALLEST


def test_the_papers_scale_is_that_of_the_protocol():
    table = {part: settings_of("--part", part, "--preset", "paper") for part in config.PARTS}
    told = {
        part: (s.iterations, s.learning_rate, s.rate, s.conv_rate, s.batch_size, len(s.seeds))
        for part, s in table.items()
        if part not in config.DEEP
    }
    assert told == {
        "conv2": (20_000, 2e-4, 0.2, 0.1, 60, 5),
        "conv4": (25_000, 3e-4, 0.2, 0.1, 60, 5),
        "conv6": (30_000, 3e-4, 0.2, 0.15, 60, 5),
    }
    for part in config.DEEP:
        assert table[part].iterations == 160 * (50_000 // 128)
        assert table[part].recipes == config.RECIPES
    small = settings_of("--preset", "reduced")
    assert (small.levels, small.iterations, len(small.seeds), small.dataset) == (8, 5_000, 3, "cifar10")
    assert experiment.pruning_of(table["vgg16"])["layers"] == {"output": 0}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--control-levels", "3"], "--control-levels 3: levels are 0 to 2"),
        (["--validation", "40"], "--validation 40: there are 40 examples"),
        (["--validation", "35"], "--batch-size 10: larger than the 5 training examples"),
        (["--recipes", "low"], "--recipes low: of resnet20 and vgg16; conv2 has standard"),
        (["--controls", "reinit,shuffle"], "--controls shuffle: unknown"),
        (["--rate", "0.9", "--levels", "9"], "--levels: "),
        (["--part", "conv3"], "--part conv3: unknown"),
        (["--part", "resnet20", "--recipes", "warmup"], "--warmup 20000: a training has 6 iterations"),
        (["--part", "vgg16", "--recipes", "rewinding", "--rewind", "6"], "--rewind 6: a training has 6"),
    ],
)
def test_what_cannot_be_is_refused(place, flags, line, capsys):
    arguments = [*TINY, *CONV, "--dataset", f"npz:{place / 'colour.npz'}", *flags]
    assert line in experiment_refuses("conv_tickets", arguments, place / "none", capsys)


def test_images_that_are_no_colour_images_of_that_size_are_refused(place, capsys):
    arguments = [*TINY, *CONV, "--dataset", f"npz:{place / 'grey.npz'}"]
    line = experiment_refuses("conv_tickets", arguments, place / "none", capsys)
    assert line.endswith("images of 32×32×1, expected 32×32×3, or mnist-5k")


def small(ticket=None, stops=None, reinit=80.0):
    """Conv-2's results as the paper has them, but for the tickets' accuracies and early stops."""
    tickets = [80, 81, 82, 83, 83, 83.3, 83.4, 81] if ticket is None else ticket
    when = [10_000, 8_000, 6_000, 5_000, 4_000, 2_900, 2_900, 2_900] if stops is None else stops
    blank = [np.nan]
    accuracies = {("standard", "ticket"): tickets}
    accuracies |= {("standard", name): blank + [reinit] * 7 for name in ("reinit", "reinit:1", "random_mask")}
    all_stops = dict.fromkeys(accuracies, [np.nan] + [12_000] * 7) | {("standard", "ticket"): when}
    return convolutional("conv2", accuracies, all_stops)


def verdicts_of(measured):
    return {verdict.claim.identifier: verdict.verdict for verdict in claims.verdicts(measured)}


def test_the_papers_results_support_every_claim():
    judged = verdicts_of(small())
    assert set(judged) == {row.claim.identifier for row in claims.rows_of("conv2")}
    assert set(judged.values()) == {"supported"}


def test_other_results_contradict_them():
    later = [5_000, 8_000, 8_000, 8_000, 8_000, 18_000, 18_000, 18_000]
    judged = verdicts_of(small([80, 81, 79, 79, 79, 79, 79, 70], later, reinit=82))
    contradicted = {name for name, verdict in judged.items() if verdict == "contradicted"}
    expected = {"conv2-soonest", "conv2-best", "conv2-above-dense", "conv2-sooner-51", "conv2-sooner-9"}
    expected |= {"conv2-above-dense-26", "conv2-ends-above-dense-9", "conv2-sooner-than-reinit-9"}
    expected |= {"conv2-better-than-reinit-51", "conv2-ends-better-than-random-9"}
    assert expected <= contradicted
    assert judged["conv2-above-dense-51"] == "supported"
    assert judged["conv2-sooner-than-reinit-51"] == "supported"


def test_every_size_is_asked_only_where_all_were_trained():
    judged = verdicts_of(small().isel(level=slice(0, 6)))
    assert "conv2-above-dense" not in judged
    assert "conv2-above-dense-9" in judged
    assert "conv2-soonest" in judged
    assert "conv2-best" not in judged


def deep(gains, over=1.0):
    """ResNet-20's results: what tickets of each recipe have more than their dense networks, at each size."""
    kept, accuracies = (1, 0.51, 0.26, 0.17), {}
    for recipe, gain in gains.items():
        accuracies |= {(recipe, "ticket"): [91, *([91 + gain] * 3)]}
        better = 0 if recipe == "standard" else over
        beside = [np.nan, *([91 + gain - better] * 3)]
        accuracies |= {(recipe, control): beside for control in ("reinit", "random_mask")}
    return convolutional("resnet20", accuracies, kept=kept)


def test_deep_networks_find_tickets_with_their_recipes_alone():
    found = {"standard": -2.0, "low": -0.5, "warmup": 0.1, "rewinding": 0.2}
    judged = verdicts_of(deep(found))
    assert set(judged) == {row.claim.identifier for row in claims.rows_of("resnet20")}
    assert set(judged.values()) == {"supported"}
    judged = verdicts_of(deep({"standard": 1.0, "low": -2.0, "warmup": -1.0, "rewinding": 0.2}, over=-1.0))
    expected = {
        "resnet20-standard-below-dense-26": "contradicted", "resnet20-low-matches-51": "contradicted",
        "resnet20-warmup-matches-17": "contradicted", "resnet20-rewinding-matches-26": "supported",
        "resnet20-rewinding-over-random-26": "contradicted", "resnet20-low-over-reinit-51": "contradicted",
        "resnet20-rewinding-loses-less-51": "contradicted", "resnet20-standard-as-reinit-51": "supported",
    }  # fmt: skip
    assert {name: judged[name] for name in expected} == expected


def test_verdicts_say_how_a_run_differs_from_the_protocol():
    given = dataclasses.asdict(settings_of("--preset", "reduced"))
    told = claims.protocol(given, "CIFAR-10 (JPEG q75)")
    assert told == (
        "CIFAR-10 (JPEG q75), 5,000 of 20,000 iterations, 29 % of dense layers pruned at a level, not 20 %, "
        "15 % of convolutions pruned at a level, not 10 %"
    )
    for part in config.PARTS:
        usual = dataclasses.asdict(settings_of("--part", part, "--preset", "paper"))
        assert claims.protocol(usual, "CIFAR-10") == ""
    assert "lower bounds" not in "".join(verdict.note for verdict in claims.verdicts(small()))


def test_a_stop_at_the_last_evaluation_is_told_as_a_lower_bound():
    found = small()
    found["early_stop_iteration"].loc[{"network": "ticket", "level": 5}] = 20_000
    (verdict,) = [v for v in claims.verdicts(found) if v.claim.identifier == "conv2-soonest"]
    assert "lower bounds: 0% of a's times, 100% of b's" in verdict.note
    assert "3 of 87 networks were best at the very last evaluation" in report.notes(found)


def test_the_report_says_down_to_which_size_tickets_are_above_dense():
    assert "every size down to 1.90% at the early stop" in report.notes(small())
    worse = small([80, 81, 82, 79, 83, 83, 83, 83])
    assert "every size down to 26.40% at the end" in report.notes(worse)
    never = small([80, 79, 82, 79, 83, 83, 83, 83])
    assert "not above dense networks at the first size at the end" in report.notes(never)


def test_a_preset_of_another_name_is_refused():
    with pytest.raises(InputError, match="reduced"):
        settings_of("--preset", "middle")
