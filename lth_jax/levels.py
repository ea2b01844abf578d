"""A level of one run: its ticket and the controls beside it, their training, and the way to the next level.

One *level* trains a masked network, prunes it and rewinds it (Frankle & Carbin 2019, §2). Level 0 is dense.
A *run* is one seed's way through the levels. At each of them it branches: the ticket itself, and *controls*
that differ from it in one thing (fresh weights, another mask …), so that a difference between them is that
thing's. Only the ticket is pruned and goes on.

Everything here is a pure function of one run; ``runs.sweep`` takes many of them through all levels. Masks are
data and sizes are known beforehand, so every level is the same compiled program, and pruning step by step or
in one shot are too: one ranks the survivors by their weights at the end of the level, the other ranks all
weights by those at the end of the dense level.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from lth_jax import compression, scoring
from lth_jax.keys import stream
from lth_jax.tickets import controls, masks, pruning, rewinding, schedules, scores
from lth_jax.training import (
    Curves,
    Observer,
    Recipe,
    TrainState,
    at_evaluation,
    evaluation,
    first_mask,
    train,
)
from lth_jax.types import Collections, Mask, Metrics, Params, PRNGKey, Scores

STATE_KEY = 2**31 - 3
"""Tells the keys in an optimizer's state from those of the steps."""
INVERTED = controls.INVERTED
"""What a run's extras call the mask of the negated score."""


class Ticket(NamedTuple):
    """Where a training starts: weights before masking, what is kept of them, the model's other variables."""

    params: Params
    mask: Mask
    collections: Collections


class Run(NamedTuple):
    """One run between two levels: everything the next level needs, so it is also what a checkpoint holds."""

    seed: Int[Array, "*runs"]
    level: Int[Array, "*runs"]
    ticket: Ticket  # of the level in hand
    opt_state: optax.OptState  # that it begins with; {} where every level's is fresh
    rewind_to: TrainState  # θ0 or θ_k, where the levels after the first start
    scores: Scores  # the dense network's, which one-shot pruning goes by; {} where pruning is step by step
    extras: dict[str, PyTree]  # what else a control needs, by name


class Start(NamedTuple):
    """One network about to be trained: a ticket or a control of it."""

    seed: Int[Array, "*runs"]
    level: Int[Array, "*runs"]
    ticket: Ticket
    opt_state: optax.OptState  # {}: fresh
    stop: Any  # the iteration at which this network stops; {}: the last
    copy: Any = {}  # noqa: RUF012  # which of several orders of examples; {} and 0: the run's own


class Outcome(NamedTuple):
    """What one level makes of one network, measured before it is pruned.

    The ticket's mask is the one that its training ended with, should it have changed.
    """

    ticket: Ticket
    trained: TrainState
    curves: Curves
    measured: dict[str, Metrics]  # of each split, after training
    compressed: Int[Array, "*runs leaves"]  # into how many values; 0: held dense


Control = Callable[[Run], Ticket]
"""A control: from a run to the network that is trained beside its ticket."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens at every level.

    Attributes:
      recipe: how each network is trained.
      sizes: how many weights each level keeps, ranked how, see ``tickets.schedules``.
      prunable: which leaves count as weights, from ``masks.prunable``.
      score: what the ranking goes by.
      score_batch: training examples whose loss a score may ask for; 0 for scores that ask for none.
      prune_at: rank what is ``trained``, or the weights that a level will ``start`` from, θ0 or θ_k: each
        level's mask is then cut out of the dense network, whatever the levels before it were.
      score_steps: the prunings, each by the score of what is left, that lead from level to level.
      invert: carry the mask that the negated score leaves too, in the run's ``extras`` as ``inverted``; for
        masks that are cut out of the dense network.
      rewind: the weights that the next level starts from, from those of the start and the trained ones.
      first: iterations that lie behind every level's start: its training goes from there to the recipe's
        last, and so does its learning-rate schedule.
      optimizer: what levels after the first begin with: a ``fresh`` state, the one ``carried`` over from the
        level before, or the one that was there at the start, ``rewound``.
      collections: likewise the model's other variables: those of the ``start``, or as ``trained``.
      controls: by name; all are trained beside the ticket, in the same order of examples.
      control_levels: the levels at which they are; all unless given.
      children: copies of the ticket and of each control, the first in the run's own order of examples, each
        other one in its own, with other augmentation and dropout too; 0 and 1: no copies.
    """

    recipe: Recipe
    sizes: schedules.Sizes
    prunable: PyTree[bool]
    score: scores.Score = scores.magnitude
    score_batch: int = 0
    prune_at: str = "trained"
    score_steps: int = 1
    invert: bool = False
    rewind: rewinding.Rewind = rewinding.to_start
    first: int = 0
    optimizer: Literal["fresh", "carried", "rewound"] = "fresh"
    collections: Literal["start", "trained"] = "start"
    controls: Mapping[str, Control] = field(default_factory=dict)
    control_levels: tuple[int, ...] | None = None
    children: int = 0

    def at(self, level: int) -> "Plan":
        """The plan of one level: without controls where none are trained."""
        without = self.control_levels is not None and level not in self.control_levels
        return replace(self, controls={}) if without else self

    @property
    def parents(self) -> list[str]:
        """The names of the networks that differ in their start: the ticket, then its controls."""
        return ["ticket", *self.controls]

    @property
    def networks(self) -> list[str]:
        """The names of what is trained at each level of a run: the parents, then their copies by order."""
        more = range(2, self.children + 1)
        return self.parents + [f"{name}/{copy}" for copy in more for name in self.parents]

    @property
    def keeps_optimizer(self) -> bool:
        """Whether a run carries the state that its next level's optimizer begins with."""
        return self.optimizer != "fresh" or self.first > 0

    @property
    def looks_at_data(self) -> bool:
        """Whether a level's pruning is told of the training examples."""
        return self.score_batch > 0 or self.prune_at == "start"


def begin(
    seed: int | Int[Array, ""],
    params: Params,
    collections: Collections,
    plan: Plan,
    rewind_to: Params | None = None,
    opt_state: optax.OptState | None = None,
    extras: Mapping[str, PyTree] | None = None,
) -> Run:
    """A run before level 0: dense.

    Args:
      seed: names the run's random streams.
      params: the initial weights; with ``plan.first`` those after that many iterations.
      collections: the model's other variables, ``{}`` if none, likewise.
      plan: what its levels will be.
      rewind_to: the weights that later levels start from; ``params`` unless given.
      opt_state: the optimizer's state that belongs to ``params``; a fresh one unless given.
      extras: what controls need beside the run.
    """
    begins: Any = {}
    if plan.keeps_optimizer:
        fresh = init_optimizer(plan.recipe.optimizer, params, seed, 0)
        begins = fresh if opt_state is None else opt_state
    start = TrainState(
        params if rewind_to is None else rewind_to,
        collections if plan.collections == "start" else {},
        begins if plan.optimizer == "rewound" else {},
    )
    return Run(
        seed=jnp.asarray(seed, jnp.int32),
        level=jnp.asarray(0, jnp.int32),
        ticket=Ticket(params, masks.ones_like(params), collections),
        opt_state=begins,
        rewind_to=start,
        scores=jax.tree.map(jnp.zeros_like, params) if plan.sizes.one_shot else {},
        extras=dict(extras or {}) | ({INVERTED: masks.ones_like(params)} if plan.invert else {}),
    )


def branch(run: Run, plan: Plan) -> list[Start]:
    """The networks of one level of one run, as ``plan.networks`` names them."""
    tickets = [run.ticket, *(control(run) for control in plan.controls.values())]
    copies = [jnp.asarray(copy, jnp.int32) for copy in range(plan.children)] if plan.children > 1 else [{}]
    return [
        Start(run.seed, run.level, ticket, run.opt_state, {}, copy) for copy in copies for ticket in tickets
    ]


def streams(start: Start) -> tuple[PRNGKey, PRNGKey]:
    """The keys of a network's order of examples and of its noise: the run's own, or those of a copy."""
    own = [stream(start.seed, name, start.level) for name in ("order", "model")]
    if isinstance(start.copy, dict):
        return own[0], own[1]
    theirs = stream(start.seed, "child", start.level, start.copy)
    order, noise = (
        jnp.where(start.copy == 0, key, jax.random.fold_in(theirs, place)) for place, key in enumerate(own)
    )
    return order, noise


def train_network(
    start: Start,
    data: PyTree,
    watch: Mapping[str, PyTree],
    recipe: Recipe,
    observe: Mapping[str, Observer] | None = None,
    final: Mapping[str, PyTree] | None = None,
    entries: compression.Entries | None = None,
    **options: Any,
) -> Outcome:
    """Train one network; those of one seed and level see the examples in one order, unless they are copies.

    Args:
      start: where, and up to which iteration.
      data: training examples.
      watch: splits to evaluate while it trains, by name, see ``Recipe.eval_every``.
      recipe: how.
      observe: other functions of the state to watch, by name.
      final: splits to evaluate after the last step only, by name.
      entries: kernels to hold compressed, see ``compression.choose``; none unless given.
      **options: of :func:`training.train`.
    """
    order, noise = streams(start)
    params, mask, collections = start.ticket
    params = masks.apply(first_mask(recipe, mask), params)
    fresh = not jax.tree.leaves(start.opt_state) and start.opt_state == {}
    opt_state = init_optimizer(recipe.optimizer, params, *start[:2]) if fresh else start.opt_state
    state, dense = TrainState(params, collections, opt_state), lambda state: state
    if entries and any(entries):
        state, mask, recipe, dense = compression.compressed(state, mask, recipe, entries)
    observers = {name: evaluation(split, recipe) for name, split in watch.items()}
    observers |= {name: lambda state, look=look: look(dense(state)) for name, look in (observe or {}).items()}
    stop = None if isinstance(start.stop, dict) else start.stop
    trained, curves = train(
        order, state, mask, data, recipe, observers, model_key=noise, stop=stop, **options
    )
    measured = {name: jax.tree.map(lambda curve: curve[-1], curves.observed[name]) for name in watch}
    measured |= {name: evaluation(split, recipe)(trained) for name, split in (final or {}).items()}
    held = jnp.asarray([room or 0 for room in entries or [None] * len(jax.tree.leaves(params))], jnp.int32)
    ticket = start.ticket if recipe.dynamic is None else start.ticket._replace(mask=trained.mask)
    return Outcome(ticket, dense(at_evaluation(trained)), curves, measured, held)


def init_optimizer(
    optimizer: optax.GradientTransformation,
    params: Params,
    seed: int | Int[Array, ""],
    level: int | Int[Array, ""],
) -> optax.OptState:
    """An optimizer's fresh state whose PRNG keys are the run's and the level's own.

    Optax makes such keys from a number that all runs share: their noise would be the same.

    Args:
      optimizer: of Optax.
      params: masked weights.
      seed: the run's.
      level: the first that the state serves.
    """
    key = jax.random.fold_in(stream(seed, "model", level), STATE_KEY)
    leaves, structure = jax.tree.flatten_with_path(optimizer.init(params))
    fresh = []
    for position, (path, leaf) in enumerate(leaves):
        own = jax.random.fold_in(key, position)
        raw = leaf.dtype == jnp.uint32 and leaf.shape == (2,)
        named = any(part in jax.tree_util.keystr(path).lower() for part in ("key", "rng"))
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        fresh.append(own if typed else jax.random.key_data(own) if raw and named else leaf)
    return jax.tree.unflatten(structure, fresh)


def advance(run: Run, trained: TrainState, plan: Plan, data: PyTree | None = None) -> Run:
    """The run at the start of its next level: pruned to that level's size, and rewound.

    Args:
      run: at the level that was trained.
      trained: its ticket after training.
      plan: sizes, score, rewinding.
      data: training examples, for scores that ask for their loss or shape.
    """
    following = jnp.minimum(run.level + 1, plan.sizes.levels - 1)
    start = run.rewind_to
    params = plan.rewind(start.params, trained.params)
    collections = start.collections if plan.collections == "start" else trained.collections
    if plan.prune_at == "start":
        run = _pruned_at(run, params, collections, plan, following, data)
    else:
        run = _pruned(run, trained, plan, following, data)
    return run._replace(
        level=run.level + 1,
        ticket=Ticket(params, run.ticket.mask, collections),
        opt_state=_next_optimizer(run, params, run.ticket.mask, trained, plan),
    )


def prune_first(run: Run, plan: Plan, data: PyTree | None = None) -> Run:
    """A run before level 0, pruned to that level's size by what it starts from.

    Args:
      run: from :func:`begin`.
      plan: of ``prune_at="start"``.
      data: training examples.
    """
    return _pruned_at(run, run.ticket.params, run.ticket.collections, plan, run.level, data)


def _pruned_at(
    run: Run, params: Params, collections: Collections, plan: Plan, level: Array, data: PyTree | None
) -> Run:
    """The run with the mask of a level, cut out of the dense network by its weights before it is trained.

    All levels of a run share a batch and a key, so that they differ in their sizes alone.
    """
    whole = masks.ones_like(params)
    told = scoring.describe(
        stream(run.seed, "score", 0), params, params, whole, collections,
        plan.recipe, plan.sizes.ranked, data, plan.score_batch, balanced=True,
    )  # fmt: skip
    counts = schedules.stepped(plan.sizes, params, plan.score_steps, from_dense=True)
    counts = jax.tree.map(lambda each: jnp.asarray(each, jnp.int32)[level], counts)
    mask, extras = scoring.cut(whole, told, plan.score, counts, plan.sizes), run.extras
    if plan.invert:
        score = scores.inverted(plan.score)
        extras = {**extras, INVERTED: scoring.cut(whole, told, score, counts, plan.sizes)}
    return run._replace(ticket=run.ticket._replace(mask=mask), extras=extras)


def _pruned(run: Run, trained: TrainState, plan: Plan, following: Array, data: PyTree | None) -> Run:
    """The run with the mask of the level that follows, by the weights of the level that was trained."""
    sizes, ticket = plan.sizes, run.ticket
    told = scoring.describe(
        stream(run.seed, "score", run.level), ticket.params, trained.params, ticket.mask,
        trained.collections, plan.recipe, sizes.ranked, data, plan.score_batch,
    )  # fmt: skip
    if plan.score_steps > 1:
        counts = schedules.stepped(sizes, ticket.params, plan.score_steps)
        counts = jax.tree.map(lambda each: jnp.asarray(each, jnp.int32)[following], counts)
        mask = scoring.cut(ticket.mask, told, plan.score, counts, sizes)
        return run._replace(ticket=ticket._replace(mask=mask))
    keep = jax.tree.map(lambda counts: jnp.asarray(counts, jnp.int32)[following], sizes.keep)
    score, whole, extras = plan.score(told), ticket.mask, run.extras
    if sizes.one_shot:
        now = run.level == 0
        score = jax.tree.map(lambda first, dense: jnp.where(now, first, dense), score, run.scores)
        whole = masks.ones_like(ticket.mask)
    prune = pruning.SCOPES[sizes.scope]
    if plan.invert:
        contrary = jax.tree.map(jnp.negative, score)
        extras = {**extras, INVERTED: prune(whole, contrary, keep, sizes.ranked)}
    return run._replace(
        ticket=ticket._replace(mask=prune(whole, score, keep, sizes.ranked)),
        scores=score if sizes.one_shot else {},
        extras=extras,
    )


def _next_optimizer(run: Run, params: Params, mask: Mask, trained: TrainState, plan: Plan) -> optax.OptState:
    """The state that the next level's optimizer begins with; {} where every level's is fresh."""
    if not plan.keeps_optimizer:
        return {}
    if plan.optimizer == "carried":
        return rewinding.schedule_at(trained.opt_state, plan.first) if plan.first else trained.opt_state
    if plan.optimizer == "rewound":
        return run.rewind_to.opt_state
    params = masks.apply(mask, params)
    fresh = init_optimizer(plan.recipe.optimizer, params, run.seed, run.level + 1)
    return rewinding.schedule_at(fresh, plan.first)


def measurements(outcome: Outcome, plan: Plan) -> Metrics:
    """A network's metrics after training and its size, by their names in results: ``test_accuracy`` …"""
    found = {
        f"{split}_{name}": value for split, each in outcome.measured.items() for name, value in each.items()
    }
    return {**found, "kept": masks.kept_fraction(outcome.ticket.mask, plan.prunable)}
