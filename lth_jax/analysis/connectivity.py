"""How two trained networks lie to each other: the line between them, distances, predictions, masks.

A network is *stable* to the order of its examples if copies of it, trained in different orders from the same
weights, end in one basin: the error on the straight line between them does not rise (Frankle et al. 2020,
*Linear Mode Connectivity and the Lottery Ticket Hypothesis*, arXiv:1912.05671, §2).

Everything here is a pure function of one pair; ``jax.vmap`` or ``runs.axis`` takes many. :func:`align`, which
asks SciPy, is the exception.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lth_jax.errors import require
from lth_jax.keys import stream
from lth_jax.models import Network
from lth_jax.orders import batch_order
from lth_jax.tasks import Task, classification
from lth_jax.training import Recipe, TrainState, evaluate, examples_of
from lth_jax.types import Mask, Metrics, PRNGKey

POINTS = 30
"""Steps of the line, as in the paper."""

STATISTICS = ("interpolated", "recomputed")
"""What batch statistics on the line are: mixed as the weights are, or of training passes at every point."""

RECOMPUTED = 100
"""Batches that statistics are recomputed from, at most: with a momentum of 0.9 older ones weigh 3e-5."""


def between(one: PyTree, other: PyTree, share: float | Array) -> PyTree:
    """``(1 − share) · one + share · other``, leaf by leaf; what is no float stays that of ``one``."""

    def mixed(a: Any, b: Any) -> Any:
        return (1 - share) * a + share * b if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(mixed, one, other)


def path(
    one: TrainState,
    other: TrainState,
    data: PyTree,
    network: Network,
    task: Task | None = None,
    points: int = POINTS,
    batches: PyTree | None = None,
    key: PRNGKey | None = None,
) -> Metrics:
    """Loss and metrics on the straight line between two networks.

    Their other variables (batch statistics) are interpolated too, or, with ``batches``, taken from training
    data anew at every point: those of mixed weights are neither network's.

    Args:
      one: where the line begins: parameters and collections.
      other: where it ends.
      data: what is evaluated, a leading axis *example* on every leaf.
      network: of both.
      task: what is measured; classification unless given.
      points: steps of the line.
      batches: training examples in batches, leading axes *batch* and *example*, see :func:`recomputed`.
      key: of the training passes over ``batches``.

    Returns:
      Arrays ``[points + 1]`` by name, ends included.
    """

    def at(share: Array) -> Metrics:
        params = between(one.params, other.params, share)
        state = TrainState(params, between(one.collections, other.collections, share), {})
        if batches is not None:
            state = recomputed(state, batches, network, task, key)
        return evaluate(state, data, network, task)

    return jax.lax.map(at, jnp.linspace(0.0, 1.0, points + 1))


def recomputed(
    state: TrainState, batches: PyTree, network: Network, task: Task | None = None, key: PRNGKey | None = None
) -> TrainState:
    """The state with collections as training passes over some batches leave them; weights stay.

    A module forgets its old statistics at its own pace: with a momentum of 0.99 it takes some 500 batches.

    Args:
      state: parameters and collections.
      batches: leading axes *batch* and *example*.
      network: the model.
      task: makes inputs of a batch; classification unless given.
      key: of dropout and augmentation.
    """
    task = classification() if task is None else task
    key = jax.random.key(0) if key is None else key

    def one(collections: Any, inputs: tuple[Array, PyTree]) -> tuple[Any, None]:
        number, batch = inputs
        own = jax.random.fold_in(key, number)
        images = task.inputs(jax.random.fold_in(own, 2**31 - 1), batch)  # as in a training step
        return network.apply(state.params, collections, images, own)[1], None

    numbered = (jnp.arange(examples_of(batches)), batches)
    return state._replace(collections=jax.lax.scan(one, state.collections, numbered)[0])


def barrier(values: Float[Array, "*pairs points"]) -> Float[Array, "*pairs"]:
    """The error barrier: the highest error on a path less the mean of its ends (Frankle et al. 2020, §2).

    Args:
      values: errors, or losses, along the path. For an accuracy say ``barrier(1 - accuracy)``.
    """
    return jnp.max(values, axis=-1) - (values[..., 0] + values[..., -1]) / 2


def compare(
    pair: Any,
    data: PyTree,
    splits: Mapping[str, PyTree],
    recipe: Recipe,
    prunable: PyTree[bool],
    points: int = POINTS,
    statistics: str = "interpolated",
) -> dict[str, Any]:
    """What is recorded of two copies of a network: the line between them, distance and angle, agreement.

    Args:
      pair: a ``runs.branching.Pair``.
      data: training examples, which statistics are recomputed from.
      splits: what the line is evaluated on, by name.
      recipe: network, task, examples in a batch.
      prunable: which leaves count for the distance.
      points: steps of the line.
      statistics: one of ``STATISTICS``.

    Returns:
      ``SPLIT_METRIC_path`` ``[points + 1]`` of each metric, ``distance``, ``angle`` in degrees, and
      ``SPLIT_agreement`` where the task has an accuracy.
    """
    network, task, found = recipe.network, recipe.task, {}
    batches, key = None, stream(pair.seed, "sample")
    if statistics == "recomputed" and jax.tree.leaves(pair.one.collections):
        chosen = batch_order(key, examples_of(data), recipe.batch_size, RECOMPUTED)
        batches = jax.tree.map(lambda leaf: leaf[chosen], data)
    one, other = pair.one, pair.other
    for name, split in splits.items():
        line = path(one, other, split, network, task, points, batches, key)
        found |= {f"{name}_{metric}_path": values for metric, values in line.items()}
        if "accuracy" in task.metrics:
            found[f"{name}_agreement"] = agreement(one, other, split, network, task)
    counted = jax.tree.map(lambda mask, yes: mask & yes, pair.mask, prunable)
    found["distance"], found["angle"] = distance(one.params, other.params, counted)
    return found


def distance(one: PyTree, other: PyTree, mask: Mask) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L2 distance of the kept weights, and the angle between them in degrees (Frankle et al. 2019, §4).

    Args:
      one: parameters.
      other: of the same structure.
      mask: which weights count.
    """

    def product(a: PyTree, b: PyTree) -> Array:
        parts = jax.tree.map(lambda m, x, y: jnp.sum(jnp.where(m, x * y, 0)), mask, a, b)
        return jnp.sum(jnp.stack(jax.tree.leaves(parts)))

    apart = jax.tree.map(jnp.subtract, one, other)
    cosine = product(one, other) / jnp.sqrt(product(one, one) * product(other, other))
    return jnp.sqrt(product(apart, apart)), jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def overlap(one: Mask, other: Mask, of: PyTree[bool]) -> Float[Array, ""]:
    """Weights that both masks keep, as a share of those that either keeps; 1 where neither keeps any.

    Args:
      one: a mask.
      other: another.
      of: which leaves count, from ``masks.prunable``.
    """

    def count(combine: Any) -> Array:
        leaves = zip(*map(jax.tree.leaves, (one, other, of)), strict=True)
        return jnp.sum(jnp.stack([jnp.sum(combine(a, b), dtype=jnp.int32) for a, b, yes in leaves if yes]))

    both, either = count(jnp.logical_and), count(jnp.logical_or)
    return jnp.where(either > 0, both.astype(jnp.float32) / jnp.maximum(either, 1).astype(jnp.float32), 1.0)


def agreement(
    one: TrainState, other: TrainState, data: PyTree, network: Network, task: Task | None = None
) -> Float[Array, ""]:
    """The share of examples to which two classifiers give the same class; NaN where one has diverged.

    Args:
      one: parameters and collections.
      other: likewise.
      data: examples, a leading axis *example* on every leaf.
      network: of both; its outputs are logits, classes last.
      task: makes inputs of a batch; classification unless given.
    """
    task = classification() if task is None else task

    def same(params: Any, collections: Any, inputs: Any, key: Any) -> Any:
        logits = [network.apply(params[n], collections[n], inputs, None)[0] for n in params]
        answers = [each.argmax(-1) for each in logits]
        agree = (answers[0] == answers[1]).reshape(answers[0].shape[0], -1).mean(1)
        known = [jnp.isfinite(each).reshape(each.shape[0], -1).all(1) for each in logits]
        return jnp.where(known[0] & known[1], agree, jnp.nan), collections

    asked = Task(task.inputs, lambda agree, batch: agree, {})
    both = TrainState(
        {"one": one.params, "other": other.params}, {"one": one.collections, "other": other.collections}, {}
    )
    return jnp.asarray(evaluate(both, data, Network(network.init, same), asked)["loss"])


def align(one: PyTree, other: PyTree, layers: Sequence[str], rounds: int = 100) -> PyTree:
    """``other`` with its hidden units and channels permuted to lie as near to ``one`` as can be.

    The permuted network computes what it did. Weight matching (Ainsworth et al. 2023, *Git Re-Basin*,
    arXiv:2209.04836, §3.2): one layer's permutation after the other is the best for those around it, a linear
    assignment, until none changes. For MLPs and plain CNNs: each layer a ``kernel``
    ``[*window, in, out]`` and perhaps a ``bias``, a flattened image having its channels last.

    Args:
      one: parameters, a dictionary of layers.
      other: likewise.
      layers: their names from the first to the last.
      rounds: at most so many times over all layers.

    Raises:
      InputError: something stands between the layers whose units would have to be permuted too.
    """
    from scipy.optimize import linear_sum_assignment

    require(set(layers) == set(one), f"layers {', '.join(layers)}: the network has {', '.join(sorted(one))}")
    known = all(set(one[name]) <= {"kernel", "bias"} for name in layers)
    require(known, "align: expected layers of a kernel and perhaps a bias")
    widths = [one[name]["kernel"].shape[-1] for name in layers]
    orders = [np.arange(width) for width in widths]

    def permuted(name: str, position: int) -> dict[str, np.ndarray]:
        leaf = {kind: np.asarray(values) for kind, values in other[name].items()}
        if position > 0:
            leaf["kernel"] = _take_inputs(leaf["kernel"], orders[position - 1])
        return {kind: values[..., orders[position]] for kind, values in leaf.items()}

    for _ in range(rounds):
        changed = False
        for position, name in enumerate(layers[:-1]):
            before = permuted(name, position)
            gain = sum(_units(np.asarray(one[name][k]), -1) @ _units(before[k], -1).T for k in before)
            following = layers[position + 1]
            after = permuted(following, position + 1)["kernel"]
            theirs = np.asarray(one[following]["kernel"])
            count = widths[position]
            gain = gain + _incoming(theirs, count) @ _incoming(after, count).T
            best = linear_sum_assignment(gain, maximize=True)[1]
            if not np.array_equal(best, np.arange(count)):
                orders[position], changed = orders[position][best], True
        if not changed:
            break
    return {name: permuted(name, position) for position, name in enumerate(layers)}


def _units(values: np.ndarray, axis: int) -> np.ndarray:
    """A row for each unit along an axis, in float64."""
    moved = np.moveaxis(values.astype(np.float64), axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _incoming(kernel: np.ndarray, units: int) -> np.ndarray:
    """A row for each unit or channel that a kernel reads: all weights from it, at all places."""
    split = kernel.reshape(*kernel.shape[:-2], kernel.shape[-2] // units, units, kernel.shape[-1])
    return _units(split, -2)


def _take_inputs(kernel: np.ndarray, order: np.ndarray) -> np.ndarray:
    """A kernel that reads its units, or the channels of a flattened image, in another order."""
    split = kernel.reshape(*kernel.shape[:-2], kernel.shape[-2] // len(order), len(order), kernel.shape[-1])
    return split[..., order, :].reshape(kernel.shape)
