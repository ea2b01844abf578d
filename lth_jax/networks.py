"""The field's networks on CIFAR's small images: Conv-2, Conv-4, Conv-6, ResNets and VGGs.

Sources: Frankle & Carbin 2019, §3 and Figure 2 (Conv-2/4/6); He et al. 2016, §4.2 (ResNets of depth 6n + 2);
Simonyan & Zisserman 2015, Table 1 (VGG A, B, D, E), with one dense layer in place of three, as their CIFAR
form is pruned in Frankle et al. 2020. Convolutions are 3×3 with zeros around the image, one pixel wide.

Layers are called ``conv_0`` …, ``hidden_0`` …, ``output``; those of a ResNet's block ``block_0/conv_0``,
``block_0/conv_1`` and ``block_3/shortcut``. ``--layer-rates output=0`` spares a VGG's last layer.

>>> parameter_count(VGG(16), (32, 32, 3))
14719818
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lth_jax.initializers import SCHEMES
from lth_jax.kernels.convolutions import max_pool
from lth_jax.models import Logits, from_linen, parameter_shapes

Images = Float[Array, "batch height width channels"]
Features = Float[Array, "batch out_height out_width features"]

NORMS = ("batch", "group", "none")
"""What stands behind a convolution: batch or group normalization, or a bias."""

GROUPS = 8
"""Groups of a group normalization; fewer where 8 does not divide the channels."""

VGG_PLANS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions between two poolings, by depth; channels are 64, 128, 256, 512, 512."""


class ConvNet(nn.Module):
    """Conv-2, Conv-4 and Conv-6: pairs of convolutions, each pair followed by 2×2 max-pooling, then dense.

    Weights on 32×32×3, biases aside: ``ConvNet((64,))`` is Conv-2 with 4,300,992, of which 38,592 in
    convolutions; ``ConvNet((64, 128))`` Conv-4 with 2,425,024 and 259,776; ``ConvNet((64, 128, 256))`` Conv-6
    with 2,261,184 and 1,144,512. The paper prints 1.7 million for Conv-6, less than the layers that it lists.

    Kernels are drawn from the Gaussian Glorot distribution, biases are 0.
    """

    filters: Sequence[int] = (64,)
    hidden: Sequence[int] = (256, 256)
    classes: int = 10
    kernel_init: Callable[..., Array] = SCHEMES["xavier_normal"]

    @nn.compact
    def __call__(self, images: Images) -> Logits:
        x, layer = images, 0
        for features in self.filters:
            for _ in range(2):
                conv = nn.Conv(features, (3, 3), kernel_init=self.kernel_init, name=f"conv_{layer}")
                x, layer = nn.relu(conv(x)), layer + 1
            x = halved(x)
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, kernel_init=self.kernel_init, name=f"hidden_{layer}")(x))
        return nn.Dense(self.classes, kernel_init=self.kernel_init, name="output")(x)


class ResNet(nn.Module):
    """A ResNet for CIFAR: a convolution, three stages of n blocks of two, the mean over space, a dense layer.

    The depth is 6n + 2: 20, 32, 44, 56, 110. Channels are ``width``, twice and four times as many; the second
    and third stage begin with stride 2. Where a block changes its shape, ``shortcut`` is ``projection`` (a
    1×1 convolution and a norm, as open_lth has it and tickets are reported of) or ``padding`` (every other
    pixel, new channels 0: option A of the paper, without parameters). On 32×32×3 with BatchNorm: 269,722
    parameters at depth 20 with ``padding``, the paper's 0.27 million; 272,474 with ``projection``.

    Kernels are drawn from He's normal distribution, norm scales from U(0, 1), biases are 0.

    Raises:
      ValueError: a depth that is not 6n + 2, or an unknown norm or shortcut.
    """

    depth: int = 20
    classes: int = 10
    norm: str = "batch"
    shortcut: str = "projection"
    width: int = 16
    kernel_init: Callable[..., Array] = SCHEMES["he_normal"]
    scale_init: Callable[..., Array] = nn.initializers.uniform(1.0)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {self.depth}: a ResNet for CIFAR has 6n + 2: 20, 32, 44, 56, 110")
        if self.shortcut not in ("projection", "padding"):
            raise ValueError(f"shortcut {self.shortcut!r}: expected projection or padding")
        rule = {"kernel_init": self.kernel_init, "scale_init": self.scale_init, "norm": self.norm}
        x = nn.relu(Convolution(self.width, name="conv", **rule)(images, train))
        for block in range(3 * blocks):
            stage = block // blocks
            stride = 2 if stage and block % blocks == 0 else 1
            features = self.width * 2**stage
            x = Block(features, stride, self.shortcut, **rule, name=f"block_{block}")(x, train)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.classes, kernel_init=self.kernel_init, name="output")(x)


class Block(nn.Module):
    """Two convolutions and what goes around them (He et al. 2016, §3)."""

    features: int
    stride: int
    shortcut: str
    norm: str
    kernel_init: Callable[..., Array]
    scale_init: Callable[..., Array]

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Features:
        rule = {"kernel_init": self.kernel_init, "scale_init": self.scale_init, "norm": self.norm}
        inner = nn.relu(Convolution(self.features, self.stride, name="conv_0", **rule)(images, train))
        inner = Convolution(self.features, name="conv_1", **rule)(inner, train)
        if self.stride == 1 and images.shape[-1] == self.features:
            return nn.relu(inner + images)
        if self.shortcut == "projection":
            shape = Convolution(self.features, self.stride, 1, name="shortcut", **rule)
            return nn.relu(inner + shape(images, train))
        around = images[:, :: self.stride, :: self.stride]
        new = self.features - images.shape[-1]
        return nn.relu(inner + jnp.pad(around, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2))))


class VGG(nn.Module):
    """VGG-11, 13, 16 and 19 for CIFAR: convolutions, 2×2 max-pooling four times, the mean, a dense layer.

    ``width`` is the first layer's channels, up to eight times as many follow. On 32×32×3 VGG-16 has
    14,715,584 weights, of which 5,120 in the last layer; VGG-19 20,023,744 (Frankle & Carbin 2019: 20.0
    million). A convolution with a norm has no bias.

    Kernels are drawn from He's normal distribution, norm scales from U(0, 1), biases are 0.

    Raises:
      ValueError: an unknown depth or norm, or images too small to be halved four times.
    """

    depth: int = 16
    classes: int = 10
    norm: str = "batch"
    width: int = 64
    kernel_init: Callable[..., Array] = SCHEMES["he_normal"]
    scale_init: Callable[..., Array] = nn.initializers.uniform(1.0)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        if self.depth not in VGG_PLANS:
            raise ValueError(f"depth {self.depth}: expected one of {', '.join(map(str, VGG_PLANS))}")
        rule = {"kernel_init": self.kernel_init, "scale_init": self.scale_init, "norm": self.norm}
        x, layer = images, 0
        for stage, convolutions in enumerate(VGG_PLANS[self.depth]):
            x = halved(x) if stage else x
            for _ in range(convolutions):
                conv = Convolution(self.width * 2 ** min(stage, 3), name=f"conv_{layer}", **rule)
                x, layer = nn.relu(conv(x, train)), layer + 1
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.classes, kernel_init=self.kernel_init, name="output")(x)


class Convolution(nn.Module):
    """A convolution and the norm behind it; without a norm it has a bias.

    BatchNorm's running statistics move by a tenth a step, its variance is kept from 0 by 1e-5. GroupNorm has
    ``GROUPS`` groups.

    Raises:
      ValueError: an unknown norm.
    """

    features: int
    stride: int = 1
    window: int = 3
    norm: str = "batch"
    kernel_init: Callable[..., Array] = SCHEMES["he_normal"]
    scale_init: Callable[..., Array] = nn.initializers.uniform(1.0)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Features:
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r}: expected one of {', '.join(NORMS)}")
        x = nn.Conv(
            self.features, (self.window, self.window), self.stride, self.window // 2,
            use_bias=self.norm == "none", kernel_init=self.kernel_init, name="conv",
        )(images)  # fmt: skip
        if self.norm == "none":
            return x
        if self.norm == "group":
            groups = math.gcd(GROUPS, self.features)
            return nn.GroupNorm(groups, epsilon=1e-5, scale_init=self.scale_init, name="norm")(x)
        return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, scale_init=self.scale_init, name="norm")(x)


def halved(images: Images) -> Features:
    """2×2 max-pooling.

    Raises:
      ValueError: nothing would be left of the images.
    """
    if min(images.shape[1:3]) < 2:
        raise ValueError(f"images of {images.shape[1:3]} cannot be halved once more: they are too small")
    return max_pool(images)


def parameter_count(module: Any, image_shape: Sequence[int]) -> int:
    """How many parameters a linen module has for images ``[height, width, channels]``, nothing computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(from_linen(module), image_shape)))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "conv2": functools.partial(ConvNet, (64,)),
    "conv4": functools.partial(ConvNet, (64, 128)),
    "conv6": functools.partial(ConvNet, (64, 128, 256)),
    "resnet20": functools.partial(ResNet, 20),
    "resnet32": functools.partial(ResNet, 32),
    "resnet56": functools.partial(ResNet, 56),
    "vgg11": functools.partial(VGG, 11),
    "vgg16": functools.partial(VGG, 16),
}
"""The networks by name; ``classes`` is what is left to say, and ``norm`` where there is one."""
NORMED = ("resnet", "vgg")
"""How the names of those begin that have norms."""
