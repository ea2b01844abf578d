"""A run's log: a JSON object a line for every finished level, and TensorBoard's scalars when asked for.

``log.jsonl`` in the run's folder can be followed while the run goes on (``tail -f``) and read whole with
``pandas.read_json(path, lines=True)``. A level that had to be played again is there twice: its last line
counts. :func:`directed` says where logs go, for all that is reported inside its block; outside of one nothing
is written.
"""

import contextlib
import contextvars
import importlib.util
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from lth_jax.analysis import stats
from lth_jax.errors import InputError, storage_error
from lth_jax.runs import processes
from lth_jax.runs.sweep import Progress
from lth_jax.tickets.masks import path_names

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
KINDS = ("json", "tensorboard")


class _Destination(NamedTuple):
    folder: Path
    kind: str


class _Sink(NamedTuple):
    """Where levels are written: those that are there already, and what writes one."""

    there: set[int]
    write: Callable[[Mapping[str, Any]], None]


_destination: contextvars.ContextVar[_Destination | None] = contextvars.ContextVar("logs", default=None)


def check_kind(kind: str) -> None:
    """Raise ``InputError`` unless what a kind of log needs is installed."""
    if kind == "tensorboard" and importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--log tensorboard: needs tensorboardX: pip install 'lth_jax[tensorboard]'")


@contextlib.contextmanager
def directed(folder: Path, kind: str = "json") -> Iterator[None]:
    """Send the logs of what is reported inside the block to a run's folder.

    Args:
      folder: the run's.
      kind: ``json``, or ``tensorboard`` for its scalars too.
    """
    token = _destination.set(_Destination(folder, kind))
    try:
        yield
    finally:
        _destination.reset(token)


@contextlib.contextmanager
def opened(part: str, names: Sequence[str], network_steps: int) -> Iterator[Callable[[Progress], None]]:
    """A function that logs the levels of one part of a run; restored ones too, where they are missing.

    Args:
      part: what tells these levels from those of the run's other parts; empty if there is one part.
      names: what the runs are called, in their order; numbered if there are none.
      network_steps: in one level, for the speed.
    """
    to = _destination.get()
    if to is None or not processes.is_first():
        yield lambda progress: None
        return
    with contextlib.ExitStack() as stack:
        sinks = [_json_lines(to.folder / LOG, part, names)]
        if to.kind == "tensorboard":
            sinks.append(stack.enter_context(_tensorboard(to.folder / TENSORBOARD / part, names)))

        def log(progress: Progress) -> None:
            for there, write in sinks:
                for level in range(progress.level + 1):
                    played_now = level == progress.level >= progress.resumed
                    if played_now or level not in there:
                        write(entry(progress, level, network_steps))
                        there.add(level)

        yield log


def note(what: Mapping[str, Any]) -> None:
    """A line of what is no level: a step of an experiment that has none."""
    to = _destination.get()
    if to is not None and processes.is_first():
        _append(to.folder / LOG, what)


def entry(progress: Progress, level: int, network_steps: int) -> dict[str, Any]:
    """What is logged of one level: its size, accuracy and speed, and each run's values.

    Accuracies and ``kept`` are fractions in [0, 1]; the mean and standard deviation leave diverged runs out.
    """
    values, seconds = at_level(progress.record, level), float(progress.seconds[level])
    accuracy = stats.summary(np.ravel(values.get("test_accuracy", np.nan)))
    return {
        "level": level,
        "levels": progress.levels,
        "kept": float(np.mean(values.get("kept", np.nan))),
        "accuracy_mean": float(accuracy.mean),
        "accuracy_std": float(accuracy.std),
        "network_steps_per_second": network_steps / seconds if seconds > 0 else math.nan,
        "seconds": seconds,
        "values": values,
    }


def at_level(record: PyTree, level: int) -> dict[str, np.ndarray]:
    """A level's values of each run, by name: its scalars, and the end of its curves.

    Args:
      record: arrays ``[level, run, ...]``; counts with further axes (connections of units …) are left out.
      level: which.
    """
    found = {}
    for path, leaf in jax.tree.leaves_with_path(record):
        name = "/".join(part for part in path_names(path) if not part.isdecimal())
        at = np.asarray(leaf[level])
        if at.ndim == 1:
            found[name] = at
        elif at.ndim > 1 and at.size and np.issubdtype(at.dtype, np.floating):
            found[name] = at[..., -1]
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
                called = names[place[0]] if names else f"run {place[0] + 1}"
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
