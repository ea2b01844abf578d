"""Learned supermasks: the weights stay as they were drawn, which of them exist is trained.

Every weight has a logit a. A step draws a mask m ~ Bernoulli(σ(a)), computes the loss of f(x; m ⊙ w), and
takes ∂m/∂a as that of σ(a): the straight-through estimator (Bengio et al. 2013). So the gradient of a logit
is w · ∂ℓ/∂W · σ(a)(1 − σ(a)), W = m ⊙ w being what the network computes with. Dynamic weight rescaling
multiplies each layer by size/kept, the mask's size over its number of ones, and the gradient flows through
that too.

Source: Zhou et al. 2019, §5 (arXiv:1905.01067). A network with a learned mask is a ``models.Network`` whose
parameters are the logits; the weights are among its collections. So ``training.train`` trains it, under a
mask that keeps every logit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lth_jax.models import Network
from lth_jax.training import TrainState, evaluate
from lth_jax.types import Collections, Mask, Metrics, Params, PRNGKey, Split

DRAWS = 10
"""Masks over which the paper averages a learned mask's accuracy."""


class SupermaskConfig(NamedTuple):
    """How a mask is learned.

    ``base`` is the network that is masked; ``of`` says which leaves are, from ``masks.prunable``; ``rescale``
    turns dynamic weight rescaling on.
    """

    base: Network
    of: PyTree[bool]
    rescale: bool | Array


def start_logits(weights: Params, value: float = 0.0) -> Params:
    """Equal logits for all weights; 0 keeps each with probability 1/2, as in the paper.

    The tree is that of the weights, so the logits of leaves that are not masked exist and are never used.
    """
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), weights)


def draw_mask(key: PRNGKey, logits: Params) -> Params:
    """A mask of 0 and 1 in the logits' dtype, kept with probability σ(logit); its gradient is that of σ.

    Args:
      key: PRNG key; every leaf gets its own by position.
      logits: one per weight.
    """
    leaves, structure = jax.tree.flatten(logits)
    drawn = []
    for position, leaf in enumerate(leaves):
        kept = jax.nn.sigmoid(leaf)
        ones = jax.random.bernoulli(jax.random.fold_in(key, position), kept).astype(leaf.dtype)
        # The value is exactly 0 or 1: adding and subtracting σ could leave a pruned weight at 1e-8.
        drawn.append(_straight_through(ones, kept))
    return jax.tree.unflatten(structure, drawn)


@jax.custom_jvp
def _straight_through(value: Array, like: Array) -> Array:
    """``value``, with the derivative of ``like``."""
    return value


@_straight_through.defjvp
def _straight_through_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def likely_mask(logits: Params) -> Mask:
    """The most likely mask: True where a weight is kept with a probability above 1/2."""
    return jax.tree.map(lambda leaf: leaf > 0, logits)


def masked_weights(weights: Params, mask: PyTree[Array], of: PyTree[bool], rescale: bool | Array) -> Params:
    """What the network computes with: m ⊙ w, times size/kept of each layer where ``rescale``.

    Args:
      weights: as they were drawn.
      mask: 0 and 1, or bool.
      of: which leaves are masked; the others are returned as they came.
      rescale: whether to rescale; may be traced, so that runs with and without share a program. A layer
        that keeps nothing is all zeros either way.
    """

    def leaf(weight: Array, kept: Array, masked: bool) -> Array:
        if not masked:
            return weight
        kept = kept.astype(weight.dtype)
        scale = jnp.where(rescale, kept.size / jnp.maximum(jnp.sum(kept), 1), 1)
        return weight * kept * scale.astype(weight.dtype)

    return jax.tree.map(leaf, weights, mask, of)


def network(config: SupermaskConfig) -> Network:
    """The masked network as a function of its logits.

    Parameters: the logits. Collections: ``{"weights": …, "model": …}``, the latter the base network's own.
    With a key a mask is drawn; without one (inference) the most likely mask stands, see
    :func:`evaluate_draws` for the paper's measure.
    """

    def init(key: PRNGKey, images: Array) -> tuple[Params, Collections]:
        weights, collections = config.base.init(key, images)
        return start_logits(weights), {"weights": weights, "model": collections}

    def apply(
        logits: Params, collections: Collections, images: Array, key: PRNGKey | None = None
    ) -> tuple[Array, Collections]:
        own = None if key is None else jax.random.fold_in(key, 1)
        mask = likely_mask(logits) if key is None else draw_mask(jax.random.fold_in(key, 0), logits)
        params = masked_weights(collections["weights"], mask, config.of, config.rescale)
        outputs, model = config.base.apply(params, collections["model"], images, own)
        return outputs, {**collections, "model": model}

    return Network(init, apply)


def evaluate_draws(
    key: PRNGKey,
    logits: Params,
    collections: Collections,
    split: Split,
    config: SupermaskConfig,
    draws: int = DRAWS,
) -> Metrics:
    """Metrics of several drawn masks, whose mean is the paper's accuracy of a learned mask.

    Args:
      key: PRNG key.
      logits: as learned.
      collections: of :func:`network`.
      split: examples.
      config: network, masked leaves, rescaling.
      draws: how many masks.

    Returns:
      Metrics, each ``[draws]``.
    """

    def one(draw: Array) -> Metrics:
        mask = draw_mask(jax.random.fold_in(key, draw), logits)
        params = masked_weights(collections["weights"], mask, config.of, config.rescale)
        return evaluate(TrainState(params, collections["model"], ()), split, config.base)

    return jax.lax.map(one, jnp.arange(draws))


def expected_kept(logits: Params, of: PyTree[bool]) -> Float[Array, ""]:
    """Expected fraction in [0, 1] of the masked leaves' weights that a drawn mask keeps."""
    chosen = [a for a, masked in zip(jax.tree.leaves(logits), jax.tree.leaves(of), strict=True) if masked]
    return jnp.stack([jnp.sum(jax.nn.sigmoid(a)) for a in chosen]).sum() / sum(a.size for a in chosen)
