"""Random streams: one key per seed, one named stream for each use of randomness.

A run owns ``jax.random.key(seed)`` and nothing else, so its numbers do not depend on which other runs are
trained beside it, and two runs of one seed share a stream exactly when they ask for it by the same name.
"""

import jax
from jaxtyping import Array, Int, PyTree

from lth_jax.types import PRNGKey

STREAMS = ("init", "order", "model", "default_init", "reinit", "shuffle", "mask", "sample", "score", "child")
"""Names of the streams. Their position is part of every published number: append, never reorder."""

IMPLEMENTATION = "threefry2x32"
"""Of the keys, whatever ``JAX_DEFAULT_PRNG_IMPL`` says: others let a draw depend on the runs beside it."""


def stream(seed: int | Int[Array, ""], name: str, *indices: int | Int[Array, ""]) -> PRNGKey:
    """The key of one named use of randomness in a run.

    Args:
      seed: the run's seed.
      name: one of ``STREAMS``: initialization, order of examples, the model's own noise (dropout) …
      *indices: what tells repeated uses apart, such as the level or the trial.

    Returns:
      A typed PRNG key.

    Raises:
      ValueError: the stream's name is unknown.
    """
    if name not in STREAMS:
        raise ValueError(f"unknown random stream {name!r}; expected one of {', '.join(STREAMS)}")
    key = jax.random.fold_in(jax.random.key(seed, impl=IMPLEMENTATION), STREAMS.index(name))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def uniform_like(key: PRNGKey, tree: PyTree) -> PyTree:
    """A tree of that structure and those shapes, drawn from [0, 1), each leaf from a stream of its own."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(key, place) for place in range(len(leaves))]
    drawn = [jax.random.uniform(own, leaf.shape) for own, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)
