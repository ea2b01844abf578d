"""Progress: for people a bar on a terminal, a line a level elsewhere; for programs a log in the run's folder.

Whatever goes from level to level reports a :class:`Progress` after each, and so does each stage of a job. All
that listens is given the same: the terminal, ``log.jsonl`` (a JSON object a line, to be followed with
``tail -f`` or read whole with ``pandas.read_json(path, lines=True)``; a level that had to be trained again is
there twice, its last line counts), and TensorBoard where ``--log`` asks for it.
"""

import contextlib
import importlib.util
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lth_jax.errors import InputError, storage_error
from lth_jax.runs import processes, results
from lth_jax.runs.job import Job
from lth_jax.tickets.masks import path_names

TENSORBOARD = "tensorboard"


class Progress(NamedTuple):
    """What is told after a level; ``record`` holds all levels, NaN or 0 where they have not been trained.

    Where ``networks`` names some, the record's first part has their axis behind that of the runs.
    """

    level: int
    levels: int
    record: PyTree
    seconds: np.ndarray
    resumed: int
    networks: Sequence[str] = ()


Describe = Callable[[Progress], str]
Listener = Callable[[Progress], None]
Steps = int | Sequence[int]
"""Network-steps in one level: all levels' number, or that of each."""


@contextlib.contextmanager
def reporting(
    job: Job | None, describe: Describe, network_steps: Steps, part: str = "", names: Sequence[str] = ()
) -> Iterator[Listener]:
    """Report levels to everyone who listens.

    Args:
      job: whose folder has the log; without one a terminal shows a bar, a notebook a line, others nothing.
      describe: a progress to its line.
      network_steps: network-steps in one level, for the speed and the time left.
      part: what tells these levels from those of the job's other parts; empty if there is one part.
      names: what the log calls the runs, in their order; numbered if there are none.
    """
    if job is None:
        with _bar(describe, network_steps) as bar:
            yield bar
        return
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_terminal(describe, network_steps))]
        if processes.is_first():
            listeners.append(_logged(_json_lines(job.folder / results.LOG, part, names), network_steps))
            if job.execution.log == "tensorboard":
                board = stack.enter_context(_tensorboard(job.folder / TENSORBOARD / part, names))
                listeners.append(_logged(board, network_steps))

        def report(progress: Progress) -> None:
            for listener in listeners:
                listener(progress)

        yield report


@contextlib.contextmanager
def _terminal(describe: Describe, network_steps: Steps) -> Iterator[Listener]:
    """A progress bar on a terminal, a line a level elsewhere."""
    with live_bar("level", "compiling") as (bar, live):
        whole = _line(describe, network_steps)

        def report(progress: Progress) -> None:
            if live:
                bar(progress.level + 1, progress.levels, _said(describe, network_steps, progress))
            else:
                print(whole(progress), flush=True)

        yield report


def _said(describe: Describe, network_steps: Steps, progress: Progress) -> str:
    """A level in words, and its speed."""
    speed = _steps(network_steps, progress.level) / progress.seconds[progress.level]
    return f"{describe(progress)}  {speed:,.0f} network-steps/s"


def _line(describe: Describe, network_steps: Steps) -> Callable[[Progress], str]:
    """A level's whole line, with the time left as it went since now."""
    started = time.perf_counter()

    def line(progress: Progress) -> str:
        done = progress.level + 1
        steps = [_steps(network_steps, level) for level in range(progress.levels)]
        trained = sum(steps[min(progress.resumed, done - 1) : done])
        left = (time.perf_counter() - started) / trained * sum(steps[done:])
        again = "resumed after " if done == progress.resumed else ""
        said = _said(describe, network_steps, progress)
        return f"{again}level {done}/{progress.levels}  {said}  {left / 60:.1f} min left"

    return line


@contextlib.contextmanager
def _notebook(describe: Describe, network_steps: Steps) -> Iterator[Listener]:
    """A line below a notebook's cell, another one at every level."""
    from IPython.display import display  # a notebook has it

    said = lambda line: {"text/plain": line}  # noqa: E731
    handle: Any = display(said("compiling …"), raw=True, display_id=True)
    whole = _line(describe, network_steps)
    yield lambda progress: handle.update(said(whole(progress)), raw=True)


@contextlib.contextmanager
def _bar(describe: Describe, network_steps: Steps) -> Iterator[Listener]:
    """The terminal's progress bar, or a notebook's line; elsewhere nothing."""
    console = Console()
    if console.is_jupyter:
        shown = _notebook(describe, network_steps)
    elif console.is_terminal and not console.is_dumb_terminal:
        shown = _terminal(describe, network_steps)
    else:
        shown = contextlib.nullcontext(lambda progress: None)
    with shown as report:
        yield report


@contextlib.contextmanager
def live_bar(unit: str, first: str = "") -> Iterator[tuple[Callable[[int, int, str], None], bool]]:
    """A progress bar: ``update(done, of, line)``, and whether there is a terminal that shows it."""
    console = Console(markup=False)
    live = console.is_terminal and not console.is_dumb_terminal
    columns = (TextColumn(unit), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", markup=False)
    with Bar(*columns, text, console=console, disable=not live) as bar:
        task = bar.add_task(first, total=None)
        yield lambda done, of, line: bar.update(task, completed=done, total=of, description=line), live


class _Sink(NamedTuple):
    """Where levels are written: those that are there already, and what writes one."""

    there: set[int]
    write: Callable[[Mapping[str, Any]], None]


def _logged(sink: _Sink, network_steps: Steps) -> Listener:
    """Writes levels; restored ones too, where they are missing."""

    def log(progress: Progress) -> None:
        for level in range(progress.level + 1):
            trained_now = level == progress.level >= progress.resumed
            if trained_now or level not in sink.there:
                sink.write(entry(progress, level, _steps(network_steps, level)))
                sink.there.add(level)

    return log


def _steps(network_steps: Steps, level: int) -> int:
    """The network-steps in one level."""
    return network_steps if isinstance(network_steps, int) else network_steps[level]


def check_log(kind: str) -> None:
    """Raise ``InputError`` unless what a kind of log needs is installed."""
    if kind == "tensorboard" and importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--log tensorboard: needs tensorboardX: pip install 'lth_jax[tensorboard]'")


def note(job: Job, what: Mapping[str, Any]) -> None:
    """A line of the log for what is no level: a stage of a job."""
    if processes.is_first():
        _append(job.folder / results.LOG, what)


def entry(progress: Progress, level: int, network_steps: int) -> dict[str, Any]:
    """What is logged of one level: its size, accuracy and speed, and each run's values.

    Accuracies and ``kept`` are fractions in [0, 1]; the mean and standard deviation leave diverged runs out.
    """
    values, seconds = at_level(progress, level), float(progress.seconds[level])
    accuracy = np.ravel(values.get("test_accuracy", np.nan))
    accuracy = accuracy[np.isfinite(accuracy)]
    return {
        "level": level,
        "levels": progress.levels,
        "kept": float(np.mean(values.get("kept", np.nan))),
        "accuracy_mean": float(accuracy.mean()) if accuracy.size else math.nan,
        "accuracy_std": float(accuracy.std(ddof=1)) if accuracy.size > 1 else math.nan,
        "network_steps_per_second": network_steps / seconds if seconds > 0 else math.nan,
        "seconds": seconds,
        "values": values,
    }


def at_level(progress: Progress, level: int) -> dict[str, np.ndarray]:
    """A level's values of each run, by name: its scalars, and the end of its curves.

    Those of controls have the control's name before theirs. Counts with further axes are left out.
    """
    found = {}
    for path, leaf in jax.tree.leaves_with_path(progress.record):
        places = path_names(path)
        names, at = [part for part in places if not part.isdecimal()], np.asarray(leaf[level])
        if not names:
            continue
        if progress.networks and places[0] == "0":
            parts = zip(progress.networks, np.moveaxis(at, 1, 0), strict=True)
            each = {names[-1] if place == 0 else f"{n}/{names[-1]}": v for place, (n, v) in enumerate(parts)}
        else:
            each = {names[-1]: at}
        for name, values in each.items():
            if values.ndim == 1:
                found[name] = values
            elif values.size and np.issubdtype(values.dtype, np.floating):
                found[name] = values[..., -1]
    return found


def _json_lines(path: Path, part: str, names: Sequence[str]) -> _Sink:
    """Lines of one part in a log, which may hold some already."""

    return _Sink(
        _levels_there(path, part), lambda what: _append(path, {"part": part, **what, "runs": list(names)})
    )


def _append(path: Path, what: Mapping[str, Any]) -> None:
    """One more line at the end of a log."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **what}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(line), allow_nan=False) + "\n")
    except OSError as error:
        raise storage_error(path, error) from error


def _levels_there(path: Path, part: str) -> set[int]:
    """The levels of a part that a log holds; what a killed process has left of a line is cut off."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    there = set()
    for line in whole.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that a person has written
            written = json.loads(line)
            if written["part"] == part:
                there.add(int(written["level"]))
    return there


@contextlib.contextmanager
def _tensorboard(folder: Path, names: Sequence[str]) -> Iterator[_Sink]:
    """Scalars of one part, written anew whenever the run goes on: the record has every level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it is made with
        from tensorboardX import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(str(folder))

    def write(what: Mapping[str, Any]) -> None:
        for name in ("kept", "accuracy_mean", "accuracy_std", "network_steps_per_second", "seconds"):
            writer.add_scalar(f"all/{name}", what[name], what["level"])
        for name, values in what["values"].items():
            for place, value in np.ndenumerate(values):
                called = str(names[place[0]]) if names else f"run {place[0] + 1}"
                tag = "/".join([name, called.replace(" ", "_"), *map(str, place[1:])])
                writer.add_scalar(tag, float(value), what["level"])
        writer.flush()

    try:
        yield _Sink(set(), write)
    finally:
        writer.close()


def _plain(value: Any) -> Any:
    """What JSON can say: arrays as lists, float32 in its own few digits, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(str(value)) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
