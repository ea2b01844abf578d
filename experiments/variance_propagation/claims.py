"""What document 003 says of variances in depth, as data, and the values that judge it."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from lth_jax.analysis import variance
from lth_jax.analysis.stats import Claim, Kind, Single, Verdict, judge_all

LN10 = np.log(10)
DIRECTIONS = ("forward", "backward")
PUBLISHED = {
    "forward": {1.0: 41.4, 0.1: 16.9, 0.02: -1.7, 0.01: -8.2, 0.001: -33.0},
    "backward": {1.0: 84.6, 0.1: 34.7, 0.02: -0.9, 0.01: -19.2, 0.001: -68.1},
}
"""Exponents (log10) read off figure 7.4 by σ²: forward at the last layer, backward at the first."""
END = {"forward": -1, "backward": 0}
RATIO_MARGIN = 2.0
"""Per cent of the predicted ratio per layer within which a measured one counts as the same."""
EXPONENT_MARGIN = 1.0
"""Decades that a published end, one network's, would have to lie off for us to want to notice."""
TELLING = 5.0
"""Decades: smaller exponents cannot tell a variance from a standard deviation."""
DRIFT, INACTIVE_MARGIN, CHANGE, DEAD = 0.3, 2.0, 10.0, 1.0
"""A factor of 2 in decades; percentage points; per cent of the initial length; per cent of the units."""


def counted(depth: int, period: int = 1) -> slice:
    """Layers over which slopes are taken: 5 to the last (all of a shallow network), in whole periods."""
    first = 4 if depth >= 10 else 0
    return slice(first + (depth - 1 - first) % period, depth)


def layers_of(measured: xr.Dataset, prefix: str = "") -> slice:
    """The counted layers of a part's networks: those of the second part have the prefix ``scheme_``."""
    depth, widths = measured.sizes["layer"], json.loads(measured.attrs["config"])[f"{prefix}widths"]
    return counted(depth, len(widths) if len(widths) < depth // 2 else 1)


def lines(
    measured: xr.Dataset, direction: str, prefix: str = "", **where: object
) -> tuple[np.ndarray, np.ndarray]:
    """ln variances of one line, measured ``[network, layer]`` and predicted, in the direction of travel.

    The direction ``per output`` is backward with the gradient at the output taken out: of ∂output/∂f.
    """
    name = "forward_log10_variance" if direction == "forward" else "backward_log10_variance"
    back = slice(None, None, 1 if direction == "forward" else -1)
    found = []
    for kind in ("", "predicted_"):
        line = measured[f"{prefix}{kind}{name}"].sel(where).astype(float)
        if direction == "per output":
            line = line - measured[f"{prefix}{kind}output_log10_variance"].sel(where) - np.log10(4)
        order = ("layer",) if kind else (f"{prefix}seed", "layer")
        found.append(line.transpose(*order).values[..., layers_of(measured, prefix)][..., back] * LN10)
    return found[0], found[1]


def compare(measured: xr.Dataset, direction: str, prefix: str = "", **where: object) -> variance.Agreement:
    """Measured against predicted ratios per layer of one line, see :func:`lines`."""
    return variance.agreement(*lines(measured, direction, prefix, **where))


def predicted_ratio(measured: xr.Dataset, direction: str, prefix: str = "", **where: object) -> float:
    """The theory's ratio per layer, its geometric mean over the counted layers."""
    line = lines(measured, direction, prefix, **where)[1]
    return float(np.exp((line[-1] - line[0]) / (len(line) - 1)))


def is_figure(measured: xr.Dataset) -> bool:
    """Whether the first part is figure 7.4 as published."""
    config = json.loads(measured.attrs["config"])
    expected = {"depth": 50, "inputs": 100, "widths": [100], "activation": "relu"}
    return all(config[name] == value for name, value in expected.items())


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these results can speak to, in three families."""
    families = [list(ratio_claims(measured)), list(figure_claims(measured)), list(training_claims(measured))]
    return [verdict for family in families if family for verdict in judge_all(family)]


Comparison = tuple[Claim, Any, Any]


def ratio_claims(measured: xr.Dataset) -> Iterator[Comparison]:
    """Every slope against the theory, the sizes of He's two choices, and the framework's default."""
    config = json.loads(measured.attrs["config"])

    def equal(
        identifier: str,
        text: str,
        published: str,
        unit: str = "% of the predicted ratio",
        source: str = "003",
    ) -> Claim:
        return Claim(identifier, source, text, published, "equal", RATIO_MARGIN, unit, offset=100.0)

    if config["activation"] in ("relu", "identity"):
        half, title = ("/2", "ReLU") if config["activation"] == "relu" else ("", "identity")
        for direction in DIRECTIONS:
            for value in measured["weight_variance"].values:
                ratio = predicted_ratio(measured, direction, weight_variance=value)
                claim = equal(
                    f"slope-{direction}:{value:g}",
                    f"σ² = {value:g}, {title}: {direction} ratio per layer is D σ²{half} = {ratio:.3g}",
                    "σ_f'² = D σ² σ_f² / 2",
                )
                errors = compare(measured, direction, weight_variance=value).mean_ratio
                yield claim, errors * 100, 0.0
    kept = {
        ("he_normal", "forward"): "σ² = 2/D_h keeps the forward variance where widths alternate",
        ("he_normal_fan_out", "backward"): "σ² = 2/D_h' keeps the gradients' variance where widths alternate",
        ("he_uniform", "forward"): "PyTorch's kaiming_uniform_ as on the slide (a = 0) keeps the forward "
        "variance",
        ("torch_default", "forward"): "what PyTorch's layers draw, U(±1/√fan_in), not on the slide, keeps "
        "the forward variance",
    }
    have = {*measured["scheme"].values.tolist()}
    for (scheme, direction), text in kept.items():
        if scheme in have and "relu" in measured["activation"].values:
            where = {"activation": "relu", "scheme": scheme}
            ours, _ = lines(measured, direction, "scheme_", **where)
            errors = variance.agreement(ours, np.zeros(ours.shape[1])).mean_ratio
            published = {"he_uniform": "kaiming_uniform_, also known as He", "torch_default": "not said"}
            claim = equal(
                f"keeps-{direction}:{scheme}", f"{text}, ReLU", published.get(scheme, "σ_f'² = σ_f²"),
                "% of the variance kept by each layer",
                "beyond 003" if scheme == "torch_default" else "003",
            )  # fmt: skip
            yield claim, errors * 100, 0.0


def figure_claims(measured: xr.Dataset) -> Iterator[Comparison]:
    """Figure 7.4: its ends as those of single networks, and which of the two its curves are."""
    if not is_figure(measured):
        return
    near, far = {}, {}
    for direction in DIRECTIONS:
        for value, published in PUBLISHED[direction].items():
            if value not in measured["weight_variance"].values:
                continue
            exponent = ends(measured, direction, value)
            claim = Claim(
                f"exponent-{direction}:{value:g}", "003, Figure 7.4",
                f"σ² = {value:g}, {direction}: the published end is one more network's standard deviation",
                f"{published:g} on an axis labelled variance", "one_of", EXPONENT_MARGIN, "decades",
            )  # fmt: skip
            yield claim, exponent / 2, Single(published)
            if abs(published) >= TELLING:
                name = f"{direction}, σ² = {value:g}"
                near[name], far[name] = np.abs(exponent / 2 - published), np.abs(exponent - published)
    if near:
        text = "every curve that can tell ends closer to our standard deviation than to our variance"
        told = "the axis is labelled variance"
        claim = Claim(
            "reading", "003, Figure 7.4", text, told, "greater", 0.0, "decades closer", EXPONENT_MARGIN
        )
        yield claim, far, near


def ends(measured: xr.Dataset, direction: str, value: float) -> np.ndarray:
    """log10 of the variance where a curve ends, of each network."""
    name = f"{direction}_log10_variance"
    return measured[name].sel(weight_variance=value).isel(layer=END[direction]).values.astype(np.float64)


def training_claims(measured: xr.Dataset) -> Iterator[Comparison]:
    """The document's disclaimers, on the network that starts with He's initialization."""
    if "training_scheme" not in measured.dims or "he_normal" not in measured["training_scheme"].values:
        return
    seen = measured.sel(training_scheme="he_normal")

    def claim(
        identifier: str,
        text: str,
        published: str,
        kind: Kind,
        margin: float,
        unit: str,
        effect: float,
        **more,
    ) -> Claim:
        name = f"training-{identifier}"
        return Claim(name, "003, notes", text, published, kind, margin, unit, effect, **more)

    def logs(variable: str, run: xr.Dataset = seen) -> xr.DataArray:
        return xr.ufuncs.log10(run[variable]).astype("float64")

    moved = logs("gradient_variance")
    drift = abs(moved.isel(epoch=-1) - moved.isel(epoch=0)).mean("network_layer").values
    text = "He: the gradients' variance moves by more than a factor of 2 in training, mean over layers"
    told = "does not mean that it stays the same"
    yield claim("drift", text, told, "greater", DRIFT, "times", 2 * DRIFT, base=10.0), drift, 0.0
    change = 100 * seen["weight_change"].isel(epoch=-1).mean("network_layer").values
    text = "He: training changes the kernels a lot, by more than a tenth of their length, mean over layers"
    told = "does not prevent gradient descent from changing the weights a lot"
    yield claim("change", text, told, "greater", CHANGE, "% of ‖θ0‖", 2 * CHANGE), change, 0.0
    first, last = (logs("activation_variance").isel(epoch=epoch).mean("network_layer") for epoch in (0, -1))
    text = "He: training makes pre-activations large, their variance more than ten times as large"
    told = "no guarantee that training won't lead to large values"
    large = claim("large", text, told, "greater", 1.0, "times the variance", 2.0, base=10.0)
    yield large, last.values, first.values
    told, at_start = "keeps the initial gradients modestly sized", moved.isel(epoch=0).mean("network_layer")
    others = {
        name: logs("gradient_variance", measured.sel(training_scheme=name))
        .isel(epoch=0)
        .mean("network_layer")
        for name in measured["training_scheme"].values.tolist()
    }
    if {"standard_normal", "normal:0.001"} <= others.keys():
        text = "at the start gradients have less variance with He's than with standard normal weights, and "
        text += "more than with weights of variance 0.001²"
        unit = "times the variance"
        yield (
            claim("modest", text, told, "greater", 0.0, unit, 1.0, base=10.0),
            {"standard normal": others["standard_normal"].values, "narrow": at_start.values},
            {"standard normal": at_start.values, "narrow": others["normal:0.001"].values},
        )
    inactive = 100 * seen["inactive"].isel(epoch=0).mean("network_layer").values
    text = "He: half of the ReLUs are inactive at initialization"
    told = "the estimates adjusted for half being inactive"
    half = claim("half", text, told, "equal", INACTIVE_MARGIN, "% inactive", 0.0, offset=50.0)
    yield half, inactive, 50.0
    dead = 100 * seen["dead"].isel(epoch=-1).mean("network_layer").values
    text = "He: more than 1 % of the hidden units are dead after training, mean over layers"
    told = "no guarantees that the model won't have lots of inactive units"
    yield claim("dead", text, told, "greater", DEAD, "% of units", 2 * DEAD), dead, 0.0
