"""Where runs branch into the networks of a level, and how what became of these is put together again.

A level trains a run's ticket and what stands beside it (controls, copies): stacked ``[run × network, ...]``
on the run axis while they are trained, ``[run, network, ...]`` afterwards. A plan may leave controls out of
some levels; their places are then blank, so that all levels have one shape.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from lth_jax.levels import Plan, Run, Start, branch
from lth_jax.runs import axis
from lth_jax.training import TrainState
from lth_jax.types import Mask

Inspect = Callable[[Run], PyTree]
Compare = Callable[..., PyTree]
"""``compare(pair, data=…, splits=…)``: training examples and splits to what is kept of a :class:`Pair`."""


class Pair(NamedTuple):
    """Two copies of one network, trained in different orders of the examples."""

    seed: Int[Array, "*runs"]
    mask: Mask
    one: TrainState
    other: TrainState


class Branching(NamedTuple):
    """What a level does beside training.

    ``before``: runs to their networks, ``[run × network, ...]``, and to what is inspected of them.
    ``apart``: ``[run × network, ...]`` to ``[run, network, ...]``.
    ``relate``: networks, their states and (training examples, watched and other splits) to what is kept of
    the pairs of copies, ``[run, pair, ...]``.
    ``widen``: records and states of the level's networks and of its pairs to those of the whole plan's.
    """

    before: Callable[[Run], tuple[Start, PyTree]]
    apart: Callable[[PyTree], PyTree]
    relate: Callable[[Start, TrainState, tuple[PyTree, Any, Any]], PyTree]
    widen: Callable[[tuple[PyTree, TrainState, PyTree]], tuple[PyTree, TrainState, PyTree]]


def nothing(*_: Any) -> dict:
    """Records nothing."""
    return {}


def pairs(plan: Plan) -> list[tuple[int, int]]:
    """Pairs of copies, as places in ``plan.networks``: parent after parent, each pair of its copies."""
    count, copies = len(plan.parents), range(plan.children)
    return [
        (place + one * count, place + other * count)
        for place in range(count)
        for one, other in itertools.combinations(copies, 2)
    ]


def networks(plan: Plan, levels: int) -> list[int]:
    """How many networks of a run each level trains."""
    return [len(plan.at(level).networks) for level in range(levels)]


def make(
    here: Plan, whole: Plan, inspect: Inspect, compare: Compare | None, mesh: Mesh, chunk: int | None
) -> Branching:
    """What the levels of one plan do beside training.

    Args:
      here: the plan of these levels, see ``Plan.at``.
      whole: that of all levels.
      inspect: what to keep of each run.
      compare: what to keep of each pair of copies.
      mesh: devices.
      chunk: pairs vectorised inside one device.
    """
    count = len(here.networks)
    return Branching(
        before=axis.on_own_runs(lambda runs: branched(runs, here, inspect), mesh),
        apart=axis.on_own_runs(lambda flat: axis.unflatten(flat, count), mesh),
        relate=_pair_function(here, compare, mesh, chunk),
        widen=(lambda found: found) if here is whole else _widening(here, whole, mesh),
    )


def branched(runs: Run, plan: Plan, inspect: Inspect) -> tuple[Start, PyTree]:
    """The networks of stacked runs as ``[run × network, ...]``, and what is inspected of each run."""
    starts, inspected = jax.vmap(lambda run: (axis.stack(branch(run, plan)), inspect(run)))(runs)
    return axis.flatten(starts), inspected


def paired(starts: Start, trained: TrainState, plan: Plan) -> Pair:
    """The pairs of one run, ``[pair, ...]``, from its networks, ``[network, ...]``."""
    first, second = np.asarray(pairs(plan)).T
    of = lambda tree, index: jax.tree.map(lambda leaf: leaf[index], tree)  # noqa: E731
    state = trained._replace(opt_state={})
    return Pair(of(starts.seed, first), of(starts.ticket.mask, first), of(state, first), of(state, second))


def _pair_function(
    plan: Plan, compare: Compare | None, mesh: Mesh, chunk: int | None
) -> Callable[[Start, TrainState, tuple[PyTree, Any, Any]], PyTree]:
    """What is kept of the pairs of copies, ``[run, pair, ...]``: a function of networks and splits."""
    count, found = len(plan.networks), len(pairs(plan))
    if compare is None or not found:
        return nothing

    def chosen(starts: Start, trained: TrainState) -> Pair:
        of_runs = jax.vmap(lambda starts, trained: paired(starts, trained, plan))
        return axis.flatten(of_runs(axis.unflatten(starts, count), trained))

    pick = axis.on_own_runs(chosen, mesh)
    of_pair = axis.map_runs(lambda pair, data, splits: compare(pair, data=data, splits=splits), mesh, chunk)
    apart = axis.on_own_runs(lambda flat: axis.unflatten(flat, found), mesh)

    def relate(starts: Start, trained: TrainState, shared: tuple[PyTree, Any, Any]) -> PyTree:
        data, watch, final = shared
        pair = pick(*axis.to_first_device((starts, trained._replace(opt_state={})), mesh))
        return apart(of_pair(pair, data, {**watch, **final}))

    return relate


def _widening(here: Plan, whole: Plan, mesh: Mesh) -> Callable[[Any], Any]:
    """Records, states and pairs of a level's networks to those of all, blank where none was trained."""
    names = here.networks
    places = [names.index(name) if name in names else None for name in whole.networks]
    own, every = range(len(pairs(here))), range(len(pairs(whole)))  # the ticket's are the first
    pair_places = [place if place in own else None for place in every]

    def widen(found: tuple[PyTree, TrainState, PyTree]) -> tuple[PyTree, TrainState, PyTree]:
        records, trained, compared = found
        return at_places(records, places), at_places(trained, places), at_places(compared, pair_places)

    return axis.on_own_runs(lambda found: widen(found), mesh)


def at_places(tree: PyTree, places: Sequence[int | None]) -> PyTree:
    """A tree ``[run, network, ...]`` with other networks: those at some places, and blanks where it is none.

    A blank is NaN, 0 or False; of a key it is the first network's.
    """
    index = np.asarray([place or 0 for place in places])
    blank = np.asarray([place is None for place in places])

    def put(leaf: Array) -> Array:
        found = leaf[:, index]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return found
        nothing = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0
        return jnp.where(blank.reshape(1, -1, *(1,) * (leaf.ndim - 2)), jnp.full_like(found, nothing), found)

    return jax.tree.map(put, tree)
