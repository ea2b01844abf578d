"""``--grid``: one sweep for each point of a grid of settings, and their results side by side.

``--grid learning_rate=1e-3,3e-3 --grid rate=0.2,0.5`` are four sweeps. Each has a folder of its own,
``learning_rate-0.001/rate-0.2`` in the whole's, and is a sweep like any other; the results get a dimension a
field. Several ways to ``--rewind`` are the last of these dimensions.
"""

import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import xarray as xr

from lth_jax.commands.flags import converter
from lth_jax.errors import InputError, require
from lth_jax.runs import results
from lth_jax.runs.config import flag

FIXED = ("seeds", "dataset", "grid", "rewind", "path_points")
"""Fields that are no part of a grid: seeds are replicates, several ways to rewind have their own flag,
results of several data sets are no results of one, and lines of several resolutions no one line."""

MOST = 1_000
"""Sweeps of one grid."""


class Point(NamedTuple):
    """One sweep of a grid: its place, ``(0.001, "0")``, its folder in the whole's, and its settings."""

    place: tuple[Any, ...]
    folder: PurePosixPath
    config: Any


def axes(config: Any) -> dict[str, dict[Any, Any]]:
    """What varies: for each field its values, by the labels that they get in the results.

    Args:
      config: of the whole: fields ``grid``, whose entries are ``FIELD=VALUE`` or another ``VALUE`` of the
        same field, and ``rewind``.

    Raises:
      InputError: an unknown field, or one that is no part of a grid, or a value that its flag refuses.
    """
    given: dict[str, list[str]] = {}
    for entry in config.grid:
        name, equals, text = entry.partition("=")
        name = name.strip().replace("-", "_") if equals else ""
        require(bool(equals) or bool(given), f"--grid {entry}: expected FIELD=VALUE,VALUE")
        if equals:
            require(name not in given, f"--grid {name}: is named twice")
            given[name] = []
        given[name or list(given)[-1]].append(text.strip() if equals else entry)
    found = {name: _values(config, name, texts) for name, texts in given.items()}
    ways = config.rewind.split(",")
    if len(ways) > 1:
        found["rewind"] = dict(zip(ways, ways, strict=True))
    return found


def _values(config: Any, name: str, texts: Sequence[str]) -> dict[Any, Any]:
    """A field's values by their labels, read as its flag reads them."""
    hints = typing.get_type_hints(type(config))
    single = {field for field, kind in hints.items() if kind in (int, float, bool, str)} | {"rate"}
    known = [field for field in hints if field in single and field not in FIXED]
    if name not in known:
        raise InputError(f"--grid {name}: expected one of {', '.join(known)}")
    read, found = converter(hints[name], name), {}
    for text in texts:
        try:
            value = read(text)
        except InputError as error:
            raise InputError(f"--grid {name}={text}: {error}") from None
        require(value != (), f"--grid {name}: names no value")
        label = value[0] if name == "rate" else str(value).lower() if isinstance(value, bool) else value
        require(label not in found, f"--grid {name}: {text} is named twice")
        found[label] = value
    return found


def points(config: Any) -> list[Point]:
    """Every sweep of a grid; the one sweep, in the whole's own folder, where nothing varies.

    Raises:
      InputError: as in :func:`axes`; settings that do not go together; more than ``MOST`` sweeps.
    """
    varied = axes(config)
    count = math.prod(map(len, varied.values()))
    require(count <= MOST, f"--grid: {count:,} sweeps; expected at most {MOST:,}")
    alone = dataclasses.replace(config, grid=()) if varied else config
    found = []
    for place in itertools.product(*varied.values()):
        chosen = {name: varied[name][label] for name, label in zip(varied, place, strict=True)}
        parts = [_folder(name, label) for name, label in zip(varied, place, strict=True)]
        try:
            one = dataclasses.replace(alone, **chosen)
        except InputError as error:
            told = ", ".join(f"{flag(name)} {label}" for name, label in zip(varied, place, strict=True))
            raise InputError(f"{error} (with {told})") from None
        found.append(Point(place, PurePosixPath(*parts), one))
    folders = [point.folder for point in found]
    require(len(set(folders)) == len(folders), "--grid: two values would have folders of one name")
    return found


def _folder(name: str, label: Any) -> str:
    """What a value's folder is called, on any file system."""
    return f"{name}-{re.sub(r'[^A-Za-z0-9.+_-]', '-', str(label))[:80]}"


def joined(config: Any, found: Mapping[tuple[Any, ...], xr.Dataset]) -> xr.Dataset:
    """The results of all points, by their places, as one data set with a dimension a field."""
    whole = dict(found)
    for name in reversed(axes(config)):
        groups: dict[tuple[Any, ...], dict[Any, xr.Dataset]] = {}
        for place, one in whole.items():
            groups.setdefault(place[:-1], {})[place[-1]] = one
        whole = {place: results.side_by_side(group, name) for place, group in groups.items()}
    return whole[()]


def attributes(found: Sequence[xr.Dataset]) -> dict[str, Any]:
    """The attributes that all sweeps of a grid share, and the seconds of all of them."""
    first, *others = [each.attrs for each in found]
    shared = {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}
    return shared | {"seconds": sum(each.attrs["seconds"] for each in found)}
