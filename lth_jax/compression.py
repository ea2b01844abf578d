"""Levels trained at the price of what they keep: which kernels are held compressed, and what that changes.

A mask alone saves nothing: a masked product costs what the dense one does. On a CPU a level can hold a kernel
as the vector of its kept values (``kernels.sparse``), whose number is known before the level is trained. The
optimizer then sees that vector only. Everything else stays: the loop, the task, the masks; results are equal
but for the order of sums.

Which kernels are held so is decided by ``runs.speed``. Optimizers that do not treat each weight alone would
compute something else; :func:`separable` finds them out, and they train dense.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lth_jax.kernels import sparse
from lth_jax.tickets import masks
from lth_jax.tickets.masks import owner, path_names
from lth_jax.training import Recipe, TrainState, update
from lth_jax.types import Mask, Shapes

Entries = tuple[int | None, ...]
"""For each leaf of the parameters: room for so many kept weights, or ``None`` where it stays dense."""


class Held(NamedTuple):
    """A training's start with some kernels compressed, and what makes a later state dense again."""

    state: TrainState
    mask: Mask
    recipe: Recipe
    dense: Callable[[TrainState], TrainState]


def compressed(state: TrainState, mask: Mask, recipe: Recipe, entries: Entries) -> Held:
    """A training's start with some kernels compressed.

    Args:
      state: before the first step, its parameters masked.
      mask: what is kept.
      recipe: how it is trained; its optimizer is :func:`separable`.
      entries: which kernels, and the room of each.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)
    flat_mask, tree = jax.tree.flatten(mask)
    where = [
        None if room is None else sparse.structure(leaf, room)
        for leaf, room in zip(flat_mask, entries, strict=True)
    ]
    numbers = jax.tree.unflatten(tree, range(len(where)))
    dense = jax.tree.leaves(shapes)

    def pack(leaf: Any, number: int) -> Any:
        own = where[number]
        return leaf if own is None else sparse.compress(leaf, own)

    def unpack(leaf: Any, number: int) -> Any:
        own = where[number]
        return leaf if own is None else sparse.expand(leaf, own, dense[number].shape)

    def each(change: Callable[[Any, int], Any], state: TrainState) -> TrainState:
        opt_state = _of_parameters(recipe.optimizer, change, state.opt_state, shapes)
        return TrainState(jax.tree.map(change, state.params, numbers), state.collections, opt_state)

    kept = [
        leaf if own is None else jnp.arange(own.place.size) < own.start[-1]
        for leaf, own in zip(flat_mask, where, strict=True)
    ]
    apply = sparse.with_compressed(recipe.network.apply, shapes, where)
    held = dataclasses.replace(recipe, network=recipe.network._replace(apply=apply))
    return Held(each(pack, state), jax.tree.unflatten(tree, kept), held, lambda state: each(unpack, state))


def _of_parameters(
    optimizer: optax.GradientTransformation,
    change: Callable[[Any, int], Any],
    opt_state: optax.OptState,
    shapes: Shapes,
) -> optax.OptState:
    """An optimizer's state with what belongs to a parameter (moments …) changed, given its number.

    Raises:
      ValueError: something belongs to a parameter, and its path does not say to which.
    """
    paths = [path_names(path) for path, _ in jax.tree.leaves_with_path(shapes)]
    marks = optax.tree_utils.tree_map_params(
        optimizer, lambda _: True, opt_state, transform_non_params=lambda _: False
    )
    leaves, tree = jax.tree.flatten_with_path(opt_state)
    changed = []
    for (path, leaf), own in zip(leaves, jax.tree.leaves(marks), strict=True):
        names = path_names(path)
        number = owner(names, paths) if own else None
        if own and number is None:
            raise ValueError(f"{'/'.join(names)} of the optimizer's state belongs to no parameter")
        changed.append(leaf if number is None else change(leaf, number))
    return jax.tree.unflatten(tree, changed)


def separable(optimizer: optax.GradientTransformation, shapes: Shapes, held: Sequence[bool]) -> bool:
    """Whether an optimizer makes of kept weights alone what it makes of them among pruned ones.

    Found out by three steps on a quadratic loss, both ways, not by the optimizer's name. Those that look at a
    kernel as a matrix (Muon, Adafactor …), draw noise for it or count its zeros do not.

    Args:
      optimizer: of Optax.
      shapes: of the parameters.
      held: which leaves would be compressed.
    """
    rng, (leaves, tree) = np.random.default_rng(0), jax.tree.flatten(shapes)
    draw = lambda: [jnp.asarray(10 * rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]  # noqa: E731
    start, target = draw(), draw()
    kept = [
        jnp.asarray(rng.random(leaf.shape) < (0.3 if yes else 1))
        for leaf, yes in zip(leaves, held, strict=True)
    ]
    where = [
        sparse.structure(mask, int(mask.sum())) if yes else None for mask, yes in zip(kept, held, strict=True)
    ]

    def pack(leaves: Sequence[Any]) -> list[Any]:
        return [
            leaf if own is None else sparse.compress(leaf, own)
            for leaf, own in zip(leaves, where, strict=True)
        ]

    def loss(params: Any, target: Any) -> Any:
        far = jax.tree.map(lambda each, goal: jnp.sum((each - goal) ** 2) / 2, params, target)
        return jnp.sum(jnp.stack(jax.tree.leaves(far)))

    def moved(*lists: Sequence[Any]) -> Any:
        start, target, mask = (jax.tree.unflatten(tree, each) for each in lists)
        start, target = masks.apply(mask, start), masks.apply(mask, target)
        state, total = TrainState(start, {}, optimizer.init(start)), jax.tree.map(jnp.zeros_like, start)
        for _ in range(3):
            masked_loss = lambda params: loss(masks.apply(mask, params), target)  # noqa: E731
            value, gradient = jax.value_and_grad(masked_loss)(state.params)
            updates, opt_state = update(optimizer, gradient, state, value, masked_loss)
            updates = masks.apply(mask, updates)
            total = jax.tree.map(jnp.add, total, updates)
            state = TrainState(optax.apply_updates(state.params, updates), {}, opt_state)
        _of_parameters(optimizer, lambda leaf, number: leaf, state.opt_state, shapes)
        return jax.tree.leaves(total)

    try:
        among = pack(jax.jit(moved)(start, target, kept))
        alone = jax.jit(moved)(pack(start), pack(target), pack(kept))
    except Exception:  # each optimizer fails in its own way
        return False
    return all(
        np.allclose(one, other, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(other))))
        for one, other in zip(among, alone, strict=True)
    )
