"""Smaller networks: a pruned one without its dead units and channels, dense, and with the same outputs.

A unit is dead where nothing reads it, or where nothing enters it and its bias is 0: then it says 0, if the
activation of 0 is 0 (ReLU, tanh, GELU …, not the logistic function). Taking it out takes connections from
others, which may die of it, so it is done until nothing changes. A unit that nothing enters but whose bias is
not 0 says the same of every input; it stays while something reads it. Prune biases with their units
(``units.restrict``) and it is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lth_jax.errors import require
from lth_jax.types import Mask, Params


class Shrunk(NamedTuple):
    """A smaller network: its parameters, and which units each layer has kept.

    ``params`` are those of the same module with the ``widths`` of :attr:`units`: ``MLP(widths[:-1],
    widths[-1])``. Within a layer the order of units is what it was.
    """

    params: Any
    units: dict[str, np.ndarray]

    @property
    def widths(self) -> list[int]:
        """How many units or channels each layer has."""
        return [len(kept) for kept in self.units.values()]


def shrink(params: Params, mask: Mask, layers: Sequence[str]) -> Shrunk:
    """Take the dead units and channels out of an MLP or a plain convolutional network.

    Args:
      params: ``{layer: {"kernel", "bias"}}``: dense kernels ``[in, out]``, filters ``[*window, in, out]``; a
        bias may be missing.
      mask: what is kept of them.
      layers: all of them in the network's order, each read by the next and by nothing else; a dense layer
        after a convolution reads its channels flattened, ``[height · width · channels]``.

    Returns:
      The smaller network. The last layer keeps all its units, every other one at least one.

    Raises:
      InputError: a layer is missing, or does not read the one before it.
    """
    tree: Mapping[str, Any] = jax.tree.map(np.asarray, params)
    names = ", ".join(sorted(tree))
    require(
        len(layers) > 0 and sorted(layers) == sorted(tree),
        f"layers {', '.join(layers)}: the model has {names}",
    )
    kept_of: Mapping[str, Any] = mask
    weights = {name: np.where(kept_of[name]["kernel"], tree[name]["kernel"], 0) for name in layers}
    biases = {
        name: np.where(kept_of[name]["bias"], tree[name]["bias"], 0)
        for name in layers
        if "bias" in tree[name]
    }
    kept = {name: np.ones(weights[name].shape[-1], bool) for name in layers}
    for above, name in zip(layers[1:], layers, strict=False):
        _check(name, above, weights)
    changed = True
    while changed:
        changed = False
        for place, name in enumerate(layers[:-1]):
            reads, entered = _read(weights, kept, layers, place), _entered(weights, kept, layers, place)
            speaks = biases[name] != 0 if name in biases else np.zeros_like(entered)
            alive = kept[name] & reads & (entered | speaks)
            if not alive.any():
                alive[np.argmax(kept[name])] = True
            changed |= bool((alive != kept[name]).any())
            kept[name] = alive
    smaller = jax.tree.map(jnp.asarray, _without(weights, biases, kept, layers))
    return Shrunk(smaller, {name: np.flatnonzero(kept[name]) for name in layers})


def _check(name: str, above: str, weights: Mapping[str, Any]) -> None:
    own, following = weights[name].shape, weights[above].shape
    flattened = len(following) == 2 and following[0] % own[-1] == 0 and len(own) > 2
    reads = following[-2] == own[-1] or flattened
    require(
        reads, f"{above} {list(following)} does not read {name} {list(own)}: name the layers in their order"
    )


def _inputs(kernel: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Which inputs of a layer remain, of the units before it: as often as they are repeated."""
    return np.tile(before, kernel.shape[-2] // len(before))


def _entered(weights: Mapping, kept: Mapping, layers: Sequence[str], place: int) -> np.ndarray:
    """Which of a layer's units something enters."""
    kernel = weights[layers[place]]
    if place:
        kernel = kernel[..., _inputs(kernel, kept[layers[place - 1]]), :]
    return (kernel != 0).reshape(-1, kernel.shape[-1]).any(0)


def _read(weights: Mapping, kept: Mapping, layers: Sequence[str], place: int) -> np.ndarray:
    """Which of a layer's units the layer above reads."""
    above = layers[place + 1]
    kernel = weights[above][..., kept[above]]
    units = len(kept[layers[place]])
    read = (kernel != 0).reshape(-1, kernel.shape[-2], kernel.shape[-1]).any((0, 2))
    return read.reshape(-1, units).any(0)


def _without(weights: Mapping, biases: Mapping, kept: Mapping, layers: Sequence[str]) -> dict[str, Any]:
    """The parameters of what remains."""
    found: dict[str, Any] = {}
    for place, name in enumerate(layers):
        kernel = weights[name][..., kept[name]]
        if place:
            kernel = kernel[..., _inputs(weights[name], kept[layers[place - 1]]), :]
        found[name] = {"kernel": kernel}
        if name in biases:
            found[name]["bias"] = biases[name][kept[name]]
    return found
