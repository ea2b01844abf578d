"""What E9 measures: early-stop iteration, accuracy there and at the end, by size, of tickets and controls.

A *family* is a kind of network beside each other in a trial: ``ticket``, ``reinit``, ``random_mask``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

NEAR = 0.115
"""How far, in logarithms, a level's size may lie from the one that is asked for: half a level of 20 %."""
DENSE = 1.0


class Reading(NamedTuple):
    """Measures ``[recipe, network, seed, level]`` by name, and the fraction kept at every level."""

    values: dict[str, xr.DataArray]
    kept: np.ndarray


def read(measured: xr.Dataset) -> Reading:
    """The measures of some results.

    ``end``: test accuracy at the end in percent; where there is a validation split also ``accuracy``, that at
    the early stop, ``stop``, the natural logarithm of its iteration, and ``bound``, 1 where that is the last
    evaluation, so a lower bound. ``there``: which networks were trained at which levels.
    """
    values = {"end": measured["test_accuracy"] * 100, "there": measured["kept"].notnull()}
    if "early_stop_iteration" in measured:
        stop = measured["early_stop_iteration"]
        last = int(measured["iteration"][-1])
        values |= {
            "accuracy": measured["early_stop_test_accuracy"] * 100,
            "stop": xr.ufuncs.log(stop),
            "bound": (stop == last).where(stop.notnull()),
        }
    kept = measured["kept"].sel(network="ticket").mean(["recipe", "seed"]).values
    return Reading(values, kept)


def families(measured: xr.Dataset) -> list[str]:
    """The families that there are, tickets first."""
    return list(dict.fromkeys(name.split(":")[0] for name in measured["network"].values.tolist()))


def members(values: xr.DataArray, family: str) -> xr.DataArray:
    """A family's networks."""
    return values.sel(network=[n for n in values["network"].values.tolist() if n.split(":")[0] == family])


def level_at(kept: Sequence[float] | np.ndarray, size: float) -> int | None:
    """The level whose size is nearest to a fraction kept; ``None`` where none is near."""
    away = np.abs(np.log(np.asarray(kept) / size))
    nearest = int(np.argmin(away))
    return nearest if away[nearest] <= NEAR else None


def at_level(
    reading: Reading, measure: str, family: str, level: int, recipe: str = "standard"
) -> np.ndarray | None:
    """One value per trial, averaged over a family's networks; ``None`` where none was trained.

    Args:
      reading: from :func:`read`.
      measure: one of its names.
      family: whose.
      level: its place.
      recipe: how they were trained.
    """
    if measure not in reading.values or recipe not in reading.values[measure]["recipe"]:
        return None
    there = members(reading.values["there"], family).sel(recipe=recipe).isel(level=level)
    if not bool(there.any()):
        return None
    values = members(reading.values[measure], family).sel(recipe=recipe).isel(level=level)
    return values.mean("network", skipna=False).values


def at_size(
    reading: Reading, measure: str, family: str, size: float, recipe: str = "standard"
) -> np.ndarray | None:
    """:func:`at_level` for the level of a size; ``gain`` is what ``end`` has more than dense networks."""
    level = level_at(reading.kept, size)
    if level is None:
        return None
    if measure != "gain":
        return at_level(reading, measure, family, level, recipe)
    own, dense = (at_level(reading, "end", name, at, recipe) for name, at in ((family, level), ("ticket", 0)))
    return None if own is None or dense is None else own - dense


def above_dense_to(reading: Reading, measure: str, recipe: str = "standard") -> float | None:
    """The smallest fraction kept down to which tickets are, on average, above the dense networks at every
    size; ``None`` where they are not even at the first."""
    found = [at_level(reading, measure, "ticket", level, recipe) for level in range(len(reading.kept))]
    means = [np.nan if values is None else float(values.mean()) for values in found]
    above = [mean > means[0] for mean in means[1:]]
    count = above.index(False) if False in above else len(above)
    return float(reading.kept[count]) if count else None
