"""What keeps a network-step from the machine's peak: the cost that no batch size changes, and zeros."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.benchmark import cases
from experiments.benchmark.measures import CASE_FIELDS, best_torch, cases_of, peak, records
from lth_jax.kernels import convolutions


def dense(measured: xr.Dataset) -> list[dict[str, Any]]:
    """The records of LeNet-300-100 at its own width."""
    half = [r for r in records(measured) if r["kept"] == cases.HALF and r["rate"]]
    return [r for r in half if (r["model"], r["width"]) == (cases.MLP, 1)]


def usual_batch(table: list[dict[str, Any]]) -> int:
    """The smallest batch size."""
    return min((record["batch"] for record in table), default=0)


def step_costs(measured: xr.Dataset) -> list[dict[str, Any]]:
    """What a network-step of LeNet-300-100 costs whatever its batch, and what each example adds, in seconds.

    A line through the medians of a side's batch sizes, by least squares of relative errors, at the number of
    runs that all sizes have. A side with one batch size is left out.
    """
    table, found = dense(measured), []
    for side in (cases.OURS, *cases.TORCH):
        others = [r["runs"] for r in table if r["side"] == side and r["batch"] != usual_batch(table)]
        runs = max(others, default=0)
        line = {r["batch"]: 1 / r["rate"] for r in table if (r["side"], r["runs"]) == (side, runs)}
        if len(line) > 1:
            batches, seconds = np.array(list(line)), np.array(list(line.values()))
            per_example, per_step = np.polyfit(batches, seconds, 1, w=1 / seconds)
            found.append({"side": side, "per_step": float(per_step), "per_example": float(per_example)})
    return found


def micro(seconds: float) -> str:
    """A time in microseconds."""
    return f"{seconds * 1e6:,.0f} µs"


def lines(measured: xr.Dataset) -> list[str]:
    """All of it, as lines of Markdown; none where there is nothing to say."""
    return [*per_step(measured), *zeros(measured)]


def per_step(measured: xr.Dataset) -> list[str]:
    """The costs of a step, and what LeNet-300-100's targets leave for them."""
    costs, batch = step_costs(measured), usual_batch(dense(measured))
    if not costs:
        return []
    found = ["## What a step costs whatever its batch", ""]
    found += [
        f"| {cases.MLP} | a step | an example | the first, at batch {batch} |",
        "| --- |" + " --- |" * 3,
    ]
    for cost in costs:
        share = cost["per_step"] / (cost["per_step"] + batch * cost["per_example"])
        times = f"{micro(cost['per_step'])} | {cost['per_example'] * 1e6:.2f} µs | {share:.0%}"
        found.append(f"| {cost['side']} | {times} |")
    return [*found, "", *(room(measured, batch, costs[0]) if costs[0]["side"] == cases.OURS else [])]


def room(measured: xr.Dataset, batch: int, cost: Mapping[str, Any]) -> list[str]:
    """What the targets leave a step of ours beside its examples."""
    case = next(c for c in cases_of(measured) if (c.model, c.batch) == (cases.MLP, batch))
    best, examples = best_torch(measured, case.group), batch * cost["per_example"]
    least = cases.step_flops(case) / peak(measured, cases.PRODUCT)
    cached = cases.step_bytes(case) / peak(measured, cases.COPY_STATE)
    left = [
        f"{100 * cases.SHARE_OF_PEAK:g} % of the peak leaves {micro(least / cases.SHARE_OF_PEAK - examples)}"
    ]
    if best:
        wanted = cases.TIMES_TORCH * float(np.median(best[1]))
        left.append(f"{cases.TIMES_TORCH:g} times PyTorch's best {micro(1 / wanted - examples)}")
    return [
        f"Ours: {batch} examples take {micro(examples)}, {least / examples:.0%} of the peak. For the rest, "
        f"{' and '.join(left)}; it takes {micro(cost['per_step'])}. Masked Adam alone cannot take less than "
        f"{micro(cached)}: it moves {cases.step_bytes(case) / 1e6:.1f} MB, here as fast as a copy in cache.",
        "",
    ]


def banded_flops(case: cases.Case) -> int:
    """:func:`cases.step_flops` and what convolutions as banded matrices multiply by zero.

    A piece of a row of the output comes from as many columns as the piece has and four more, in each of five
    rows, where the convolution needs five columns.
    """
    side, extra = cases.SPECS[case.model].image[0], 0
    for index, layer in enumerate(cases.layers(case)[: len(cases.filters(case))]):
        side -= 4
        piece = convolutions.piece_width(side)
        computed = -(-side // piece) * piece * side * layer.inputs * (piece + 4) // 5
        products = 3 if index else 2
        extra += 2 * products * case.batch * layer.outputs * (computed - side**2 * layer.inputs)
        side //= 2
    return cases.step_flops(case) + extra


def zeros(measured: xr.Dataset) -> list[str]:
    """How much of LeNet-5's arithmetic on a CPU is multiplication by zeros."""
    banded = [r for r in records(measured) if (r["side"], r["model"]) == (cases.OURS, cases.LENET5)]
    banded = [record for record in banded if record["rate"]]
    if not banded or json.loads(measured.attrs["machine"])["platform"] != "cpu":
        return []
    record = max(banded, key=lambda r: r["runs"])
    case = cases.Case(**{name: record[name] for name in CASE_FIELDS})
    more = banded_flops(case) / cases.step_flops(case)
    return [
        f"LeNet-5's convolutions as banded matrices multiply by zeros too, {more:.1f} times the arithmetic: "
        f"its {record['gflops']:,.1f} GFLOP/s are {more * record['gflops']:,.1f} of matrix products, "
        f"{more * record['share_of_peak']:.0%} of the peak.",
        "",
    ]
