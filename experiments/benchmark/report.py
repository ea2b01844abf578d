"""What the benchmark's measurements say: records, table, floors, targets and their verdicts, figure."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.benchmark import cases, causes
from experiments.benchmark.measures import best_torch, cases_of, floors, peak, rated, records
from lth_jax.analysis import figures, stats


def to_json(measured: xr.Dataset) -> str:
    """The whole benchmark as JSON: machine, floors, a record a case, and what could not be measured."""
    attrs = dict(measured.attrs)
    parsed = {name: json.loads(attrs[name]) for name in ("config", "versions", "machine", "problems")}
    whole = {**attrs, **parsed, "floors": floors(measured), "cases": records(measured)}
    return json.dumps(whole, indent=2) + "\n"


def shown(value: float | None, pattern: str) -> str:
    """A number for the table, a dash for none."""
    return "–" if value is None else format(value, pattern)


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """A row a case below a row a group; the machine's peaks in GFLOP/s or GB/s; seconds to compile."""
    header = ["", "runs", "steps/s", "±", "GFLOP/s", "peak", "×Torch", "compile", "MB"]
    rows: list[list[str]] = []
    group = None
    for record in records(measured):
        if record["group"] != group:
            group = record["group"]
            rows.append([group] + [""] * (len(header) - 1))
        rates = [rate for rate in record["rates"] if rate is not None]
        # Half the range over the median: with a handful of repeats there is no better word for the noise.
        spread = shown((max(rates) - min(rates)) / 2 / np.median(rates) if rates else None, ".0%")
        if record["model"]:
            speed = [str(record["runs"]), shown(record["rate"], ",.1f"), spread]
            speed += [
                shown(record["gflops"], ",.1f"),
                shown(record["share_of_peak"], ".0%"),
            ]
            speed += [shown(record["ratio_to_best_torch"], ".2f")]
        else:
            giga = shown(record["rate"] and record["rate"] / 1e9, ",.1f")
            speed = [
                "",
                "",
                spread,
                giga + (" GB/s" if cases.UNITS[record["side"]] == "bytes" else ""),
                "",
                "",
            ]
        compiled = shown(record["compile_seconds"], ".1f")
        memory = shown(record["peak_memory"] and record["peak_memory"] / 1e6, ",.0f")
        rows.append(["· " + record["side"] + said_kept(record), *speed, compiled, memory])
    return f"Medians of {measured.sizes['repeat']} repeats, in turn", header, rows


def said_kept(record: Mapping[str, Any]) -> str:
    """What a row says of the weights kept, where it is not half of them."""
    if not record["model"] or record["kept"] == cases.HALF:
        return ""
    return f", {record['kept']:.1%} kept" if record["kept"] else f", {len(cases.LEVELS)} levels"


def notes(measured: xr.Dataset) -> str:
    """The machine, the floors, and what could not be measured, as Markdown."""
    machine, problems = (json.loads(measured.attrs[name]) for name in ("machine", "problems"))
    lines = ["## Machine", ""] + [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "## Floor of a network-step", ""]
    lines += ["| work | MFLOP | at the matrix peak | Adam's MB | at a large copy's speed | in cache |"]
    lines += ["| --- |" + " --- |" * 5]
    for floor in floors(measured):
        times = [floor[name] for name in ("arithmetic", "traffic", "traffic_in_cache")]
        arithmetic, traffic, cached = (shown(t and t * 1e6, ",.0f") + " µs" for t in times)
        sizes = f"{floor['flops'] / 1e6:,.1f} | {arithmetic} | {floor['bytes'] / 1e6:,.1f}"
        lines.append(f"| {floor['group']} | {sizes} | {traffic} | {cached} |")
    lines += ["", *causes.lines(measured), "## Start-up", ""]
    ready = [f"{r['label']} {r['ready_seconds']:.1f} s" for r in records(measured) if ready_ours(r)]
    lines += [f"From the start of a process to its first trained step and a second call: {'; '.join(ready)}."]
    if problems:
        lines += ["", "## Not measured", ""] + [f"- {what}" for what in problems]
    return "\n".join(lines)


def ready_ours(record: Mapping[str, Any]) -> bool:
    """Whether a record is of our own training and its start-up was measured."""
    return record["side"] == cases.OURS and record["ready_seconds"] is not None


COUNTS = 1.1
"""How many times as fast a target has to be met for that to count."""


def target(identifier: str, text: str, ratio: float, wanted: str) -> stats.Claim:
    """A target as a claim on logarithms: ours over theirs is more than ``ratio``, read as a ratio."""
    margin, effect = math.log(ratio), math.log(ratio * COUNTS)
    return stats.Claim(
        identifier, "target", text, wanted, "greater", margin, "times", effect=effect, base=math.e
    )


class Target(NamedTuple):
    """A target, the case of ours that it is about, what that is compared with, and a factor on the latter."""

    claim: stats.Claim
    ours: Mapping[str, Any]
    other: str
    factor: float = 1.0


LEVEL = cases.LEVELS[13]
"""5.5 % kept."""


def targets(cpu: bool) -> list[Target]:
    """Those of a CPU were set for two cores; those of a GPU compare with PyTorch's loop over the networks."""
    mlp, lenet5, cnn, conv2 = cases.MLP, cases.LENET5, cases.CNN, cases.CONV2
    if not cpu:
        claim = target("gpu_loop", f"{mlp}: 50 times PyTorch's loop over the networks", 50, "50 times")
        return [Target(claim, {"model": mlp}, cases.EAGER)]
    best, many = "PyTorch's best deployment", f"{mlp}, 11 runs or more"
    times, part = f"{cases.TIMES_TORCH:g} times", f"{100 * cases.SHARE_OF_PEAK:g} %"
    whole = f"{mlp}, {len(cases.LEVELS)} levels from 100 to 1.4 % kept"
    sweep = target("sweep_torch", f"{whole}: 3 times {best}", 3, "3 times")
    level = target("level_dense", f"{mlp}, 5.5 % kept: 4 times the dense level", 4, "4 times")
    dense = target("mlp_torch", f"{many}: {times} {best}", cases.TIMES_TORCH, times)
    share = target("mlp_peak", f"{many}: more than {part} of the matrix peak", 1, part)
    conv = target("lenet5_torch", f"{lenet5}, batch 1024: faster than {best}", 1, "faster")
    own = target("cnn_torch", f"{cnn} of nn.Conv and BatchNorm: faster than {best}", 1, "faster")
    loop = target("cnn_loop", f"{cnn}: at most 1.15 times the time of a plain jitted loop", 1, "1.15 times")
    wide = target("conv2_torch", f"{conv2} of nn.Conv: 1.2 times {best}", 1.2, "1.2 times")
    deep = target("resnet_torch", f"{cases.RESNET} of nn.Conv: faster than {best}", 1, "faster")
    return [
        Target(sweep, {"model": mlp, "kept": cases.ALL_LEVELS}, "best"),
        Target(level, {"model": mlp, "kept": LEVEL}, "dense"),
        Target(dense, {"model": mlp}, "best"),
        Target(share, {"model": mlp}, cases.PRODUCT, cases.SHARE_OF_PEAK),
        Target(conv, {"model": lenet5}, "best"),
        Target(own, {"model": cnn}, "best"),
        Target(loop, {"model": cnn}, cases.PLAIN, 1 / 1.15),
        Target(wide, {"model": conv2}, "best"),
        Target(deep, {"model": cases.RESNET}, "best"),
    ]


def verdicts(measured: xr.Dataset) -> list[stats.Verdict]:
    """The targets that can be judged by what was measured; repeats are paired."""
    judged = []
    for claim, wanted, other, factor in targets(json.loads(measured.attrs["machine"])["platform"] == "cpu"):
        usual = {"side": cases.OURS, "width": 1, "kept": cases.HALF, **wanted}
        usual["batch"] = cases.USUAL_BATCH[usual["model"]]
        ours = [
            (case, rates)
            for case, rates in rated(measured)
            if all(getattr(case, name) == value for name, value in usual.items())
            and (case.runs >= 11 or case.model != cases.MLP)
        ]
        if not ours or measured.sizes["repeat"] < 2:
            continue
        case, rates = max(ours, key=lambda pair: pair[0].runs)
        theirs = rates_of(measured, case, other)
        if theirs is not None:
            judged.append((claim, np.log(rates), np.log(factor * theirs)))
    return stats.judge_all(judged, method="student") if judged else []


def rates_of(measured: xr.Dataset, case: cases.Case, other: str) -> np.ndarray | None:
    """What a case is compared with, in network-steps/s, one a repeat."""
    if other == "best":
        best = best_torch(measured, case.group)
        return best[1] if best else None
    for candidate, rates in rated(measured):
        if other == "dense" and (candidate.group, candidate.kept) == (case.group, 1.0):
            return rates
        if candidate.side == other and other == cases.PRODUCT:
            return rates / cases.step_flops(case)
        if candidate.side == other and candidate.group == case.group:
            return rates
    return None


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """How the speed grows with runs, width and batch; what a step costs against the weights kept."""
    drawn = {"growth": lambda: draw_growth(measured), "cost": lambda: draw_cost(measured)}
    return figures.save_all(drawn if by_level(measured) else {"growth": drawn["growth"]}, folder)


def by_level(measured: xr.Dataset) -> list[dict[str, Any]]:
    """The records of one network at several shares of its weights."""
    return [record for record in records(measured) if "by weights kept" in record["group"] and record["rate"]]


def draw_cost(measured: xr.Dataset) -> Any:
    """Microseconds of a network-step against the weights kept; PyTorch's and the matrix peak as lines."""
    figure, ax = figures.new_figure(width=5.2, height=3.6)
    table = by_level(measured)
    points = [100 * record["kept"] for record in table], [1e6 / record["rate"] for record in table]
    ax.plot(*points, label="ours", **figures.style(0))
    case = next(case for case in cases_of(measured) if (case.model, case.kept) == (cases.MLP, cases.HALF))
    if best := best_torch(measured, case.group):
        theirs = 1e6 / float(np.median(best[1]))
        ax.axhline(theirs, color=figures.COLORS[4], label="PyTorch's best, masked")
    if math.isfinite(product := peak(measured, cases.PRODUCT)):
        least = 1e6 * cases.step_flops(case) / product
        ax.axhline(least, color="black", linestyle="--", linewidth=1, label="dense, at the matrix peak")
    ax.set(xscale="log", xlabel="weights kept (%)", ylabel="µs per network-step", ylim=(0, None))
    ax.set_xticks([100, 50, 20, 10, 5, 2], ["100", "50", "20", "10", "5", "2"])
    ax.legend(fontsize=7)
    ax.set_title(f"{cases.MLP}, batch {case.batch}, {measured.attrs['device']}", fontsize=8)
    return figure


def draw_growth(measured: xr.Dataset) -> Any:
    """GFLOP/s of LeNet-300-100 against each of the three, the matrix peak as a line."""
    figure, axes = figures.new_figure(3, width=4.2, height=3.6, sharey=True)
    table = [record for record in records(measured) if record["model"] == cases.MLP and record["gflops"]]
    table = [record for record in table if record["kept"] == cases.HALF]
    usual = {"width": 1, "batch": min((record["batch"] for record in table), default=60)}
    some = max((r["runs"] for r in table if r["side"] == cases.OURS and r["runs"] <= 11), default=1)
    for ax, name in zip(axes, ("runs", "width", "batch"), strict=True):
        fixed = {key: value for key, value in {**usual, "runs": some}.items() if key != name}
        for index, side in enumerate((cases.OURS, cases.EAGER, cases.PER_CORE)):
            loose = {key: value for key, value in fixed.items() if side == cases.OURS or key != "runs"}
            line = [r for r in table if r["side"] == side and all(r[k] == v for k, v in loose.items())]
            line.sort(key=lambda record: record[name])
            if line:
                points = [record[name] for record in line], [record["gflops"] for record in line]
                ax.plot(*points, label=side, **figures.style(index))
        limit = peak(measured, cases.PRODUCT) / 1e9
        if math.isfinite(limit):
            ax.axhline(limit, color="black", linestyle="--", linewidth=1, label="matrix peak")
        ax.set(xlabel=name, xscale="log", ylim=(0, None))
    axes[0].set_ylabel("GFLOP/s")
    axes[0].legend(fontsize=7)
    figure.suptitle(f"{cases.MLP} on {measured.attrs['device']}", fontsize=9)
    return figure
