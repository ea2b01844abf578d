"""A mixed model of balanced runs: method × level fixed, trial and network random, in closed form.

Every trial trains one network a method and measures it at every level,

    y_ijl = μ_il + u_j + v_ij + e_ijl,  u ~ N(0, σ_u²), v ~ N(0, σ_v²), e ~ N(0, σ²),

with μ free for every method i and level l, u of trial j, v of the network of method i in it. Where every cell
is filled the sums of squares are independent (split-plot design, Yates 1935; Searle, Casella & McCulloch
1992), and the estimates by REML are those of the analysis of variance, where none of these is negative.

* method: tested against networks, as its levels are no repetitions.
* level, method × level: against the residual. That is right if any two levels are equally correlated; as
  neighbours are more alike, the degrees of freedom are fewer, at the least by the factor 1 / (L - 1) of
  Geisser & Greenhouse (1958), whose p-value stands beside it.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

from lth_jax.analysis.differences import require


class Test(NamedTuple):
    """An F test of a fixed term."""

    f: float
    freedom: int
    error_freedom: int
    p_value: float
    p_least: float  # by the least degrees of freedom; of the method, the same


class MixedModel(NamedTuple):
    """Tests of the fixed terms and standard deviations of the random ones, in the unit of y."""

    method: Test
    level: Test
    interaction: Test
    trial: float
    network: float
    residual: float
    negative: tuple[str, ...]  # components whose estimated variance is negative: given as 0


def fit(y: Float[np.ndarray, "method trial level"]) -> MixedModel:
    """The model of a measure, NaN-free, of at least two methods, trials and levels.

    Raises:
      ValueError: there are fewer, a value is not finite, or networks or their levels do not vary.
    """
    valid = y.ndim == 3 and min(y.shape) > 1 and bool(np.isfinite(y).all())
    require(valid, "y: expected finite (method, trial, level), two each", y.shape, "drop what is not")
    methods, trials, levels = y.shape
    total = y.mean()
    i, j, k = y.mean((1, 2)) - total, y.mean((0, 2)) - total, y.mean((0, 1)) - total
    networks = y.mean(2) - total - i[:, None] - j
    interaction = y.mean(1) - total - i[:, None] - k
    residual = y - y.mean(2, keepdims=True) - (y.mean(1) - y.mean((1, 2))[:, None])[:, None]
    others = (methods - 1) * (trials - 1)
    mean_trial = methods * levels * (j**2).sum() / (trials - 1)
    mean_network = levels * (networks**2).sum() / others
    freedom = methods * (trials - 1) * (levels - 1)
    mean_residual = (residual**2).sum() / freedom
    varies = mean_residual > 0 and mean_network > 0
    require(varies, "y: expected networks and levels that vary", "no variance", "compare means")
    trial = (mean_trial - mean_network) / (methods * levels)
    network = (mean_network - mean_residual) / levels
    of_level = trials * methods * (k**2).sum() / (levels - 1)
    of_both = trials * (interaction**2).sum() / ((methods - 1) * (levels - 1))
    return MixedModel(
        method=_test(trials * levels * (i**2).sum() / (methods - 1), mean_network, methods - 1, others),
        level=_test(of_level, mean_residual, levels - 1, freedom, levels - 1),
        interaction=_test(of_both, mean_residual, (methods - 1) * (levels - 1), freedom, levels - 1),
        trial=float(np.sqrt(max(trial, 0.0))),
        network=float(np.sqrt(max(network, 0.0))),
        residual=float(np.sqrt(mean_residual)),
        negative=tuple(name for name, v in (("trial", trial), ("network", network)) if v < 0),
    )


def _test(mean: float, error: float, freedom: int, error_freedom: int, divisor: int = 1) -> Test:
    """The F test of a mean square against its error's; the least degrees of freedom are those divided."""
    f = float(mean / error)
    p, least = (float(scipy.stats.f.sf(f, freedom / by, error_freedom / by)) for by in (1, divisor))
    return Test(f, freedom, error_freedom, p, least)
