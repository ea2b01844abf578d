"""What E9 prints: accuracies and early stops by size, and down to which size tickets are above dense."""

import json

import numpy as np
import xarray as xr

from experiments.conv_tickets import measures
from experiments.conv_tickets.claims import NAMES, PUBLISHED, SMALLEST
from experiments.conv_tickets.measures import Reading
from lth_jax.analysis import figures, tables


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """A row a level, a column a recipe and family: accuracy at the early stop, or at the end without one."""
    reading = measures.read(measured)
    stops = "stop" in reading.values
    title = (
        "Test accuracy (%) at the early stop, mean ± std over trials @ mean early-stop iteration"
        if stops
        else "Test accuracy (%) at the end, mean ± std over trials"
    )
    return title, *_rows(measured, reading, "accuracy" if stops else "end", stops)


def _rows(
    measured: xr.Dataset, reading: Reading, measure: str, stops: bool
) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a column a family that was trained."""
    recipes = measured["recipe"].values.tolist()
    columns = [(recipe, family) for recipe in recipes for family in measures.families(measured)]
    rows = []
    for level, kept in enumerate(reading.kept):
        row = [f"{kept:.2%}"]
        for recipe, family in columns:
            values = measures.at_level(reading, measure, family, level, recipe)
            cell = "" if values is None else tables.accuracy(values / 100)
            if cell and stops:
                cell += f" @ {_mean_stop(reading, family, level, recipe)}"
            row.append(cell)
        rows.append(row)
    several = len(recipes) > 1
    names = [f"{figures.label(family)}{f', {recipe}' if several else ''}" for recipe, family in columns]
    return ["kept", *names], rows


def _mean_stop(reading: Reading, family: str, level: int, recipe: str) -> str:
    """The mean early-stop iteration of a family's networks."""
    stop = measures.members(reading.values["stop"], family).sel(recipe=recipe).isel(level=level)
    known = np.exp(stop.values[np.isfinite(stop.values)])
    return f"{known.mean():,.0f}" if known.size else "never"


def notes(measured: xr.Dataset) -> str:
    """Down to which size tickets are above dense networks, lower bounds, and the accuracies at the end."""
    reading = measures.read(measured)
    part = json.loads(measured.attrs["config"])["part"]
    lines = []
    for recipe in measured["recipe"].values.tolist():
        told = f"{NAMES[part]}{f', {recipe}' if measured.sizes['recipe'] > 1 else ''}"
        for measure, when in {"accuracy": "at the early stop", "end": "at the end"}.items():
            if measure in reading.values:
                lines.append(f"* {told}: {_above(reading, measure, recipe)} {when}")
    if "stop" not in reading.values:
        return "\n".join(["## Tickets above dense networks", "", *lines])
    bound = reading.values["bound"]
    known, last = int(bound.notnull().sum()), int(bound.sum())
    own = PUBLISHED[part]
    text = (
        f"Published of {NAMES[part]}: up to {own.times} times sooner, at {100 * own.soonest:.3g} %; up to "
        f"{own.points} points more accurate, at {100 * own.best:.3g} %; above dense networks while more than "
        f"{100 * SMALLEST:g} % are kept. The early-stop iteration is that of least validation loss; times "
        f"are compared as natural logarithms of it. {last:,} of {known:,} networks were best at the very "
        "last evaluation: their times are lower bounds."
    )
    end = [
        "## Test accuracy (%) at the end, mean ± std over trials",
        "",
        *tables.table_lines(*_rows(measured, reading, "end", stops=False)),
    ]
    return "\n".join(["## Tickets above dense networks", "", *lines, "", text, "", *end])


def _above(reading: Reading, measure: str, recipe: str) -> str:
    """Down to which size tickets are above dense networks, in words."""
    size = measures.above_dense_to(reading, measure, recipe)
    if size is None:
        return "on average tickets are not above dense networks at the first size"
    return f"on average tickets are above dense networks at every size down to {size:.2%}"
