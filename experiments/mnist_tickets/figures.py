"""Figures of E4, as the document describes them: curves, time and accuracy against size, what survives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.mnist_tickets import measures
from lth_jax.analysis import figures

CURVE_SIZES = ((1.0, 0.8, 0.64, 0.512), (1.0, 0.211, 0.069, 0.036, 0.018))
"""Fractions kept in the two panels of curves: where pruning helps, and where it begins to harm."""
CONTROL_SIZES = (1.0, 0.35, 0.25)
SURVIVOR_SIZES = (1.0, 0.512, 0.168, 0.055)
CONNECTION_SIZES = (0.8, 0.168, 0.055)


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Every figure that these results have the data for."""
    drawn: dict[str, Any] = {}
    part, names = measured.attrs["variant"], measures.families(measured)
    for title, chosen in panels(part, names).items():
        drawn[title] = lambda c=chosen: draw_against_size(measured, c)
    ticket = names[0]
    if part in ("controls", "one_shot", "iterative", "inspect"):
        drawn["curves"] = lambda: draw_curves(measured, ticket)
    if "reinit" in names:
        drawn["control_curves"] = lambda: draw_control_curves(measured, ticket, "reinit")
        drawn["trials"] = lambda: draw_trials(measured, ticket, "reinit")
    if "line" in measured.coords:
        drawn["survivors"] = lambda: draw_survivors(measured)
        drawn["connections"] = lambda: draw_connections(measured)
    return figures.save_all(drawn, folder)


def panels(part: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Families by figure: wide and narrow initial weights are drawn apart, and so are both ways to prune."""
    if part == "init_std":
        std = {name: float(name.split()[1]) for name in names}
        wide, narrow = (
            [n for n in names if keep(std[n])] for keep in (lambda s: s >= 0.1, lambda s: s <= 0.1)
        )
        return {"wide": wide, "narrow": narrow}
    if part == "sizes":
        kinds = {"sizes_one_shot": " one-shot", "sizes_iterative": " iterative"}
        return {title: [n for n in names if n.endswith(kind)] for title, kind in kinds.items()}
    return {"against_size": list(names)}


def draw_against_size(measured: xr.Dataset, chosen: Sequence[str]) -> Any:
    """Early-stop iteration, accuracy there, and accuracy at the end, against weights kept."""
    figure, axes = figures.new_figure(3, width=5.2)
    values = {
        "early-stop iteration": measures.stop_iteration(measured),
        "test accuracy at early stop (%)": measures.at_stop(measured, "test_accuracy") * 100,
        "test accuracy at the end (%)": measures.at_end(measured, "test_accuracy") * 100,
    }
    by_count = measured.attrs["variant"] == "sizes"
    size = measured["kept_weights"] if by_count else measured["kept"] * 100
    for ax, (title, value) in zip(axes, values.items(), strict=True):
        for index, family in enumerate(chosen):
            shift = 1 + 0.012 * (index - (len(chosen) - 1) / 2)
            draw_range(ax, size, value, family, index, shift)
        ax.set_ylabel(f"{title}, mean, min–max")
        if by_count:
            ax.set(xscale="log", xlabel="weights remaining")
            ax.invert_xaxis()
        else:
            longest = max((measures.kept(measured, family) for family in chosen), key=np.count_nonzero)
            figures.kept_axis(ax, longest[np.isfinite(longest)])
    axes[0].legend(fontsize=7)
    seeds, attrs = measured.sizes["seed"], measured.attrs
    figure.suptitle(f"{attrs.get('dataset', '')}, {attrs['variant']}, {seeds} trials", fontsize=10)
    return figure


def draw_range(
    ax: Any, size: xr.DataArray, value: xr.DataArray, family: str, index: int, shift: float
) -> None:
    """One family's mean over trials and arms at every level, with bars from the least to the most."""
    mine = measures.members(value, family).stack(network=("arm", "seed"))
    x = measures.members(size, family).mean(["arm", "seed"]).values
    there = np.isfinite(x)
    table = np.ma.masked_invalid(mine.transpose("network", "level").values[:, there])
    mean, low, high = (np.ma.filled(of(0), np.nan) for of in (table.mean, table.min, table.max))
    ax.errorbar(
        x[there] * shift, mean, figures.bars(mean, low, high),
        label=figures.label(family), capsize=2, linewidth=1.2, elinewidth=0.7, **figures.style(index),
    )  # fmt: skip


def draw_curves(measured: xr.Dataset, family: str) -> Any:
    """Tickets' accuracy over the iterations, a curve a size, in two panels."""
    figure, axes = figures.new_figure(2)
    for ax, sizes in zip(axes, CURVE_SIZES, strict=True):
        for index, level in enumerate(near(measured, family, sizes).values()):
            draw_curve(ax, measured, family, level, index)
        curve_axis(ax, measured)
    return figure


def draw_control_curves(measured: xr.Dataset, family: str, control: str) -> Any:
    """Accuracy over the iterations: tickets solid, a control's networks dashed, a colour a size."""
    figure, ax = figures.new_figure()
    for index, (size, level) in enumerate(near(measured, family, CONTROL_SIZES).items()):
        draw_curve(ax, measured, family, level, index)
        if size < 1:
            draw_curve(ax, measured, control, level, index, linestyle="--")
    curve_axis(ax, measured)
    return figure


def near(measured: xr.Dataset, family: str, sizes: Sequence[float]) -> dict[float, int]:
    """The levels of a family whose sizes are near to those asked for."""
    levels = {size: measures.level_at(measured, family, size) for size in sizes}
    return {size: level for size, level in levels.items() if level is not None}


def draw_curve(
    ax: Any, measured: xr.Dataset, family: str, level: int, index: int, linestyle: str = "-"
) -> None:
    """Mean test accuracy over a family's networks; bars min–max: up and down of it, across of early stops."""
    networks, color = ("arm", "seed"), figures.style(index)["color"]
    one = measures.members(measured["test_accuracy"], family).isel(level=level) * 100
    stop = measures.members(measures.stop_iteration(measured), family).isel(level=level)
    mean, low, high = (getattr(one, name)(networks).values for name in ("mean", "min", "max"))
    iteration, kept = measured["iteration"].values, measures.kept(measured, family)[level]
    label = f"{100 * kept:.3g} %" + (f", {figures.label(family)}" if linestyle != "-" else "")
    ax.plot(iteration, mean, color=color, linewidth=1, linestyle=linestyle, label=label)
    some = slice(index, None, max(1, len(iteration) // 15))
    bars = figures.bars(mean, low, high)[:, some]
    ax.errorbar(iteration[some], mean[some], bars, fmt="none", ecolor=color, elinewidth=0.6)
    early, usual, late = (np.array([float(getattr(stop, name)())]) for name in ("min", "mean", "max"))
    at, reach = np.interp(usual, iteration, mean), figures.bars(usual, early, late)
    marker = "o" if linestyle == "-" else "s"
    ax.errorbar(usual, at, xerr=reach, fmt=marker, color=color, capsize=3, markeredgecolor="k")


def curve_axis(ax: Any, measured: xr.Dataset) -> None:
    """Labels, and the four points below the best mean."""
    best = float(measured["test_accuracy"].mean("seed").max()) * 100
    ax.set(xlabel="iteration", ylabel="test accuracy (%), mean, min–max")
    ax.set_ylim(best - 4, None)
    ax.legend(fontsize=7, title="kept; marked: early stop", title_fontsize=7)


def draw_trials(measured: xr.Dataset, ticket: str, control: str) -> Any:
    """The tickets' mean against every single control: a line a network, a colour a trial."""
    figure, axes = figures.new_figure(2)
    values = {
        "early-stop iteration": measures.stop_iteration(measured),
        "test accuracy at early stop (%)": measures.at_stop(measured, "test_accuracy") * 100,
    }
    kept = measures.kept(measured, ticket)
    for ax, (title, value) in zip(axes, values.items(), strict=True):
        for trial, seed in enumerate(measured["seed"].values):
            color = figures.style(trial + 1)["color"]
            for row in measures.members(value, control).sel(seed=seed).transpose("arm", "level").values:
                ax.plot(kept * 100, row[: len(kept)], color=color, linewidth=0.7)
        mean = measures.members(value, ticket).mean(["arm", "seed"])
        ax.plot(
            kept * 100, mean, color=figures.COLORS[0], linewidth=2.2, label=f"{figures.label(ticket)}, mean"
        )
        figures.kept_axis(ax, kept[np.isfinite(kept)])
        ax.set_ylabel(title)
    axes[0].legend(fontsize=7, title=f"thin: {control}, a colour a trial")
    return figure


def layers_of(measured: xr.Dataset) -> dict[str, str]:
    """Layer names with their titles, from the first."""
    names = [str(n).removeprefix("survivors_") for n in measured.data_vars if str(n).startswith("survivors_")]
    return {
        name: "output layer" if name == "output" else f"hidden layer {int(name[7:]) + 1}" for name in names
    }


def draw_survivors(measured: xr.Dataset) -> Any:
    """How the initial weights of what is still kept are distributed, a panel a size, a line a layer."""
    chosen = near(measured, str(measured["line"].values[0]), SURVIVOR_SIZES)
    figure, axes = figures.new_figure(len(chosen), width=4.2, squeeze=False)
    for ax, (size, level) in zip(axes[0], chosen.items(), strict=True):
        for index, (layer, title) in enumerate(layers_of(measured).items()):
            counts = measured[f"survivors_{layer}"].isel(line=0, level=level).sum("seed").values
            width = float(measured["bin"][1] - measured["bin"][0])
            density = counts / max(counts.sum(), 1) / width
            ax.plot(measured["bin"], density, color=figures.COLORS[index], label=title)
        ax.set(title=f"{100 * size:.3g} % kept", xlabel="initial weight / its layer's std", ylabel="density")
    axes[0][0].legend(fontsize=7)
    return figure


def draw_connections(measured: xr.Dataset) -> Any:
    """Connections of each unit, most first: from the layer below (top), to the layer above (bottom)."""
    line, layers = str(measured["line"].values[0]), layers_of(measured)
    chosen = near(measured, line, CONNECTION_SIZES)
    figure, axes = figures.new_figure(len(layers), width=4.2, height=3.4, rows=2, squeeze=False)
    below = ["inputs", *list(layers.values())[:-1]]
    for row, (side, titles) in zip(
        axes, {"incoming": list(layers.values()), "outgoing": below}.items(), strict=True
    ):
        for ax, layer, title in zip(row, layers, titles, strict=True):
            for index, (size, level) in enumerate(chosen.items()):
                counts = measured[f"{side}_{layer}"].isel(line=0, level=level).mean("seed").values
                ax.plot(np.arange(1, len(counts) + 1), counts, color=figures.COLORS[index],
                        label=f"{100 * size:.3g} %")  # fmt: skip
            where = "from the layer below" if side == "incoming" else "to the layer above"
            ax.set(title=f"{title}: {where}", xlabel="unit, most connected first", ylabel="connections")
            ax.set_ylim(0, None)
    axes[0][0].legend(fontsize=7, title="weights kept")
    return figure
