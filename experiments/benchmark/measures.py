"""What the benchmark measured, as records: rates, shares of the peak, ratios and floors."""

import math
from typing import Any

import numpy as np
import xarray as xr

from experiments.benchmark import cases

CASE_FIELDS = ("side", "model", "width", "batch", "runs", "steps", "kept")


def cases_of(measured: xr.Dataset) -> list[cases.Case]:
    """The cases behind a dataset's labels, in their order."""
    if "kept" not in measured.coords:  # results from before there were others
        measured = measured.assign_coords(kept=("case", np.full(measured.sizes["case"], cases.HALF)))
    columns = [measured[name].values.tolist() for name in CASE_FIELDS]
    return [cases.Case(**dict(zip(CASE_FIELDS, row, strict=True))) for row in zip(*columns, strict=True)]


def peak(measured: xr.Dataset, side: str) -> float:
    """The median of one of the machine's peaks, FLOP/s or bytes/s; NaN where it was not measured."""
    found = [float(np.median(row)) for case, row in rated(measured) if case.side == side]
    return found[0] if found else math.nan


def rated(measured: xr.Dataset) -> list[tuple[cases.Case, np.ndarray]]:
    """Every case with its rates, one a repeat."""
    return list(zip(cases_of(measured), measured["rate"].values, strict=True))


def best_torch(measured: xr.Dataset, group: str) -> tuple[cases.Case, np.ndarray] | None:
    """PyTorch's fastest deployment of a group by its median, ``None`` where none was measured."""
    theirs = [pair for pair in rated(measured) if pair[0].group == group and pair[0].side in cases.TORCH]
    theirs = [pair for pair in theirs if np.isfinite(pair[1]).all()]
    return max(theirs, key=lambda pair: np.median(pair[1]), default=None)


def records(measured: xr.Dataset) -> list[dict[str, Any]]:
    """A flat record for every case: what it is and what was measured; ``None`` where there is nothing."""
    product, found = peak(measured, cases.PRODUCT), []
    for index, (case, rates) in enumerate(rated(measured)):
        record: dict[str, Any] = {"label": case.label, "group": case.group}
        record |= {name: getattr(case, name) for name in CASE_FIELDS}
        rate = float(np.median(rates))
        per_step = {"rate": rate, "rates": rates.tolist()}
        if case.model:
            flops, best = cases.step_flops(case), best_torch(measured, case.group)
            flops = flops if case.kept == cases.HALF else math.nan  # what is left out is no work
            per_step |= {
                "gflops": rate * flops / 1e9,
                "share_of_peak": rate * flops / product,
                "ratio_to_best_torch": rate / float(np.median(best[1])) if best else math.nan,
                "images_per_second": rate * case.batch,
            }
        names = ("compile_seconds", "ready_seconds", "peak_memory")
        record |= per_step | {name: float(measured[name].values[index]) for name in names}
        found.append({name: finite(value) for name, value in record.items()})
    return found


def finite(value: Any) -> Any:
    """JSON has no NaN: ``None`` instead."""
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def floors(measured: xr.Dataset) -> list[dict[str, Any]]:
    """The two-number floor of a network-step in each group, seconds on the whole machine.

    ``arithmetic`` is its FLOP at the measured matrix peak; ``traffic`` what Adam must move at the speed of a
    large copy, ``traffic_in_cache`` at that of a copy as large as one network's state.
    """
    found = {}
    for case in cases_of(measured):
        if case.model and case.kept == cases.HALF and case.group not in found:
            moved = cases.step_bytes(case)
            found[case.group] = {
                "group": case.group,
                "flops": cases.step_flops(case),
                "bytes": moved,
                "arithmetic": finite(cases.step_flops(case) / peak(measured, cases.PRODUCT)),
                "traffic": finite(moved / peak(measured, cases.COPY)),
                "traffic_in_cache": finite(moved / peak(measured, cases.COPY_STATE)),
            }
    return list(found.values())
