"""E8's figures: test error against weights kept, of all ways to prune, of ablations, and while training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from experiments.early_pruning.experiment import AFTER, BEFORE, WHILE, kept, smaller, used
from lth_jax.analysis import figures

ACROSS = 3
"""Panels in a row."""


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that these results have."""
    there = [pruner for pruner, network in used(measured) if network == "ticket"]
    ablated = [p for p, network in used(measured) if network == "reinit"]
    before = [pruner for pruner in there if pruner in (*BEFORE, *AFTER)]
    during = [pruner for pruner in there if pruner in WHILE]
    drawn = {"pruners": lambda: draw_pruners(measured, before)} if before else {}
    drawn |= {"ablations": lambda: draw_ablations(measured, ablated)} if ablated else {}
    drawn |= {"sparse_training": lambda: draw_pruners(measured, during)} if during else {}
    return figures.save_all(drawn, folder)


def draw_pruners(measured: xr.Dataset, pruners: Sequence[str]) -> Any:
    """Test error against weights kept, a line a way to prune."""
    figure, ax = figures.new_figure()
    for index, pruner in enumerate(pruners):
        draw_line(ax, measured, pruner, "ticket", pruner, index)
    finish(ax, measured)
    ax.set(ylabel="test error (%), mean and range")
    ax.legend(fontsize=7, loc="upper left")
    return figure


def draw_ablations(measured: xr.Dataset, pruners: Sequence[str]) -> Any:
    """Test error of each mask and of what it is without: a panel a way to prune."""
    rows = -(-len(pruners) // ACROSS)
    shape = {"rows": rows, "squeeze": False, "sharey": True}
    figure, axes = figures.new_figure(min(len(pruners), ACROSS), width=3.4, height=3.0, **shape)
    for ax, pruner in zip(axes.flat, pruners, strict=False):
        for index, network in enumerate(measured["network"].values.tolist()):
            if (pruner, network) in used(measured):
                draw_line(ax, measured, pruner, network, network, index)
        finish(ax, measured)
        ax.set(title=figures.label(pruner))
    for ax in axes.flat[len(pruners) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel("test error (%), mean and range")
    axes[0][0].legend(fontsize=7, loc="upper left")
    return figure


def draw_line(ax: Any, measured: xr.Dataset, pruner: str, network: str, name: str, index: int) -> None:
    """The error of one kind of network at all sizes below the dense one."""
    levels = smaller(measured)
    accuracy = measured["test_accuracy"].sel(pruner=pruner, network=network).isel(level=levels)
    error = 100 - accuracy.transpose("seed", "level").values * 100
    at = kept(measured)[levels] * 100
    figures.bands(ax, at, error, figures.label(name), index, percentiles=(0, 100))


def finish(ax: Any, measured: xr.Dataset) -> None:
    """Both axes logarithmic: most ways to prune differ by tenths of a point, some by a factor of 50."""
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    figures.kept_axis(ax, kept(measured)[smaller(measured)])
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_locator(NullLocator())
