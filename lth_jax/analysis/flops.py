"""Multiply-adds of a network, and of a ticket: those that touch a kept weight.

The network's traced program is read, so any module will do: wherever a parameter enters a matrix product or a
convolution, reshaped or transposed or not, that product's multiply-adds are its own. A convolution counts
every window, those that reach into the padding whole, as is usual. What is added, normalised or activated
counts nothing; twice the multiply-adds are the floating-point operations.

Within one parameter all weights are used equally often (the rows of a dense kernel once for every place it
is applied to, those of a filter once for every window), so a ticket has as many of its layer's multiply-adds
as it has of its weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from lth_jax.errors import InputError
from lth_jax.kernels.convolutions import as_patches
from lth_jax.models import Network
from lth_jax.tickets.masks import path_names
from lth_jax.types import Collections, Shapes

Shares = dict[int, float]
"""Of which parameters an array is made, by their position, and what part of it is whose."""

CARRIED = (
    *("reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "reduce_precision", "copy"),
    *("copy_p", "rev", "neg", "slice", "dynamic_slice", "stop_gradient", "optimization_barrier"),
    *("mul", "div", "add", "sub", "select_n", "broadcast_in_dim", "sharding_constraint"),
)
"""Operations whose result is still the weights that they are given, if it is no larger than they are."""


def multiply_adds(
    network: Network, params: Shapes, collections: Collections, inputs: PyTree
) -> dict[str, int]:
    """The dense network's multiply-adds for one example, by the name of the parameter that they use.

    Args:
      network: the model.
      params: its parameters, or their shapes.
      collections: its other variables, likewise.
      inputs: what it is given for *one* example, or its shapes: a leading axis of 1 on every leaf.

    Returns:
      ``{"hidden_0/kernel": 235_200, ...}`` in the order in which the network uses them; parameters that are
      in no product are not there.

    Raises:
      InputError: a parameter is used in a loop whose length is not known beforehand, or by an operation that
        cannot be looked into.
    """
    leaves = jax.tree.leaves_with_path(params)
    names = ["/".join(path_names(path)) for path, _ in leaves]
    forward = lambda params, other, x: network.apply(params, other, x, None)[0]  # noqa: E731

    def count(examples: int) -> dict[int, float]:
        some = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype), inputs
        )
        with as_patches():
            program = jax.make_jaxpr(forward)(params, collections, some)
        counts: dict[int, float] = {}
        known = {var: {place: 1.0} for place, var in enumerate(program.jaxpr.invars[: len(leaves)])}
        _walk(program.jaxpr, known, 1, counts)
        return counts

    two, three = count(2), count(3)  # of one, a bias is no smaller than what it has been added to
    return {names[place]: round(2 * two[place] - three[place]) for place in two}


def of_ticket(dense: Mapping[str, int], mask: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A ticket's multiply-adds for one example, by name: those with a kept weight.

    Args:
      dense: from :func:`multiply_adds`.
      mask: a bool array for each parameter, by name.
    """
    return {name: round(count * int(mask[name].sum()) / mask[name].size) for name, count in dense.items()}


def _walk(program: core.Jaxpr, known: dict[Any, Shares], times: float, counts: dict[int, float]) -> None:
    """Add a program's multiply-adds to ``counts``; ``known`` says which of its arrays are made of weights."""
    for equation in program.eqns:
        operands = [{} if isinstance(atom, core.Literal) else known.get(atom, {}) for atom in equation.invars]
        if not any(operands):
            continue
        results = _step(equation, operands, times, counts)
        for var, shares in zip(equation.outvars, results, strict=False):
            if shares:
                known[var] = shares


def _step(
    equation: core.JaxprEqn, operands: Sequence[Shares], times: float, counts: dict[int, float]
) -> list[Shares]:
    """Count one operation; what its results are made of."""
    name, params = equation.primitive.name, equation.params
    sizes = [math.prod(_shape(atom)) for atom in equation.invars]
    out = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
    if name in PRODUCTS:
        work = PRODUCTS[name](equation, out) * times
        for shares in operands:
            for place, share in shares.items():
                counts[place] = counts.get(place, 0) + work * share
        return []
    if name == "while":
        raise InputError("multiply-adds: a parameter is used in a loop whose length is not known beforehand")
    if name == "scan":
        return _inside(params["jaxpr"], operands, times * params["length"], counts)
    if name == "cond":
        return _dearest(params["branches"], operands[1:], times, counts)
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if inner is not None and not name.startswith("reduce"):
        opened = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        if len(getattr(opened, "invars", ())) != len(operands):
            raise InputError(f"multiply-adds: what {name} does with a parameter is not known")
        return _inside(inner, operands, times, counts)
    if name == "concatenate":
        whole: Shares = {}
        for shares, size in zip(operands, sizes, strict=True):
            for place, share in shares.items():
                whole[place] = whole.get(place, 0) + share * size / out
        return [whole]
    size, largest = max((size, place) for place, size in enumerate(sizes) if operands[place])
    return [operands[largest]] if name in CARRIED and out <= size else []


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _dot_general(equation: core.JaxprEqn, out: int) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    return out * math.prod(_shape(equation.invars[0])[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn, out: int) -> int:
    shape = _shape(equation.invars[1])
    return out * math.prod(shape) // shape[equation.params["dimension_numbers"].rhs_spec[0]]


PRODUCTS: dict[str, Callable[[core.JaxprEqn, int], int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
"""Operations that multiply and add, and how often, the size of their result given."""


def _inside(program: Any, operands: Sequence[Shares], times: float, counts: dict[int, float]) -> list[Shares]:
    """Go through a called program; what its results are made of."""
    opened = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    known = {var: shares for var, shares in zip(opened.invars, operands, strict=True) if shares}
    _walk(opened, known, times, counts)
    return [{} if isinstance(atom, core.Literal) else known.get(atom, {}) for atom in opened.outvars]


def _dearest(
    programs: Sequence[Any], operands: Sequence[Shares], times: float, counts: dict[int, float]
) -> list[Shares]:
    """Of programs of which one is run, that with the most multiply-adds."""
    found: list[tuple[dict[int, float], list[Shares]]] = []
    for program in programs:
        own: dict[int, float] = {}
        found.append((own, _inside(program, operands, times, own)))
    most, results = max(found, key=lambda each: sum(each[0].values()))
    for place, count in most.items():
        counts[place] = counts.get(place, 0) + count
    return results
