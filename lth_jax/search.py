"""From a model and some choices to a plan and its runs: what ``find_tickets`` and ``lth-jax sweep`` share."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from lth_jax import levels
from lth_jax.analysis import connectivity, flops, records
from lth_jax.choices import Choices, check_pruning, make_sizes, rewind_step
from lth_jax.errors import InputError, in_one_line, require
from lth_jax.keys import stream
from lth_jax.levels import Plan, Run
from lth_jax.models import Network
from lth_jax.runs import axis, checkpoints, checks, processes, signals
from lth_jax.runs.branching import Compare, Pair, nothing
from lth_jax.runs.job import Job
from lth_jax.runs.sweep import Swept, sweep
from lth_jax.tasks import Task, classification
from lth_jax.tickets import controls, masks, rewinding
from lth_jax.training import Observer, Recipe, TrainState, train
from lth_jax.types import Collections, Params, PRNGKey, Shapes

Initial = Callable[[PRNGKey], tuple[Params, Collections]]
"""A run's initialization key to its weights and the model's other variables."""


class Search(NamedTuple):
    """A plan, how its runs begin, and how copies are compared.

    ``begin(seed)`` is a run before level 0; where ``early`` is not 0 it has to be trained for so many
    iterations first, with ``begin(seed, data)``.
    """

    plan: Plan
    shapes: Shapes
    early: int
    begin: Callable[..., Run]
    compare: Compare


def prepare(
    network: Network,
    optimizer: optax.GradientTransformation,
    examples: int,
    initial: Initial,
    choices: Choices,
    task: Task | None = None,
    inputs: PyTree = None,
) -> Search:
    """The plan of every level, and how a run begins.

    Args:
      network: the model.
      optimizer: of every level.
      examples: how many there are to train on.
      initial: draws a run's weights.
      choices: all else.
      task: what is learned; classification unless given.
      inputs: what the network is given for one example, or its shapes: says which layer is the first.

    Raises:
      ValueError: an impossible choice; the message names it.
    """
    require(
        choices.batch_size <= examples,
        f"batch_size {choices.batch_size}: larger than the {examples} training examples",
    )
    with in_one_line("the model's parameters cannot be drawn"):
        shapes, other = jax.eval_shape(initial, jax.random.key(0))
    prunable = masks.prunable(shapes, choices.prunable)
    checks.check_optimizer(optimizer, shapes)
    steps = choices.iterations or choices.epochs * (examples // choices.batch_size)
    kind, early = rewind_step(choices.rewind)
    require(early < steps, f"rewind {choices.rewind}: a level has {steps} iterations")
    kept = choices.rewind_schedule == "kept" and early > 0
    require(
        choices.optimizer != "rewound" or kept,
        "optimizer rewound: needs an iteration to rewind to, its schedule kept",
    )
    names = list(choices.controls)
    require(len(set(names)) == len(names), f"controls {','.join(names)}: one is named twice")
    require(choices.children != 1, "children 1: a line needs two")
    beside = None if choices.control_levels is None else tuple(choices.control_levels)
    for level in beside or ():
        inside = 0 <= level < choices.levels
        require(inside, f"control_levels {level}: expected levels from 0 to {choices.levels - 1}")
    if choices.dynamic is not None:
        behind, last = early if kept else 0, choices.dynamic.last(steps)
        told = f"every {choices.dynamic.every} iterations masks would change, the last time at {last}"
        require(last > behind, f"dynamic: {told}; a level has {steps} iterations, from {behind} on")
    resets, draw = kind == "weights", lambda key: initial(key)[0]
    check_pruning(choices, examples)
    first = ""
    if choices.budget == "uniform_plus":
        leaves = jax.tree.leaves_with_path(prunable)
        known = {"/".join(masks.path_names(path)) for path, yes in leaves if yes}
        used = flops.multiply_adds(network, shapes, other, inputs)
        first = next((name for name in used if name in known), "")
    plan = Plan(
        Recipe(
            network, optimizer, choices.batch_size, steps, min(choices.eval_every, steps),
            task=task or classification(), dynamic=choices.dynamic,
        ),
        sizes=make_sizes(choices, shapes, prunable, first),
        prunable=prunable,
        score=choices.score,
        score_batch=choices.score_batch,
        prune_at=choices.prune_at,
        score_steps=choices.score_steps,
        invert="invert" in names,
        rewind=rewinding.to_start if resets else rewinding.no_reset,
        first=early if kept else 0,
        optimizer=choices.optimizer,
        collections="start" if resets else "trained",
        controls={name: controls.named(name, draw, prunable) for name in names},
        control_levels=beside,
        children=choices.children,
    )  # fmt: skip
    compare = functools.partial(
        connectivity.compare,
        recipe=plan.recipe,
        prunable=prunable,
        points=choices.path_points,
        statistics=choices.path_statistics,
    )
    return Search(plan, shapes, early, _beginner(plan, initial, early), compare)


def _beginner(plan: Plan, initial: Initial, early: int) -> Callable[..., Run]:
    """How a run begins: dense; with ``early`` after so many iterations of the dense network's training."""

    def begin(seed: Any, data: PyTree | None = None) -> Run:
        params, collections = initial(stream(seed, "init"))
        if not early or data is None:
            return levels.begin(seed, params, collections, plan)
        order, noise = stream(seed, "order", 0), stream(seed, "model", 0)  # as the dense level has them
        dense = masks.ones_like(params)
        opt_state = levels.init_optimizer(plan.recipe.optimizer, params, seed, 0)
        state = TrainState(params, collections, opt_state)
        state, _ = train(order, state, dense, data, plan.recipe, model_key=noise, steps=early)
        if plan.first:
            return levels.begin(seed, state.params, state.collections, plan, opt_state=state.opt_state)
        return levels.begin(seed, params, collections, plan, rewind_to=state.params)

    return begin


def start_runs(search: Search, seeds: Sequence[int], data: PyTree, chunk: int | None = None) -> Run:
    """Runs before level 0, stacked.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came while the step to rewind to was trained for.
    """
    numbers = jnp.asarray(seeds, jnp.int32)
    if not search.early:
        return jax.jit(jax.vmap(search.begin))(numbers)  # op by op, a module's init compiles for long
    with signals.defer_signals():
        found = axis.map_runs(search.begin, chunk=chunk)(numbers, axis.replicate(data))
        plain = processes.gather(checkpoints.without_keys(found))  # whole in every process, as without a step
        signals.stop_if_requested()
    return checkpoints.with_keys(jax.tree.map(jnp.asarray, plain), found)


@in_one_line("the model, or what else the search is given, ends the program", kinds=(SystemExit,))
def run(
    search: Search,
    job: Job | None,
    seeds: Sequence[int],
    data: PyTree,
    watched: Mapping[str, PyTree],
    kept_levels: Sequence[int] = (),
    observe: Mapping[str, Observer] | None = None,
    sparse_kernels: str = "auto",
    part: str = "",
) -> tuple[Swept, Params]:
    """Every level of every seed's search.

    Args:
      search: plan, and how its runs begin.
      job: where checkpoints go; nowhere with ``None``.
      seeds: one run each.
      data: training examples.
      watched: other splits, evaluated within a level where the plan says how often, else at its end.
      kept_levels: the levels of which trained weights are kept.
      observe: functions of the training state, by name.
      sparse_kernels: see ``sweep``.
      part: what tells this search from a job's other ones.

    Returns:
      What was measured and kept, and the weights ``[seed, ...]`` that levels after the first start from.
    """
    plan, begun = search.plan, []

    def begin(block: Sequence[int]) -> Run:
        begun.append(start_runs(search, block, data, None if job is None else job.chunk))
        return begun[-1]

    swept = sweep(
        job,
        seeds,
        jax.eval_shape(lambda: search.begin(0)),
        begin,
        data,
        plan,
        describe=records.describe,
        part=part,
        keep=(lambda runs, trained: (trained.params, trained.collections)) if kept_levels else nothing,
        keep_levels=kept_levels,
        sparse_kernels=sparse_kernels,
        watch=watched if plan.recipe.eval_every else {},
        final={"train": data, **({} if plan.recipe.eval_every else watched)},
        observe=observe,
        record=lambda outcome: records.record(outcome, plan),
        inspect=lambda run: records.packed_masks(run, plan),
        compare=functools.partial(_apart_from_training, search.compare),
    )
    return swept, jax.tree.map(lambda *parts: np.concatenate(parts), *[run.rewind_to.params for run in begun])


def _apart_from_training(compare: Compare, pair: Pair, data: PyTree, splits: Mapping[str, PyTree]) -> PyTree:
    """Pairs compared on all splits but the training examples, whose many make the line expensive."""
    held = {name: split for name, split in splits.items() if name != "train"}
    return compare(pair, data=data, splits=held)


def seed_numbers(seeds: Sequence[Any]) -> list[int]:
    """The seeds, if each can name a run's random streams.

    Raises:
      InputError: one is no whole number below 2³¹ or is named twice, or there is none.
    """
    try:
        numbers = [operator.index(seed) for seed in seeds]
    except TypeError as error:
        raise InputError(f"seeds {seeds}: {error}") from None
    fits = all(-(2**31) <= number < 2**31 for number in numbers)
    distinct = len(set(numbers)) == len(numbers) > 0
    require(fits and distinct, f"seeds {seeds}: expected whole numbers below 2³¹, at least one, none twice")
    return numbers
