"""Training a masked network: one run, as pure functions.

One step of stochastic gradient descent on ``f(x; m ⊙ θ)``. With θ masked at the start, the chain rule makes
the gradient with respect to θ equal to ``m ⊙ ∇``; the update is masked again after the optimizer, because
moments carried over from a denser level or weight decay can move an entry whose gradient is 0. So pruned
weights are exactly 0 after every step, whatever the optimizer keeps.

:func:`train` is the only training loop. What is watched while it runs are functions of the state: the
evaluation of a split is one, a variance or a distance from the start are others.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float, PyTree

from lth_jax.data import Dataset
from lth_jax.devices import use_host_devices
from lth_jax.errors import whole_number
from lth_jax.kernels import gradients, rewriting
from lth_jax.models import Network
from lth_jax.orders import Order, batch_order, shuffled
from lth_jax.tasks import Task, classification
from lth_jax.tickets import masks, rewinding
from lth_jax.tickets.dynamic import Dynamic, Seen, fresh_where_new
from lth_jax.types import Collections, Mask, Metrics, Params, PRNGKey, Split, Step

EVALUATION_BATCH = 1000


class TrainState(NamedTuple):
    """What one training step changes."""

    params: Params
    collections: Collections
    opt_state: optax.OptState
    mask: Any = {}  # noqa: RUF012  # what is kept now, where ``Recipe.dynamic`` changes it; {} where it stays


class Curves(NamedTuple):
    """What was seen while training: a leading axis *observation* on every leaf.

    ``batch_loss`` is the mean loss of the minibatches since the observation before; ``observed`` holds what
    each observer gave, by its name.
    """

    batch_loss: Float[Array, "*observations"]
    observed: dict[str, PyTree]


Observer = Callable[[TrainState], PyTree]
"""What is watched while training: a function of the state."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, apart from its data and where it starts.

    ``steps`` is the number of iterations (minibatches). Observers look after every ``eval_every`` of them and
    after the last; 0 is after the last only. An incomplete last batch of an epoch is left out. ``dynamic``
    changes the mask while the network is trained, see ``tickets.dynamic``.
    """

    network: Network
    optimizer: optax.GradientTransformation
    batch_size: int
    steps: int
    eval_every: int = 0
    order: Order = shuffled
    task: Task = field(default_factory=classification)
    dynamic: Dynamic | None = None

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "steps": 1, "eval_every": 0}.items():
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))


def observed_at(recipe: Recipe, first: int = 0, start: bool = False) -> list[int]:
    """The iterations after which observers look.

    Args:
      recipe: steps, and how often.
      first: iterations that lie behind the start.
      start: whether they look before the first step too.
    """
    every = recipe.eval_every or recipe.steps
    middle = range(first + every, recipe.steps, every)
    return [*([first] if start else []), *middle, recipe.steps]


def splits(dataset: Dataset) -> tuple[Split, Split]:
    """A data set's training and test examples as arrays on the device."""
    use_host_devices()
    train = Split(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels, jnp.int32))
    return train, Split(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels, jnp.int32))


def examples_of(data: PyTree) -> int:
    """How many examples a tree of arrays has: the length of its leaves."""
    return jax.tree.leaves(data)[0].shape[0]


def init_state(recipe: Recipe, params: Params, collections: Collections, mask: Mask) -> TrainState:
    """The state before the first step: masked parameters and a fresh optimizer."""
    params = masks.apply(first_mask(recipe, mask), params)
    return TrainState(params, collections, recipe.optimizer.init(params))


def first_mask(recipe: Recipe, mask: Mask) -> Mask:
    """The mask that the first step has: the one given, unless the recipe's ``dynamic`` begins dense."""
    return mask if recipe.dynamic is None else recipe.dynamic.first(mask)


def train_step(
    key: PRNGKey, state: TrainState, mask: Mask, batch: PyTree, recipe: Recipe
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of the optimizer on one minibatch.

    Args:
      key: for augmentation and the model's own noise (dropout).
      state: parameters already masked, collections, optimizer state.
      mask: what is kept.
      batch: a tree with a leading axis *example*, see ``tasks.Task``.
      recipe: network, optimizer, task.

    Returns:
      The next state, its pruned weights exactly 0, and the minibatch's mean loss before the step.
    """
    loss = batch_loss(key, state, batch, recipe)
    (value, collections), gradient = value_and_grad(loss)(state.params)
    gradient = masks.apply(mask, gradient)
    masked_loss = lambda params: loss(masks.apply(mask, params))[0]  # noqa: E731
    updates, opt_state = update(recipe.optimizer, gradient, state, value, masked_loss)
    params = optax.apply_updates(state.params, masks.apply(mask, updates))
    return TrainState(params, collections, opt_state, state.mask), value


def batch_loss(
    key: PRNGKey, state: TrainState, batch: PyTree, recipe: Recipe
) -> Callable[[Params], tuple[Float[Array, ""], Collections]]:
    """A minibatch's mean loss, and the model's other variables after it, as a function of the weights."""
    inputs = recipe.task.inputs(jax.random.fold_in(key, 2**31 - 1), batch)

    def loss(params: Params) -> tuple[Float[Array, ""], Collections]:
        outputs, collections = recipe.network.apply(params, state.collections, inputs, key)
        return jnp.mean(_at_least_float32(recipe.task.loss(outputs, batch))), collections

    return loss


def mask_step(
    key: PRNGKey, state: TrainState, target: Mask, batch: PyTree, recipe: Recipe, iteration: Step
) -> tuple[TrainState, Float[Array, ""]]:
    """An iteration that changes the mask, see ``tickets.dynamic``, and no weight that stays.

    The learning-rate schedule goes on by one step, as in any iteration.

    Args:
      key: of the iteration.
      state: its mask is the one now.
      target: the mask that the training was given.
      batch: whose gradient the rule may go by.
      recipe: of a ``dynamic`` mask.
      iteration: counted from 1.

    Returns:
      The next state, and the minibatch's mean loss before it.
    """
    dynamic = recipe.dynamic
    assert dynamic is not None
    loss = batch_loss(key, state, batch, recipe)
    (value, _), gradient = value_and_grad(loss)(state.params)
    share = dynamic.share(iteration, recipe.steps)
    own = jax.random.fold_in(key, 2**31 - 5)
    mask = dynamic.rule(Seen(own, share, dynamic.fraction, state.mask, target, state.params, gradient))
    stays = jax.tree.map(jnp.logical_and, mask, state.mask)
    params = masks.apply(stays, state.params)
    opt_state = fresh_where_new(recipe.optimizer, state.opt_state, stays, params)
    opt_state = rewinding.schedule_forward(opt_state)
    return TrainState(params, state.collections, opt_state, mask), value


def value_and_grad(loss: Callable[[Params], tuple[Array, Any]]) -> Callable[[Params], tuple[Any, Params]]:
    """``jax.value_and_grad``, ``has_aux``; on a CPU what ``kernels.gradients`` makes faster inside a loop."""
    whole = jax.value_and_grad(loss, has_aux=True)
    if jax.default_backend() != "cpu":
        return whole
    return rewriting.rewrite(whole, gradients.fast_in_a_loop, gradients.OPERATIONS)


def update(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    state: TrainState,
    value: Array,
    loss: Callable[[Params], Array],
) -> tuple[Params, optax.OptState]:
    """The optimizer's update; what it asks for beside the gradient (the loss, its function) it gets."""
    extra: dict[str, Any] = {"value": value, "grad": gradient, "value_fn": loss}
    states = str(jax.tree.structure(state.opt_state))
    if "HutchinsonState" in states:  # all others refuse what they do not know
        extra["obj_fn"] = loss
    asked = inspect.signature(optimizer.update).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values()):
        extra = {name: each for name, each in extra.items() if name in asked}
    with jax.numpy_dtype_promotion("standard"):  # Optax multiplies floats by counts, whatever is asked of JAX
        whole: Any = optimizer.update
        return whole(gradient, state.opt_state, state.params, **extra)


def train(
    key: PRNGKey,
    state: TrainState,
    mask: Mask,
    data: PyTree,
    recipe: Recipe,
    observe: Mapping[str, Observer] | None = None,
    *,
    model_key: PRNGKey | None = None,
    first: Step = 0,
    steps: int | None = None,
    stop: Step | None = None,
    observe_start: bool = False,
) -> tuple[TrainState, Curves]:
    """Train, observing as it goes: one ``lax.scan``, nothing on the host.

    A training can be cut: ``first=0, steps=k`` and then ``first=k`` give what the whole gives.

    Args:
      key: the order of the examples.
      state: where to start, see :func:`init_state`.
      mask: what is kept; with a ``dynamic`` mask, what it begins with, or for gradual pruning ends with.
      data: the training examples, on the device: a tree with a leading axis *example*.
      recipe: network, optimizer, task, batch size, iterations.
      observe: functions of the state, by name, see ``Recipe.eval_every``.
      model_key: augmentation and the model's own noise; a stream of ``key`` when not given.
      first: iterations that lie behind ``state``; may be traced where ``steps`` is given.
      steps: iterations to train now; up to ``recipe.steps`` when not given.
      stop: train up to this iteration only, a multiple of ``recipe.eval_every`` that may differ from run to
        run; the curves then stay at their last value.
      observe_start: let the observers look before the first step too; ``batch_loss`` is NaN there.

    Returns:
      The state after the last step, and the curves.
    """
    count = recipe.steps - int(first) if steps is None else steps
    if recipe.dynamic is not None and isinstance(state.mask, dict) and not state.mask:
        state = state._replace(mask=first_mask(recipe, mask))
    every = min(recipe.eval_every or count, count)
    model_key = jax.random.fold_in(key, 2**31 - 1) if model_key is None else model_key
    order = batch_order(key, examples_of(data), recipe.batch_size, count, recipe.order, first)

    def step(state: TrainState, inputs: tuple[Array, Array]) -> tuple[TrainState, Array]:
        index, chosen = inputs
        batch, own = jax.tree.map(lambda leaf: leaf[chosen], data), jax.random.fold_in(model_key, index)
        if recipe.dynamic is None:
            return train_step(own, state, mask, batch, recipe)
        return jax.lax.cond(
            recipe.dynamic.changes(index + 1, recipe.steps),
            lambda state: mask_step(own, state, mask, batch, recipe, index + 1),
            lambda state: train_step(own, state, state.mask, batch, recipe),
            state,
        )

    def look(state: TrainState) -> dict[str, PyTree]:
        return {name: watch(state) for name, watch in (observe or {}).items()}

    def interval(state: TrainState, inputs: tuple[Array, Array]) -> tuple[TrainState, Curves]:
        state, losses = jax.lax.scan(step, state, inputs)
        return state, Curves(jnp.mean(losses), look(state))

    def unless_stopped(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Curves]:
        goes_on = inputs[0][0] < jnp.asarray(stop)
        carry = jax.lax.cond(goes_on, lambda c: interval(c[0], inputs), lambda c: c, carry)
        return carry, carry[1]

    inputs = (first + jnp.arange(count), order)
    whole = count // every * every
    cut = lambda leaf: leaf[:whole].reshape(-1, every, *leaf.shape[1:])  # noqa: E731
    start = Curves(jnp.full((), jnp.nan, jnp.float32), look(state) if observe_start else {})
    body: Any = interval
    carry: Any = state
    if stop is not None:
        unseen = jax.eval_shape(interval, state, jax.tree.map(lambda leaf: leaf[:every], inputs))[1]
        body, carry = unless_stopped, (state, jax.tree.map(_nothing, unseen))
    carry, curves = jax.lax.scan(body, carry, jax.tree.map(cut, inputs))
    parts = [curves]
    if whole < count:
        carry, last = body(carry, jax.tree.map(lambda leaf: leaf[whole:], inputs))
        parts.append(jax.tree.map(lambda leaf: leaf[None], last))
    if observe_start:
        parts.insert(0, jax.tree.map(lambda leaf: leaf[None], start))
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts) if len(parts) > 1 else curves
    return carry if stop is None else carry[0], joined


def _nothing(like: jax.ShapeDtypeStruct) -> Array:
    """What a network that stops before its first observation has to show: NaN, or 0 where there is none."""
    return jnp.full(like.shape, jnp.nan if jnp.issubdtype(like.dtype, jnp.inexact) else 0, like.dtype)


def evaluation(data: PyTree, recipe: Recipe) -> Observer:
    """The observer that evaluates a split: :func:`evaluate` with the recipe's network and task."""
    return lambda state: evaluate(at_evaluation(state), data, recipe.network, recipe.task)


def at_evaluation(state: TrainState) -> TrainState:
    """The state at the parameters where its optimizer wants to be judged, if they are not those it trains.

    ``optax.contrib``'s ``schedule_free`` trains at one point and is evaluated, and ranked, at another.
    """
    is_free = lambda node: type(node).__name__ == "ScheduleFreeState"  # noqa: E731
    free = [node for node in jax.tree.leaves(state.opt_state, is_leaf=is_free) if is_free(node)]
    if not free:
        return state
    with jax.numpy_dtype_promotion("standard"):
        return state._replace(params=optax.contrib.schedule_free_eval_params(free[0], state.params))


def evaluate(state: TrainState, data: PyTree, network: Network, task: Task | None = None) -> Metrics:
    """Mean loss and metrics over a whole split, in inference mode, in batches.

    A network that has diverged (its loss NaN or infinite) has nothing to say: its other metrics are NaN.

    Args:
      state: parameters, masked, and collections.
      data: the examples, a tree with a leading axis *example*.
      network: the model.
      task: what is measured; :func:`tasks.classification` unless given.

    Returns:
      Scalars by name: ``loss``, and the task's metrics.
    """
    task = classification() if task is None else task
    examples = examples_of(data)
    size = min(EVALUATION_BATCH, examples)
    whole = examples // size * size

    def totals(batch: PyTree) -> dict[str, Array]:
        outputs, _ = network.apply(state.params, state.collections, task.inputs(None, batch), None)
        measured = {name: metric(outputs, batch) for name, metric in task.metrics.items()}
        return {name: _total(each) for name, each in {"loss": task.loss(outputs, batch), **measured}.items()}

    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), data)
    parts = [jax.tree.map(jnp.sum, jax.lax.map(totals, batches))]
    if whole < examples:
        parts.append(totals(jax.tree.map(lambda leaf: leaf[whole:], data)))
    sums = jax.tree.map(lambda *each: sum(each), *parts)
    means = {name: total.astype(jnp.float32) / examples for name, total in sums.items()}
    known = jnp.isfinite(means["loss"])
    return {name: mean if name == "loss" else jnp.where(known, mean, jnp.nan) for name, mean in means.items()}


def _total(each: Array) -> Array:
    """The sum over examples: whole numbers as such, all others in float32."""
    if jnp.issubdtype(each.dtype, jnp.integer) or each.dtype == jnp.bool_:
        return jnp.sum(each, dtype=jnp.int32)
    return jnp.sum(_at_least_float32(each))


def _at_least_float32(values: Array) -> Array:
    """Half precision as float32, in which a sum of many is finite; all else as it is."""
    return values if values.dtype.itemsize >= 4 else values.astype(jnp.float32)
