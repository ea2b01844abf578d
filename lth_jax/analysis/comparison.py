"""Two runs side by side: level by level of the same size, what differs, and how alike their masks are.

Levels belong together where both runs keep the same fraction of their weights, to a hundredth of it. Where
the runs have two seeds or more in common, a level's difference is that of seeds in pairs; else of two
independent samples, by Welch's test. Each interval is one level's alone: of twenty that are 95 %, one misses.

Two masks overlap in the weights that both keep, as a share of those that either keeps, as in
:func:`~lth_jax.analysis.connectivity.overlap`. Masks drawn at random that keep as many of each layer's n
weights, a and b of them, would share a b / n: so much is chance.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lth_jax.analysis import differences, ticket_files
from lth_jax.analysis.differences import Difference, Published
from lth_jax.errors import InputError, require
from lth_jax.places import user_path
from lth_jax.runs import results

SAME_SIZE = 0.01
"""Of the weights that are kept: levels that differ by less are of one size."""


class Loaded(NamedTuple):
    """A run: its folder, its results, one variable ``[seed, level]`` of its tickets, and what they keep."""

    folder: Path
    measured: xr.Dataset
    values: xr.DataArray
    kept: np.ndarray


def compare(one: str | Path, other: str | Path, variable: str = "test_accuracy") -> xr.Dataset:
    """Compare two runs of ``lth-jax sweep`` or ``find_tickets``.

    >>> found = compare("runs/imp", "runs/snip")  # doctest: +SKIP
    >>> found["difference"].to_pandas()  # doctest: +SKIP

    Args:
      one: a run's folder, or its ``results.nc``.
      other: the run that it is compared with.
      variable: what is compared, of both runs' tickets; in its own unit, an accuracy a fraction.

    Returns:
      ``measured`` ``[run, seed, level]`` and ``kept`` ``[run, level]``, all of both runs, NaN where one has
      no such seed or level. Then along ``size``, the fractions that both keep: ``level_at`` ``[run, size]``;
      ``difference`` ``[size, end]``, the first run less the second, ``end`` being the mean and the ``low``
      and ``high`` end of its 95 % interval; ``p_value``; ``n``, the pairs or the first run's seeds; and where
      both have masks of the same shapes and seeds in common, ``overlap`` and ``chance`` ``[size, common]``.
      Attributes: ``method``, ``paired`` or ``welch``, and as JSON each run's ``seeds``, ``left_out``
      (``levels`` and ``seeds`` of each run that are in no difference), and the ``settings`` that differ.

    Raises:
      InputError: one is no run, they have other data, no such variable, more dimensions than seeds and
        levels, or no level of one size.
    """
    runs = [_load(one, variable), _load(other, variable)]
    for name in ("dataset", "fingerprint"):
        found = [str(run.measured.attrs.get(name, "")) for run in runs]
        require(found[0] == found[1], f"compare: {name} {found[0]} in one run, {found[1]} in the other")
    pairs = same_sizes(runs[0].kept, runs[1].kept)
    require(bool(pairs), "compare: no level of one run keeps as many weights as one of the other")
    seeds = [run.values["seed"].values.tolist() for run in runs]
    common = [seed for seed in seeds[0] if seed in seeds[1]]
    places = [list(each) for each in zip(*pairs, strict=True)]
    aligned = [run.values.isel(level=at) for run, at in zip(runs, places, strict=True)]
    method = "paired" if len(common) > 1 else "welch"
    rows = [
        _difference(method, common, [each.isel(level=at) for each in aligned]) for at in range(len(pairs))
    ]
    curves = [
        xr.Dataset(
            {"measured": (("seed", "level"), run.values.values), "kept": ("level", run.kept)},
            {name: run.values[name].values for name in ("seed", "level")},
        )
        for run in runs
    ]
    called = names(runs[0].folder, runs[1].folder)
    made = results.side_by_side(dict(zip(called, curves, strict=True)), "run")
    levels = [run.values["level"].values for run in runs]
    at = np.stack([own[chosen] for own, chosen in zip(levels, places, strict=True)])
    made = made.transpose("run", "seed", "level").assign(
        level_at=(("run", "size"), at),
        difference=(("size", "end"), np.array([[row.mean, row.low, row.high] for row in rows])),
        p_value=("size", np.array([row.p_value for row in rows])),
        n=("size", np.array([row.n for row in rows])),
    )
    made = made.assign_coords(size=runs[0].kept[places[0]], end=["mean", "low", "high"])
    gone = [[seed for seed in own if method == "paired" and seed not in common] for own in seeds]
    missing = [np.delete(own, chosen).tolist() for own, chosen in zip(levels, places, strict=True)]
    settings = differing(*(_settings(run) for run in runs))
    said = {"seeds": seeds, "left_out": {"levels": missing, "seeds": gone}, "settings": settings}
    attrs = {
        "variable": variable,
        "method": method,
        **{name: json.dumps(each) for name, each in said.items()},
    }
    shared = overlaps(runs[0].folder, runs[1].folder, common, at)
    return made.assign(shared.data_vars).assign_attrs(attrs)


def _load(run: str | Path, variable: str) -> Loaded:
    """One run's results, and the values that are compared."""
    path = user_path(run)
    file = path / results.RESULTS if path.is_dir() else path
    require(file.exists(), f"{path}: no run; expected a folder with a {results.RESULTS}")
    measured = results.load(file)
    with results.understood(file):
        return _chosen(path, file, measured, variable)


def _chosen(path: Path, file: Path, measured: xr.Dataset, variable: str) -> Loaded:
    """The variable of the tickets that is compared, and what they keep."""
    require(variable in measured and "kept" in measured, f"{path}: has no {variable} with the weights kept")
    values, kept = measured[variable], measured["kept"]
    values, kept = (
        each.sel(network="ticket", drop=True)
        if "network" in each.dims and "ticket" in each["network"]
        else each
        for each in (values, kept)
    )
    more = sorted({str(dim) for dim in values.dims} - {"seed", "level"})
    require(
        not more, f"{path}: {variable} has a dimension {', '.join(more)}; compare runs of seeds and levels"
    )
    fits = set(values.dims) == {"seed", "level"} and "level" in kept.dims and values.dtype.kind in "fiub"
    require(fits, f"{path}: {variable} has no seeds and levels")
    for name in ("seed", "level"):
        labels = values[name]
        whole = labels.dtype.kind in "iu" and len(set(labels.values.tolist())) == labels.size
        require(whole, f"{path}: its {name}s are no different whole numbers")
    sizes = kept.mean([dim for dim in kept.dims if dim != "level"]).values
    return Loaded(file.parent, measured, values.transpose("seed", "level").astype(float), sizes)


def names(one: Path, other: Path) -> list[str]:
    """What two runs are called: by their folders, by their whole paths where those are called alike."""
    short = [path.resolve().name for path in (one, other)]
    whole = [str(path) for path in (one, other)]
    chosen = short if short[0] != short[1] else whole
    return chosen if chosen[0] != chosen[1] else [f"{chosen[0]} (first)", f"{chosen[1]} (second)"]


def same_sizes(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """The places of levels that keep as much, each in one pair at most, in the order of the first.

    Args:
      one: fractions kept, a level each.
      other: of another run.
    """
    pairs, free = [], list(range(len(other)))
    for place, kept in enumerate(one):
        near = [at for at in free if abs(other[at] - kept) <= SAME_SIZE * kept]
        if near:
            nearest = min(near, key=lambda at: abs(other[at] - kept))
            pairs.append((place, nearest))
            free.remove(nearest)
    return pairs


def _difference(method: str, common: Sequence[int], values: Sequence[xr.DataArray]) -> Difference:
    """One level's difference, with its 95 % interval."""
    if method == "paired":
        a, b = (each.sel(seed=list(common)).values for each in values)
        return differences.paired_difference(a, b)
    a, b = (each.values for each in values)
    theirs = differences.summary(b)
    if int(theirs.n) > 1:
        return differences.published_difference(
            a, Published(float(theirs.mean), float(theirs.std), int(theirs.n))
        )
    apart = float(differences.summary(a).mean - theirs.mean)
    return Difference(apart, np.nan, np.nan, 1.0, int(differences.summary(a).n))


def _settings(run: Loaded) -> dict[str, Any]:
    """What a run was configured with; nothing where it does not say."""
    try:
        return dict(json.loads(run.measured.attrs.get("config", "{}")))
    except (ValueError, TypeError):
        raise InputError(f"{run.folder}: the config in {results.RESULTS} is no JSON object") from None


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The settings that two runs do not share, both values; ``None`` where one has none of that name."""
    found = {name: [one.get(name), other.get(name)] for name in sorted({*one, *other})}
    return {name: values for name, values in found.items() if values[0] != values[1]}


def overlaps(one: Path, other: Path, seeds: Sequence[int], levels: np.ndarray) -> xr.Dataset:
    """How much two runs' masks overlap, and how much is chance; nothing where they cannot be compared.

    Args:
      one: a run's folder.
      other: another's.
      seeds: those that both have.
      levels: ``[2, size]``, the levels that belong together.

    Raises:
      InputError: a file of tickets is damaged, or has fewer levels than its run.
    """
    paths = [folder / ticket_files.TICKETS for folder in (one, other)]
    if not seeds or not all(path.exists() for path in paths):
        return xr.Dataset()
    masks = [ticket_files.read_packed(path, seeds) for path in paths]
    for path, mask, at in zip(paths, masks, levels, strict=True):
        least = min((bits.shape[1] for bits in mask.bits.values()), default=0)
        there = not mask.bits or (at.min() >= 0 and at.max() < least)
        require(bool(there), f"{path} is damaged: it has no level {at.max()} of its run")
    if masks[0].shapes != masks[1].shapes:
        return xr.Dataset()
    both = either = shared = union = np.zeros(())
    for name, shape in masks[0].shapes.items():
        a, b = (mask.bits[name][:, at] for mask, at in zip(masks, levels, strict=True))
        counts = [_count(each) for each in (a & b, a | b, a, b)]
        expected = counts[2] * counts[3] / max(1, math.prod(shape))
        both, either = both + counts[0], either + counts[1]
        shared, union = shared + expected, union + counts[2] + counts[3] - expected
    dims = ("common", "size")
    found = {"overlap": (dims, _share(both, either)), "chance": (dims, _share(shared, union))}
    return xr.Dataset(found, {"common": list(seeds)}).transpose("size", "common")


def _count(bits: np.ndarray) -> np.ndarray:
    """Ones along the last axis of packed bits."""
    return np.bitwise_count(bits).sum(-1, dtype=np.int64).astype(np.float64)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A share; 1 of nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), 1.0)
