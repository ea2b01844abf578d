"""Models: Flax modules, and the pair of pure functions that the rest of the library sees.

:func:`from_linen` and :func:`from_nnx` turn a module of either kind into a :class:`Network`; those with batch
statistics or dropout keep their own collections and get a key. A pair of functions of your own will do too.
"""

import functools
import inspect
import itertools
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lth_jax.errors import InputError, require
from lth_jax.kernels.convolutions import Conv, max_pool
from lth_jax.types import Collections, Params, PRNGKey, Shapes

Logits = Float[Array, "batch classes"]


class Network(NamedTuple):
    """A model as two pure functions.

    ``init(key, inputs) -> (params, collections)``;
    ``apply(params, collections, inputs, key) -> (outputs, collections)``, where ``key`` is ``None`` for
    inference: collections then come back unchanged. Inputs are whatever the task makes of a batch.
    """

    init: Callable[[PRNGKey, Any], tuple[Params, Collections]]
    apply: Callable[[Params, Collections, Any, PRNGKey | None], tuple[Any, Collections]]


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


MODES = {
    **dict.fromkeys(("train", "training", "is_training", "is_train"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference"), False),
}
"""Arguments by which a module may be told whether it trains: what they are then."""


def as_network(model: Any) -> Network:
    """A ``Network``, a linen module or a pair of functions as a :class:`Network`.

    Raises:
      InputError: it is something else; the message says what to pass.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, nn.Module) or (isinstance(model, type) and issubclass(model, nn.Module)):
        return from_linen(model)
    if isinstance(model, tuple | list) and len(model) == 2 and all(map(callable, model)):
        return Network(*model)
    if "flax.nnx" in sys.modules:
        from flax import nnx

        if isinstance(model, nnx.Module) or (isinstance(model, type) and issubclass(model, nnx.Module)):
            name = getattr(model, "__name__", type(model).__name__)
            raise InputError(f"the model is an NNX module: pass from_nnx(lambda rngs: {name}(rngs=rngs))")
    kind = type(model).__name__
    raise InputError(
        f"the model is a {kind}: expected a linen module, from_nnx(...) or functions (init, apply)"
    )


def from_linen(module: Any) -> Network:
    """A linen module as a :class:`Network`.

    A module whose ``__call__`` takes one of the arguments in ``MODES``, by name or by position, is told by it
    whether it trains. Whatever random streams it asks for get keys of their own, ``dropout`` the first. Boxed
    parameters (``nn.with_partitioning``) are unboxed; what it sows is not kept.

    Raises:
      InputError: it is a class, not an instance.
    """
    if isinstance(module, type):
        raise InputError(f"the model is the class {module.__name__}: pass an instance, {module.__name__}()")
    parameters = list(inspect.signature(type(module).__call__).parameters.values())[2:]
    leading = list(itertools.takewhile(lambda p: p.name in MODES and p.kind != p.KEYWORD_ONLY, parameters))
    named = [p.name for p in parameters if p.name in MODES and p not in leading]

    def call(method: Callable, variables: Any, inputs: Any, training: bool, **options: Any) -> Any:
        placed = [MODES[p.name] is training for p in leading]
        return method(variables, inputs, *placed, **{n: MODES[n] is training for n in named}, **options)

    def rngs(key: PRNGKey) -> dict[str, PRNGKey]:
        # A stream that is not named here falls back on that of the parameters.
        return {"dropout": key, "params": jax.random.fold_in(key, 2**31 - 2)}

    def check_layers(variables: Any, inputs: Any) -> None:
        streams = rngs(jax.random.key(0))
        for training in (True, False):
            run = functools.partial(call, module.apply, inputs=inputs, training=training, mutable=True)
            with nn.intercept_methods(functools.partial(_check_layer, training)):
                jax.eval_shape(lambda given, run=run: run(given, rngs=streams), variables)

    def init(key: PRNGKey, inputs: Any) -> tuple[Params, Collections]:
        variables = dict(nn.meta.unbox(call(module.init, {"params": key}, inputs, False)))
        check_layers(variables, inputs)
        params = variables.pop("params", {})
        if not variables:
            return params, {}
        seen = jax.eval_shape(
            lambda given: call(
                module.apply, given, inputs, True, rngs=rngs(jax.random.key(0)), mutable=list(variables)
            )[1],
            {"params": params, **variables},
        )
        structure = jax.tree.structure
        grows = [n for n in variables if structure(seen.get(n)) != structure(variables[n])]  # what is sown
        return params, {name: each for name, each in variables.items() if name not in grows}

    def apply(
        params: Params, collections: Collections, inputs: Any, key: PRNGKey | None = None
    ) -> tuple[Any, Collections]:
        variables = {"params": params, **collections}
        if key is None:
            return call(module.apply, variables, inputs, False), collections
        outputs, updated = call(
            module.apply, variables, inputs, True, rngs=rngs(key), mutable=list(collections)
        )
        return outputs, dict(updated)

    return Network(init, apply)


def _check_layer(training: bool, layer: Callable[..., Any], inputs: Any, options: Any, context: Any) -> Any:
    """Calls a layer, unless it would do wrong in silence: drop in the wrong mode, or reduce over seeds."""
    module, name = context.module, "/".join(context.module.path)
    if context.method_name == "__call__":
        axis = getattr(module, "axis_name", None)
        require(axis is None, f"{name} has axis_name {axis!r}: it could mix seeds; leave it out")
        if isinstance(module, nn.Dropout) and module.rate > 0:
            given = options.get("deterministic", inputs[1] if len(inputs) > 1 else None)
            off = module.deterministic if given is None else given
            wanted = "pass deterministic=not train, see models.MODES"
            require(not (training and off is True), f"{name} never drops anything: {wanted}")
            require(training or off is not False, f"{name} drops in evaluation too: {wanted}")
    return layer(*inputs, **options)


from_flax = from_linen
"""The name that it had first."""


def from_nnx(make: Callable[[Any], Any]) -> Network:
    """An NNX module as a :class:`Network`, from a function that makes it: ``lambda rngs: Net(rngs=rngs)``.

    Its ``nnx.Param`` variables are the parameters, as a tree of dictionaries; its random streams are seeded
    anew by every step's key; all other variables (batch statistics …) are collections. ``train()`` and
    ``eval()`` say whether it trains.

    Args:
      make: ``nnx.Rngs`` to a module; called with another key for every seed.
    """
    from flax import nnx

    def split(model: Any) -> Any:
        return nnx.split(model, nnx.Param, nnx.RngState, ...)

    def template(training: bool) -> Any:
        def made() -> Any:
            model = make(nnx.Rngs(jax.random.key(0)))
            model.train() if training else model.eval()
            return model

        return split(nnx.eval_shape(made))

    def init(key: PRNGKey, inputs: Any) -> tuple[Params, Collections]:
        _, params, _, rest = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def apply(
        params: Params, collections: Collections, inputs: Any, key: PRNGKey | None = None
    ) -> tuple[Any, Collections]:
        definition, own, random, rest = template(key is not None)
        for state, values in ((own, params), (rest, collections)):
            nnx.replace_by_pure_dict(state, values)
        streams = jax.random.key(0) if key is None else key
        fresh = jax.tree.map_with_path(
            lambda path, leaf: _stream_state(path, leaf, streams), nnx.to_pure_dict(random)
        )
        nnx.replace_by_pure_dict(random, fresh)
        model = nnx.merge(definition, own, random, rest)
        outputs = model(inputs)
        return outputs, collections if key is None else nnx.to_pure_dict(split(model)[3])

    return Network(init, apply)


def _stream_state(path: Any, leaf: Any, key: PRNGKey) -> Array:
    """A random stream's count, from 0, or its key, told apart by its place."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.zeros(leaf.shape, leaf.dtype)
    place = zlib.crc32(jax.tree_util.keystr(path).encode()) & 0x7FFFFFFF
    return jax.random.fold_in(key, place)


def parameter_shapes(network: Network, image_shape: Sequence[int]) -> Shapes:
    """The network's parameter tree as ``jax.ShapeDtypeStruct``, nothing computed.

    Args:
      network: the network.
      image_shape: height, width, channels.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    return jax.eval_shape(network.init, jax.random.key(0), images)[0]
