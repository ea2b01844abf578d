"""Controls at some levels only, and levels of so many iterations: the rest is as if all were trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits

import lth_jax
from lth_jax import models, search
from lth_jax.analysis import records
from lth_jax.choices import Choices
from lth_jax.errors import InputError
from lth_jax.runs import branching, identity, progress
from lth_jax.runs.job import Execution, Job
from lth_jax.runs.progress import Progress

DIGITS, SEEDS = make_digits(), (3, 4)
NETWORK = models.from_linen(lth_jax.MLP((6,), classes=4))


def prepare(**choices):
    given = {"levels": 3, "epochs": 1, "batch_size": 20, "eval_every": 5, "path_points": 2}
    given |= {"controls": ("reinit", "random_mask"), **choices}
    initial = lambda key: NETWORK.init(key, jnp.zeros((1, 4, 4, 1)))  # noqa: E731
    return search.prepare(NETWORK, optax.adam(0.02), 200, initial, Choices(**given))


def labelled(found, job=None, **options):
    watched = {"validation": DIGITS, "test": DIGITS}
    swept, _ = search.run(found, job, SEEDS, DIGITS, watched, **options)
    return swept, records.labelled(found.plan, found.shapes, swept, SEEDS)


@pytest.fixture(scope="module")
def whole():
    return labelled(prepare(children=2), kept_levels=(0, 1, 2))


@pytest.fixture(scope="module")
def some():
    return labelled(prepare(children=2, control_levels=(1,)), kept_levels=(0, 1, 2))


def test_what_is_trained_does_not_depend_on_what_is_left_out(whole, some):
    everything, found = whole[1], some[1]
    assert found["network"].values.tolist() == everything["network"].values.tolist()
    tickets = ["ticket", "ticket/2"]
    for name in ("test_loss", "early_stop_iteration", "kept_weights", "validation_loss_curve"):
        for here in ({"network": tickets}, {"level": 1}):
            np.testing.assert_allclose(found[name].sel(here), everything[name].sel(here), rtol=1e-5)
    for here in ({"parent": "ticket"}, {"level": 1}):
        np.testing.assert_allclose(
            found["test_loss_path"].sel(here), everything["test_loss_path"].sel(here), rtol=1e-4
        )


def test_controls_that_were_not_trained_are_blank_and_have_not_diverged(some):
    swept, found = some
    assert not bool(found["diverged"].any())
    left_out = {"network": ["reinit", "random_mask", "reinit/2", "random_mask/2"], "level": [0, 2]}
    for name in ("test_accuracy", "kept", "kept_weights", "early_stop_iteration", "test_loss_curve"):
        assert bool(found[name].sel(left_out).isnull().all()), name
        assert bool(found[name].sel(level=1).notnull().all()), name
    path = found["test_loss_path"]
    assert bool(path.sel(parent=["reinit", "random_mask"], level=[0, 2]).isnull().all())
    assert bool(path.sel(parent="ticket").notnull().all())
    for leaf in jax.tree.leaves(swept.kept[0]):  # [kept level, run, network, ...]
        assert np.isnan(leaf[0][:, [1, 2, 4, 5]]).all()
        assert np.isfinite(leaf[1]).all()
        assert np.isfinite(leaf[:, :, [0, 3]]).all()


def test_a_level_trains_no_more_networks_than_it_has():
    plan = prepare(control_levels=(1,)).plan
    assert branching.networks(plan, 3) == [1, 3, 1]
    assert branching.networks(prepare().plan, 3) == [3, 3, 3]
    assert branching.networks(prepare(control_levels=()).plan, 3) == [1, 1, 1]


def test_it_goes_on_from_every_level(some, tmp_path):
    found = prepare(children=2, control_levels=(1,))
    _, first = labelled(found, Job(tmp_path, Execution()))
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: path.name)
    newest.rename(tmp_path / "last level")
    _, again = labelled(found, Job(tmp_path, Execution()))
    for name in ("test_loss", "test_loss_path", "kept"):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_allclose(first[name], some[1][name], rtol=1e-5)


def test_the_speed_is_of_the_levels_own_steps(tmp_path, capsys):
    told = Progress(1, 3, {}, np.array([1.0, 2.0, 0]), 0)
    with progress.reporting(Job(tmp_path, Execution()), lambda told: "kept", [10, 30, 20]) as report:
        report(told)
    assert "15 network-steps/s" in capsys.readouterr().out
    log = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    speeds = [json.loads(line)["network_steps_per_second"] for line in log.splitlines()]
    assert speeds == [10.0, 15.0]


def test_a_level_of_so_many_iterations():
    assert prepare(iterations=13).plan.recipe.steps == 13
    assert prepare().plan.recipe.steps == 10
    _, found = labelled(prepare(iterations=13, controls=(), levels=2))
    assert found["iteration"].values.tolist() == [5, 10, 13]
    assert bool(np.isfinite(found["test_loss"]).all())


@pytest.mark.parametrize("levels", [(3,), (-1,), (0, 7)])
def test_a_level_that_there_is_not_is_refused(levels):
    with pytest.raises(InputError, match=f"control_levels {levels[-1]}: expected levels from 0 to 2"):
        prepare(control_levels=levels)


def test_a_folder_is_of_one_choice_of_levels():
    digests = {
        identity.program_digest(prepare(control_levels=levels), DIGITS, {"test": DIGITS})
        for levels in (None, (1,), (1, 2))
    }
    assert len(digests) == 3
