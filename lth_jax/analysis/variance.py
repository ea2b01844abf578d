"""How a random network carries variance through depth: measured at any depth, and predicted.

A stack of dense layers without biases, ``f_k = Ω_k h_{k−1}``, ``h_k = a(f_k)``, one output unit, least
squares to the target 0 (document 003; Prince, *Understanding Deep Learning*, §7.5 and figure 7.4). Followed
is the variance over a layer's units of the pre-activations f_k, and of the gradients ∂ℓ/∂f_k. Both have mean
0 over the draws of a centred scheme, so a variance is measured as a mean square, which is unbiased.

**Exact at any depth.** At each layer the vector is divided by its root mean square, and the logarithms of
what was divided out are added up, on the host in float64. With u = f_k, the activation h = f · (a(u)/u) needs
only the secant a(u)/u, which stays between 0 and 1 however small or large u is: nothing is out of range.

**Theory** (Glorot & Bengio 2010; He et al. 2015; Poole et al. 2016, eq. 3). With q_k the variance of f_k,
σ_k² that of a weight of layer k, D_k units in layer k, and z ~ N(0, 1):

    q_{k+1} = D_k σ²_{k+1} E[a(√q_k z)²]              ReLU: q_{k+1} = q_k · D_k σ²_{k+1} / 2
    g_k = g_{k+1} · D_{k+1} σ²_{k+1} E[a'(√q_k z)²]    ReLU: g_k = g_{k+1} · D_{k+1} σ²_{k+1} / 2

For ReLU and the identity the first line holds exactly for the mean over networks, at any width, and so does
E[v_{k+1} / v_k] for the measured mean squares v (by the symmetry f ↔ −f). A typical network lies below it:
see :func:`relu_log_bias`.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int, Num

from lth_jax.initializers import Scheme, standard_sample, weight_variance
from lth_jax.keys import stream
from lth_jax.runs.axis import map_runs
from lth_jax.types import PRNGKey


class Activation(NamedTuple):
    """An activation with a(0) = 0: its secant a(u)/u, continued at 0, and its derivative a'(u)."""

    secant: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


def _tanh_secant(u: Array) -> Array:
    """tanh(u)/u, by its series near 0 where the quotient would lose digits."""
    near = jnp.abs(u) < 1e-2
    return jnp.where(near, 1 - u * u / 3, jnp.tanh(u) / jnp.where(near, 1, u))


def _tanh_derivative(u: Array) -> Array:
    """1/cosh², without the cancellation of 1 − tanh²."""
    decay = jnp.exp(-2 * jnp.abs(u))
    return 4 * decay / (1 + decay) ** 2


def _gelu_derivative(u: Array) -> Array:
    density = jnp.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    return jax.scipy.special.ndtr(u) + u * density


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(jnp.ones_like, jnp.ones_like),
    "relu": Activation(lambda u: (u > 0).astype(u.dtype), lambda u: (u > 0).astype(u.dtype)),
    "tanh": Activation(_tanh_secant, _tanh_derivative),
    "gelu": Activation(jax.scipy.special.ndtr, _gelu_derivative),
}
"""By name; GELU is u · Φ(u), without the tanh approximation. Their gains: ``initializers.GAINS``."""


class Layers(NamedTuple):
    """A stack of layers as data, one entry a layer, the output last: runs of many schemes share a program."""

    fan_in: Int[Array | np.ndarray, "*layers"]
    fan_out: Int[Array | np.ndarray, "*layers"]
    spread: Float[Array | np.ndarray, "*layers"]
    center: Float[Array | np.ndarray, "*layers"]


class Steps(NamedTuple):
    """Natural logarithms of the ratios of mean squares from one layer to the next.

    ``forward[k]`` is from layer k to k + 1, the input being layer 0 with mean square 1 and the output the
    last; ``backward[k]`` is from ∂ℓ/∂f_{k+2} to ∂ℓ/∂f_{k+1}, the last entry from ∂ℓ/∂output.
    """

    forward: Float[Array | np.ndarray, "*layers"]
    backward: Float[Array | np.ndarray, "*hidden"]


class LogVariances(NamedTuple):
    """Natural logarithms of the variances of f_1 … f_K, of the output, and of ∂ℓ/∂f_1 … ∂ℓ/∂f_K."""

    forward: Float[np.ndarray, "*runs hidden"]
    output: Float[np.ndarray, "*runs"]
    backward: Float[np.ndarray, "*runs hidden"]


def stack_sizes(inputs: int, widths: Sequence[int], depth: int) -> tuple[int, ...]:
    """Units per layer: the inputs, ``depth`` hidden layers that repeat ``widths``, one output.

    Raises:
      ValueError: a size or the depth is below 1.
    """
    hidden = tuple(itertools.islice(itertools.cycle(widths), depth))
    if depth < 1 or min((inputs, *widths), default=0) < 1:
        raise ValueError(f"inputs {inputs}, widths {tuple(widths)} and depth {depth} must be at least 1")
    return (inputs, *hidden, 1)


def make_layers(sizes: Sequence[int], scheme: Scheme) -> Layers:
    """The layers of a network of these sizes, with the spread that the scheme gives each layer's fans."""
    fans = list(itertools.pairwise(sizes))
    spread = np.array([scheme.spread(*fan) for fan in fans], np.float32)
    fan_in, fan_out = np.array(fans, np.int32).T
    return Layers(fan_in, fan_out, spread, np.full_like(spread, scheme.center))


def _kernel(key: PRNGKey, layer: Layers, kind: str, width: int) -> Float[Array, "width width"]:
    """One layer's kernel ``[in, out]``, in the upper left corner of a square as wide as the widest layer."""
    sample = standard_sample(kind, key, (width, width), jnp.float32)
    unit = jnp.arange(width)
    real = (unit[:, None] < layer.fan_in) & (unit[None, :] < layer.fan_out)
    return jnp.where(real, layer.center + layer.spread * sample, 0.0)


def _normalise(x: Float[Array, " width"], units: Array | np.ndarray) -> tuple[Array, Array]:
    """A vector with mean square 1 over its real units, and the logarithm of what the mean square was."""
    square = jnp.sum(x * x) / jnp.asarray(units, x.dtype)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1.0)), jnp.log(square)


def propagate(
    key: PRNGKey, inputs: Float[Array, " inputs"], layers: Layers, kind: str, activation: str, width: int
) -> Steps:
    """Draw one network, send one input up and the gradient of its squared output down.

    Kernels are drawn anew on the way down, from the same keys, so that memory grows with depth × width only.

    Args:
      key: of the kernels.
      inputs: the input, at most ``width`` numbers.
      layers: fans and spreads, see :func:`make_layers`.
      kind: the scheme's family, see :class:`lth_jax.initializers.Scheme`.
      activation: a name in ``ACTIVATIONS``.
      width: the widest layer's units.

    Returns:
      The logarithmic steps, see :func:`accumulate`. A network whose units all died has steps of −∞.
    """
    secant, derivative = ACTIVATIONS[activation]
    depth = layers.spread.shape[0]
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(depth))
    layers = jax.tree.map(jnp.asarray, layers)

    def ascend(carry: tuple[Array, Array], at: tuple[PRNGKey, Layers]) -> tuple[tuple[Array, Array], tuple]:
        hidden, log_scale = carry
        kernel = _kernel(*at, kind, width)
        pre, step = _normalise(jnp.matmul(hidden, kernel, precision="highest"), at[1].fan_out)
        log_scale = log_scale + step / 2
        # Below e^−60 activations are linear, beyond e^80 saturated; the signs must survive.
        u = pre * jnp.exp(jnp.clip(log_scale, -60.0, 80.0))
        return (pre * secant(u), log_scale), (step, derivative(u))

    def descend(above: Array, at: tuple[PRNGKey, Layers, Array]) -> tuple[Array, Array]:
        layer_key, layer, slopes = at
        kernel = _kernel(layer_key, layer, kind, width)
        return _normalise(slopes * jnp.matmul(kernel, above, precision="highest"), layer.fan_in)

    start = jnp.pad(inputs, (0, width - inputs.shape[0]))
    _, (forward, slopes) = jax.lax.scan(ascend, (start, jnp.float32(0)), (keys, layers))
    below = jax.tree.map(lambda a: a[1:], (keys, layers))
    _, backward = jax.lax.scan(descend, jnp.zeros(width).at[0].set(1.0), (*below, slopes[:-1]), reverse=True)
    return Steps(forward, backward)


def accumulate(steps: Steps) -> LogVariances:
    """Steps added up in float64. The loss is (output − 0)²: its gradient's square is 4 output²."""
    forward = np.cumsum(np.asarray(steps.forward, np.float64), axis=-1)
    backward = np.cumsum(np.asarray(steps.backward, np.float64)[..., ::-1], axis=-1)[..., ::-1]
    output = forward[..., -1]
    return LogVariances(forward[..., :-1], output, backward + (np.log(4) + output)[..., None])


def measure(
    seeds: Sequence[int],
    sizes: Sequence[int],
    scheme: Scheme,
    activation: str,
    index: int = 0,
    chunk: int | None = None,
) -> LogVariances:
    """One random network per seed, its input from N(0, 1): the variances of all, a leading axis *seed*.

    Args:
      seeds: one network each.
      sizes: see :func:`stack_sizes`.
      scheme: the kernels' distribution.
      activation: a name in ``ACTIVATIONS``.
      index: tells draws of one seed apart. Schemes measured with the same index share them, and with a
        homogeneous activation (ReLU, identity) such networks are one network, scaled.
      chunk: see ``parallel.map_runs``.
    """
    mapped = _mapped(scheme.kind, activation, sizes[0], max(sizes), chunk)
    runs = {"seed": np.asarray(seeds, np.int32), "index": np.full(len(seeds), index, np.int32)}
    return accumulate(mapped(runs, make_layers(sizes, scheme)))


@functools.cache
def _mapped(kind: str, activation: str, inputs: int, width: int, chunk: int | None) -> Callable[..., Steps]:
    """The compiled program of many networks, kept so that schemes of one family share it."""

    def one(run: dict[str, Array], layers: Layers) -> Steps:
        seed, index = run["seed"], run["index"]
        x = jax.random.normal(stream(seed, "sample", index), (inputs,))
        return propagate(stream(seed, "init", index), x, layers, kind, activation, width)

    return map_runs(one, chunk=chunk)


def moments(activation: str, log_variance: float) -> tuple[float, float]:
    """E[a(√q z)²]/q and E[a'(√q z)²] for z ~ N(0, 1), by the midpoint rule in float64.

    Args:
      activation: a name in ``ACTIVATIONS``.
      log_variance: ln q.
    """
    points = 8000
    z = (np.arange(points) + 0.5) * (20 / points) - 10
    weight = np.exp(-0.5 * z * z)
    weight /= weight.sum()
    with jax.enable_x64(True):
        u = jnp.asarray(z * np.exp(np.clip(log_variance / 2, -300, 80)))
        secant, derivative = (np.asarray(f(u)) for f in ACTIVATIONS[activation])
    return float(np.sum(weight * (secant * z) ** 2)), float(np.sum(weight * derivative**2))


def predict(sizes: Sequence[int], scheme: Scheme, activation: str) -> LogVariances:
    """The theory's variances of an infinitely wide network, for an input with mean square 1.

    Args:
      sizes: see :func:`stack_sizes`; as many numbers as layers, and the input's.
      scheme: a centred one; NaN for others, whose weights have a mean to carry along.
      activation: a name in ``ACTIVATIONS``.
    """
    fans = list(itertools.pairwise(sizes))
    variances = [weight_variance(scheme, *fan) if scheme.center == 0 else np.nan for fan in fans]
    log_q, forward, slopes = 0.0, [], []
    passed = 1.0  # E[h²] / q of the layer below
    for (fan_in, _), variance in zip(fans, variances, strict=True):
        forward.append(np.log(fan_in * variance * passed))
        log_q += forward[-1]
        passed, slope = moments(activation, log_q)
        slopes.append(slope)
    backward = [
        np.log(fan_out * variance * slope)
        for (_, fan_out), variance, slope in zip(fans[1:], variances[1:], slopes[:-1], strict=True)
    ]
    return accumulate(Steps(np.array(forward), np.array(backward)))


def relu_log_bias(width: int) -> float:
    """How far the mean logarithm of a ReLU layer's ratio lies below the logarithm of its mean, in nats.

    A layer multiplies the squared length by D σ²/2 · X with X = (2/D) χ²_B, B ~ Binomial(D, 1/2) active
    units: E[X] = 1, E[ln X] = E[ψ(B/2)] + ln(4/D) ≈ −5/(2D), Var[ln X] ≈ 5/D. Layers without an active unit,
    whose probability is 2^−D, are left out. (As Hanin & Nica 2020, for products of random matrices.)

    Args:
      width: units D of the layer that is rectified.
    """
    active = np.arange(1, width + 1)
    probability = scipy.stats.binom.pmf(active, width, 0.5)
    log_ratio = scipy.special.digamma(active / 2) + np.log(4 / width)
    return float(np.sum(probability * log_ratio) / np.sum(probability))


class Agreement(NamedTuple):
    """How far measured ratios per layer lie from the predicted ones, as relative errors (0.02 is 2 %).

    ``mean_ratio``: mean over layers of v_{k+1}/v_k over the predicted ratio, of each network;
    ``mean_variance``: from the slope over layers of ln of the variance's mean over networks;
    ``typical``: from the slope of the mean of ln variance, that is of the geometric mean.
    """

    mean_ratio: Float[np.ndarray, " networks"]
    mean_variance: float
    typical: float


def agreement(
    log_variances: Num[np.ndarray, "networks layers"], predicted: Num[np.ndarray, " layers"]
) -> Agreement:
    """Compare measured logarithms of variances with predicted ones, layer after layer in the given order.

    A network that dies (−∞) has variance 0 from there on, and a ratio of 0 where it does; 0/0 is left out and
    all networks' errors are divided by the same number of layers, the mean of those counted: were they
    divided by their own, the short-lived would weigh too much.
    """
    excess = np.asarray(log_variances, np.float64) - predicted
    alive = np.isfinite(excess)
    finite = np.where(alive, excess, 0.0)
    ratio = np.where(alive[:, 1:], np.exp(np.diff(finite, axis=-1)), 0.0)
    counted = alive[:, :-1]
    layers = counted.sum() / len(counted)
    per_network = np.where(counted, ratio - 1, 0.0).sum(-1) / (layers if layers > 0 else np.nan)
    of_mean = (
        scipy.special.logsumexp(excess, axis=0) if alive.any(0).all() else np.full(excess.shape[-1], np.nan)
    )
    of_log = excess.mean(0) if alive.all() else np.full(excess.shape[-1], np.nan)
    return Agreement(per_network, *(float(np.expm1(slope(line))) for line in (of_mean, of_log)))


def slope(line: Float[np.ndarray, " layers"]) -> float:
    """Least-squares slope per layer."""
    layer = np.arange(len(line)) - (len(line) - 1) / 2
    return float(np.sum(layer * line) / np.sum(layer**2))
