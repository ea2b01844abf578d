"""The field's networks: parameters counted by the papers, layers written out by hand, what is pruned."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lth_jax import models, networks
from lth_jax.commands import build, settings
from lth_jax.errors import InputError
from lth_jax.networks import VGG, ConvNet, ResNet
from lth_jax.tickets import masks, schedules

CIFAR = (32, 32, 3)


def kernels(module):
    """Sizes of a module's kernels by path."""
    tree = models.parameter_shapes(models.from_linen(module), CIFAR)
    paths = {"/".join(masks.path_names(path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return {path: leaf.size for path, leaf in paths.items() if path.endswith("kernel")}


@pytest.mark.parametrize(
    ("name", "total", "convolutional", "told"),
    [
        ("conv2", 4_300_992, 38_592, ("4.3", "39")),  # the paper cuts 38.6 thousand to 38
        ("conv4", 2_425_024, 259_776, ("2.4", "260")),
        ("conv6", 2_261_184, 1_144_512, ("2.3", "1145")),
    ],
)
def test_conv_nets_have_the_weights_of_the_papers_layers(name, total, convolutional, told):
    found = kernels(networks.MODELS[name]())
    assert sum(found.values()) == total
    assert sum(size for path, size in found.items() if path.startswith("conv_")) == convolutional
    assert (f"{total / 1e6:.1f}", f"{convolutional / 1e3:.0f}") == told
    filters = [64, 64, 128, 128, 256, 256][: int(name[-1])]
    below = [3, *filters]
    by_hand = [9 * one * other for one, other in zip(below, filters, strict=False)]
    side = 32 >> (len(filters) // 2)
    assert list(found.values()) == [*by_hand, side * side * filters[-1] * 256, 256 * 256, 2560]


@pytest.mark.parametrize(
    ("depth", "padding", "projection", "millions"),
    [(20, 269_722, 272_474, "0.27"), (32, 464_154, 466_906, "0.46"), (56, 853_018, 855_770, "0.85")],
)
def test_resnets_have_the_parameters_of_the_paper(depth, padding, projection, millions):
    """He et al. 2016, Table 6: 0.27, 0.46 and 0.85 million, with shortcuts that have no parameters."""
    assert networks.parameter_count(ResNet(depth, shortcut="padding"), CIFAR) == padding
    assert networks.parameter_count(ResNet(depth), CIFAR) == projection
    assert f"{padding / 1e6:.2f}" == millions
    n = (depth - 2) // 6
    convolutions = 9 * (
        3 * 16 + 2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2
    )
    norms = 2 * (16 * (1 + 2 * n) + 2 * n * 32 + 2 * n * 64)
    assert convolutions + norms + 64 * 10 + 10 == padding
    assert padding + 16 * 32 + 32 * 64 + 2 * (32 + 64) == projection


@pytest.mark.parametrize(
    ("depth", "published", "millions"),
    [(11, 9_220_480, "9.2"), (13, 9_404_992, "9.4"), (16, 14_714_688, "14.7"), (19, 20_024_384, "20.0")],
)
def test_vggs_have_the_convolutions_of_the_papers(depth, published, millions):
    """Weights and biases of the convolutions, as programs of ImageNet's form count them without its head."""
    assert networks.parameter_count(VGG(depth, norm="none"), CIFAR) == published + 512 * 10 + 10
    weights = kernels(VGG(depth))
    assert len(weights) == depth - 2  # one dense layer where the paper counts three
    assert f"{sum(weights.values()) / 1e6:.1f}" == millions


def conv(x, kernel, stride):
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=dimensions)


def normed(x, own, axes=(0, 1, 2)):
    x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return x * np.asarray(own["scale"]) + np.asarray(own["bias"])


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_a_resnet_is_the_papers_by_hand(shortcut):
    """ResNet-8 of width 2, written out layer by layer, statistics those of the batch."""
    module = ResNet(8, 3, shortcut=shortcut, width=2)
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    variables = module.init(jax.random.key(0), images)
    found, _ = module.apply(variables, images, True, mutable=["batch_stats"])
    p = variables["params"]
    layer = lambda own, x, stride=1: normed(np.asarray(conv(x, own["conv"]["kernel"], stride)), own["norm"])  # noqa: E731
    with jax.numpy_rank_promotion("allow"):
        x = np.maximum(layer(p["conv"], images), 0)
        for block, stride in enumerate([1, 2, 2]):
            own = p[f"block_{block}"]
            inner = layer(own["conv_1"], np.maximum(layer(own["conv_0"], x, stride), 0))
            if block and shortcut == "projection":
                x = layer(own["shortcut"], x, stride)
            elif block:
                new = np.zeros_like(inner)
                first = (inner.shape[-1] - x.shape[-1]) // 2
                new[..., first : first + x.shape[-1]] = x[:, ::2, ::2]
                x = new
            x = np.maximum(inner + x, 0)
        expected = x.mean((1, 2)) @ np.asarray(p["output"]["kernel"]) + np.asarray(p["output"]["bias"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_conv_net_is_the_papers_by_hand():
    module = ConvNet((2, 3), (5, 4), 3)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    p = module.init(jax.random.key(0), images)["params"]
    x = images
    for number in range(4):
        own = p[f"conv_{number}"]
        x = nn.relu(conv(x, own["kernel"], 1) + own["bias"].reshape(1, 1, 1, -1))
        x = nn.max_pool(x, (2, 2), (2, 2)) if number % 2 else x
    x = x.reshape(2, -1)
    for name in ("hidden_0", "hidden_1", "output"):
        x = x @ p[name]["kernel"] + p[name]["bias"].reshape(1, -1)
        x = x if name == "output" else nn.relu(x)
    np.testing.assert_allclose(module.apply({"params": p}, images), x, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_of_the_distributions_that_are_said():
    images = jnp.zeros((1, *CIFAR))
    glorot = ConvNet((64, 64)).init(jax.random.key(0), images)["params"]["conv_1"]
    assert float(glorot["kernel"].std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert stats.kstest(glorot["kernel"].ravel() / glorot["kernel"].std(), "norm").pvalue > 0.01
    assert not glorot["bias"].any()
    tree = jax.jit(ResNet(20).init)(jax.random.key(0), images)["params"]
    he = tree["block_8"]["conv_0"]["conv"]["kernel"]
    assert float(he.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    scales = np.concatenate(
        [tree[f"block_{b}"][c]["norm"]["scale"] for b in (6, 7, 8) for c in ("conv_0", "conv_1")]
    )
    assert stats.kstest(scales, "uniform").pvalue > 0.01


@pytest.mark.parametrize("norm", networks.NORMS)
@pytest.mark.parametrize(
    "make", [lambda norm: ResNet(8, norm=norm, width=4), lambda norm: VGG(11, norm=norm, width=2)]
)
def test_a_norm_is_what_it_is_called(make, norm):
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    variables = make(norm).init(jax.random.key(0), images)
    assert ("batch_stats" in variables) == (norm == "batch")
    paths = ["/".join(masks.path_names(path)) for path, _ in jax.tree.leaves_with_path(variables["params"])]
    assert any("norm/scale" in path for path in paths) == (norm != "none")
    assert any("conv/bias" in path for path in paths) == (norm == "none")
    one, other = (make(norm).apply(variables, images[:n], True, mutable=True)[0][:1] for n in (1, 2))
    assert np.allclose(one, other, atol=1e-5) == (norm != "batch")  # who else is in the batch


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (ResNet(21), CIFAR, "depth 21: a ResNet for CIFAR has 6n \\+ 2"),
        (ResNet(2), CIFAR, "depth 2"),
        (ResNet(shortcut="none"), CIFAR, "shortcut 'none'"),
        (ResNet(norm="layer"), CIFAR, "norm 'layer': expected one of batch, group, none"),
        (VGG(12), CIFAR, "depth 12: expected one of 11, 13, 16, 19"),
        (VGG(11), (15, 32, 3), "cannot be halved once more"),
        (ConvNet((64, 128, 256)), (7, 7, 1), "cannot be halved once more"),
    ],
)
def test_what_cannot_be_is_refused(module, shape, message):
    with pytest.raises(ValueError, match=message):
        models.parameter_shapes(models.from_linen(module), shape)


@pytest.mark.parametrize("name", networks.MODELS)
def test_a_networks_name_is_a_model_of_the_command(name):
    chosen = settings.Config(model=name, norm="group" if name.startswith(networks.NORMED) else "batch")
    model = build.make_model(chosen, (32, 32, 3), 100)
    shapes, collections = jax.eval_shape(model.initial, jax.random.key(0))
    assert shapes["output"]["kernel"].shape[1] == 100
    assert collections == {}


def test_norms_are_chosen_for_networks_that_have_them():
    for name in ("conv2", "lenet5", "mine:resnet20"):
        with pytest.raises(InputError, match=f"--norm group: --model {name} has none to choose"):
            settings.Config(model=name, norm="group")


def test_a_layer_is_spared_and_all_others_ranked_together():
    """VGG as the field prunes it: a fifth of all weights but the last layer's; nothing of norms or biases."""
    shapes = models.parameter_shapes(models.from_linen(VGG(16)), CIFAR)
    prunable = masks.prunable(shapes)
    sizes = schedules.iterative(shapes, prunable, [0.2], {"output": 0}, "global")
    (keep,) = jax.tree.leaves(sizes.keep)
    whole = 14_715_584 - 5_120
    assert keep.tolist() == [whole, round(whole * 0.8)] or keep.tolist() == [
        whole,
        whole - round(whole * 0.2),
    ]
    ranked = ["/".join(masks.path_names(p)) for p, yes in jax.tree.leaves_with_path(sizes.ranked) if yes]
    assert ranked == [f"conv_{n}/conv/kernel" for n in sorted(range(13), key=str)]
