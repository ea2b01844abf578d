"""What document 002 §5 says of the inside of iterative tickets, as claims, and the values that judge it."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from experiments.mnist_tickets import measures
from experiments.mnist_tickets.measures import Reading
from lth_jax.analysis.stats import Claim

SIZES = (1.0, 0.512, 0.168, 0.055)
"""Fractions kept whose initial weights the document draws."""
COUNTED = (0.8, 0.168, 0.055)
"""Fractions kept whose connections it draws."""
NEARLY = 20.0
"""Per cent within which connections are in proportion to the weights kept."""
LAYERS = ("hidden_0", "hidden_1", "output")
Values = np.ndarray | Mapping[str, np.ndarray]


def samples(reading: Reading) -> Iterator[tuple[Claim, Values, Values]]:
    """§5, of iterative pruning: the kept weights are tails, and nearly all units are still there."""
    lines = reading.measured.get("line")
    if "iterative" not in reading.families or lines is None or "iterative" not in lines.values.tolist():
        return
    levels = {kept: measures.level_at(reading.measured, "iterative", kept) for kept in (*SIZES, *COUNTED)}
    if None in levels.values():
        return
    line = reading.measured.sel(line="iterative")
    yield from of_weights(line, levels)
    yield from of_units(line, levels)


def of_weights(line: xr.Dataset, levels: Mapping) -> Iterator[tuple[Claim, Values, Values]]:
    """Initial weights of what is kept: two modes, step by step."""
    last = levels[0.055]
    hidden = [line[f"survivors_{name}"] for name in LAYERS[:2]]
    far = xr.concat([(n * abs(line["bin"])).sum("bin") / n.sum("bin") for n in hidden], "layer").mean("layer")
    text = "hidden weights kept at 5.5 % start farther from 0 than all of them do"
    published, unit = "the tails survive, the middle does not", "standard deviations"
    tails = Claim("v1-tails-survive", "002 §5", text, published, "greater", unit=unit, effect=0.1)
    yield tails, far.isel(level=last).values, far.isel(level=0).values
    for name in LAYERS:
        where = name.replace("_", " ")
        counts = line[f"survivors_{name}"].isel(level=last)
        middle, side = density(counts, 0.0, 0.25), density(counts, 0.75, 1.25)
        text = (
            f"weights kept at 5.5 % are bimodal: more start 1 standard deviation from 0 than at 0 ({where})"
        )
        published, unit = "approximately bimodal", "times as many"
        claim = Claim(
            f"v1-bimodal:{name}", "002 §5", text, published, "greater", unit=unit, effect=float(np.log(1.1)),
            base=float(np.e),
        )  # fmt: skip
        yield claim, np.log(side), np.log(middle)
    near = {name: 100 * share_near(line[f"survivors_{name}"]) for name in LAYERS}
    text = "the share of kept weights that start within half a standard deviation of 0 falls from each of "
    text += "100, 51, 17 and 5.5 % to the next, in every layer"
    claim = Claim(
        "v1-gradual", "002 §5", text, "gradually results in bimodal distributions", "greater",
        unit="per cent of the weights kept", effect=1.0,
    )  # fmt: skip
    steps = {
        f"{name.replace('_', ' ')}, {100 * large:.3g} to {100 * small:.3g} %": (
            name,
            levels[large],
            levels[small],
        )
        for name in LAYERS
        for large, small in itertools.pairwise(SIZES)
    }
    yield (
        claim,
        {step: near[name].isel(level=before).values for step, (name, before, _) in steps.items()},
        {step: near[name].isel(level=after).values for step, (name, _, after) in steps.items()},
    )


def density(counts: xr.DataArray, low: float, high: float) -> np.ndarray:
    """Mean count of the bins whose |middle| lies within [low, high], by trial; half a weight for none."""
    chosen = (abs(counts["bin"]) >= low) & (abs(counts["bin"]) <= high)
    return np.maximum(counts.isel(bin=np.flatnonzero(chosen.values)).mean("bin").values, 0.5)


def share_near(counts: xr.DataArray) -> xr.DataArray:
    """The share of weights that start within half a standard deviation of 0."""
    return counts.where(abs(counts["bin"]) < 0.5).sum("bin") / counts.sum("bin")


def of_units(line: xr.Dataset, levels: Mapping) -> Iterator[tuple[Claim, Values, Values]]:
    """Connections from the layer below, unit by unit."""
    last = levels[0.055]
    units = [line[f"incoming_{name}"].isel(level=last).values for name in LAYERS[:2]]
    alive = (np.concatenate(units, axis=-1) > 0).mean(-1) * 100
    text = "at 5.5 % more than half of the hidden units still have inputs"
    published, unit = "only a fraction of the units has been eliminated", "per cent of the units"
    survive = Claim(
        "v1-units-survive", "002 §5", text, published, "greater", unit=unit, effect=25.0, offset=50.0
    )
    yield survive, alive, np.full(len(alive), 50.0)
    parts, ones = {}, {}
    for name in LAYERS:
        counts = line[f"incoming_{name}"].astype("float64")
        unit_of = next(str(dim) for dim in counts.dims if str(dim).startswith("unit_"))
        layer = counts.mean(unit_of)
        for kept in COUNTED:
            part = f"{name.replace('_', ' ')} at {100 * kept:.3g} %"
            typical = counts.isel(level=levels[kept]).median(unit_of) / counts.isel(level=0).median(unit_of)
            share = layer.isel(level=levels[kept]) / layer.isel(level=0)
            parts[part] = (100 * typical / share).values
            ones[part] = np.full_like(parts[part], 100.0)
    text = "the median unit keeps as large a share of its inputs as its layer, at 80, 17 and 5.5 %"
    claim = Claim(
        "v1-in-proportion", "002 §5", text, "connections nearly decrease in proportion", "equal", NEARLY,
        "per cent of the layer's share", offset=100.0,
    )  # fmt: skip
    yield claim, parts, ones
