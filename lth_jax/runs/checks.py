"""Checks before anything is compiled: what goes in fits together, or an error names what does not.

Inside ``jit`` nothing can be refused: a label out of range takes another one's logit, a float image is taken
for 255 times darker, and a tree of another shape fails in the middle of an optimizer.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from lth_jax.errors import InputError, in_one_line, own_words, warn
from lth_jax.levels import Plan, Run
from lth_jax.runs import processes
from lth_jax.tasks import Task, described
from lth_jax.tickets import masks, pruning
from lth_jax.tickets.masks import path_names
from lth_jax.training import Recipe, TrainState, update


def check_runs(runs: Run, plan: Plan) -> None:
    """Refuse runs that are not what a plan takes through its levels.

    Args:
      runs: with a leading axis on every leaf.
      plan: what happens at every level.

    Raises:
      ValueError: a tree of another structure, shape or dtype, runs at different levels, or an unknown scope.
    """
    ticket = runs.ticket
    masks.check(ticket.mask, ticket.params)
    check_like("rewind_to", runs.rewind_to.params, ticket.params)
    if plan.collections == "start":
        check_like("rewind_to's collections", runs.rewind_to.collections, ticket.collections)
    expected = jax.eval_shape(jax.vmap(plan.recipe.optimizer.init), ticket.params)
    check_like("opt_state", runs.opt_state, expected if plan.keeps_optimizer else {})
    trees = {"prunable": plan.prunable, "sizes.ranked": plan.sizes.ranked}
    if plan.sizes.scope == "layer":
        trees["sizes.keep"] = plan.sizes.keep
    for name, tree in trees.items():
        if jax.tree.structure(tree) != jax.tree.structure(ticket.params):
            raise ValueError(f"the plan's {name} is a tree of another structure than the parameters")
    for name in ("seed", "level"):
        leaf = getattr(runs, name)
        if jnp.ndim(leaf) != 1 or not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            raise ValueError(f"{name} is {described(leaf)}, expected an integer for each run")
    if len(levels := set(processes.gather(runs.level).tolist())) != 1:
        raise ValueError(f"the runs are at different levels, {sorted(levels)}: train them apart")
    if plan.sizes.scope not in pruning.SCOPES:
        raise ValueError(f"unknown scope {plan.sizes.scope!r}; expected one of {', '.join(pruning.SCOPES)}")


def check_levels(levels: int, plan: Plan) -> None:
    """Refuse more levels than a plan has sizes for.

    Raises:
      ValueError: the message has both numbers.
    """
    if levels > plan.sizes.levels:
        raise ValueError(f"the plan has sizes for {plan.sizes.levels} levels, expected {levels}")


def check_split(name: str, split: PyTree, runs: Run, recipe: Recipe) -> None:
    """Refuse examples that the network of some runs cannot be given.

    Args:
      name: what the error calls them.
      split: examples, a tree with a leading axis *example*.
      runs: with a leading axis on every leaf.
      recipe: network and task.

    Raises:
      ValueError: leaves of different lengths, a network that refuses them, or what the task refuses.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), runs.ticket)
    check_examples(name, split, one.params, one.collections, recipe)


def check_examples(name: str, split: PyTree, params: PyTree, collections: PyTree, recipe: Recipe) -> None:
    """:func:`check_split` for one network's parameters and collections, or their shapes."""
    check_data(name, split, recipe.task)
    task = recipe.task
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), split)
    shown = ", ".join(described(leaf) for leaf in jax.tree.leaves(split))
    with in_one_line(f"{name} examples are {shown}: the network refuses them"):
        outputs = jax.eval_shape(
            lambda params, other, x: recipe.network.apply(params, other, task.inputs(None, x), None)[0],
            params, collections, batch,
        )  # fmt: skip
    task.check(name, split, outputs)
    with in_one_line(f"{name} examples are {shown}: the task's loss refuses them"):
        losses = jax.eval_shape(task.loss, outputs, batch)
    if getattr(losses, "shape", None) != (1,):
        raise ValueError(f"the task's loss gives {described(losses)} for 1 example, expected [example]")


def check_optimizer(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Refuse an optimizer that cannot be given a tree of parameters, or their shapes.

    Raises:
      ValueError: the message has the names of its states and its own words.
    """
    names: list[str] = []

    def once(params: PyTree) -> PyTree:
        opt_state = optimizer.init(params)
        jax.tree.map(
            lambda node: names.append(type(node).__name__) if hasattr(node, "_fields") else None,
            opt_state,
            is_leaf=lambda node: hasattr(node, "_fields"),
        )
        loss = lambda params: jnp.sum(jnp.stack([leaf.sum() for leaf in jax.tree.leaves(params)]))  # noqa: E731
        return update(optimizer, params, TrainState(params, {}, opt_state), loss(params), loss)

    try:
        jax.eval_shape(once, params)
    except (Exception, SystemExit) as error:  # ``in_one_line`` would not know the names yet
        what = f"the optimizer ({', '.join(names)}) refuses the parameters"
        raise InputError(f"{what}: {own_words(error)}") from error


def check_data(name: str, split: PyTree, task: Task) -> None:
    """Refuse examples that the task cannot be learned from, whatever the network.

    Raises:
      ValueError: leaves of different lengths, none, or what the task refuses.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(split)}
    if hasattr(split, "images") and hasattr(split, "labels") and len(lengths) > 1:
        raise ValueError(f"{name}: {len(split.images)} images, but {len(split.labels)} labels")
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        shapes = ", ".join(described(leaf) for leaf in jax.tree.leaves(split))
        raise ValueError(f"{name}: {shapes or 'nothing'}: expected arrays of one length, the examples'")
    task.check(name, split, None)


def check_all(runs: Run, data: PyTree, watch: Mapping[str, PyTree], plan: Plan) -> None:
    """:func:`check_runs` and :func:`check_split` of everything that a level is given."""
    check_runs(runs, plan)
    for name, split in {"training": data, **watch}.items():
        check_split(name, split, runs, plan.recipe)


def check_like(name: str, tree: PyTree, expected: PyTree) -> None:
    """Refuse a tree that differs from another in structure, or in the shape or dtype of a leaf."""
    wanted, found = (
        {"/".join(path_names(path)): described(leaf) for path, leaf in jax.tree.leaves_with_path(one)}
        for one in (expected, tree)
    )
    for place in sorted({*wanted, *found}):
        if wanted.get(place) != found.get(place):
            there, here = found.get(place, "absent"), wanted.get(place, "nothing")
            raise ValueError(f"{name}: {place or 'the leaf'} is {there}, expected {here}")
    if jax.tree.structure(tree) != jax.tree.structure(expected):
        raise ValueError(f"{name} is a {jax.tree.structure(tree)}, expected {jax.tree.structure(expected)}")


def check_nested(mask: PyTree, earlier: PyTree) -> None:
    """Raise ``ValueError`` where ``mask`` keeps a weight that ``earlier`` had pruned: masks only shrink."""
    names = ["/".join(path_names(path)) for path, _ in jax.tree.leaves_with_path(mask)]
    for name, m, e in zip(names, jax.tree.leaves(mask), jax.tree.leaves(earlier), strict=True):
        if revived := int(np.sum(processes.own(m) & ~processes.own(e))):  # they may lie on different devices
            raise ValueError(f"mask of {name} revives {revived} pruned weights; what is pruned stays pruned")


def report_collapse(runs: Run, plan: Plan) -> None:
    """Print a line for each layer that a global ranking has left without a weight, and in how many runs.

    A network with such a layer says the same of every input, unless something leads past it.

    Args:
      runs: at the start of a level, a leading axis on every leaf.
      plan: scope, and what is ranked; where each layer keeps a number of its own, none is emptied.
    """
    if plan.sizes.scope != "global":
        return
    leaves = jax.tree.leaves_with_path(runs.ticket.mask)
    for (path, leaf), yes in zip(leaves, jax.tree.leaves(plan.sizes.ranked), strict=True):
        own = processes.own(leaf)
        empty = int(np.sum(~own.reshape(own.shape[0], -1).any(1)))
        if yes and empty:
            level, name = int(processes.own(runs.level)[0]), "/".join(path_names(path))
            warn(f"level {level}: {name} has no weight left in {empty} of {len(own)} runs: it has collapsed")
