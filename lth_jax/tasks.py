"""Tasks: what is learned from a batch, as pure functions.

A batch is a tree of arrays with a leading axis *example* on every leaf. Which of them the model is given, how
its outputs are judged, and what is reported of them beside the loss is the task's business alone. The ready
tasks take a pair, inputs and targets (``types.Split`` is one); a task of your own takes any tree:

>>> distance = lambda outputs, batch: jnp.abs(outputs[:, 0] - batch["height"])
>>> task = Task(lambda key, batch: batch["age"][:, None], distance, {"off by": distance})
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, UInt8

from lth_jax.types import PRNGKey

PerExample = Array
"""A number for each example: ``[example]``."""

RAW = 20.0
"""Float images that go beyond this are taken for pixels that nobody has scaled."""


class Task(NamedTuple):
    """What is learned from a batch.

    ``inputs(key, batch)`` is what the model is given; ``key`` is a PRNG key while training (for augmentation)
    and ``None`` in evaluation. ``loss(outputs, batch)`` gives ``[example]``, whose mean is minimized.
    ``metrics`` are functions like it, by name: their means are what results call ``test_<name>``.
    ``check(name, data, outputs)`` raises ``ValueError`` for examples that the task cannot be learned from; it
    is called before anything is compiled, first with ``None`` for outputs, then with those of one example, as
    ``jax.ShapeDtypeStruct``.
    """

    inputs: Callable[[PRNGKey | None, PyTree], Any]
    loss: Callable[[Any, PyTree], PerExample]
    metrics: Mapping[str, Callable[[Any, PyTree], PerExample]]
    check: Callable[[str, PyTree, Any], None] = lambda name, data, outputs: None


def to_float(images: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """Pixels 0 … 255 to [0, 1], in float32."""
    return jnp.asarray(images, jnp.float32) * jnp.float32(1 / 255)


def pair_inputs(key: PRNGKey | None, batch: PyTree) -> Any:
    """The first of a pair: uint8 images as floats in [0, 1], all else as it is."""
    inputs, _ = batch
    images = getattr(inputs, "dtype", None) == jnp.uint8 and inputs.ndim == 4
    return to_float(inputs) if images else inputs


def classification(label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> Task:
    """One class each: cross-entropy in nats, and ``accuracy``, the fraction that is right.

    A batch is a pair: inputs (uint8 images, which the model is given as floats in [0, 1]; floats; tokens …)
    and integer labels ``[example]``. The model gives a logit a class. Labels may have further axes (a label
    for each token), and then so have the logits; a label of −1 is padding: it counts nowhere.

    Args:
      label_smoothing: in [0, 1): this share of every target is spread over all classes.
      class_weights: a factor for the loss of each class.

    Raises:
      ValueError: a label smoothing outside [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing {label_smoothing}: expected a number in [0, 1)")
    weights = None if class_weights is None else np.asarray(class_weights, np.float32)

    def loss(logits: Array, batch: PyTree) -> PerExample:
        _, labels = batch
        flat = labels.ndim == 1  # without padding
        known, safe = labels >= 0, labels if flat else jnp.maximum(labels, 0)
        if label_smoothing:
            targets = optax.smooth_labels(jax.nn.one_hot(safe, logits.shape[-1]), label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
        if weights is not None:
            losses = losses * jnp.asarray(weights)[safe]
        return losses if flat else _mean_of_known(losses, known)

    def accuracy(logits: Array, batch: PyTree) -> PerExample:
        _, labels = batch
        right = jnp.argmax(logits, -1) == labels
        return right if labels.ndim == 1 else _mean_of_known(right.astype(jnp.float32), labels >= 0)

    def check(name: str, data: PyTree, outputs: Any) -> None:
        check_classification(name, data, outputs, None if weights is None else len(weights))

    return Task(pair_inputs, loss, {"accuracy": accuracy}, check)


def regression() -> Task:
    """Numbers: mean squared error over an example's targets, and ``absolute_error``, the mean distance.

    A batch is a pair: inputs, and float targets of the shape of the model's outputs. Targets ``[example]`` go
    with outputs ``[example, 1]`` too.
    """

    def apart(outputs: Array, batch: PyTree) -> Array:
        _, targets = batch
        return (outputs.reshape(targets.shape) - targets).reshape(len(targets), -1)

    return Task(
        pair_inputs,
        loss=lambda outputs, batch: jnp.mean(jnp.square(apart(outputs, batch)), axis=-1),
        metrics={"absolute_error": lambda outputs, batch: jnp.mean(jnp.abs(apart(outputs, batch)), axis=-1)},
        check=check_regression,
    )


def multilabel() -> Task:
    """Any number of classes each: binary cross-entropy in nats, mean over classes, and two metrics.

    ``accuracy`` is the fraction of an example's labels that is right, ``exact_match`` whether all are. A
    batch is a pair: inputs, and targets ``[example, class]`` of 0 and 1, ints or floats.
    """

    def right(logits: Array, batch: PyTree) -> Array:
        _, targets = batch
        return (logits > 0) == (targets > 0)

    def loss(logits: Array, batch: PyTree) -> PerExample:
        _, targets = batch
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype)), axis=-1)

    metrics = {
        "accuracy": lambda logits, batch: jnp.mean(right(logits, batch), axis=-1),
        "exact_match": lambda logits, batch: jnp.all(right(logits, batch), axis=-1),
    }
    return Task(pair_inputs, loss, metrics, check_multilabel)


def _mean_of_known(values: Array, known: Array) -> PerExample:
    """An example's mean over what is no padding; 0 where all of it is."""
    axes = tuple(range(1, values.ndim))
    count = jnp.maximum(jnp.sum(known, axis=axes), 1).astype(values.dtype)
    return jnp.sum(jnp.where(known, values, 0), axis=axes) / count


def _pair(name: str, data: PyTree) -> tuple[Any, Any]:
    """Inputs and targets.

    Raises:
      ValueError: it is no pair, or the targets are no array.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(f"{name} examples are a {type(data).__name__}, expected a pair: inputs and targets")
    if not hasattr(data[1], "shape"):
        raise ValueError(f"{name} targets are a {type(data[1]).__name__}, expected one array")
    return data[0], data[1]


def _check_inputs(name: str, inputs: Any) -> None:
    """Refuse images that no scaling has touched, and floats that are not finite."""
    for leaf in jax.tree.leaves(inputs):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            continue
        if not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"{name} inputs are {described(leaf)} with NaN or infinite entries")
        if jnp.ndim(leaf) == 4 and float(jnp.abs(leaf).max()) > RAW:
            most = float(jnp.abs(leaf).max())
            raise ValueError(f"{name} images are {described(leaf)} up to {most:g}: scale them, or give uint8")


def check_classification(name: str, data: PyTree, outputs: Any, weights: int | None = None) -> None:
    """Refuse what is no inputs with the label of a logit each.

    Raises:
      ValueError: labels of another dtype or shape, a network that gives something else than logits, labels
        that it has no logit for, images that nobody has scaled.
    """
    inputs, labels = _pair(name, data)
    if outputs is None:
        if jnp.ndim(labels) < 1 or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
            raise ValueError(f"{name} labels are {described(labels)}, expected integers[examples]")
        images = getattr(inputs, "dtype", None) == jnp.uint8
        if images and (jnp.ndim(inputs) != 4 or 0 in jnp.shape(inputs)):
            wanted = "uint8[examples, height, width, channels]"
            raise ValueError(f"{name} images are {described(inputs)}, expected {wanted}")
        _check_inputs(name, inputs)
        return
    check_logits(outputs, 1, axes=jnp.ndim(labels))
    low, high, classes = int(jnp.min(labels)), int(jnp.max(labels)), outputs.shape[-1]
    least = 0 if jnp.ndim(labels) == 1 else -1
    if low < least or high >= classes:
        hint = "; labels that start at 1 want one taken off" if low == 1 and high == classes else ""
        raise ValueError(
            f"{name} labels are {low} … {high}, the network has logits for 0 … {classes - 1}{hint}"
        )
    if weights is not None and weights != classes:
        raise ValueError(f"{weights} class weights, but the network has logits for {classes} classes")


def check_regression(name: str, data: PyTree, outputs: Any) -> None:
    """Refuse targets that are no finite floats, or not of the outputs' shape.

    Raises:
      ValueError: the message has both shapes.
    """
    inputs, targets = _pair(name, data)
    if outputs is None:
        if not jnp.issubdtype(jnp.result_type(targets), jnp.floating):
            raise ValueError(f"{name} targets are {described(targets)}, expected floats")
        _check_inputs(name, inputs)
        _check_inputs(f"{name} targets'", jnp.ravel(targets))
        return
    found, wanted = getattr(outputs, "shape", None), (1, *jnp.shape(targets)[1:])
    if found != wanted and not (found == (1, 1) and wanted == (1,)):
        raise ValueError(f"the network gives {described(outputs)} for an example, its targets are {wanted}")


def check_multilabel(name: str, data: PyTree, outputs: Any) -> None:
    """Refuse targets that are not 0 and 1, or not one for each logit.

    Raises:
      ValueError: the message says what came.
    """
    inputs, targets = _pair(name, data)
    if outputs is None:
        known = jnp.ndim(targets) == 2 and bool(((targets == 0) | (targets == 1)).all())
        if not known:
            raise ValueError(f"{name} targets are {described(targets)}, expected 0 or 1 [examples, classes]")
        _check_inputs(name, inputs)
        return
    check_logits(outputs, 1)
    if outputs.shape[-1] != targets.shape[-1]:
        raise ValueError(f"{name}: {targets.shape[-1]} labels, but the network gives {described(outputs)}")


def check_logits(answer: Any, examples: int, classes: int = 1, axes: int = 1) -> None:
    """Refuse what is no logits ``[examples, classes or more]``.

    Args:
      answer: what a network gives, or its ``jax.ShapeDtypeStruct``.
      examples: it was given so many.
      classes: it has to tell so many apart.
      axes: of the labels, examples included: one for each token is two.

    Raises:
      ValueError: a tuple, a dictionary, another shape or dtype, or too few logits.
    """
    shape = getattr(answer, "shape", None)
    if shape is None:
        raise ValueError(f"the network gives a {type(answer).__name__}, expected logits [examples, classes]")
    if len(shape) != axes + 1 or shape[0] != examples or shape[-1] < classes:
        between = ", tokens" * (axes - 1)
        wanted = f"[{examples}{between}, {classes} or more]"
        raise ValueError(f"the network gives {described(answer)}, expected logits {wanted}")
    if not jnp.issubdtype(answer.dtype, jnp.floating):
        raise ValueError(f"the network gives {described(answer)}, expected logits that are floats")


def described(leaf: Any) -> str:
    """``float32[88,300]``."""
    try:
        return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"
    except TypeError:
        return f"a {type(leaf).__name__}"
