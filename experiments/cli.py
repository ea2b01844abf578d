"""What all experiments share: their flags, and what is written at the end. See ``commands.execution`` too."""

import argparse
import functools
import importlib
import pkgutil
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr
from rich.console import Console

from lth_jax.analysis import stats, tables
from lth_jax.commands import exits
from lth_jax.commands.execution import Work, execute
from lth_jax.commands.flags import Parser, add_flags
from lth_jax.errors import require
from lth_jax.runs import config, job, results
from lth_jax.runs.job import Job
from lth_jax.runs.storage import write_text


@dataclass(frozen=True)
class Execution(job.Execution):
    """How an experiment is carried out: its scale, and what every run has."""

    preset: str = config.option(
        "quick", "quick (embedded digits, minutes), paper (full scale), or another of the experiment's own"
    )


class Experiment(NamedTuple):
    """An experiment as the command line sees it: its configuration, and what is done with it.

    One whose configuration has no field ``dataset`` needs none, and is given ``None`` for it. ``notes`` are
    Markdown sections of the report, between its table and its claims. ``distributed`` says that ``train``
    can be called by several processes together (see ``processes``). ``variant`` tells an experiment's runs
    apart in the title that gathered results give them. ``alternatives`` are claims judged by other measures
    that can be defended as well, by the measure's name; each has the identifier of the claim it is of.
    ``presets`` is given the command line's
    ``--variant`` or ``--part``, empty if there is none.
    """

    name: str
    summary: str
    config: type
    train: Callable[[Any, Job, Any], xr.Dataset]
    claims: Callable[[xr.Dataset], list[stats.Verdict]]
    figures: Callable[[xr.Dataset, Path], list[Path]]
    table: Callable[[xr.Dataset], tuple[str, list[str], list[list[str]]]]
    presets: Callable[[str], Mapping[str, Mapping[str, Any]]] = lambda variant: {"quick": {}, "paper": {}}
    check: Callable[[Any, Any], None] = lambda settings, dataset: None
    notes: Callable[[xr.Dataset], str] = lambda measured: ""
    distributed: bool = False
    variant: Callable[[xr.Dataset], str] = lambda measured: str(measured.attrs.get("variant", ""))
    alternatives: Callable[[xr.Dataset], Mapping[str, list[stats.Verdict]]] = lambda measured: {}


MODULES = ("experiment", "config", "claims", "report", "figures")
"""Of an experiment's package, in the order in which they are searched."""
NAMES = {
    "summary": "SUMMARY",
    "config": "Config",
    "claims": "verdicts",
    "figures": "draw_figures",
    "table": "make_table",
    "distributed": "DISTRIBUTED",
}
"""What an experiment's fields are called there, if not as here."""


def find(name: str) -> Experiment:
    """The experiment of a package: for each field, what the first of its modules has under the usual name."""
    package = importlib.import_module(f"experiments.{name}")
    there = {module.name for module in pkgutil.iter_modules(package.__path__)}
    modules = [importlib.import_module(f"experiments.{name}.{m}") for m in MODULES if m in there]
    found = {}
    for field in Experiment._fields[1:]:
        called = NAMES.get(field, field)
        values = [getattr(module, called) for module in modules if hasattr(module, called)]
        found |= {field: values[0]} if values else {}
    return Experiment(name, **found)


def main(experiment: Experiment, arguments: Sequence[str], leave: bool = False) -> None:
    """Run an experiment from the command line; what goes wrong is one line on standard error.

    With ``leave`` it is the whole program, see ``exits.exit_on_error``.

    Exit codes: 0 done, 2 wrong input, 1 no room on the disk or in memory, 130 or 143 stopped by Ctrl-C or
    SIGTERM. After 1, 130 and 143 the same command goes on from what is saved.
    """
    again = f"to go on: {shlex.join(['python', '-m', 'experiments', experiment.name, *arguments])}"
    with exits.exit_on_error(again, leave):
        settings, execution = parse(experiment, arguments)
        run(experiment, settings, execution)


def parse(experiment: Experiment, arguments: Sequence[str]) -> tuple[Any, Execution]:
    """The configuration and execution that a command line asks for."""
    parser = Parser(
        prog=f"python -m experiments {experiment.name}",
        description=experiment.summary,
        epilog=exits.CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    config.check_printable(arguments)
    add_flags(parser.add_argument_group("execution"), Execution)
    add_flags(parser.add_argument_group("the experiment"), experiment.config)
    given = vars(parser.parse_args(list(arguments)))
    own = {name: given.pop(name) for name in list(given) if name in Execution.__dataclass_fields__}
    execution = Execution(**own)
    presets = experiment.presets(given.get("variant") or given.get("part", ""))
    return config.build(experiment.config, presets, execution.preset, given), execution


def run(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """Train or resume, then write results, figures, claims and report; the run's folder."""
    if execution.distributed:
        require(experiment.distributed, f"--distributed: {experiment.name} runs in one process")
    work = Work(experiment.check, experiment.train, functools.partial(conclude, experiment))
    return execute(work, settings, execution, default_folder(experiment, settings, execution))


def conclude(experiment: Experiment, measured: xr.Dataset, folder: Path, console: Console) -> None:
    """Everything derived from ``results.nc``: figures, claims, report, and the table shown."""
    figures = experiment.figures(measured, folder / results.FIGURES)
    verdicts = experiment.claims(measured)
    stats.write_csv(verdicts, folder / results.CLAIMS)
    title, header, rows = experiment.table(measured)
    write_text(
        folder / results.REPORT,
        report_text(experiment, measured, verdicts, (title, header, rows), figures, folder),
    )
    tables.print_table(console, title, header, rows)
    for line in tables.diverged_lines(measured):
        tables.print_line(console, line)
    tables.print_line(console, f"report: {folder / results.REPORT}")


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
    origin = tables.escape(tables.attributes_line(measured))
    lines = [f"# {experiment.summary}", "", origin, "", f"## {tables.escape(title)}", ""]
    lines += tables.table_lines(header, rows)
    lines += ["", *(f"* {tables.escape(line)}" for line in tables.diverged_lines(measured))]
    if notes := experiment.notes(measured):
        lines += ["", notes.strip()]
    lines += ["", "## Claims", "", stats.markdown_table(verdicts), "", "## Figures", ""]
    lines += [f"![{path.stem}]({path.relative_to(folder)})" for path in figures]
    return "\n".join(lines) + "\n"


def default_folder(experiment: Experiment, settings: Any, execution: Execution) -> Path:
    """``--out``, or ``runs/NAME/PRESET[-VARIANT]-xxxxxxxx`` where x is a hash of the configuration."""
    if execution.out:
        return Path(execution.out)
    variant = getattr(settings, "variant", "")
    parts = (execution.preset, variant, config.digest(settings))
    return Path("runs") / experiment.name / "-".join(part for part in parts if part)
