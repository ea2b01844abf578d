"""Weights held compressed: a layer's kept values and their places, and the product with them.

A kernel ``[inputs, outputs]`` of which ``entries`` weights are kept is a vector ``[entries]``, column by
column; its structure says where they belong. :func:`with_compressed` lets a model compute with such vectors:
wherever it multiplies by a compressed kernel, the native sparse product (``kernels.native``) takes the matrix
product's place, with its two gradients. Whatever else a model does with a kernel it does with the dense one.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool, Float, Int, PyTree

from lth_jax.kernels import rewriting
from lth_jax.kernels.native import TARGETS, native
from lth_jax.types import Collections, Params, PRNGKey

BAND = 128
"""Inputs whose examples stay in a core's nearest cache, 64 examples of 4 bytes each."""


class Structure(NamedTuple):
    """Where a compressed kernel's values belong.

    They come band by band of its rows, column by column. ``place`` is each one's place in the flat kernel,
    ``inputs × outputs`` where there is none (networks of one shape may keep different numbers); ``index`` is
    its row; ``start`` is where each band's columns begin among the values.
    """

    place: Int[Array, " entries"]
    index: Int[Array, " entries"]
    start: Int[Array, " bands_times_outputs_and_one"]


def structure(mask: Bool[Array, "inputs outputs"], entries: int) -> Structure:
    """The structure of what a mask keeps.

    Args:
      mask: of one kernel.
      entries: room for so many values, at least as many as are kept.
    """
    inputs, outputs = mask.shape
    bands = max(min(-(-inputs // BAND), entries // (12 * outputs)), 1)  # a column has some values in each
    height = -(-inputs // bands)
    padded = jnp.pad(mask, ((0, bands * height - inputs), (0, 0)))
    ordered = padded.reshape(bands, height, outputs).transpose(0, 2, 1)  # [band, column, row]
    found = jnp.nonzero(ordered.reshape(-1), size=entries, fill_value=padded.size)[0].astype(jnp.int32)
    band, rest = found // (outputs * height), found % (outputs * height)
    row = jnp.minimum(band * height + rest % height, inputs - 1)
    place = jnp.where(found < padded.size, row * outputs + rest // height, mask.size)
    ends = jnp.cumsum(jnp.sum(ordered, axis=2, dtype=jnp.int32).reshape(-1))
    start = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    return Structure(place, row, start)


def compress(kernel: Array, where: Structure) -> Array:
    """A kernel ``[inputs, outputs]`` to its kept values ``[entries]``; 0 where there is room left."""
    return jnp.take(kernel.reshape(-1), where.place, mode="fill", fill_value=0)


def expand(values: Array, where: Structure, shape: Sequence[int]) -> Array:
    """Kept values ``[entries]`` to the kernel ``[inputs, outputs]``, its pruned weights 0."""
    flat = jnp.zeros(shape[0] * shape[1], values.dtype)
    return flat.at[where.place].set(values, mode="drop").reshape(shape)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values", "where"], meta_fields=["shape"])
@dataclasses.dataclass
class Compressed:
    """A kernel as a program's evaluation knows it: values, structure, and its dense shape."""

    values: Array
    where: Structure
    shape: tuple[int, int]


def product(x: Float[Array, "*batch inputs"], kernel: Compressed) -> Float[Array, "*batch outputs"]:
    """``x @ W`` for a compressed W, in float32, on the CPU."""
    rows = x.reshape(-1, x.shape[-1])
    y: Any = _product(kernel.shape, rows, kernel.values, kernel.where.start, kernel.where.index)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


def _call(name: str, results: Any, *operands: Array, **attributes: Any) -> Any:
    return jax.ffi.ffi_call(TARGETS[name], results, vmap_method="sequential")(*operands, **attributes)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(shape: tuple[int, int], x: Array, values: Array, start: Array, index: Array) -> Array:
    return _forward(shape, x, values, start, index)[0]


def _forward(
    shape: tuple[int, int], x: Array, values: Array, start: Array, index: Array
) -> tuple[Array, Any]:
    batch, (inputs, outputs) = x.shape[0], shape
    lanes, tile = native().lanes, native().tile
    rest = -(-(batch % tile) // lanes) * lanes
    results = _floats(batch, outputs), _floats((batch // tile * tile + rest) * inputs)
    y, across = _call("forward", results, x, values, start, index)
    return y, (across, values, start, index)


def _backward(shape: tuple[int, int], kept: Any, dy: Array) -> tuple[Array, Array, None, None]:
    across, values, start, index = kept
    operands = dy, across, values, start, index
    dvalues = _call("values", _floats(*values.shape), *operands, inputs=np.int64(shape[0]))
    return _call("inputs", _floats(dy.shape[0], shape[0]), dy, values, start, index), dvalues, None, None


_product.defvjp(_forward, _backward)


def is_product(equation: core.JaxprEqn, place: int) -> bool:
    """Whether an equation multiplies by its operand at ``place`` as a layer does: ``x @ W`` in float32."""
    if equation.primitive.name != "dot_general" or place != 1:
        return False
    avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    left, right, _ = avals
    contracted, batched = equation.params["dimension_numbers"]
    last = left.ndim - 1
    floats = all(aval.dtype == jnp.float32 for aval in avals)
    return floats and right.ndim == 2 and contracted == ((last,), (0,)) and batched == ((), ()) and last > 0


def _rule(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    held = [place for place, operand in enumerate(operands) if isinstance(operand, Compressed)]
    if not held or equation.primitive.name in rewriting.CALLS + rewriting.CHECKPOINTS:
        return None
    if held == [1] and is_product(equation, 1):
        return [product(*operands)]
    return rewriting.bind(equation, [_dense(operand) for operand in operands])


def _dense(operand: Any) -> Any:
    return (
        expand(operand.values, operand.where, operand.shape) if isinstance(operand, Compressed) else operand
    )


Apply = Callable[..., tuple[Any, Collections]]
"""A model: ``(params, collections, inputs, key)`` to outputs and collections, see ``models.Network``."""


def with_compressed(model: Apply, shapes: PyTree, structures: Sequence[Structure | None]) -> Apply:
    """The model given some of its kernels compressed.

    Args:
      model: with dense kernels.
      shapes: of its parameters.
      structures: one for each leaf, ``None`` where it stays dense.
    """
    dense, tree = jax.tree.flatten(shapes)

    def apply(
        params: Params, collections: Collections, inputs: Any, key: PRNGKey | None = None
    ) -> tuple[Any, Collections]:
        def whole(*leaves: Array) -> Any:
            return model(jax.tree.unflatten(tree, leaves), collections, inputs, key)

        program, shape = jax.make_jaxpr(whole, return_shape=True)(*dense)
        given = [
            leaf if where is None else Compressed(leaf, where, kernel.shape)
            for leaf, where, kernel in zip(jax.tree.leaves(params), structures, dense, strict=True)
        ]
        found = rewriting.evaluate(program.jaxpr, program.consts, given, _rule)
        return jax.tree.unflatten(jax.tree.structure(shape), map(_dense, found))

    return apply


class Use(NamedTuple):
    """How a layer's kernel is used: so many rows meet it at once, and whether their gradient is asked for."""

    rows: int
    gradient: bool


def uses(model: Apply, shapes: PyTree, collections: Any, inputs: Any, key: Any = None) -> list[Use | None]:
    """How each parameter is used, ``None`` where it is anything but the right side of one matrix product.

    Args:
      model: the model.
      shapes: of its parameters.
      collections: or their shapes.
      inputs: of a batch, or their shapes.
      key: as in training, or its shape.
    """
    leaves, tree = jax.tree.flatten(shapes)

    def whole(leaves: Sequence[Array], others: Any) -> Any:
        return model(jax.tree.unflatten(tree, leaves), *others)

    program = jax.make_jaxpr(whole)(leaves, (collections, inputs, key))
    found: list[list[Use | None]] = [[] for _ in leaves]
    held: dict[Any, int | None] = dict(zip(program.jaxpr.invars, range(len(leaves)), strict=False))
    _collect(program.jaxpr, held, found)
    return [seen[0] if len(seen) == 1 else None for seen in found]


def _collect(program: core.Jaxpr, held: dict[Any, int | None], found: list[list[Use | None]]) -> None:
    """Finds the uses of what is held: parameters by their number, what depends on them as ``None``."""
    for equation in program.eqns:
        atoms = [None if isinstance(atom, core.Literal) else atom for atom in equation.invars]
        if equation.primitive.name in rewriting.CALLS + rewriting.CHECKPOINTS:
            inside = equation.params["jaxpr"]
            inside = getattr(inside, "jaxpr", inside)
            within = {var: held[atom] for var, atom in zip(inside.invars, atoms, strict=True) if atom in held}
            _collect(inside, within, found)
        else:
            for place, atom in enumerate(atoms):
                if atom is not None and held.get(atom) is not None:
                    left: Any = equation.invars[0].aval
                    use = is_product(equation, place) and Use(left.size // left.shape[-1], atoms[0] in held)
                    found[held[atom]].append(use or None)  # type: ignore[index]
        if any(atom in held for atom in atoms if atom is not None):
            held.update(dict.fromkeys(equation.outvars, None))
    for atom in program.outvars:
        if not isinstance(atom, core.Literal) and held.get(atom) is not None:
            found[held[atom]].append(None)  # type: ignore[index]
