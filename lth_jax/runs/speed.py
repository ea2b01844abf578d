"""How fast a layer trains, dense and compressed, and what a level holds compressed because of it.

A sweep of some length measures what one training step of each layer takes on this machine, on all its devices
at once as a level would, with the sweep's own optimizer: dense, and compressed at two sizes, between which it
is a line. Each level then compresses what is faster so, unless it gains less than another program costs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from lth_jax.compression import Entries, separable
from lth_jax.kernels import sparse
from lth_jax.kernels.native import native
from lth_jax.runs import axis
from lth_jax.tickets import masks
from lth_jax.training import Recipe, TrainState, update
from lth_jax.types import Shapes

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
        bool(use and prune and leaf.size >= SMALLEST)
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
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((use.rows, shape[0])), jnp.float32)
    chosen = np.zeros(shape, bool)
    chosen.flat[rng.permutation(chosen.size)[: kept or chosen.size // 3]] = True
    where = sparse.structure(jnp.asarray(chosen), kept) if kept else None
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = {"kernel": sparse.compress(kernel, where) if where else kernel}
    mask = (
        jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
        if where
        else {"kernel": jnp.asarray(chosen)}
    )

    def loss(params: Any, x: Any) -> Any:
        w = params["kernel"]
        y = sparse.product(x, sparse.Compressed(w, where, (shape[0], shape[1]))) if where else x @ w
        return jnp.mean(y * y)

    def step(carry: Any, _: Any) -> Any:
        state, x = carry
        value, (gradient, dx) = jax.value_and_grad(loss, (0, 1))(state.params, x)
        gradient = masks.apply(mask, gradient)
        updates, opt_state = update(optimizer, gradient, state, value, lambda params: loss(params, x))
        params = optax.apply_updates(state.params, masks.apply(mask, updates))
        return (TrainState(params, {}, opt_state), x - 1e-6 * dx if use.gradient else x), None

    steps = int(np.clip(1e9 / (use.rows * np.prod(shape)), 2, 100))
    mesh = axis.run_mesh(jax.local_devices())  # of several processes each measures alone
    run = axis.map_runs(lambda carry: jax.lax.scan(step, carry, None, length=steps)[0], mesh, chunk=1)
    carry = TrainState(masks.apply(mask, params), {}, optimizer.init(params)), x
    everywhere = axis.stack([carry] * jax.local_device_count())
    jax.block_until_ready(run(everywhere))
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(run(everywhere))
        taken.append(time.perf_counter() - started)
    return min(taken) / steps


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
    """
    if sparse_kernels == "off" or jax.default_backend() != "cpu":
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
    measured: dict[Any, Speed] = {}
    speeds: list[Speed | None] = []
    for use, (_, leaf), yes in zip(uses, leaves, held, strict=True):
        case = (leaf.shape, use)
        if yes and use and case not in measured:
            try:
                measured[case] = measure(leaf.shape, use, recipe.optimizer)
            except Exception:  # an optimizer may know the model's own layers only
                measured[case] = measure(leaf.shape, use, optax.sgd(1e-3))
        speeds.append(measured[case] if yes else None)
    said = [
        f"{'/'.join(masks.path_names(path[:-1]))} below {least:.0%}"
        for (path, leaf), speed in zip(leaves, speeds, strict=True)
        if speed and (least := speed.break_even / leaf.size) > 0
    ]
    line = f"held compressed where a level pays for it: {', '.join(said)} kept" if said else ""
    return Decision(chooser(speeds), line)
