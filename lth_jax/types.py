"""The words of the library as types.

A *parameter tree* is what a Flax module calls ``params``. A *mask* is a tree of the same structure and
shapes whose leaves are bool: ``True`` is a kept weight, ``False`` a pruned one, which is exactly 0 at every
step. Everything below describes one run; the run axis is added by :mod:`lth_jax.parallel` alone.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Scalar, UInt8

Params: TypeAlias = PyTree[Float[Array, "..."]]
Mask: TypeAlias = PyTree[Bool[Array, "..."]]
Scores: TypeAlias = PyTree[Float[Array, "..."]]
PRNGKey: TypeAlias = Key[Array, ""]
Shapes: TypeAlias = PyTree[Any]
"""The tree of the parameters with ``jax.ShapeDtypeStruct`` leaves, or the parameters themselves."""
Images: TypeAlias = UInt8[Array, "examples height width channels"]
Labels: TypeAlias = Int[Array, " examples"]
Collections: TypeAlias = PyTree[Any]
"""A Flax module's variables other than its parameters (batch statistics …); ``{}`` when it has none."""

Step: TypeAlias = int | Int[Scalar, ""] | jax.Array


class Split(NamedTuple):
    """Examples as they lie on the device: pixels 0 … 255 as uint8, labels 0 … classes − 1."""

    images: Images
    labels: Labels


class Metrics(NamedTuple):
    """Mean cross-entropy (nats) and accuracy (fraction in [0, 1]) over a set of examples."""

    loss: Float[Array, "*evaluations"]
    accuracy: Float[Array, "*evaluations"]
