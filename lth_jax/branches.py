"""Controls beside the trunk: at every level a ticket and its siblings, all trained in one batched call.

A *line* is one seed's ticket on its way through the levels. At each level it branches: the ticket itself, and
siblings that differ from it in one thing (fresh weights, weights moved to other places, another mask …), so
that a difference between them is that thing's. Only the ticket is pruned and goes on. Ticket and siblings of
all lines stand on the run axis together. A sibling is a pure function of the line, see :data:`Sibling`.

How many weights are kept at each level is known beforehand (``pruning.kept_counts``), so iterative pruning
and pruning in one shot are the same program: one ranks the survivors by their weights at the end of the level
before, the other ranks all weights by those at the end of the dense level.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from lth_jax import checks
from lth_jax.keys import stream
from lth_jax.runs import axis
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Curves, Recipe, init_state, train
from lth_jax.types import Mask, Params, Split


class Line(NamedTuple):
    """One seed's ticket between two levels: what a checkpoint holds."""

    seed: Int[Array, ""]
    level: Int[Array, ""]
    params: Params  # where the ticket starts the level in hand, before masking
    mask: Mask
    rewind_to: Params  # θ0: where the levels after the first start
    early: Params  # θ_k, for siblings that start from it; θ0 unless given
    trained: Params  # what the next mask is ranked by


class Start(NamedTuple):
    """One network about to be trained: a ticket or a sibling."""

    seed: Int[Array, ""]
    level: Int[Array, ""]
    params: Params
    mask: Mask


Sibling = Callable[[Line], tuple[Params, Mask]]
"""A control: from a line to the weights and the mask that are trained beside its ticket."""


@dataclass(frozen=True, eq=False)
class Rules:
    """What happens at every level.

    ``keep`` has an int32 array ``[levels]`` for every leaf, see ``pruning.kept_counts``; ``prunable`` is
    from ``masks.prunable``. ``one_shot`` prunes every level's mask from the dense network; without it, from
    the mask before. ``rewind(start, trained)`` gives the weights the next level's ticket starts from.
    """

    recipe: Recipe
    keep: PyTree[Int[np.ndarray, " levels"]]
    prunable: PyTree[bool]
    one_shot: bool = False
    rewind: Callable[[Params, Params], Params] = rewinding.to_start
    criterion: pruning.Criterion = pruning.magnitude
    siblings: Mapping[str, Sibling] = field(default_factory=dict)


def begin(
    seed: int | Int[Array, ""], params: Params, rewind_to: Params | None = None, early: Params | None = None
) -> Line:
    """A line before level 0: dense. The model has no collections.

    Args:
      seed: names the line's random streams.
      params: θ0.
      rewind_to: where the tickets of later levels start; θ0 unless given.
      early: θ_k from ``rewinding.at_step``, for siblings that start there.
    """
    return Line(
        seed=jnp.asarray(seed, jnp.int32),
        level=jnp.asarray(0, jnp.int32),
        params=params,
        mask=masks.ones_like(params),
        rewind_to=params if rewind_to is None else rewind_to,
        early=params if early is None else early,
        trained=params,
    )


def branch(line: Line, rules: Rules) -> Start:
    """The networks of one level of one line, stacked: its ticket first, then the siblings in their order."""
    pairs = [(line.params, line.mask), *(sibling(line) for sibling in rules.siblings.values())]
    return axis.stack([Start(line.seed, line.level, *pair) for pair in pairs])


def train_start(
    start: Start, data: Split, watch: Mapping[str, Split], recipe: Recipe
) -> tuple[Params, Curves]:
    """Train one network from fresh optimizer state; siblings of a level see the examples in one order."""
    order, noise = (stream(start.seed, name, start.level) for name in ("order", "model"))
    state = init_state(recipe, start.params, {}, start.mask)
    trained, curves = train(order, state, start.mask, data, recipe, watch, noise)
    return trained.params, curves


def advance(line: Line, trained: Params, rules: Rules) -> Line:
    """The line at the start of its next level: pruned to that level's size, and rewound.

    Args:
      line: at the level that was trained.
      trained: its ticket's weights after training.
      rules: sizes, scope, rewinding.
    """
    dense = line.level == 0
    judged = trained
    if rules.one_shot:
        judged = jax.tree.map(lambda now, before: jnp.where(dense, now, before), trained, line.trained)
    last = jax.tree.leaves(rules.keep)[0].shape[0] - 1
    following = jnp.minimum(line.level + 1, last)
    keep = jax.tree.map(lambda counts: jnp.asarray(counts)[following], rules.keep)
    whole = masks.ones_like(line.mask) if rules.one_shot else line.mask
    score = pruning.scores(rules.criterion, line.params, judged)
    return line._replace(
        level=line.level + 1,
        params=rules.rewind(line.rewind_to, trained),
        mask=pruning.prune_to(whole, score, keep, rules.prunable),
        trained=judged,
    )


def play(
    lines: Line,
    data: Split,
    watch: Mapping[str, Split],
    rules: Rules,
    levels: int,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    select: Callable[[Start, Curves], PyTree] = lambda start, curves: curves,
    inspect: Callable[[Line], PyTree] = lambda line: {},
    wait: Callable[[PyTree], PyTree] = jax.block_until_ready,
) -> Iterator[tuple[Line, tuple[PyTree, PyTree]]]:
    """Play many lines, a leading axis on every leaf, up to ``levels`` levels in all.

    Args:
      lines: from :func:`begin` stacked, or from a checkpoint after any level.
      data: training examples, the same for all.
      watch: splits to evaluate.
      rules: the same for all.
      levels: how many there are in all; those that ``lines`` has behind it are not repeated.
      mesh, chunk: see ``axis.map_runs``.
      select: what to keep of each network.
      inspect: what to keep of each line as it is before a level's training: masks, initial weights.
      wait: gives back what it is given once that is computed, or raises to stop.

    Yields:
      After each level, the lines at the start of the next, and the record: what ``select`` kept as arrays
      ``[line, network, ...]``, tickets first, and what ``inspect`` kept as ``[line, ...]``.

    Raises:
      ValueError: lines, examples and rules do not fit together, see ``edges``; or the devices belong to
        several processes, which this loop does not serve.
    """
    if jax.process_count() > 1:
        raise ValueError(f"{jax.process_count()} processes: expected one; start lines with siblings in one")

    def one(start: Start, data: Split, watch: Mapping[str, Split]) -> tuple[Params, PyTree]:
        trained, curves = train_start(start, data, watch, rules.recipe)
        return trained, select(start, curves)

    checks.check_lines(lines, rules, levels)
    for name, split in {"training": data, **watch}.items():
        checks.check_split(name, split, lines, rules.recipe)
    mesh = mesh or axis.run_mesh()
    step = axis.map_runs(one, mesh, chunk, wait)
    before = jax.jit(jax.vmap(lambda line: (branch(line, rules), inspect(line))))
    after = jax.jit(jax.vmap(lambda line, trained: advance(line, trained, rules)))
    shared = axis.replicate((data, dict(watch)), mesh)
    count, networks = lines.seed.shape[0], 1 + len(rules.siblings)
    lines = axis.at_home(lines, mesh)  # and never elsewhere, or the second level would compile anew
    for _ in range(int(lines.level[0]), levels):
        starts, seen = before(lines)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), starts)
        found = axis.at_home(step(flat, *shared), mesh)
        trained, kept = jax.tree.map(lambda leaf: leaf.reshape(count, networks, *leaf.shape[1:]), found)
        tickets = jax.tree.map(lambda leaf: leaf[:, 0], trained)
        earlier, (lines, record) = lines.mask, wait((after(lines, tickets), (kept, seen)))
        masks.check_nested(lines.mask, earlier)
        yield lines, record


def record_shapes(
    lines: Line,
    data: Split,
    watch: Mapping[str, Split],
    rules: Rules,
    select: Callable[[Start, Curves], PyTree],
    inspect: Callable[[Line], PyTree],
) -> tuple[PyTree, PyTree]:
    """What :func:`play` records of one level, as ``jax.ShapeDtypeStruct``s; nothing is computed."""

    def one(start: Start) -> PyTree:
        return select(start, train_start(start, data, watch, rules.recipe)[1])

    level = jax.vmap(lambda line: (jax.vmap(one)(branch(line, rules)), inspect(line)))
    return jax.eval_shape(level, lines)
