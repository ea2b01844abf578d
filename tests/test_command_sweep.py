"""The command's sweeps: from flags to files, tickets back from the files, and what is refused."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
import xarray as xr
from idx import TRAIN, write_idx
from safetensors.numpy import load_file

import lth_jax
from lth_jax import commands, models, training
from lth_jax.analysis import sparsity
from lth_jax.analysis import ticket_files as files
from lth_jax.commands import settings, show, sweep
from lth_jax.data import datasets as data
from lth_jax.data import formats as data_formats
from lth_jax.errors import InputError
from lth_jax.runs import sweep as runs_sweep
from lth_jax.tickets import masks
from lth_jax.types import Split

COMMITTED = Path(__file__).parents[1] / "experiments" / "results"
TINY = ["--dataset", "mnist", "--data-dir", "DIGITS", "--epochs", "1", "--batch-size", "20"]
TRUNK = ["--model", "mlp", "--hidden", "8", "--levels", "3", "--seeds", "42,7", *TINY]

NET = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Dense(4)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))

class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1)))

class Few(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(5)(images.reshape(len(images), -1))

class Pair(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images.mean(), nn.Dense(10)(images)

class Other:
    pass

def needs(argument):
    pass
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, somebody's module, and a run."""
    folder = tmp_path_factory.mktemp("command")
    write_idx(folder / "DIGITS")
    (folder / "somebodys_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LTH_DATA_DIR", raising=False)
        commands.main(["sweep", *TRUNK, "--out", "run"])
        commands.main(["export", "run", "--seed", "7", "--level", "2", "--out", "new/ticket.safetensors"])
    return folder


def tickets_of_the_library(place):
    """What the trunk's sweep should be, by ``find_tickets``."""
    train, test = lth_jax.splits(data.load("mnist", place / "DIGITS"))
    return lth_jax.find_tickets(
        models.MLP((8,)), optax.adam(1.2e-3), train, test, (42, 7), 3, epochs=1, batch_size=20
    )


# Sweeps


def test_a_sweep_is_find_tickets_and_exports_its_tickets(place, call):
    expected, found = tickets_of_the_library(place), xr.load_dataset(place / "run" / "results.nc")
    for name in ("test_accuracy", "train_loss", "kept"):
        assert found[name].dims == ("seed", "level")
        np.testing.assert_allclose(found[name], expected.results[name], rtol=1e-5)
    np.testing.assert_array_equal(found["kept_weights"].sel(level=2), [[4014, 51]] * 2)
    np.testing.assert_array_equal(found["weights"], [6272, 80])
    for seed in (42, 7):
        for level in (0, 1, 2):
            call("export", "run", "--seed", str(seed), "--level", str(level), "--out", "a.safetensors")
            params, mask, card = lth_jax.load_ticket("a.safetensors")
            weights, kept = expected.ticket(seed, level)
            jax.tree.map(np.testing.assert_array_equal, params, weights)
            jax.tree.map(np.testing.assert_array_equal, mask, kept)
            accuracy = found["test_accuracy"].sel(seed=seed, level=level)
            assert (card["seed"], card["level"], card["test_accuracy"]) == (seed, level, accuracy)


def test_a_sweep_leaves_what_its_help_says(place):
    written = {path.name for path in (place / "run").iterdir() if path.name[0] != "."}
    assert written == {
        *("config.json", "data.json", "log.jsonl", "results.nc", "results.nc.sha256", "tickets.npz"),
        *("report.md", "figures", "checkpoints"),
    }
    assert json.loads((place / "run" / "config.json").read_text())["hidden"] == [8]
    report = (place / "run" / "report.md").read_text()
    assert "| 2 | 64.00% |" in report
    assert "(figures/accuracy.png)" in report
    assert (place / "run" / "tickets.npz").stat().st_size < 10_000, (
        "weights come from the seed, masks are bits"
    )


def test_the_log_has_every_level_once_whatever_became_of_it(place, call, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(place / "run", folder)
    whole = (folder / "log.jsonl").read_text()
    measured = xr.load_dataset(folder / "results.nc")
    for line, level in zip(map(json.loads, whole.splitlines()), range(3), strict=True):
        accuracy = measured["test_accuracy"].sel(level=level).values.astype(float)
        np.testing.assert_allclose(line["values"]["test_accuracy"], accuracy)
        np.testing.assert_allclose(
            [line["accuracy_mean"], line["accuracy_std"]], [accuracy.mean(), accuracy.std(ddof=1)], atol=1e-9
        )
        assert (line["level"], line["levels"], line["runs"]) == (level, 3, ["seed 42", "seed 7"])
        assert line["network_steps_per_second"] == pytest.approx(6 / line["seconds"])
    # As a process leaves it that was killed while it wrote the last line, before there were results:
    (folder / "log.jsonl").write_text(whole[: whole.rindex('"level"')])
    (folder / "results.nc").unlink()
    tickets = np.load(folder / "tickets.npz")
    printed = call("sweep", *TRUNK, "--out", str(folder), "--log", "tensorboard")
    assert "resumed after level 3/3" in printed
    again = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    strip = lambda lines: [{k: v for k, v in line.items() if k != "time"} for line in lines]  # noqa: E731
    assert strip(again) == strip(map(json.loads, whole.splitlines()))
    for name, array in np.load(folder / "tickets.npz").items():
        np.testing.assert_array_equal(array, tickets[name])
    check_scalars(folder / "tensorboard", measured)


def check_scalars(folder, measured):
    """TensorBoard's file has a scalar for each run and level, and the mean."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    events = [Event.FromString(record) for record in data_formats._tfrecords(path)]
    scalars = {(v.tag, event.step): v.simple_value for event in events for v in event.summary.value}
    for level in range(3):
        for seed in (42, 7):
            value = measured["test_loss"].sel(seed=seed, level=level)
            assert scalars[f"test_loss/seed_{seed}", level] == pytest.approx(float(value))
        mean = measured["test_accuracy"].sel(level=level).mean()
        assert scalars["all/accuracy_mean", level] == pytest.approx(float(mean))


def test_somebodys_module_from_a_file_trained_on_without_rewinding(place, call):
    (place / "run.toml").write_text(
        'model = "somebodys_net:Net"\nseeds = "1-2"\nlevels = 5\nrate = 0.5\nlayer_rates = {Dense_1 = 0.25}\n'
        'dataset = "mnist"\ndata-dir = "DIGITS"\nepochs = 1\nbatch_size = 20\nrewind = "none"\n'
        'optimizer = "adamw"\nweight_decay = 1e-2\nschedule = "cosine"\nwarmup_steps = 1\nout = "none"\n'
    )
    call("sweep", "--config", "run.toml", "--levels", "2")
    measured = xr.load_dataset(place / "none" / "results.nc")
    assert measured.sizes == {"seed": 2, "level": 2, "layer": 2}, "the flag goes before the file"
    np.testing.assert_array_equal(measured["kept_weights"].sel(level=1), [[1568, 30]] * 2)
    assert "ticket: " in call("export", "none", "--seed", "2", "--level", "1")
    params, mask, _ = lth_jax.load_ticket("none/tickets/seed-2-level-1.safetensors")
    kernel, kept = params["Dense_0"]["kernel"], mask["Dense_0"]["kernel"]
    assert kept.sum() == 1568
    assert (kernel[~kept] == 0).all()
    # What is kept is the half with the largest trained weights, so it tells trained weights from others.
    assert params["BatchNorm_0"]["bias"].any(), "it is 0 before training"


def test_rewinding_to_a_step_starts_from_the_dense_network_then(place, call):
    flags = ["--optimizer", "momentum", "--scope", "global", "--initializer", "he_normal"]
    call("sweep", *TRUNK, "--levels", "2", "--seeds", "7", *flags, "--rewind", "2", "--out", "back")
    for level in ("0", "1"):
        call("export", "back", "--seed", "7", "--level", level)
    first, *_ = lth_jax.load_ticket("back/tickets/seed-7-level-0.safetensors")
    later, mask, card = lth_jax.load_ticket("back/tickets/seed-7-level-1.safetensors")
    assert sum(entry["kept"] for entry in card["weights"].values()) == 6352 - round(0.2 * 6352)
    # The first two of the dense level's steps, by hand: w ← w − rate · (g + momentum · what was before).
    train = lth_jax.splits(data.load("mnist", place / "DIGITS"))[0]
    network, params = models.from_flax(models.MLP((8,))), first
    order = lth_jax.training.batch_order(lth_jax.stream(7, "order", 0), TRAIN, 20, 2)
    trace = jax.tree.map(np.zeros_like, first)

    def loss(params, images, labels):
        logits = network.apply(params, {}, images, None)[0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    gradient = jax.jit(jax.grad(loss))
    for chosen in np.asarray(order):
        images = np.asarray(train.images)[chosen].astype("f") / 255
        found = gradient(params, images, np.asarray(train.labels)[chosen])
        trace = jax.tree.map(lambda t, g: 0.9 * t + np.asarray(g), trace, found)
        params = jax.tree.map(lambda w, t: np.float32(w - 1.2e-3 * t), params, trace)
    expected = jax.tree.map(lambda w, m: np.where(m, w, 0), params, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), later, expected)
    assert (
        abs(
            np.where(mask["hidden_0"]["kernel"], first["hidden_0"]["kernel"], 0) - later["hidden_0"]["kernel"]
        ).max()
        > 1e-5
    )


def test_a_module_with_batch_statistics_is_rewound_to_a_step_too(place, call):
    flags = ["--model", "somebodys_net:Net", "--levels", "2", "--seeds", "7", *TINY]
    flags += [
        "--optimizer",
        "sgd",
        "--learning-rate",
        "0.1",
    ]  # Adam blows up a gradient that is 0 but for rounding
    call("sweep", *flags, "--rewind", "2", "--out", "normalized")
    call("export", "normalized", "--seed", "7", "--level", "1")
    ticket, mask, _ = lth_jax.load_ticket("normalized/tickets/seed-7-level-1.safetensors")
    # The same two steps of the dense network, in its own order and with its own noise.
    chosen = sweep.configure(commands.build_parser().parse_args(["sweep", *flags]))[0]
    dataset = data.load("mnist", place / "DIGITS")
    model, found = sweep.prepare(chosen, dataset)
    recipe = found.plan.recipe
    params, collections = jax.jit(model.initial)(lth_jax.stream(7, "init"))
    assert jax.tree.leaves(collections), "it has batch statistics"
    order, noise = lth_jax.stream(7, "order", 0), lth_jax.stream(7, "model", 0)
    train, dense = lth_jax.splits(dataset)[0], masks.ones_like(params)
    state = training.init_state(recipe, params, collections, dense)

    @jax.jit
    def step(number, state, rows):
        batch = Split(train.images[rows], train.labels[rows])
        return training.train_step(jax.random.fold_in(noise, number), state, dense, batch, recipe)[0]

    for number, rows in enumerate(training.batch_order(order, TRAIN, 20, 2)):
        state = step(number, state, rows)
    expected = jax.tree.map(lambda w, m: np.where(m, w, 0), state.params, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ticket, expected)
    assert ticket["BatchNorm_0"]["bias"].any(), "it is 0 before training"


# All flags at once


EVERYTHING = ["--model", "somebodys_net:Convolutional", "--levels", "3", "--seeds", "7,42", *TINY]
EVERYTHING += ["--epochs", "2", "--optimizer", "sgd", "--learning-rate", "0.1", "--rate", "0.2,0.5"]
EVERYTHING += ["--scope", "global", "--layer-rates", "Conv_0=0", "--controls", "reinit,shuffle,random_mask"]
EVERYTHING += ["--rewind", "1", "--eval-every", "2", "--validation", "20", "--keep-weights", "0,2"]
CONTROLS = ["reinit", "shuffle", "random_mask"]


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
        module = settings.make_module(sweep.configure(parsed)[0], 10)
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
    model = settings.make_model(config, (28, 28, 1), 10)
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
    model = settings.make_model(config, (28, 28, 1), 10)
    state = training.TrainState(params, files.nested(statistics), ())
    test = lth_jax.splits(data.load("mnist", place / "DIGITS"))[1]
    again = training.evaluate(jax.tree.map(jnp.asarray, state), test, model.network)
    at = xr.load_dataset(everything / "results.nc").sel(network=network, seed=42, level=2)
    assert again["loss"] == pytest.approx(float(at["test_loss"]), rel=1e-4)
    assert again["accuracy"] == pytest.approx(float(at["test_accuracy"]))
    assert card["network"] == network
    assert card["test_accuracy"] == pytest.approx(float(again["accuracy"]))
    assert int(mask["Dense_0"]["kernel"].sum()) == 3136


def test_a_killed_sweep_with_controls_goes_on_to_the_same_files(everything, call, monkeypatch, tmp_path):
    class Stopped(Exception):
        pass

    def save(*arguments):
        original(*arguments)
        if arguments[1] == 2:
            raise Stopped

    original, folder = runs_sweep.checkpoints.save, tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(runs_sweep.checkpoints, "save", save)
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
    model = settings.make_model(settings.Config(model="mlp", hidden=(8,)), (28, 28, 1), 10)
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
    model = settings.make_model(settings.Config(model="mlp", hidden=(8,)), (28, 28, 1), 10)
    params, mask = files.read(stored, 7, 1, sweep.drawer(model))
    trained, _ = files.read_trained(stored, 7, 0)
    for name, leaf in trained.items():
        np.testing.assert_array_equal(params[name], np.where(mask[name], leaf, 0))


# What a run leaves


def test_a_card_says_what_the_ticket_is(place, tmp_path):
    _, mask, card = lth_jax.load_ticket(place / "new" / "ticket.safetensors")
    assert card == json.loads((place / "new" / "ticket.json").read_text())
    assert card["weights"] == {
        "hidden_0/kernel": {"kept": 4014, "of": 6272},
        "output/kernel": {"kept": 51, "of": 80},
    }
    assert card["fingerprint"] == data.load("mnist", place / "DIGITS").fingerprint
    assert card["kept"] == pytest.approx(4065 / 6352)
    csr = [scipy.sparse.csr_matrix(layer["kernel"].astype("f")) for layer in mask.values()]
    biases = 4 * (8 + 10)
    assert card["bytes"] == {
        "dense": 4 * (6352 + 18),
        "csr": sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in csr) + biases,
        "bcoo": sum(m.data.nbytes + 2 * m.indices.nbytes for m in csr) + biases,
    }
    (tmp_path / "no.safetensors").write_bytes(b"8" * 100)
    for name in ("no.safetensors", "nothing.safetensors"):
        with pytest.raises(InputError, match="cannot be read as a ticket"):
            lth_jax.load_ticket(tmp_path / name)


def test_sparse_inference_is_dense_inference(place, call, monkeypatch):
    params, mask, _ = lth_jax.load_ticket(place / "new" / "ticket.safetensors")
    params, mask = jax.tree.map(jnp.asarray, (params, mask))
    network, images = models.from_flax(models.MLP((8,))), jnp.linspace(0, 1, 3 * 784).reshape(3, 28, 28, 1)
    kernels = sparsity.sparse_kernels(params, mask)
    assert {name: kernel.nse for name, kernel in kernels.items()} == {"hidden_0": 4014, "output": 51}
    size = sum(kernel.data.nbytes + kernel.indices.nbytes for kernel in kernels.values())
    assert sparsity.sizes(files.flat(jax.tree.map(np.asarray, mask)))["bcoo"] == size + 4 * (8 + 10)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.ndim == 2 else leaf, params)
    found = sparsity.forward_sparse(network, kernels, broken, {}, images)  # dense kernels are not looked at
    np.testing.assert_allclose(found, network.apply(params, {}, images, None)[0], rtol=1e-5, atol=1e-6)
    times = sparsity.measure(network, params, mask, {}, (28, 28, 1), batches=(2,), seconds=0.0)
    assert min(times[2]) > 0
    monkeypatch.setattr(sparsity, "measure", lambda *_: {1: sparsity.Times(0.002, 0.012)})
    printed = call("export", "run", "--seed", "7", "--level", "2", "--out", "a.safetensors", "--measure")
    assert "batch 1: dense 2 ms, BCOO 12 ms: sparse is 6 times slower" in printed
    measured = lth_jax.load_ticket("a.safetensors").card["measured"]
    assert measured["median_of_one_run"]["1"]["ratio"] == pytest.approx(6)
    assert "CPU" in measured["device"]


def test_show_opens_figures(call, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(show.webbrowser, "open", lambda address: opened.append(address) or True)
    call("show", "run", "--open")
    call("show", "run", "--figures", "drawn", "--open")
    assert [address.rsplit("/", 2)[-2:] for address in opened] == [
        ["figures", "accuracy.png"],
        ["drawn", "test_accuracy.png"],
    ]


# What is refused

LINES = {
    "--levels 0: expected 1 to 1,000": "sweep --levels 0",
    "--levels abc: expected int": "sweep --levels abc",
    "rewind -3: expected start, none, an iteration": "sweep --rewind=-3",
    "rewind 1.5: expected start, none, an iteration": "sweep --rewind 1.5",
    "rewind lr:: expected start, none, an iteration": "sweep --rewind lr:",
    "--rewind lr:4: a level has 3 steps": "sweep --rewind lr:4 TINY",
    "--rewind-schedule carried: unknown": "sweep --rewind-schedule carried",
    "--rewind-optimizer kept: unknown": "sweep --rewind-optimizer kept",
    "needs an iteration to rewind to": "sweep --rewind-optimizer rewound TINY",
    "'reinti': unknown control": "sweep --controls reinti",
    "--controls reinit,reinit: ": "sweep --controls reinit,reinit TINY",
    "--eval-every -1": "sweep --eval-every=-1",
    "--validation 60: there are 60 examples": "sweep --validation 60 TINY",
    "--batch-size 20: larger than the 19": "sweep --validation 41 TINY",
    "--keep-weights some: expected none, all, or levels": "sweep --keep-weights some",
    "--keep-weights 9: the levels are 0 to 2": "sweep --keep-weights 0,9 --levels 3",
    "--keep-weights 1,1: one is twice": "sweep --keep-weights 1,1",
    "--score biggest: unknown": "sweep --score biggest",
    "--density 1.0": "sweep --density 1",
    "1 levels: expected 2 or more": "sweep --density 0.1 --levels 1 TINY",
    "--rate 0.2,0.3: expected one, or 9": "sweep --rate 0.2,0.3",
    "--one-shot yes: expected true or false": "sweep --one-shot yes",
    "--rewind 4: a level has 3 steps": "sweep --rewind 4 TINY",
    "the range 5-3 runs backwards": "sweep --seeds 5-3",
    "gives float32[1,5], expected logits [1, 10 or more]": "sweep --model somebodys_net:Few TINY",
    "--model somebodys_net:Pair: ": "sweep --model somebodys_net:Pair TINY",
    "is a Other, no flax.linen.Module": "sweep --model somebodys_net:Other TINY",
    "missing 1 required positional argument": "sweep --model somebodys_net:needs TINY",
    "has no attribute 'None_'": "sweep --model somebodys_net:None_ TINY",
    "No module named 'nobodys_net'": "sweep --model nobodys_net:Net TINY",
    "--model lenet: unknown": "sweep --model lenet",
    "--model :Net: unknown": "sweep --model :Net",
    "--hidden nothing: --model mlp takes": "sweep --model mlp",
    "--hidden 8: only --model mlp": "sweep --hidden 8",
    "--initializer: unknown initialization 'nope'": "sweep --initializer nope",
    "--optimizer lbfgs: unknown": "sweep --optimizer lbfgs",
    "--schedule warmup: say --warmup-steps": "sweep --schedule warmup",
    "--warmup-steps 5: --schedule is constant": "sweep --warmup-steps 5",
    "--warmup-steps 3: a level has 3 steps": "sweep --schedule warmup --warmup-steps 3 TINY",
    "--layer-rates output: expected LAYER=RATE": "sweep --layer-rates output",
    "--layer-rates output=2: expected LAYER=RATE": "sweep --layer-rates output=2",
    "--layer-rates output=0.2: output is named twice": "sweep --layer-rates output=0.1,output=0.2",
    "no layer called outpt": "sweep --layer-rates outpt=0.1 TINY",
    "a global ranking takes one rate": "sweep --layer-rates output=0.1 --scope global TINY",
    "would have none of its 80 weights left": "sweep --model mlp --hidden 8 --rate 0.9 --levels 5 TINY",
    "all layers would have none": "sweep --model mlp --hidden 8 --rate 0.99 --scope global --levels 9 TINY",
    "--batch-size 61: larger than the 60": "sweep TINY --batch-size 61",
    "--weight-decay -1.0": "sweep --weight-decay=-1",
    "--log paper: unknown": "sweep --log paper",
    "--out run: holds another configuration's run": "sweep TINY --out run",
    "--config nothing.toml: cannot be read": "sweep --config nothing.toml",
    "unrecognized arguments: --level 3": "sweep --level 3",
    "invalid choice: 'frobnicate'": "frobnicate",
    "the following arguments are required: ACTION": "data",
    "--seed 8: the run has 42, 7": "export run --seed 8 --level 1",
    "--level 2: trained weights are kept of none": "export run --seed 7 --level 2 --trained",
    "--network: goes with --trained": "export run --seed 7 --level 2 --network reinit",
    "--level 3: the run has 0 to 2": "export run --seed 7 --level 3",
    "--level -1: the run has 0 to 2": "export run --seed 7 --level=-1",
    "invalid int value: 'x'": "export run --seed x --level 1",
    "expected a name like ticket.safetensors": "export run --seed 7 --level 1 --out a.json",
    "--out DIGITS.d: is a folder": "export run --seed 7 --level 1 --out DIGITS.d",
    "take a --level after the first": "export run --seed 7 --level 0 --out a.safetensors --measure",
    "only lth-jax sweep keeps its tickets": f"export {COMMITTED / 'xor'} --seed 1 --level 1",
    "invalid choice: 'csh'": "completion csh",
}


@pytest.mark.parametrize(("told", "line"), LINES.items(), ids=LINES)
def test_a_wrong_command_line_is_one_line(refused, place, told, line):
    (place / "DIGITS.d").mkdir(exist_ok=True)
    parts = [part for word in line.split(" ") for part in (TINY if word == "TINY" else [word])]
    if parts[0] == "sweep" and "--out" not in parts:
        parts += ["--out", "never"]
    line = refused(*parts)
    assert told in line
    assert not re.search(r"(--[\w-]+): \1\b", line), "a flag is named once"


FILES = {
    "unknown key 'level'": "level = 3",
    "unknown key 'pruning'": "[pruning]\nrate = 0.2",
    "--levels abc: expected int": 'levels = "abc"',
    "--levels 3.0: expected int": "levels = 3.0",
    "--levels true: expected int": "levels = true",
    "--rate 2.0: expected": "rate = 2.0",
    "--rate nan: not a finite number": "rate = nan",
    "--hidden 8,: an entry is empty": "hidden = ['8', '']",
    "--hidden 8.5: expected int": "hidden = [[8], 8.5]",
    "--distributed 1: expected true or false": "distributed = 1",
    "--seeds 1,1: a seed is named twice": "seeds = [1, 1]",
    "--dataset mist: unknown": 'dataset = "mist"',
    "learning-rate is named twice": "learning_rate = 1\nlearning-rate = 2",
    "holds characters that cannot be printed": 'out = "a\\nb"',
    "expected LAYER=RATE": "layer_rates = {output = 1.5}",
    "is no TOML": "levels",
    "Cannot overwrite a value": "levels = 3\nlevels = 4",
    "invalid start byte": b"\xff",
    "is no TOML:": "x = " + "[" * 100_000,
}


@pytest.mark.parametrize(("told", "content"), FILES.items(), ids=FILES)
def test_a_wrong_file_is_one_line(refused, place, told, content):
    path = place / "wrong.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused("sweep", "--config", "wrong.toml", "--out", "never")
    path.unlink()
    assert told in line


EDITED = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(nn.relu(nn.Dense(8)(images.reshape(len(images), -1))))
"""


@pytest.mark.parametrize("finished", [True, False])
def test_a_module_that_was_edited_is_another_run(place, call, refused, monkeypatch, finished):
    """Neither does a finished folder show old results, nor a stopped one go on with another network."""
    name = f"edited_net_{finished}"
    (place / f"{name}.py").write_text(EDITED)
    flags = ["sweep", "--model", f"{name}:Net", "--levels", "2", "--seeds", "7", *TINY, "--out", name]
    call(*flags)
    if not finished:
        (place / name / "results.nc").unlink()
    (place / f"{name}.py").write_text(EDITED.replace("nn.relu", "nn.sigmoid"))
    monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    assert "holds the run of another program" in refused(*flags)


def test_an_initializer_serves_a_module_with_batch_norm(place, call):
    flags = ["--model", "somebodys_net:Net", "--initializer", "he_normal", "--levels", "1", "--seeds", "7"]
    call("sweep", *flags, *TINY, "--out", "he")
    assert np.isfinite(xr.load_dataset(place / "he" / "results.nc")["test_loss"]).all()
