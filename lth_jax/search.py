"""From a model and some choices to a plan and its runs: what ``find_tickets`` and ``lth-jax sweep`` share."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from lth_jax import levels
from lth_jax.analysis import connectivity, flops, records
from lth_jax.errors import InputError, require
from lth_jax.keys import stream
from lth_jax.levels import Plan, Run
from lth_jax.models import Network
from lth_jax.runs import axis, checkpoints, checks, processes, signals
from lth_jax.runs.job import Job
from lth_jax.runs.sweep import Compare, Pair, Swept, nothing, sweep
from lth_jax.tasks import Task, classification
from lth_jax.tickets import budgets, controls, dynamic, masks, rewinding, schedules, scores
from lth_jax.tickets.dynamic import Dynamic
from lth_jax.tickets.masks import Predicate, is_kernel
from lth_jax.training import Observer, Recipe, TrainState, train
from lth_jax.types import Collections, Params, PRNGKey, Shapes

Initial = Callable[[PRNGKey], tuple[Params, Collections]]
"""A run's initialization key to its weights and the model's other variables."""


@dataclass(frozen=True)
class Choices:
    """How tickets are looked for, apart from model, optimizer, data and seeds.

    Attributes:
      levels: rounds of training and pruning; level 0 is dense.
      epochs: trained at each level.
      batch_size: examples per step.
      rate: fraction of the survivors pruned after each level, or one for each level but the last.
      layers: other rates (densities, with ``density``) for some layers by path; 0 spares one.
      scope: rank weights inside each ``layer`` or ``global``ly.
      one_shot: cut every level out of the dense network, at the sizes of pruning step by step.
      density: the fraction that the last level keeps, exactly; in equal ratios from level to level.
      budget: how the weights that a level keeps are shared out among the layers, one of
        ``budgets.BUDGETS``, exactly; without one, ``rate`` and ``density`` are each layer's, or with scope
        global the whole network's. ``layers`` can then only spare some.
      rewind: where levels after the first start: ``0`` or ``"start"`` at θ0, ``k`` where the dense network is
        after k iterations, ``"none"`` where the level before ended, ``"lr:k"`` likewise, with the
        learning-rate schedule back at k.
      rewind_schedule: after rewinding to k, train from there to the level's last iteration, the schedule's
        place and the model's other variables being those of k (``kept``: Frankle et al. 2020); or a whole
        level from k, schedule and other variables as at the very start (``restarted``).
      optimizer: its state after the first level: ``fresh``, ``carried`` over, or ``rewound`` to that of k.
      controls: names of ``tickets.controls.CONTROLS``, trained beside each ticket.
      eval_every: iterations between two evaluations within a level; 0 evaluates at its end only.
      score: what the ranking goes by.
      score_batch: training examples whose loss the score may ask for.
      prune_at: rank weights as ``trained``, or those that the level will ``start`` from: pruning at
        initialization, each level's mask cut out of the dense network. With a density, one level is enough.
      score_steps: prunings that lead from level to level, the score taken anew before each.
      prunable: which parameters, by path and leaf.
      dynamic: how a mask changes while its network is trained, see ``tickets.dynamic``; with prune_at start.
        The masks recorded are those that training ended with.
      children: copies of every network of a level, each in an order of the examples of its own: the line
        between any two is recorded, see ``analysis.connectivity``; 0 is none.
      path_points: steps of that line.
      path_statistics: batch statistics on it, one of ``connectivity.STATISTICS``.
    """

    levels: int = 10
    epochs: int = 5
    batch_size: int = 60
    rate: float | Sequence[float] = 0.2
    layers: Mapping[str, float | int] = field(default_factory=dict)
    scope: str = "layer"
    one_shot: bool = False
    density: float | None = None
    budget: str | None = None
    rewind: int | str = 0
    rewind_schedule: Literal["kept", "restarted"] = "kept"
    optimizer: Literal["fresh", "carried", "rewound"] = "fresh"
    controls: Sequence[str] = ()
    eval_every: int = 0
    score: scores.Score = scores.magnitude
    score_batch: int = 0
    prune_at: str = "trained"
    score_steps: int = 1
    prunable: Predicate = is_kernel
    children: int = 0
    path_points: int = connectivity.POINTS
    path_statistics: str = "interpolated"
    dynamic: Dynamic | None = None


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
    shapes, other = jax.eval_shape(initial, jax.random.key(0))
    prunable = masks.prunable(shapes, choices.prunable)
    checks.check_optimizer(optimizer, shapes)
    steps = choices.epochs * (examples // choices.batch_size)
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
    changing = choices.dynamic
    require(
        changing is None or changing.last(steps) > (early if kept else 0),
        f"dynamic: no iteration of a level ({steps}, from {early if kept else 0} on) changes a mask",
    )
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


def check_pruning(choices: Choices, examples: int) -> None:
    """Refuse ways to prune that do not go together.

    Raises:
      InputError: the message names the choices.
    """
    at, steps, batch = choices.prune_at, choices.score_steps, choices.score_batch
    known = ("trained", "start")
    require(at in known, f"prune_at {at}: expected one of {', '.join(known)}")
    require(steps >= 1, f"score_steps {steps}: expected at least 1")
    require(batch <= examples, f"score_batch {batch}: larger than the {examples} training examples")
    if at == "start":
        resets = rewind_step(choices.rewind)[0] == "weights"
        require(resets, f"prune_at start: with rewind {choices.rewind} a level starts where another ended")
        require(not choices.one_shot, "one_shot: prune_at start cuts every level out of the dense network")
        alone = choices.levels == 1 and choices.density is not None
        require(
            not alone or rewind_step(choices.rewind)[1] == 0,
            f"rewind {choices.rewind}: there is one level, and it begins at the start; say 2 levels",
        )
    require(
        steps == 1 or not choices.one_shot, f"score_steps {steps}: one_shot scores the dense network once"
    )
    if choices.dynamic is not None:
        require(at == "start", "dynamic: masks change from one that is there before training: prune_at start")
        require(choices.children == 0, f"children {choices.children}: copies of a dynamic mask would differ")
        void = [name for name in choices.controls if controls.parsed(name)[0] != "reinit"]
        require(
            choices.dynamic.rule is not dynamic.gradual or not void,
            f"controls {','.join(void)}: gradual pruning begins dense, whatever the mask",
        )
    cuts = at == "start" or choices.one_shot
    require(
        cuts or "invert" not in choices.controls,
        "invert: takes masks that are cut out of the dense network: prune_at start, or one_shot",
    )


def make_sizes(choices: Choices, shapes: Shapes, prunable: PyTree[bool], first: str = "") -> schedules.Sizes:
    """How many weights every level keeps.

    Args:
      choices: levels, rate or density, scope, budget, layers.
      shapes: the parameters or their shapes.
      prunable: which leaves can be pruned.
      first: the kernel that the network uses first, by its path; for a budget that spares it.

    Raises:
      ValueError: an impossible rate, layer or scope; rates for another number of levels; no weight left.
    """
    scope = "global" if choices.budget else choices.scope
    sizes = _sizes(choices, shapes, prunable, scope)
    if choices.budget is None:
        return sizes
    require(
        choices.scope == "layer" or choices.budget == "global",
        f"budget {choices.budget}: gives each layer a number of its own, which scope {choices.scope} has not",
    )
    totals = jax.tree.leaves(sizes.keep)[0].tolist()
    return budgets.budgeted(shapes, sizes.ranked, totals, choices.budget, first, choices.one_shot)


def _sizes(choices: Choices, shapes: Shapes, prunable: PyTree[bool], scope: str) -> schedules.Sizes:
    """How many weights every level keeps of each layer or, ranked together, of all."""
    layers, count = dict(choices.layers), choices.levels
    if choices.density is not None:
        alone = count == 1 and choices.prune_at == "start"
        sizes = schedules.to_density(
            shapes, prunable, choices.density, 2 if alone else count, layers, scope, choices.one_shot
        )
        return schedules.without_first(sizes) if alone else sizes
    one = isinstance(choices.rate, float | int)
    rates: list[float] = [choices.rate] * max(count - 1, 1) if one else [*choices.rate]  # type: ignore[misc]
    require(
        one or len(rates) == count - 1,
        f"rate {choices.rate}: {len(rates)} rates, expected {count - 1} for {count} levels",
    )
    schedules.fractions(shapes, prunable, rates[0], layers)  # refuses a rate though there is one level only
    rates = rates[: count - 1]
    sizes = schedules.iterative(shapes, prunable, rates, layers, scope)
    return sizes._replace(one_shot=choices.one_shot)


def rewind_step(rewind: int | str) -> tuple[Literal["weights", "nothing"], int]:
    """What is rewound, and the iteration that it is rewound to.

    Raises:
      ValueError: it is none of the ways to say so.
    """
    text = str(rewind)
    if text in ("start", "none"):
        return ("weights" if text == "start" else "nothing"), 0
    kind, _, number = text.rpartition(":")
    known = (kind == "lr" or text == number) and number.isascii() and number.isdecimal() and len(number) < 12
    require(known, f"rewind {text[:40]}: expected start, none, an iteration such as 500, or lr:500")
    return ("nothing" if kind else "weights"), int(number)


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
