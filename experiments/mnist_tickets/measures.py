"""What E4 measures: early-stop iteration, accuracy there and at the end, per family of networks.

An *arm* is one of a trial's networks at every level (``iterative``, ``reinit:0`` …), a *family* the arms that
differ by their draw only (``reinit``).
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

DENSE = "dense"
"""All dense networks of a trial as a family: the ticket's own, and those from which its controls start."""
STARTED_DENSE = ("iterative", "one_shot", "reinit", "rearrange")

NEAR = 0.115
"""How far, in logarithms, the level at hand may lie from the size a claim speaks of: half a level of 20 %."""


def stop_iteration(measured: xr.Dataset) -> xr.DataArray:
    """The early-stop iteration ``[arm, seed, level]``: of least validation loss; NaN if there is none."""
    return measured["iteration"].isel(iteration=_stop(measured)).where(_finite(measured)).astype("float64")


def at_stop(measured: xr.Dataset, variable: str) -> xr.DataArray:
    """A curve's value at the early-stop iteration."""
    return measured[variable].isel(iteration=_stop(measured)).where(_finite(measured)).drop_vars("iteration")


def at_end(measured: xr.Dataset, variable: str) -> xr.DataArray:
    """A curve's last value."""
    return measured[variable].isel(iteration=-1, drop=True)


def _finite(measured: xr.Dataset) -> xr.DataArray:
    return xr.ufuncs.isfinite(measured["validation_loss"]).any("iteration")


def _stop(measured: xr.Dataset) -> xr.DataArray:
    loss = measured["validation_loss"]
    return loss.where(np.isfinite(loss), np.inf).argmin("iteration")


def family_of(arm: str) -> str:
    """``reinit:0`` → ``reinit``."""
    return arm.split(":")[0]


def families(measured: xr.Dataset) -> list[str]:
    """The families, in the order of their first arms."""
    return list(dict.fromkeys(map(family_of, measured["arm"].values.tolist())))


def members(values: xr.DataArray, family: str) -> xr.DataArray:
    """A family's arms of an array with the dimension ``arm``."""
    return values.sel(arm=[a for a in values["arm"].values.tolist() if family_of(a) == family])


def kept(measured: xr.Dataset, family: str) -> np.ndarray:
    """Fraction of weights kept at every level of a family; NaN where it has no such level."""
    return members(measured["kept"], family).mean(["arm", "seed"]).values


def level_at(measured: xr.Dataset, family: str, fraction: float) -> int | None:
    """The level of a family whose size is nearest to a fraction kept, ``None`` if none is near."""
    sizes = kept(measured, family)
    distance = np.abs(np.log(np.where(np.isfinite(sizes), sizes, np.inf)) - np.log(fraction))
    nearest = int(np.argmin(distance))
    return nearest if distance[nearest] <= NEAR else None


def levels_between(measured: xr.Dataset, family: str, low: float, high: float) -> list[int]:
    """The levels of a family whose fraction kept lies within [low, high]."""
    sizes = kept(measured, family)
    return np.flatnonzero((sizes >= low) & (sizes <= high)).tolist()


class Reading(NamedTuple):
    """A data set's measures ``[arm, seed, level]`` as claims compare them, see :func:`read`."""

    measured: xr.Dataset
    families: list[str]
    values: dict[str, xr.DataArray]


def read(measured: xr.Dataset) -> Reading:
    """``stop``: ln(early-stop iteration); ``bound``: 1 where that is the last evaluation, so a lower bound;
    ``accuracy``: test accuracy there in percent; ``end``: at the end of training."""
    stop, accuracy = stop_iteration(measured), at_stop(measured, "test_accuracy") * 100
    end = at_end(measured, "test_accuracy") * 100
    bound = (stop == int(measured["iteration"][-1])).where(stop.notnull())
    values = {"stop": np.log(stop), "bound": bound, "accuracy": accuracy, "end": end}
    return Reading(measured, families(measured), values)


def at(reading: Reading, measure: str, family: str, *size: float) -> np.ndarray | None:
    """Values by trial, averaged over a family's arms; ``None`` where no such network was trained.

    Args:
      reading: from :func:`read`.
      measure: ``stop``, ``bound``, ``accuracy`` or ``end``.
      family: whose; ``DENSE`` for the mean of all dense networks.
      *size: the fraction kept, or two of them, between which the levels are averaged.
    """
    if family == DENSE:
        return dense(reading, measure)
    if family not in reading.families:
        return None
    if len(size) == 1:
        level = level_at(reading.measured, family, size[0])
        chosen = [] if level is None else [level]
    else:
        chosen = levels_between(reading.measured, family, *size)
    of = members(reading.values[measure], family).isel(level=chosen)
    return of.mean(["arm", "level"], skipna=False).values if chosen else None


def dense(reading: Reading, measure: str) -> np.ndarray | None:
    """Values by trial, averaged over all its dense networks; one that two arms share counts once."""
    whole = [
        f for f in reading.families if f in STARTED_DENSE and f"{kept(reading.measured, f)[0]:.3f}" == "1.000"
    ]
    if "iterative" in whole and "one_shot" in whole:
        whole.remove("one_shot")
    if not whole:
        return None
    arms = [members(reading.values[measure], family).isel(level=0) for family in whole]
    return xr.concat(arms, "arm").mean("arm", skipna=False).values


def every(reading: Reading, measure: str, family: str, low: float, high: float) -> dict[str, np.ndarray]:
    """Values by trial, averaged over a family's arms, at every level between two fractions kept."""
    sizes = kept(reading.measured, family)
    of = members(reading.values[measure], family).mean("arm", skipna=False)
    levels = levels_between(reading.measured, family, low, high)
    return {f"{100 * sizes[level]:.1f} %": of.isel(level=level).values for level in levels}


def interpolated(reading: Reading, measure: str, family: str, sizes: np.ndarray) -> np.ndarray:
    """A family's values ``[seed, size]`` between its levels, linear in the logarithm of the size.

    Args:
      reading: from :func:`read`.
      measure: ``stop`` or ``accuracy``.
      family: whose.
      sizes: fractions kept, within the family's range.
    """
    own = kept(reading.measured, family)
    there = np.isfinite(own)
    table = members(reading.values[measure], family).mean("arm").values[:, there]
    x = np.log(own[there])[::-1]
    return np.stack([np.interp(np.log(sizes), x, row[::-1]) for row in table])
