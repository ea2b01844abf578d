"""Tickets for others: PyTorch's layouts against a twin's outputs, Orbax and SciPy reading alone, names."""

import importlib.util
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import scipy.sparse
import twins
from flax import nnx
from safetensors.numpy import load_file
from sweeps import TINY, make_place

import lth_jax
from lth_jax import models, networks
from lth_jax.analysis import layouts, pytorch, ticket_files
from lth_jax.analysis import ticket_formats as formats
from lth_jax.analysis.ticket_files import flat
from lth_jax.errors import InputError

IMAGES = (2, 8, 12, 3)


class Net(nn.Module):
    """Everything that PyTorch lays out in another way."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(4, (3, 3), (2, 2), ((1, 0), (1, 0)), name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.BatchNorm(use_running_average=not train, name="flat_norm")(x)
        return nn.Dense(3, name="output")(nn.relu(nn.Dense(5, name="hidden")(x)))


class NnxNet(nnx.Module):
    """The same, in NNX."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), 2, padding=((1, 0), (1, 0)), rngs=rngs)
        self.norm, self.flat_norm = (nnx.BatchNorm(width, rngs=rngs) for width in (4, 24))
        self.hidden, self.output = nnx.Linear(24, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, images):
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(images))), (2, 2), (2, 2))
        return self.output(nnx.relu(self.hidden(self.flat_norm(x.reshape(x.shape[0], -1)))))


NETS = {"linen": models.from_linen(Net()), "nnx": models.from_nnx(lambda rngs: NnxNet(rngs))}


def invented(network, images):
    """A ticket with all its values drawn, statistics too: half of each kernel is pruned."""
    trees = jax.eval_shape(network.init, jax.random.key(0), images)
    draw = np.random.default_rng(3)
    params, collections = (
        jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape), leaf.dtype), tree)
        for tree in trees
    )
    mask = jax.tree.map(lambda leaf: draw.random(leaf.shape) < (0.5 if leaf.ndim > 1 else 1), params)
    params = jax.tree.map(lambda leaf: leaf - 1.0, params)
    return jax.tree.map(lambda m, leaf: jnp.where(m, leaf, 0), mask, params), mask, collections


def answer(state, images):
    """What the twin in NumPy answers."""
    x = twins.conv2d(twins.channels_first(images), state, "conv", 2, ((1, 0), (1, 0)))
    x = twins.max_pool(twins.relu(twins.batch_norm(x, state, "norm")))
    x = twins.batch_norm(twins.flatten(x), state, "flat_norm")
    return twins.linear(twins.relu(twins.linear(x, state, "hidden")), state, "output")


# PyTorch


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("masks", [False, True])
def test_a_twin_with_channels_first_answers_the_same(tmp_path, kind, masks):
    network, images = NETS[kind], jax.random.normal(jax.random.key(1), IMAGES)
    params, mask, collections = invented(network, images)
    options = {"network": network, "inputs": images[:1], "collections": collections, "masks": masks}
    card = lth_jax.export_ticket(tmp_path / "a.safetensors", params, mask, format="pytorch", **options)
    state = load_file(tmp_path / "a.safetensors")
    if masks:
        pruned = [name.removesuffix("_mask") for name in state if name.endswith("_mask")]
        assert sorted(pruned) == ["conv.weight", "hidden.weight", "output.weight"]
        for name in pruned:
            state[name] = state.pop(f"{name}_orig") * state.pop(f"{name}_mask")
    expected = network.apply(params, collections, images, None)[0]
    np.testing.assert_allclose(answer(state, images), expected, rtol=1e-4, atol=1e-5)
    assert {name: list(leaf.shape) for name, leaf in state.items() if leaf.ndim > 1} == {
        "conv.weight": [4, 3, 3, 3],
        "hidden.weight": [5, 24],
        "output.weight": [3, 5],
    }
    norm = [f"flat_norm.{name}" for name in ("bias", "running_mean", "running_var", "weight")]
    assert sorted(card["file"]["reordered"]) == [*norm, "hidden.weight"]
    assert card["file"]["unordered"] == card["file"]["kept"] == []
    assert card == json.loads((tmp_path / "a.safetensors.json").read_text())


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch_itself_answers_the_same_from_a_pt_file(tmp_path):
    torch, prune = map(importlib.import_module, ("torch", "torch.nn.utils.prune"))
    network, images = NETS["linen"], jax.random.normal(jax.random.key(1), IMAGES)
    params, mask, collections = invented(network, images)
    options = {"network": network, "inputs": images[:1], "collections": collections}
    lth_jax.export_ticket(tmp_path / "a.pt", params, mask, **options)
    layer = torch.nn
    twin = layer.Sequential()
    for name, made in {
        "pad": layer.ZeroPad2d((1, 0, 1, 0)),
        "conv": layer.Conv2d(3, 4, 3, 2),
        "norm": layer.BatchNorm2d(4),
        "relu": layer.ReLU(),
        "pool": layer.MaxPool2d(2),
        "flatten": layer.Flatten(),
        "flat_norm": layer.BatchNorm1d(24),
        "hidden": layer.Linear(24, 5),
        "relu_again": layer.ReLU(),
        "output": layer.Linear(5, 3),
    }.items():
        twin.add_module(name, made)
    twin.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    with torch.no_grad():
        found = twin.eval()(torch.from_numpy(twins.channels_first(images).astype("f"))).numpy()
    expected = network.apply(params, collections, images, None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for name in ("hidden", "output", "conv"):  # as prune.identity makes of a layer
        prune.identity(getattr(twin, name), "weight")
    lth_jax.export_ticket(tmp_path / "b.pt", params, mask, masks=True, **options)
    twin.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    with torch.no_grad():
        again = twin.eval()(torch.from_numpy(twins.channels_first(images).astype("f"))).numpy()
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
    assert float(twin.hidden.weight_mask.sum()) == mask["hidden"]["kernel"].sum()


class Odd(nn.Module):
    """Layers that read what is not a flattened image with its channels last, or are not PyTorch's."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(4, (3, 3))(images)
        first = nn.Dense(3, name="first")(jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1))
        mean = nn.Dense(3, name="mean")(x.mean((1, 2)))
        sorted_ = nn.Dense(3, name="sorted")(jnp.sort(x.reshape(len(x), -1)))
        several = nn.DenseGeneral(3, axis=(1, 2, 3), name="several")(x)
        scale = self.param("temperature", nn.initializers.ones, ())
        return (first + mean + sorted_ + several) * scale


def test_what_is_not_known_is_left_and_named():
    network, images = models.from_linen(Odd()), jnp.zeros((1, 4, 4, 2))
    params, mask, _ = (
        {name: np.asarray(leaf) for name, leaf in flat(tree).items()} for tree in invented(network, images)
    )
    made = pytorch.state_dict(network, images, params, mask, {})
    assert made.reordered == []
    assert made.unordered == ["sorted.weight"]
    assert sorted(made.kept) == ["several.kernel", "temperature"]
    np.testing.assert_array_equal(made.tensors["several.kernel"], params["several/kernel"])
    np.testing.assert_array_equal(made.tensors["first.weight"], params["first/kernel"].T)
    assert made.tensors["temperature"].shape == ()
    assert made.names["first.weight"] == "first/kernel"
    assert len(pytorch.said(pytorch.as_card(made))) == 2
    with pytest.raises(InputError, match="not those of this network"):
        pytorch.state_dict(network, jnp.zeros((1, 4, 4, 1)), params, mask, {})


@pytest.mark.parametrize(
    ("module", "shape", "kernel", "pixels"),
    [
        (models.LeNet5(), (28, 28, 1), "hidden_0/kernel", (4, 4, 16)),
        (models.MLP((5,)), (4, 6, 3), "hidden_0/kernel", (4, 6, 3)),
        (networks.ConvNet((8,), (5,)), (8, 8, 3), "hidden_0/kernel", (4, 4, 8)),
        (networks.ResNet(8), (8, 8, 3), "output/kernel", None),
        (networks.VGG(11, width=4), (16, 16, 3), "output/kernel", None),
    ],
    ids=["lenet5", "mlp", "conv2", "resnet8", "vgg11"],
)
def test_the_order_behind_a_flattened_image_is_found_in_every_model(module, shape, kernel, pixels):
    network, images = models.from_linen(module), jnp.zeros((1, *shape))
    params, collections = jax.eval_shape(network.init, jax.random.key(0), images)
    used = layouts.uses(network, params, collections, images)
    found = layouts.torch_order(used.dense[kernel])
    if pixels is None:
        assert found is None
    else:
        size = np.prod(pixels)
        np.testing.assert_array_equal(found, np.arange(size).reshape(pixels).transpose(2, 0, 1).ravel())
    kernels = {name for name, leaf in flat(params).items() if name.endswith("kernel")}
    assert {*used.dense, *used.convolution} == kernels
    assert all(order == (3, 2, 0, 1) for order in used.convolution.values())
    assert None not in used.dense.values()


class Words(nn.Module):
    """A layer of a transformer, then a convolution over words."""

    @nn.compact
    def __call__(self, words):
        x = nn.Embed(11, 8)(words)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm()(x))
        x = nn.Dense(8, name="back")(nn.gelu(nn.Dense(16, name="wide")(x)))
        whole = nn.Dense(3, name="words")(x.reshape(len(x), -1))
        return whole + nn.Dense(3, name="convolved")(nn.Conv(6, (3,))(x).reshape(len(x), -1))


def test_words_stay_in_order_and_what_is_convolved_has_its_channels_first():
    network, words = models.from_linen(Words()), jnp.zeros((1, 5), jnp.int32)
    params, mask, _ = (
        {name: np.asarray(leaf) for name, leaf in flat(tree).items()} for tree in invented(network, words)
    )
    made = pytorch.state_dict(network, words, params, mask, {})
    assert made.reordered == ["convolved.weight"]
    assert made.unordered == []
    assert {name.split(".")[0] for name in made.kept} == {"attention"}
    np.testing.assert_array_equal(made.tensors["Conv_0.weight"], params["Conv_0/kernel"].transpose(2, 1, 0))
    np.testing.assert_array_equal(made.tensors["Embed_0.weight"], params["Embed_0/embedding"])
    np.testing.assert_array_equal(made.tensors["words.weight"], params["words/kernel"].T)


# SciPy and Orbax


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_scipy_reads_the_matrices_and_the_card_has_their_bytes(tmp_path, dtype):
    draw = np.random.default_rng(1)
    params = {"conv": {"kernel": draw.normal(size=(3, 2, 4, 5)).astype(dtype), "bias": np.ones(5, dtype)}}
    mask = jax.tree.map(lambda leaf: draw.random(leaf.shape) < (0.3 if leaf.ndim > 1 else 1), params)
    mask["conv"]["kernel"][0, 0, 0, 0] = True
    params["conv"]["kernel"][0, 0, 0, 0] = 0  # kept all the same
    card = lth_jax.export_ticket(tmp_path / "a.npz", params, mask)
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    data, indices, indptr, shape = (
        arrays.pop(f"params/conv/kernel/{n}") for n in ("data", "indices", "indptr", "shape")
    )
    matrix = scipy.sparse.csr_matrix((data, indices, indptr), shape)
    expected = np.where(mask["conv"]["kernel"], params["conv"]["kernel"], 0).astype(matrix.dtype)
    np.testing.assert_array_equal(matrix.toarray(), expected.reshape(24, 5))
    assert matrix.nnz == mask["conv"]["kernel"].sum()
    assert matrix.has_sorted_indices
    np.testing.assert_array_equal(arrays.pop("params/conv/bias"), np.ones(5))
    assert not arrays
    assert card["file"]["kernel_shapes"] == {"conv/kernel": [3, 2, 4, 5]}
    assert card["bytes"]["csr"] == data.nbytes + indices.nbytes + indptr.nbytes + 5 * data.itemsize
    assert card == json.loads((tmp_path / "a.npz.json").read_text())


def test_orbax_reads_weights_and_mask_alone_and_a_ticket_is_replaced(tmp_path):
    network, images = NETS["linen"], jnp.zeros(IMAGES)
    params, mask, collections = invented(network, images)
    for given in ({}, collections):
        lth_jax.export_ticket(tmp_path / "a", params, mask, collections=given, card={"seed": 7})
        found = ocp.StandardCheckpointer().restore(tmp_path / "a")
        assert sorted(found) == ["collections", "mask", "params"][not given :]
        jax.tree.map(np.testing.assert_array_equal, found["params"], params)
        jax.tree.map(np.testing.assert_array_equal, found["mask"], mask)
        assert found["mask"]["conv"]["kernel"].dtype == bool
    jax.tree.map(np.testing.assert_array_equal, found["collections"], collections)
    assert json.loads((tmp_path / "a" / "card.json").read_text())["seed"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Names


def test_every_file_has_a_card_of_its_own(tmp_path):
    weights, mask = {"a": {"kernel": np.ones((2, 2), "f")}}, {"a": {"kernel": np.eye(2, dtype=bool)}}
    for name in ("t.safetensors", "t", "t.npz", "u0.8", "u0.9"):
        card = lth_jax.export_ticket(tmp_path / name, weights, mask, card={"name": name})
        found = json.loads(ticket_files.card_path(tmp_path / name).read_text())
        assert found == card
        assert found["name"] == name
    assert found["bytes"] == {"dense": 16, "csr": 28, "bcoo": 24}
    np.testing.assert_array_equal(lth_jax.load_ticket(tmp_path / "u0.9").params["a"]["kernel"], np.eye(2))
    cards = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert {"t.safetensors.json", "t/card.json", "t.npz.json", "u0.8.json", "u0.9.json"} <= cards


@pytest.mark.parametrize(
    ("name", "format", "chosen"),
    [
        ("a.safetensors", None, "safetensors"),
        ("a.safetensors", "pytorch", "pytorch"),
        ("a.npz", None, "csr"),
        ("a", None, "orbax"),
        ("kept0.80", None, "safetensors"),
        ("kept0.80", "orbax", "orbax"),
        ("a.npz", "safetensors", "the format safetensors has .safetensors"),
        ("a.pt", "csr", "the format csr has .npz"),
        ("a.safetensors", "orbax", "the format orbax has no suffix, a folder"),
        ("a", "pytorch", "the format pytorch has .safetensors or .pt"),
        ("a.json", None, "expected a name like ticket.safetensors"),
        ("a", "onnx", "expected one of safetensors, pytorch, orbax, csr"),
        ("folder", None, "is a file or a folder of something else"),
        ("file", None, "is a file or a folder of something else"),
        ("folder.npz", None, "is a folder; name a file"),
    ],
)
def test_a_name_says_the_format_and_may_not_contradict_it(tmp_path, name, format, chosen):
    for folder in ("folder", "folder.npz"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").write_text("")
    (tmp_path / "file").write_text("")
    if chosen in formats.FORMATS:
        assert formats.check_name(tmp_path / name, format) == chosen
    else:
        with pytest.raises(InputError, match=chosen):
            formats.check_name(tmp_path / name, format)


@pytest.mark.parametrize("there", [False, True])
def test_a_pt_file_takes_pytorch(monkeypatch, tmp_path, there):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: object() if there else None)
    if there:
        assert formats.check_name(tmp_path / "a.pt", None) == "pytorch"
    else:
        with pytest.raises(InputError, match="PyTorch is not installed; --format pytorch"):
            formats.check_name(tmp_path / "a.pt", None)


def test_trees_that_do_not_fit_together_are_refused(tmp_path):
    weights = {"a": {"kernel": np.ones((2, 2), "f")}}
    for mask in ({"a": {"kernel": np.ones(2, bool)}}, {"a": {}}):
        with pytest.raises(InputError, match="expected a tree of the same structure"):
            lth_jax.export_ticket(tmp_path / "a.npz", weights, mask)
    with pytest.raises(InputError, match="say network and inputs"):
        lth_jax.export_ticket(
            tmp_path / "a.safetensors", weights, {"a": {"kernel": np.ones((2, 2), bool)}}, format="pytorch"
        )
    assert not [*tmp_path.iterdir()]


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits and a run whose trained weights are kept."""
    line = ["sweep", "--model", "somebodys_net:Convolutional", "--levels", "2", "--seeds", "7", *TINY]
    return make_place(tmp_path_factory.mktemp("formats"), [*line, "--keep-weights", "all", "--out", "run"])


WANTED = ("export", "run", "--seed", "7", "--level", "1")


def test_a_trained_ticket_in_pytorchs_layout_is_as_accurate_as_its_card_says(place, call):
    printed = call(*WANTED, "--trained", "--format", "pytorch")
    path = place / "run" / "tickets" / "seed-7-level-1-ticket-trained.pytorch.safetensors"
    card = json.loads(path.with_name("seed-7-level-1-ticket-trained.pytorch.safetensors.json").read_text())
    assert f"ticket: {path.relative_to(place)}" in printed
    assert "in the order of nn.Flatten, channels first: Dense_0.weight" in printed
    state, test = load_file(path), lth_jax.splits(lth_jax.data.load("mnist", place / "DIGITS"))[1]
    x = twins.channels_first(np.asarray(test.images) / 255)
    x = twins.conv2d(x, state, "Conv_0", 2, ((0, 1), (0, 1)))
    x = twins.flatten(twins.relu(twins.batch_norm(x, state, "BatchNorm_0")))
    right = twins.linear(x, state, "Dense_0").argmax(1) == np.asarray(test.labels)
    assert right.mean() == pytest.approx(card["test_accuracy"])
    assert np.count_nonzero(state["Dense_0.weight"]) <= card["weights"]["Dense_0/kernel"]["kept"] < 7840


def test_a_start_leaves_in_every_format_with_a_card_each(place, call, refused):
    cards = {"a.safetensors": "a.safetensors.json", "b.npz": "b.npz.json", "c": "c/card.json"}
    for name, card in cards.items():
        assert f"card: {card}" in call(*WANTED, "--out", name)
        found = json.loads((place / card).read_text())
        assert (found["seed"], found["level"]) == (7, 1)
    params, mask, _ = lth_jax.load_ticket(place / "a.safetensors")
    found = ocp.StandardCheckpointer().restore(place / "c")
    jax.tree.map(np.testing.assert_array_equal, found, {"params": params, "mask": mask})
    with np.load(place / "b.npz") as file:
        parts = [file[f"params/Dense_0/kernel/{name}"] for name in ("data", "indices", "indptr", "shape")]
    matrix = scipy.sparse.csr_matrix(tuple(parts[:3]), parts[3])
    np.testing.assert_array_equal(matrix.toarray(), params["Dense_0"]["kernel"])
    call(*WANTED, "--format", "pytorch", "--masks", "--out", "d.safetensors")
    state = load_file(place / "d.safetensors")
    assert not any("running" in name for name in state), "which a start has not"
    assert state["Dense_0.weight_mask"].sum() == mask["Dense_0"]["kernel"].sum()
    assert "--masks: goes with --format pytorch" in refused(*WANTED, "--out", "e.npz", "--masks")
    assert "the format csr has .npz" in refused(*WANTED, "--out", "e.pt", "--format", "csr")
    assert "invalid choice: 'onnx'" in refused(*WANTED, "--format", "onnx")
