"""Figures of E6, from its labelled results: the document's 1 to 6, the grid, the learned masks."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.supermask.published import GROUPS, TABLE, table
from experiments.supermask.zhou_claims import best_untrained, trained
from lth_jax.analysis import figures
from lth_jax.analysis.stats import summary


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that these results have data for."""
    drawn = {
        "figure1_overtraining": lambda: draw_long(measured, "overtraining_loss", "first training"),
        "figure2_retraining": lambda: draw_long(measured, "retraining_loss", "retraining, stopped early"),
        "figure3_sizes": lambda: draw_thresholds(measured, "masked_size", "relative size (%)"),
        "figure4_untrained": lambda: draw_thresholds(measured, "masked_accuracy", "untrained accuracy (%)"),
        "figure5_losses": lambda: draw_losses(measured),
        "figure6_group_sizes": lambda: draw_sizes(measured),
    }
    if "criterion" in measured.dims:
        drawn["criteria_grid"] = lambda: draw_grid(measured)
        drawn["criteria_untrained"] = lambda: draw_untrained(measured)
    if "weights" in measured.dims:
        drawn["learned_masks"] = lambda: draw_learned(measured)
    return figures.save_all(drawn, folder)


def band(ax: Any, at: np.ndarray, samples: np.ndarray, name: str, index: int = 0) -> None:
    """Mean ± standard deviation over the first axis, where there are values."""
    found = summary(np.moveaxis(samples, 0, -1))
    there, color = found.n > 0, figures.style(index)["color"]
    mean, std = found.mean[there], np.nan_to_num(found.std[there])
    ax.plot(at[there], mean, color=color, label=name)
    ax.fill_between(at[there], mean - std, mean + std, color=color, alpha=0.2, linewidth=0)


def draw_long(measured: xr.Dataset, variable: str, title: str) -> Any:
    """Figures 1 and 2: validation loss of the first or the second training; crosses where seeds stop."""
    figure, ax = figures.new_figure()
    at, loss = measured["long_iteration"].values, measured[variable].values
    band(ax, at, loss, "mean ± std over seeds")
    stops = measured["stop_iteration"].values
    lowest = measured[variable].sel(long_iteration=measured["stop_iteration"]).values
    ax.plot(stops, lowest, "x", color="black", markersize=5, label="minimum of the first training, each seed")
    high = np.nanmax(loss[:, at >= min(at[-1], 5 * at[0])]) if np.isfinite(loss).any() else 1
    last = at[np.isfinite(loss).any(0)][-1] if np.isfinite(loss).any() else at[-1]
    ax.set(title=title, xlabel="iteration", ylabel="validation loss", ylim=(0, 1.1 * high), xlim=(0, last))
    ax.legend(fontsize=8)
    return figure


def draw_thresholds(measured: xr.Dataset, variable: str, what: str) -> Any:
    """Figures 3 and 4: size or untrained accuracy against the threshold."""
    figure, ax = figures.new_figure()
    at = measured["threshold"].values
    band(ax, at, measured[variable].values * 100, "mean ± std over seeds")
    best = measured[variable].sel(threshold=measured["best_threshold"]).values * 100
    ax.plot(measured["best_threshold"], best, "x", color="black", label="best threshold of each seed")
    ax.set(xlabel="threshold t", ylabel=what, ylim=(0, None))
    ax.legend(fontsize=8)
    return figure


def groups(measured: xr.Dataset) -> dict[str, list[str]]:
    """The networks of each of the document's groups; others under their own name."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in measured["network"].values.tolist():
        found.setdefault(TABLE[name].category if name in TABLE else name, []).append(name)
    return {group: names for group, names in found.items() if names}


def draw_losses(measured: xr.Dataset) -> Any:
    """Figure 5: validation loss of tickets and of the groups, over networks and seeds."""
    figure, ax = figures.new_figure()
    at, curves = measured["iteration"].values, measured["validation_loss"]
    losses = {group: curves.sel(network=names).values for group, names in groups(measured).items()}
    for index, (group, loss) in enumerate(losses.items()):
        band(ax, at, loss.reshape(-1, len(at)), group, index)
    early = at >= at[-1] / 10
    finite = np.concatenate([loss[..., early].ravel() for loss in losses.values()])
    high = np.nanmax(finite, where=np.isfinite(finite), initial=0)
    ax.set(xlabel="iteration", ylabel="validation loss, mean ± std", ylim=(0, high or 1), xlim=(0, at[-1]))
    ax.legend(fontsize=8)
    return figure


def draw_sizes(measured: xr.Dataset) -> Any:
    """Figure 6: relative sizes of tickets and of the groups."""
    figure, ax = figures.new_figure()
    sizes = table(measured)["size"]
    for index, names in enumerate(groups(measured).values()):
        found = summary(sizes.sel(network=names).values.ravel())
        std = np.nan_to_num(found.std)
        ax.bar(index, found.mean, yerr=std, capsize=4, color=figures.style(index)["color"], alpha=0.7)
    ax.set_xticks(range(len(groups(measured))), groups(measured), fontsize=8)
    ax.set_ylabel("relative size (%), mean ± std")
    return figure


def draw_grid(measured: xr.Dataset) -> Any:
    """The criteria grid as a heat map: untrained at the best size, and trained."""
    criteria = measured["criterion"].values.tolist()
    pairs = [(k, p) for p in measured["pruned_weights"].values for k in measured["kept_weights"].values]
    figure, axes = figures.new_figure(2, width=6.2, height=1.6 + 0.42 * len(criteria), sharey=True)
    panels = {"untrained, at the best size": best_untrained, "trained": trained}
    for ax, (title, measure) in zip(axes, panels.items(), strict=True):
        cells = np.array([[summary(measure(measured, c, *pair)).mean for pair in pairs] for c in criteria])
        finite = cells[np.isfinite(cells)]
        # Differences after training are small and a failed cell would hide them.
        low = 0 if measure is best_untrained else np.percentile(finite, 10)
        image = ax.imshow(cells, aspect="auto", cmap="viridis", vmin=low, vmax=finite.max())
        for (row, column), value in np.ndenumerate(cells):
            color = "white" if value < (low + finite.max()) / 2 else "black"
            text = f"{value:.1f}" if measure is best_untrained else f"{value:.2f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        names = [f"{k.replace('_', ' ')}\npruned: {p}" for k, p in pairs]
        ax.set_xticks(range(len(pairs)), names, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(criteria)), [c.replace("_", " ") for c in criteria], fontsize=8)
        ax.set_title(f"accuracy (%), {title}", fontsize=9)
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, shrink=0.8)
    return figure


def draw_untrained(measured: xr.Dataset) -> Any:
    """Untrained accuracy against weights kept, pruned weights 0: a panel a treatment, a line a criterion."""
    kinds = measured["kept_weights"].values.tolist()
    figure, axes = figures.new_figure(len(kinds), width=3.8, sharey=True)
    kept = measured["grid_kept"].values
    for ax, kind in zip(axes, kinds, strict=True):
        for index, criterion in enumerate(measured["criterion"].values.tolist()):
            cell = measured["grid_untrained_accuracy"].sel(
                criterion=criterion, kept_weights=kind, pruned_weights="zero"
            )
            name = criterion.replace("_", " ")
            look = {**figures.style(index), "linestyle": "-" if index < len(figures.COLORS) else "--"}
            ax.plot(kept * 100, cell.mean("grid_seed") * 100, label=name, **look)
        ax.set(title=f"kept: {kind.replace('_', ' ')}")
        figures.kept_axis(ax, kept)
    axes[0].set_ylabel("untrained accuracy (%)")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def draw_learned(measured: xr.Dataset) -> Any:
    """Learned masks: the likeliest mask's accuracy while it is learned; crosses: mean of drawn masks."""
    figure, ax = figures.new_figure()
    at = measured["learning_iteration"].values
    for index, (weights, rescaling) in enumerate(
        (w, r) for w in measured["weights"].values for r in measured["rescaling"].values
    ):
        cell = measured.sel(weights=weights, rescaling=rescaling)
        name = f"{weights.replace('_', ' ')}, {'with' if rescaling else 'without'} rescaling"
        band(ax, at, cell["likely_accuracy"].values * 100, name, index)
        drawn = cell["learned_accuracy"].mean("draw").values * 100
        color = figures.style(index)["color"]
        ax.plot(np.full(len(drawn), at[-1]), drawn, "x", color=color, markersize=5)
    ax.set(xlabel="iteration", ylabel="accuracy of the likeliest mask (%)")
    ax.legend(fontsize=8)
    return figure
