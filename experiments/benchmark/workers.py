"""Worker processes of the benchmark: one a case, alive while its group is measured in turn.

A worker prepares its case, makes two calls (the first compiles), says so in a line of JSON, and waits. For
every line with a number of seconds it repeats its call for at least that long and answers with the work done
and the time taken. It ends when its input does. Waiting costs nothing, so several can be measured in turn.

This module imports neither JAX nor PyTorch, so that a worker's memory holds its own library only.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from experiments.benchmark.cases import PER_CORE, TORCH, Case

NONZERO = 0.19
"""Share of MNIST's pixels that are not 0."""


class WorkerError(RuntimeError):
    """A worker ended early; its last line of error says why."""


class Prepared(NamedTuple):
    """What a worker measures: a call that returns its work, the peak memory in bytes; and with what."""

    call: Callable[[], float]
    peak_memory: Callable[[], float]
    version: str


class Worker(NamedTuple):
    """A case and its processes, ready to measure."""

    case: Case
    processes: list[Any]  # subprocess.Popen, all of whose pipes are open
    errors: list[IO[str]]
    ready: list[dict[str, Any]]
    ready_seconds: float  # from the start of the first process until the last is ready


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory() -> float:
    """The most memory that this process has held, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def pictures(examples: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images as sparse as MNIST's, uint8, and labels: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    size = (examples, *shape)
    images = rng.integers(1, 256, size, np.uint8) * (rng.random(size, np.float32) < NONZERO)
    return images, rng.integers(0, 10, examples)


def serve(prepare: Callable[[Case], Prepared], text: str) -> None:
    """A worker's main: prepare the case in ``text``, answer every line of standard input."""
    message = json.loads(text)
    answers, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not speak for us
    if message["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {message["core"]})
    prepared = prepare(Case(**message["case"]))

    def answer(**values: Any) -> None:
        print(json.dumps({**values, "peak_memory": prepared.peak_memory()}), file=answers, flush=True)

    calls = [timed(prepared.call, 0)[1] for _ in range(2)]
    answer(first=calls[0], second=calls[1], version=prepared.version)
    for line in sys.stdin:
        work, seconds = timed(prepared.call, float(line))
        answer(work=work, seconds=seconds)


def timed(call: Callable[[], float], seconds: float) -> tuple[float, float]:
    """Call at least once and until ``seconds`` have gone; the work done and the time it took."""
    started, work = time.perf_counter(), 0.0
    while True:
        work += call()
        taken = time.perf_counter() - started
        if taken >= seconds:
            return work, taken


def start(case: Case) -> Worker:
    """Start a case's worker, or one for each core, and wait until it is ready.

    Raises:
      WorkerError: it ended instead.
    """
    module = f"experiments.benchmark.{'on_torch' if case.side in TORCH else 'on_jax'}"
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(cores())
    places = list(usable) if case.side == PER_CORE else [None]
    # Memory as it is needed, several share the device; programs compiled anew, that is measured.
    quiet = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    started, processes, errors = time.perf_counter(), [], []
    for core in places:
        message = json.dumps({"case": case._asdict(), "core": core})
        errors.append(tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115  (closed by stop)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", module, message],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors[-1],
                text=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, **quiet},
            )
        )
    worker = Worker(case, processes, errors, [], 0.0)
    try:
        worker.ready.extend(answers(worker))
    except BaseException:
        stop(worker)
        raise
    return worker._replace(ready_seconds=time.perf_counter() - started)


def answers(worker: Worker) -> list[dict[str, Any]]:
    """One line from each of a worker's processes.

    Raises:
      WorkerError: one has ended.
    """
    found = []
    for process, errors in zip(worker.processes, worker.errors, strict=True):
        line = process.stdout.readline()
        if not line:
            process.wait()
            errors.seek(0)
            last = (errors.read().strip() or f"ended with {process.returncode}").splitlines()[-1]
            raise WorkerError(last)
        found.append(json.loads(line))
    return found


def ask(worker: Worker, seconds: float) -> tuple[float, float]:
    """Let a worker measure: work per second, of all its processes together, and bytes of memory.

    Raises:
      WorkerError: it ended instead.
    """
    for process in worker.processes:
        with contextlib.suppress(BrokenPipeError):  # it has ended: its answer will say why
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
    found = answers(worker)
    rate = sum(each["work"] / each["seconds"] for each in found)
    return rate, sum(each["peak_memory"] for each in found)


def stop(worker: Worker) -> None:
    """End a worker's processes."""
    for process, errors in zip(worker.processes, worker.errors, strict=True):
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        errors.close()
