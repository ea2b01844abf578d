"""Many runs through all levels: :func:`run_levels`, and :func:`sweep`, which saves, resumes and reports."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from lth_jax import compression
from lth_jax.levels import (
    Outcome,
    Plan,
    Run,
    Start,
    advance,
    branch,
    measurements,
    prune_first,
    train_network,
)
from lth_jax.runs import axis, branching, checks, processes, speed
from lth_jax.runs.blocks import block_state, blocks
from lth_jax.runs.branching import Compare, Inspect, nothing, paired, pairs
from lth_jax.runs.job import Job
from lth_jax.runs.progress import Describe, reporting
from lth_jax.runs.rounds import with_checkpoints
from lth_jax.tickets import schedules
from lth_jax.training import Observer, TrainState
from lth_jax.types import Mask

Splits = Mapping[str, PyTree]
Record = Callable[[Outcome], PyTree]
Keep = Callable[[Run, TrainState], PyTree]


class Level(NamedTuple):
    """What one level has left behind.

    ``runs`` are at the start of the next level. ``networks`` is what was recorded of each network,
    ``[run, network, ...]``, tickets first; ``inspected`` of each run, ``[run, ...]``; ``compared`` of each
    pair of copies, ``[run, pair, ...]``, see ``branching.pairs``; ``trained`` has the networks' states,
    ``[run, network, ...]``, their optimizers' only where they are carried over. What a level has not trained
    (``Plan.control_levels``) is blank in all of them, see ``branching.at_places``.
    """

    runs: Run
    networks: PyTree
    inspected: PyTree
    compared: PyTree
    trained: TrainState


def run_levels(
    runs: Run,
    data: PyTree,
    plan: Plan,
    levels: int | None = None,
    *,
    watch: Mapping[str, PyTree] | None = None,
    final: Mapping[str, PyTree] | None = None,
    observe: Mapping[str, Observer] | None = None,
    record: Record | None = None,
    inspect: Inspect = nothing,
    compare: Compare | None = None,
    mesh: Mesh | None = None,
    chunk: int | None = None,
    choose: speed.Choose = speed.never,
) -> Iterator[Level]:
    """Take many runs, a leading axis on every leaf, through their levels.

    Args:
      runs: from ``levels.begin`` stacked, or from a checkpoint after any level.
      data: training examples, the same for every run.
      plan: the same for every run.
      levels: how many there are in all; as many as the plan has sizes for unless given. Those that ``runs``
        has behind it are not repeated.
      watch: splits to evaluate while networks train, by name, see ``Recipe.eval_every``.
      final: splits to evaluate at the end of each level only.
      observe: other functions of the state to watch, by name.
      record: what to keep of each network; its measurements unless given.
      inspect: what to keep of each run as it is before a level's training, but for a mask that training
        changes: that is the one it ended with.
      compare: what to keep of each pair of copies, where the plan has some.
      mesh: devices, all by default.
      chunk: networks vectorised inside one device, see ``axis.map_runs``.
      choose: which kernels a level holds compressed, see ``speed.decide``.

    Raises:
      ValueError: runs, examples and plan do not fit together, see ``checks``.
      signals.Stopped: a deferred signal came.
    """
    watch, final = dict(watch or {}), dict(final or {})
    levels = plan.sizes.levels if levels is None else levels
    checks.check_levels(levels, plan)
    checks.check_all(runs, data, {**watch, **final}, plan)
    mesh = mesh or axis.run_mesh()

    def compressed(starts: Start) -> compression.Entries | None:
        steps = starts.seed.shape[0] * (plan.recipe.steps - plan.first) / mesh.size
        return None if choose is speed.never else choose(most_kept(starts), steps)

    @functools.cache  # a level is another program only where something else is compressed
    def train(entries: compression.Entries | None) -> Callable[..., tuple[TrainState, PyTree]]:
        return axis.map_runs(_network_function(plan, observe, record, entries), mesh, chunk)

    prune = axis.map_runs(lambda pair, data: advance(pair[0], pair[1], plan, data), mesh, chunk)
    plans = {len(here.networks): here for here in map(plan.at, range(levels))}
    ways = {count: branching.make(p, plan, inspect, compare, mesh, chunk) for count, p in plans.items()}
    ended = axis.on_own_runs(lambda runs, mask: jax.vmap(inspect)(_with_masks(runs, mask)), mesh)
    tickets = axis.on_own_runs(lambda tree: jax.tree.map(lambda leaf: leaf[:, 0], tree), mesh)
    shared = axis.replicate((data, watch, final), mesh)
    scored = shared[0] if plan.looks_at_data else None
    runs = axis.spread(runs, mesh) if processes.several() else axis.to_first_device(runs, mesh)
    begun = int_level(runs)
    one = jax.eval_shape(lambda params: jax.tree.map(lambda leaf: leaf[0], params), runs.ticket.params)
    if begun == 0 and plan.prune_at == "start" and not schedules.begins_dense(plan.sizes, one):
        first = axis.map_runs(lambda run, data: prune_first(run, plan, data), mesh, chunk)
        runs = axis.to_first_device(first(runs, scored), mesh)
    for level in range(begun, levels):
        checks.report_collapse(runs, plan)
        way = ways[len(plan.at(level).networks)]
        starts, inspected = way.before(runs)
        trained, networks = way.apart(train(compressed(starts))(starts, *shared))
        compared = way.relate(starts, trained, shared)
        if plan.recipe.dynamic is not None:
            inspected = ended(*axis.to_first_device((runs, tickets(trained).mask), mesh))
        earlier, runs = runs, axis.to_first_device(prune((runs, tickets(trained)), scored), mesh)
        if plan.prune_at == "trained":
            checks.check_nested(runs.ticket.mask, earlier.ticket.mask)
        networks, trained, compared = way.widen((networks, trained, compared))
        yield Level(runs, networks, inspected, compared, trained)


@jax.jit
def _counts(mask: Mask) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=range(1, leaf.ndim), dtype=jnp.int32), mask)


def most_kept(starts: Start) -> list[int]:
    """The most weights that any of some stacked networks keeps in each leaf of its parameters."""
    return [int(np.max(leaf)) for leaf in jax.tree.leaves(processes.gather(_counts(starts.ticket.mask)))]


def _network_function(
    plan: Plan,
    observe: Mapping[str, Observer] | None,
    record: Record | None,
    entries: compression.Entries | None = None,
) -> Callable[..., tuple[TrainState, PyTree]]:
    """What becomes of one network at a level: its state, and what is recorded of it."""
    record = record or (lambda outcome: measurements(outcome, plan))

    def one(start: Start, data: PyTree, watch: Splits, final: Splits) -> tuple[TrainState, PyTree]:
        outcome = train_network(start, data, watch, plan.recipe, observe, final, entries, first=plan.first)
        carried = plan.optimizer == "carried"
        state = outcome.trained if carried else outcome.trained._replace(opt_state={})
        return state, record(outcome)

    return one


def _with_masks(runs: Run, mask: Mask) -> Run:
    return runs._replace(ticket=runs.ticket._replace(mask=mask))


def level_shapes(
    runs: Run,
    data: PyTree,
    plan: Plan,
    *,
    watch: Mapping[str, PyTree] | None = None,
    final: Mapping[str, PyTree] | None = None,
    observe: Mapping[str, Observer] | None = None,
    record: Record | None = None,
    inspect: Inspect = nothing,
    compare: Compare | None = None,
) -> Level:
    """What :func:`run_levels` yields, as ``jax.ShapeDtypeStruct``; nothing is computed."""
    one = _network_function(plan, observe, record)

    def related(starts: Start, trained: TrainState) -> PyTree:
        if compare is None or not pairs(plan):
            return {}
        of_pair = functools.partial(compare, data=data, splits={**dict(watch or {}), **dict(final or {})})
        return jax.vmap(of_pair)(paired(starts, trained, plan))

    def level(run: Run) -> Level:
        starts = axis.stack(branch(run, plan))
        trained, networks = jax.vmap(lambda start: one(start, data, dict(watch or {}), dict(final or {})))(
            starts
        )
        return Level(run, networks, inspect(run), related(starts, trained), trained)

    return jax.eval_shape(jax.vmap(level), runs)


class Swept(NamedTuple):
    """What a sweep has recorded, as NumPy arrays; ``seconds`` of each level.

    ``networks``: ``[level, run, network, ...]``; ``inspected``: ``[level, run, ...]``;
    ``compared``: ``[level, run, pair, ...]``; ``kept``: ``[kept level, run, ...]``.
    """

    networks: PyTree
    inspected: PyTree
    compared: PyTree
    kept: PyTree
    seconds: np.ndarray


def sweep(
    job: Job | None,
    labels: Sequence[Any],
    one: Run,
    begin: Callable[[Sequence[Any]], Run],
    data: PyTree,
    plan: Plan,
    levels: int | None = None,
    *,
    describe: Describe,
    part: str = "",
    name: Callable[[Any], str] = lambda label: f"seed {label}",
    keep: Keep = nothing,
    keep_levels: Sequence[int] = (),
    sparse_kernels: str = "auto",
    **options: Any,
) -> Swept:
    """Take runs through all levels, saving after each; what was begun before goes on where it stopped.

    More runs than memory holds are taken block after block.

    Args:
      job: the folder, and how the work is carried out; ``None`` saves and prints nothing.
      labels: what names a run: a seed, a pair of initializer and seed …
      one: one of them before level 0, as ``jax.ShapeDtypeStruct``.
      begin: makes the stacked runs of some labels, before level 0.
      data: training examples.
      plan: what happens at every level.
      levels: how many, see :func:`run_levels`.
      describe: a progress to its line.
      part: what tells these levels from the job's other ones; also the name of their checkpoints' folder.
      name: what a log calls a run.
      keep: what to keep of some levels besides the record: of the runs after them and of what was trained.
      keep_levels: of which levels.
      sparse_kernels: how it is chosen what is held compressed, see ``speed.decide``; the job's choice
        where there is a job.
      **options: ``watch``, ``final``, ``observe``, ``record``, ``inspect`` and ``compare`` of
        :func:`run_levels`.

    Returns:
      Everything recorded, of all labels in their order, whole in each of several processes.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came; what is finished is saved.
      StorageError: a checkpoint cannot be written.
      InputError: the checkpoints are another program's or of other seeds. Plan and data are not compared: a
        folder is for one sweep, see ``folders.open_folder``.
    """
    levels = plan.sizes.levels if levels is None else levels
    found = []
    for split, examples in {"training": data, **options.get("watch", {}), **options.get("final", {})}.items():
        checks.check_examples(split, examples, one.ticket.params, one.ticket.collections, plan.recipe)
    places = job and (job.checkpoints / part.replace(" ", "_") if part else job.checkpoints)
    wanted = job.execution.sparse_kernels if job else sparse_kernels
    decision = _decide(one, data, plan, levels, len(labels), wanted, places)
    if job and decision.line:
        print(decision.line, flush=True)
    chunk, size = (job.chunk, job.execution.block) if job else (None, 0)
    for place, block in blocks(places, labels, block_state(one, plan), size):
        runs, whole = begin(block), len(block) == len(labels)
        title = part if whole or place is None else " ".join(filter(None, [part, place.name]))
        if not whole and place:
            print(f"{place.name} of {len(labels):,}", flush=True)
        like = level_shapes(runs, data, plan, **options)
        shapes = (like.networks, like.inspected, like.compared), jax.eval_shape(keep, like.runs, like.trained)

        def play(runs: Run) -> Iterator[tuple[Run, PyTree, PyTree]]:
            for level in run_levels(runs, data, plan, levels, chunk=chunk, choose=decision.choose, **options):
                kept = keep(level.runs, level.trained) if int_level(level.runs) - 1 in keep_levels else None
                yield level.runs, (level.networks, level.inspected, level.compared), kept

        one_step = len(block) * (plan.recipe.steps - plan.first)
        steps = [one_step * count for count in branching.networks(plan, levels)]
        with reporting(job, describe, steps, title, [name(label) for label in block]) as report:
            found.append(
                with_checkpoints(place, runs, shapes, play, levels, report, keep_levels, plan.networks)
            )
    return joined(found)


def _decide(
    one: Run, data: PyTree, plan: Plan, levels: int, runs: int, sparse_kernels: str, folder: Path | None
) -> speed.Decision:
    """How the levels of a sweep choose what they hold compressed; several processes hold all dense."""
    ticket, recipe = one.ticket, plan.recipe
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((recipe.batch_size, *leaf.shape[1:]), leaf.dtype), data
    )
    networks = runs * len(plan.networks) / jax.device_count()
    steps = networks * levels * (recipe.steps - plan.first)
    wanted = "off" if plan.optimizer == "carried" or processes.several() else sparse_kernels
    return speed.decide(
        recipe, ticket.params, plan.prunable, ticket.collections, batch, steps, wanted, folder
    )


def int_level(runs: Run) -> int:
    """The level that stacked runs are at."""
    return int(processes.own(runs.level)[0])


def joined(found: Sequence[tuple[PyTree, PyTree, np.ndarray]]) -> Swept:
    """Blocks of runs as one: records ``[level, run, ...]``, seconds per level."""
    records, kept, seconds = zip(*found, strict=True)
    join = lambda *parts: np.concatenate(parts, axis=1)  # noqa: E731
    networks, inspected, compared = jax.tree.map(join, *records)
    return Swept(networks, inspected, compared, jax.tree.map(join, *kept), np.sum(seconds, axis=0))
