"""E8's figures: accuracy against weights kept, of all ways to prune, of ablations, and while training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from experiments.early_pruning.experiment import AFTER, BEFORE, WHILE, kept, smaller, used
from lth_jax.analysis import figures


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
    """Test accuracy against weights kept, a line a way to prune."""
    figure, ax = figures.new_figure()
    levels, at = smaller(measured), kept(measured)
    for index, pruner in enumerate(pruners):
        accuracy = measured["test_accuracy"].sel(pruner=pruner, network="ticket").isel(level=levels)
        values = accuracy.transpose("seed", "level").values * 100
        figures.bands(ax, at[levels] * 100, values, figures.label(pruner), index, percentiles=(0, 100))
    figures.kept_axis(ax, at[levels])
    ax.set(ylabel="test accuracy (%), mean and range")
    ax.legend(fontsize=7)
    return figure


def draw_ablations(measured: xr.Dataset, pruners: Sequence[str]) -> Any:
    """Test accuracy of each mask and of what it is without: a panel a way to prune."""
    figure, axes = figures.new_figure(len(pruners), width=3.4, squeeze=False, sharey=True)
    levels, at = smaller(measured), kept(measured)
    for ax, pruner in zip(axes[0], pruners, strict=True):
        for index, network in enumerate(measured["network"].values.tolist()):
            if (pruner, network) in used(measured):
                accuracy = measured["test_accuracy"].sel(pruner=pruner, network=network).isel(level=levels)
                values = accuracy.transpose("seed", "level").values * 100
                name = figures.label(network)
                figures.bands(ax, at[levels] * 100, values, name, index, percentiles=(0, 100))
        figures.kept_axis(ax, at[levels])
        ax.set(title=figures.label(pruner))
    axes[0][0].set_ylabel("test accuracy (%), mean and range")
    axes[0][0].legend(fontsize=7)
    return figure
