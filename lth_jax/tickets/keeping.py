"""A mask kept in a training loop of one's own: any Optax optimizer, whatever it does to parameters.

Weight decay, moments and noise move entries whose gradient is 0. Here an update takes a pruned entry to
exactly 0, whatever it was, so it needs no step after ``optax.apply_updates``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from lth_jax.errors import require
from lth_jax.tickets.masks import path_names


def keep_mask(optimizer: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformationExtraArgs:
    """An optimizer that keeps pruned parameters exactly 0 and is otherwise the one that it is given.

    >>> optimizer = keep_mask(optax.adamw(1e-3), mask)  # doctest: +SKIP
    >>> params = masks.apply(mask, params)  # doctest: +SKIP

    It sees masked gradients and masked parameters, so its moments of pruned entries stay 0, and so does what
    is measured over a whole leaf (norms, clipping) without them. Without the second line the first update
    prunes; the parameters have to be finite.

    Args:
      optimizer: of Optax; its schedules, decay and extra arguments work as ever.
      mask: bools, True is kept, by the parameters' names, from ``find_tickets`` or ``load_ticket``.
        Parameters that it does not have are kept whole. NNX's states serve too, by the same names.

    Raises:
      InputError: when the optimizer's state is made: an entry that is no bool array of its parameter's shape,
        or of a parameter that there is not.
    """
    whole = optax.with_extra_args_support(optimizer)
    given = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(mask)}

    def kept(tree: PyTree) -> PyTree:
        return jax.tree.map_with_path(lambda path, leaf: _masked(given.get(_name(path)), leaf), tree)

    def init(params: PyTree) -> Any:
        _check(given, params)
        return whole.init(kept(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, Any]:
        moved, state = whole.update(kept(updates), state, None if params is None else kept(params), **extra)
        if params is None:
            return kept(moved), state
        return jax.tree.map_with_path(
            lambda path, leaf, old: _to_zero(given.get(_name(path)), leaf, old), moved, params
        ), state

    return optax.GradientTransformationExtraArgs(init, update)


def _name(path: tuple[Any, ...]) -> str:
    """A parameter's name, also that of an NNX variable's value."""
    of_variable = path and getattr(path[-1], "name", None) == "value"
    return "/".join(path_names(path[:-1] if of_variable else path))


def _masked(kept: Any, leaf: Array) -> Array:
    return leaf if kept is None else jnp.where(jnp.asarray(kept), leaf, jnp.zeros((), leaf.dtype))


def _to_zero(kept: Any, update: Array, old: Array) -> Array:
    """The update where a weight is kept, and minus the weight where it is not, in a dtype that holds both."""
    if kept is None:
        return update
    with jax.numpy_dtype_promotion("standard"):  # whatever is asked of JAX
        wide = jnp.promote_types(update.dtype, old.dtype)
    return jnp.where(jnp.asarray(kept), update.astype(wide), -old.astype(wide))


def _check(given: dict[str, Any], params: PyTree) -> None:
    shapes = {_name(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    for name, leaf in given.items():
        require(name in shapes, f"mask of {name}: there is no such parameter among {', '.join(shapes)}"[:300])
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        wanted = f"expected bool{list(shapes[name])}"
        require(
            shape == shapes[name] and dtype == jnp.bool_, f"mask of {name} is {dtype}{list(shape)}, {wanted}"
        )
    require(bool(given), "the mask is empty: it keeps nothing in mind")
