"""E2's figures: 2 and 4 (curves), their like for the networks beyond the document, and 5 (histograms)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.ticket_distribution.claims import title
from experiments.ticket_distribution.config import BEYOND, FOUR
from experiments.ticket_distribution.weights import NETWORK
from lth_jax import initializers
from lth_jax.analysis import distributions, figures

REFERENCES = ("full", "pruned", "reinit")
"""Networks of the document that the others are drawn beside."""


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Curves of the document's networks and of the others, histograms of D_n."""
    config = json.loads(measured.attrs["config"])
    number = {"fc1": 2, "lenet5": 4}[config["model"]]
    drawn = {f"figure{number}_curves": lambda: draw_curves(measured, FOUR)}
    if set(config["networks"]) & set(BEYOND):
        drawn["beyond_curves"] = lambda: draw_curves(measured, REFERENCES + BEYOND)
    drawn["figure5_distributions"] = lambda: draw_distributions(measured, "initial")
    drawn["figure5_trained"] = lambda: draw_distributions(measured, "trained")
    return figures.save_all(drawn, folder)


def draw_curves(measured: xr.Dataset, kinds: Sequence[str]) -> Any:
    """Test accuracy (left) and training loss (right), smallest networks first; bars: least to greatest."""
    ns = measured["prunings"].values.tolist()[::-1]
    figure, axes = figures.new_figure(2 * len(ns), width=4.4, squeeze=False)
    for index, (variable, n) in enumerate((v, n) for v in ("test_accuracy", "train_loss") for n in ns):
        ax, have = axes[0][index], measured["network"].values.tolist()
        names = [f"{kind}-{n}" if kind != "full" else kind for kind in kinds]
        scale = 100 if variable == "test_accuracy" else 1
        for place, name in enumerate(names):
            if name in have:
                values = measured[variable].sel(network=name) * scale
                draw_line(ax, measured["epoch"].values, values, title(name, measured), place)
        if variable == "test_accuracy":
            settled = measured[variable].isel(epoch=slice(measured.sizes["epoch"] // 10, None))
            shown = settled.sel(network=[name for name in names if name in have]).mean("seed") * scale
            low, high = float(shown.quantile(0.02)), float(shown.max())
            if high > low:
                ax.set_ylim(low - 0.2 * (high - low), high + 0.2 * (high - low))
        else:
            ax.set_yscale("log")
        ax.set(xlabel="epoch", ylabel="test accuracy (%)" if scale == 100 else "training loss (nats)")
        ax.legend(fontsize=7)
    trials, attrs = measured.sizes["seed"], measured.attrs
    figure.suptitle(f"{attrs['dataset']}, {attrs['variant']}, {trials} trials: mean, least and greatest")
    return figure


def draw_line(ax: Any, epochs: np.ndarray, values: xr.DataArray, name: str, place: int) -> None:
    """The mean over trials with bars from the least to the greatest trial, ten or so along the line."""
    mean = values.mean("seed").values
    bars = figures.bars(mean, values.min("seed").values, values.max("seed").values)
    every = max(1, len(epochs) // 10)
    color = figures.style(place)["color"]
    # Bars of different lines stand at different epochs, so that none hides another.
    ax.errorbar(
        epochs, mean, bars, color=color, label=name, linewidth=1.1, elinewidth=0.8, capsize=2,
        errorevery=(min(place, every - 1), every),
    )  # fmt: skip


def draw_distributions(measured: xr.Dataset, source: str) -> Any:
    """Histograms of D_n, a row a number of prunings, the whole network first; all trials together.

    Args:
      measured: the results.
      source: ``initial``, with the initial density and the model beside it, or ``trained``.
    """
    ns, layers = measured["prunings"].values.tolist(), measured["layer"].values.tolist()
    parts, weight = [NETWORK, *layers], f"{source}_weight"
    figure, axes = figures.new_figure(len(parts), width=3.4, height=2.7, rows=len(ns), squeeze=False)
    at = measured[weight].values
    for row, n in zip(axes, ns, strict=True):
        kept = measured[f"{source}_histogram"].sel(prunings=n).sum("seed")
        for ax, part in zip(row, parts, strict=True):
            counts = (kept.sum("layer") if part == NETWORK else kept.sel(layer=part)).values
            ax.stairs(*as_density(at, counts), fill=True, alpha=0.45)
            if source == "initial":
                draw_densities(ax, measured, n, part)
            reach = np.abs(at[counts > 0]).max(initial=at[1] - at[0]) * 1.05
            ax.set(title=f"{part}, n = {n}", xlabel="weight", xlim=(-reach, reach))
            ax.locator_params(axis="x", nbins=5)
    axes[0][0].set_ylabel("probability density")
    if source == "initial":
        axes[0][0].legend(fontsize=7)
    what = "initial weights" if source == "initial" else "trained weights"
    figure.suptitle(f"D_n of {what}, {measured.attrs['dataset']}, {measured.sizes['seed']} trials")
    return figure


def draw_densities(ax: Any, measured: xr.Dataset, n: int, part: str) -> None:
    """The initial weights' density and the model's, parameters averaged over trials."""
    at = measured["initial_weight"].values
    dense = measured["dense_histogram"].sum("seed")
    counts = (dense.sum("layer") if part == NETWORK else dense.sel(layer=part)).values
    ax.stairs(*as_density(at, counts), color="0.4", label="initial")
    models = mean_models(measured, n)
    kept = measured["kept_weights"].sel(prunings=n).mean("seed")
    sizes = {layer: int(kept.sel(layer=layer)) for layer in models}
    chosen = distributions.mixture(models, sizes) if part == NETWORK else [(1.0, models[part])]
    fine = np.linspace(at[0], at[-1], 2001)
    ax.plot(fine, distributions.density(chosen, fine), color=figures.COLORS[4], label="model")


def mean_models(measured: xr.Dataset, n: int) -> dict[str, distributions.Model]:
    """The layers' models with the means over trials of their parameters."""
    scheme = initializers.get(json.loads(measured.attrs["config"])["initialization"])
    means = measured[["threshold", "displacement", "drift"]].sel(prunings=n).mean("seed")
    return {
        layer: distributions.Model(
            scheme.kind,
            scheme.center,
            float(measured["spread"].sel(layer=layer)),
            *(float(means[name].sel(layer=layer)) for name in ("threshold", "displacement", "drift")),
        )
        for layer in measured["layer"].values.tolist()
    }


def as_density(centers: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and edges of a histogram's bins, put together until ten or so weights lie in each."""
    merged = next(
        (m for m in (1, 2, 3, 4, 6, 8, 10, 12) if counts.sum() * m >= 10 * np.count_nonzero(counts)), 12
    )
    half = (centers[1] - centers[0]) / 2
    edges = np.append(centers - half, centers[-1] + half)[::merged]
    grouped = counts.reshape(-1, merged).sum(1)
    return grouped / max(counts.sum(), 1) / (edges[1] - edges[0]), edges
