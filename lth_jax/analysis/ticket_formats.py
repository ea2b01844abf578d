"""One ticket for others: safetensors of ours, PyTorch's ``state_dict``, an Orbax checkpoint, CSR matrices.

| format | the file | what is in it |
| --- | --- | --- |
| ``safetensors`` | ``NAME.safetensors`` | weights and mask, see :mod:`~lth_jax.analysis.ticket_files` |
| ``pytorch`` | ``NAME.safetensors`` | PyTorch's names and layouts, see :mod:`~lth_jax.analysis.pytorch` |
| ``pytorch`` | ``NAME.pt`` | the same by ``torch.save``, where PyTorch is installed |
| ``orbax`` | the folder ``NAME`` | the tree ``{params, mask}``, and trained weights' ``collections`` |
| ``csr`` | ``NAME.npz`` | a kernel ``[*window, in, out]`` as the matrix ``[window · in, out]`` |

In a ``csr`` file ``params/LAYER/kernel/data``, ``…/indices``, ``…/indptr`` and ``…/shape`` are what
``scipy.sparse.csr_matrix((data, indices, indptr), shape)`` takes: the kept weights, those too that are 0.
What has fewer than two axes is there as it is. NumPy's files know no bfloat16: such weights become float32,
exactly.

Every ticket has one card, beside its file and called as it is, with ``.json`` behind it: ``a.npz.json``,
``a.safetensors.json``; in a folder it is ``card.json``.
"""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save

from lth_jax.analysis import pytorch, sparsity, ticket_files
from lth_jax.analysis.ticket_files import CARD, Flat, card_path, flat, nested
from lth_jax.errors import InputError, require
from lth_jax.models import as_network
from lth_jax.places import user_path
from lth_jax.runs import checkpoints
from lth_jax.runs.storage import write_text, write_whole
from lth_jax.types import Collections

FORMATS = ("safetensors", "pytorch", "orbax", "csr")
SUFFIXES = {".safetensors": ("safetensors", "pytorch"), ".pt": ("pytorch",), ".npz": ("csr",), "": ("orbax",)}
"""What a file of such a name may be, the first of them unless another is asked for."""
ENDINGS = {"safetensors": ".safetensors", "pytorch": ".pytorch.safetensors", "orbax": "", "csr": ".npz"}
"""What a ticket's file of a format ends in where nobody has named it."""


class Contents(NamedTuple):
    """What is written of a ticket: weights (the pruned ones 0), bools, other variables, by name; its card.

    ``network`` and ``inputs``, an example of what it is given, tell the layers for PyTorch; ``masks`` asks
    for its ``weight_mask``.
    """

    params: Flat
    mask: Flat
    collections: Flat
    card: Mapping[str, Any]
    network: Any = None
    inputs: Any = None
    masks: bool = False


def export_ticket(
    path: str | Path,
    params: PyTree,
    mask: PyTree,
    *,
    format: str | None = None,
    network: Any = None,
    inputs: Any = None,
    collections: Collections | None = None,
    card: Mapping[str, Any] | None = None,
    masks: bool = False,
) -> dict[str, Any]:
    """Write a ticket of any model in one of ``FORMATS``, and its card.

    >>> params, mask = tickets.ticket(42, level=3)  # doctest: +SKIP
    >>> export_ticket("a.pt", params, mask, network=net, inputs=images[:1])  # doctest: +SKIP

    Args:
      path: where.
      params: its weights; the pruned ones are written as 0.
      mask: a tree of the same structure, True is kept.
      format: one of ``FORMATS``; what the name of the file says unless given.
      network: the model, as ``find_tickets`` takes it; for PyTorch.
      inputs: an example of what it is given, a leading axis *example* on every leaf; for PyTorch.
      collections: the model's other variables after training.
      card: what the card should say besides.
      masks: for PyTorch: write ``weight_orig`` and ``weight_mask`` in place of ``weight``.

    Returns:
      The card.

    Raises:
      InputError: name and format contradict each other, the trees do not fit together, or what is asked for
        needs PyTorch, which is not installed.
      StorageError: it cannot be written.
    """
    weights, kept, others = (
        {n: np.asarray(leaf) for n, leaf in flat(t).items()} for t in (params, mask, collections or {})
    )
    fits = weights.keys() == kept.keys() and all(kept[n].shape == weights[n].shape for n in weights)
    require(fits, "mask: expected a tree of the same structure and shapes as params")
    weights = {name: np.where(kept[name], leaf, leaf.dtype.type(0)) for name, leaf in weights.items()}
    said = {"format": "lth_jax ticket 1", "bytes": sparsity.sizes(kept, weights), **(card or {})}
    model = None if network is None else as_network(network)
    contents = Contents(weights, kept, others, said, model, inputs, masks)
    place = user_path(path)
    return write(place, check_name(place, format, "path"), contents)


def check_name(path: Path, format: str | None, flag: str = "--out") -> str:
    """The format of a file of that name.

    Raises:
      InputError: there is no such format, it is not that of such a file, or it cannot be written here.
    """
    require(format in (None, *FORMATS), f"--format {format}: expected one of {', '.join(FORMATS)}")
    suffix = path.suffix.lower()
    possible = SUFFIXES.get(suffix, ("safetensors", "orbax"))
    require(suffix != ".json", f"{flag} {path}: expected a name like ticket.safetensors")
    chosen = possible[0] if format is None else format
    ends = [end or "no suffix, a folder" for end, formats in SUFFIXES.items() if chosen in formats]
    require(chosen in possible, f"{flag} {path}: the format {chosen} has {' or '.join(ends)}")
    missing = suffix == ".pt" and importlib.util.find_spec("torch") is None
    require(
        not missing,
        f"{flag} {path}: PyTorch is not installed; --format pytorch --out NAME.safetensors needs none",
    )
    if chosen == "orbax":
        ours = not path.exists() or (path / CARD).is_file() or (path.is_dir() and not any(path.iterdir()))
        require(ours, f"{flag} {path}: is a file or a folder of something else")
    require(chosen == "orbax" or not path.is_dir(), f"{flag} {path}: is a folder; name a file")
    return chosen


def write(path: Path, format: str, contents: Contents) -> dict[str, Any]:
    """Write a ticket and its card; the card. ``format`` is what :func:`check_name` has given.

    Raises:
      InputError: PyTorch's layouts are asked for, and the network is not said or is another one.
      StorageError: it cannot be written.
    """
    return {"safetensors": _safetensors, "pytorch": _pytorch, "orbax": _orbax, "csr": _csr}[format](
        path, contents
    )


def _safetensors(path: Path, contents: Contents) -> dict[str, Any]:
    """The file that ``load_ticket`` reads."""
    params, mask, collections, card, *_ = contents
    ticket_files.save_ticket(path, params, mask, card, collections)
    return dict(card)


def _pytorch(path: Path, contents: Contents) -> dict[str, Any]:
    """A ``state_dict``: by ``torch.save`` as ``.pt``, or as safetensors."""
    params, mask, collections, card, network, inputs, masks = contents
    if network is None or inputs is None:
        raise InputError("pytorch: say network and inputs, which tell the layers")
    made = pytorch.state_dict(network, inputs, params, mask, collections, masks)
    card = {**card, "file": pytorch.as_card(made)}
    content = save(made.tensors, metadata={"format": "pt", "card": json.dumps(card)})
    if path.suffix.lower() == ".pt":
        torch, readers = map(importlib.import_module, ("torch", "safetensors.torch"))
        tensors = readers.load(content)  # which knows bfloat16
        write_whole(path, lambda aside: torch.save(tensors, aside))
    else:
        write_whole(path, lambda aside: aside.write_bytes(content))
    return _with_card(path, card)


def _orbax(path: Path, contents: Contents) -> dict[str, Any]:
    """A folder that Orbax reads as ``{params, mask}``."""
    card = {**contents.card, "file": {"layout": "orbax"}}
    named = {"params": contents.params, "mask": contents.mask, "collections": contents.collections}
    tree = {
        name: nested({key: np.asarray(leaf) for key, leaf in leaves.items()})
        for name, leaves in named.items()
        if leaves
    }
    checkpoints.write_alone(path, tree, {CARD: json.dumps(card, indent=2) + "\n"})
    return card


def _csr(path: Path, contents: Contents) -> dict[str, Any]:
    """SciPy's four arrays of each matrix in one file of NumPy's."""
    params, mask, collections, card, *_ = contents
    params, collections = (
        {name: _for_numpy(leaf) for name, leaf in leaves.items()} for leaves in (params, collections)
    )
    arrays = {f"collections/{name}": leaf for name, leaf in collections.items()}
    for name, leaf in params.items():
        parts = compressed(leaf, mask[name]) if leaf.ndim >= 2 else {"": leaf}
        arrays |= {f"params/{name}/{part}".rstrip("/"): array for part, array in parts.items()}
    shapes = {name: list(leaf.shape) for name, leaf in params.items() if leaf.ndim > 2}
    card = {**card, "bytes": sparsity.sizes(mask, params), "file": {"layout": "csr", "kernel_shapes": shapes}}
    save_arrays: Any = np.savez

    def fill(aside: Path) -> None:
        with aside.open("wb") as file:
            save_arrays(file, **arrays)

    write_whole(path, fill)
    return _with_card(path, card)


def compressed(leaf: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    """A kernel ``[*window, in, out]`` as the matrix ``[window · in, out]`` in CSR: SciPy's arrays by name.

    Args:
      leaf: its weights.
      kept: bools of the same shape: what is in ``data``, whether it is 0 or not.
    """
    columns = leaf.shape[-1]
    matrix, chosen = leaf.reshape(-1, columns), kept.reshape(-1, columns)
    rows, indices = np.nonzero(chosen)
    starts = np.concatenate([[0], np.cumsum(chosen.sum(1))])
    index = np.int32 if max(chosen.size, 1) <= np.iinfo(np.int32).max else np.int64
    return {
        "data": matrix[rows, indices],
        "indices": indices.astype(index),
        "indptr": starts.astype(index),
        "shape": np.asarray(matrix.shape),
    }


def _for_numpy(leaf: np.ndarray) -> np.ndarray:
    """The array in a type that NumPy's files know."""
    return leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf


def _with_card(path: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write the card beside a file."""
    write_text(card_path(path), json.dumps(card, indent=2) + "\n")
    return dict(card)
