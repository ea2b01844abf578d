"""What E7 prints: accuracies and barriers by size, and the earlier paper's table with ours beside it."""

import json

import xarray as xr

from experiments.stability.claims import (
    DENSE,
    NAMES,
    QUANTITIES,
    RATE,
    TABLE,
    TABLE_LEVELS,
    Published,
    copies_of,
    table_sample,
)
from lth_jax.analysis import figures, tables


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Test accuracy and error barrier, both in points, a row a level."""
    barriers, rows = measured["test_error_barrier"] * 100, []
    columns = [(0, name) for name in measured["parent"].values] if 0 in measured["rewind"] else []
    columns += [(int(k), "ticket") for k in measured["rewind"].values if k != 0]
    kept = measured["kept"].sel(network="ticket").mean(["rewind", "seed"]).values
    for level in measured["level"].values:
        row = [f"{kept[level]:.2%}"]
        for k, parent in columns:
            accuracy = measured["test_accuracy"].sel(rewind=k, level=level)
            copies = accuracy.sel(network=copies_of(measured, parent))
            height = barriers.sel(rewind=k, level=level, parent=parent)
            row.append(f"{tables.accuracy(copies.values.ravel())}, {float(height.mean()):.2f}")
        rows.append(row)
    header = ["kept", *(f"{figures.label(parent)}, k = {k}" for k, parent in columns)]
    return "Test accuracy (%), mean ± std over copies, and the mean error barrier (points)", header, rows


def notes(measured: xr.Dataset) -> str:
    """The table of 1903.01611 at 10.7 %, each of our means beside the published one."""
    if "kind" not in measured.dims:
        return ""
    rows = [
        _row(f"{NAMES[kind]}: {QUANTITIES[quantity]}", published, table_sample(measured, kind, quantity))
        for (kind, quantity), published in TABLE.items()
    ]
    rows.append(_row("dense networks: test accuracy (%)", DENSE, measured["dense_accuracy"].values * 100))
    config = json.loads(measured.attrs.get("config", "{}"))
    size = (1 - config.get("rate", RATE)) ** (config.get("table_levels", TABLE_LEVELS) - 1)
    lines = [
        "## Two copies of one ticket, and a ticket inside its network",
        "",
        f"The table of arXiv:1903.01611, LeNet-300-100 at 10.7 %; ours at {size:.1%}. Distances are L2 norms "
        "over kept weights. The last column says how many published spreads our mean lies from theirs.",
        "",
        *tables.table_lines(
            ["quantity", "published", "here, mean ± std over initializations", "spreads"], rows
        ),
    ]
    return "\n".join(lines)


def _row(name: str, published: Published, ours: object) -> list[str]:
    values = xr.DataArray(ours)
    mean, spread = float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else float("nan")
    away = (mean - published.mean) / published.spread
    return [name, f"{published.mean} ± {published.spread}", f"{mean:.2f} ± {spread:.2f}", f"{away:+.1f}"]
