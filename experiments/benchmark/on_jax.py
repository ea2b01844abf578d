"""A worker process of the benchmark: this library's training step, or the machine's peaks, through JAX.

Started by ``experiments.benchmark``; ``experiments.benchmark.workers`` says how the two speak.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmark import cases
from experiments.benchmark.workers import Prepared, host_memory, pictures, serve
from lth_jax import models, training
from lth_jax.runs import axis
from lth_jax.tickets import masks
from lth_jax.types import Params, Split

PRODUCT_SIDES = {"cpu": 2048}
OTHER_PRODUCT_SIDE = 8192
COPIED, COPIES = 2**25, 8
STATE_COPIES = 2000


def network(case: cases.Case) -> models.Network:
    """The case's model."""
    if case.model == cases.MLP:
        return models.from_flax(models.MLP(cases.hidden_widths(case)))
    method = "patches" if case.side == cases.PATCHES else "auto"
    return models.from_flax(models.LeNet5(cases.filters(case), cases.hidden_widths(case), method=method))


def training_call(case: cases.Case) -> Callable[[], Any]:
    """A call that trains every run for ``case.steps`` steps from given weights, masks and orders."""
    net, shape = network(case), cases.IMAGE_SHAPES[case.model]
    images, labels = pictures(case.examples, shape)
    data = axis.replicate(Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32)))
    recipe = training.Recipe(net, optax.adam(cases.LEARNING_RATE), case.batch, case.steps)

    def one(run: Any, data: Split) -> tuple[training.TrainState, jax.Array]:
        params, mask, order, key = run

        def step(state: training.TrainState, chosen: jax.Array) -> tuple[training.TrainState, jax.Array]:
            batch = Split(data.images[chosen], data.labels[chosen])
            return training.train_step(key, state, mask, batch, recipe)

        return jax.lax.scan(step, training.init_state(recipe, params, {}, mask), order)

    runs = beginnings(case, models.parameter_shapes(net, shape))
    mapped = axis.map_runs(one)
    return lambda: mapped(runs, data)


def beginnings(case: cases.Case, shapes: Params) -> Any:
    """Weights, masks that keep half of every kernel, orders and keys: a row a run."""
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.0
        return jnp.asarray(scale * rng.standard_normal((case.runs, *leaf.shape), np.float32))

    def kept(leaf: jax.ShapeDtypeStruct, prunable: bool) -> jax.Array:
        share = 0.5 if prunable else 1.0
        return jnp.asarray(rng.random((case.runs, *leaf.shape), np.float32) < share)

    order = rng.integers(0, case.examples, (case.runs, case.steps, case.batch), np.int32)
    keys = jax.random.split(jax.random.key(0), case.runs)
    mask = jax.tree.map(kept, shapes, masks.prunable(shapes))
    return jax.tree.map(drawn, shapes), mask, jnp.asarray(order), keys


def peak_call(case: cases.Case) -> tuple[Callable[[], Any], float]:
    """A call on every device at once, and its work: FLOP of a matrix product, bytes of a copy."""
    mesh = axis.run_mesh()
    if case.side == cases.PRODUCT:
        side = PRODUCT_SIDES.get(jax.default_backend(), OTHER_PRODUCT_SIDE)
        values = jnp.full((mesh.size, side, side), 1 / side, jnp.float32)
        return everywhere(lambda matrix: matrix @ matrix, values), 2.0 * side**3 * mesh.size
    state = 3 * cases.parameter_count(cases.Case(cases.OURS, cases.MLP))  # weights and Adam's two moments
    size, times = (state, STATE_COPIES) if case.side == cases.COPY_STATE else (COPIED, COPIES)
    values = jnp.zeros((mesh.size, size), jnp.float32)

    def copies(array: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda a, _: (a + 1, None), array, None, times)[0]

    return everywhere(copies, values), 8.0 * size * times * mesh.size


def everywhere(function: Callable[[jax.Array], jax.Array], values: jax.Array) -> Callable[[], jax.Array]:
    """A call of a function on every device of its own row, which is there and whose result stays there."""
    mesh = axis.run_mesh()
    placed = axis.place(values, NamedSharding(mesh, PartitionSpec(axis.AXIS)))
    compiled = axis.map_runs(function, mesh).compiled  # type: ignore[attr-defined]
    return lambda: compiled(1, placed)


def peak_memory() -> float:
    """The most bytes that were in use: on the accelerators where there are some, else of this process."""
    statistics = [device.memory_stats() or {} for device in jax.devices()]
    used = [each["peak_bytes_in_use"] for each in statistics if "peak_bytes_in_use" in each]
    return float(sum(used)) if used else host_memory()


def prepare(case: cases.Case) -> Prepared:
    """Everything up to the first call; ``work`` is a call's network-steps, FLOP or bytes."""
    axis.use_host_devices()
    if case.side in cases.PEAKS:
        call, work = peak_call(case)
    else:
        call, work = training_call(case), float(case.runs * case.steps)

    def run() -> float:
        finished = jax.block_until_ready(call())
        # A diverged run could be faster or slower than a sound one.
        if case.side not in cases.PEAKS and not np.isfinite(np.asarray(finished[1])).all():
            raise FloatingPointError("the loss is not finite")
        return work

    return Prepared(run, peak_memory, f"jax {jax.__version__}")


if __name__ == "__main__":
    serve(prepare, sys.argv[1])
