"""Patterns: scores under which weights go by groups that hardware can skip, or by whole units and channels.

A pattern turns a score into another one, so that every schedule, scope and control serves it. How many
weights are kept stays exact: a whole number of blocks where it is one; else a part of one block is kept too.
Leaves that are not ranked, and those with fewer than two axes, keep their scores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lth_jax.errors import require
from lth_jax.tickets import scores
from lth_jax.tickets.scores import Score, Scoring
from lth_jax.types import Mask, Scores

Leaf = Float[Array, "*window below above"]


def in_groups(score: Score, size: int) -> Score:
    """N:M sparsity: of every ``size`` consecutive inputs of a unit, the lowest goes first everywhere.

    At a density of N / ``size`` in each layer every group keeps exactly N (Zhou et al. 2021,
    arXiv:2102.04010; NVIDIA's sparse tensor cores take 2:4). Below it, N a group, one at a time.

    Args:
      score: what weights are ranked by inside a group, and of groups that have lost as many.
      size: M; the inputs of each ranked kernel are a multiple of it.

    Raises:
      InputError: when scored, they are not.
    """

    def grouped(leaf: Leaf, kept: Bool[Array, "*shape"]) -> Leaf:
        *window, below, above = leaf.shape
        problem = (
            f"groups of {size}: a kernel of shape {list(leaf.shape)} has {below} inputs; spare its layer"
        )
        require(size >= 1 and below % size == 0, problem)
        lowest = jnp.where(kept, leaf, -jnp.inf)
        order = jnp.argsort(lowest.reshape(*window, below // size, size, above), axis=-2)
        place = jnp.argsort(order, axis=-2).reshape(leaf.shape).astype(leaf.dtype)
        return place + scores.rank(lowest) / leaf.size

    return _of_kernels(score, grouped)


def in_blocks(score: Score, rows: int, columns: int) -> Score:
    """Blocks of inputs × outputs go as one, by the mean score of what is left of each.

    Args:
      score: of weights.
      rows: inputs of a block; a filter's window counts each of its places apart.
      columns: outputs of a block; both divide the kernels' sizes.

    Raises:
      InputError: when scored, they do not.
    """

    def blocked(leaf: Leaf, kept: Bool[Array, "*shape"]) -> Leaf:
        *window, below, above = leaf.shape
        fits = rows >= 1 and columns >= 1 and below % rows == 0 and above % columns == 0
        require(fits, f"blocks of {rows}×{columns}: do not tile a kernel of shape {list(leaf.shape)}")
        shape = (*window, below // rows, rows, above // columns, columns)
        return _mean(leaf, kept, shape, (-3, -1))

    return _of_kernels(score, blocked)


def in_units(score: Score) -> Score:
    """Whole units of dense layers and channels of convolutions go as one, by the mean score of their inputs.

    What reads them goes too when the network is made smaller, see ``shrinking``.
    """
    return _of_kernels(score, lambda leaf, kept: _mean(leaf, kept, leaf.shape, tuple(range(leaf.ndim - 1))))


def named(text: str, score: Score) -> Score:
    """A score under a pattern's name: ``none``, ``units``, ``groups:4``, ``blocks:4x1``.

    Raises:
      InputError: it is none.
    """
    kind, _, numbers = text.partition(":")
    sizes = [
        int(part) for part in numbers.split("x") if part.isascii() and part.isdecimal() and len(part) < 6
    ]
    whole = "x".join(map(str, sizes)) == numbers and 0 not in sizes
    count = {"none": 0, "units": 0, "groups": 1, "blocks": 2}.get(kind)
    known = whole and len(sizes) == count and (text == kind or bool(sizes))
    require(known, f"pattern {text[:40]}: expected none, units, groups:M or blocks:ROWSxCOLUMNS")
    if kind == "none":
        return score
    return {"units": in_units, "groups": in_groups, "blocks": in_blocks}[kind](score, *sizes)


def _mean(leaf: Leaf, kept: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Leaf:
    """Every weight the mean of the kept ones of its block."""
    held = kept.reshape(shape)
    total = jnp.sum(jnp.where(held, leaf.reshape(shape), 0), axis=axes, keepdims=True)
    count = jnp.maximum(jnp.sum(held, axis=axes, keepdims=True), 1).astype(leaf.dtype)
    return jnp.broadcast_to(total / count, shape).reshape(leaf.shape)


def _of_kernels(score: Score, pattern: Callable[[Array, Array], Array]) -> Score:
    def patterned(scoring: Scoring) -> Scores:
        found = score(scoring)
        ranked = jax.tree.map(lambda _: True, found) if scoring.ranked is None else scoring.ranked

        def of_leaf(leaf: Array, kept: Array, yes: bool) -> Array:
            return pattern(leaf, kept) if yes and leaf.ndim >= 2 else leaf

        return jax.tree.map(of_leaf, found, scoring.mask, ranked)

    return patterned


def most_in_groups(mask: Mask, size: int) -> int:
    """The most weights that any group of ``size`` consecutive inputs keeps, over all leaves of two axes."""
    leaves = [leaf for leaf in jax.tree.leaves(mask) if leaf.ndim >= 2]
    groups = [leaf.reshape(-1, leaf.shape[-2] // size, size, leaf.shape[-1]).sum(-2).max() for leaf in leaves]
    return int(max(groups))
