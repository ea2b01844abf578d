"""How tickets are looked for: what a search is told, and which of it goes together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
from jaxtyping import PyTree

from lth_jax.analysis import connectivity
from lth_jax.errors import require
from lth_jax.tickets import budgets, controls, schedules, scores
from lth_jax.tickets.dynamic import Dynamic
from lth_jax.tickets.masks import Predicate, is_kernel
from lth_jax.types import Shapes


@dataclass(frozen=True)
class Choices:
    """How tickets are looked for, apart from model, optimizer, data and seeds.

    Attributes:
      levels: rounds of training and pruning; level 0 is dense.
      epochs: trained at each level.
      iterations: trained at each level, whatever the epochs; 0 goes by them.
      batch_size: examples per step.
      rate: fraction of the survivors pruned after each level, or one for each level but the last.
      layers: other rates (densities, with ``density``) for some layers by path; 0 spares one.
      scope: rank weights inside each ``layer``, or all together (``global``).
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
      control_levels: the levels at which they are trained; all unless given.
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
    iterations: int = 0
    control_levels: Sequence[int] | None = None


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
            not choices.dynamic.begins_dense or not void,
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
