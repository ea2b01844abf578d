"""Checks at the edge of the compiled program: what goes in fits together, or an error names what does not.

Inside ``jit`` nothing can be refused: a label out of range takes another one's logit, a float image is taken
for 255 times darker, and a tree of another shape fails in the middle of an optimizer.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lth_jax.runs import processes
from lth_jax.tickets import masks, pruning
from lth_jax.tickets.masks import path_names
from lth_jax.training import Recipe
from lth_jax.types import Split


def check_runs(runs: Any, plan: Any) -> None:
    """Refuse runs that are not what a plan plays.

    Args:
      runs: a ``lottery.Run`` with a leading axis on every leaf.
      plan: a ``lottery.Plan``.

    Raises:
      ValueError: a tree of another structure, shape or dtype, runs at different levels, or an unknown scope.
    """
    masks.check(runs.mask, runs.params)
    check_like("rewind_to", runs.rewind_to, runs.params)
    expected = jax.eval_shape(jax.vmap(plan.recipe.optimizer.init), runs.params)
    check_like("opt_state", runs.opt_state, expected)
    for name, tree in {"rates": plan.rates, "prunable": plan.prunable}.items():
        if jax.tree.structure(tree) != jax.tree.structure(runs.params):
            raise ValueError(f"the plan's {name} are a tree of another structure than the parameters")
    for name in ("seed", "level"):
        leaf = getattr(runs, name)
        if jnp.ndim(leaf) != 1 or not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            raise ValueError(f"{name} is {_described(leaf)}, expected an integer for each run")
    if len(levels := set(processes.gather(runs.level).tolist())) != 1:
        raise ValueError(f"the runs are at different levels, {sorted(levels)}: play them apart")
    if plan.scope not in pruning.SCOPES:
        raise ValueError(f"unknown scope {plan.scope!r}; expected one of {', '.join(pruning.SCOPES)}")


def check_split(name: str, split: Split, runs: Any, recipe: Recipe) -> None:
    """Refuse examples that the network of some runs cannot be given.

    Args:
      name: what the error calls them.
      split: examples.
      runs: a ``lottery.Run`` or ``branches.Line`` with a leading axis on every leaf.
      recipe: the network.

    Raises:
      ValueError: another dtype or shape, images without labels, a network that gives something else than
        logits, or labels that it has no logit for.
    """
    images, labels = split
    if jnp.result_type(images) != jnp.uint8 or jnp.ndim(images) != 4 or 0 in jnp.shape(images):
        raise ValueError(
            f"{name} images are {_described(images)}, expected uint8[examples, height, width, channels]"
        )
    if jnp.ndim(labels) != 1 or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"{name} labels are {_described(labels)}, expected integers[examples]")
    if len(images) != len(labels):
        raise ValueError(f"{name}: {len(images)} images, but {len(labels)} labels")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), runs)
    batch = jax.ShapeDtypeStruct((1, *jnp.shape(images)[1:]), jnp.float32)
    try:
        logits = jax.eval_shape(
            lambda params, other, x: recipe.network.apply(params, other, x, None)[0],
            one.params, getattr(one, "collections", {}), batch,
        )  # fmt: skip
    except Exception as error:  # each model refuses in its own words
        problem = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name} images are {_described(images)}: the network refuses them: {problem}"
        ) from None
    check_logits(logits, 1)
    low, high, classes = int(jnp.min(labels)), int(jnp.max(labels)), logits.shape[-1]
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels are {low} … {high}, the network has logits for 0 … {classes - 1}")


def check_logits(answer: Any, examples: int, classes: int = 1) -> None:
    """Refuse what is no logits ``[examples, classes or more]``.

    Args:
      answer: what a network gives, or its ``jax.ShapeDtypeStruct``.
      examples: it was given so many.
      classes: it has to tell so many apart.

    Raises:
      ValueError: a tuple, a dictionary, another shape, or too few logits.
    """
    shape = getattr(answer, "shape", None)
    if shape is None:
        raise ValueError(f"the network gives a {type(answer).__name__}, expected logits [examples, classes]")
    if len(shape) != 2 or shape[0] != examples or shape[1] < classes:
        wanted = f"[{examples}, {classes} or more]"
        raise ValueError(f"the network gives {_described(answer)}, expected logits {wanted}")


def check_lines(lines: Any, rules: Any, levels: int) -> None:
    """Refuse lines that are not what some rules play.

    Args:
      lines: a ``branches.Line`` with a leading axis on every leaf.
      rules: a ``branches.Rules``.
      levels: how many are to be played.

    Raises:
      ValueError: a tree of another structure, shape or dtype, lines at different levels, or sizes for fewer
        levels.
    """
    masks.check(lines.mask, lines.params)
    for name in ("rewind_to", "early", "trained"):
        check_like(name, getattr(lines, name), lines.params)
    for name, tree in {"keep": rules.keep, "prunable": rules.prunable}.items():
        if jax.tree.structure(tree) != jax.tree.structure(lines.params):
            raise ValueError(f"the rules' {name} is a tree of another structure than the parameters")
    if len(found := set(lines.level.tolist())) != 1:
        raise ValueError(f"the lines are at different levels, {sorted(found)}: play them apart")
    if (known := min(len(counts) for counts in jax.tree.leaves(rules.keep))) < levels:
        raise ValueError(f"the rules' keep has sizes for {known} levels, expected {levels}")


def check_all(runs: Any, data: Split, watch: Mapping[str, Split], plan: Any) -> None:
    """:func:`check_runs` and :func:`check_split` of everything that a level is given."""
    check_runs(runs, plan)
    for name, split in {"training": data, **watch}.items():
        check_split(name, split, runs, plan.recipe)


def check_like(name: str, tree: PyTree, expected: PyTree) -> None:
    """Refuse a tree that differs from another in structure, or in the shape or dtype of a leaf."""
    wanted, found = (
        {"/".join(path_names(path)): _described(leaf) for path, leaf in jax.tree.leaves_with_path(one)}
        for one in (expected, tree)
    )
    for place in sorted({*wanted, *found}):
        if wanted.get(place) != found.get(place):
            there, here = found.get(place, "absent"), wanted.get(place, "nothing")
            raise ValueError(f"{name}: {place or 'the leaf'} is {there}, expected {here}")
    if jax.tree.structure(tree) != jax.tree.structure(expected):
        raise ValueError(f"{name} is a {jax.tree.structure(tree)}, expected {jax.tree.structure(expected)}")


def _described(leaf: Any) -> str:
    """``float32[88,300]``."""
    return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"
