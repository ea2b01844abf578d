"""What all experiments share: flags, data, folder, progress, and what is written at the end."""

import contextlib
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lth_jax import compilation, config, data, memory, parallel, processes, results, signals, stats
from lth_jax import sweep as sweeps


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes its numbers beyond rounding."""

    preset: str = config.option("quick", "quick (embedded digits, minutes) or paper (full scale)")
    out: str = config.option("", "folder of the run; started again on it, a run resumes")
    data_dir: str = config.option("", "folder with the data set's files; LTH_DATA_DIR serves too")
    chunk: int = config.option(0, "runs vectorised inside one device; 0 chooses by device and free memory")
    block: int = config.option(0, "runs carried from level to level together; 0 chooses by memory")
    distributed: bool = config.option(False, "one of the processes that SLURM, Kubernetes … have started")

    def __post_init__(self) -> None:
        for name in ("chunk", "block"):
            value = getattr(self, name)
            config.require(value >= 0, f"--{name} {value}: must be at least 1, or 0")


class Experiment(NamedTuple):
    """An experiment as the command line sees it: its configuration and what is done with it.

    One whose configuration has no field ``dataset`` needs none, and is given ``None`` for it. ``notes`` are
    Markdown sections of the report, between its table and its claims. ``distributed`` says that ``train``
    can be called by several processes together (see ``processes``).
    """

    name: str
    summary: str
    config: type
    presets: Callable[[str], Mapping[str, Mapping[str, Any]]]
    check: Callable[[Any, data.Dataset | None], None]
    train: Callable[[Any, Execution, Path, data.Dataset | None], xr.Dataset]
    claims: Callable[[xr.Dataset], list[stats.Verdict]]
    figures: Callable[[xr.Dataset, Path], list[Path]]
    table: Callable[[xr.Dataset], tuple[str, list[str], list[list[str]]]]
    notes: Callable[[xr.Dataset], str] = lambda measured: ""
    distributed: bool = False


def main(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Run an experiment from the command line; what goes wrong is one line on standard error.

    Exit codes: 0 done, 2 wrong input, 1 no room on the disk or in memory, 130 or 143 stopped by Ctrl-C or
    SIGTERM. After 1, 130 and 143 the same command goes on from what is saved.
    """
    again = f"to go on: {shlex.join(['python', '-m', 'experiments', experiment.name, *arguments])}"
    try:
        with signals.raised():
            settings, execution = parse(experiment, arguments)
            run(experiment, settings, execution)
    except (config.InputError, data.DataError) as error:
        config.fail(str(error))
    except (config.StorageError, OSError) as error:
        config.fail(f"{error}; {again}", 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        config.fail(f"out of memory ({str(error)[:200]}); try a smaller --chunk, or fewer seeds", 1)
    except KeyboardInterrupt as stop:
        leave(stop, again)


def leave(stop: KeyboardInterrupt, again: str) -> NoReturn:
    """Say how to go on, and leave with the exit code that shells give to a signal, 128 + its number."""
    number, computing = signal.SIGINT, False
    if isinstance(stop, signals.Stopped):
        number, computing = stop.number, stop.computing
    print(f"\nstopped; every finished level is saved; {again}", file=sys.stderr, flush=True)
    if computing:  # an ordinary exit would wait for the device
        sys.stdout.flush()
        os._exit(128 + number)
    raise SystemExit(128 + number) from None


def parse(experiment: Experiment, arguments: Sequence[str]) -> tuple[Any, Execution]:
    """The configuration and execution that a command line asks for."""
    parser = config.Parser(
        prog=f"python -m experiments {experiment.name}",
        description=experiment.summary,
        allow_abbrev=False,
    )
    for argument in arguments:  # nothing that a file's name, a log or a terminal would trip over
        config.require(argument.isprintable(), f"{argument!r}: holds characters that cannot be printed")
    config.add_flags(parser.add_argument_group("execution"), Execution)
    config.add_flags(parser.add_argument_group("the experiment"), experiment.config)
    given = vars(parser.parse_args(list(arguments)))
    own = {name: given.pop(name) for name in list(given) if name in Execution.__dataclass_fields__}
    execution = Execution(**own)
    presets = experiment.presets(given.get("variant", ""))
    return config.build(experiment.config, presets, execution.preset, given), execution


def run(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """Train or resume, then write results, figures, claims and report; the run's folder."""
    parallel.use_host_devices()
    compilation.use_cache()
    if execution.distributed:
        config.require(experiment.distributed, f"--distributed: {experiment.name} runs in one process")
        processes.join()
    with processes.first_prints():
        return run_as_joined(experiment, settings, execution)


def run_as_joined(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """:func:`run` once the devices are there: several processes train together, the first one writes."""
    console = Console(markup=False)
    named = getattr(settings, "dataset", None)
    dataset = data.load(named, execution.data_dir or None) if named else None
    experiment.check(settings, dataset)
    begun = dataset and {name: getattr(dataset, name) for name in ("title", "source", "fingerprint")}
    folder = default_folder(experiment, settings, execution)
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(results.open_folder(folder, settings, begun))
        processes.barrier("folder is open")
        origin = f"{origin_of(dataset)} on {results.device_name()}\nresults in {folder}"
        console.print(origin, highlight=False, soft_wrap=True)
        measured = finished(folder / results.RESULTS)
        if measured is None:
            measured = experiment.train(settings, execution, folder, dataset)
            if processes.is_first():
                results.save(measured, folder / results.RESULTS)
        if processes.is_first():
            conclude(experiment, measured, folder, console)
    processes.barrier("results are written")
    return folder


def finished(path: Path) -> xr.Dataset | None:
    """The results of a run that has ended; ``None`` if it has not, or if they are damaged."""
    if not path.exists():
        return None
    try:
        return results.load(path)
    except config.InputError as error:
        config.warn(f"{error}; they are made again")
        return None


def origin_of(dataset: data.Dataset | None) -> str:
    """What is trained on, for people: the data's title, source, sizes and fingerprint."""
    if dataset is None:
        return "no data set"
    train_count, test_count = len(dataset.train_labels), len(dataset.test_labels)
    return (
        f"{dataset.title} from {dataset.source} ({train_count:,} training and {test_count:,} test images, "
        f"fingerprint {dataset.fingerprint})"
    )


def conclude(experiment: Experiment, measured: xr.Dataset, folder: Path, console: Console) -> None:
    """Everything derived from ``results.nc``: figures, claims, report, and the table shown."""
    figures = experiment.figures(measured, folder / results.FIGURES)
    verdicts = experiment.claims(measured)
    stats.write_csv(verdicts, folder / results.CLAIMS)
    title, header, rows = experiment.table(measured)
    results.write_text(
        folder / results.REPORT,
        report_text(experiment, measured, verdicts, (title, header, rows), figures, folder),
    )
    table = Table(title=title)
    for column in header:
        table.add_column(column, justify="right" if column != header[0] else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in diverged_lines(measured):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {folder / results.REPORT}", highlight=False, soft_wrap=True)


def report_text(
    experiment: Experiment,
    measured: xr.Dataset,
    verdicts: Sequence[stats.Verdict],
    table: tuple[str, list[str], list[list[str]]],
    figures: Sequence[Path],
    folder: Path,
) -> str:
    """The report as Markdown: origin, table, notes, claims with verdicts, figures."""
    title, header, rows = table
    attrs = measured.attrs
    origin = ", ".join(
        f"{name} {attrs[name]}"
        for name in ("preset", "variant", "dataset", "device", "commit")
        if name in attrs
    )
    lines = [f"# {experiment.summary}", "", escape(origin), "", f"## {escape(title)}", ""]
    lines += ["| " + " | ".join(map(escape, header)) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    lines += ["", *(f"* {escape(line)}" for line in diverged_lines(measured))]
    if notes := experiment.notes(measured):
        lines += ["", notes.strip()]
    lines += ["", "## Claims", "", stats.markdown_table(verdicts), "", "## Figures", ""]
    lines += [f"![{path.stem}]({path.relative_to(folder)})" for path in figures]
    return "\n".join(lines) + "\n"


def check_memory(state: PyTree, runs: int) -> None:
    """Refuse more runs than memory can hold.

    Args:
      state: one run's arrays or their ``jax.ShapeDtypeStruct``s; a level needs them twice.
      runs: how many.

    Raises:
      InputError: they do not fit; the message has both numbers.
    """
    total, each = memory.total(), 2 * memory.tree_bytes(state)
    config.require(
        runs * each <= total,
        f"{runs:,} runs (--methods × --seeds) of {each / 1e6:,.1f} MB do not fit into "
        f"{total / 1e9:,.1f} GB of memory; take fewer, or smaller layers",
    )


def escape(text: str) -> str:
    """Text as Markdown and HTML show it as it is, on one line and in a table's cell."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", plain)


def diverged_lines(measured: xr.Dataset) -> list[str]:
    """The runs whose loss became NaN or infinite, by name."""
    return [f"diverged, and in no mean: {run}" for run in results.diverged_runs(measured)]


def default_folder(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """``--out``, or ``runs/NAME/PRESET[-VARIANT]-xxxxxxxx`` where x is a hash of the configuration."""
    if execution.out:
        return Path(execution.out)
    variant = getattr(settings, "variant", "")
    parts = (execution.preset, variant, config.digest(settings))
    return Path("runs") / experiment.name / "-".join(part for part in parts if part)


@contextlib.contextmanager
def reporter(
    describe: Callable[[sweeps.Progress], str], network_steps: int
) -> Iterator[Callable[[sweeps.Progress], None]]:
    """Report levels: a progress bar on a terminal, a line a level elsewhere.

    Args:
      describe: a progress to its line.
      network_steps: network-steps in one level, for the speed.
    """
    console = Console()
    columns = (TextColumn("level"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=None)
        started = time.perf_counter()

        def report(progress: sweeps.Progress) -> None:
            level, done = progress.level, progress.level + 1
            seconds = progress.seconds[level]
            line = f"{describe(progress)}  {network_steps / seconds:,.0f} network-steps/s"
            if console.is_terminal:
                bar.update(task, completed=done, total=progress.levels, description=line)
                return
            played = max(done - progress.resumed, 1)
            left = (time.perf_counter() - started) / played * (progress.levels - done)
            again = "resumed after " if done == progress.resumed else ""
            print(f"{again}level {done}/{progress.levels}  {line}  {left / 60:.1f} min left", flush=True)

        yield report


def accuracy(values: np.ndarray) -> str:
    """``97.93 ± 0.11`` in percent, over the last axis, with the number of runs left out if any diverged."""
    summary = stats.summary(np.asarray(values) * 100)
    lost = np.size(values) - int(summary.n)
    return f"{summary.mean:.2f} ± {summary.std:.2f}" + (f" ({lost} diverged)" if lost else "")
