"""The command's sweeps: from flags to files, tickets back from the files, and what a run leaves."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
import xarray as xr
from idx import TRAIN
from sweeps import TINY, TRUNK, make_place

import lth_jax
from lth_jax import commands, models, orders, training
from lth_jax.analysis import sparsity
from lth_jax.analysis import ticket_files as files
from lth_jax.commands import show, sweep
from lth_jax.data import datasets as data
from lth_jax.data import formats as data_formats
from lth_jax.errors import InputError
from lth_jax.tickets import masks
from lth_jax.types import Split


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, somebody's module, and a run."""
    return make_place(
        tmp_path_factory.mktemp("command"),
        ["sweep", *TRUNK, "--out", "run"],
        ["export", "run", "--seed", "7", "--level", "2", "--out", "new/ticket.safetensors"],
    )


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
    order = lth_jax.orders.batch_order(lth_jax.stream(7, "order", 0), TRAIN, 20, 2)
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

    for number, rows in enumerate(orders.batch_order(order, TRAIN, 20, 2)):
        state = step(number, state, rows)
    expected = jax.tree.map(lambda w, m: np.where(m, w, 0), state.params, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ticket, expected)
    assert ticket["BatchNorm_0"]["bias"].any(), "it is 0 before training"


# What a run leaves


def test_a_card_says_what_the_ticket_is(place, tmp_path):
    _, mask, card = lth_jax.load_ticket(place / "new" / "ticket.safetensors")
    assert card == json.loads((place / "new" / "ticket.safetensors.json").read_text())
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
    layers = {"hidden_0/kernel": {"kept": 4014, "of": 6272}, "output/kernel": {"kept": 51, "of": 80}}
    assert card["multiply_adds"] == {"kept": 4065, "of": 6352, "layers": layers}  # each weight is used once
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
    flat = [files.flat(jax.tree.map(np.asarray, tree)) for tree in (mask, params)]
    assert sparsity.sizes(*flat)["bcoo"] == size + 4 * (8 + 10)
    halves = {name: leaf.astype(jnp.bfloat16) for name, leaf in flat[1].items()}
    whole, half = sparsity.sizes(*flat), sparsity.sizes(flat[0], halves)
    assert half["dense"] == whole["dense"] // 2
    assert whole["csr"] - half["csr"] == 2 * (4014 + 51 + 8 + 10)
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


def test_an_exported_convolutional_ticket_has_its_multiply_adds(place, call):
    call("sweep", "--model", "lenet5", "--levels", "2", "--seeds", "3", *TINY, "--out", "convolutional")
    said = call("export", "convolutional", "--seed", "3", "--level", "1", "--out", "conv.safetensors")
    _, mask, card = lth_jax.load_ticket(place / "conv.safetensors")
    places = {"conv_0": 24 * 24, "conv_1": 8 * 8, "hidden_0": 1, "hidden_1": 1, "output": 1}
    expected = {
        f"{name}/kernel": {
            "kept": times * int(mask[name]["kernel"].sum()),
            "of": times * mask[name]["kernel"].size,
        }
        for name, times in places.items()
    }
    assert card["multiply_adds"]["layers"] == expected
    kept, of = (sum(layer[part] for layer in expected.values()) for part in ("kept", "of"))
    assert of == 281_640
    with xr.open_dataset(place / "convolutional" / "results.nc") as found:
        assert found["multiply_adds"].sel(seed=3).values.tolist() == [of, kept]
        named = dict(zip(found["layer"].values, found["layer_multiply_adds"].values, strict=True))
    assert named == {name: layer["of"] for name, layer in expected.items()}
    assert f"multiply-adds an example: dense 281,640, ticket {kept:,} ({kept / of:.1%})" in said


# Places that nothing can be written to


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("export run --seed 7 --level 1 --out somebodys_net.py/ticket.safetensors", "--out"),
        ("show run --figures somebodys_net.py/figures", "--figures"),
    ],
)
def test_a_place_below_a_file_is_wrong_input(place, refused, line, flag):
    assert refused(*line.split()).startswith(f"error: {flag}: somebodys_net.py/")


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 2), (errno.EACCES, 2), (errno.ENOSPC, 1)])
def test_a_read_only_place_is_wrong_input_and_a_full_one_is_not(place, monkeypatch, capsys, number, code):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(place)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(SystemExit) as stop:
            commands.main(["export", "run", "--seed", "7", "--level", "1", "--out", "there.safetensors"])
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert os.strerror(number) in line
    assert not list(place.glob("*there*"))
