"""Learning rates in steps, and weight decay: what Optax leaves to whoever composes it.

>>> rate = piecewise(0.1, [32_000, 48_000], warmup=500)
>>> optimizer = with_decay(lambda rate: optax.sgd(rate, 0.9), rate, 1e-4, only=is_kernel_by_name)

Places in a schedule are iterations from the start of a training. A ticket that is rewound to iteration k goes
on in the schedule at k, see ``rewinding.schedule_at``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lth_jax.errors import InputError, require
from lth_jax.tickets.masks import Predicate, everything, path_names

Rate = float | optax.Schedule

LONGEST = 10
"""Digits of a boundary, at most."""


def piecewise(peak: float, boundaries: Sequence[int], factor: float = 0.1, warmup: int = 0) -> optax.Schedule:
    """A learning rate that is multiplied by a factor at some iterations, after a linear warmup.

    Args:
      peak: the rate before the first boundary.
      boundaries: iterations, counted from 0, that are the first with the rate multiplied once more.
      factor: of each.
      warmup: iterations over which the rate rises from 0; the boundaries count from the same start.

    Raises:
      InputError: the boundaries do not rise, or begin before 1.
    """
    places = list(boundaries)
    rising = all(one < other for one, other in zip([0, *places], places, strict=False))
    require(rising, f"boundaries {','.join(map(str, places))}: expected rising iterations from 1")
    steps = optax.piecewise_constant_schedule(peak, dict.fromkeys(places, factor))
    if not warmup:
        return steps
    return lambda count: steps(count) * jnp.minimum(1.0, jnp.asarray(count, jnp.float32) / warmup)


def iteration(text: str, per_epoch: int) -> int:
    """An iteration as it is written: ``32000``, or ``80e`` for the first one after 80 epochs.

    Args:
      text: digits, with an ``e`` behind them for epochs.
      per_epoch: iterations of one.

    Raises:
      InputError: it is neither.
    """
    digits = text.removesuffix("e")
    known = digits.isascii() and digits.isdecimal() and len(digits) <= LONGEST
    require(known and int(digits) > 0, f"{text[:40]}: expected an iteration as 32000, or epochs as 80e")
    return int(digits) * (per_epoch if text.endswith("e") else 1)


def is_kernel_by_name(path: tuple[str, ...], leaf: Any) -> bool:
    """What is called ``kernel``, of whatever shape: a level may hold it as the vector of its kept weights."""
    return path[-1] == "kernel"


DECAYED: dict[str, Predicate] = {"all": everything, "kernels": is_kernel_by_name}
"""Which parameters decay, by name: all of them, or neither biases nor what norms have."""


def leaves(predicate: Predicate) -> Callable[[Any], Any]:
    """Parameters to a tree of bools, as Optax takes it for a mask."""
    return lambda params: jax.tree.map_with_path(
        lambda path, leaf: bool(predicate(path_names(path), leaf)), params
    )


def with_decay(
    make: Callable[[Rate], optax.GradientTransformation],
    rate: Rate,
    decay: float,
    *,
    decoupled: bool = False,
    only: Predicate = everything,
) -> optax.GradientTransformation:
    """An optimizer with weight decay.

    Args:
      make: from a learning rate to an optimizer whose update is the rate times its direction.
      rate: a number or a schedule.
      decay: ``decay`` · w joins the gradient (L2), and so the optimizer's moments; with ``decoupled``, rate ·
        ``decay`` · w is taken from the weights beside the update (Loshchilov & Hutter 2019).
      decoupled: which of both.
      only: which parameters decay, by path and leaf.

    Raises:
      InputError: the decay is negative.
    """
    if not decay >= 0:
        raise InputError(f"decay {decay}: expected a number of at least 0")
    if decay == 0:
        return make(rate)
    mask = None if only is everything else leaves(only)
    if not decoupled:
        return optax.chain(optax.add_decayed_weights(decay, mask), make(rate))
    return optax.chain(
        make(1.0),  # its direction, downhill
        optax.add_decayed_weights(-decay, mask),
        optax.scale_by_learning_rate(rate, flip_sign=False),
    )
