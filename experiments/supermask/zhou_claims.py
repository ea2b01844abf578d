"""What Zhou et al. 2019 find, as data, and the values of E6 that judge it."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis.stats import Claim, Kind

SUPERMASK, LEARNED, RESCALED = 86.0, 95.3, 98.0
"""Accuracies on MNIST, in percent: signed constants under same-sign large_final, untrained; a learned mask; a
learned mask with rescaling."""
SOURCE = "Zhou et al. 2019"
UNTRAINED, TRAINED = 5.0, 0.1
"""Accuracy points that a difference has to have to count, before and after training."""
AUTHORS_STEPS = 440_000
"""Iterations of gradient descent that the authors' learned masks took."""
Triple = tuple[Claim, np.ndarray, np.ndarray | float]


class Comparison(NamedTuple):
    """Two cells of the grid (criterion, kept, pruned weights), or a cell and an accuracy in percent."""

    identifier: str
    text: str
    published: str
    trained: bool
    ours: tuple[str, ...]
    theirs: tuple[str, ...] | float
    kind: Kind = "greater"
    margin: float = 0.0


_SIGN, _LARGE = "large_final_same_sign", "large_final"
COMPARISONS = (
    Comparison(
        "signed-constant-86", "same-sign large_final of signed constants, untrained, reaches 86 %", "86 %",
        False, (_SIGN, "signed_constant"), SUPERMASK, "at_least", 1.0,
    ),
    Comparison(
        "constant-beats-initial", "untrained, signed constants are better than initial weights", "yes",
        False, (_SIGN, "signed_constant"), (_SIGN, "initial"),
    ),
    Comparison(
        "sign-beats-magnitude", "untrained, same-sign large_final is better than large_final", "yes",
        False, (_SIGN, "initial"), (_LARGE, "initial"),
    ),
    Comparison(
        "shuffling-breaks", "untrained, initial weights are better than the same reshuffled", "yes",
        False, (_SIGN, "initial"), (_SIGN, "reshuffled"),
    ),
    Comparison(
        "zero-beats-frozen-untrained", "untrained, pruned weights are better 0 than frozen", "yes",
        False, (_SIGN, "signed_constant", "zero"), (_SIGN, "signed_constant", "frozen"),
    ),
    Comparison(
        "large-beats-small", "trained, large_final is better than small_final", "yes",
        True, (_LARGE, "initial"), ("small_final", "initial"),
    ),
    Comparison(
        "large-beats-random", "trained, large_final is better than random masks", "yes",
        True, (_LARGE, "initial"), ("random", "initial"),
    ),
    Comparison(
        "increase-as-large", "trained, magnitude increase is at least as good as large_final", "as good",
        True, ("magnitude_increase", "initial"), (_LARGE, "initial"), "at_least", 0.1,
    ),
    Comparison(
        "initial-beats-fresh", "trained, initial weights are better than fresh ones", "yes",
        True, (_LARGE, "initial"), (_LARGE, "reinitialized"),
    ),
    Comparison(
        "constant-as-initial", "trained, signed constants are at least as good as initial weights", "as good",
        True, (_LARGE, "signed_constant"), (_LARGE, "initial"), "at_least", 0.1,
    ),
    Comparison(
        "zero-beats-frozen", "trained, pruned weights are better 0 than frozen", "yes",
        True, (_LARGE, "initial", "zero"), (_LARGE, "initial", "frozen"),
    ),
)  # fmt: skip


def is_mnist(measured: xr.Dataset) -> bool:
    """Whether accuracies published on MNIST are ours to compare with."""
    return json.loads(measured.attrs["config"])["dataset"] == "mnist"


def best_untrained(measured: xr.Dataset, criterion: str, kept: str, pruned: str = "zero") -> np.ndarray:
    """Untrained accuracy (%) a seed, at the size where its mean over seeds is highest."""
    where = {"criterion": criterion, "kept_weights": kept, "pruned_weights": pruned}
    cell = measured["grid_untrained_accuracy"].sel(where)
    return cell.isel(level=int(cell.mean("grid_seed").argmax("level"))).values.astype(np.float64) * 100


def trained(measured: xr.Dataset, criterion: str, kept: str, pruned: str = "zero") -> np.ndarray:
    """Accuracy (%) a seed after training."""
    where = {"criterion": criterion, "kept_weights": kept, "pruned_weights": pruned}
    return measured["grid_trained_accuracy"].sel(where).values.astype(np.float64) * 100


def grid_claims(measured: xr.Dataset) -> Iterator[Triple]:
    """Every comparison whose criteria were run."""
    have = set(measured["criterion"].values.tolist())
    for name, text, published, after, ours, theirs, kind, margin in COMPARISONS:
        measure = trained if after else best_untrained
        counts = (TRAINED if after else UNTRAINED) if kind == "greater" else 0.0
        claim = Claim(name, SOURCE, text, published, kind, margin, effect=counts)
        if isinstance(theirs, tuple) and {ours[0], theirs[0]} <= have:
            yield claim, measure(measured, *ours), measure(measured, *theirs)
        elif isinstance(theirs, float) and ours[0] in have and is_mnist(measured):
            yield claim, measure(measured, *ours), theirs


def learned(measured: xr.Dataset, weights: str, rescaling: bool) -> np.ndarray:
    """Accuracy (%) a seed of learned masks, mean over the drawn masks."""
    cell = measured["learned_accuracy"].sel(weights=weights, rescaling=rescaling)
    return cell.mean("draw", skipna=False).values.astype(np.float64) * 100


def learned_claims(measured: xr.Dataset) -> Iterator[Triple]:
    """The published accuracies of learned masks, and what rescaling adds."""
    if is_mnist(measured):
        text = "a learned mask of initial weights reaches 95.3 %"
        claim = Claim("learned-95", SOURCE, text, "95.3 %", "at_least", 0.5)
        yield claim, learned(measured, "initial", False), LEARNED
    for weights in measured["weights"].values.tolist():
        which = f"{weights.replace('_', ' ')} weights"
        with_rescaling = learned(measured, weights, True)
        if is_mnist(measured):
            text = f"a learned mask with rescaling reaches 98.0 % ({which})"
            claim = Claim(f"rescaled-98-{weights}", SOURCE, text, "98.0 %", "at_least", 0.5)
            yield claim, with_rescaling, RESCALED
        text = f"rescaling makes learned masks better ({which})"
        effect = RESCALED - LEARNED
        claim = Claim(f"rescaling-helps-{weights}", SOURCE, text, "yes", "greater", effect=effect)
        yield claim, with_rescaling, learned(measured, weights, False)


def learned_protocol(measured: xr.Dataset) -> str:
    """What sets the learned masks apart from the authors'."""
    config = json.loads(measured.attrs["config"])
    steps = config["learned_steps"]
    if steps >= AUTHORS_STEPS:
        return ""
    return f"{steps:,} of {AUTHORS_STEPS:,} iterations, by {config['learned_optimizer'].capitalize()}"
