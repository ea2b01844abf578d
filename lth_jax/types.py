# pyright: reportUndefinedVariable=false
"""The words of the library as types.

A *parameter tree* is what a Flax module calls ``params``. A *mask* is a tree of the same structure and
shapes whose leaves are bool: ``True`` is a kept weight, ``False`` a pruned one, which is exactly 0 at every
step. Everything below describes one run; the run axis is added by :mod:`lth_jax.runs.axis` alone.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Scalar, Shaped

Params: TypeAlias = PyTree[Float[Array | np.ndarray, "?*shape"], "T"]
Mask: TypeAlias = PyTree[Bool[Array | np.ndarray, "?*shape"], "T"]
Scores: TypeAlias = PyTree[Float[Array | np.ndarray, "?*shape"], "T"]
"""Trees of one structure: in one call, and in the fields of one tuple, leaf by leaf of one shape."""
Stacked: TypeAlias = PyTree[Float[Array | np.ndarray, "..."]]
"""Parameter trees of several networks, their leaves with leading axes."""
PRNGKey: TypeAlias = Key[Array, ""]
Shapes: TypeAlias = PyTree[Any]
"""The tree of the parameters with ``jax.ShapeDtypeStruct`` leaves, or the parameters themselves."""
Images: TypeAlias = Shaped[Array | np.ndarray, "*batches examples height width channels"]
Labels: TypeAlias = Int[Array | np.ndarray, "*batches examples"]
Collections: TypeAlias = PyTree[Any]
"""A Flax module's variables other than its parameters (batch statistics …); ``{}`` when it has none."""

Whole: TypeAlias = Any
"""A whole number: an int, or what equals one (2.0, a scalar of NumPy or JAX), see ``errors.whole_number``."""

Step: TypeAlias = int | Int[Scalar, ""] | jax.Array


class Split(NamedTuple):
    """Images and labels: pixels 0 … 255 as uint8, or scaled floats; labels 0 … classes − 1."""

    images: Images
    labels: Labels


Metrics: TypeAlias = dict[str, Float[Array | np.ndarray, "..."]]
"""Means over a set of examples, by name: ``loss``, ``accuracy`` (a fraction in [0, 1]) and so on."""
