"""Pruning whole units: scores of a hidden layer's units, and masks without some of them.

A unit is a column of its layer's kernel, an entry of its bias and a row of the next layer's kernel: all three
go together, so what remains is exactly a narrower network. Scores: document 002, §2 (Frankle & Carbin 2018,
arXiv:1803.03635v1).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lth_jax.tickets.pruning import remove_lowest
from lth_jax.types import Mask, Params

Incoming = Float[Array, "inputs units"]
Outgoing = Float[Array, "units outputs"]
UnitScores = Float[Array, " units"]
Alive = Bool[Array, " units"]
UnitCriterion = Callable[[Incoming, Outgoing], UnitScores]
"""The weights into and out of a layer's units to a score for each; the lowest are removed."""


def input_magnitude(incoming: Incoming, outgoing: Outgoing) -> UnitScores:
    """Mean magnitude of a unit's input weights."""
    return jnp.mean(jnp.abs(incoming), axis=0)


def output_magnitude(incoming: Incoming, outgoing: Outgoing) -> UnitScores:
    """Mean magnitude of a unit's output weights; with one output, its magnitude."""
    return jnp.mean(jnp.abs(outgoing), axis=1)


def magnitude_product(incoming: Incoming, outgoing: Outgoing) -> UnitScores:
    """Mean magnitude of a unit's output weights times the sum of its input weights' magnitudes."""
    return output_magnitude(incoming, outgoing) * jnp.sum(jnp.abs(incoming), axis=0)


CRITERIA: dict[str, UnitCriterion] = {
    "product": magnitude_product,
    "input": input_magnitude,
    "output": output_magnitude,
}
"""The document's three scores."""


def scores(params: Params, layer: str, following: str, criterion: UnitCriterion) -> UnitScores:
    """A criterion over the units of one dense layer.

    Args:
      params: a tree ``{name: {"kernel", "bias"}}``.
      layer: the layer whose units are scored.
      following: the dense layer that reads them.
      criterion: one of ``CRITERIA``, or your own.

    Raises:
      ValueError: the layers do not exist, or the second does not read the first.
    """
    _check(params, layer, following)
    return criterion(params[layer]["kernel"], params[following]["kernel"])


def remove_units(alive: Alive, score: UnitScores, count: int | Int[Array, ""]) -> Alive:
    """The living units without the ``count`` lowest scored among them; of equals the earlier goes first.

    Args:
      alive: which units remain now.
      score: what to rank them by; the scores of removed units do not matter.
      count: how many to remove, at most the number alive.
    """
    return remove_lowest(alive, score, jnp.asarray(count, jnp.int32))


def restrict(mask: Mask, layer: str, following: str, alive: Alive) -> Mask:
    """The mask without a layer's removed units: their input weights, their biases and their output weights.

    Args:
      mask: a tree ``{name: {"kernel", "bias"}}`` of bools.
      layer: the layer that loses units.
      following: the dense layer that reads them.
      alive: which units remain.

    Raises:
      ValueError: the layers do not exist, or the second does not read the first.
    """
    _check(mask, layer, following)
    own, after = dict(mask[layer]), dict(mask[following])
    own["kernel"] = own["kernel"] & alive[None, :]
    if "bias" in own:
        own["bias"] = own["bias"] & alive
    after["kernel"] = after["kernel"] & alive[:, None]
    return {**mask, layer: own, following: after}


def _check(tree: Any, layer: str, following: str) -> None:
    names = ", ".join(sorted(tree))
    for name in (layer, following):
        if name not in tree or "kernel" not in tree[name]:
            raise ValueError(f"no layer {name!r} with a kernel; the model has {names}")
    own, after = tree[layer]["kernel"].shape, tree[following]["kernel"].shape
    if len(own) != 2 or len(after) != 2 or own[1] != after[0]:
        raise ValueError(f"{following!r} {after} does not read {layer!r} {own}; name two dense layers")
