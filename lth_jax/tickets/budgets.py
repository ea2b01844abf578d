"""Budgets: how a number of weights is shared out among layers, to the weight.

* ``uniform``: every layer has the same density.
* ``uniform_plus``: the first layer stays dense, all others have the same density (Evci et al. 2020 call this
  uniform). The whole has the density that was asked for: the others have less.
* ``erk``: Erdős–Rényi kernel (Mocanu et al. 2018; Evci et al. 2020, arXiv:1911.11134): a layer's number
  is proportional to the sum of its kernel's dimensions, so its density to that sum over their product. A
  layer that this would give more than it has stays dense, and the others share the rest.
* ``global``: no layer has a number of its own, all are ranked together.

Numbers are whole: each layer gets its share rounded down, and those with the largest remainders one more,
the earlier of equals first. So the total is exact, and no layer grows from one level to the next.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from lth_jax.errors import InputError, require
from lth_jax.tickets.masks import path_names
from lth_jax.tickets.schedules import Sizes, check_not_empty
from lth_jax.types import Shapes

BUDGETS = ("uniform", "uniform_plus", "erk", "global")


def budgeted(
    shapes: Shapes,
    ranked: PyTree[bool],
    totals: Sequence[int],
    budget: str,
    first: str = "",
    one_shot: bool = False,
) -> Sizes:
    """Sizes of every level from how many weights each keeps of all ranked layers together.

    Args:
      shapes: the parameters or their shapes.
      ranked: which leaves are pruned.
      totals: one a level, none larger than the one before.
      budget: one of ``BUDGETS``.
      first: the first layer's kernel by its path, ``hidden_0/kernel``; for ``uniform_plus``.
      one_shot: see ``schedules.Sizes``.

    Raises:
      ValueError: an unknown budget.
      InputError: a total is larger than what there is, less than a dense first layer takes, or so small that
        a layer would have no weight.
    """
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; expected one of {', '.join(BUDGETS)}")
    names = ["/".join(path_names(path)) for path, _ in jax.tree.leaves_with_path(shapes)]
    leaves, structure = jax.tree.flatten(shapes)
    chosen = jax.tree.leaves(ranked)
    if budget == "global":
        most = sum(_size(leaf) for leaf, yes in zip(leaves, chosen, strict=True) if yes)
        _check_totals(totals, most)
        keep = {"all layers": np.asarray(totals, np.int64)}
        check_not_empty({"all layers": jax.ShapeDtypeStruct((most,), np.float32)}, keep)
        return Sizes(keep, ranked, "global", one_shot)
    spared = first if budget == "uniform_plus" else ""
    known = [name for name, yes in zip(names, chosen, strict=True) if yes]
    if spared or budget == "uniform_plus":
        require(spared in known, f"budget uniform_plus: {first or 'no layer'!r} is no pruned layer")
        require(len(known) > 1, "budget uniform_plus: no layer but the first is pruned")
    places = [place for place, name in enumerate(names) if name in known and name != spared]
    fixed = sum(_size(leaf) for name, leaf in zip(names, leaves, strict=True) if name == spared)
    sizes = [_size(leaves[place]) for place in places]
    _check_totals(totals, sum(sizes) + fixed)
    shares = [sum(leaves[place].shape) for place in places] if budget == "erk" else sizes
    counts, before = [], sizes
    for level, total in enumerate(totals):
        if total - fixed < len(places):
            held = f"the first layer alone has {fixed:,}" if spared else f"there are {len(places)} layers"
            raise InputError(f"budget {budget}: {total:,} weights at level {level} are too few: {held}")
        before = share_out(total - fixed, before, shares)
        counts.append(before)
    own = dict(zip(places, np.asarray(counts, np.int64).T, strict=True))
    keep = [own.get(place, np.full(len(totals), _size(leaf), np.int64)) for place, leaf in enumerate(leaves)]
    tree = jax.tree.unflatten(structure, keep)
    check_not_empty(shapes, tree)
    pruned = jax.tree.unflatten(structure, [place in own for place in range(len(leaves))])
    return Sizes(tree, pruned, "layer", one_shot)


def share_out(total: int, most: Sequence[int], shares: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to ``shares``, none above its ``most``, that add up to ``total``.

    What would be above its most is exactly that, and the others share the rest. In integers alone.
    """
    found = list(most)
    free, left = list(range(len(most))), total
    while free:
        whole = sum(shares[place] for place in free)
        full = [place for place in free if left * shares[place] >= most[place] * whole]
        if not full:
            break
        left -= sum(most[place] for place in full)
        free = [place for place in free if place not in full]
    if not free:
        return found
    whole = sum(shares[place] for place in free)
    for place in free:
        found[place] = left * shares[place] // whole
    more = total - sum(found)
    for place in sorted(free, key=lambda place: -(left * shares[place] % whole))[:more]:
        found[place] += 1
    return found


def _size(leaf: Any) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64))


def _check_totals(totals: Sequence[int], most: int) -> None:
    """Refuse totals that grow, or are larger than what there is."""
    steps = zip([most, *totals], totals, strict=False)
    require(all(one >= other for one, other in steps), f"{totals}: expected totals that fall, from {most:,}")
