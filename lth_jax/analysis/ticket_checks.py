"""What a file of tickets may hold: checked before anything is made of it, whoever has written it."""

import math
import zipfile
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

FIELDS = {"seed": "iu", "digest": "U", "kept_levels": "iu", "networks": "U", "rewinds": "b"}
"""What every file of tickets has, and the kinds of its arrays."""


def check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo, whole: int) -> None:
    """Refuse an array that is not as long as it says: NumPy would allocate what it says.

    Args:
      archive: the opened file.
      member: the array's place in it.
      whole: bytes of the file. Deflate makes data a 1032nd at best of what it was.

    Raises:
      ValueError: it is shorter or longer, or claims more than the file can hold.
    """
    if member.file_size > 1100 * whole:
        raise ValueError(f"{member.filename} claims {member.file_size:,} bytes")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = header[min(version[0], 2)](file)
        count = math.prod(shape)
        if count > member.file_size or file.tell() + count * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} is no array of {shape}")


def check_arrays(stored: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that are not such as ``ticket_files.write`` has written.

    Args:
      stored: all arrays of a file, by name.

    Raises:
      ValueError: one is of another kind or shape.
      KeyError: one is missing.
    """

    def expect(name: str, kinds: str, *wanted: int | None) -> None:
        """Refuse another kind of array, or another shape; ``None`` is an axis of any length."""
        leaf = stored[name]
        numbers = not kinds and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number))
        fits = len(wanted) == leaf.ndim and all(
            size in (None, own) for size, own in zip(wanted, leaf.shape, strict=True)
        )
        if not fits or not (numbers or leaf.dtype.kind in kinds):
            raise ValueError(f"{name[:80]} is {leaf.dtype.name[:20]}{list(leaf.shape)}")

    def below(kind: str) -> dict[str, np.ndarray]:
        """The arrays of one kind, by their parameter's name."""
        return {name[len(kind) + 1 :]: leaf for name, leaf in stored.items() if name.startswith(f"{kind}/")}

    runs = stored["seed"].size
    for name, kinds in FIELDS.items():
        length = {"rewinds": (), "seed": (runs,), "digest": (runs,)}.get(name, (None,))
        expect(name, kinds, *length)
    grid = runs, stored["kept_levels"].size, stored["networks"].size
    shapes = {}
    for name, leaf in below("shape").items():
        expect(f"shape/{name}", "iu" if leaf.size else "iuf", None)
        shapes[name] = tuple(leaf.tolist())
        if min(shapes[name], default=0) < 0 or math.prod(shapes[name]) > 1 << 48:
            raise ValueError(f"shape/{name[:80]} is {shapes[name]}")
    masks, levels = below("mask"), None
    for name, leaf in masks.items():
        expect(f"mask/{name}", "u", runs, levels, -(-math.prod(shapes[name]) // 8))
        levels = leaf.shape[1]
        if leaf.dtype != np.uint8:
            raise ValueError(f"mask/{name[:80]} is {leaf.dtype}")
    for kind, axes in {"theta0": grid[:1], "rewind_to": grid[:1], "weights/params": grid}.items():
        there = below(kind)
        if there and there.keys() != shapes.keys():
            raise ValueError(f"{kind} has other names than shape")
        for name in there:
            expect(f"{kind}/{name}", "", *axes, *shapes[name])
    for name, leaf in below("weights/collections").items():
        expect(f"weights/collections/{name}", "", *grid, *leaf.shape[3:])
