"""E4: its groups, controls and records by hand, every part's claims and figures, and one part end to end."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import make_digits
from invented import SHAPE, best_at, synthetic

from experiments import cli
from experiments.mnist_tickets import (
    claims as mnist_tickets_claims,
)
from experiments.mnist_tickets import config as configuration
from experiments.mnist_tickets import (
    experiment as mnist_tickets,
)
from experiments.mnist_tickets import (
    figures as mnist_tickets_figures,
)
from experiments.mnist_tickets import inside, measures, parts
from lth_jax import initializers, levels
from lth_jax.data import datasets as data
from lth_jax.errors import InputError
from lth_jax.runs import results

CONFIG = configuration.Config()
SMALL = configuration.Config(
    seeds=(1, 2), iterations=6, eval_every=3, hidden=(6, 5), smallest=0.64, batch_size=20, validation=40,
    controls=("reinit", "rearrange", "shuffle", "random_mask"), control_trials=2, rewind_step=2,
)  # fmt: skip


def test_levels_reach_the_smallest_size():
    assert configuration.levels(CONFIG, 0.2) == 20  # 0.8^19 = 0.0144
    assert configuration.levels(CONFIG, 0.5) == 8  # 0.5^6 = 0.0156, 0.5^7 = 0.0078
    assert configuration.levels(CONFIG, 0.7) == 5  # 0.3^3 = 0.027, 0.3^4 = 0.0081


def test_the_output_layer_loses_half_as_much():
    group, once = configuration.groups(CONFIG)
    _, shapes = parts.shapes_of(group, SHAPE, 10)
    counts = parts.sizes_of(group, CONFIG, shapes).keep
    np.testing.assert_array_equal(counts["hidden_0"]["kernel"][:3], [235_200, 188_160, 150_528])
    np.testing.assert_array_equal(counts["output"]["kernel"][:3], [1000, 900, 810])
    np.testing.assert_array_equal(counts["hidden_0"]["bias"], [300] * 20)
    at_once = parts.sizes_of(once, CONFIG, shapes).keep
    np.testing.assert_array_equal(at_once["hidden_0"]["kernel"][:3], [235_200, 188_160, 150_528])
    # 1000 − round((1 − 0.8^19) / 2 · 1000)
    assert at_once["output"]["kernel"][19] == 507


def make_run(group, config):
    """A run with a random mask, whose θ_k is θ0 + 1; and its plan."""
    plan, shapes = parts.make_plan(group, config, parts.Splits(make_digits(), {}, 4))
    params = initializers.initialize(jax.random.key(0), shapes, initializers.get("xavier_normal"))
    late = jax.tree.map(lambda leaf: leaf + 1, params)
    run = levels.begin(7, params, {}, plan, extras={"late": late})
    rng = np.random.default_rng(0)
    mask = {
        layer: {**leaves, "kernel": jnp.asarray(rng.random(leaves["kernel"].shape) < 0.5)}
        for layer, leaves in run.ticket.mask.items()
    }
    return run._replace(ticket=run.ticket._replace(mask=mask)), plan


def test_what_each_control_keeps():
    group = configuration.groups(SMALL)[0]
    run, plan = make_run(group, SMALL)
    names = configuration.controls_of(SMALL, group)
    assert plan.networks == ["ticket", *names]
    assert names == (
        "reinit:0", "reinit:1", "rearrange:0", "rearrange:1", "shuffle:0", "shuffle:1",
        "random_mask:0", "random_mask:1", "late",
    )  # fmt: skip
    made = jax.jit(lambda run: {name: make(run) for name, make in plan.controls.items()})(run)
    for name, (params, mask, _) in made.items():
        for layer in ("hidden_0", "hidden_1", "output"):
            kept, places = (np.asarray(m[layer]["kernel"]) for m in (run.ticket.mask, mask))
            before, after = (np.asarray(p[layer]["kernel"]) for p in (run.ticket.params, params))
            assert places.sum() == kept.sum(), name
            moved = {"rearrange": layer != "output", "random_mask": True}.get(name.split(":")[0], False)
            assert np.array_equal(places, kept) != moved, name
            if name.startswith("reinit"):
                assert (after != before).all()
            elif name.startswith("random_mask"):
                np.testing.assert_array_equal(after, before)
            elif name == "late":
                np.testing.assert_array_equal(after, before + 1)
            else:
                np.testing.assert_array_equal(np.sort(after[places]), np.sort(before[kept]))
    for first, second in (("reinit:0", "reinit:1"), ("rearrange:0", "rearrange:1")):
        kernels = [np.asarray(made[name].params["hidden_0"]["kernel"]) for name in (first, second)]
        assert (kernels[0] != kernels[1]).any(), "trials are different draws"


def test_what_survives_is_counted_by_hand():
    run, _ = make_run(configuration.groups(SMALL)[0], SMALL)
    weights = jnp.zeros((5, 4)).at[0, 0].set(-9.0).at[1, 1].set(9.0).at[2, 2].set(0.7)
    mask = jnp.zeros((5, 4), bool).at[:3, 0].set(True).at[1, 1].set(True).at[2, 2].set(True)
    run.ticket.params["output"]["kernel"], run.ticket.mask["output"]["kernel"] = weights, mask
    found = parts.inspect(run, initializers.get("normal:0.5"))
    counts = np.asarray(found["survivors_output"])
    # 0.7 is 1.4 standard deviations: bin ⌊(1.4 + 4) · 81 / 8⌋ = 54; 0 is in the middle one, 40.
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {0: 1, 40: 2, 54: 1, 80: 1}
    np.testing.assert_array_equal(found["incoming_output"], [3, 1, 1, 0])
    np.testing.assert_array_equal(found["outgoing_output"], [2, 2, 1, 0, 0])


def test_inspect_is_iterative_by_another_name():
    inspect, iterative = (dataclasses.replace(CONFIG, part=part) for part in ("inspect", "iterative"))
    assert configuration.groups(inspect) == configuration.groups(iterative)


@pytest.mark.parametrize("part", [part for part in configuration.PARTS if part != "inspect"])
def test_every_part_has_a_table_claims_and_figures(part, tmp_path):
    config = dataclasses.replace(CONFIG, part=part, iterations=2000, sizes=("12-8", "30-20"), hidden=(30, 20))
    measured = synthetic(config, best_at)
    title, header, rows = mnist_tickets.make_table(measured)
    assert "trials" in title
    assert len(header) == len(rows[0]) == 1 + len(measures.families(measured))
    verdicts = mnist_tickets_claims.verdicts(measured)
    names = {v.claim.identifier for v in verdicts}
    expected = {
        "controls": {
            "ticket-sooner-21",
            "ticket-better-than-reinit-21",
            "ticket-ends-better-21",
            "ticket-ends-better-than-reinit-21",
            "one-shot-better",
            "v1-units-survive",
        },
        "one_shot": {"v1-one-shot-sooner-than-reinit-35", "v1-controls-alike", "v1-one-shot-reinit-slower"},
        "iterative": {"ticket-as-dense-3.6", "v1-tails-survive"},
        "init_std": {"v1-wide-slower", "v1-narrow-better"},
        "sizes": {"v1-size-stop-iterative", "v1-iterative-smaller-accuracy"},
        "rates": {"v1-fast-slower", "v1-fast-worse"},
        "reset": {"v1-reset-sooner", "v1-reset-better"},
    }[part]
    assert expected <= names
    assert all(v.n == 5 for v in verdicts)
    drawn = {path.stem for path in mnist_tickets_figures.draw_figures(measured, tmp_path)}
    figures = {
        "controls": {"against_size", "curves", "control_curves", "trials", "survivors", "connections"},
        "init_std": {"wide", "narrow"},
        "sizes": {"sizes_one_shot", "sizes_iterative"},
        "rates": {"against_size"},
    }
    assert figures.get(part, {"against_size"}) <= drawn


def test_trials_that_agree_are_drawn(tmp_path):
    measured = synthetic(dataclasses.replace(CONFIG, iterations=2000, hidden=(30, 20)), best_at)
    level = measured["level"].astype("float32")
    equal = (0.97 + level / 1000).broadcast_like(measured["test_accuracy"])
    measured["test_accuracy"] = equal.transpose(*measured["test_accuracy"].dims).astype("float32")
    one = measures.members(measured["test_accuracy"], "reinit").stack(network=("arm", "seed")) * 100
    assert (one.mean("network") < one.min("network")).any()  # by rounding
    assert len(mnist_tickets_figures.draw_figures(measured, tmp_path)) > 5


def test_claims_see_what_was_planted():
    config = dataclasses.replace(CONFIG, iterations=2000, hidden=(30, 20))
    measured = synthetic(config, best_at)
    verdicts = {v.claim.identifier: v for v in mnist_tickets_claims.verdicts(measured)}
    planted = verdicts["ticket-sooner-21"]
    # Every trial stops at half the time: no spread, no test.
    assert (planted.verdict, planted.note) == ("inconclusive", "all differences equal: no test")
    assert planted.estimate == pytest.approx(np.log(2))
    noisy = measures.read(measured)
    noisy.values["stop"][:] += np.random.default_rng(0).normal(0, 0.01, noisy.values["stop"].shape)
    with mock.patch.object(measures, "read", return_value=noisy):
        judged = {v.claim.identifier: v for v in mnist_tickets_claims.verdicts(measured)}
    assert judged["ticket-sooner-21"].verdict == judged["ticket-sooner-21:own"].verdict == "supported"
    assert judged["v1-controls-slow-alike"].verdict == "supported"
    assert verdicts["ticket-better-13.5"].estimate == pytest.approx(0.1, abs=1e-6)  # points
    # At the end the least loss lies 0.75 of the time behind tickets, 0.5 behind dense networks and controls.
    for name in ("ticket-ends-better-21", "ticket-ends-better-than-reinit-21"):
        assert verdicts[name].estimate == pytest.approx(-10 * (0.75**2 - 0.5**2 - 0.01), abs=1e-6)  # points
    assert verdicts["one-shot-sooner"].verdict == "inconclusive"


def test_the_dense_reference_is_all_dense_networks_of_a_trial():
    """Seven a trial: the ticket's own, which one-shot pruning shares, and three of each control's."""
    config = dataclasses.replace(CONFIG, iterations=2000, hidden=(30, 20))
    reading = measures.read(synthetic(config, best_at))
    arms = [name for name in reading.measured["arm"].values.tolist() if name != "one_shot"]
    values = reading.values["stop"]
    values[:] = np.arange(values.size).reshape(values.shape)
    expected = values.sel(arm=arms).isel(level=0).mean("arm").values
    np.testing.assert_allclose(measures.at(reading, "stop", measures.DENSE, 1.0), expected)


def test_times_that_are_lower_bounds_are_said_to_be():
    def late(arm, seed, kept, iterations):  # dense networks are best at the last evaluation
        return -iterations / iterations[-1] + seed if kept == 1 else best_at(arm, seed, kept, iterations)

    config = dataclasses.replace(CONFIG, iterations=2000, hidden=(30, 20), part="iterative")
    measured = synthetic(config, late)
    verdicts = {v.claim.identifier: v for v in mnist_tickets_claims.verdicts(measured)}
    assert "lower bounds: 100% of a's times, 0% of b's" in verdicts["ticket-sooner-21:own"].note
    assert "lower bounds" not in verdicts["ticket-better-13.5"].note
    assert "5 of 100 networks were best at the very last" in mnist_tickets.notes(measured)


def test_accuracies_at_the_end_stand_in_the_notes():
    def curve(arm, seed, kept, iterations):
        return (
            (iterations / iterations[-1] - 0.5) ** 2 + 0.01 * (arm == "reinit:0") - 0.01 * (arm == "reinit:1")
        )

    notes = mnist_tickets.notes(
        synthetic(dataclasses.replace(CONFIG, iterations=2000, hidden=(30, 20)), curve)
    )
    assert "after 2,000 iterations" in notes
    ends = [line.split(" | ") for line in notes.splitlines() if line.startswith("| 0 |")]
    assert ends[0][1] == "100.0%: 97.50 ± 0.00"  # 1 - 0.25 / 10
    assert ends[0][2] == "100.0%: 97.50 ± 0.08"  # three controls, 0.1 points apart, of five trials
    assert "stop 0%, 0%, 0%, 0%, 0% sooner" in notes


def test_the_best_size_is_read_from_the_levels_that_stopped():
    def slow(arm, seed, kept, iterations):  # the large network stops from 50 % down, the small one never does
        early = arm.startswith("30-20") and kept < 0.5
        return (iterations / iterations[-1] - (0.5 + 0.3 * (kept < 0.3) if early else 1.0)) ** 2

    config = dataclasses.replace(CONFIG, iterations=2000, part="sizes", sizes=("12-8", "30-20"))
    reading = measures.read(synthetic(config, slow))
    large = mnist_tickets_claims.best_size(reading, "stop", "30-20 iterative")
    weights = reading.measured["kept_weights"].sel(arm="30-20 iterative", seed=42, level=4).item()
    np.testing.assert_allclose(large, np.log(weights))  # 41 % is the first below one half
    assert np.isnan(mnist_tickets_claims.best_size(reading, "stop", "12-8 iterative")).all()


def test_records_keep_their_places():
    config = dataclasses.replace(SMALL, part="controls", controls=("reinit",), rewind_step=0)
    group = configuration.groups(config)[0]
    level, line, network = np.meshgrid(range(3), range(2), range(3), indexing="ij")
    code = 100.0 * level + 10 * line + network
    found = parts.labelled(group, config, {"kept": code, "loss": code[..., None] + [0.0, 0.5]}, {})
    assert found["kept"].sel(arm="iterative", seed=2, level=1).item() == 110
    assert found["kept"].sel(arm="reinit:1", seed=1, level=2).item() == 202
    assert found["loss"].sel(arm="reinit:0", seed=2, level=0, iteration=6).item() == 11.5


def test_levels_that_a_group_has_not_are_missing():
    config = dataclasses.replace(CONFIG, part="rates", rates=(0.2, 0.7), iterations=2000, hidden=(30, 20))
    measured = synthetic(config, best_at)
    stop = measures.stop_iteration(measured)
    assert int(stop.sel(arm="rate 0.7", seed=42).notnull().sum()) == 5
    assert int(stop.sel(arm="rate 0.2", seed=42).notnull().sum()) == 20


def test_measures_by_hand():
    loss = np.array([[[[3.0, 1.0, 2.0], [np.nan, 4.0, 5.0], [np.nan] * 3]]])
    measured = xr.Dataset(
        {
            "validation_loss": (("arm", "seed", "level", "iteration"), loss),
            "test_accuracy": (("arm", "seed", "level", "iteration"), 1 - loss / 10),
            "kept": (("arm", "seed", "level"), [[[1.0, 0.5, 0.25]]]),
        },
        coords={"arm": ["a:0"], "seed": [1], "iteration": [10, 20, 30]},
    )
    np.testing.assert_array_equal(measures.stop_iteration(measured)[0, 0], [20, 20, np.nan])
    np.testing.assert_allclose(measures.at_stop(measured, "test_accuracy")[0, 0], [0.9, 0.6, np.nan])
    np.testing.assert_allclose(measures.at_end(measured, "test_accuracy")[0, 0], [0.8, 0.5, np.nan])
    assert measures.families(measured) == ["a"]
    assert measures.level_at(measured, "a", 0.52) == 1
    assert measures.level_at(measured, "a", 0.4) is None
    assert measures.levels_between(measured, "a", 0.2, 0.6) == [1, 2]
    reading = measures.read(measured.isel(level=[0, 1]))
    # Half way between 1 and 0.5 in logarithms: accuracy half way between 90 and 60.
    np.testing.assert_allclose(measures.interpolated(reading, "accuracy", "a", np.array([0.5**0.5])), [[75]])


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"part": "b"}, "--part"),
        ({"controls": ("reinit", "hope")}, "--controls"),
        ({"eval_every": 300}, "--eval-every"),
        ({"smallest": 0.0}, "--smallest"),
        ({"sizes": ("300-0",)}, "--sizes"),
        ({"sizes": ("300,100",)}, "--sizes"),
        ({"rates": (0.2, 1.0)}, "--rates 1.0: expected"),
        ({"rate": 0.0005}, "--rate 0.0005: expected"),
        ({"stds": ()}, "--stds"),
        ({"initialization": "normal:-1"}, "--initialization"),
        ({"initialization": "xavier"}, "--initialization"),
        ({"rewind_step": 50_000}, "--rewind-step"),
        ({"control_trials": 0}, "--control-trials"),
    ],
)
def test_impossible_configurations_name_their_flag(wrong, flag):
    with pytest.raises(InputError, match=flag):
        configuration.Config(**wrong)


def tiny_data(*_):
    digits = jax.tree.map(np.asarray, make_digits())
    return data.from_arrays("tiny", *digits, digits.images[:40], digits.labels[:40])


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"validation": 200}, "--validation"),
        ({"batch_size": 161}, "--batch-size"),
        ({"smallest": 1e-9}, "--smal"),
    ],
)
def test_configurations_that_the_data_cannot_serve_are_refused(wrong, flag):
    with pytest.raises(InputError, match=flag):
        mnist_tickets.check(dataclasses.replace(SMALL, **wrong), tiny_data())


def test_from_command_to_report_and_not_trained_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lth_jax.data.load", tiny_data)
    out = tmp_path / "run"
    flags = dataclasses.asdict(SMALL) | {"part": "one_shot", "controls": ("reinit",), "smallest": 0.8}
    arguments = ["--out", str(out)]
    for name, value in flags.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        arguments += ["--" + name.replace("_", "-"), text]
    cli.main(cli.find("mnist_tickets"), arguments)
    measured = results.load(out / results.RESULTS)
    assert measured["arm"].values.tolist() == ["one_shot", "reinit:0", "reinit:1", "late"]
    assert dict(measured["validation_loss"].sizes) == {"arm": 4, "seed": 2, "level": 2, "iteration": 2}
    assert bool(np.isfinite(measured["test_accuracy"]).all())
    assert (measured["incoming_hidden_0"].isel(level=0) == 16).all()
    # 4×4 pixels: 96 − 19, 30 − 6 and 20 − 2 of 146 weights; a control has as many as its ticket.
    np.testing.assert_allclose(measured["kept"].isel(level=1), (77 + 24 + 18) / 146, rtol=1e-6)
    assert "level 2/2" in capsys.readouterr().out
    (out / results.RESULTS).unlink()
    cli.main(cli.find("mnist_tickets"), arguments)
    assert "resumed after level 2/2" in capsys.readouterr().out
    again = results.load(out / results.RESULTS)
    np.testing.assert_array_equal(again["validation_loss"], measured["validation_loss"])
    assert "lower bounds" in (out / results.REPORT).read_text()


def test_what_is_inside_of_tickets_is_read_by_hand():
    """Of 81 bins of 8/81 standard deviations: two bumps at ±1, or one at 0."""
    middles = (np.arange(81) - 40) * 8 / 81
    far, near = (np.rint(1000 * np.exp(-((np.abs(middles) - at) ** 2) / 0.1)) for at in (1.0, 0.0))
    counts = xr.DataArray(np.stack([far, near]), {"bin": middles}, ("seed", "bin"))
    side, middle = inside.density(counts, 0.75, 1.25), inside.density(counts, 0.0, 0.25)
    assert side[0] > 10 * middle[0]
    assert side[1] < middle[1] / 10
    share = inside.share_near(counts)
    assert float(share[1]) == pytest.approx(near[np.abs(middles) < 0.5].sum() / near.sum())
    assert inside.density(counts * 0, 0.0, 0.25).tolist() == [0.5, 0.5]  # no weight: half of one
