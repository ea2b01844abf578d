"""The command's flags that work together: controls, curves and kept weights at once, densities, schedules."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from safetensors.numpy import load_file
from sweeps import TINY, TRUNK, make_place

import lth_jax
from lth_jax import commands, training
from lth_jax.analysis import ticket_files as files
from lth_jax.commands import build, settings, sweep
from lth_jax.data import datasets as data
from lth_jax.runs import checkpoints
from lth_jax.types import Split

EVERYTHING = ["--model", "somebodys_net:Convolutional", "--levels", "3", "--seeds", "7,42", *TINY]
EVERYTHING += ["--epochs", "2", "--optimizer", "sgd", "--learning-rate", "0.1", "--rate", "0.2,0.5"]
EVERYTHING += ["--scope", "global", "--layer-rates", "Conv_0=0", "--controls", "reinit,shuffle,random_mask"]
EVERYTHING += ["--rewind", "1", "--eval-every", "2", "--validation", "20", "--keep-weights", "0,2"]
CONTROLS = ["reinit", "shuffle", "random_mask"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits and somebody's module."""
    return make_place(tmp_path_factory.mktemp("command"))


@pytest.fixture(scope="module")
def everything(place):
    """The folder of a sweep with controls, curves and weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("LTH_DATA_DIR", raising=False)
        commands.main(["sweep", *EVERYTHING, "--out", "everything"])
    return place / "everything"


def test_a_sweep_with_controls_is_find_tickets_with_controls(place, everything):
    parsed = commands.build_parser().parse_args(["sweep", *EVERYTHING])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        module = build.make_module(sweep.configure(parsed)[0], 10)
    held = data.split_validation(data.load("mnist", place / "DIGITS"), 20)
    test = lth_jax.splits(data.load("mnist", place / "DIGITS"))[1]
    train, validation = (
        Split(jnp.asarray(x), jnp.asarray(y, jnp.int32))
        for x, y in (
            (held.train_images, held.train_labels),
            (held.validation_images, held.validation_labels),
        )
    )
    expected = lth_jax.find_tickets(
        module, optax.sgd(0.1), train, test, (7, 42), 3, epochs=2, batch_size=20, rate=(0.2, 0.5),
        scope="global", layers={"Conv_0": 0.0}, controls=CONTROLS, rewind=1, eval_every=2,
        validation=validation, keep_weights=[0, 2],
    )  # fmt: skip
    found = xr.load_dataset(everything / "results.nc")
    assert found["test_accuracy"].dims == ("network", "seed", "level")
    assert found["network"].values.tolist() == ["ticket", *CONTROLS]
    assert found["iteration"].values.tolist() == [3, 4]
    assert {"early_stop_iteration", "early_stop_test_accuracy", "validation_loss_curve"} <= set(found)
    assert set(expected.results) == set(found)
    for name, values in expected.results.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, name)
    # 36 weights of the convolution are spared; of 4·14·14·10 = 7840 others a fifth goes, then a half.
    ticket = found["kept_weights"].sel(network="ticket", layer="Conv_0/kernel")
    assert (ticket == 36).all()
    np.testing.assert_array_equal(
        found["kept_weights"].sum("layer").sel(network="reinit"), [[36 + n for n in (7840, 6272, 3136)]] * 2
    )
    config = sweep.configure(parsed)[0]
    model = build.make_model(config, (28, 28, 1), 10)
    for level in (0, 1, 2):
        params, mask = files.read(everything / "tickets.npz", 42, level, sweep.drawer(model))
        weights, kept = map(files.flat, expected.ticket(42, level))
        for name in params:
            np.testing.assert_array_equal(mask[name], kept[name])
            np.testing.assert_allclose(params[name], weights[name], atol=1e-6)


@pytest.mark.parametrize("network", ["ticket", "reinit"])
def test_kept_weights_evaluate_again_to_what_was_recorded(place, everything, call, network):
    call("export", "everything", "--seed", "42", "--level", "2", "--trained", "--network", network)
    path = everything / "tickets" / f"seed-42-level-2-{network}-trained.safetensors"
    params, mask, card = lth_jax.load_ticket(path)
    tensors = load_file(path)
    statistics = {name.partition("/")[2]: v for name, v in tensors.items() if name[:12] == "collections/"}
    config = sweep.configure(commands.build_parser().parse_args(["sweep", *EVERYTHING]))[0]
    model = build.make_model(config, (28, 28, 1), 10)
    state = training.TrainState(params, files.nested(statistics), ())
    test = lth_jax.splits(data.load("mnist", place / "DIGITS"))[1]
    again = training.evaluate(jax.tree.map(jnp.asarray, state), test, model.network)
    at = xr.load_dataset(everything / "results.nc").sel(network=network, seed=42, level=2)
    assert again["loss"] == pytest.approx(float(at["test_loss"]), rel=1e-4)
    assert again["accuracy"] == pytest.approx(float(at["test_accuracy"]))
    assert card["network"] == network
    assert card["test_accuracy"] == pytest.approx(float(again["accuracy"]))
    assert int(mask["Dense_0"]["kernel"].sum()) == 3136


@pytest.mark.parametrize("network", ["ticket", "reinit"])
def test_a_kept_weight_that_is_exactly_zero_after_training_stays_kept(network, everything, call, tmp_path):
    folder = shutil.copytree(everything, tmp_path / "run")
    stored = dict(np.load(folder / "tickets.npz"))
    name = "weights/params/Dense_0/kernel"
    stored[name] = np.zeros_like(stored[name])
    np.savez(folder / "tickets.npz", **stored)
    wanted = ("--seed", "42", "--level", "2", "--trained", "--network", network)
    call("export", str(folder), *wanted, "--out", str(tmp_path / "a.safetensors"))
    _, mask, _ = lth_jax.load_ticket(tmp_path / "a.safetensors")
    assert int(mask["Dense_0"]["kernel"].sum()) == 3136


def test_a_killed_sweep_with_controls_goes_on_to_the_same_files(everything, call, monkeypatch, tmp_path):
    class Stopped(Exception):
        pass

    def save(*arguments):
        original(*arguments)
        if arguments[1] == 2:
            raise Stopped

    original, folder = checkpoints.save, tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", save)
        with pytest.raises(Stopped):
            call("sweep", *EVERYTHING, "--out", str(folder))
    assert "resumed after level 2/3" in call("sweep", *EVERYTHING, "--out", str(folder))
    ours, theirs = (xr.load_dataset(place / "results.nc").drop_attrs() for place in (folder, everything))
    xr.testing.assert_identical(ours, theirs)
    tickets, others = (np.load(place / "tickets.npz") for place in (folder, everything))
    assert tickets.keys() == others.keys()
    for name in others:
        np.testing.assert_array_equal(tickets[name], others[name], name)


@pytest.mark.parametrize(("scope", "expected"), [("layer", [314, 4]), ("global", None)])
def test_one_shot_reaches_a_density_exactly(place, call, scope, expected):
    flags = ["--levels", "2", "--one-shot", "--density", "0.05", "--keep-weights", "0", "--scope", scope]
    call("sweep", *TRUNK, *flags, "--out", f"once-{scope}")
    found = xr.load_dataset(place / f"once-{scope}" / "results.nc")["kept_weights"].sel(level=1)
    if expected:  # 0.05 of 6272 and of 80
        np.testing.assert_array_equal(found, [expected] * 2)
    np.testing.assert_array_equal(found.sum("layer"), [318] * 2)
    stored = place / f"once-{scope}" / "tickets.npz"
    trained, _ = files.read_trained(stored, 7, 0)
    model = build.make_model(settings.Config(model="mlp", hidden=(8,)), (28, 28, 1), 10)
    _, mask = files.read(stored, 7, 1, sweep.drawer(model))
    names = ["hidden_0/kernel", "output/kernel"]
    for group in [[name] for name in names] if expected else [names]:
        size = np.concatenate([np.abs(trained[name]).ravel() for name in group])
        kept = np.concatenate([mask[name].ravel() for name in group])
        assert size[kept].min() > size[~kept].max(), "the largest after the dense training"


def test_a_density_and_a_layer_that_is_spared_go_together(place, call):
    call(
        "sweep", *TRUNK, "--levels", "2", "--density", "0.05", "--layer-rates", "output=0", "--out", "spared"
    )
    found = xr.load_dataset(place / "spared" / "results.nc")["kept_weights"].sel(level=1)
    np.testing.assert_array_equal(found, [[314, 80]] * 2)


def test_only_the_schedule_is_rewound_where_it_is_asked_for(place, call):
    flags = ["--levels", "2", "--schedule", "cosine", "--epochs", "2", "--keep-weights", "0"]
    call("sweep", *TRUNK, *flags, "--rewind", "lr:2", "--out", "schedule")
    stored = place / "schedule" / "tickets.npz"
    model = build.make_model(settings.Config(model="mlp", hidden=(8,)), (28, 28, 1), 10)
    params, mask = files.read(stored, 7, 1, sweep.drawer(model))
    trained, _ = files.read_trained(stored, 7, 0)
    for name, leaf in trained.items():
        np.testing.assert_array_equal(params[name], np.where(mask[name], leaf, 0))


def test_an_initializer_serves_a_module_with_batch_norm(place, call):
    flags = ["--model", "somebodys_net:Net", "--initializer", "he_normal", "--levels", "1", "--seeds", "7"]
    call("sweep", *flags, *TINY, "--out", "he")
    assert np.isfinite(xr.load_dataset(place / "he" / "results.nc")["test_loss"]).all()
