"""Where a pruned network starts again: the weights' half of a ticket.

Every function gives a parameter tree for a mask. What is not pruned anywhere in a leaf's layer (biases) is
returned as it came, unless it says otherwise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from lth_jax.types import Mask, Params, PRNGKey

Rewind = Callable[[Params, Params], Params]
"""``(start, trained)`` to the weights that the next level starts from."""


def to_start(start: Params, trained: Params) -> Params:
    """Back to the weights where training starts, θ0 or θ_k: the winning ticket's (Frankle & Carbin 2019)."""
    return start


def no_reset(start: Params, trained: Params) -> Params:
    """Keep training the survivors from where they are (Han et al. 2015)."""
    return trained


SCHEDULES = (
    "ScaleByScheduleState",
    "WrappedScheduleState",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
)
"""States of Optax whose ``count`` is a place in a learning-rate schedule, not one of moments' updates."""


def schedule_at(opt_state: optax.OptState, step: int | Int[Array, ""]) -> optax.OptState:
    """An optimizer's state with its learning-rate schedules at a step, its moments as they are."""
    return _with_schedules(opt_state, lambda count: jnp.full_like(count, step))


def schedule_forward(opt_state: optax.OptState) -> optax.OptState:
    """An optimizer's state with its learning-rate schedules a step farther on, its moments as they are."""
    return _with_schedules(opt_state, lambda count: count + 1)


def _with_schedules(opt_state: optax.OptState, move: Callable[[Array], Array]) -> optax.OptState:
    is_schedule = lambda node: type(node).__name__ in SCHEDULES  # noqa: E731

    def place(node: Any) -> Any:
        if not is_schedule(node):
            return node
        fields = node._asdict()
        inner = {name: _with_schedules(value, move) for name, value in fields.items() if name != "count"}
        return node._replace(count=move(node.count), **inner)

    return jax.tree.map(place, opt_state, is_leaf=is_schedule)


def shuffle(key: PRNGKey, mask: Mask, params: Params, of: PyTree[bool]) -> Params:
    """Permute each prunable leaf's kept weights among themselves: same mask, same multiset of weights.

    Args:
      key: PRNG key.
      mask: what is kept.
      params: the ticket's weights.
      of: which leaves to shuffle, from ``masks.prunable``.
    """
    return _per_leaf(lambda k, m, leaf: _among_kept(k, m, leaf), key, mask, params, of)


def rearrange(key: PRNGKey, mask: Mask, params: Params, of: PyTree[bool]) -> tuple[Params, Mask]:
    """Move each prunable leaf's weights to random places of that leaf, and its mask with them.

    The ticket's structure is lost, its initial weights are not: control 2 of document 002, which moves the
    location of a ticket's weights. :func:`shuffle` keeps the structure.

    Args:
      key: PRNG key.
      mask: what is kept.
      params: the ticket's weights.
      of: which leaves, from ``masks.prunable``.

    Returns:
      The weights and the mask after the move: the same multisets, leaf by leaf.
    """
    move = lambda k, _, leaf: jax.random.permutation(k, leaf.ravel()).reshape(leaf.shape)  # noqa: E731
    # One key serves both, so each weight and its mask go the same way.
    return _per_leaf(move, key, mask, params, of), _per_leaf(move, key, mask, mask, of)


def resample(
    key: PRNGKey, mask: Mask, source_mask: Mask, source: Params, of: PyTree[bool], pooled: bool = False
) -> Params:
    """Draw every weight uniformly, with replacement, from the kept weights of a ticket (D_n, document 001).

    Args:
      key: PRNG key.
      mask: of the network to fill; other entries become 0.
      source_mask: of the ticket that is drawn from.
      source: the ticket's weights.
      of: which leaves to fill; the others are returned as in ``source``.
      pooled: draw from the kept weights of all these leaves together instead of each leaf's own.
    """
    if pooled:
        chosen = [
            (m.ravel(), leaf.ravel())
            for m, leaf, yes in zip(*map(jax.tree.leaves, (source_mask, source, of)), strict=True)
            if yes
        ]
        pool_mask, pool = (jnp.concatenate(column) for column in zip(*chosen, strict=True))
        fill = lambda k, m, leaf: _draw_kept(k, pool_mask, pool, m)  # noqa: E731
        return _per_leaf(fill, key, mask, source, of)
    pairs = jax.tree.map(lambda m, leaf: (m, leaf), source_mask, source)
    leaves = jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple))
    drawn = []
    for position, ((from_mask, leaf), m, yes) in enumerate(
        zip(leaves, jax.tree.leaves(mask), jax.tree.leaves(of), strict=True)
    ):
        own_key = jax.random.fold_in(key, position)
        drawn.append(_draw_kept(own_key, from_mask.ravel(), leaf.ravel(), m) if yes else leaf)
    return jax.tree.unflatten(jax.tree.structure(source), drawn)


def signed_constant(params: Params, spread: PyTree[float], of: PyTree[bool]) -> Params:
    """Every prunable weight ← ± its layer's ``spread``, its sign kept (Zhou et al. 2019)."""
    return jax.tree.map(lambda w, s, yes: jnp.sign(w) * s if yes else w, params, spread, of)


def frozen(mask: Mask, params: Params, pruned: Params) -> Params:
    """Kept weights from ``params``, pruned ones from ``pruned``, not 0 (Zhou et al. 2019, §4).

    Train them from a ``training.TrainState`` made of them, not from ``training.init_state``, which sets
    pruned weights to 0: a step moves what the mask keeps and leaves the others where they are.

    Args:
      mask: what is kept.
      params: where kept weights start.
      pruned: where pruned weights stay, θ0 for 'frozen at their initial values'.
    """
    return jax.tree.map(jnp.where, mask, params, pruned)


def _per_leaf(function, key: PRNGKey, mask: Mask, params: PyTree, of: PyTree[bool]) -> PyTree:
    """``function(key, mask, leaf)`` on every chosen leaf, each with its own key by position."""
    leaves, structure = jax.tree.flatten(params)
    chosen = zip(leaves, jax.tree.leaves(mask), jax.tree.leaves(of), strict=True)
    return jax.tree.unflatten(
        structure,
        [
            function(jax.random.fold_in(key, position), m, leaf) if yes else leaf
            for position, (leaf, m, yes) in enumerate(chosen)
        ],
    )


def _among_kept(key: PRNGKey, mask: Array, leaf: Float[Array, "..."]) -> Float[Array, "..."]:
    """The leaf with its kept entries in random order; pruned entries become 0."""
    kept, flat = mask.ravel(), leaf.ravel()
    # Kept positions first, in order; then the kept values first, in random order.
    positions = jnp.argsort(~kept, stable=True)
    draw = jax.random.uniform(key, flat.shape)
    values = jnp.argsort(jnp.where(kept, draw, 2.0))
    shuffled = jnp.zeros_like(flat).at[positions].set(flat[values])
    return jnp.where(mask, shuffled.reshape(leaf.shape), 0)


def _draw_kept(key: PRNGKey, pool_mask: Array, pool: Array, mask: Array) -> Float[Array, "..."]:
    """Fill the kept entries of ``mask`` from the kept entries of ``pool``; 0 elsewhere."""
    seen = jnp.cumsum(pool_mask, dtype=jnp.int32)
    index = jax.random.randint(key, mask.shape, 0, seen[-1])
    # Of the kept entries, in their order, the one with that number: found without a sort.
    return jnp.where(mask, pool[jnp.searchsorted(seen, index + 1)], 0)
