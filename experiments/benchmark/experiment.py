"""Speed: this library against PyTorch and against the machine's own peak, in one run, in turn, repeated.

    python -m experiments benchmark                       a few cases
    python -m experiments benchmark --preset paper        all of them
    pip install lth_jax[benchmark]                        brings PyTorch; without it, ours and the peaks only

LeNet-300-100 (batch 60, Adam) and LeNet-5 (batch 1024) on random images of MNIST's and CIFAR-10's shapes.
Ours over several numbers of runs; PyTorch eager with fused Adam and masked gradients, one process with all
threads, and one process a core with one thread each; PyTorch's ``torch.func.vmap``; a large float32 matrix
product and two copies through JAX, hence the floor. Every case has a process of its own; those that do the
same work are alive together and measured in turn, so a machine that slows down slows all of them.

A *network-step* is gather, forward, backward and masked update of one network on one minibatch; shuffling and
evaluation are left out on both sides. Leave the machine alone while it runs: its load is recorded.
"""

import functools
import importlib.util
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr

from experiments.benchmark import cases, measures, report, workers
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.runs.config import check_choices, option
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.runs.storage import write_text

SUMMARY = "Speed against PyTorch and against the machine's own peak"

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # its workers need the device's memory

RECORD = "benchmark.json"


@dataclass(frozen=True)
class Config:
    """One benchmark; every field is a flag."""

    repeats: int = option(5, "measurements of each case; the median counts")
    seconds: float = option(4.0, "seconds of each measurement, at least")
    runs: tuple[int, ...] = option((1, 11, 88), "LeNet-300-100s at once; the largest up to 11 elsewhere too")
    widths: tuple[int, ...] = option((1, 2, 4), "factors on LeNet-300-100's hidden widths")
    batches: tuple[int, ...] = option(
        (60, 240, 1024), "batch sizes of LeNet-300-100; the first elsewhere too"
    )
    lenet5_runs: tuple[int, ...] = option((1, 11), "LeNet-5s at once, batch 1024; empty leaves LeNet-5 out")
    examples: int = option(60_000, "images in memory")
    own: tuple[str, ...] = option(cases.OWN, "networks as users write them, of plain nn.Conv", cases.OWN)
    torch: bool = option(True, "measure PyTorch too, where it is installed")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.repeats >= 1, f"--repeats {self.repeats}: must be at least 1")
        require(self.seconds > 0, f"--seconds {self.seconds}: must be positive")
        require(self.examples >= 1, f"--examples {self.examples}: must be at least 1")
        for name in ("runs", "widths", "batches", "lenet5_runs"):
            values = getattr(self, name)
            text = f"--{name.replace('_', '-')} {','.join(map(str, values))}"
            require(len(values) > 0 or name == "lenet5_runs", f"{text}: name at least one")
            require(len(set(values)) == len(values), f"{text}: one is named twice")
            require(all(value >= 1 for value in values), f"{text}: each must be at least 1")


QUICK = {
    "repeats": 3,
    "seconds": 1.0,
    "runs": (1, 11),
    "widths": (1, 2),
    "batches": (60, 240),
    "own": (cases.CNN,),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {"quick": {**QUICK, "lenet5_runs": (2,)}, "paper": {}}


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was before."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "device": results.device_name(),
        "platform": jax.default_backend(),
        "cores": workers.cores(),
        "memory": f"{pages / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "load before (1 min)": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def measure_group(
    group: Sequence[cases.Case], config: Config, problems: list[str], libraries: set[str]
) -> list[dict[str, Any]]:
    """Start a group's workers, measure them in turn ``config.repeats`` times, and end them.

    Args:
      group: the cases.
      config: how often and how long.
      problems: gets a line for each case whose worker ended; its record is then NaN.
      libraries: gets the versions that the workers report.

    Returns:
      A record a case.
    """
    alive: dict[cases.Case, workers.Worker] = {}
    found = {case: {"case": case, "rates": [np.nan] * config.repeats} for case in group}
    try:
        for case in group:
            try:
                alive[case] = workers.start(case)
            except workers.WorkerError as error:
                problems.append(f"{case.label}: {error}")
                continue
            ready = alive[case].ready
            libraries.update(each["version"] for each in ready)
            compiled = max(each["first"] - each["second"] for each in ready)
            found[case] |= {"compile_seconds": max(compiled, 0.0), "ready_seconds": alive[case].ready_seconds}
        for repeat in range(config.repeats):
            for case in list(alive):
                try:
                    rate, memory = workers.ask(alive[case], config.seconds)
                except workers.WorkerError as error:
                    problems.append(f"{case.label}: {error}")
                    workers.stop(alive.pop(case))
                    continue
                found[case]["rates"][repeat] = rate
                found[case]["peak_memory"] = memory
    finally:
        for worker in alive.values():
            workers.stop(worker)
    return list(found.values())


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """A few cases, or all of them."""
    return PRESETS


def train(config: Config, job: Job, dataset: None) -> xr.Dataset:
    """Measure everything, a group of cases a stage; labelled results, and beside them the same as JSON."""
    described, problems = machine(), []
    torch = config.torch and importlib.util.find_spec("torch") is not None
    if not torch:
        why = "PyTorch is not installed (pip install lth_jax[benchmark])" if config.torch else "--torch false"
        problems.append(f"PyTorch: {why}")
        print(f"without PyTorch: {why}", flush=True)

    def measure_cases(group: Sequence[cases.Case]) -> xr.Dataset:
        problems, libraries = [], set()
        found = measure_group(group, config, problems, libraries)
        attrs = {"problems": json.dumps(problems), "libraries": json.dumps(sorted(libraries))}
        return labelled(found, attrs)

    def measure(group: Sequence[cases.Case], done: Done) -> xr.Dataset:
        peak = float(done["peaks"]["rate"].isel(case=0).median())
        return measure_cases([with_steps(case, config, peak) for case in group])

    arguments = (
        config.runs,
        config.widths,
        config.batches,
        config.lenet5_runs,
        config.examples,
        torch,
        config.own,
    )
    stages = [
        Stage("peaks", lambda done: measure_cases([cases.Case(side) for side in cases.PEAKS]), describe)
    ]
    stages += [
        Stage(re.sub(r"\W+", "-", group[0].group), functools.partial(measure, group), describe)
        for group in cases.groups(*arguments)
    ]
    done, _ = run_stages(job, stages)
    libraries = {each for found in done.values() for each in json.loads(found.attrs["libraries"])}
    problems += [each for found in done.values() for each in json.loads(found.attrs["problems"])]
    attrs = results.attributes(
        config,
        experiment="benchmark",
        preset=job.preset,
        machine=json.dumps({**described, "libraries": ", ".join(sorted(libraries))}),
        problems=json.dumps(problems),
    )
    measured = xr.concat(done.values(), "case", combine_attrs="drop").assign_attrs(attrs)
    write_text(job.folder / RECORD, report.to_json(measured))
    return measured


def with_steps(case: cases.Case, config: Config, peak: float) -> cases.Case:
    """Our cases with as many steps in a call as take about a measurement's time."""
    ours = case.side in (cases.OURS, cases.PATCHES)
    return case._replace(steps=cases.steps_per_call(case, config.seconds, peak)) if ours else case


def describe(measured: xr.Dataset) -> str:
    """A group's cases with their speeds, a line each."""
    lines = []
    for index in range(measured.sizes["case"]):
        side, runs, rate = (measured[name].values[index] for name in ("side", "runs", "rate"))
        giga = str(side) in cases.UNITS
        unit = f"G{cases.UNITS[str(side)]}" if giga else "network-steps"
        speed = float(np.median(rate)) / (1e9 if giga else 1)
        lines.append(f"\n  {side:17} {runs:3} {speed:9,.1f} {unit}/s")
    return "".join(lines) + "\n "


def labelled(found: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Records as arrays ``[case, repeat]`` and ``[case]``; ``rate`` is per second, see ``unit``."""
    rows = [record["case"] for record in found]
    values: dict[str, Any] = {"rate": (("case", "repeat"), [record["rates"] for record in found])}
    for name in ("compile_seconds", "ready_seconds", "peak_memory"):
        values[name] = ("case", [record.get(name, np.nan) for record in found])
    coordinates: dict[str, Any] = {"case": [case.label for case in rows]}
    for name in measures.CASE_FIELDS:
        coordinates[name] = ("case", [getattr(case, name) for case in rows])
    coordinates["unit"] = ("case", [cases.UNITS.get(case.side, "network-steps") for case in rows])
    return results.by_label(values, coordinates, attrs)
