"""What a score is told of a level, and the mask that comes of it.

A mask is cut in one step or in several, with the score taken anew, of what is left, before each: from n₀ to n
weights step i of s leaves n₀ (n / n₀)^(i/s). All sizes are known beforehand, so it is one ``lax.scan``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from lth_jax.errors import require
from lth_jax.tickets import masks, pruning
from lth_jax.tickets.schedules import Sizes
from lth_jax.tickets.scores import Score, Scoring
from lth_jax.training import Recipe, examples_of
from lth_jax.types import Collections, Mask, Params, PRNGKey


def describe(
    key: PRNGKey,
    start: Params,
    trained: Params,
    mask: Mask,
    collections: Collections,
    recipe: Recipe,
    ranked: PyTree[bool],
    data: PyTree | None,
    examples: int,
    balanced: bool = False,
) -> Scoring:
    """What a score may look at.

    Args:
      key: the run's.
      start: weights where training began.
      trained: and where it ended.
      mask: what was kept.
      collections: the model's other variables.
      recipe: network and task.
      ranked: the leaves that are pruned.
      data: training examples; ``None`` for scores that ask for none.
      examples: of the batch whose loss the score may ask for; 0 is none.
      balanced: the batch has as many of each class as there can be, see :func:`draw`.
    """
    loss, flow = _unknown_loss, None
    if examples and data is not None:
        loss = _loss(recipe, collections, draw(jax.random.fold_in(key, 1), data, examples, balanced))
    if data is not None:
        flow = _flow(recipe, collections, data)
    count = min(examples, examples_of(data)) if data is not None else 0
    return Scoring(start, trained, mask, key, loss, count, flow, ranked)


def _unknown_loss(params: Params, **_: Any) -> Array:
    raise ValueError("this score asks for the loss of a batch: say score_batch, its examples")


def draw(key: PRNGKey, data: PyTree, examples: int, balanced: bool = False) -> PyTree:
    """A batch of training examples, drawn at random.

    Args:
      key: of the draw.
      data: a tree with a leading axis *example*.
      examples: how many.
      balanced: where the data are a pair whose second is an integer label each, take one of each class, then
        a second of each, and so on; else as without.
    """
    order = jax.random.permutation(key, examples_of(data))
    if balanced and isinstance(data, tuple | list) and len(data) == 2 and _are_labels(data[1]):
        labels = data[1][order]
        by_class = jnp.argsort(labels, stable=True)
        place = jnp.arange(labels.size) - jnp.searchsorted(labels[by_class], labels[by_class])
        order = order[by_class[jnp.argsort(place, stable=True)]]
    chosen = order[:examples]
    return jax.tree.map(lambda leaf: leaf[chosen], data)


def _are_labels(targets: Any) -> bool:
    return jnp.ndim(targets) == 1 and jnp.issubdtype(jnp.result_type(targets), jnp.integer)


def _loss(recipe: Recipe, collections: Collections, batch: PyTree) -> Callable[..., Array]:
    """The mean loss of a batch as a function of the weights; of one example, or of tempered outputs."""
    network, task = recipe.network, recipe.task

    def loss(params: Params, temperature: float = 1.0, example: Int[Array, ""] | None = None) -> Array:
        some = batch
        if example is not None:
            some = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, example, 1), batch)
        outputs, _ = network.apply(params, collections, task.inputs(None, some), None)
        if temperature != 1:
            outputs = jax.tree.map(lambda leaf: leaf / temperature, outputs)
        return jnp.mean(task.loss(outputs, some))

    return loss


def _flow(recipe: Recipe, collections: Collections, data: PyTree) -> Callable[[Params], Array]:
    """The sum of the network's outputs for one example of ones."""
    network, task = recipe.network, recipe.task
    inputs = jax.eval_shape(
        lambda batch: task.inputs(None, batch),
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), data),
    )
    floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(inputs))

    def flow(params: Params) -> Array:
        require(floats, "this score gives the network ones for inputs: it takes inputs that are floats")
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), inputs)
        outputs, _ = network.apply(params, collections, ones, None)
        return jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(outputs)]))

    return flow


def cut(
    whole: Mask, scoring: Scoring, score: Score, counts: PyTree[Int[Array, " steps"]], sizes: Sizes
) -> Mask:
    """The mask that is left after as many prunings as ``counts`` has, the score taken anew before each.

    Args:
      whole: what it is cut from.
      scoring: what the score may look at, its weights and mask those of ``whole``.
      score: the ranking.
      counts: how many weights each step leaves of each leaf; of all together where the scope is global.
      sizes: scope, and what is ranked.
    """

    def step(mask: Mask, keep: PyTree) -> tuple[Mask, None]:
        start, trained = (masks.apply(mask, tree) for tree in (scoring.start, scoring.trained))
        ranking = score(scoring._replace(start=start, trained=trained, mask=mask))
        return pruning.SCOPES[sizes.scope](mask, ranking, keep, sizes.ranked), None

    return jax.lax.scan(step, whole, counts)[0]
