"""Figures of E5, from its labelled results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import special

from experiments.variance_propagation.claims import DIRECTIONS, END, LN10, PUBLISHED, is_figure
from lth_jax.analysis import figures, variance

TITLES = {"forward": "a) pre-activations, forwards", "backward": "b) gradients, backwards"}
NETWORK = ("weight_variance", "seed")
SYMBOLS = {"forward": "f", "backward": "∂ℓ/∂f"}


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Figure 7.4 in both readings, the three means, the schemes, and training."""
    drawn = {
        "figure7_4_variance": lambda: draw_figure(measured, 1.0),
        "figure7_4_standard_deviation": lambda: draw_figure(measured, 0.5),
        "schemes": lambda: draw_schemes(measured),
    }
    alive = bool(np.isfinite(measured["backward_log10_variance"]).all())
    if alive and json.loads(measured.attrs["config"])["activation"] == "relu":
        drawn["three_means"] = lambda: draw_means(measured)
    if "training_scheme" in measured.dims:
        drawn["training"] = lambda: draw_training(measured)
    return figures.save_all(drawn, folder)


def log10_mean(logs: np.ndarray) -> np.ndarray:
    """log10 of the mean over networks of what is given as log10 ``[network, layer]``."""
    return (special.logsumexp(logs * LN10, axis=0) - np.log(len(logs))) / LN10


def draw_figure(measured: xr.Dataset, power: float) -> Any:
    """Figure 7.4: log10 of variances (power 1) or of their square roots (power 1/2), with the theory.

    Stars are the published curves' ends, at the exponents that the published axis gives them.
    """
    figure, axes = figures.new_figure(2)
    layers = measured["layer"].values
    for ax, direction in zip(axes, DIRECTIONS, strict=True):
        name = f"{direction}_log10_variance"
        for index, value in enumerate(measured["weight_variance"].values):
            logs = measured[name].sel(weight_variance=value).values.astype(np.float64)
            theory = measured[f"predicted_{name}"].sel(weight_variance=value).values
            center = log10_mean(logs) * power
            figures.bands(ax, layers, logs * power, f"σ² = {value:g}", index, center)
            ax.plot(layers, theory * power, color="black", linestyle=(0, (1, 2)), linewidth=1.2)
            published = PUBLISHED[direction].get(float(value))
            if is_figure(measured) and published is not None:
                at, color = layers[END[direction]], figures.style(index)["color"]
                ax.plot(at, published, "*", color=color, markersize=11, markeredgecolor="black", zorder=5)
        kind = "variance" if power == 1 else "standard deviation"
        ax.set(title=TITLES[direction], xlabel="layer", ylabel=f"log10 of the {kind} of {SYMBOLS[direction]}")
    axes[0].legend(fontsize=8)
    seeds = measured.sizes["seed"]
    told = "line: mean variance, band: 5–95 %, dots: theory" + (
        ", stars: published ends" if is_figure(measured) else ""
    )
    figure.suptitle(f"{seeds} networks a line; {told}", fontsize=10)
    return figure


def draw_means(measured: xr.Dataset) -> Any:
    """What lies between the theory and its three measurements, all σ² pooled, as they differ by a factor."""
    config = json.loads(measured.attrs["config"])
    figure, axes = figures.new_figure(2)
    layers = measured["layer"].values
    widths = [config["widths"][k % len(config["widths"])] for k in range(config["depth"])]
    biases = np.array([variance.relu_log_bias(width) for width in widths]) / LN10
    for ax, direction in zip(axes, DIRECTIONS, strict=True):
        name = f"{direction}_log10_variance"
        excess = (measured[name] - measured[f"predicted_{name}"]).stack(network=NETWORK)
        logs = excess.transpose("network", "layer").values.astype(np.float64)
        back = slice(None, None, -1 if direction == "backward" else 1)
        start = 0 if direction == "forward" else -1
        logs = logs - logs[:, [start]].mean()
        figures.bands(ax, layers, logs, "typical network (mean of log), 5–95 %", 0)
        bias = np.cumsum(biases[back])[back] - biases[start]
        ax.plot(layers, bias, "k:", label="typical network, predicted")
        mean = log10_mean(logs)
        ax.plot(layers, mean - mean[start], color=figures.COLORS[4], label="mean variance")
        if direction == "backward":
            output = measured["output_log10_variance"] - measured["predicted_output_log10_variance"]
            mean = log10_mean((excess - output.stack(network=NETWORK)).transpose("network", "layer").values)
            ax.plot(layers, mean - mean[start], "--", color=figures.COLORS[5], label="of ∂output/∂f")
        steps = np.diff(logs[:, back], axis=-1) * LN10
        ratio = np.log10(np.mean(np.exp(steps), axis=0))
        path = np.concatenate([[0.0], np.cumsum(ratio)])[back]
        ax.plot(layers, path, color=figures.COLORS[2], label="mean ratio, multiplied up")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=TITLES[direction], xlabel="layer", ylabel="decades above the theory, from the start")
        ax.legend(fontsize=8)
    figure.suptitle(f"{logs.shape[0]:,} networks, all σ² together", fontsize=10)
    return figure


def draw_schemes(measured: xr.Dataset) -> Any:
    """A column an activation, forwards above, backwards below; dots are the theory."""
    names = measured["activation"].values.tolist()
    figure, axes = figures.new_figure(len(names), width=4.2, height=3.6, rows=2, squeeze=False)
    layers = measured["layer"].values
    for row, direction in zip(axes, DIRECTIONS, strict=True):
        for ax, activation in zip(row, names, strict=True):
            for index, name in enumerate(measured["scheme"].values.tolist()):
                where, variable = {"activation": activation, "scheme": name}, f"{direction}_log10_variance"
                logs = measured[f"scheme_{variable}"].sel(where).values.astype(np.float64)
                theory = measured[f"scheme_predicted_{variable}"].sel(where).values
                figures.bands(ax, layers, logs, figures.label(name), index)
                ax.plot(layers, theory, color=figures.style(index)["color"], linestyle=(0, (1, 2)))
            title = f"{activation}, {direction}"
            ax.set(title=title, xlabel="layer", ylabel=f"log10 variance of {SYMBOLS[direction]}")
    axes[0][0].legend(fontsize=6)
    figure.suptitle(f"{measured.sizes['scheme_seed']} networks a line: mean of log10, 5–95 %; dots: theory")
    return figure


def draw_training(measured: xr.Dataset) -> Any:
    """A row a layer: variances, dead units and weight change over the epochs, all seeds in the band."""
    panels = {
        "activation_variance": "variance of f",
        "gradient_variance": "variance of ∂ℓ/∂f",
        "dead": "dead units (%)",
        "weight_change": "‖θ − θ0‖ / ‖θ0‖",
    }
    layers = measured["network_layer"].values.tolist()
    figure, axes = figures.new_figure(len(panels), width=4.0, height=3.0, rows=len(layers))
    for row, layer in zip(axes, layers, strict=True):
        for ax, (variable, text) in zip(row, panels.items(), strict=True):
            values = measured[variable].sel(network_layer=layer)
            if values.isnull().all():
                ax.set_axis_off()
                continue
            first = 1 if variable == "weight_change" else 0
            for index, name in enumerate(measured["training_scheme"].values.tolist()):
                samples = values.sel(training_scheme=name).values * (100 if variable == "dead" else 1)
                at = measured["epoch"].values[first:]
                samples = samples[:, first:]
                figures.bands(ax, at, samples, figures.label(name), index, percentiles=(0.0, 100.0))
            ax.set_yscale("linear" if variable == "dead" else "log")
            ax.set(title=layer, xlabel="epoch", ylabel=text)
    axes[0][0].legend(fontsize=7)
    seeds = measured.sizes["training_seed"]
    figure.suptitle(f"LeNet-300-100, {measured.attrs['dataset']}, {seeds} seeds (mean, minimum to maximum)")
    return figure
