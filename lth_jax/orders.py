"""In which order a training reads its examples: epoch after epoch, minibatch after minibatch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lth_jax.types import PRNGKey, Step

Order = Callable[[PRNGKey, Step, int], Int[Array, " examples"]]
"""``(key, epoch, examples)`` to the order in which an epoch reads the examples."""


def shuffled(key: PRNGKey, epoch: Step, examples: int) -> Int[Array, " examples"]:
    """A fresh permutation every epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def in_sequence(key: PRNGKey, epoch: Step, examples: int) -> Int[Array, " examples"]:
    """The order of the data set, every epoch the same."""
    return jnp.arange(examples)


def restarted(key: PRNGKey, epoch: Step, examples: int) -> Int[Array, " examples"]:
    """A fresh permutation every epoch, as if each were the first of a training with a key of its own."""
    return shuffled(jax.random.fold_in(key, epoch), 0, examples)


def batch_order(
    key: PRNGKey, examples: int, batch_size: int, steps: int, order: Order = shuffled, first: Step = 0
) -> Int[Array, "steps batch_size"]:
    """Which examples each step sees: epoch after epoch, an incomplete last batch of each left out.

    Args:
      key: of the order.
      examples: how many there are.
      batch_size: examples in a step.
      steps: how many steps.
      order: of the examples in an epoch.
      first: the step that comes first, counted from the start of the training; may be traced.

    Raises:
      ValueError: a batch is larger than the data.
    """
    per_epoch = examples // batch_size
    if per_epoch == 0:
        raise ValueError(f"batch size {batch_size} is larger than the {examples} training examples")
    inside = first % per_epoch
    most = inside if isinstance(inside, int) else per_epoch - 1
    epochs = first // per_epoch + jnp.arange(-(-(most + steps) // per_epoch))
    whole = jax.vmap(lambda epoch: order(key, epoch, examples))(epochs)
    batches = whole[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(batches, inside, steps)
