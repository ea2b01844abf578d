"""Training a masked network: one run, as pure functions.

One step of stochastic gradient descent on ``f(x; m ⊙ θ)``. With θ masked at the start, the chain rule makes
the gradient with respect to θ equal to ``m ⊙ ∇``; the update is masked again after the optimizer, because
moments carried over from a denser level or weight decay can move an entry whose gradient is 0. So pruned
weights are exactly 0 after every step, whatever the optimizer keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from lth_jax.data import Dataset
from lth_jax.models import Network
from lth_jax.tickets import masks
from lth_jax.types import Collections, Mask, Metrics, Params, PRNGKey, Split

EVALUATION_BATCH = 1000


class TrainState(NamedTuple):
    """What one training step changes."""

    params: Params
    collections: Collections
    opt_state: optax.OptState


class Curves(NamedTuple):
    """What was seen while training: one entry per evaluation.

    ``batch_loss`` is the mean loss of the minibatches since the evaluation before; ``watched`` holds the
    metrics of each named split at that moment.
    """

    batch_loss: Float[Array, " evaluations"]
    watched: dict[str, Metrics]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, apart from its data and where it starts.

    ``steps`` is the number of iterations (minibatches); the watched splits are evaluated every
    ``eval_every`` of them, which must divide ``steps``. Without ``shuffle`` every epoch goes through the
    examples in the order of the data set.
    """

    network: Network
    optimizer: optax.GradientTransformation
    batch_size: int
    steps: int
    eval_every: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.steps < 1:
            raise ValueError(f"batch_size {self.batch_size} and steps {self.steps} must be at least 1")
        if self.eval_every < 1 or self.steps % self.eval_every:
            raise ValueError(f"eval_every {self.eval_every} must divide steps {self.steps}")


def to_float(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels 0 … 255 to [0, 1], in float32."""
    return images.astype(jnp.float32) * jnp.float32(1 / 255)


def splits(dataset: Dataset) -> tuple[Split, Split]:
    """A data set's training and test examples as arrays on the device."""
    train = Split(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels, jnp.int32))
    return train, Split(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels, jnp.int32))


def init_state(recipe: Recipe, params: Params, collections: Collections, mask: Mask) -> TrainState:
    """The state before the first step: masked parameters and a fresh optimizer."""
    params = masks.apply(mask, params)
    return TrainState(params, collections, recipe.optimizer.init(params))


def train_step(
    key: PRNGKey, state: TrainState, mask: Mask, batch: Split, recipe: Recipe
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of the optimizer on one minibatch.

    Args:
      key: for the model's own noise (dropout); unused by models that have none.
      state: parameters already masked, collections, optimizer state.
      mask: what is kept.
      batch: uint8 images and labels.
      recipe: network and optimizer.

    Returns:
      The next state, its pruned weights exactly 0, and the minibatch's mean cross-entropy before the step.
    """

    def loss(params: Params) -> tuple[Float[Array, ""], Collections]:
        logits, collections = recipe.network.apply(params, state.collections, to_float(batch.images), key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return jnp.mean(losses), collections

    (value, collections), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    gradient = masks.apply(mask, gradient)
    updates, opt_state = recipe.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, masks.apply(mask, updates))
    return TrainState(params, collections, opt_state), value


def batch_order(
    key: PRNGKey, examples: int, batch_size: int, steps: int, shuffle: bool = True
) -> Int[Array, "steps batch_size"]:
    """Which examples each step sees: a fresh permutation every epoch, its incomplete last batch left out.

    Without ``shuffle`` they come in their own order, every epoch the same.

    Raises:
      ValueError: a batch is larger than the data.
    """
    per_epoch = examples // batch_size
    if per_epoch == 0:
        raise ValueError(f"batch size {batch_size} is larger than the {examples} training examples")
    epochs = -(-steps // per_epoch)
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(jnp.arange(epochs))
    own = jnp.broadcast_to(jnp.arange(examples), (epochs, examples))
    permutations = jax.vmap(lambda k: jax.random.permutation(k, examples))(keys) if shuffle else own
    return permutations[:, : per_epoch * batch_size].reshape(-1, batch_size)[:steps]


def train(
    key: PRNGKey,
    state: TrainState,
    mask: Mask,
    data: Split,
    recipe: Recipe,
    watch: Mapping[str, Split] | None = None,
    model_key: PRNGKey | None = None,
    stop: int | Int[Array, ""] | None = None,
) -> tuple[TrainState, Curves]:
    """Train for ``recipe.steps`` iterations, evaluating as it goes: one ``lax.scan``, nothing on the host.

    Args:
      key: the order of the examples.
      state: where to start, see :func:`init_state`.
      mask: what is kept.
      data: the training examples, uint8, on the device.
      recipe: network, optimizer, batch size, iterations.
      watch: splits to evaluate every ``recipe.eval_every`` iterations, by name.
      model_key: the model's own noise; a stream of ``key`` when not given.
      stop: train for this many iterations only, a multiple of ``recipe.eval_every`` that may differ from run
        to run; the curves then stay at their last value.

    Returns:
      The state after the last step, and the curves.
    """
    watch = dict(watch or {})
    model_key = jax.random.fold_in(key, 2**31 - 1) if model_key is None else model_key
    order = batch_order(key, data.labels.shape[0], recipe.batch_size, recipe.steps, recipe.shuffle)

    def step(state: TrainState, inputs: tuple[Array, Array]) -> tuple[TrainState, Array]:
        index, chosen = inputs
        batch = Split(data.images[chosen], data.labels[chosen])
        return train_step(jax.random.fold_in(model_key, index), state, mask, batch, recipe)

    def interval(state: TrainState, inputs: tuple[Array, Array]) -> tuple[TrainState, Curves]:
        state, losses = jax.lax.scan(step, state, inputs)
        seen = {name: evaluate(state, split, recipe.network) for name, split in watch.items()}
        return state, Curves(jnp.mean(losses), seen)

    def unless_stopped(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Curves]:
        carry = jax.lax.cond(inputs[0][0] < stop, lambda c: interval(c[0], inputs), lambda c: c, carry)
        return carry, carry[1]

    shape = (recipe.steps // recipe.eval_every, recipe.eval_every)
    steps = jnp.arange(recipe.steps).reshape(shape)
    inputs = (steps, order.reshape(*shape, recipe.batch_size))
    if stop is None:
        return jax.lax.scan(interval, state, inputs)
    unseen = jax.eval_shape(interval, state, jax.tree.map(lambda a: a[0], inputs))[1]
    unseen = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), unseen)
    (state, _), curves = jax.lax.scan(unless_stopped, (state, unseen), inputs)
    return state, curves


def evaluate(state: TrainState, split: Split, network: Network) -> Metrics:
    """Mean cross-entropy and accuracy over a whole split, in inference mode, in batches.

    A network that has diverged (its loss NaN or infinite) answers 0 to everything: its accuracy is NaN.
    """
    examples = split.labels.shape[0]
    size = min(EVALUATION_BATCH, examples)
    whole = examples // size * size

    def totals(batch: Split) -> tuple[Array, Array]:
        logits, _ = network.apply(state.params, state.collections, to_float(batch.images), None)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return jnp.sum(losses), jnp.sum(jnp.argmax(logits, -1) == batch.labels, dtype=jnp.int32)

    batches = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), split)
    parts = [jax.tree.map(jnp.sum, jax.lax.map(totals, batches))]
    if whole < examples:
        parts.append(totals(jax.tree.map(lambda a: a[whole:], split)))
    loss, correct = (sum(column) for column in zip(*parts, strict=True))
    accuracy = correct / jnp.float32(examples)
    return Metrics(loss / examples, jnp.where(jnp.isfinite(loss), accuracy, jnp.nan))
