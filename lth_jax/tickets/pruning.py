"""Pruning: scores in, a smaller mask out.

Weights are removed by rank, never by a threshold: exactly as many are kept as is asked, ties are broken by
position, and what was pruned stays pruned, so the masks of successive levels are nested.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from lth_jax.types import Mask, Scores

Scope = Callable[[Mask, Scores, PyTree[Int[Array, ""]], PyTree[bool]], Mask]
"""``(mask, score, keep, ranked)`` to a smaller mask, see :func:`prune_layers`."""


def ordinal(score: Float[Array, "*shape"]) -> UInt[Array, "*shape"]:
    """Unsigned integers in the order of the scores: −0 and subnormals equal 0, NaN comes after infinity.

    IEEE 754 floats of one sign are ordered as their bits are: negative ones are flipped, the others get
    the top bit.
    """
    score = score if score.dtype.itemsize >= 4 else score.astype(jnp.float32)
    width = score.dtype.itemsize * 8
    unsigned = jnp.dtype(f"uint{width}")
    top = jnp.array(1 << (width - 1), unsigned)
    bits = jax.lax.bitcast_convert_type(jnp.where(score == 0, 0, score), unsigned)
    ordered = jnp.where(bits >= top, ~bits, bits | top)
    return jnp.where(jnp.isnan(score), ~jnp.array(0, unsigned), ordered)


def remove_lowest(
    kept: Bool[Array, "*shape"], score: Float[Array, "*shape"], count: Int[Array, ""]
) -> Bool[Array, "*shape"]:
    """The mask without its ``count`` kept entries of lowest score; the earlier of two equals goes first.

    The ``count``-th lowest score is found bit by bit, in as many passes as a score has bits: thirty times
    faster than a sort of a LeNet's first layer on a CPU, and just as exact.

    Args:
      kept: which entries are kept now.
      score: what to rank them by; NaN ranks highest, so a diverged weight is not taken for a small one.
      count: how many to remove, at most the number kept.
    """
    rank, flat = ordinal(score).ravel(), kept.ravel()
    width = rank.dtype.itemsize * 8

    def refine(step: Array, threshold: Array) -> Array:
        candidate = threshold | (jnp.array(1, rank.dtype) << (width - 1 - step).astype(rank.dtype))
        below = jnp.sum(flat & (rank < candidate), dtype=jnp.int32)
        return jnp.where(below < count, candidate, threshold)

    threshold = jax.lax.fori_loop(0, width, refine, jnp.zeros((), rank.dtype))
    below, equal = flat & (rank < threshold), flat & (rank == threshold)
    ties = count - jnp.sum(below, dtype=jnp.int32)
    removed = below | (equal & (jnp.cumsum(equal, dtype=jnp.int32) <= ties))
    return (flat & ~removed).reshape(kept.shape)


def prune_layers(mask: Mask, score: Scores, keep: PyTree[Int[Array, ""]], ranked: PyTree[bool]) -> Mask:
    """Remove the lowest scored weights of each leaf until ``keep`` of them remain.

    Args:
      mask: the mask so far.
      score: a score per weight; the lowest go.
      keep: how many to keep in each leaf, at most as many as are kept now; may be traced, so one compiled
        program prunes to any size.
      ranked: which leaves are pruned; the others are left alone.
    """

    def prune_leaf(kept: Array, leaf_score: Array, left: Array, yes: bool) -> Array:
        return remove_lowest(kept, leaf_score, jnp.sum(kept, dtype=jnp.int32) - left) if yes else kept

    return jax.tree.map(prune_leaf, mask, score, keep, ranked)


def prune_global(mask: Mask, score: Scores, keep: PyTree[Int[Array, ""]], ranked: PyTree[bool]) -> Mask:
    """Rank the weights of all leaves together and remove the lowest until ``keep`` of them remain.

    Args:
      mask: the mask so far.
      score: a score per weight, comparable across leaves.
      keep: how many to keep in all ranked leaves together: one number, or a tree with one leaf.
      ranked: which leaves are ranked; the others are left alone.
    """
    leaves, structure = jax.tree.flatten(mask)
    places = [place for place, yes in enumerate(jax.tree.leaves(ranked)) if yes]
    flat_mask = jnp.concatenate([leaves[place].ravel() for place in places])
    flat_score = jnp.concatenate([jax.tree.leaves(score)[place].ravel() for place in places])
    (left,) = jax.tree.leaves(keep)
    survivors = remove_lowest(flat_mask, flat_score, jnp.sum(flat_mask, dtype=jnp.int32) - left)
    offset = 0
    for place in places:
        shape, size = leaves[place].shape, leaves[place].size
        leaves[place] = survivors[offset : offset + size].reshape(shape)
        offset += size
    return jax.tree.unflatten(structure, leaves)


SCOPES: dict[str, Scope] = {"layer": prune_layers, "global": prune_global}
"""How the ranking is scoped: inside each layer, or over all of them together."""
