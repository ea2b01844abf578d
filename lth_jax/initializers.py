"""Named weight distributions.

A :class:`Scheme` is a distribution family and a formula for its spread in terms of fan-in and fan-out:
``U(−a, a)`` with bound *a*, or ``N(0, s²)`` with standard deviation *s*. Fans follow Flax's kernel layouts:
dense ``[in, out]``, convolution ``[*window, in, out]``, where the window's size multiplies both fans.

Sources: Xavier: Glorot & Bengio 2010, eq. 16. Kaiming: He et al. 2015, eq. 10; with gain 1 as in document
000, Table 1 (``kaiming_*``, also LeCun 1998), with gain √2 for ReLU (``he_*``). ``torch_default`` is the
draw of PyTorch's linear and convolution layers, U(±1/√fan_in) for kernels and for biases; ``flax_default``
that of Flax's, a normal of variance 1/fan_in cut at two standard deviations (LeCun 1998).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lth_jax.tickets.masks import path_names
from lth_jax.types import Params, PRNGKey, Shapes

Spread = Callable[[int, int], float]


class Scheme(NamedTuple):
    """A weight distribution: ``center`` + a draw of ``kind`` with spread ``spread(fan_in, fan_out)``.

    ``kind`` is ``uniform`` (spread = bound), ``normal`` or ``truncated`` (spread = standard deviation before
    the cut at ±2 of them).
    """

    kind: Literal["uniform", "normal", "truncated"]
    spread: Spread
    center: float = 0.0

    def __call__(self, key: PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        """Flax's initializer signature, so that a scheme can be a module's ``kernel_init``."""
        return draw(self, key, shape, fans(shape), dtype)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Fan-in and fan-out of a kernel ``[in, out]`` or ``[*window, in, out]``.

    Raises:
      ValueError: fewer than two dimensions, as a bias has.
    """
    if len(shape) < 2:
        raise ValueError(f"a shape of two or more dimensions has fans, {tuple(shape)} does not")
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def draw(
    scheme: Scheme, key: PRNGKey, shape: Sequence[int], fan: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "..."]:
    """A tensor of ``shape`` from ``scheme`` with the spread that the fans ``(in, out)`` give."""
    return scheme.center + scheme.spread(*fan) * standard_sample(scheme.kind, key, shape, dtype)


def standard_sample(kind: str, key: PRNGKey, shape: Sequence[int], dtype: Any) -> Float[Array, "..."]:
    """A tensor from the family's distribution of spread 1: U(−1, 1), N(0, 1), or N(0, 1) cut at ±2."""
    return {
        "uniform": lambda: jax.random.uniform(key, shape, dtype, -1.0, 1.0),
        "normal": lambda: jax.random.normal(key, shape, dtype),
        "truncated": lambda: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
    }[kind]()


TRUNCATED_STD = 0.8796256610342398
"""Standard deviation of N(0, 1) cut at ±2."""


def weight_variance(scheme: Scheme, fan_in: int, fan_out: int) -> float:
    """Variance of one weight, about the scheme's center: a²/3, s², or what the cut leaves of s²."""
    share = {"uniform": 1 / 3, "normal": 1.0, "truncated": TRUNCATED_STD**2}[scheme.kind]
    return share * scheme.spread(fan_in, fan_out) ** 2


def xavier_bound(fan_in: int, fan_out: int) -> float:
    """√(6 / (fan_in + fan_out))."""
    return math.sqrt(6 / (fan_in + fan_out))


def xavier_std(fan_in: int, fan_out: int) -> float:
    """√(2 / (fan_in + fan_out))."""
    return math.sqrt(2 / (fan_in + fan_out))


def fan_in_bound(gain: float) -> Spread:
    """gain · √(3 / fan_in)."""
    return lambda fan_in, fan_out: gain * math.sqrt(3 / fan_in)


def fan_in_std(gain: float) -> Spread:
    """gain / √fan_in."""
    return lambda fan_in, fan_out: gain / math.sqrt(fan_in)


def fan_out_bound(gain: float) -> Spread:
    """gain · √(3 / fan_out)."""
    return lambda fan_in, fan_out: gain * math.sqrt(3 / fan_out)


def fan_out_std(gain: float) -> Spread:
    """gain / √fan_out."""
    return lambda fan_in, fan_out: gain / math.sqrt(fan_out)


def constant(spread: float) -> Spread:
    """The same spread whatever the fans."""
    return lambda fan_in, fan_out: spread


def scaled(scheme: Scheme, factor: float) -> Scheme:
    """The scheme with its spread multiplied by ``factor``."""
    return scheme._replace(spread=lambda fan_in, fan_out: factor * scheme.spread(fan_in, fan_out))


GAINS: dict[str, float] = {
    "identity": 1.0,
    "relu": math.sqrt(2),
    "tanh": 1.5925374197228312,
    "gelu": 1 / math.sqrt(1 / 3 + 1 / (2 * math.pi * math.sqrt(3))),
}
"""1/√E[a(z)²] for z ~ N(0, 1): a weight variance of gain²/fan_in carries variance 1 on as 1 (He et al. 2015,
eq. 10, for ReLU). PyTorch's tanh gain is 5/3, and there is none for GELU."""


def for_activation(activation: str) -> Scheme:
    """N(0, gain²/fan_in) with the activation's own gain.

    Raises:
      ValueError: the activation has no gain here.
    """
    if activation not in GAINS:
        raise ValueError(f"no gain is known for {activation!r}; expected one of {', '.join(GAINS)}")
    return Scheme("normal", fan_in_std(GAINS[activation]))


_XAVIER_UNIFORM = Scheme("uniform", xavier_bound)
_XAVIER_NORMAL = Scheme("normal", xavier_std)

SCHEMES: dict[str, Scheme] = {
    "xavier_uniform": _XAVIER_UNIFORM,
    "xavier_normal": _XAVIER_NORMAL,
    "kaiming_uniform": Scheme("uniform", fan_in_bound(1.0)),
    "kaiming_normal": Scheme("normal", fan_in_std(1.0)),
    "xavier_uniform_half": scaled(_XAVIER_UNIFORM, 0.5),
    "xavier_normal_half": scaled(_XAVIER_NORMAL, 0.5),
    "xavier_uniform_double": scaled(_XAVIER_UNIFORM, 2.0),
    "xavier_normal_double": scaled(_XAVIER_NORMAL, 2.0),
    "he_uniform": Scheme("uniform", fan_in_bound(math.sqrt(2))),
    "he_normal": Scheme("normal", fan_in_std(math.sqrt(2))),
    "he_normal_fan_out": Scheme("normal", fan_out_std(math.sqrt(2))),
    "he_uniform_fan_out": Scheme("uniform", fan_out_bound(math.sqrt(2))),
    "kaiming_uniform_fan_out": Scheme("uniform", fan_out_bound(1.0)),
    "kaiming_normal_fan_out": Scheme("normal", fan_out_std(1.0)),
    "torch_default": Scheme("uniform", fan_in_std(1.0)),
    "flax_default": Scheme("truncated", fan_in_std(1 / TRUNCATED_STD)),
    "standard_normal": Scheme("normal", constant(1.0)),
    "standard_uniform": Scheme("uniform", constant(0.5), center=0.5),
}
"""Every named scheme. ``standard_uniform`` is U(0, 1), the one whose mean is not 0."""


def get(name: str) -> Scheme:
    """The scheme of that name; ``normal:0.1`` is N(0, 0.1²), whatever the fans.

    Raises:
      ValueError: there is none.
    """
    family, _, number = name.partition(":")
    if family == "normal" and number:
        return Scheme("normal", constant(_positive(number, name)))
    if name not in SCHEMES:
        raise ValueError(
            f"unknown initialization {name!r}; expected one of {', '.join(SCHEMES)}, or normal:STD"
        )
    return SCHEMES[name]


def _positive(text: str, name: str) -> float:
    """A standard deviation as it is written behind ``normal:``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise ValueError(f"initialization {name!r}: expected a positive number behind 'normal:'")
    return value


def initialize(key: PRNGKey, shapes: Shapes, kernels: Scheme, biases: Scheme | None = None) -> Params:
    """Draw a parameter tree: kernels from one scheme, their biases 0 or from another with the kernel's fans.

    Args:
      key: the run's initialization key; every leaf gets its own by position.
      shapes: the parameters as their module has drawn them, or their ``ShapeDtypeStruct``. What is called
        ``kernel`` is drawn from ``kernels``, a ``bias`` beside it is 0 or drawn from ``biases``. All else
        (norm layers, embeddings) has no rule, see :func:`without_rule`, and stays as the module has drawn it.
      kernels: the kernels' scheme.
      biases: the biases' scheme; ``None`` starts them at 0.

    Raises:
      ValueError: a leaf without a rule, of which there is only a shape.
    """
    leaves, structure = jax.tree.flatten_with_path(shapes)
    kernel_fans = _kernel_fans(leaves)
    drawn = []
    for position, (path, leaf) in enumerate(leaves):
        *layer, kind = path_names(path)
        fan, own_key = kernel_fans.get(tuple(layer)), jax.random.fold_in(key, position)
        if fan is not None and kind == "kernel":
            drawn.append(draw(kernels, own_key, leaf.shape, fan, leaf.dtype))
        elif fan is not None and kind == "bias" and biases is None:
            drawn.append(jnp.zeros(leaf.shape, leaf.dtype))
        elif fan is not None and kind == "bias" and biases is not None:
            drawn.append(draw(biases, own_key, leaf.shape, fan, leaf.dtype))
        elif isinstance(leaf, jax.Array):
            drawn.append(leaf)
        else:
            raise ValueError(f"{'/'.join((*layer, kind))} is neither a kernel nor a kernel's bias")
    return jax.tree.unflatten(structure, drawn)


def without_rule(shapes: Shapes) -> list[str]:
    """The parameters that :func:`initialize` leaves as drawn: neither kernels nor their biases."""
    leaves = jax.tree.leaves_with_path(shapes)
    fans_of, names = _kernel_fans(leaves), [path_names(path) for path, _ in leaves]
    return ["/".join(n) for n in names if n[:-1] not in fans_of or n[-1] not in ("kernel", "bias")]


ATTENTION = ("query", "key", "value")
"""Layers whose kernels are ``[in, heads, dim]``; those of ``out`` are ``[heads, dim, out]``."""


def _kernel_fans(leaves: Sequence[tuple[Any, Any]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Fan-in and fan-out of every layer that has a kernel, by its path."""
    found = {}
    for path, leaf in leaves:
        *layer, kind = path_names(path)
        if kind != "kernel" or leaf.ndim < 2:
            continue
        shape = tuple(leaf.shape)
        if leaf.ndim == 3 and layer and layer[-1] in ATTENTION:
            shape = (shape[0], shape[1] * shape[2])
        elif leaf.ndim == 3 and layer and layer[-1] == "out":
            shape = (shape[0] * shape[1], shape[2])
        found[tuple(layer)] = fans(shape)
    return found
