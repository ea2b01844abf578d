"""Schedules of sizes: how many weights are kept at each level, known before anything is trained.

There is one rounding, here: a fraction is the nearest one with a denominator of at most 10,000, its product
with a count is rounded half to even. All else (iterative or in one shot, a rate for each level, a density to
reach, rates by layer, each layer for itself or all together) is a list of such products.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

from lth_jax.errors import InputError
from lth_jax.tickets.masks import path_names
from lth_jax.types import Shapes

FINEST = 1e-4
"""The least rate, and how near to 1 the greatest may be: fractions have at most 10,000 parts."""

SCOPES = ("layer", "global")
"""What is ranked together: the weights of each layer, or those of all layers."""


class Sizes(NamedTuple):
    """How many weights are kept at every level.

    ``keep`` has an int array ``[levels]`` for each leaf; with ``scope`` global one array for all leaves of
    ``ranked`` together. ``ranked`` says which leaves are pruned. With ``one_shot`` every level's mask is
    cut out of the dense network; without it, out of the mask before.
    """

    keep: PyTree[Int[np.ndarray, " levels"]]
    ranked: PyTree[bool]
    scope: str = "layer"
    one_shot: bool = False

    @property
    def levels(self) -> int:
        """How many levels there are, the dense one included."""
        return min(len(counts) for counts in jax.tree.leaves(self.keep))


def part(count: int, fraction: float) -> int:
    """``fraction`` of ``count``, rounded half to even."""
    return round(count * Fraction(fraction).limit_denominator(10_000))


def fractions(
    shapes: Shapes, prunable: PyTree[bool], fraction: float, layers: Mapping[str, float | int] | None = None
) -> PyTree[float]:
    """A fraction for each leaf: 0 where it is not pruned.

    Args:
      shapes: the parameters or their shapes.
      prunable: which leaves can be pruned, from ``masks.prunable``.
      fraction: from 0.0001 to 0.9999, for all leaves that no layer's own is for.
      layers: fractions of some layers by their path, ``{"Block_1/Dense_0": 0.1}``, or by any name on it,
        ``{"Dense_0": 0.1}``; 0 spares a layer. The longest name that fits a leaf decides.

    Raises:
      ValueError: a fraction outside these, or a name that fits no prunable leaf.
    """
    own = dict(layers or {})
    for name, value in {"rate": fraction, **own}.items():
        inside = FINEST - 1e-9 <= value <= 1 - FINEST + 1e-9  # one minus a decimal may be off by rounding
        if not (inside or (value == 0 and name in own)):
            raise ValueError(f"pruning rate {value} of {name!r} is outside {FINEST:g} … {1 - FINEST:g}")
    leaves = zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(prunable), strict=True)
    paths = ["/".join(path_names(path)) for (path, _), yes in leaves if yes]
    if unknown := [name for name in own if not any(_fits(name, path) for path in paths)]:
        known = sorted({path.rpartition("/")[0] for path in paths})
        raise ValueError(f"no layer called {', '.join(unknown)}; the model has {', '.join(known)}")

    def of_leaf(path: tuple, leaf: Any, yes: bool) -> float:
        fitting = [name for name in own if _fits(name, "/".join(path_names(path)))]
        return float(own[max(fitting, key=len)] if fitting else fraction) if yes else 0.0

    return jax.tree.map_with_path(of_leaf, shapes, prunable)


def _fits(name: str, path: str) -> bool:
    """Whether a name is a leaf's path or a run of whole parts of it."""
    return f"/{name.strip('/')}/" in f"/{path}/"


def iterative(
    shapes: Shapes,
    prunable: PyTree[bool],
    rates: Sequence[float],
    layers: Mapping[str, float | int] | None = None,
    scope: str = "layer",
) -> Sizes:
    """Every level loses a fraction of what the level before has (Frankle & Carbin 2019, §2).

    Args:
      shapes: the parameters or their shapes.
      prunable: which leaves can be pruned, from ``masks.prunable``.
      rates: the fraction of the survivors that goes after each level but the last: ``[0.2] * 9`` for ten
        levels.
      layers: other rates for some layers, see :func:`fractions`.
      scope: one of ``SCOPES``.

    Raises:
      ValueError: an impossible rate, an unknown layer or scope, or a global ranking with different rates.
      InputError: a layer would lose its last weight.
    """
    removed = [fractions(shapes, prunable, rate, layers) for rate in rates]
    return _sizes(shapes, prunable, removed, scope, False, from_survivors)


def one_shot(
    shapes: Shapes,
    prunable: PyTree[bool],
    removed: Sequence[float],
    layers: Sequence[Mapping[str, float | int]] = (),
    scope: str = "layer",
) -> Sizes:
    """Every level is cut out of the dense network, which is trained once.

    Args:
      shapes: the parameters or their shapes.
      prunable: which leaves can be pruned, from ``masks.prunable``.
      removed: the fraction of the dense network's weights that each level after the first is without.
      layers: other fractions for some layers, for each of those levels, see :func:`fractions`.
      scope: one of ``SCOPES``.

    Raises:
      ValueError, InputError: as in :func:`iterative`.
    """
    others = list(layers) or [{}] * len(removed)
    trees = [fractions(shapes, prunable, *each) for each in zip(removed, others, strict=True)]
    return _sizes(shapes, prunable, trees, scope, True, from_dense)


def to_density(
    shapes: Shapes,
    prunable: PyTree[bool],
    density: float,
    levels: int = 2,
    layers: Mapping[str, float | int] | None = None,
    scope: str = "layer",
    cut_from_dense: bool = False,
) -> Sizes:
    """From dense to exactly a density in equal ratios: level n keeps ``density ** (n / (levels − 1))``.

    Args:
      shapes: the parameters or their shapes.
      prunable: which leaves can be pruned, from ``masks.prunable``.
      density: the fraction in (0, 1) that the last level keeps, of each layer or with scope global of all
        layers together: exactly as many as that, rounded half to even.
      levels: how many, at least 2: the dense one and those that lead to the density.
      layers: other densities for some layers by path; 0 or 1 spares a layer.
      scope: one of ``SCOPES``.
      cut_from_dense: prune every level in one shot.

    Raises:
      ValueError, InputError: as in :func:`iterative`.
    """
    if levels < 2:
        raise ValueError(f"{levels} levels: expected 2 or more, the dense one and one of density {density:g}")
    if not FINEST <= density <= 1 - FINEST:
        raise ValueError(f"density {density} is outside {FINEST:g} … {1 - FINEST:g}")
    own = {name: 1 - value if value else 0 for name, value in (layers or {}).items()}
    removed = [fractions(shapes, prunable, 1 - density, own)] * (levels - 1)

    def count(size: int, rates: Sequence[float]) -> list[int]:
        places = [level / (levels - 1) for level in range(1, levels)]
        return [size, *(part(size, (1 - rate) ** place) for rate, place in zip(rates, places, strict=True))]

    return _sizes(shapes, prunable, removed, scope, cut_from_dense, count)


Count = Callable[[int, Sequence[float]], list[int]]
"""A dense count, and the fraction that each later level removes, to what every level keeps."""


def from_survivors(size: int, rates: Sequence[float]) -> list[int]:
    """Each fraction is of what the level before has left."""
    kept = [size]
    for rate in rates:
        kept.append(kept[-1] - part(kept[-1], rate))
    return kept


def from_dense(size: int, rates: Sequence[float]) -> list[int]:
    """Each fraction is of the dense network's weights."""
    return [size, *(size - part(size, rate) for rate in rates)]


def _sizes(
    shapes: Shapes,
    prunable: PyTree[bool],
    removed: Sequence[PyTree[float]],
    scope: str,
    one_shot: bool,
    count: Count,
) -> Sizes:
    """Sizes from what each level after the first loses of each leaf."""
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; expected one of {', '.join(SCOPES)}")
    ranked = jax.tree.map(lambda yes, *each: bool(yes and any(each or (1,))), prunable, *removed)
    if scope == "global":
        shapes, removed = _together(shapes, ranked, removed)
    counted = lambda leaf, *rates: np.asarray(count(leaf.size, rates), np.int64)  # noqa: E731
    keep = jax.tree.map(counted, shapes, *removed)
    check_not_empty(shapes, keep)
    return Sizes(keep, ranked, scope, one_shot)


def _together(shapes: Shapes, ranked: PyTree[bool], removed: Sequence[PyTree[float]]) -> tuple[Any, list]:
    """All ranked leaves as one, called ``all layers``, and what each level removes of it."""
    chosen = jax.tree.leaves(ranked)
    total = sum(leaf.size for leaf, yes in zip(jax.tree.leaves(shapes), chosen, strict=True) if yes)
    rates = []
    for tree in removed:
        found = sorted({rate for rate, yes in zip(jax.tree.leaves(tree), chosen, strict=True) if yes})
        if len(found) != 1:
            raise ValueError(f"a global ranking takes one rate for all layers, got {found or 'none'}")
        rates.append({"all layers": found[0]})
    return {"all layers": jax.ShapeDtypeStruct((total,), np.float32)}, rates


def dense_counts(shapes: Shapes, sizes: Sizes) -> PyTree[int]:
    """How many weights there are where ``sizes`` says how many are kept: a tree like ``sizes.keep``."""
    if sizes.scope == "layer":
        return jax.tree.map(lambda leaf: int(np.prod(leaf.shape, dtype=np.int64)), shapes)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(sizes.ranked), strict=True)
    total = sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf, yes in leaves if yes)
    return jax.tree.map(lambda _: total, sizes.keep)


def begins_dense(sizes: Sizes, shapes: Shapes) -> bool:
    """Whether level 0 keeps every weight."""
    return jax.tree.map(lambda counts: int(counts[0]), sizes.keep) == dense_counts(shapes, sizes)


def without_first(sizes: Sizes) -> Sizes:
    """The sizes without their dense level."""
    return sizes._replace(keep=jax.tree.map(lambda counts: counts[1:], sizes.keep))


def stepped(
    sizes: Sizes, shapes: Shapes, steps: int, from_dense: bool = False
) -> PyTree[Int[np.ndarray, "levels steps"]]:
    """How many weights are left after each of several prunings that lead to every level, in equal ratios.

    Step i of s leaves n₀ (n / n₀)^(i/s) of n₀, rounded half to even, on the way to n: the last exactly n.

    Args:
      sizes: what every level keeps.
      shapes: the parameters or their shapes.
      steps: how many prunings.
      from_dense: each level is cut out of the dense network; without it, out of the level before.
    """

    def of_leaf(counts: np.ndarray, dense: int) -> np.ndarray:
        before = np.full_like(counts, dense)
        if not from_dense:
            before[1:] = counts[:-1]
        ways = []
        for start, end in zip(before.tolist(), counts.tolist(), strict=True):
            ratio = end / start
            ways.append([*(max(round(start * ratio ** (i / steps)), end) for i in range(1, steps)), end])
        return np.asarray(ways, np.int64)

    return jax.tree.map(of_leaf, sizes.keep, dense_counts(shapes, sizes))


def check_not_empty(shapes: Shapes, keep: PyTree[Int[np.ndarray, " levels"]]) -> None:
    """Refuse sizes that leave what is ranked together without a weight.

    Args:
      shapes: leaves, or all of them as one.
      keep: how many of them each level keeps.

    Raises:
      InputError: the message says what is emptied, and when.
    """
    emptied = [
        (int(np.argmin(counts)), "/".join(path_names(path)), leaf.size)
        for (path, leaf), counts in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(keep), strict=True)
        if counts.min() == 0
    ]
    if emptied:
        level, name, size = min(emptied)
        levels = len(jax.tree.leaves(keep)[0])
        raise InputError(
            f"{name} would have none of its {size} weights left at level {level} of {levels}: "
            "fewer --levels, a lower --rate or a larger layer"
        )


def kept_fractions(sizes: Sizes, shapes: Shapes, prunable: PyTree[bool]) -> np.ndarray:
    """The fraction in [0, 1] of all prunable weights that each level keeps."""
    chosen = list(zip(jax.tree.leaves(shapes), *map(jax.tree.leaves, (prunable, sizes.ranked)), strict=True))
    total = sum(leaf.size for leaf, yes, _ in chosen if yes)
    if sizes.scope == "global":
        spared = sum(leaf.size for leaf, yes, ranked in chosen if yes and not ranked)
        return (jax.tree.leaves(sizes.keep)[0] + spared) / total
    counts = zip(jax.tree.leaves(sizes.keep), chosen, strict=True)
    return np.sum([kept for kept, (_, yes, _) in counts if yes], axis=0) / total
