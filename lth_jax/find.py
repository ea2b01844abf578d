"""Tickets of your own model: any Flax module, any Optax optimizer, your data, in one call.

:func:`find_tickets` composes what the other modules offer; read it as an example of how to do so.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import xarray as xr
from jaxtyping import PyTree

from lth_jax import models, search
from lth_jax.analysis import records
from lth_jax.analysis.connectivity import STATISTICS
from lth_jax.choices import Choices, rewind_step
from lth_jax.devices import use_host_devices
from lth_jax.errors import in_one_line, require, whole_number
from lth_jax.initializers import Scheme, initialize
from lth_jax.keys import stream
from lth_jax.places import user_path
from lth_jax.runs import checks, identity, processes, results
from lth_jax.runs.folders import open_folder
from lth_jax.runs.job import SPARSE, Execution, Job
from lth_jax.tasks import Task, classification
from lth_jax.tickets import masks, scores
from lth_jax.tickets.dynamic import Dynamic
from lth_jax.tickets.masks import Predicate, is_kernel
from lth_jax.training import Observer, TrainState, examples_of
from lth_jax.types import Collections, Mask, Params, PRNGKey, Whole


class Tickets(NamedTuple):
    """Winning-ticket candidates of several seeds: ``start`` at ``masks`` is what one trains.

    Every leaf of ``start`` and ``collections`` has a leading axis *seed*: where level 0 starts. So has every
    leaf of ``rewind_to``: where the tickets after it start, the same weights where they are θ0. Every leaf of
    ``masks`` has leading axes *level* and *seed*; those of ``weights`` (parameters and collections after
    training, ``{}`` unless they are kept) *kept level*, *seed* and *network*, the ticket first, then its
    controls. ``results`` has dims ``seed, level``, with controls ``network`` before them: ``test_accuracy``,
    ``kept`` and so on; ``diverged`` is True where a loss is NaN or infinite and at the levels after it,
    accuracies there are NaN.
    """

    start: Params
    collections: Collections
    rewind_to: Params
    masks: Mask
    results: xr.Dataset
    weights: Any
    kept_levels: Sequence[int]

    def ticket(self, seed: int, level: int) -> tuple[Params, Mask]:
        """The masked weights that training started from, and the mask, of one seed at one level.

        With ``dynamic`` masks it is the mask that training ended with, on the weights of the start.

        Raises:
          ValueError: there is no such seed or level, or the level started from weights that are not kept.
        """
        index = self._place(seed, level)
        mask = jax.tree.map(lambda leaf: jnp.asarray(leaf[level, index]), self.masks)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), self.rewind_to if level else self.start)
        if self.results.attrs["rewinds"] == "no" and level > 0:
            start = self.trained(seed, level - 1).params
        return masks.apply(mask, start), mask

    def trained(self, seed: int, level: int, network: str = "ticket") -> TrainState:
        """One network after its training: parameters and collections, for ``evaluate``.

        Args:
          seed: of its run.
          level: one of ``kept_levels``.
          network: ``ticket``, or a control's name.

        Raises:
          ValueError: there is no such seed, level or network, or the level's weights are not kept.
        """
        index, known = self._place(seed, level), self.results.attrs["networks"].split(",")
        kept = list(self.kept_levels)
        require(level in kept, f"level {level}: weights are kept of {kept or 'none'}; say keep_weights")
        require(network in known, f"network {network!r}: expected one of {', '.join(known)}")
        place = (kept.index(level), index, known.index(network))
        params, collections = jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), self.weights)
        return TrainState(params, collections, ())

    def _place(self, seed: int, level: int) -> int:
        seeds, levels = self.results["seed"].values.tolist(), self.results.sizes["level"]
        require(seed in seeds, f"seed {seed}: expected one of {', '.join(map(str, seeds))}")
        require(0 <= level < levels, f"level {level}: expected 0 to {levels - 1}")
        return seeds.index(seed)


def find_tickets(
    model: Any,
    optimizer: optax.GradientTransformation,
    data: PyTree,
    test: PyTree,
    seeds: Sequence[int] = tuple(range(42, 53)),
    levels: Whole = 10,
    epochs: Whole = 5,
    batch_size: Whole = 60,
    rate: float | Sequence[float] = 0.2,
    layers: Mapping[str, float | int] | None = None,
    scope: str = "layer",
    prunable: Predicate = is_kernel,
    initializer: Scheme | None = None,
    *,
    task: Task | None = None,
    score: scores.Score = scores.magnitude,
    score_batch: Whole = 0,
    prune_at: str = "trained",
    score_steps: Whole = 1,
    dynamic: Dynamic | None = None,
    one_shot: bool = False,
    density: float | None = None,
    budget: str | None = None,
    rewind: Whole | str = 0,
    rewind_schedule: Literal["kept", "restarted"] = "kept",
    rewind_optimizer: Literal["fresh", "carried", "rewound"] = "fresh",
    controls: Sequence[str] = (),
    eval_every: Whole = 0,
    validation: PyTree | None = None,
    observe: Mapping[str, Observer] | None = None,
    keep_weights: bool | Sequence[int] = False,
    children: Whole = 0,
    path_points: Whole = 30,
    path_statistics: str = "interpolated",
    folder: str | Path | None = None,
    sparse_kernels: str = "auto",
) -> Tickets:
    """Iterative magnitude pruning with rewinding (Frankle & Carbin 2019), all seeds at once.

    Args:
      model: a linen module, ``from_nnx(lambda rngs: Net(rngs=rngs))``, or a pair of functions ``(init,
        apply)``; batch statistics and dropout are looked after, see ``models``.
      optimizer: of Optax, fresh at every level.
      data: training examples, what the task takes: for ``classification`` a pair, uint8 images ``[n, height,
        width, channels]`` (or floats, or tokens) and int32 labels ``[n]``.
      test: evaluated at the end of every level.
      seeds: one independent run each; whole numbers below 2³¹, none twice.
      levels: rounds of training and pruning; level 0 is dense.
      epochs: trained at each level.
      batch_size: examples per step.
      rate: fraction of the survivors pruned after each level, or a list with one for each level but the last.
      layers: other rates for some layers, by path: ``{"Block_1/Dense_0": 0.1}``; 0 spares a layer.
      scope: rank weights inside each ``layer``, or all together (``global``).
      prunable: which parameters, by path and leaf; kernels by default.
      initializer: draws the kernels, biases 0; the module's own initializers when not given. How their
        axes are taken, see ``initializers``.
      task: what is learned, see ``tasks.Task``; classification when not given.
      score: what the ranking goes by, see ``tickets.scores`` and ``tickets.early``.
      score_batch: training examples, drawn anew at each level, whose loss the score may ask for.
      prune_at: rank weights as ``trained``, or those that a level will ``start`` from: pruning at
        initialization, each level cut out of the dense network. With ``density``, ``levels=1`` will do.
      score_steps: prunings that lead from level to level, the score taken anew before each.
      dynamic: how masks change while networks are trained, ``Dynamic(RULES["rigl"])``, see
        ``tickets.dynamic``; needs ``prune_at="start"``. The masks returned are those at the end.
      one_shot: cut every level out of the dense network, which is trained once.
      density: the fraction that the last level keeps, exactly, instead of ``rate``.
      budget: how a level's weights are shared out among layers: ``uniform``, ``uniform_plus`` (the first
        stays dense), ``erk`` or ``global``, see ``tickets.budgets``; as ``scope`` says when not given.
      rewind: where levels after the first start: 0 at θ0, ``k`` where the dense network is after k
        iterations, ``"none"`` where the level before ended, ``"lr:k"`` there with the schedule at k.
      rewind_schedule: with ``k``, train from it to the level's last iteration (``kept``), or a whole level
        (``restarted``), see ``choices.Choices``.
      rewind_optimizer: the optimizer's state after the first level: ``fresh``, ``carried``, ``rewound``.
      controls: networks trained beside each ticket: ``reinit``, ``shuffle``, ``rearrange``, ``random_mask``;
        where masks are cut out of the dense network, ``invert``.
      eval_every: iterations between two evaluations within a level, for curves; 0 is none.
      validation: examples whose least loss says when to stop: ``early_stop_iteration`` in the results.
      observe: functions of the training state, by name; what they give joins the curves.
      keep_weights: whether trained weights are kept, or of which levels.
      children: copies of every network, each trained in an order of the examples of its own; results have
        the line between any two of them, its barrier, distance and angle, see ``analysis.connectivity``.
      path_points: steps of that line.
      path_statistics: batch statistics on it, ``interpolated`` or ``recomputed``.
      folder: saves after every level and goes on from there when called again; prints a line a level.
      sparse_kernels: on a CPU, whether levels compute with kept weights alone: where it is faster (``auto``),
        wherever possible (``on``), never (``off``). Losses are the same but for the order of sums.

    Returns:
      Where tickets start, the masks of every level, labelled results, and the weights that are kept.

    Raises:
      ValueError: an impossible seed, number, rate or scope, a layer that would lose its last weight, or a
        module without prunable parameters.
    """
    use_host_devices()
    seeds = search.seed_numbers(seeds)
    numbers = {"levels": levels, "epochs": epochs, "batch_size": batch_size}
    levels, epochs, batch_size = (whole_number(name, value) for name, value in numbers.items())
    eval_every = whole_number("eval_every", eval_every, 0)
    score_batch = whole_number("score_batch", score_batch, 0)
    children, path_points = whole_number("children", children, 0), whole_number("path_points", path_points)
    require(path_statistics in STATISTICS, f"path_statistics {path_statistics}: {', '.join(STATISTICS)}")
    score_steps = whole_number("score_steps", score_steps)
    require(sparse_kernels in SPARSE, f"sparse_kernels {sparse_kernels}: expected {', '.join(SPARSE)}")
    rewind = rewind if isinstance(rewind, str) else whole_number("rewind", rewind, 0)
    network = models.as_network(model)
    task = task or classification()
    data, test, validation = jax.tree.map(jnp.asarray, (data, test, validation))
    given = {"training": data, "test": test} | ({} if validation is None else {"validation": validation})
    for name, split in given.items():
        checks.check_data(name, split, task)
    sample = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), data)
    with in_one_line("the task's inputs cannot be made"):
        inputs = task.inputs(None, sample)

    def initial(key: PRNGKey) -> tuple[Params, Collections]:
        params, collections = network.init(key, inputs)
        return (params if initializer is None else initialize(key, params, initializer)), collections

    choices = Choices(
        levels, epochs, batch_size, rate, dict(layers or {}), scope, one_shot, density, budget,
        rewind, rewind_schedule, rewind_optimizer, controls, eval_every, score, score_batch, prune_at,
        score_steps, prunable, children, path_points, path_statistics, dynamic,
    )  # fmt: skip
    found = search.prepare(network, optimizer, examples_of(data), initial, choices, task, inputs)
    plan, watched = found.plan, {"test": test} | ({} if validation is None else {"validation": validation})
    resets = rewind_step(rewind)[0] == "weights"
    kept_levels = range(levels) if keep_weights is True or not resets else list(keep_weights or ())
    for level in kept_levels:
        require(0 <= level < levels, f"keep_weights {level}: expected levels from 0 to {levels - 1}")
    folder = None if folder is None else user_path(folder)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(processes.first_prints())
            with in_one_line("the search cannot be trained"):
                searched = identity.identify(found, seeds, data, watched, observe, kept_levels)
            if processes.is_first():
                stack.enter_context(open_folder(folder, searched, {"versions": results.versions()}))
            processes.barrier("folder is open")
        job = None if folder is None else Job(folder, Execution(sparse_kernels=sparse_kernels))
        swept, rewind_to = search.run(found, job, seeds, data, watched, kept_levels, observe, sparse_kernels)
    numbers = jnp.asarray(seeds, jnp.int32)
    start, collections = jax.jit(jax.vmap(lambda seed: initial(stream(seed, "init"))))(numbers)
    attrs = {"networks": ",".join(plan.networks), "rewinds": "yes" if resets else "no"}
    return Tickets(
        start=start,
        collections=collections,
        rewind_to=jax.tree.map(jnp.asarray, rewind_to),
        masks=records.unpacked(swept.inspected, found.shapes, plan.prunable),
        results=records.with_multiply_adds(
            records.labelled(found.plan, found.shapes, swept, seeds, attrs),
            *(network, found.shapes, jax.tree.map(lambda leaf: leaf[0], collections)),
            inputs,
        ),
        weights=swept.kept,
        kept_levels=tuple(kept_levels),
    )
