"""E7's figures: barrier and accuracy against size, the lines themselves, barrier against k."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.stability.claims import copies_of
from lth_jax.analysis import figures


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Barrier and accuracy against size, the lines themselves, barrier against k."""
    drawn = {
        "barrier": lambda: draw_against_size(measured),
        "lines": lambda: draw_lines(measured),
        "rewinding": lambda: draw_rewinding(measured),
    }
    return figures.save_all(drawn, folder)


def draw_against_size(measured: xr.Dataset) -> Any:
    """Error barrier and test accuracy of tickets and controls at k = 0, against weights kept."""
    figure, (left, right) = figures.new_figure(2)
    at = at_the_start(measured)
    kept = at["kept"].sel(network="ticket").mean("seed").values * 100
    for index, parent in enumerate(at["parent"].values.tolist()):
        height = by_level(at["test_error_barrier"].sel(parent=parent))
        figures.bands(left, kept, height * 100, figures.label(parent), index, percentiles=(0, 100))
        copies = copies_of(at, parent)
        accuracy = by_level(at["test_accuracy"].sel(network=copies))
        figures.bands(right, kept, accuracy * 100, figures.label(parent), index, percentiles=(0, 100))
    left.axhline(2, color="#000000", linewidth=0.8, linestyle=":")
    left.set(ylabel="error barrier (points), mean and range")
    right.set(ylabel="test accuracy (%), mean and range")
    for ax in (left, right):
        figures.kept_axis(ax, kept / 100)
        ax.legend(fontsize=7)
    return figure


def at_the_start(measured: xr.Dataset) -> xr.Dataset:
    """The results at k = 0, or at the smallest k that there is."""
    return measured.sel(rewind=measured["rewind"].min())


def by_level(values: xr.DataArray, last: str = "level") -> np.ndarray:
    """Values as ``[sample, level]``, whatever the samples are."""
    return values.transpose(..., last).values.reshape(-1, values.sizes[last])


def draw_lines(measured: xr.Dataset) -> Any:
    """Test error along the line at some sizes, all pairs: a column a network, a line a size."""
    at = at_the_start(measured)
    parents = at["parent"].values.tolist()
    levels = np.unique(np.linspace(0, measured.sizes["level"] - 1, 5).astype(int))
    figure, axes = figures.new_figure(len(parents), width=4.2, squeeze=False, sharey=True)
    kept = at["kept"].sel(network="ticket").mean("seed").values
    for ax, parent in zip(axes[0], parents, strict=True):
        for index, level in enumerate(levels):
            lines = 1 - at["test_accuracy_path"].sel(parent=parent, level=level)
            flat = by_level(lines, "share") * 100
            figures.bands(ax, at["share"].values, flat, f"{kept[level]:.1%}", index, percentiles=(0, 100))
        ax.set(title=figures.label(parent), xlabel="place on the line")
    axes[0][0].set_ylabel("test error (%), mean and range")
    axes[0][-1].legend(fontsize=7, title="kept")
    return figure


def draw_rewinding(measured: xr.Dataset) -> Any:
    """Error barrier of tickets against size, a line for each k."""
    figure, ax = figures.new_figure()
    kept = measured["kept"].sel(network="ticket").mean(["rewind", "seed"]).values
    for index, k in enumerate(measured["rewind"].values):
        height = by_level(measured["test_error_barrier"].sel(rewind=k, parent="ticket")) * 100
        figures.bands(ax, kept * 100, height, f"k = {int(k)}", index, percentiles=(0, 100))
    ax.axhline(2, color="#000000", linewidth=0.8, linestyle=":")
    figures.kept_axis(ax, kept)
    ax.set(ylabel="error barrier of tickets (points), mean and range")
    ax.legend(fontsize=7)
    return figure
