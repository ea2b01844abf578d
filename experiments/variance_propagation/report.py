"""The report of E5: tables and prose, from its labelled results."""

import json

import numpy as np
import xarray as xr

from experiments.variance_propagation.claims import (
    DIRECTIONS,
    PUBLISHED,
    compare,
    ends,
    is_figure,
    layers_of,
    lines,
    predicted_ratio,
)
from lth_jax.analysis import variance
from lth_jax.analysis.stats import summary


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Figure 7.4's ratios per layer: predicted, measured three ways, relative errors."""
    header = ["σ²", "direction", "predicted ratio", "measured ratio", "error ± s.e."]
    header += ["error of mean variance", "of typical network"]
    rows = []
    for direction in (*DIRECTIONS, "per output"):
        for value in measured["weight_variance"].values:
            found = compare(measured, direction, weight_variance=value)
            ratio, error = predicted_ratio(measured, direction, weight_variance=value), found.mean_ratio
            mean, spread, count = (float(number) for number in summary(error))
            rows.append(
                [
                    f"{value:g}", direction, f"{ratio:.4g}", f"{ratio * (1 + mean):.4g}",
                    f"{100 * mean:+.2f} ± {100 * spread / np.sqrt(count):.2f} %",
                    mean_variance_error(measured, direction, value), percent(found.typical, 2),
                ]
            )  # fmt: skip
    layers, networks = layers_of(measured), measured.sizes["seed"]
    title = (
        f"Variance ratio per layer, layers {layers.start + 1} to {layers.stop}, {networks} networks a line"
    )
    return title, header, rows


def mean_variance_error(measured: xr.Dataset, direction: str, value: float) -> str:
    """Relative error of the slope of the mean variance, with its 95 % bootstrap interval over networks."""
    ours, theirs = lines(measured, direction, weight_variance=value)
    rng, whole = np.random.default_rng(0), variance.agreement(ours, theirs).mean_variance
    draws = rng.integers(len(ours), size=(300, len(ours)))
    again = [variance.agreement(ours[chosen], theirs).mean_variance for chosen in draws]
    if not np.isfinite(again).all():
        return percent(whole, 2)
    low, high = np.percentile(again, [2.5, 97.5])
    return f"{100 * whole:+.2f} ({100 * low:+.2f} … {100 * high:+.2f}) %"


def notes(measured: xr.Dataset) -> str:
    """The report's prose and its other tables."""
    parts = [estimators(measured), readings(measured), schemes(measured), trained(measured)]
    return "\n\n".join(part for part in parts if part)


def percent(error: float, digits: int = 1) -> str:
    """A relative error in per cent, or a dash where there is none."""
    return f"{100 * error:+.{digits}f} %" if np.isfinite(error) else "–"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def estimators(measured: xr.Dataset) -> str:
    """Which mean the theory speaks of."""
    config = json.loads(measured.attrs["config"])
    text = """## Which mean agrees with the theory

Variances are mean squares over a layer's units: pre-activations and gradients have mean 0 over the draws.

- **Measured ratio**: v(k+1)/v(k) of each network, averaged over layers and networks. For ReLU its
  expectation forward is D σ²/2 exactly, at any width and depth, and its noise does not grow with depth: the
  claims are judged by it.
- **Mean variance**: the slope of the logarithm of the variance's mean over networks, the solid lines of the
  figure; in parentheses its 95 % bootstrap interval. Forward it is unbiased too, but few networks dominate
  the mean at depth, as ln v has variance about 5 k/D at layer k. Backward it is steeper than the theory, by
  about 5/D per layer to first order: the loss's own factor (2 · output)² gives weight to networks with large
  outputs, in which the gradient grows faster. The rows *per output* have it taken out (∂output/∂f).
- **Typical network**: the slope of the mean of ln v, that is of the geometric mean. It lies below the theory
  at any number of networks, by about 5/(2D) per layer."""
    if config["activation"] == "relu":
        widths = [config["widths"][k % len(config["widths"])] for k in range(config["depth"])]
        biases = [variance.relu_log_bias(width) for width in widths[layers_of(measured)]]
        text += f" Exactly, from E[ln χ²]: {100 * np.expm1(np.mean(biases)):+.2f} %."
    return text


def readings(measured: xr.Dataset) -> str:
    """Published exponents beside both readings of ours."""
    if not is_figure(measured):
        return ""
    rows = []
    for direction in DIRECTIONS:
        for value, published in PUBLISHED[direction].items():
            if value in measured["weight_variance"].values:
                logs = ends(measured, direction, value)
                half = logs / 2
                off = np.abs(published - half.mean())
                farther = np.mean(np.abs(half - half.mean()) >= off)
                rows.append(
                    [
                        f"{value:g}", direction, f"{published:g}",
                        f"{half.mean():.2f} ± {half.std(ddof=1) if len(half) > 1 else np.nan:.2f}",
                        f"{logs.mean():.2f}", f"{farther:.0%}",
                    ]
                )  # fmt: skip
    header = ["σ²", "direction", "published", "log10 std", "log10 variance", "networks as far as published"]
    text = """## Figure 7.4 read twice

The published axis says variance; its exponents are those of standard deviations. Forward at the last hidden
layer, backward at the first; mean ± standard deviation over networks, of which the published curves show one.
If panel a shows activations ReLU(f) instead of pre-activations f, take 0.15 off ours, 0.30 off a variance."""
    return f"{text}\n\n{markdown(header, rows)}"


def schemes(measured: xr.Dataset) -> str:
    """The second part's ratios."""
    rows = []
    for activation in measured["activation"].values.tolist():
        for name in measured["scheme"].values.tolist():
            where, cells = {"activation": activation, "scheme": name}, []
            for direction in DIRECTIONS:
                found = compare(measured, direction, "scheme_", **where)
                ratio = predicted_ratio(measured, direction, "scheme_", **where)
                errors = (float(summary(found.mean_ratio).mean), found.mean_variance, found.typical)
                cells += [f"{ratio:.4g}" if np.isfinite(ratio) else "–", *map(percent, errors)]
            rows.append([activation, name, *cells])
    kinds = ("predicted ratio", "error of mean ratio", "of mean variance", "typical")
    header = ["activation", "scheme", *(f"{direction} {kind}" for direction in DIRECTIONS for kind in kinds)]
    config = json.loads(measured.attrs["config"])
    widths = ", ".join(map(str, config["scheme_widths"]))
    text = f"""## Schemes and activations

Hidden layers of {widths} units in turn, {measured.sizes["scheme_seed"]} networks a line; the predicted ratio
is a geometric mean over layers. For ReLU and the identity trust the mean ratio. Elsewhere the ratio's noisy
denominator adds about 2/D, and the mean variance is the better guide, though not to the unstable: GELU has no
gain that holds a variance. Its own gain carries 1 on as 1, but lets anything above it grow and anything below
it vanish, so that networks of one scheme part ways and no mean over them follows the theory."""
    return f"{text}\n\n{markdown(header, rows)}"


def trained(measured: xr.Dataset) -> str:
    """The third part: each scheme before and after training."""
    if "training_scheme" not in measured.dims:
        return ""
    first, last = measured.isel(epoch=0), measured.isel(epoch=-1)
    rows = []
    for name in measured["training_scheme"].values.tolist():
        for layer in measured["network_layer"].values.tolist():
            where = {"training_scheme": name, "network_layer": layer}
            pairs = [
                " → ".join(f"{end[variable].sel(where).mean().item():{form}}" for end in (first, last))
                for variable, form in (
                    ("activation_variance", ".3g"),
                    ("gradient_variance", ".2g"),
                    ("inactive", ".1%"),
                    ("dead", ".1%"),
                )
            ]
            pairs = ["–" if "nan" in pair else pair for pair in pairs]
            change = last["weight_change"].sel(where).mean().item()
            accuracy = last["test_accuracy"].sel(training_scheme=name).mean().item()
            rows.append([name, layer, *pairs, f"{change:.3g}", f"{accuracy:.2%}"])
    header = ["scheme", "layer", "variance of f", "variance of ∂ℓ/∂f", "inactive", "dead"]
    header += ["‖θ−θ0‖/‖θ0‖", "test accuracy"]
    epochs, seeds = measured["epoch"].values[-1], measured.sizes["training_seed"]
    text = f"""## During training

LeNet-300-100 on {measured.attrs["dataset"]}, before → after {epochs} epochs, mean over {seeds} seeds.
Inactive: (image, unit) pairs where ReLU gives 0; dead: units that give 0 for every image of the probe."""
    return f"{text}\n\n{markdown(header, rows)}"
