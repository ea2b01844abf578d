"""What sparsity saves: bytes in three formats, and the time of inference with sparse kernels against dense.

A sparse matrix keeps each weight's place beside its value, four bytes an index: CSR a column for each weight
and a start for each row, BCOO (``jax.experimental.sparse``) a row and a column for each weight. So CSR is the
smaller of the two, and smaller than dense once less than about half of the weights are kept, BCOO once less
than a third is. Whether it is also faster depends on the machine, which is why it is measured.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from lth_jax.errors import require
from lth_jax.models import Network
from lth_jax.tickets.masks import path_names
from lth_jax.types import Collections, Mask, Params

INDEX = 4
"""Bytes of an int32."""

BATCHES = (1, 1024)
"""Images in one timed call."""


class Times(NamedTuple):
    """Median seconds of one call, dense and with BCOO kernels."""

    dense: float
    bcoo: float


def sizes(mask: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Bytes of all parameters at their own precision, where kernels are kept dense, as CSR and as BCOO.

    Args:
      mask: a bool array for each parameter, by name. A kernel ``[*window, in, out]`` counts as the matrix
        ``[window · in, out]``; what has fewer axes stays dense.
      params: the parameters themselves, by the same names.
    """
    value = {name: params[name].dtype.itemsize for name in mask}
    dense = {name: value[name] * m.size for name, m in mask.items()}
    rows = {name: m.size // m.shape[-1] for name, m in mask.items() if m.ndim >= 2}
    kept = {name: int(m.sum()) for name, m in mask.items()}
    csr = {name: kept[name] * (value[name] + INDEX) + (rows[name] + 1) * INDEX for name in rows}
    bcoo = {name: kept[name] * (value[name] + 2 * INDEX) for name in rows}
    return {
        "dense": sum(dense.values()),
        "csr": sum({**dense, **csr}.values()),
        "bcoo": sum({**dense, **bcoo}.values()),
    }


def sparse_kernels(params: Params, mask: Mask) -> dict[str, sparse.BCOO]:
    """The pruned matrices of a parameter tree as BCOO, by their layer's name: ``hidden_0``."""
    kernels = zip(jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True)
    found = {}
    for (path, leaf), m in kernels:
        *layer, kind = path_names(path)
        if kind == "kernel" and leaf.ndim == 2 and not np.all(m):
            found["/".join(layer)] = sparse.BCOO.fromdense(leaf, nse=int(np.sum(m)))
    return found


def forward_sparse(
    network: Network,
    kernels: Mapping[str, sparse.BCOO],
    params: Params,
    collections: Collections,
    images: jax.Array,
) -> jax.Array:
    """The network's logits, its ``nn.Dense`` layers multiplying by sparse kernels where there are some.

    Args:
      network: made from a Flax module.
      kernels: from :func:`sparse_kernels`.
      params: all parameters; dense kernels that have a sparse one are not looked at.
      collections: the model's other variables.
      images: float, ``[batch, height, width, channels]``.

    Raises:
      InputError: no layer with a sparse kernel is a plain ``nn.Dense``.
    """
    met = []

    def multiply(call: Callable[..., Any], inputs: tuple, options: dict, context: Any) -> Any:
        layer, name = context.module, "/".join(context.module.path)
        if type(layer) is not nn.Dense or context.method_name != "__call__" or name not in kernels:
            return call(*inputs, **options)
        met.append(name)
        out = inputs[0] @ kernels[name]
        if not layer.use_bias:
            return out
        return out + jnp.broadcast_to(layer.get_variable("params", "bias"), out.shape)

    with nn.intercept_methods(multiply):
        logits = network.apply(params, collections, images, None)[0]
    require(bool(met), "--measure: no pruned layer is a flax.linen.Dense; take a --level after the first")
    return logits


def measure(
    network: Network,
    params: Params,
    mask: Mask,
    collections: Collections,
    image_shape: Sequence[int],
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
) -> dict[int, Times]:
    """Time inference here, dense and sparse, at some batch sizes.

    Args:
      network: the model.
      params: its parameters, masked.
      mask: what is kept.
      collections: its other variables.
      image_shape: height, width, channels.
      batches: images in one call.
      seconds: spent on each measurement, compilation left out.

    Raises:
      InputError: there is nothing sparse in it, see :func:`forward_sparse`.
    """
    kernels, measured = sparse_kernels(params, mask), {}
    dense = jax.jit(lambda p, x: network.apply(p, collections, x, None)[0])
    thin = jax.jit(lambda k, p, x: forward_sparse(network, k, p, collections, x))
    sample = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(thin, kernels, params, sample)  # refuses before anything is timed
    for batch in batches:
        measured[batch] = Times(
            seconds_of(dense, (params,), image_shape, batch, seconds),
            seconds_of(thin, (kernels, params), image_shape, batch, seconds),
        )
    return measured


def seconds_of(
    forward: Callable[..., Any],
    arguments: Sequence[Any],
    image_shape: Sequence[int],
    batch: int,
    seconds: float = 1.0,
) -> float:
    """What one call of a compiled network takes here, in seconds.

    Args:
      forward: takes ``arguments``, and images last.
      arguments: its parameters …
      image_shape: height, width, channels.
      batch: images in one call.
      seconds: spent on the measurement, compilation left out.
    """
    images = jax.random.uniform(jax.random.key(0), (batch, *image_shape))
    return _median_seconds(forward, (*arguments, images), seconds)


def _median_seconds(function: Callable[..., Any], arguments: Sequence[Any], seconds: float) -> float:
    """The median of one call's seconds, over as many calls as fit, at least one, after two to warm up."""
    for _ in range(2):
        jax.block_until_ready(function(*arguments))
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return float(np.median(times))
