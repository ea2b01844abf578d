"""What E7's report says beside its table and claims: the earlier paper's table with ours beside it."""

import xarray as xr

from experiments.stability.claims import DENSE, NAMES, QUANTITIES, TABLE, Published, table_sample
from lth_jax.analysis import tables


def notes(measured: xr.Dataset) -> str:
    """The table of 1903.01611 at 10.7 %, each of our means beside the published one."""
    if "kind" not in measured.dims:
        return ""
    rows = [
        _row(f"{NAMES[kind]}: {QUANTITIES[quantity]}", published, table_sample(measured, kind, quantity))
        for (kind, quantity), published in TABLE.items()
    ]
    rows.append(_row("dense networks: test accuracy (%)", DENSE, measured["dense_accuracy"].values * 100))
    lines = [
        "## Two copies of one ticket, and a ticket inside its network",
        "",
        "The table of arXiv:1903.01611, LeNet-300-100 at 10.7 %. Distances are L2 norms over kept weights. "
        "The last column says how many published spreads our mean lies from theirs.",
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
