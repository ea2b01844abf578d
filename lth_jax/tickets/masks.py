"""Masks: which weights of a parameter tree are kept.

A mask is a tree of bool arrays with the structure and shapes of the parameters. Leaves that cannot be
pruned (biases, by default) are carried along, all ``True``, so that one ``tree.map`` serves every function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from lth_jax.types import Mask, Params, PRNGKey

Predicate = Callable[[tuple[str, ...], Any], bool]


def is_kernel(path: tuple[str, ...], leaf: Any) -> bool:
    """Flax's kernels (weight matrices and filter banks): the default answer to 'can this be pruned?'."""
    return path[-1] == "kernel" and leaf.ndim >= 2


def everything(path: tuple[str, ...], leaf: Any) -> bool:
    """Every tensor, biases included."""
    return True


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """A JAX key path as plain names: ``('hidden_0', 'kernel')``."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def owner(names: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> int | None:
    """Which parameter something in an optimizer's state belongs to: the longest path that its own ends in."""
    fits = [place for place, path in enumerate(paths) if names[len(names) - len(path) :] == path]
    return max(fits, key=lambda place: len(paths[place])) if fits else None


def prunable(params: PyTree, predicate: Predicate = is_kernel) -> PyTree[bool]:
    """Which leaves can be pruned, as a tree of Python bools.

    Args:
      params: parameters, or anything with their structure whose leaves have ``shape`` and ``ndim``.
      predicate: ``(path, leaf) -> bool``, path being the names from the root.

    Raises:
      ValueError: no leaf is prunable.
    """
    tree = jax.tree.map_with_path(lambda path, leaf: bool(predicate(path_names(path), leaf)), params)
    if not any(jax.tree.leaves(tree)):
        names = ["/".join(path_names(path)) for path, _ in jax.tree.leaves_with_path(params)]
        raise ValueError(f"no prunable parameter among {', '.join(names)}; pass another predicate")
    return tree


def ones_like(params: PyTree) -> Mask:
    """The dense network's mask: everything kept."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)


def apply(mask: Mask, tree: Params) -> Params:
    """``m ⊙ θ``: the tree with its pruned entries exactly 0, even where they were NaN or infinite."""
    return jax.tree.map(lambda m, leaf: jnp.where(m, leaf, jnp.zeros((), leaf.dtype)), mask, tree)


def counts(mask: Mask) -> PyTree[Int[Array, ""]]:
    """Number of kept weights in each leaf, as int32."""
    return jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), mask)


def kept_fraction(mask: Mask, of: PyTree[bool]) -> Float[Array, ""]:
    """Fraction in [0, 1] of the prunable weights that remain.

    Args:
      mask: the mask.
      of: which leaves count, from :func:`prunable`.
    """
    chosen = [m for m, counted in zip(jax.tree.leaves(mask), jax.tree.leaves(of), strict=True) if counted]
    kept = jnp.stack([jnp.sum(m, dtype=jnp.int32) for m in chosen]).sum()
    return kept.astype(jnp.float32) / sum(m.size for m in chosen)


def overlap(mask: Mask, other: Mask, of: PyTree[bool]) -> Float[Array, ""]:
    """Jaccard index in [0, 1] of two masks' kept weights: ``|both| / |either|``."""
    both = jax.tree.map(jnp.logical_and, mask, other)
    either = jax.tree.map(jnp.logical_or, mask, other)
    return kept_fraction(both, of) / kept_fraction(either, of)


def permute(key: PRNGKey, mask: Mask, of: PyTree[bool]) -> Mask:
    """A random mask that keeps as many weights of every leaf: its entries in random order.

    Args:
      key: PRNG key.
      mask: what is permuted.
      of: which leaves, from :func:`prunable`; the others are returned as they came.
    """
    leaves, structure = jax.tree.flatten(mask)
    chosen = enumerate(zip(leaves, jax.tree.leaves(of), strict=True))
    permuted = [
        jax.random.permutation(jax.random.fold_in(key, position), m.ravel()).reshape(m.shape) if yes else m
        for position, (m, yes) in chosen
    ]
    return jax.tree.unflatten(structure, permuted)


def connections(
    mask: Bool[Array, "*window below above"],
) -> tuple[Int[Array, " below"], Int[Array, " above"]]:
    """Connections that each unit keeps through one kernel: of the units below it, and of those above it.

    A unit is dead when it has none on one side: nothing reaches it, or nothing reads it.

    Args:
      mask: of a kernel as Flax lays it out: dense ``[in, out]``, convolution ``[*window, in, out]``.

    Returns:
      For each of the ``in`` units, connections to the layer above; for each of the ``out`` units, connections
      from the layer below. Counts, int32.
    """
    window = tuple(range(mask.ndim - 2))
    below = jnp.sum(mask, axis=(*window, mask.ndim - 1), dtype=jnp.int32)
    return below, jnp.sum(mask, axis=(*window, mask.ndim - 2), dtype=jnp.int32)


def reached(kernels: Sequence[Bool[Array, "_ _"]]) -> Bool[Array, " _"]:
    """Which output units of a stack of dense layers some input still influences, through kept weights.

    Args:
      kernels: masks of the layers' kernels [below, above], from the input's to the output's.
    """
    live = jnp.ones(kernels[0].shape[0], bool)
    for kernel in kernels:
        live = jnp.any(kernel & live[:, None], axis=0)
    return live


def is_nested(inner: Mask, outer: Mask) -> Bool[Array, ""]:
    """Whether every weight that ``inner`` keeps is kept by ``outer`` too."""
    leaves = jax.tree.map(lambda i, o: jnp.all(o | ~i), inner, outer)
    return jnp.all(jnp.stack(jax.tree.leaves(leaves)))


def check(mask: PyTree, params: PyTree) -> None:
    """Raise ``ValueError`` unless ``mask`` is a bool tree with the structure and shapes of ``params``."""
    expected, found = jax.tree.structure(params), jax.tree.structure(mask)
    if expected != found:
        raise ValueError(f"the mask's tree is {found}, the parameters' is {expected}; build it from them")
    for (path, leaf), m in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True):
        name = "/".join(path_names(path))
        if jnp.shape(m) != jnp.shape(leaf):
            raise ValueError(f"mask of {name} has shape {jnp.shape(m)}, the parameter {jnp.shape(leaf)}")
        if jnp.result_type(m) != jnp.bool_:
            raise ValueError(f"mask of {name} has dtype {jnp.result_type(m)}, expected bool (True = kept)")
