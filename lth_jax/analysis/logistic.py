"""Logistic regression of few parameters, with intervals by profile likelihood; of separated data by Firth's.

P(y = 1) = 1 / (1 + exp(-x·β)). Where some direction of β tells the ones from the zeros without an error
(*separation*, Albert & Anderson 1984) the likelihood has no maximum. Then Firth's penalty (1993), half the
logarithm of the information's determinant, is added, which has one, and the result says so.

Intervals hold the values that a likelihood-ratio test does not reject (Heinze & Schemper 2002 for the
penalized one). The rows are taken to be independent.
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float

from lth_jax.analysis.differences import require

FAR = 60.0
"""Log odds, in standard deviations of its column, beyond which an interval's end counts as infinite."""


class Coefficient(NamedTuple):
    """A change of the log odds, with its interval and the p-value of there being none."""

    estimate: float
    low: float
    high: float
    p_value: float


class Logistic(NamedTuple):
    """A fitted regression."""

    coefficients: tuple[Coefficient, ...]
    log_likelihood: float  # penalized if separated
    separated: bool


def separated(x: Float[np.ndarray, "row column"], y: Bool[np.ndarray, " row"]) -> bool:
    """Is there a β with x·β >= 0 in every row of ones and <= 0 in every row of zeros, not 0 in all?

    By linear programming (Konis 2007).
    """
    signed = np.where(y[:, None], x, -x)
    found = scipy.optimize.linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(y)), bounds=(-1, 1))
    return bool(found.fun < -1e-9)


def fit(
    x: Float[np.ndarray, "row column"], y: Bool[np.ndarray, " row"], confidence: float = 0.95
) -> Logistic:
    """The regression of y on the columns of x, one of which is the constant if there is to be one.

    Raises:
      ValueError: a column is not finite or a combination of the others, or y is the same in all rows.
    """
    valid = bool(np.isfinite(x).all()) and np.linalg.matrix_rank(x) == x.shape[1]
    require(valid, "x: expected finite columns, none a combination of others", x.shape, "drop one")
    require(bool(y.any() and not y.all()), "y: expected ones and zeros", int(y.sum()), "report the share")
    penalized = separated(x, y)
    best, most = _maximum(x, y, penalized)
    bar = scipy.stats.chi2.ppf(confidence, 1) / 2

    def profile(column: int, value: float) -> float:
        """The greatest log likelihood with one coefficient held."""
        rest = np.delete(x, column, 1)
        start = np.delete(best, column)
        return _maximum(rest, y, penalized, x[:, column] * value, x[:, column], start)[1]

    def end(column: int, sign: int) -> float:
        scale = 1 / max(np.abs(x[:, column]).std(), np.abs(x[:, column]).mean(), 1e-12)

        def over(step: float) -> float:
            return most - bar - profile(column, best[column] + sign * step * scale)

        step = 0.5
        while over(step) < 0:
            step *= 2
            if step > FAR:
                return sign * np.inf
        return float(best[column] + sign * scale * scipy.optimize.brentq(over, 0.0, step, xtol=1e-8))

    return Logistic(
        tuple(
            Coefficient(
                float(best[column]), end(column, -1), end(column, 1),
                float(scipy.stats.chi2.sf(max(0.0, 2 * (most - profile(column, 0.0))), 1)),
            )
            for column in range(x.shape[1])
        ),
        most,
        penalized,
    )  # fmt: skip


def log_likelihood(
    beta: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    penalized: bool,
    offset: np.ndarray | float = 0.0,
    held: np.ndarray | None = None,
) -> float:
    """Σ log P(y), with Firth's penalty if asked for.

    Args:
      beta: coefficients.
      x: their columns.
      y: ones and zeros.
      penalized: whether half the log determinant of the information of all columns is added.
      offset: log odds that are given.
      held: a further column, whose coefficient is held: part of the information.
    """
    odds = x @ beta + offset
    likelihood = float(-np.logaddexp(0, np.where(y, -odds, odds)).sum())
    if not penalized:
        return likelihood
    whole = x if held is None else np.column_stack([x, held])
    weight = scipy.special.expit(odds) * scipy.special.expit(-odds)
    sign, log_determinant = np.linalg.slogdet(whole.T @ (weight[:, None] * whole))
    return float(likelihood + 0.5 * log_determinant) if sign > 0 else -np.inf


def _maximum(
    x: np.ndarray,
    y: np.ndarray,
    penalized: bool,
    offset: np.ndarray | float = 0.0,
    held: np.ndarray | None = None,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The coefficients of the greatest log likelihood, and that, by Newton's steps on Firth's score."""
    beta = np.zeros(x.shape[1]) if start is None else start.copy()
    value = log_likelihood(beta, x, y, penalized, offset, held)
    for _ in range(200):
        p = scipy.special.expit(x @ beta + offset)
        weight = p * (1 - p)
        residual = y - p
        if penalized:
            whole = x if held is None else np.column_stack([x, held])
            information = whole.T @ (weight[:, None] * whole)
            leverage = weight * np.einsum("ri,ij,rj->r", whole, np.linalg.pinv(information), whole)
            residual = residual + leverage * (0.5 - p)
        score, curvature = x.T @ residual, x.T @ (weight[:, None] * x)
        step = np.linalg.lstsq(curvature, score, rcond=None)[0]
        if float(score @ step) < 1e-14:
            break
        for _ in range(60):  # a step that does not climb is halved
            climbed = log_likelihood(beta + step, x, y, penalized, offset, held)
            if climbed >= value:
                break
            step = step / 2
        else:
            break
        beta, value = beta + step, climbed
    return beta, value
