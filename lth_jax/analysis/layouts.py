"""How a network uses its parameters, which tells how another framework would lay them out.

Flax keeps the channels of an image last, PyTorch has them first. So a dense layer behind a flattened image
reads its inputs in another order there, and so does whatever is added or multiplied in between. The network's
traced program is read, as :mod:`~lth_jax.analysis.flops` does, so any module will do: every axis of an array
is followed as the list of *places* that it is made of (batch, channels, rows, columns), merged by a reshape,
put into another order by a transposition.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from lth_jax.kernels.convolutions import as_patches
from lth_jax.kernels.gradients import CONVOLUTION
from lth_jax.models import Network
from lth_jax.tickets.masks import path_names
from lth_jax.types import Collections, Shapes

BATCH, CHANNEL = (-2,), (-1,)
"""Places of an activation; its rows, columns … are ``(0,)``, ``(1,)`` …: sorted, they are PyTorch's order."""

EXAMPLES = 13
"""In the batch that is traced: a number that no other axis is likely to have."""

Part = tuple[tuple[int, ...], int]
"""A place, and its size."""
Axis = tuple[Part, ...] | None
"""What an axis is made of, the outermost first; ``None`` where it is not known."""


class Followed(NamedTuple):
    """An array of the program: the parameters that it is made of, none for an activation, and its axes."""

    names: frozenset[str]
    axes: tuple[Axis, ...]


class Uses(NamedTuple):
    """How parameters and collections are used, by name.

    ``dense``: the places that a matrix ``[in, out]`` reads along its first axis, ``None`` if not known.
    ``convolution``: the axes of a filter bank in PyTorch's order: output, input, rows, columns …
    ``vector``: the places along the one axis of what is added to a flattened image, or multiplied with it.
    """

    dense: dict[str, Axis]
    convolution: dict[str, tuple[int, ...]]
    vector: dict[str, Axis]


def uses(network: Network, params: Shapes, collections: Collections, inputs: Any) -> Uses:
    """Follow parameters and activations through the network, nothing computed.

    Args:
      network: the model.
      params: its parameters, or their shapes.
      collections: its other variables, likewise.
      inputs: an example of what it is given, a leading axis *example* on every leaf; images have their
        channels last.
    """
    given = (params, collections)
    leaves = [(path_names(path[1:]), leaf) for path, leaf in jax.tree.leaves_with_path(given)]
    some = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((EXAMPLES, *leaf.shape[1:]), leaf.dtype), inputs)
    with as_patches():
        program = jax.make_jaxpr(lambda tree, x: network.apply(tree[0], tree[1], x, None)[0])(given, some)
    known, found = {}, Uses({}, {}, {})
    for var, (names, leaf) in zip(program.jaxpr.invars, leaves, strict=False):
        known[var] = Followed(frozenset(["/".join(names)]), _counted(leaf.shape))
    for var in program.jaxpr.invars[len(leaves) :]:
        shape = var.aval.shape
        known[var] = Followed(frozenset(), _images(shape) if len(shape) > 3 else _counted(shape))
    _walk(program.jaxpr, known, found)
    return found


def torch_order(axis: Axis) -> np.ndarray | None:
    """Where PyTorch's entries along an axis are in ours; ``None`` if they are in the same order.

    >>> torch_order((((0,), 2), ((-1,), 3)))  # two pixels of three channels
    array([0, 3, 1, 4, 2, 5])
    """
    if axis is None:
        return None
    places, sizes = [place for place, _ in axis], [size for _, size in axis]
    order = sorted(range(len(places)), key=lambda at: places[at])
    found = np.arange(math.prod(sizes)).reshape(sizes).transpose(order).ravel()
    return None if np.array_equal(found, np.arange(found.size)) else found


def _counted(shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes in the order in which they are, which another framework keeps."""
    return tuple((((place,), size),) for place, size in enumerate(shape))


def _images(shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes of images, channels last."""
    places = [BATCH, *((row,) for row in range(len(shape) - 2)), CHANNEL]
    return tuple(((place, size),) for place, size in zip(places, shape, strict=True))


def _walk(program: core.Jaxpr, known: dict[Any, Followed], found: Uses) -> None:
    """Follow the arrays of a program; ``known`` gets all of them that are made of those it has."""
    for equation in program.eqns:
        operands = [None if isinstance(atom, core.Literal) else known.get(atom) for atom in equation.invars]
        if not any(operands):
            continue
        for var, each in zip(equation.outvars, _step(equation, operands, found), strict=False):
            known[var] = each


def _step(equation: core.JaxprEqn, operands: list[Followed | None], found: Uses) -> list[Followed]:
    """What the results of one operation are made of."""
    name, params = equation.primitive.name, equation.params
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if inner is not None and name not in LOOPS:
        opened = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        if isinstance(opened, core.Jaxpr) and len(opened.invars) == len(operands):
            own = {var: each for var, each in zip(opened.invars, operands, strict=True) if each}
            _walk(opened, own, found)
            return [_result(equation, operands, own.get(atom)) for atom in _outputs(opened)]
    axes = None
    if name == CONVOLUTION:
        axes = _convolution(equation, operands, found)
    elif name == "dot_general":
        axes = _product(equation, operands, found)
    elif name in RULES:
        axes = RULES[name](equation, _axes(operands[0], equation.invars[0]))
    elif name not in REORDERED:
        axes = _elementwise(equation, operands, found)
    made = None if axes is None else Followed(frozenset(), axes)
    return [_result(equation, operands, made, place) for place in range(len(equation.outvars))]


def _outputs(program: core.Jaxpr) -> list[Any]:
    """A program's results that are no constants; a constant is of nothing."""
    return [None if isinstance(atom, core.Literal) else atom for atom in program.outvars]


def _result(
    equation: core.JaxprEqn, operands: Sequence[Followed | None], made: Followed | None, place: int = 0
) -> Followed:
    """A result with its axes, made of the operands' parameters unless an activation is among them."""
    shape = _shape(equation.outvars[place])
    if made is not None and (made.names or len(made.axes) != len(shape)):
        return made if len(made.axes) == len(shape) else Followed(made.names, (None,) * len(shape))
    given = [each for each in operands if each is not None]
    weights = all(each.names for each in given)
    names = frozenset().union(*(each.names for each in given)) if weights else frozenset()
    return Followed(names, (None,) * len(shape) if made is None else made.axes)


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _axes(followed: Followed | None, atom: Any) -> tuple[Axis, ...]:
    return (None,) * len(_shape(atom)) if followed is None else followed.axes


def _size(axis: Axis) -> int:
    return -1 if axis is None else math.prod(size for _, size in axis)


def _resized(axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes of which some are longer or shorter than they were: not known where they are of several places."""

    def one(axis: Axis, size: int) -> Axis:
        if axis is None or _size(axis) == size:
            return axis
        return ((axis[0][0], size),) if len(axis) == 1 else None

    return tuple(one(axis, size) for axis, size in zip(axes, shape, strict=True))


def _reshaped(axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """Axes merged, and cut into several, from the first to the last."""
    left: list[Part | None] = [
        part for axis in axes for part in ((None,) if axis is None else axis) if part is None or part[1] > 1
    ]
    made: list[Axis] = []
    for size in shape:
        parts: list[Part] = []
        while (missing := size // math.prod(part[1] for part in parts)) > 1:
            first = left.pop(0) if left else None
            if first is None:
                return (*made, *(None,) * (len(shape) - len(made)))
            place, length = first
            if missing % length:  # an axis is cut: its outer and its inner part
                if length % missing:
                    return (*made, *(None,) * (len(shape) - len(made)))
                left.insert(0, ((*place, 1), length // missing))
                place, length = (*place, 0), missing
            parts.append((place, length))
        made.append(tuple(parts))
    return tuple(made)


def _convolution(equation: core.JaxprEqn, operands: Sequence[Followed | None], found: Uses) -> Any:
    """A filter bank that is used as one, and the axes of what comes out; ``None`` for a transposed one."""
    numbers, params = equation.params["dimension_numbers"], equation.params
    kernel = operands[1]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1 or kernel is None:
        return None
    order = [kernel.axes[axis] for axis in numbers.rhs_spec]
    if len(kernel.names) == 1 and all(axis is not None and len(axis) == 1 for axis in order):
        found.convolution[min(kernel.names)] = tuple(axis[0][0][0] for axis in order if axis)
    places = dict(zip(numbers.out_spec, [BATCH, CHANNEL, *((row,) for row in range(len(order) - 2))]))  # noqa: B905
    return tuple(((places[axis], size),) for axis, size in enumerate(_shape(equation.outvars[0])))


def _product(equation: core.JaxprEqn, operands: Sequence[Followed | None], found: Uses) -> Any:
    """A matrix that is used as one, and the axes of what comes out; ``None`` for another kind of product."""
    contracted, batched = equation.params["dimension_numbers"]
    sides = [_axes(each, atom) for each, atom in zip(operands, equation.invars, strict=True)]
    weights = [place for place, each in enumerate(operands) if each is not None and each.names]
    if len(weights) != 1 or len(contracted[0]) != 1 or any(batched):
        return None
    one, other = weights[0], 1 - weights[0]
    read = sides[other][contracted[other][0]]
    kernel, matrix = operands[one], sides[one]
    assert kernel is not None
    inputs, outputs = matrix[contracted[one][0]], matrix[1 - contracted[one][0]] if len(matrix) == 2 else None
    if len(kernel.names) == 1 and inputs and outputs and len(outputs) == 1:
        name, window = min(kernel.names), [place[0] for place, _ in inputs]
        if window == [0] and outputs[0][0] == (1,):
            # Shared by several products, it is known only if it reads the same everywhere.
            found.dense[name] = read if found.dense.get(name, read) == read else None
        elif len(sides[other]) == (rank := outputs[0][0][0] + 1) and window == sorted(window):  # of patches
            found.convolution[name] = (rank - 1, rank - 2, *range(rank - 2))
    place = read[0][0] if read is not None and len(read) == 1 else CHANNEL
    free = [[axis for at, axis in enumerate(side) if at != contracted[n][0]] for n, side in enumerate(sides)]
    free[one] = [None if axis is None else ((place, _size(axis)),) for axis in free[one]]
    return (*free[0], *free[1])


def _elementwise(equation: core.JaxprEqn, operands: Sequence[Followed | None], found: Uses) -> Any:
    """The axes of an operation on entries of one place; ``None`` if it is another one."""
    shape = _shape(equation.outvars[0])
    alike = [
        each
        for each, atom in zip(operands, equation.invars, strict=True)
        if each and _fits(_shape(atom), shape)
    ]
    activations = [each for each in alike if not each.names]
    if not alike:
        return None

    def agreed(at: int) -> Axis:
        given = (each.axes[at] for each in activations or alike)
        return next((axis for axis in given if axis is not None and _size(axis) == shape[at]), None)

    axes = tuple(agreed(at) for at in range(len(shape)))
    for each in alike if activations else ():
        for own, axis in zip(each.axes, axes, strict=True):
            if own and axis is not None and len(axis) > 1:
                found.vector.update(dict.fromkeys(each.names, axis))
    return axes


def _fits(one: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether an array is of a shape, or of length 1 where it is not."""
    return len(one) == len(whole) and all(a in (1, b) for a, b in zip(one, whole, strict=True))


def _reduced(equation: core.JaxprEqn, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    gone = equation.params["axes"]
    return tuple(axis for at, axis in enumerate(axes) if at not in gone)


def _broadcast(equation: core.JaxprEqn, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    shape, made = _shape(equation.outvars[0]), [None] * len(_shape(equation.outvars[0]))
    for at, axis in zip(equation.params["broadcast_dimensions"], axes, strict=True):
        made[at] = axis if _size(axis) == shape[at] else None  # type: ignore[call-overload]
    return tuple(() if size == 1 else axis for axis, size in zip(made, shape, strict=True))


def _same_rank(equation: core.JaxprEqn, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return _resized(axes, _shape(equation.outvars[0]))


def _new_shape(equation: core.JaxprEqn, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return _reshaped(axes, _shape(equation.outvars[0]))


def _looked_up(equation: core.JaxprEqn, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    """Rows of a table, as of an embedding: another framework has the same axes."""
    table = equation.params["dimension_numbers"].collapsed_slice_dims == (0,)
    return _counted(_shape(equation.outvars[0])) if table and len(axes) == 2 else None


LOOPS = ("scan", "while", "cond")
REORDERED = ("rev", "sort", "scatter", "scatter-add", "dynamic_update_slice", "fft", "custom_vjp_call")
"""Operations whose results may be of the operands' shape with the entries elsewhere."""
RULES: Mapping[str, Any] = {
    "transpose": lambda equation, axes: tuple(axes[at] for at in equation.params["permutation"]),
    "broadcast_in_dim": _broadcast,
    "gather": _looked_up,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _new_shape),
    **dict.fromkeys(("slice", "pad", "concatenate", "dynamic_slice", "reduce_window", "cumsum"), _same_rank),
    **dict.fromkeys((f"reduce_window_{kind}" for kind in ("max", "min", "sum")), _same_rank),
    **dict.fromkeys((f"reduce_{kind}" for kind in ("sum", "max", "min", "prod")), _reduced),
}
"""What becomes of the axes of the first operand."""
