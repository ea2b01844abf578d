"""What a search computes, as digests: a folder's search goes on only as the same one."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import PyTree

from lth_jax import levels
from lth_jax.levels import Run
from lth_jax.runs import checkpoints
from lth_jax.runs.branching import Pair
from lth_jax.search import Search
from lth_jax.training import Observer


@dataclass(frozen=True)
class Identity:
    """What a folder's search computes: a resumed one must be the same."""

    seeds: tuple[int, ...]
    levels: int
    kept_levels: tuple[int, ...]
    program: str
    data: str


def identify(
    search: Search,
    seeds: Sequence[int],
    data: PyTree,
    watched: Mapping[str, PyTree],
    observe: Mapping[str, Observer] | None = None,
    kept_levels: Sequence[int] = (),
) -> Identity:
    """What a search computes: seeds, levels, and digests of its program and of its data."""
    return Identity(
        tuple(seeds),
        search.plan.sizes.levels,
        tuple(kept_levels),
        program_digest(search, data, watched, observe),
        digest(jax.tree.leaves((data, dict(watched)))),
    )


def program_digest(
    search: Search,
    data: PyTree,
    watched: Mapping[str, PyTree],
    observe: Mapping[str, Observer] | None = None,
) -> str:
    """A digest of a level's and of a beginning's traced programs, their constants, and the sizes."""
    plan, shape = search.plan, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    def level(run: Run, data: PyTree, watched: Mapping[str, PyTree]) -> Any:
        outcomes = [
            levels.train_network(start, data, watched, plan.recipe, observe, first=plan.first)
            for start in levels.branch(run, plan)
        ]
        compared = [
            search.compare(Pair(run.seed, run.ticket.mask, *states), data=data, splits=watched)
            for states in [(outcomes[0].trained, outcomes[-1].trained)][: plan.children]
        ]
        return levels.advance(run, outcomes[0].trained, plan, data), [o.curves for o in outcomes], compared

    run = jax.eval_shape(lambda: search.begin(0))
    traced = jax.make_jaxpr(level)(run, *jax.tree.map(shape, (data, dict(watched))))
    started = jax.make_jaxpr(search.begin)(0, jax.tree.map(shape, data))
    constants = checkpoints.without_keys([*constants_of(traced), *constants_of(started)])
    text = re.sub(r"0x[0-9a-f]+", "", f"{traced.jaxpr}\n{started.jaxpr}")
    sizes = jax.tree.leaves(plan.sizes.keep)
    beside = [] if plan.control_levels is None else [np.asarray(plan.control_levels, np.int64)]
    return digest([np.frombuffer(text.encode(), np.uint8), *constants, *sizes, *beside])


def constants_of(program: Any) -> Iterator[Any]:
    """The arrays that a traced program holds, and those of the programs inside it, in its order.

    Its text has their shapes only. What is jitted, or a loop's body, is a program of its own, somewhere in an
    equation's parameters.
    """
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        yield from constants_of(program.jaxpr)
    elif isinstance(program, Jaxpr):
        for equation in program.eqns:
            yield from constants_of(tuple(equation.params.values()))
    elif isinstance(program, tuple | list):
        for part in program:
            yield from constants_of(part)


def digest(arrays: Sequence[Any]) -> str:
    """16 hexadecimal digits of some arrays' shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
