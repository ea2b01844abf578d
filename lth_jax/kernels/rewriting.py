"""Functions rewritten: the same values, by faster operations.

A function is traced to JAX's program and evaluated anew, equation by equation; a *rule* may take an equation
over. So a model's own code needs no change, whatever library it is written with. Calls and checkpointed parts
are rewritten inside; loops and functions with derivatives of their own are left as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jaxtyping import PyTree

Rule = Callable[[core.JaxprEqn, list[Any]], "list[Any] | None"]
"""``(equation, its operands)`` to its results, or ``None`` to leave it as it is."""

CALLS = ("jit", "pjit")
CHECKPOINTS = ("checkpoint", "remat", "remat2")


def rewrite(function: Callable[..., PyTree], rule: Rule, operations: Sequence[str]) -> Callable[..., PyTree]:
    """The function with a rule applied wherever one of the named operations occurs.

    Args:
      function: of trees of arrays.
      rule: what to do instead.
      operations: names of JAX's primitives; a function without them stays as it was.
    """

    def rewritten(*args: PyTree) -> PyTree:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        if not mentions(program.jaxpr, operations):
            return function(*args)
        values = evaluate(program.jaxpr, program.consts, jax.tree.leaves(args), rule)
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return rewritten


def mentions(program: core.Jaxpr, operations: Sequence[str]) -> bool:
    """Whether one of the operations occurs where :func:`evaluate` would come to it."""
    for equation in program.eqns:
        name = equation.primitive.name
        inside = equation.params["jaxpr"] if name in CALLS + CHECKPOINTS else None
        if name in operations or (inside is not None and mentions(_opened(inside)[0], operations)):
            return True
    return False


def evaluate(program: core.Jaxpr, constants: Sequence[Any], values: Sequence[Any], rule: Rule) -> list[Any]:
    """A program's results, some of its equations by a rule."""
    known = dict(zip([*program.constvars, *program.invars], [*constants, *values], strict=True))
    read = lambda atom: atom.val if isinstance(atom, core.Literal) else known[atom]  # noqa: E731
    for equation in program.eqns:
        operands = [read(atom) for atom in equation.invars]
        results = rule(equation, operands)
        if results is None:
            results = _as_it_is(equation, operands, rule)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _as_it_is(equation: core.JaxprEqn, operands: list[Any], rule: Rule) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return evaluate(*_opened(params["jaxpr"]), operands, rule)
    if name in CHECKPOINTS:
        inside = lambda *values: evaluate(*_opened(params["jaxpr"]), values, rule)  # noqa: E731
        again = jax.checkpoint(inside, prevent_cse=params["prevent_cse"], policy=params["policy"])
        return again(*operands)
    return bind(equation, operands)


def bind(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """An equation's own results."""
    primitive = equation.primitive
    results = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return list(results) if primitive.multiple_results else [results]


def _opened(program: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """A program and its constants, whether it is closed over them or has none."""
    return (program.jaxpr, program.consts) if isinstance(program, core.ClosedJaxpr) else (program, [])
