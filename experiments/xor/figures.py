"""Figures of E3: success against size, and what single networks had learned before and after pruning."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.xor.claims import COLUMNS, PUBLISHED, READINGS, TITLES, success
from lth_jax.analysis import figures

REACH, RESOLUTION = 0.4, 121
"""How far the pictures go beyond the unit square, and their grid's points a side."""


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Success against units under each reading, and decision boundaries of a few networks."""
    drawn = {"success": lambda: draw_success(measured), "boundaries": lambda: draw_boundaries(measured)}
    return figures.save_all(drawn, folder)


def draw_success(measured: xr.Dataset) -> Any:
    """A panel a reading, a line a strategy; published shares as hollow markers."""
    figure, axes = figures.new_figure(len(READINGS), width=4.6, sharey=True)
    for ax, (reading, column) in zip(axes, READINGS.items(), strict=True):
        percent = success(measured, reading).mean("network") * 100
        for index, strategy in enumerate(measured["strategy"].values.tolist()):
            look = figures.style(index)
            ax.plot(measured["units"], percent.sel(strategy=strategy), label=TITLES[strategy], **look)
            cells = [(u, shares) for (s, u), shares in PUBLISHED.items() if s == strategy]
            shares = [pair[[*COLUMNS].index(column)] for _, pair in cells]
            hollow = {"markerfacecolor": "none", "markersize": 9, "linestyle": "none"}
            ax.plot([u for u, _ in cells], shares, **{**look, **hollow})
        ax.set(title=f"{reading} (published: {column})", xlabel="hidden units", xticks=measured["units"])
    axes[0].set_ylabel("networks that succeed (%); hollow: published")
    axes[-1].legend(fontsize=7)
    return figure


def draw_boundaries(measured: xr.Dataset) -> Any:
    """A row a network: its 10 units before pruning, its 4 and 2 after, and 2 random units beside them."""
    sizes = measured["units"].values
    columns = [("random", sizes[0], "before pruning")]
    columns += [("product", size, "pruned, retrained") for size in sizes[-2:]]
    columns += [("random", sizes[-1], "random weights")]
    rows = measured.sizes["picture"]
    grid = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = figures.new_figure(len(columns), width=2.6, height=2.6, rows=rows, **grid)
    for row, network in zip(axes, measured["picture"].values, strict=True):
        for ax, (strategy, size, what) in zip(row, columns, strict=True):
            one = measured.sel(picture=network, strategy=strategy, units=size)
            draw_boundary(ax, one)
            ax.set_title(f"network {network}: {size} units, {what}", fontsize=7)
    return figure


def draw_boundary(ax: Any, one: xr.Dataset) -> None:
    """Where one network says 1 (red) and 0 (blue), its boundary (black), where its units switch (dashed)."""
    line = np.linspace(-REACH, 1 + REACH, RESOLUTION)
    x, y = np.meshgrid(line, line)
    before = np.stack([x, y], -1) @ one["hidden_kernel"].values + one["hidden_bias"].values
    logit = (np.maximum(before, 0) @ one["output_kernel"].values + one["output_bias"].values)[..., 0]
    ax.pcolormesh(x, y, np.tanh(logit / 2), cmap="coolwarm", vmin=-1.4, vmax=1.4, rasterized=True)
    alive = np.abs(one["hidden_kernel"].values).sum(0) > 0
    for unit in np.flatnonzero(alive):
        if before[..., unit].min() < 0 < before[..., unit].max():
            ax.contour(x, y, before[..., unit], [0], colors="0.4", linewidths=0.6, linestyles="dashed")
    if logit.min() < 0 < logit.max():
        ax.contour(x, y, logit, [0], colors="k", linewidths=1.4)
    for point, target in zip(one["point"].values, one["target"].values, strict=True):
        color = "#b40426" if target else "#3b4cc0"
        ax.plot(int(point[0]), int(point[1]), "o", color=color, markeredgecolor="w")
    ax.grid(False)
