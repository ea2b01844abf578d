"""Models: Flax modules, and the pair of pure functions that the rest of the library sees.

Any linen module that maps float images ``[batch, height, width, channels]`` to logits ``[batch, classes]``
will do. :func:`from_flax` turns it into a :class:`Network`; modules with batch statistics or dropout keep
their own collections and get a key.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from lth_jax.kernels.convolutions import Conv, max_pool
from lth_jax.types import Collections, Params, PRNGKey, Shapes

Logits = Float[Array, "batch classes"]


class Network(NamedTuple):
    """A model as two pure functions.

    ``init(key, images) -> (params, collections)``;
    ``apply(params, collections, images, key) -> (logits, collections)``, where ``key`` is ``None`` for
    inference: collections then come back unchanged.
    """

    init: Callable[[PRNGKey, Array], tuple[Params, Collections]]
    apply: Callable[[Params, Collections, Array, PRNGKey | None], tuple[Logits, Collections]]


class MLP(nn.Module):
    """A multilayer perceptron; the images are flattened first.

    ``MLP((300, 100))`` is LeNet-300-100 (LeCun et al. 1998): 784–300–100–10 on MNIST, 266,200 weights.
    """

    hidden: Sequence[int] = (300, 100)
    classes: int = 10
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"]) -> Logits:
        x = images.reshape(images.shape[0], -1)
        *names, output = self.layers(len(self.hidden))
        for name, width in zip(names, self.hidden, strict=True):
            x = self.activation(nn.Dense(width, name=name)(x))
        return nn.Dense(self.classes, name=output)(x)

    @staticmethod
    def layers(hidden: int) -> list[str]:
        """The layers' names in their order, input first, given how many are hidden."""
        return [*(f"hidden_{layer}" for layer in range(hidden)), "output"]


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998) as it is used today: ReLU, max-pooling, every filter sees every channel.

    6 and 16 filters of 5×5 without padding, each followed by 2×2 pooling, then 120–84–10 units. 61,770
    weights on 32×32×3 (400 values enter the dense layers), 44,190 on 28×28×1 (256 do).
    """

    filters: Sequence[int] = (6, 16)
    hidden: Sequence[int] = (120, 84)
    classes: int = 10
    method: str = "auto"

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"]) -> Logits:
        x = images
        for layer, features in enumerate(self.filters):
            convolved = Conv(features, (5, 5), padding="VALID", method=self.method, name=f"conv_{layer}")(x)
            x = max_pool(nn.relu(convolved))
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{layer}")(x))
        return nn.Dense(self.classes, name="output")(x)


def leaky_relu(x: Array) -> Array:
    """LeakyReLU with slope 0.05 below zero, as in the program behind document 000."""
    return nn.leaky_relu(x, 0.05)


def from_flax(module: nn.Module) -> Network:
    """A linen module as a :class:`Network`.

    A module whose ``__call__`` takes ``train``, ``deterministic`` or ``use_running_average`` is told by that
    argument whether it trains; its dropout key is the stream ``dropout``.
    """
    arguments = inspect.signature(type(module).__call__).parameters

    def mode(training: bool) -> dict[str, bool]:
        values = {"train": training, "training": training, "deterministic": not training}
        values["use_running_average"] = not training
        return {name: value for name, value in values.items() if name in arguments}

    def init(key: PRNGKey, images: Array) -> tuple[Params, Collections]:
        variables = dict(module.init({"params": key}, images, **mode(False)))
        return variables.pop("params", {}), variables

    def apply(
        params: Params, collections: Collections, images: Array, key: PRNGKey | None = None
    ) -> tuple[Logits, Collections]:
        variables = {"params": params, **collections}
        if key is None:
            return module.apply(variables, images, **mode(False)), collections
        rngs = {"dropout": key}
        logits, updated = module.apply(variables, images, rngs=rngs, mutable=list(collections), **mode(True))
        return logits, dict(updated)

    return Network(init, apply)


def parameter_shapes(network: Network, image_shape: Sequence[int]) -> Shapes:
    """The network's parameter tree as ``jax.ShapeDtypeStruct``s, nothing computed.

    Args:
      network: the network.
      image_shape: height, width, channels.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    return jax.eval_shape(network.init, jax.random.key(0), images)[0]
