"""The lottery: train, prune, rewind, and again.

One *level* trains a masked network, prunes it and rewinds it (Frankle & Carbin 2019, §2). Level 0 is dense.
:func:`play_level` is one level of one run, a pure function; :func:`play` is the loop over levels for many
runs at once. Masks are data, so every level runs the same compiled program.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from lth_jax import checks
from lth_jax.keys import stream
from lth_jax.runs import axis, processes
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Curves, Recipe, TrainState, init_state, train
from lth_jax.types import Collections, Mask, Params, Split


class Run(NamedTuple):
    """One run between two levels: everything the next level needs, so it is also what a checkpoint holds."""

    seed: Int[Array, ""]
    level: Int[Array, ""]
    params: Params  # where the level in hand starts, before masking
    rewind_to: Params  # θ0: where the levels after it start
    mask: Mask
    collections: Collections
    opt_state: optax.OptState  # as the level before left it; used only where the plan carries it


class Level(NamedTuple):
    """What one level leaves behind, measured before it is pruned."""

    curves: Curves
    kept: Float[Array, ""]  # fraction of the prunable weights during this level
    kept_counts: PyTree[Int[Array, ""]]
    trained: TrainState
    mask: Mask


def measurements(level: Level) -> dict[str, Float[Array, ""]]:
    """A level's last evaluation and size, by the names they have in results: ``test_accuracy``, ``kept`` …"""
    watched = {
        f"{split}_{name}": values[-1]
        for split, metrics in level.curves.watched.items()
        for name, values in metrics._asdict().items()
    }
    return {**watched, "kept": level.kept}


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens at every level.

    ``rates`` and ``prunable`` are trees with the parameters' structure (see ``pruning.rates`` and
    ``masks.prunable``). ``carry_optimizer`` lets one optimizer live through all levels instead of a fresh
    one at each. ``rewind(start, trained)`` gives the weights the next level starts from.
    """

    recipe: Recipe
    rates: PyTree[float]
    prunable: PyTree[bool]
    scope: str = "layer"
    criterion: pruning.Criterion = pruning.magnitude
    rewind: Callable[[Params, Params], Params] = rewinding.to_start
    carry_optimizer: bool = False


def begin(
    seed: int | Int[Array, ""],
    params: Params,
    collections: Collections,
    plan: Plan,
    rewind_to: Params | None = None,
) -> Run:
    """A run before level 0: dense, its optimizer fresh.

    Args:
      seed: names the run's random streams.
      params: the initial weights.
      collections: the model's other variables, ``{}`` if none.
      plan: what its levels will be.
      rewind_to: the weights that later levels start from; ``params`` unless given.
    """
    return Run(
        seed=jnp.asarray(seed, jnp.int32),
        level=jnp.asarray(0, jnp.int32),
        params=params,
        rewind_to=params if rewind_to is None else rewind_to,
        mask=masks.ones_like(params),
        collections=collections,
        opt_state=plan.recipe.optimizer.init(params),
    )


def play_level(run: Run, data: Split, watch: Mapping[str, Split], plan: Plan) -> tuple[Run, Level]:
    """Train one run at its present mask, then prune and rewind it.

    Args:
      run: the run so far.
      data: training examples.
      watch: splits to evaluate during training, by name.
      plan: recipe, rates, scope, criterion, rewinding.

    Returns:
      The run at the start of the next level, and what this level measured.
    """
    state = init_state(plan.recipe, run.params, run.collections, run.mask)
    if plan.carry_optimizer:
        state = state._replace(opt_state=run.opt_state)
    order, noise = stream(run.seed, "order", run.level), stream(run.seed, "model", run.level)
    trained, curves = train(order, state, run.mask, data, plan.recipe, watch, noise)

    score = pruning.scores(plan.criterion, run.params, trained.params)
    mask = pruning.SCOPES[plan.scope](run.mask, score, plan.rates)
    level = Level(
        curves, masks.kept_fraction(run.mask, plan.prunable), masks.counts(run.mask), trained, run.mask
    )
    following = run._replace(
        level=run.level + 1,
        params=plan.rewind(run.rewind_to, trained.params),
        mask=mask,
        opt_state=trained.opt_state,
    )
    return following, level


def play(
    runs: Run,
    data: Split,
    watch: Mapping[str, Split],
    plan: Plan,
    levels: int,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    select: Callable[[Level], PyTree] = lambda level: level,
    wait: Callable[[PyTree], PyTree] = jax.block_until_ready,
) -> Iterator[tuple[Run, PyTree]]:
    """Play many runs, a leading axis on every leaf, up to ``levels`` levels in all.

    Args:
      runs: from :func:`begin` stacked, or from a checkpoint after any level.
      data: training examples, the same for every run.
      watch: splits to evaluate.
      plan: the same for every run.
      levels: how many levels a whole sweep has; those that ``runs`` has behind it are not repeated.
      mesh: devices, all by default.
      chunk: runs vectorised inside one device, see ``axis.map_runs``.
      select: what to keep of each level, run by run; trained weights are large, curves are small.
      wait: gives back what it is given once that is computed, or raises to stop.

    Yields:
      After each level, the runs at the start of the next and what ``select`` kept.

    Raises:
      ValueError: runs, examples and plan do not fit together, see ``edges``.
    """

    def one(run: Run, data: Split, watch: Mapping[str, Split]) -> tuple[Run, PyTree]:
        following, level = play_level(run, data, watch, plan)
        return following, select(level)

    checks.check_all(runs, data, watch, plan)
    step = axis.map_runs(one, mesh, chunk, wait)
    shared = axis.replicate((data, dict(watch)), mesh)
    for _ in range(int(processes.gather(runs.level)[0]), levels):
        before = runs.mask
        runs, kept = step(runs, *shared)
        masks.check_nested(runs.mask, before)
        yield runs, kept
