"""What all experiments share: flags, data, folder, progress, and what is written at the end."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lth_jax import config, data, parallel, results, stats
from lth_jax import sweep as sweeps


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes its numbers beyond rounding."""

    preset: str = config.option("quick", "quick (embedded digits, minutes) or paper (full scale)")
    out: str = config.option("", "folder of the run; started again on it, a run resumes")
    data_dir: str = config.option("", "folder with the data set's files; LTH_DATA_DIR serves too")
    chunk: int = config.option(0, "runs vectorised inside one device; 0 chooses by device")


class Experiment(NamedTuple):
    """An experiment as the command line sees it: its configuration and four functions."""

    name: str
    summary: str
    config: type
    presets: Callable[[str], Mapping[str, Mapping[str, Any]]]
    check: Callable[[Any, data.Dataset], None]
    train: Callable[[Any, Execution, Path, data.Dataset], xr.Dataset]
    claims: Callable[[xr.Dataset], list[stats.Verdict]]
    figures: Callable[[xr.Dataset, Path], list[Path]]
    table: Callable[[xr.Dataset], tuple[str, list[str], list[list[str]]]]


def main(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Run an experiment from the command line; wrong input is one line and exit code 2."""
    try:
        settings, execution = parse(experiment, arguments)
        run(experiment, settings, execution)
    except (config.InputError, data.DataError) as error:
        config.fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last finished level", file=sys.stderr)
        raise SystemExit(130) from None


def parse(experiment: Experiment, arguments: Sequence[str]) -> tuple[Any, Execution]:
    """The configuration and execution that a command line asks for."""
    parser = config.Parser(
        prog=f"python -m experiments {experiment.name}",
        description=experiment.summary,
        allow_abbrev=False,
    )
    config.add_flags(parser.add_argument_group("execution"), Execution)
    config.add_flags(parser.add_argument_group("the experiment"), experiment.config)
    given = vars(parser.parse_args(list(arguments)))
    own = {name: given.pop(name) for name in list(given) if name in Execution.__dataclass_fields__}
    execution = Execution(**own)
    presets = experiment.presets(given.get("variant", ""))
    return config.build(experiment.config, presets, execution.preset, given), execution


def run(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """Train or resume, then write results, figures, claims and report; the run's folder."""
    console = Console()
    parallel.use_host_devices()
    dataset = data.load(settings.dataset, execution.data_dir or None)
    experiment.check(settings, dataset)
    folder = results.open_folder(default_folder(experiment, settings, execution), settings)
    train_count, test_count = len(dataset.train_labels), len(dataset.test_labels)
    console.print(
        f"{dataset.title} from {dataset.source} ({train_count:,} training and {test_count:,} test images, "
        f"fingerprint {dataset.fingerprint}) on {results.device_name()}\nresults in {folder}",
        highlight=False,
        soft_wrap=True,
    )
    finished = folder / results.RESULTS
    if finished.exists():
        measured = results.load(finished)
    else:
        measured = experiment.train(settings, execution, folder, dataset)
        results.save(measured, finished)
    conclude(experiment, measured, folder, console)
    return folder


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
    console.print(f"report: {folder / results.REPORT}", highlight=False, soft_wrap=True)


def report_text(
    experiment: Experiment,
    measured: xr.Dataset,
    verdicts: Sequence[stats.Verdict],
    table: tuple[str, list[str], list[list[str]]],
    figures: Sequence[Path],
    folder: Path,
) -> str:
    """The report as Markdown: origin, table, claims with verdicts, figures."""
    title, header, rows = table
    attrs = measured.attrs
    origin = ", ".join(
        f"{name} {attrs[name]}"
        for name in ("preset", "variant", "dataset", "device", "commit")
        if name in attrs
    )
    lines = [f"# {experiment.summary}", "", origin, "", f"## {title}", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "## Claims", "", stats.markdown_table(verdicts), "", "## Figures", ""]
    lines += [f"![{path.stem}]({path.relative_to(folder)})" for path in figures]
    return "\n".join(lines) + "\n"


def default_folder(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """``--out``, or ``runs/NAME/PRESET-VARIANT-xxxxxxxx`` where x is a hash of the configuration."""
    if execution.out:
        return Path(execution.out)
    variant = getattr(settings, "variant", "")
    return Path("runs") / experiment.name / f"{execution.preset}-{variant}-{config.digest(settings)}"


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
