"""E9's figures: measures against weights kept, recipes side by side, test accuracy over the iterations."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.conv_tickets import measures
from lth_jax.analysis import figures

PANELS = {
    "stop": "early-stop iteration, mean and range",
    "accuracy": "test accuracy (%) at the early stop",
    "end": "test accuracy (%) at the end",
}


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that these results have."""
    drawn = {"recipes": lambda: draw_recipes(measured)}
    if "early_stop_iteration" in measured:
        drawn = {"against_size": lambda: draw_against_size(measured)}
    if "test_accuracy_curve" in measured:
        drawn["curves"] = lambda: draw_curves(measured)
    return figures.save_all(drawn, folder)


def draw_against_size(measured: xr.Dataset) -> Any:
    """When tickets and controls stop, how accurate they then are and at the end, against weights kept."""
    reading = measures.read(measured)
    figure, axes = figures.new_figure(len(PANELS), width=4.6)
    for ax, (measure, title) in zip(axes, PANELS.items(), strict=True):
        draw_families(ax, measured, reading, measure, "standard")
        ax.set(ylabel=title)
    axes[0].legend(fontsize=7, loc="lower left")
    return figure


def draw_recipes(measured: xr.Dataset) -> Any:
    """Test accuracy at the end against weights kept, a panel a recipe."""
    reading, recipes = measures.read(measured), measured["recipe"].values.tolist()
    figure, axes = figures.new_figure(len(recipes), width=3.6, squeeze=False, sharey=True)
    for ax, recipe in zip(axes[0], recipes, strict=True):
        draw_families(ax, measured, reading, "end", recipe)
        ax.set(title=recipe)
    axes[0][0].set_ylabel(PANELS["end"])
    axes[0][0].legend(fontsize=7, loc="lower left")
    return figure


def draw_families(
    ax: Any, measured: xr.Dataset, reading: measures.Reading, measure: str, recipe: str
) -> None:
    """A line a family over the levels at which it was trained; dotted: the dense networks."""
    kept = reading.kept * 100
    for index, family in enumerate(measures.families(measured)):
        found = {
            level: measures.at_level(reading, measure, family, level, recipe) for level in range(len(kept))
        }
        trained = [level for level, values in found.items() if values is not None]
        if not trained:
            continue
        samples = np.stack([np.asarray(found[level]) for level in trained], -1)
        shown = np.exp(samples) if measure == "stop" else samples
        figures.bands(ax, kept[trained], shown, figures.label(family), index, percentiles=(0, 100))
        ax.plot(kept[trained], shown.mean(0), linestyle="", **figures.style(index))
        if family == "ticket":
            ax.axhline(shown[:, 0].mean(), color="#000000", linewidth=0.8, linestyle=":")
    figures.kept_axis(ax, reading.kept)


def draw_curves(measured: xr.Dataset) -> Any:
    """Test accuracy of tickets over the iterations at some sizes, a panel a recipe."""
    reading, recipes = measures.read(measured), measured["recipe"].values.tolist()
    levels = np.unique(np.linspace(0, measured.sizes["level"] - 1, 5).astype(int))
    figure, axes = figures.new_figure(len(recipes), width=4.2, squeeze=False, sharey=True)
    for ax, recipe in zip(axes[0], recipes, strict=True):
        curves = measured["test_accuracy_curve"].sel(network="ticket", recipe=recipe)
        at = curves["iteration"].values[curves.notnull().any(["seed", "level"]).values]
        for index, level in enumerate(levels):
            values = curves.isel(level=level).sel(iteration=at).transpose("seed", "iteration").values * 100
            figures.bands(ax, at, values, f"{reading.kept[level]:.1%}", index, percentiles=(0, 100))
        ax.set(title=recipe, xlabel="iteration")
    axes[0][0].set_ylabel("test accuracy (%), mean and range")
    axes[0][-1].legend(fontsize=7, title="kept", loc="lower right")
    return figure
