"""Tickets on disk: those of a whole sweep, small; and one of them for anybody, as safetensors.

``tickets.npz`` in a sweep's folder holds the masks of every seed and level, a bit a weight, and of the
weights that they start from only what their seed cannot give again. Where drawing θ0 from the seed gives the
same bits, its digest stands for it, and :func:`read` checks what it has drawn. θ_k, and the weights of a
sweep that never rewinds, come from training, and are stored.

An exported ticket is a safetensors file: ``params/LAYER/kernel`` the weights that training starts from, the
pruned ones 0, ``mask/LAYER/kernel`` bools, True is kept; and a card, in its metadata and as JSON beside it.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lth_jax.analysis import ticket_checks
from lth_jax.errors import InputError, require
from lth_jax.places import user_path
from lth_jax.runs.results import TICKETS as TICKETS
from lth_jax.runs.storage import write_text, write_whole
from lth_jax.tickets.masks import path_names

CARD = "card.json"
HALVES = "bfloat16"
"""In a file of tickets: the names of the arrays that are bfloat16, stored as uint16."""

Flat = Mapping[str, np.ndarray]
"""A tree's arrays by their names: ``hidden_0/kernel``."""


class SavedTicket(NamedTuple):
    """One ticket: the weights that training starts from (the pruned ones 0), the mask, and where it is from.

    ``params`` and ``mask`` are trees like the module's parameters, of NumPy arrays; True is kept.
    """

    params: Any
    mask: Any
    card: dict[str, Any]


class Kept(NamedTuple):
    """What a sweep has kept of its tickets.

    ``masks``: ``uint8 [level, seed, bytes]`` for each prunable parameter, from ``packbits``. ``theta0`` and
    ``rewind_to``: ``[seed, ...]``, the second where levels after the first start, if that is not θ0.
    ``weights``: ``[kept level, seed, network, ...]`` for each of ``params/NAME`` and ``collections/NAME``
    after training, of the ``levels`` and ``networks`` that are named. Without ``rewinds`` a level starts from
    those of the level before.
    """

    masks: Flat
    theta0: Flat
    rewind_to: Flat
    weights: Flat
    levels: Sequence[int] = ()
    networks: Sequence[str] = ("ticket",)
    rewinds: bool = True


def flat(tree: PyTree) -> dict[str, Any]:
    """A tree's leaves by name."""
    return {"/".join(path_names(path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionaries that :func:`flat` was given.

    Raises:
      InputError: a name is a leaf and a dictionary at once.
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *above, last = name.split("/")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
            require(isinstance(place, dict), f"{name[:80]}: a parameter and a layer have one name")
        require(last not in place, f"{name[:80]}: a parameter and a layer have one name")
        place[last] = leaf
    return tree


def write(path: Path, seeds: Sequence[int], kept: Kept, draw: Callable[[int], Flat]) -> None:
    """Write ``tickets.npz``.

    Args:
      path: the file.
      seeds: in the order of the arrays.
      kept: what the sweep has kept.
      draw: a seed to its θ0, as :func:`read` will be given it.

    Raises:
      StorageError: it cannot be written.
    """
    arrays = {f"shape/{name}": np.asarray(leaf.shape[1:]) for name, leaf in kept.theta0.items()}
    arrays |= {f"mask/{name}": np.swapaxes(packed, 0, 1) for name, packed in kept.masks.items()}
    own = [{name: leaf[place] for name, leaf in kept.theta0.items()} for place in range(len(seeds))]
    arrays["seed"], arrays["digest"] = np.asarray(seeds), np.asarray([digest(theta0) for theta0 in own])
    if any(digest(draw(seed)) != one for seed, one in zip(seeds, arrays["digest"], strict=True)):
        arrays |= {f"theta0/{name}": leaf for name, leaf in kept.theta0.items()}
    arrays |= {f"rewind_to/{name}": leaf for name, leaf in kept.rewind_to.items()}
    arrays |= {f"weights/{name}": np.swapaxes(leaf, 0, 1) for name, leaf in kept.weights.items()}
    arrays |= {"kept_levels": np.asarray(kept.levels, np.int32), "rewinds": np.asarray(kept.rewinds)}
    arrays["networks"] = np.asarray(kept.networks, dtype=str)
    halves = [name for name, leaf in arrays.items() if leaf.dtype == jnp.bfloat16]
    arrays |= {name: arrays[name].view(np.uint16) for name in halves}  # NumPy's files do not know them
    arrays[HALVES] = np.asarray(halves, dtype=str)
    save_arrays: Any = np.savez_compressed
    write_whole(path, lambda aside: save_arrays(aside, **arrays))


def digest(leaves: Flat) -> str:
    """SHA-256 of some arrays' names and bytes."""
    found = hashlib.sha256()
    for name in sorted(leaves):
        found.update(name.encode())
        found.update(np.ascontiguousarray(leaves[name]).tobytes())
    return found.hexdigest()


def read(path: Path, seed: int, level: int, draw: Callable[[int], Flat]) -> tuple[Flat, Flat]:
    """One ticket of a sweep: the masked weights that its training started from, and its mask, by name.

    Args:
      path: ``tickets.npz``.
      seed: its run.
      level: its level; 0 is dense.
      draw: a seed to its θ0.

    Raises:
      InputError: the file is missing or damaged, has no such seed or level, or ``draw`` gives other weights
        here than it did where the sweep was made.
    """
    stored = _stored(path)
    run = _run(stored, seed)
    mask = _mask(stored, run, level)
    start = _start(stored, run, level, lambda: draw(seed), path)
    shapes = [{name: leaf.shape for name, leaf in leaves.items()} for leaves in (start, mask)]
    require(shapes[0] == shapes[1], f"{path} is damaged: its masks are not of the shapes of its weights")
    return {name: np.where(mask[name], leaf, leaf.dtype.type(0)) for name, leaf in start.items()}, mask


def read_mask(path: Path, seed: int, level: int) -> Flat:
    """One ticket's mask, by name.

    Raises:
      InputError: the file is missing or damaged, or has no such seed or level.
    """
    stored = _stored(path)
    return _mask(stored, _run(stored, seed), level)


class Packed(NamedTuple):
    """Masks of several seeds and levels: shapes of the prunable parameters, and bits by name.

    ``bits``: ``uint8 [seed, level, bytes]`` from ``packbits``, 1 is kept.
    """

    shapes: dict[str, tuple[int, ...]]
    bits: Flat


def read_packed(path: Path, seeds: Sequence[int]) -> Packed:
    """The masks of some seeds at all levels.

    Raises:
      InputError: the file is missing or damaged, or has no such seed.
    """
    stored = _stored(path)
    shapes, places = _below(stored, "shape"), [_run(stored, seed) for seed in seeds]
    bits = {name: packed[places] for name, packed in _below(stored, "mask").items()}
    return Packed({name: tuple(shapes[name].tolist()) for name in bits}, bits)


def _mask(stored: Flat, run: int, level: int) -> Flat:
    """One level's mask, the run's position in the file given."""
    mask = {}
    for name, shape in _below(stored, "shape").items():
        packed = stored.get(f"mask/{name}")
        if packed is None:
            mask[name] = np.broadcast_to(np.ones((), bool), tuple(shape))  # no memory for what is not there
            continue
        if not 0 <= level < packed.shape[1]:
            raise InputError(f"--level {level}: the run has 0 to {packed.shape[1] - 1}")
        bits = np.unpackbits(packed[run, level], count=int(np.prod(shape)))
        mask[name] = bits.astype(bool).reshape(shape)
    return mask


def read_trained(path: Path, seed: int, level: int, network: str = "ticket") -> tuple[Flat, Flat]:
    """The weights and collections of one network of a sweep after its training, by name.

    Raises:
      InputError: the file is missing or damaged, or does not keep them.
    """
    stored = _stored(path)
    run, levels, networks = _run(stored, seed), stored["kept_levels"].tolist(), stored["networks"].tolist()
    if level not in levels:
        kept = ", ".join(map(str, levels)) or "none"
        raise InputError(f"--level {level}: trained weights are kept of {kept}; sweep with --keep-weights")
    if network not in networks:
        raise InputError(f"--network {network}: expected one of {', '.join(networks)}")
    place = (run, levels.index(level), networks.index(network))
    weights = {name: leaf[place] for name, leaf in _below(stored, "weights").items()}
    return _below(weights, "params"), _below(weights, "collections")


def is_whole(path: Path) -> bool:
    """Whether a ``tickets.npz`` can be read, every array of it."""
    try:
        _stored(path)
    except InputError:
        return False
    return True


def _stored(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a ``tickets.npz``."""
    if not path.exists():
        raise InputError(f"{path}: no such file; only lth-jax sweep keeps its tickets")
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            for member in file.zip.infolist():  # type: ignore[union-attr]
                ticket_checks.check_size(file.zip, member, path.stat().st_size)  # type: ignore[arg-type]
            stored = {name: file[name] for name in file.files}
        halves = stored.pop(HALVES, np.asarray([], str)).tolist()
        stored |= {name: stored[name].view(jnp.bfloat16) for name in halves}
        ticket_checks.check_arrays(stored)
        return stored
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None


def _run(stored: Flat, seed: int) -> int:
    """The place of a seed's run."""
    seeds = stored["seed"].tolist()
    if seed not in seeds:
        raise InputError(f"--seed {seed}: the run has {', '.join(map(str, seeds))}")
    return seeds.index(seed)


def _below(stored: Flat, kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind, by their parameter's name."""
    return {name[len(kind) + 1 :]: leaf for name, leaf in stored.items() if name.startswith(f"{kind}/")}


def _start(stored: Flat, run: int, level: int, draw: Callable[[], Flat], path: Path) -> Flat:
    """Where a level starts, before it is masked."""
    if level > 0 and not stored["rewinds"]:
        levels = stored["kept_levels"].tolist()
        require(
            level - 1 in levels, f"{path} is damaged: it lacks the weights that level {level} starts from"
        )
        before = levels.index(level - 1)
        return {name: leaf[run, before, 0] for name, leaf in _below(stored, "weights/params").items()}
    if level > 0 and (rewind_to := _below(stored, "rewind_to")):
        return {name: leaf[run] for name, leaf in rewind_to.items()}
    if theta0 := _below(stored, "theta0"):
        return {name: leaf[run] for name, leaf in theta0.items()}
    drawn = draw()
    if digest(drawn) != stored["digest"][run]:
        raise InputError(
            f"{path}: this seed's initial weights come out different here than where the sweep was made "
            "(its results.nc says with which versions and device); export there"
        )
    return drawn


def save_ticket(
    path: str | Path, params: Flat, mask: Flat, card: Mapping[str, Any], collections: Flat | None = None
) -> None:
    """Write a ticket as safetensors, and its card as JSON beside it.

    Raises:
      StorageError: one of them cannot be written.
    """
    tensors = {f"params/{name}": np.asarray(leaf, order="C") for name, leaf in params.items()}
    tensors |= {f"mask/{name}": np.asarray(leaf, order="C") for name, leaf in mask.items()}
    tensors |= {
        f"collections/{name}": np.asarray(leaf, order="C") for name, leaf in (collections or {}).items()
    }
    path, text = user_path(path), json.dumps(card, indent=2)
    content = save(tensors, metadata={"format": "np", "card": text})
    write_whole(path, lambda aside: aside.write_bytes(content))
    write_text(card_path(path), text + "\n")


def card_path(path: Path) -> Path:
    """Where a ticket's card is: ``a.npz`` has ``a.npz.json`` beside it, a folder its ``card.json``."""
    return path / CARD if path.is_dir() else path.with_name(f"{path.name}.json")


def load_ticket(path: str | Path) -> SavedTicket:
    """Read an exported ticket; its card comes from the same file.

    >>> params, mask, card = load_ticket("ticket.safetensors")  # doctest: +SKIP

    Raises:
      InputError: it is missing, damaged, or no ticket.
    """
    tensors, card = _read_ticket(path)
    params, mask = _below(tensors, "params"), _below(tensors, "mask")
    for name in sorted({*params, *mask}):
        leaf, kept = params.get(name), mask.get(name)
        fits = leaf is not None and kept is not None and kept.dtype == bool and kept.shape == leaf.shape
        require(
            fits, f"{path} cannot be read as a ticket: {name[:80]} has no weights with a mask of their shape"
        )
    require(bool(params), f"{path} cannot be read as a ticket: it has no weights")
    require(isinstance(card, dict), f"{path} cannot be read as a ticket: its card is no JSON object")
    return SavedTicket(nested(params), nested(mask), card)


def load_collections(path: str | Path) -> dict[str, Any]:
    """The model's other variables that were exported with trained weights: ``{}`` if there are none.

    Raises:
      InputError: as :func:`load_ticket`.
    """
    return nested(_below(_read_ticket(path)[0], "collections"))


def _read_ticket(path: str | Path) -> tuple[dict[str, np.ndarray], Any]:
    """The tensors of an exported ticket by name, and its card."""
    try:
        with safe_open(str(user_path(path)), framework="numpy") as file:
            card = json.loads((file.metadata() or {})["card"])
            return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a ticket: {' '.join(str(error).split())[:200]}") from None
