"""``lth-jax sweep``: tickets of any model on any data set, from flags or a file, resumed at will."""

import argparse
import functools
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import PyTree
from rich.console import Console

from lth_jax import data, levels
from lth_jax.analysis import figures, tables, ticket_files
from lth_jax.commands import settings, show
from lth_jax.commands.flags import add_flags, from_toml
from lth_jax.commands.settings import Config
from lth_jax.keys import stream
from lth_jax.runs import config, memory, processes, results
from lth_jax.runs.execution import Execution, Work, execute
from lth_jax.runs.progress import accuracy, reporter
from lth_jax.runs.storage import write_text
from lth_jax.runs.sweep import Progress, blocks, sweep
from lth_jax.tickets.masks import path_names
from lth_jax.training import splits

HELP = "find tickets: train, prune, rewind, level after level, many seeds at once"
USAGE = "lth-jax sweep [--config FILE.toml] [--FLAG VALUE …]"
EXAMPLES = """\
examples:
  lth-jax sweep                                            LeNet-300-100 on embedded digits, minutes
  lth-jax sweep --dataset mnist --data-dir DIR --epochs 5 --levels 20 --seeds 42-52
  lth-jax sweep --model mlp --hidden 100,50 --optimizer momentum --learning-rate 0.05 --schedule cosine
  lth-jax sweep --model mynet:Net --initializer he_normal --layer-rates output=0.1   class Net of ./mynet.py
  lth-jax sweep --config run.toml --seeds 42               a file's values, one of them overridden

A file has a line for every flag that it sets: `learning_rate = 0.05`, `hidden = [100, 50]`,
`seeds = "42-52"`, `layer_rates = {output = 0.1}`. The folder gets config.json, data.json, log.jsonl,
results.nc (dims seed, level), tickets.npz, report.md and figures/. `lth-jax show` prints it, `lth-jax export`
takes a ticket out.

Rewinding to step K starts the levels after the first from the dense network after its first K steps, and
trains them for a level's whole number of steps. Batch statistics start anew at every level."""


def add(commands: Any) -> None:
    """The subcommand and its flags."""
    parser = commands.add_parser("sweep", help=HELP, description=HELP, epilog=EXAMPLES, usage=USAGE)
    parser.add_argument("--config", metavar="FILE.toml", help="flags from a file; those given here go before")
    add_flags(parser.add_argument_group("execution"), Execution)
    for title, names in settings.GROUPS.items():
        others = [name for name in Config.__dataclass_fields__ if name not in names]
        add_flags(parser.add_argument_group(title), Config, skip=others, defaults=True)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """The whole command."""
    chosen, execution = configure(parsed)
    folder = Path(execution.out or Path("runs") / "sweep" / config.digest(chosen))
    execute(Work(check, train, conclude), chosen, execution, folder)


def configure(parsed: argparse.Namespace) -> tuple[Config, Execution]:
    """The configuration and execution that a command line and its file ask for."""
    parts = (Config, Execution)
    given = from_toml(Path(parsed.config), *parts) if parsed.config is not None else {}
    given |= vars(parsed)
    chosen, execution = (
        part(**{name: given[name] for name in part.__dataclass_fields__ if name in given}) for part in parts
    )
    return chosen, execution


def prepare(chosen: Config, dataset: data.Dataset) -> tuple[settings.Model, levels.Plan]:
    """The model and plan for a data set."""
    model = settings.make_model(chosen, dataset.train_images.shape[1:], dataset.classes)
    return model, settings.make_plan(chosen, model, len(dataset.train_labels))


def check(chosen: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    model, plan = prepare(chosen, dataset)
    one = jax.eval_shape(lambda: settings.make_run(chosen, model, plan, 0, None))
    memory.check(one, min(len(chosen.seeds), jax.device_count()), "--seeds")  # a block
    if chosen.rewind == "none":  # every level's weights are kept
        memory.check(one.params, len(chosen.seeds) * chosen.levels, "--seeds × --levels with --rewind none")


def keep(level: levels.Level, plan: levels.Plan, rewinds: bool) -> dict[str, PyTree]:
    """What is recorded of a level: what it measured, and what its tickets are made of."""
    leaves = list(zip(jax.tree.leaves(level.mask), jax.tree.leaves(plan.prunable), strict=True))
    counts = jnp.stack([jnp.sum(m, dtype=jnp.int32) for m, yes in leaves if yes])
    packed = [jnp.packbits(m.ravel()) for m, yes in leaves if yes]
    measured = {**levels.measurements(level), "kept_weights": counts}
    trained = [] if rewinds else jax.tree.leaves(level.trained.params)
    return {"measured": measured, "masks": packed, "trained": trained}


def train(chosen: Config, execution: Execution, folder: Path, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume the sweep, and keep its tickets; the labelled results."""
    model, plan = prepare(chosen, dataset)
    train_split, test_split = splits(dataset)
    watch, chunk = {"train": train_split, "test": test_split}, execution.chunk or None
    select = functools.partial(keep, plan=plan, rewinds=chosen.rewind != "none")
    one = jax.eval_shape(lambda: settings.make_run(chosen, model, plan, 0, None))
    played = []
    for place, seeds in blocks(folder / results.CHECKPOINTS, chosen.seeds, one, execution.block):
        runs = settings.start_runs(chosen, model, plan, seeds, train_split, chunk)
        theta0, steps = jax.tree.map(np.asarray, runs.params), len(seeds) * plan.recipe.steps
        part = "" if len(seeds) == len(chosen.seeds) else place.name
        with reporter(describe, steps, part, [f"seed {seed}" for seed in seeds]) as report:
            tell = lambda p, report=report: report(p._replace(record=p.record["measured"]))  # noqa: E731
            levels = chosen.levels
            ended, record, seconds = sweep(
                place, runs, train_split, watch, plan, levels, select, tell, chunk=chunk
            )
        rewind_to = own(processes.gather(ended.rewind_to), len(seeds))
        played.append(((record, {"theta0": theta0, "rewind_to": rewind_to}), seconds))
    (record, starts), seconds = joined(played)
    if processes.is_first():
        write_tickets(chosen, model, plan, folder, record, starts)
    return labelled(chosen, model, plan, dataset, record["measured"], float(seconds.sum()))


def own(tree: PyTree, count: int) -> PyTree:
    """The runs themselves, without those that several processes are padded with."""
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def describe(progress: Progress) -> str:
    """A level in a line."""
    shown = accuracy(progress.record["test_accuracy"][progress.level])
    return f"kept {progress.record['kept'][progress.level].mean():7.2%}  test accuracy (%) {shown}"


def joined(
    played: list[tuple[tuple[PyTree, PyTree], np.ndarray]],
) -> tuple[tuple[PyTree, PyTree], np.ndarray]:
    """Blocks of seeds as one: records ``[level, seed, ...]``, starts ``[seed, ...]``, seconds per level."""
    parts, seconds = zip(*played, strict=True)
    records, starts = zip(*parts, strict=True)
    record = jax.tree.map(lambda *some: np.concatenate(some, axis=1), *records)
    return (record, jax.tree.map(lambda *some: np.concatenate(some), *starts)), sum(seconds)


def write_tickets(
    chosen: Config,
    model: settings.Model,
    plan: levels.Plan,
    folder: Path,
    record: Mapping[str, PyTree],
    starts: Mapping[str, PyTree],
) -> None:
    """``tickets.npz``: every seed's and level's mask, and what its seed does not give of its start."""
    names = list(ticket_files.flat(model.shapes))
    prunable = [name for name, yes in ticket_files.flat(plan.prunable).items() if yes]
    kept = ticket_files.Kept(
        masks=dict(zip(prunable, record["masks"], strict=True)),
        theta0=ticket_files.flat(starts["theta0"]),
        rewind_to=ticket_files.flat(starts["rewind_to"]) if settings.rewind_step(chosen) else {},
        trained=dict(zip(names, record["trained"], strict=True)) if record["trained"] else {},
    )
    ticket_files.write(folder / ticket_files.TICKETS, chosen.seeds, kept, drawer(model))


def drawer(model: settings.Model) -> Any:
    """A function from a seed to its θ0, by name: the same program whoever draws."""
    initial = jax.jit(lambda seed: model.initial(stream(seed, "init"))[0])
    return lambda seed: {k: np.asarray(v) for k, v in ticket_files.flat(initial(jnp.int32(seed))).items()}


def labelled(
    chosen: Config,
    model: settings.Model,
    plan: levels.Plan,
    dataset: data.Dataset,
    measured: Mapping[str, np.ndarray],
    seconds: float,
) -> xr.Dataset:
    """Records ``[level, seed]`` as arrays ``[seed, level]``, weights kept as ``[seed, level, layer]``."""
    prunable = zip(jax.tree.leaves_with_path(model.shapes), jax.tree.leaves(plan.prunable), strict=True)
    layers = {"/".join(path_names(path)): leaf.size for (path, leaf), yes in prunable if yes}
    dims = ("seed", "level", "layer")
    values = {name: (dims[: array.ndim], np.swapaxes(array, 0, 1)) for name, array in measured.items()}
    values["weights"] = (("layer",), np.asarray(list(layers.values())))
    coordinates = {"seed": list(chosen.seeds), "level": np.arange(chosen.levels), "layer": list(layers)}
    attrs = results.attributes(
        chosen,
        experiment="sweep",
        model=chosen.model,
        **dataset.attributes,
        seconds=seconds,
        image_shape=json.dumps(dataset.train_images.shape[1:]),
        classes=dataset.classes,
    )
    return results.mark_diverged(results.by_label(values, coordinates, attrs))


def conclude(measured: xr.Dataset, folder: Path, console: Console) -> None:
    """Everything derived from ``results.nc``: figure, report, and the table shown."""
    drawn = {"accuracy": lambda: show.draw(measured, "test_accuracy")}
    paths = figures.save_all(drawn, folder / results.FIGURES)
    title, header, rows = show.make_table(measured, "test_accuracy")
    attrs = measured.attrs
    lines = [f"# Tickets of {tables.escape(attrs['model'])} on {tables.escape(attrs['dataset'])}", ""]
    lines += [tables.escape(tables.attributes_line(measured)), "", f"## {tables.escape(title)}", ""]
    lines += tables.table_lines(header, rows)
    lines += ["", *(f"* {tables.escape(line)}" for line in tables.diverged_lines(measured)), ""]
    lines += [f"![{path.stem}]({path.relative_to(folder)})" for path in paths]
    lines += ["", "## Configuration", "", "```json", json.dumps(json.loads(attrs["config"]), indent=2), "```"]
    write_text(folder / results.REPORT, "\n".join(lines) + "\n")
    tables.print_table(console, title, header, rows)
    for line in tables.diverged_lines(measured):
        tables.print_line(console, line)
    tables.print_line(console, f"report: {folder / results.REPORT}")
    last = f"--seed {measured['seed'].values[0]} --level {measured['level'].values[-1]}"
    tables.print_line(console, f"a ticket: lth-jax export {shlex.quote(str(folder))} {last}")
