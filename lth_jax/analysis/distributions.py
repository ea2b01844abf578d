"""D_n: the initial weights of a ticket, after n prunings, as a distribution (document 001, §2).

*Empirical*: the nonzero entries of m ⊙ θ0 (:func:`kept_values`), drawn from by ``rewinding.resample``.

*Parametric*, which the document leaves to future work. Let a weight begin at w ~ f0, the initializer's
density; let training move it by a normal displacement of mean ``drift`` μ and standard deviation
``displacement`` s; let pruning keep what then lies beyond ``threshold`` t in magnitude. Then

    p(w) = f0(w) k(w) / Z,    k(w) = Φ((w + μ − t) / s) + Φ((−w − μ − t) / s),

so D_n is the initial density times a smooth keep-probability with a divot at 0. Three numbers a layer, in
units of the initializer's spread, so that layers, and networks, can be compared. With μ = 0, k depends on
``|w|`` alone. A whole network's D_n is the mixture of its layers', weighted by how many weights each keeps.

Fitting and judging are NumPy in float64, on the host; :func:`draw` is JAX.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, PyTree

from lth_jax.initializers import Scheme
from lth_jax.tickets.masks import path_names
from lth_jax.types import Mask, Params, PRNGKey

Values = Float[np.ndarray, " values"]
GRID = 4001
"""Points at which densities are summed: of a uniform draw's range, 2,000 parts of its bound."""

REACH = {"uniform": 1.0, "truncated": 2.0, "normal": 7.0}
"""How far a family's values go from its center, in spreads; beyond 7σ lies 1e-12 of a normal."""

LIMITS = ((np.log(1e-3), np.log(1e2)), (np.log(1e-3), np.log(1e2)), (-10.0, 10.0))
"""Where the fit looks: log threshold, log displacement, drift, in spreads."""


class Model(NamedTuple):
    """D_n of one layer: its initial density and what training and pruning make of it.

    ``kind`` and ``spread`` are the initializer's, ``center`` its mean, in the weights' unit; ``threshold``,
    ``displacement`` and ``drift`` are in spreads.
    """

    kind: str
    center: float
    spread: float
    threshold: float
    displacement: float
    drift: float


Parts = Sequence[tuple[float, Model]]
"""A mixture: models, each with its weight; the weights sum to 1."""


def kept_values(
    mask: Mask | PyTree[Bool[np.ndarray, "..."]],
    params: Params | PyTree[Float[np.ndarray, "..."]],
    of: PyTree[bool],
) -> dict[str, Values]:
    """θ_LT = nonzero(m ⊙ θ): D_n of one run as the document defines it, by layer, in float64.

    Args:
      mask: the ticket's.
      params: its weights.
      of: which leaves count, from ``masks.prunable``.
    """
    found = {}
    leaves = zip(jax.tree.leaves_with_path(params), jax.tree.leaves(mask), jax.tree.leaves(of), strict=True)
    for (path, leaf), m, yes in leaves:
        if yes:
            values = np.asarray(leaf, np.float64)[np.asarray(m)]
            found["/".join(path_names(path)[:-1])] = values[values != 0]
    return found


def keep_probability(
    x: Float[np.ndarray, " points"], threshold: float, displacement: float, drift: float
) -> Float[np.ndarray, " points"]:
    """k: how likely a weight that begins at ``x`` ends beyond the threshold; all in one unit."""
    above = scipy.special.ndtr((x + drift - threshold) / displacement)
    return above + scipy.special.ndtr((-x - drift - threshold) / displacement)


def initial(scheme: Scheme, fan: tuple[int, int]) -> Model:
    """The distribution before any pruning: everything is kept (threshold 0, where k is 1 everywhere)."""
    return Model(scheme.kind, scheme.center, scheme.spread(*fan), 0.0, 1.0, 0.0)


def fit(values: Values, scheme: Scheme, fan: tuple[int, int], drifting: bool = True) -> Model:
    """The model of greatest likelihood for kept initial weights, by Nelder & Mead (1965).

    Args:
      values: kept weights of one layer, as the initializer drew them, of one run or several.
      scheme: the initializer.
      fan: the layer's fan-in and fan-out.
      drifting: without it the drift is 0 and the keep-probability depends on ``|w|`` alone.

    Raises:
      ValueError: no values, or values that this initializer cannot have drawn.
    """
    base = initial(scheme, fan)
    x, grid = values / base.spread, _grid(base)
    if not len(x) or np.abs(x - base.center / base.spread).max() > REACH[base.kind] * (1 + 1e-5):
        raise ValueError(f"expected one or more draws from {base.kind} {base.spread:g}, got {len(x)} values")
    counts, _ = np.histogram(np.clip(x, grid[0], grid[-1]), grid)
    seen = counts > 0

    def negative_log_likelihood(p: Float[np.ndarray, " parameters"]) -> float:
        model = base._replace(threshold=np.exp(p[0]), displacement=np.exp(p[1]), drift=float(np.sum(p[2:])))
        mass = np.diff(_cumulative_on_grid(model))
        return -float(np.sum(counts[seen] * np.log(np.maximum(mass[seen], 1e-300)))) / len(x)

    dimensions = 3 if drifting else 2
    options = {"maxiter": 2000, "xatol": 1e-4, "fatol": 1e-9}
    start, limits = np.array([-0.5, -1.0, 0.0])[:dimensions], LIMITS[:dimensions]
    best = scipy.optimize.minimize(
        negative_log_likelihood, start, method="Nelder-Mead", bounds=limits, options=options
    ).x
    drift = float(best[2]) if drifting else 0.0
    return base._replace(threshold=float(np.exp(best[0])), displacement=float(np.exp(best[1])), drift=drift)


def mixture(models: Mapping[str, Model], counts: Mapping[str, int]) -> list[tuple[float, Model]]:
    """A whole network's D_n: its layers' models, weighted by their kept weights."""
    total = sum(counts[layer] for layer in models)
    return [(counts[layer] / total, model) for layer, model in models.items()]


def density(parts: Parts, at: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """p(w) at the given weights, per unit of weight."""
    total = np.zeros_like(at)
    for weight, model in parts:
        grid = _grid(model)
        normalizer = np.trapezoid(_unnormalized(model, grid), grid) * model.spread
        x = at / model.spread
        inside = np.abs(x - model.center / model.spread) <= REACH[model.kind]
        total += weight * np.where(inside, _unnormalized(model, x), 0.0) / normalizer
    return total


def cumulative(parts: Parts, at: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """P(W ≤ w) at the given weights."""
    each = [weight * np.interp(at / m.spread, _grid(m), _cumulative_on_grid(m)) for weight, m in parts]
    return np.sum(each, axis=0)


def quantiles(parts: Parts, points: int = 4097) -> Float[np.ndarray, " points"]:
    """The weights below which a share of 0, 1/(points − 1) … 1 of the distribution lies, as float32."""
    at = np.unique(np.concatenate([_grid(model) * model.spread for _, model in parts]))
    return np.interp(np.linspace(0, 1, points), cumulative(parts, at), at).astype(np.float32)


def draw(key: PRNGKey, shape: Sequence[int], table: Float[Array, " points"]) -> Float[Array, "..."]:
    """Independent weights from a distribution given by its quantiles, interpolated linearly."""
    places = jnp.linspace(0, 1, table.shape[0])
    uniform = jax.random.uniform(key, tuple(shape))
    return jnp.interp(uniform.ravel(), places, table).reshape(uniform.shape)


def distance(values: Values, other: Float[np.ndarray, " others"] | Callable[[Values], Values]) -> float:
    """Kolmogorov–Smirnov statistic: the largest gap, in [0, 1], between two cumulative distributions.

    Args:
      values: a sample.
      other: another sample, or a cumulative distribution function.
    """
    test = scipy.stats.kstest if callable(other) else scipy.stats.ks_2samp
    return float(test(values, other, method="asymp").statistic)


def with_signs(params: Params, reference: Params, of: PyTree[bool]) -> Params:
    """Sign-preserving draw: the magnitudes of one tree with the signs of another (Zhou et al. 2019).

    Args:
      params: new weights; their signs are lost.
      reference: whose signs are taken, a ticket's initial weights.
      of: which leaves; the others are returned as in ``params``.
    """
    return jax.tree.map(lambda w, s, yes: jnp.copysign(w, s) if yes else w, params, reference, of)


def _grid(model: Model) -> Float[np.ndarray, " points"]:
    """Where the initial density is positive, in spreads."""
    middle, reach = model.center / model.spread, REACH[model.kind]
    return np.linspace(middle - reach, middle + reach, GRID)


def _unnormalized(model: Model, x: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """f0(w) k(w) up to a constant, at weights in spreads inside the reach."""
    away = x - model.center / model.spread
    shape = np.ones_like(x) if model.kind == "uniform" else np.exp(-0.5 * away**2)
    return shape * keep_probability(x, model.threshold, model.displacement, model.drift)


def _cumulative_on_grid(model: Model) -> Float[np.ndarray, " points"]:
    """P(W ≤ w) on the model's own grid, by the trapezoidal rule."""
    values = _unnormalized(model, _grid(model))
    summed = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2)])
    # Where nothing at all is likely to be kept, every weight is as unlikely as any other.
    return summed / summed[-1] if summed[-1] > 0 else np.linspace(0, 1, GRID)
