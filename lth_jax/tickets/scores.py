"""Scores: how much each weight counts when a ticket is pruned; the lowest scored go first.

A :data:`Score` is one function of what a level knows, see :class:`Scoring`: the weights where its training
began and ended, the mask, a key, the task's loss on a batch of training examples. Only the order of the
scores matters, so a score may return ranks.

Most scores of the field look at one weight at a time, at its initial and its trained value: a
:data:`Criterion` is a function of one leaf, ``(initial, final) -> score``, of which :func:`by_weight` makes a
score; a new one is a line in ``CRITERIA``. Source: *Deconstructing Lottery Tickets: Zeros, Signs, and the
Supermask* (Zhou et al. 2019, §2 and §5, arXiv:1905.01067). Where the paper leaves a choice open, the
docstring says which one is made.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lth_jax.tickets import masks
from lth_jax.tickets.pruning import ordinal
from lth_jax.types import Mask, Params, PRNGKey, Scores

Leaf = Float[Array, "*shape"]

Criterion = Callable[[Leaf, Leaf], Leaf]
"""A leaf's weights where a level's training began and where it ended, to a score for each."""


class Scoring(NamedTuple):
    """What a score may look at.

    ``start`` and ``trained`` are the ticket's weights where the level's training began and where it ended;
    ``mask`` is what it kept; ``key`` is the run's own, another at each level. ``loss`` is the mean loss, in
    inference mode, of a batch of training examples as a function of the parameters; ``temperature=T`` divides
    the network's outputs by T, ``example=i`` is the loss of one of the batch's ``examples``. ``flow`` is the
    sum of the network's outputs, in inference mode, where every input is 1. ``ranked`` says which leaves are
    pruned; ``None`` is all of them.

    Where a level is pruned before it is trained, ``start`` and ``trained`` are the same weights, masked.
    """

    start: Params
    trained: Params
    mask: Mask
    key: PRNGKey
    loss: Callable[..., Float[Array, ""]]
    examples: int = 0
    flow: Callable[[Params], Float[Array, ""]] | None = None
    ranked: PyTree[bool] | None = None


Score = Callable[[Scoring], Scores]
"""What a level knows, to a score for each weight: a tree like the parameters."""


def gradient(scoring: Scoring) -> Params:
    """The gradient of the loss at the trained weights, 0 where nothing is kept."""
    return masks.apply(scoring.mask, jax.grad(scoring.loss)(scoring.trained))


def hessian_vector_product(scoring: Scoring, vector: Params) -> Params:
    """H v at the trained weights, H being the loss's Hessian: the derivative of its gradient along v."""
    return jax.jvp(jax.grad(scoring.loss), (scoring.trained,), (vector,))[1]


def inverted(score: Score) -> Score:
    """The score with its sign turned: what it would keep longest goes first (Frankle et al. 2021)."""
    return lambda scoring: jax.tree.map(jnp.negative, score(scoring))


def by_weight(criterion: Criterion) -> Score:
    """The score that judges each weight by its own initial and trained value."""
    return lambda scoring: jax.tree.map(criterion, scoring.start, scoring.trained)


def by_trees(criterion: Criterion, initial: Params, final: Params) -> Scores:
    """A criterion over whole trees."""
    return jax.tree.map(criterion, initial, final)


def large_final(initial: Leaf, final: Leaf) -> Leaf:
    """``|w_final|``: magnitude pruning (Frankle & Carbin 2019)."""
    return jnp.abs(final)


def small_final(initial: Leaf, final: Leaf) -> Leaf:
    """``−|w_final|``."""
    return -jnp.abs(final)


def large_init(initial: Leaf, final: Leaf) -> Leaf:
    """``|w_initial|``."""
    return jnp.abs(initial)


def small_init(initial: Leaf, final: Leaf) -> Leaf:
    """``−|w_initial|``."""
    return -jnp.abs(initial)


def large_init_large_final(initial: Leaf, final: Leaf) -> Leaf:
    """Large at both ends: the smaller of the ranks of ``|w_initial|`` and of ``|w_final|``.

    The paper writes ``min(α|w_final|, |w_initial|)`` with an α for every size, chosen so that the two
    magnitudes are cut at the same percentile. Ranks are cut so at every size.
    """
    return jnp.minimum(rank(jnp.abs(initial)), rank(jnp.abs(final)))


def small_init_small_final(initial: Leaf, final: Leaf) -> Leaf:
    """Small at both ends: the smaller of the ranks of ``−|w_initial|`` and of ``−|w_final|``."""
    return jnp.minimum(rank(-jnp.abs(initial)), rank(-jnp.abs(final)))


def magnitude_increase(initial: Leaf, final: Leaf) -> Leaf:
    """``|w_final|`` − ``|w_initial|``."""
    return jnp.abs(final) - jnp.abs(initial)


def movement(initial: Leaf, final: Leaf) -> Leaf:
    """``|w_final − w_initial|``."""
    return jnp.abs(final - initial)


def large_final_same_sign(initial: Leaf, final: Leaf) -> Leaf:
    """sign(w_initial) · w_final: weights that kept their sign, large ones first (document 004, §2.1).

    The paper gives 0 to all weights that changed sign; here those that went farthest are pruned first.
    """
    return jnp.sign(initial) * final


def large_final_diff_sign(initial: Leaf, final: Leaf) -> Leaf:
    """−sign(w_initial) · w_final: the contrary of :func:`large_final_same_sign`."""
    return -jnp.sign(initial) * final


def random(initial: Leaf, final: Leaf) -> Leaf:
    """Chance without a key: a hash of the initial weight's bits.

    Every seed draws other weights, so every seed gets another random mask, in which neither magnitude nor
    sign plays a part. Weights that are equal bit for bit score alike. The mixer is MurmurHash3's (Appleby
    2011), whose every output bit depends on every input bit.
    """
    bits = jax.lax.bitcast_convert_type(initial.astype(jnp.float32), jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return (bits ^ (bits >> 16)).astype(jnp.float32)  # which float16 could not hold


def rank(score: Leaf) -> Leaf:
    """0 for the lowest entry of a leaf, 1 for the next …; equals in the order of their positions."""
    order = jnp.argsort(ordinal(score).ravel(), stable=True)
    ranks = jnp.zeros(order.shape, score.dtype).at[order].set(jnp.arange(order.size, dtype=score.dtype))
    return ranks.reshape(score.shape)


def same_sign(criterion: Criterion) -> Criterion:
    """A criterion under which weights that changed sign count less than all that did not."""

    def score(initial: Leaf, final: Leaf) -> Leaf:
        ranks = rank(criterion(initial, final))
        return jnp.where(jnp.sign(initial) == jnp.sign(final), ranks, ranks - ranks.size)

    return score


def diff_sign(criterion: Criterion) -> Criterion:
    """A criterion under which weights that changed sign count more than all that did not."""

    def score(initial: Leaf, final: Leaf) -> Leaf:
        ranks = rank(criterion(initial, final))
        return jnp.where(jnp.sign(initial) == jnp.sign(final), ranks - ranks.size, ranks)

    return score


CRITERIA: dict[str, Criterion] = {
    "large_final": large_final,
    "small_final": small_final,
    "large_init": large_init,
    "small_init": small_init,
    "large_init_large_final": large_init_large_final,
    "small_init_small_final": small_init_small_final,
    "magnitude_increase": magnitude_increase,
    "movement": movement,
    "random": random,
    "large_final_same_sign": large_final_same_sign,
    "large_final_diff_sign": large_final_diff_sign,
    "magnitude_increase_same_sign": same_sign(magnitude_increase),
    "magnitude_increase_diff_sign": diff_sign(magnitude_increase),
}
"""Every criterion of the paper by its name there; those that need gradients (SNIP) are not of this kind."""


def magnitude(scoring: Scoring) -> Scores:
    """``|w|`` after training: the default (Frankle & Carbin 2019)."""
    return by_trees(large_final, scoring.start, scoring.trained)
