"""How fast a layer trains, dense and compressed, and what a level holds compressed because of it.

A sweep of some length measures what one training step of each layer takes on this machine, on all its devices
at once as a level would, with the sweep's own optimizer: dense, and compressed at two sizes, between which it
is a line. Each level then compresses what is faster so, unless it gains less than another program costs.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from lth_jax import compression
from lth_jax.compression import Entries, separable
from lth_jax.errors import warn
from lth_jax.kernels import sparse
from lth_jax.kernels.native import native
from lth_jax.models import Network
from lth_jax.runs import axis
from lth_jax.runs.storage import write_text
from lth_jax.tasks import Task
from lth_jax.tickets import masks
from lth_jax.training import Recipe, TrainState, init_state, train_step
from lth_jax.types import Mask, Shapes

RECORD = "speed.json"
"""What was measured when a sweep began, beside its checkpoints."""

SMALLEST = 4096
"""Weights of a kernel that is worth the trouble."""

LEAST = 0.05
"""Share of a layer's dense time that compressing it must save."""

COMPILING = 3.0
"""Seconds that another program for a level is taken to cost."""

WORTH_MEASURING = 2e12
"""Multiply-adds of a sweep's compressible layers, per device, below which it trains dense: half a minute."""


class Speed(NamedTuple):
    """Seconds that one layer's training step takes: dense, and compressed as ``fixed + each · entries``."""

    dense: float
    fixed: float
    each: float

    def compressed(self, entries: int) -> float:
        """Seconds with so many kept weights."""
        return self.fixed + self.each * entries

    @property
    def break_even(self) -> float:
        """The number of kept weights below which compressing pays."""
        return ((1 - LEAST) * self.dense - self.fixed) / max(self.each, 1e-12)


def candidates(uses: Sequence[sparse.Use | None], shapes: Shapes, prunable: PyTree[bool]) -> list[bool]:
    """Which leaves could be held compressed: prunable kernels of some size, used in one product only."""
    leaves, yes = jax.tree.leaves(shapes), jax.tree.leaves(prunable)
    return [
        bool(use and prune and SMALLEST <= leaf.size < 2**31)
        for use, leaf, prune in zip(uses, leaves, yes, strict=True)
    ]


def measure(shape: Sequence[int], use: sparse.Use, optimizer: optax.GradientTransformation) -> Speed:
    """What a layer's training step takes on this machine, on one core, in seconds.

    Product, gradients and masked update; compressed at two densities, between which it is nearly a line.
    """
    size = int(np.prod(shape))
    few, many = size // 33, size // 3
    dense, first, second = (_step_seconds(shape, use, optimizer, kept) for kept in (None, few, many))
    each = max(second - first, 0.0) / (many - few)
    return Speed(dense, max(first - each * few, 0.0), each)


def _step_seconds(
    shape: Sequence[int], use: sparse.Use, optimizer: optax.GradientTransformation, kept: int | None
) -> float:
    """Seconds of a step of a network of this layer alone, trained as levels are; dense without ``kept``.

    Steps alone, as many as a call is told, without the order and observations that ``training.train`` adds.
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((use.rows, shape[0])), jnp.float32)
    chosen = rng.permutation(int(np.prod(shape))).reshape(shape) < (kept or np.prod(shape) // 3)
    params = {"kernel": jnp.asarray(rng.standard_normal(shape), jnp.float32)}
    mask = {"kernel": jnp.asarray(chosen)}
    if use.gradient:  # something before the layer that is trained too
        params["shift"], mask["shift"] = jnp.zeros((1, shape[0])), jnp.ones((1, shape[0]), bool)

    def apply(params: Any, collections: Any, x: Any, key: Any) -> Any:
        return (x + params["shift"] if use.gradient else x) @ params["kernel"], collections

    layer = Network(lambda key, x: (params, {}), apply)
    task = Task(lambda key, x: x, lambda y, x: jnp.mean(y * y, axis=-1), {})
    steps = int(np.clip(1e9 / (use.rows * np.prod(shape)), 4, 100))
    recipe = Recipe(layer, optimizer, use.rows, steps, task=task)
    entries = tuple(kept if name == "kernel" else None for name in sorted(params))

    def train(start: tuple[TrainState, Mask], times: Array) -> TrainState:  # all given, or XLA folds it
        held = compression.compressed(*start, recipe, entries)
        step = lambda _, state: train_step(jax.random.key(0), state, held.mask, x, held.recipe)[0]  # noqa: E731
        return jax.lax.fori_loop(0, times, step, held.state)

    run = axis.map_runs(train, chunk=1)
    everywhere = axis.stack([(init_state(recipe, params, {}, mask), mask)] * jax.device_count())

    def seconds(times: int) -> float:
        started = time.perf_counter()
        jax.block_until_ready(run(everywhere, jnp.int32(times)))
        return time.perf_counter() - started

    seconds(1)  # compiles
    # A call brings states to the devices and compresses them once: that is no step's.
    return max(min(seconds(1 + steps) for _ in range(3)) - min(seconds(1) for _ in range(3)), 1e-9) / steps


Choose = Callable[[Sequence[int], float], Entries]
"""``(the most weights that any network of a level keeps in each leaf, training steps of one device)`` to what
is held compressed."""


def chooser(speeds: Sequence[Speed | None]) -> Choose:
    """Compresses what is faster so, where a level gains more than another program costs."""

    def choose(counts: Sequence[int], steps: float) -> Entries:
        saved = [
            0.0 if speed is None else speed.dense - speed.compressed(count)
            for speed, count in zip(speeds, counts, strict=True)
        ]
        pays = [
            gain > LEAST * speed.dense if speed else False for gain, speed in zip(saved, speeds, strict=True)
        ]
        if steps * sum(gain for gain, yes in zip(saved, pays, strict=True) if yes) < COMPILING:
            return (None,) * len(counts)
        return tuple(max(count, 1) if yes else None for count, yes in zip(counts, pays, strict=True))

    return choose


def always(held: Sequence[bool]) -> Choose:
    """Compresses whatever can be."""
    return lambda counts, steps: tuple(
        max(count, 1) if yes else None for count, yes in zip(counts, held, strict=True)
    )


def never(counts: Sequence[int], steps: float) -> Entries:
    """Compresses nothing."""
    return (None,) * len(counts)


class Decision(NamedTuple):
    """How a sweep's levels choose, and a line that says so; empty where there is nothing to say."""

    choose: Choose
    line: str = ""


def decide(
    recipe: Recipe,
    shapes: Shapes,
    prunable: PyTree[bool],
    collections: PyTree,
    batch: PyTree,
    steps: float,
    sparse_kernels: str = "auto",
    folder: Path | None = None,
) -> Decision:
    """Look at a sweep's network, optimizer and machine, and decide how its levels choose.

    Args:
      recipe: how its networks are trained.
      shapes: of their parameters.
      prunable: which leaves can be pruned.
      collections: the model's other variables, or their shapes.
      batch: one batch, or its shapes.
      steps: training steps of all networks and levels, for one device.
      sparse_kernels: ``auto`` measures, ``on`` compresses whatever can be, ``off`` nothing.
      folder: where what is measured is kept, so that a sweep that is resumed chooses as it did.
    """
    changing = recipe.dynamic is not None  # what is held compressed has its places once and for all
    if sparse_kernels == "off" or changing or jax.default_backend() != "cpu":
        return Decision(never)
    key = jax.random.key(0)
    inputs = jax.eval_shape(recipe.task.inputs, key, batch)
    uses = sparse.uses(recipe.network.apply, shapes, collections, inputs, key)
    held = candidates(uses, shapes, prunable)
    leaves = jax.tree.leaves_with_path(shapes)
    work = sum(
        3 * use.rows * leaf.size
        for use, (_, leaf), yes in zip(uses, leaves, held, strict=True)
        if yes and use
    )
    if not work or (sparse_kernels == "auto" and steps * work < WORTH_MEASURING):
        return Decision(never)
    if not native().available:
        return Decision(never, f"pruned weights cost as much as kept ones: {native().reason}")
    if not separable(recipe.optimizer, shapes, held):
        return Decision(
            never, "pruned weights cost as much as kept ones: the optimizer looks at whole kernels"
        )
    if sparse_kernels == "on":
        return Decision(always(held))
    speeds = _kept_speeds(folder, held)
    if speeds is None:
        speeds = _measured_speeds(recipe, uses, [leaf for _, leaf in leaves], held)
        if folder is not None:
            write_text(folder / RECORD, json.dumps(speeds))
    said = [
        f"{'/'.join(masks.path_names(path[:-1]))} below {min(least, 1):.0%}"
        for (path, leaf), speed in zip(leaves, speeds, strict=True)
        if speed and (least := speed.break_even / leaf.size) > 0
    ]
    line = f"held compressed where a level pays for it: {', '.join(said)} kept" if said else ""
    return Decision(chooser(speeds), line)


def _measured_speeds(
    recipe: Recipe, uses: Sequence[sparse.Use | None], leaves: Sequence[Any], held: Sequence[bool]
) -> list[Speed | None]:
    """What each layer's step takes; layers of one shape are measured once."""
    measured: dict[Any, Speed] = {}
    speeds: list[Speed | None] = []
    for use, leaf, yes in zip(uses, leaves, held, strict=True):
        case = (leaf.shape, use)
        if yes and use and case not in measured:
            try:
                measured[case] = measure(leaf.shape, use, recipe.optimizer)
            except Exception:  # an optimizer may know the model's own layers only
                measured[case] = measure(leaf.shape, use, optax.sgd(1e-3))
        speeds.append(measured[case] if yes else None)
    return speeds


def _kept_speeds(folder: Path | None, held: Sequence[bool]) -> list[Speed | None] | None:
    """What was measured when a sweep began; ``None`` if it begins now."""
    if folder is None or not (folder / RECORD).exists():
        return None
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        speeds = [None if each is None else Speed(*map(float, each)) for each in found]
        if [speed is not None for speed in speeds] == list(held):
            return speeds
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    warn(f"{folder / RECORD} is damaged: speeds are measured again")
    return None
