"""Pruning: scores in, a smaller mask out.

Weights are removed by rank, never by a threshold: exactly ``round(rate × survivors)`` go, ties are broken by
position, and what was pruned stays pruned, so the masks of successive levels are nested.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from lth_jax.errors import InputError
from lth_jax.tickets.masks import Predicate, is_kernel, path_names
from lth_jax.types import Mask, Params, Scores

Criterion = Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]
"""A leaf's weights where a level's training began and where it ended, to scores; the lowest are pruned."""


def magnitude(initial: Float[Array, "*shape"], final: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """|w_final| (Frankle & Carbin 2019; ``large_final`` in Zhou et al. 2019)."""
    return jnp.abs(final)


def scores(criterion: Criterion, initial: Params, final: Params) -> Scores:
    """A criterion over whole trees."""
    return jax.tree.map(criterion, initial, final)


FINEST = 1e-4
"""The least rate, and how near to 1 the greatest may be: rates are fractions of at most 10,000 parts."""


def rates(
    params: PyTree,
    rate: float,
    layers: Mapping[str, float] | None = None,
    predicate: Predicate = is_kernel,
) -> PyTree[float]:
    """The fraction to remove from each leaf at one level, as a tree of Python floats.

    Args:
      params: the parameters or their shapes.
      rate: fraction of the survivors to remove, from 0.0001 to 0.9999; used as the nearest fraction with a
        denominator of at most 10,000.
      layers: other rates for some layers, by the name that precedes ``kernel``: ``{"output": 0.1}``.
      predicate: which leaves are pruned at all; the others get rate 0.

    Raises:
      ValueError: a rate outside these, or a layer that the parameters do not have.
    """
    special = dict(layers or {})
    for name, value in {"rate": rate, **special}.items():
        if not FINEST <= value <= 1 - FINEST:
            raise ValueError(f"pruning rate {value} of {name!r} is outside {FINEST:g} … {1 - FINEST:g}")
    names = [path_names(path) for path, _ in jax.tree.leaves_with_path(params)]
    known = {part for path in names for part in path[:-1]}
    if unknown := sorted(set(special) - known):
        raise ValueError(f"no layer called {', '.join(unknown)}; the model has {', '.join(sorted(known))}")

    def leaf_rate(path: tuple, leaf: Any) -> float:
        parts = path_names(path)
        if not predicate(parts, leaf):
            return 0.0
        return next((special[part] for part in parts if part in special), rate)

    return jax.tree.map_with_path(leaf_rate, params)


def check_levels(shapes: PyTree, rate: PyTree[float], levels: int) -> None:
    """Refuse levels of layer-wise pruning that would train a layer without any weight.

    Args:
      shapes: the parameters or their shapes.
      rate: from :func:`rates`.
      levels: how many levels are trained; there is a pruning between any two.

    Raises:
      InputError: a layer loses its last weight; the message says which, and when.
    """
    emptied = []
    for (path, leaf), leaf_rate in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(rate), strict=True):
        survivors, fraction = leaf.size, Fraction(leaf_rate).limit_denominator(10_000)
        for level in range(1, levels if fraction else 1):
            survivors -= round(survivors * fraction)  # half to even, as in `removal_count`
            if survivors == 0:
                emptied.append((level, "/".join(path_names(path)), leaf.size, leaf_rate))
                break
    if emptied:
        level, name, size, leaf_rate = min(emptied)
        raise InputError(
            f"{name} would have none of its {size} weights left at level {level} of {levels} "
            f"at a rate of {leaf_rate:g}: fewer --levels, a lower --rate or a larger layer"
        )


def check_scope(shapes: PyTree, rate: PyTree[float], scope: str, levels: int) -> None:
    """:func:`check_levels` of what is ranked together: each layer, or with scope ``global`` all as one.

    Args:
      shapes: the parameters or their shapes.
      rate: from :func:`rates`.
      scope: ``layer`` or ``global``.
      levels: how many levels are trained.

    Raises:
      InputError: as in :func:`check_levels`.
    """
    if scope == "global":
        leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(rate), strict=True)
        ranked = [(leaf.size, leaf_rate) for leaf, leaf_rate in leaves if leaf_rate]
        shapes = {"all layers": jax.ShapeDtypeStruct((sum(size for size, _ in ranked),), jnp.float32)}
        rate = {"all layers": max(leaf_rate for _, leaf_rate in ranked)}
    check_levels(shapes, rate, levels)


def removal_count(survivors: Int[Array, ""], rate: float) -> Int[Array, ""]:
    """``round(rate × survivors)``, half to even, exact in integers where float32 would not be.

    The rate is taken as the nearest fraction p/q with q ≤ 10,000; then ⌊s/q⌋·p + (s mod q)·p/q never leaves
    int32 for fewer than 2³¹ survivors.
    """
    fraction = Fraction(rate).limit_denominator(10_000)
    p, q = fraction.numerator, fraction.denominator
    rest = (survivors % q) * p
    whole = (survivors // q) * p + rest // q
    twice = 2 * (rest % q)
    return whole + ((twice > q) | ((twice == q) & (whole % 2 == 1)))


def ordinal(score: Float[Array, "*shape"]) -> UInt[Array, "*shape"]:
    """Unsigned integers in the order of the scores: −0 and subnormals equal 0, NaN comes after infinity.

    IEEE 754 floats of one sign are ordered as their bits are: negative ones are flipped, the others get
    the top bit.
    """
    score = score.astype(jnp.promote_types(score.dtype, jnp.float32))
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


def prune_layers(mask: Mask, score: Scores, rate: PyTree[float]) -> Mask:
    """Remove from each leaf its own fraction of survivors: exactly ``round(rate × survivors)`` of them.

    Args:
      mask: the mask so far.
      score: a score per weight; the lowest go.
      rate: a Python float per leaf, from :func:`rates`; leaves of rate 0 are left alone.
    """

    def prune_leaf(kept: Array, leaf_score: Array, leaf_rate: float) -> Array:
        if leaf_rate == 0:
            return kept
        return remove_lowest(kept, leaf_score, removal_count(jnp.sum(kept, dtype=jnp.int32), leaf_rate))

    return jax.tree.map(prune_leaf, mask, score, rate)


def prune_global(mask: Mask, score: Scores, rate: PyTree[float]) -> Mask:
    """Rank all prunable weights together and remove one fraction of them.

    Args:
      mask: the mask so far.
      score: a score per weight, comparable across leaves.
      rate: a Python float per leaf, from :func:`rates`: 0 leaves a leaf out of the ranking, all others must
        be the same.

    Raises:
      ValueError: leaves with different rates, which one ranking cannot serve.
    """
    chosen = sorted({value for value in jax.tree.leaves(rate) if value != 0})
    if len(chosen) != 1:
        raise ValueError(f"global pruning takes one rate for all layers, got {chosen or 'none'}")
    leaves, structure = jax.tree.flatten(mask)
    ranked = [i for i, value in enumerate(jax.tree.leaves(rate)) if value != 0]
    flat_mask = jnp.concatenate([leaves[i].ravel() for i in ranked])
    flat_score = jnp.concatenate([jax.tree.leaves(score)[i].ravel() for i in ranked])
    count = removal_count(jnp.sum(flat_mask, dtype=jnp.int32), chosen[0])
    survivors = remove_lowest(flat_mask, flat_score, count)
    offset = 0
    for i in ranked:
        shape, size = leaves[i].shape, leaves[i].size
        leaves[i] = survivors[offset : offset + size].reshape(shape)
        offset += size
    return jax.tree.unflatten(structure, leaves)


def prune_to(mask: Mask, score: Scores, keep: PyTree[Int[Array, ""]], of: PyTree[bool]) -> Mask:
    """Remove the lowest scored weights of each leaf until ``keep`` of them remain.

    Args:
      mask: the mask so far.
      score: a score per weight; the lowest go.
      keep: how many to keep in each leaf, at most as many as are kept now; may be traced, so one compiled
        program prunes to any size.
      of: which leaves are pruned, from ``masks.prunable``; the others are left alone.
    """

    def prune_leaf(kept: Array, leaf_score: Array, left: Array, chosen: bool) -> Array:
        return remove_lowest(kept, leaf_score, jnp.sum(kept, dtype=jnp.int32) - left) if chosen else kept

    return jax.tree.map(prune_leaf, mask, score, keep, of)


def kept_counts(shapes: PyTree, removed: Sequence[PyTree[float]], from_dense: bool) -> PyTree:
    """How many weights of each leaf are kept at every level, known before anything is trained.

    Args:
      shapes: the parameters or their shapes.
      removed: for every level after the first, the fraction removed from each leaf, as from :func:`rates`.
      from_dense: the fractions are of the dense network's weights, as when it is pruned in one shot; not of
        what the level before has left.

    Returns:
      For each leaf an int32 array ``[levels]``, its first entry the leaf's size.
    """

    def leaf_counts(leaf: Any, *rates: float) -> np.ndarray:
        kept = [leaf.size]
        for fraction in (Fraction(rate).limit_denominator(10_000) for rate in rates):
            before = leaf.size if from_dense else kept[-1]
            kept.append(before - round(before * fraction))  # half to even, as in `removal_count`
        return np.asarray(kept, np.int32)

    return jax.tree.map(leaf_counts, shapes, *removed)


SCOPES = {"layer": prune_layers, "global": prune_global}
"""How the ranking is scoped: inside each layer, or over all of them together."""
