"""A worker process of the benchmark: this library's training step, or the machine's peaks, through JAX.

Started by ``experiments.benchmark``; ``experiments.benchmark.workers`` says how the two speak.
"""

import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmark import cases
from experiments.benchmark.workers import Prepared, host_memory, pictures, serve
from lth_jax import compression, models, networks, training
from lth_jax.runs import axis, speed
from lth_jax.tickets import masks
from lth_jax.types import Split

PRODUCT_SIDES = {"cpu": 2048}
OTHER_PRODUCT_SIDE = 8192
COPIED, COPIES = 2**25, 8
STATE_COPIES = 2000
PLAIN_STEPS = 5


def own(model: str) -> nn.Module:
    """A network as somebody writes it, of plain ``nn.Conv``."""
    spec = cases.SPECS[model]
    return networks.ResNet(6 * spec.blocks + 2) if spec.blocks else Plain(spec)


class Plain(nn.Module):
    """Convolutions, one behind the other, and dense layers."""

    spec: cases.Spec
    classes: int = cases.CLASSES

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        window = (self.spec.window, self.spec.window)
        for features, pooled in zip(self.spec.filters, self.spec.pooled, strict=True):
            x = nn.Conv(features, window)(x)
            if self.spec.norm:
                x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), (2, 2)) if pooled else x
        x = x.reshape(len(x), -1)
        for width in self.spec.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


def network(case: cases.Case) -> models.Network:
    """The case's model."""
    if case.model == cases.MLP:
        return models.from_flax(models.MLP(cases.hidden_widths(case)))
    if case.model != cases.LENET5:
        return models.from_linen(own(case.model))
    method = "patches" if case.side == cases.PATCHES else "auto"
    return models.from_flax(models.LeNet5(cases.filters(case), cases.hidden_widths(case), method=method))


def training_call(case: cases.Case) -> Callable[[], Any]:
    """A call that trains every run for ``case.steps`` steps from given weights, masks and orders."""
    net, shape = network(case), cases.SPECS[case.model].image
    images, labels = pictures(case.examples, shape)
    data = axis.replicate(Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32)))
    recipe = training.Recipe(net, optax.adam(cases.LEARNING_RATE), case.batch, case.steps)
    shapes, collections = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape), jnp.float32))
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((case.batch, *leaf.shape[1:]), leaf.dtype), data)
    decision = speed.decide(recipe, shapes, masks.prunable(shapes), collections, batch, 1e12)
    if case.kept != cases.ALL_LEVELS:
        return _training(case, recipe, data, decision.choose)
    levels = [case._replace(kept=kept) for kept in cases.LEVELS]
    calls = [_training(level, recipe, data, decision.choose) for level in levels]
    return lambda: jax.tree.map(lambda *parts: jnp.stack(parts), *[call()[1] for call in calls])


def _training(
    case: cases.Case, recipe: training.Recipe, data: Split, choose: speed.Choose
) -> Callable[[], Any]:
    """A call of one size; what is faster so is held compressed, as a sweep would."""
    image = jnp.zeros((1, *data.images.shape[1:]), jnp.float32)

    def drawn(seed: jax.Array) -> Any:
        key = jax.random.key(seed)
        params, collections = recipe.network.init(key, image)
        keep = lambda leaf, yes: _random(key, leaf, case.kept) if yes else leaf == leaf  # noqa: E731
        return params, collections, jax.tree.map(keep, params, masks.prunable(params)), key

    runs = jax.jit(jax.vmap(drawn))(jnp.arange(case.runs))
    kept = [int(leaf.reshape(case.runs, -1).sum(1).max()) for leaf in jax.tree.leaves(runs[2])]
    entries = choose(kept, 1e12)
    orders = np.random.default_rng(0).integers(
        0, case.examples, (case.runs, case.steps, case.batch), np.int32
    )

    def one(run: Any, data: Split) -> tuple[training.TrainState, jax.Array]:
        (params, collections, mask, key), order = run
        state = training.init_state(recipe, params, collections, mask)
        held = compression.compressed(state, mask, recipe, entries)

        def step(state: training.TrainState, chosen: jax.Array) -> tuple[training.TrainState, jax.Array]:
            batch = Split(data.images[chosen], data.labels[chosen])
            return training.train_step(key, state, held.mask, batch, held.recipe)

        return jax.lax.scan(step, held.state, order)

    mapped = axis.map_runs(one)
    return lambda: mapped((runs, jnp.asarray(orders)), data)


def _random(key: jax.Array, leaf: jax.Array, share: float) -> jax.Array:
    """A mask that keeps exactly a share of a kernel."""
    rank = jax.random.permutation(key, leaf.size).reshape(leaf.shape)
    return rank < round(share * leaf.size)


def plain_call(case: cases.Case) -> Callable[[], Any]:
    """A call of ``PLAIN_STEPS`` steps of one network, as somebody writes them: a jitted step in a loop."""
    module, shape = own(case.model), cases.SPECS[case.model].image
    images, labels = (jnp.asarray(array) for array in pictures(case.examples, shape))
    optimizer = optax.adam(cases.LEARNING_RATE)
    variables = module.init(jax.random.key(0), jnp.zeros((1, *shape), jnp.float32))
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    rng, state = np.random.default_rng(0), [params, rest, optimizer.init(params)]

    @jax.jit
    def step(params: Any, rest: Any, opt_state: Any, chosen: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            x = images[chosen].astype(jnp.float32) / 255
            logits, seen = module.apply({"params": params, **rest}, x, True, mutable=list(rest))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean(), seen

        (value, rest_), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), rest_, opt_state), value

    def call() -> Any:
        values = []
        for _ in range(PLAIN_STEPS):
            chosen = jnp.asarray(rng.integers(0, case.examples, case.batch))
            (state[:]), value = step(*state, chosen)
            values.append(value)
        return state, jnp.stack(values)

    return call


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
    if case.side != cases.PLAIN:  # which has the one device that JAX shows by itself
        axis.use_host_devices()
    if case.side in cases.PEAKS:
        call, work = peak_call(case)
    elif case.side == cases.PLAIN:
        call, work = plain_call(case), float(PLAIN_STEPS)
    else:
        levels = len(cases.LEVELS) if case.kept == cases.ALL_LEVELS else 1
        call, work = training_call(case), float(case.runs * case.steps * levels)

    def run() -> float:
        finished = jax.block_until_ready(call())
        # A diverged run could be faster or slower than a sound one.
        losses = finished if case.kept == cases.ALL_LEVELS else finished[1]
        if case.side not in cases.PEAKS and not np.isfinite(np.asarray(losses)).all():
            raise FloatingPointError("the loss is not finite")
        return work

    return Prepared(run, peak_memory, f"jax {jax.__version__}")


if __name__ == "__main__":
    serve(prepare, sys.argv[1])
