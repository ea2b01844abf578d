"""What the benchmark's measurements say: records, table, floors, targets and their verdicts, figure."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.benchmark import cases, causes
from experiments.benchmark.measures import best_torch, floors, peak, rated, records
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
            speed += [shown(record["gflops"], ",.1f"), shown(record["share_of_peak"], ".0%")]
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
        rows.append(["· " + record["side"], *speed, compiled, memory])
    return f"Medians of {measured.sizes['repeat']} repeats, in turn", header, rows


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


def target(identifier: str, text: str, ratio: float, wanted: str) -> stats.Claim:
    """A target as a claim on logarithms: ours over theirs is more than ``ratio``."""
    return stats.Claim(identifier, "target", text, wanted, "greater", math.log(ratio), "ln ratio")


def targets(cpu: bool) -> list[tuple[stats.Claim, str, str, float]]:
    """Each with its model, what it is compared with, and the factor on the latter.

    Those of a CPU were set for two cores; those of a GPU compare with PyTorch's loop over the networks.
    """
    mlp, lenet5 = cases.MLP, cases.LENET5
    if not cpu:
        claim = target("gpu_loop", f"{mlp}: 50 times PyTorch's loop over the networks", 50, "50 times")
        return [(claim, mlp, cases.EAGER, 1.0)]
    times, part = f"{cases.TIMES_TORCH:g} times", f"{100 * cases.SHARE_OF_PEAK:g} %"
    best = target(
        "mlp_torch", f"{mlp}, 11 runs or more: {times} PyTorch's best deployment", cases.TIMES_TORCH, times
    )
    share = target("mlp_peak", f"{mlp}, 11 runs or more: more than {part} of the matrix peak", 1, part)
    conv = target("lenet5_torch", f"{lenet5}, batch 1024: faster than PyTorch's best deployment", 1, "faster")
    return [
        (best, mlp, "best", 1.0),
        (share, mlp, cases.PRODUCT, cases.SHARE_OF_PEAK),
        (conv, lenet5, "best", 1.0),
    ]


def verdicts(measured: xr.Dataset) -> list[stats.Verdict]:
    """The targets that can be judged by what was measured; repeats are paired."""
    judged = []
    for claim, model, other, factor in targets(json.loads(measured.attrs["machine"])["platform"] == "cpu"):
        usual = 60 if model == cases.MLP else 1024
        ours = [
            (case, rates)
            for case, rates in rated(measured)
            if (case.side, case.model, case.width, case.batch) == (cases.OURS, model, 1, usual)
            and (case.runs >= 11 or model == cases.LENET5)
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
        if candidate.side == other and other == cases.PRODUCT:
            return rates / cases.step_flops(case)
        if candidate.side == other and candidate.group == case.group:
            return rates
    return None


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """How the speed grows with runs, width and batch."""
    return figures.save_all({"growth": lambda: draw_growth(measured)}, folder)


def draw_growth(measured: xr.Dataset) -> Any:
    """GFLOP/s of LeNet-300-100 against each of the three, the matrix peak as a line."""
    figure, axes = figures.new_figure(3, width=4.2, height=3.6, sharey=True)
    table = [record for record in records(measured) if record["model"] == cases.MLP and record["gflops"]]
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
