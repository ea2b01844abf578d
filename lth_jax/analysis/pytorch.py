"""A ticket as PyTorch has it: names, layouts and order of inputs of a ``state_dict``.

| Flax | | PyTorch | |
| --- | --- | --- | --- |
| ``Dense`` ``kernel`` | ``[in, out]`` | ``Linear`` ``weight`` | ``[out, in]`` |
| ``Conv`` ``kernel`` | ``[rows, columns, in, out]`` | ``Conv2d`` ``weight`` | ``[out, in, rows, columns]`` |
| a norm's ``scale`` | ``[features]`` | ``weight`` | ``[features]`` |
| BatchNorm's ``mean``, ``var`` | ``[features]`` | ``running_mean``, ``running_var`` | ``[features]`` |
| ``Embed`` ``embedding`` | ``[entries, features]`` | ``Embedding`` ``weight`` | ``[entries, features]`` |

A layer ``block_0/conv`` is called ``block_0.conv``. Behind a flattened image, whose channels Flax has last
and ``nn.Flatten`` of PyTorch first, inputs are put into PyTorch's order, see
:mod:`~lth_jax.analysis.layouts`; outputs that are made an image are not.
What is no such layer keeps its layout and its name, and is listed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lth_jax.analysis import layouts
from lth_jax.analysis.ticket_files import Flat, flat
from lth_jax.errors import require
from lth_jax.models import Network

NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""What PyTorch calls an array of a layer."""


class StateDict(NamedTuple):
    """Arrays by PyTorch's names, and what was done to them, by those names.

    ``tensors``: the arrays. ``names``: ours of each. ``reordered``: their inputs were put into the order of
    a flattened image with its channels first. ``unordered``: what order their inputs are in is not known, and
    left. ``kept``: no known layer: layout and name are Flax's.
    """

    tensors: dict[str, np.ndarray]
    names: dict[str, str]
    reordered: list[str]
    unordered: list[str]
    kept: list[str]


def state_dict(
    network: Network, inputs: Any, params: Flat, mask: Flat, collections: Flat, masks: bool = False
) -> StateDict:
    """A ticket's parameters and collections in PyTorch's layout.

    Args:
      network: whose they are.
      inputs: an example of what it is given, a leading axis *example* on every leaf.
      params: its weights by name, the pruned ones 0.
      mask: bools by the same names, True is kept.
      collections: its other variables by name; ``{}`` if they are not known.
      masks: give every matrix and filter bank of a known layer as ``weight_orig`` and ``weight_mask``, as
        ``torch.nn.utils.prune`` calls them, in place of ``weight``.

    Raises:
      InputError: the parameters are another network's.
    """
    shapes, others = jax.eval_shape(network.init, jax.random.key(0), inputs)
    same = {name: leaf.shape for name, leaf in flat(shapes).items()}
    fits = same == {name: leaf.shape for name, leaf in params.items()}
    require(fits, "pytorch: the ticket's parameters are not those of this network")
    used = layouts.uses(network, shapes, others, inputs)
    made = StateDict({}, {}, [], [], [])
    for name, leaf in {**params, **collections}.items():
        put, called = _place(name, leaf, used), _torch_name(name)
        if not put.known or called in made.names:  # PyTorch would call two arrays alike
            put, called = Place(tuple(range(leaf.ndim)), known=False), name.replace("/", ".")
            made.kept.append(called)
        split = masks and put.known and name in params and leaf.ndim >= 2
        parts = {"_orig": leaf, "_mask": mask[name].astype(leaf.dtype)} if split else {"": leaf}
        made.tensors.update({called + suffix: _turned(part, put) for suffix, part in parts.items()})
        made.names[called] = name
        if put.inputs is not None:
            made.reordered.append(called)
        if put.unordered:
            made.unordered.append(called)
    return made


class Place(NamedTuple):
    """How an array becomes PyTorch's: the order of its axes, and before it that along the first of them."""

    axes: tuple[int, ...]
    inputs: np.ndarray | None = None
    known: bool = True
    unordered: bool = False


def _place(name: str, leaf: np.ndarray, used: layouts.Uses) -> Place:
    """How a parameter or statistic becomes PyTorch's."""
    kind, same = name.rpartition("/")[2], tuple(range(leaf.ndim))
    if name in used.convolution:
        return Place(used.convolution[name])
    if kind == "kernel" and leaf.ndim == 2:
        read = used.dense.get(name)
        return Place((1, 0), layouts.torch_order(read), unordered=read is None)
    if leaf.ndim == 1 and (kind == "bias" or kind in NAMES):
        return Place(same, layouts.torch_order(used.vector.get(name)))
    return Place(same, known=kind == "embedding")


def _torch_name(name: str) -> str:
    """``block_0/conv/kernel`` as ``block_0.conv.weight``, without a collection's name before it."""
    *layer, kind = name.removeprefix("batch_stats/").split("/")
    return ".".join([*layer, NAMES.get(kind, kind)])


def _turned(leaf: np.ndarray, put: Place) -> np.ndarray:
    """The array as PyTorch has it."""
    ordered = leaf if put.inputs is None else leaf[put.inputs]
    return np.asarray(ordered.transpose(put.axes), order="C")


def as_card(made: StateDict) -> dict[str, Any]:
    """What a card says of the layout."""
    return {"layout": "pytorch", **{name: getattr(made, name) for name in made._fields if name != "tensors"}}


def said(layout: Mapping[str, Any]) -> list[str]:
    """What people should know of the layout, from a card: a line each."""
    lines = []
    if names := layout["reordered"]:
        lines.append(f"inputs in the order of nn.Flatten, channels first: {', '.join(names)}")
    if names := layout["unordered"]:
        lines.append(f"the order of inputs is not known, and Flax's: {', '.join(names)}")
    if names := layout["kept"]:
        lines.append(f"no layer of PyTorch's, layout and name are Flax's: {', '.join(names)}")
    return lines
