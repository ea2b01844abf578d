"""Sparse training: masks that change while their network is trained.

Every ``every`` iterations, until a share ``until`` of the training is over, an iteration changes the mask
instead of the weights. SET (Mocanu et al. 2018, arXiv:1707.04780) and RigL (Evci et al. 2020,
arXiv:1911.11134) drop the smallest weights of each layer and grow as many others, at random or where the
loss's gradient is largest. Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878) begins dense and
drops the smallest until each layer has as many as its mask.

What the papers leave open, and what is done here: the same schedule serves all three, though SET changes its
masks once an epoch. A weight that has been dropped can grow again at once; like all that grow it starts at 0,
with the moments of a fresh optimizer. No more is dropped than a layer has places free, so a dense one is left
alone. An iteration that changes a mask makes no step of the optimizer, as RigL's Algorithm 1 says; its
minibatch gives the gradient that RigL grows by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from lth_jax.errors import require, whole_number
from lth_jax.keys import uniform_like
from lth_jax.tickets import masks
from lth_jax.tickets.masks import owner, path_names
from lth_jax.tickets.pruning import remove_lowest
from lth_jax.types import Mask, Params, PRNGKey, Step, Whole


class Seen(NamedTuple):
    """What a change of the mask goes by.

    ``share`` in (0, 1] is how much of the time in which masks change is over, ``fraction`` how much of a
    layer is replaced at its beginning; ``target`` is the mask that the training was given.
    """

    key: PRNGKey
    share: Float[Array, ""]
    fraction: float
    mask: Mask
    target: Mask
    params: Params
    gradient: Params  # of the minibatch, by every weight, pruned ones too


Rule = Callable[[Seen], Mask]


@dataclass(frozen=True)
class Dynamic:
    """How a mask changes while its network is trained.

    Attributes:
      rule: one of ``RULES``, or your own.
      every: iterations between two changes (ΔT).
      fraction: of each layer's weights replaced at first, less and less by a cosine (α); ``gradual`` takes
        none.
      until: the share of the training, in (0, 1], after which the mask stays.
    """

    rule: Rule
    every: Whole = 100
    fraction: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", whole_number("dynamic every", self.every, 1))
        require(0 < self.fraction <= 1, f"dynamic fraction {self.fraction:g}: expected one in (0, 1]")
        require(0 < self.until <= 1, f"dynamic until {self.until:g}: expected a share in (0, 1]")

    def last(self, steps: int) -> int:
        """The iteration, of so many, that changes a mask last; 0 where none does."""
        return int(self.until * steps + 1e-9) // self.every * self.every

    def changes(self, iteration: Step, steps: int) -> Bool[Array, ""]:
        """Whether an iteration, counted from 1, changes the mask."""
        iteration = jnp.asarray(iteration)
        return (iteration % self.every == 0) & (iteration <= self.last(steps))

    def share(self, iteration: Step, steps: int) -> Float[Array, ""]:
        """How much of the time in which masks change is over at an iteration."""
        return jnp.asarray(iteration, jnp.float32) / max(self.last(steps), 1)

    @property
    def begins_dense(self) -> bool:
        """Whether a training begins with all weights, whatever the mask that it is given."""
        return self.rule is gradual

    def first(self, mask: Mask) -> Mask:
        """The mask that a training begins with: the one that it is given, or all weights."""
        return masks.ones_like(mask) if self.begins_dense else mask


def replaced(share: Float[Array, ""], fraction: float, kept: Bool[Array, "*shape"]) -> Int[Array, ""]:
    """How many weights of a layer are replaced: a fraction, falling to 0 by a cosine, rounded."""
    count = jnp.sum(kept, dtype=jnp.int32)
    wanted = jnp.round(fraction / 2 * (1 + jnp.cos(jnp.pi * share)) * count.astype(jnp.float32))
    return jnp.minimum(wanted.astype(jnp.int32), kept.size - count)


def replace(seen: Seen, growth: Params) -> Mask:
    """The mask without its smallest weights, and with as many others, those of the highest ``growth``."""

    def of_leaf(kept: Array, weights: Array, ranking: Array) -> Array:
        count = replaced(seen.share, seen.fraction, kept)
        left = remove_lowest(kept, jnp.abs(weights), count)
        free = jnp.sum(~left, dtype=jnp.int32)
        return left | remove_lowest(~left, ranking, free - count)

    return jax.tree.map(of_leaf, seen.mask, seen.params, growth)


def at_random(seen: Seen) -> Mask:
    """SET: weights grow at random."""
    return replace(seen, uniform_like(seen.key, seen.params))


def by_gradient(seen: Seen) -> Mask:
    """RigL: weights grow where the gradient of the loss is largest."""
    return replace(seen, jax.tree.map(jnp.abs, seen.gradient))


def gradual(seen: Seen) -> Mask:
    """Gradual magnitude pruning: of the n₀ − n weights of a layer that have to go, (1 − share)³ are left."""

    def of_leaf(kept: Array, weights: Array, target: Array) -> Array:
        final = jnp.sum(target, dtype=jnp.int32)
        more = (kept.size - final).astype(jnp.float32) * (1 - seen.share) ** 3
        now = jnp.sum(kept, dtype=jnp.int32)
        count = jnp.minimum(final + jnp.round(more).astype(jnp.int32), now)
        return remove_lowest(kept, jnp.abs(weights), now - count)

    return jax.tree.map(of_leaf, seen.mask, seen.params, seen.target)


def fresh_where_new(
    optimizer: optax.GradientTransformation, opt_state: optax.OptState, stays: Mask, params: Params
) -> optax.OptState:
    """An optimizer's state in which all but the weights that stay have what a fresh one has for them.

    What belongs to a weight is found by its path and shape (moments; histories, with an axis before). What
    belongs to whole rows or columns of a kernel, as in Adafactor, stays.
    """
    leaves = jax.tree.leaves_with_path(stays)
    paths = [path_names(path) for path, _ in leaves]

    def of_leaf(path: tuple, old: Any, new: Any) -> Any:
        place, shape = owner(path_names(path), paths), jnp.shape(old)
        if place is None:
            return old
        kept = leaves[place][1]
        return jnp.where(kept, old, new) if shape[len(shape) - kept.ndim :] == kept.shape else old

    return jax.tree.map_with_path(of_leaf, opt_state, optimizer.init(params))


RULES: dict[str, Rule] = {"set": at_random, "rigl": by_gradient, "gradual": gradual}
"""The ways to change a mask while its network is trained, by name."""
