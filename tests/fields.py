"""Fields of NamedTuples are checked like arguments of functions: their annotations hold, and together."""

import importlib
import pkgutil
import sys
import typing

import jax
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from jaxtyping import jaxtyped

checked_with_tower = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""The checker of annotations: an int is a float, as for static checkers."""

SKIPPED = ("on_torch", "on_jax", "__main__")
"""Modules that are programs of their own."""


def modules_of(*packages):
    """All modules of some packages, imported."""
    for name in packages:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith(SKIPPED):
                yield importlib.import_module(found.name)


def check_named_tuples(*packages):
    """Let every NamedTuple of some packages check its fields whenever it is made of arrays."""
    for module in modules_of(*packages):
        for kind in vars(module).values():
            if isinstance(kind, type) and hasattr(kind, "_fields") and kind.__module__ == module.__name__:
                check_fields(kind)


def hints_of(kind):
    """A NamedTuple's annotations; an optimizer's state is whatever Optax makes it."""
    scope = {**vars(sys.modules[kind.__module__]), "ArrayTree": typing.Any}
    hints = typing.get_type_hints(kind, scope)
    return {field: hint for field, hint in hints.items() if field != "opt_state"}


def array_kind(leaf):
    """``Array`` for JAX's, ``ndarray`` for NumPy's, nothing for whatever else JAX makes trees of."""
    return "Array" if isinstance(leaf, jax.Array) else "ndarray" if isinstance(leaf, np.ndarray) else ""


def check_fields(kind):
    """Let one NamedTuple check its fields: together, so that an axis of one name has one length.

    JAX makes tuples of other things than arrays (shapes, specifications, markers): those pass.
    """
    hints, make = hints_of(kind), kind.__new__

    def checked(cls, *values, **named):
        made = make(cls, *values, **named)
        kinds = {array_kind(leaf) for leaf in jax.tree.leaves(tuple(made))}
        if kinds in ({"Array"}, {"ndarray"}):
            with jaxtyped("context"):
                for field, hint in hints.items():
                    if kinds == {"ndarray"} and "ndarray" not in repr(hint):
                        continue
                    value = getattr(made, field)
                    if not is_bearable(value, hint):
                        shown = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", value)
                        raise TypeError(f"{kind.__name__}.{field} is {shown}, expected {hint}")
        return made

    kind.__new__ = checked
