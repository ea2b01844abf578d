"""``lth-jax sweep``: tickets of any model on any data set, from flags or a file, resumed at will."""

import argparse
import contextlib
import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console

from lth_jax import data, search
from lth_jax.analysis import figures, records, tables, ticket_files
from lth_jax.choices import rewind_step
from lth_jax.commands import build, grid, inputs, settings, show
from lth_jax.commands.execution import Work, execute
from lth_jax.commands.flags import add_flags, from_toml
from lth_jax.commands.settings import Config
from lth_jax.devices import use_host_devices
from lth_jax.errors import in_one_line, require
from lth_jax.keys import stream
from lth_jax.places import user_path
from lth_jax.runs import config, identity, memory, processes, results
from lth_jax.runs.blocks import block_state
from lth_jax.runs.folders import open_folder
from lth_jax.runs.job import Execution, Job
from lth_jax.runs.storage import write_text
from lth_jax.runs.sweep import Swept
from lth_jax.search import Search
from lth_jax.training import splits
from lth_jax.types import Split

HELP = "find tickets: train, prune, rewind, level after level, many seeds at once"
USAGE = "lth-jax sweep [--config FILE.toml] [--FLAG VALUE …]"
EXAMPLES = """\
examples:
  lth-jax sweep                                            LeNet-300-100 on embedded digits, minutes
  lth-jax sweep --dataset mnist --data-dir DIR --epochs 5 --levels 20 --seeds 42-52
  lth-jax sweep --model mlp --hidden 100,50 --optimizer momentum --learning-rate 0.05 --schedule cosine
  lth-jax sweep --model mynet:Net --initializer he_normal --layer-rates output=0.1   class Net of ./mynet.py
  lth-jax sweep --score snip --prune-at start --scope global                pruned before it is trained
  lth-jax sweep --sparse-training rigl --prune-at start --score random --density 0.1 --levels 1
  lth-jax sweep --grid learning_rate=1e-3,3e-3 --grid rate=0.2,0.5          four sweeps, side by side
  lth-jax sweep --config run.toml --seeds 42               a file's values, one of them overridden

A file has a line for every flag that it sets: `learning_rate = 0.05`, `hidden = [100, 50]`,
`seeds = "42-52"`, `layer_rates = {output = 0.1}`. The folder gets config.json, data.json, log.jsonl,
results.nc (dims seed, level), tickets.npz, report.md and figures/. `lth-jax show` prints it, `lth-jax export`
takes a ticket out.

Rewinding to step K starts the levels after the first where the dense network is after K steps, batch
statistics included, and trains them from there to the level's last step, as the schedule goes on; with
--rewind-schedule restarted it trains a whole level from K, schedule and statistics as at the very start."""


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
    work = Work(check, train, conclude, program, leaves={ticket_files.TICKETS: ticket_files.is_whole})
    points = grid.points(chosen)
    if len(points) == 1 and points[0].config == chosen:
        execute(work, chosen, execution, folder)
    else:
        sweep_each(work, chosen, execution, folder, points)


def sweep_each(
    work: Work, chosen: Config, execution: Execution, folder: Path, points: Sequence[grid.Point]
) -> None:
    """A sweep for each point of a grid, each in a folder of its own, and their results side by side."""
    require(not execution.distributed, "--distributed: takes one sweep, no --grid and one way to --rewind")
    use_host_devices()
    dataset = data.load(chosen.dataset, execution.data_dir or None)
    for point in points:
        check(point.config, dataset)  # the last is not to be refused when the first has been trained
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(open_folder(folder, chosen, {"fingerprint": dataset.fingerprint}))
        for point in points:
            part = folder / point.folder
            execute(work, point.config, dataclasses.replace(execution, out=str(part)), part)
        if processes.is_first():
            found = {point.place: results.load(folder / point.folder / results.RESULTS) for point in points}
            told = {"config": config.to_json(chosen), "model": chosen.model}
            if "model" in grid.axes(chosen):
                told["model"] = ", ".join(dict.fromkeys(point.config.model for point in points))
            joined = grid.joined(chosen, found).assign_attrs(grid.attributes(list(found.values())) | told)
            results.save(joined, folder / results.RESULTS, (results.CONFIG, results.DATA))
            conclude(joined, folder, tables.console())


def configure(parsed: argparse.Namespace) -> tuple[Config, Execution]:
    """The configuration and execution that a command line and its file ask for."""
    given = from_toml(user_path(parsed.config), Config, Execution) if parsed.config is not None else {}
    given |= vars(parsed)

    def of(part: type) -> dict[str, Any]:
        return {field.name: given[field.name] for field in dataclasses.fields(part) if field.name in given}

    return Config(**of(Config)), Execution(**of(Execution))


def prepare(chosen: Config, dataset: data.Dataset) -> tuple[build.Model, Search]:
    """The model and the search for a data set."""
    model = build.make_model(chosen, dataset.train_images.shape[1:], dataset.classes)
    task = inputs.make_task(chosen.augment, chosen.normalize, trained_on(chosen, dataset))
    return model, build.make_search(chosen, model, len(dataset.train_labels), task)


def trained_on(chosen: Config, dataset: data.Dataset) -> np.ndarray:
    """The training images but those that are held out for validation, where there are enough."""
    if not 0 < chosen.validation < len(dataset.train_labels):
        return dataset.train_images
    return data.split_validation(dataset, chosen.validation).train_images


def check(chosen: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    _, found = prepare(chosen, dataset)
    one = jax.eval_shape(lambda: found.begin(0))
    memory.check(
        block_state(one, found.plan), min(len(chosen.seeds), jax.device_count()), "--seeds"
    )  # a block
    kept = len(levels_to_keep(chosen)) * len(found.plan.networks)
    memory.check(one.ticket.params, len(chosen.seeds) * kept, "--seeds × --keep-weights or --rewind none")


def program(chosen: Config, dataset: data.Dataset) -> str:
    """A digest of what a sweep computes: the traced program of a level, its constants and its sizes."""
    _, found = prepare(chosen, dataset)
    examples, watched = splits_of(chosen, dataset)
    with in_one_line(f"--model {chosen.model}: cannot be trained"):  # other batches than it was asked with
        return identity.program_digest(found, examples, watched)


def levels_to_keep(chosen: Config) -> Sequence[int]:
    """The levels whose trained weights are kept: where nothing is rewound, the tickets start from them."""
    resets = rewind_step(chosen.rewind)[0] == "weights"
    return settings.kept_levels(chosen) if resets else range(chosen.levels)


def splits_of(chosen: Config, dataset: data.Dataset) -> tuple[Split, dict[str, Split]]:
    """The training examples, and what is evaluated."""
    train, test = splits(dataset)
    if not chosen.validation:
        return train, {"test": test}
    held = data.split_validation(dataset, chosen.validation)
    pairs = (held.train_images, held.train_labels), (held.validation_images, held.validation_labels)
    train, validation = (Split(jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in pairs)
    return train, {"test": test, "validation": validation}


def train(chosen: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume the sweep, and keep its tickets; the labelled results."""
    model, found = prepare(chosen, dataset)
    examples, watched = splits_of(chosen, dataset)
    kept = levels_to_keep(chosen)
    swept, rewind_to = search.run(found, job, chosen.seeds, examples, watched, kept)
    if processes.is_first():
        write_tickets(chosen, model, found, job.folder, swept, rewind_to)
    attrs = results.attributes(
        chosen,
        experiment="sweep",
        model=chosen.model,
        **dataset.attributes,
        seconds=float(swept.seconds.sum()),
        image_shape=json.dumps(dataset.train_images.shape[1:]),
        classes=dataset.classes,
        normalization=json.dumps(inputs.normalization(chosen.normalize, trained_on(chosen, dataset))),
    )
    measured = records.labelled(found.plan, found.shapes, swept, chosen.seeds, attrs)
    other = jax.eval_shape(model.initial, jax.random.key(0))[1]
    return records.with_multiply_adds(measured, model.network, found.shapes, other, model.sample)


def write_tickets(
    chosen: Config, model: build.Model, found: Search, folder: Path, swept: Swept, rewind_to: Any
) -> None:
    """``tickets.npz``: every seed's and level's mask, and what its seed does not give of its start."""
    prunable = [name for name, yes in ticket_files.flat(found.plan.prunable).items() if yes]
    seeds = jnp.asarray(chosen.seeds, jnp.int32)
    theta0 = jax.jit(jax.vmap(lambda seed: model.initial(stream(seed, "init"))[0]))(seeds)
    weights, collections = swept.kept or ({}, {})
    kept = ticket_files.Kept(
        masks=dict(zip(prunable, swept.inspected, strict=True)),
        theta0=ticket_files.flat(jax.tree.map(np.asarray, theta0)),
        rewind_to=ticket_files.flat(rewind_to) if found.early else {},
        weights=ticket_files.flat({"params": weights, "collections": collections}),
        levels=tuple(levels_to_keep(chosen)),
        networks=tuple(found.plan.networks),
        rewinds=rewind_step(chosen.rewind)[0] == "weights",
    )
    ticket_files.write(folder / ticket_files.TICKETS, chosen.seeds, kept, drawer(model))


def drawer(model: build.Model) -> Any:
    """A function from a seed to its θ0, by name: the same program whoever draws."""
    initial = jax.jit(lambda seed: model.initial(stream(seed, "init"))[0])
    return lambda seed: {k: np.asarray(v) for k, v in ticket_files.flat(initial(jnp.int32(seed))).items()}


def conclude(measured: xr.Dataset, folder: Path, console: Console) -> None:
    """Everything derived from ``results.nc``: figure, report, and the table shown."""
    wanted = {"accuracy": "test_accuracy", "barrier": "test_error_barrier"}
    shown = {name: variable for name, variable in wanted.items() if variable in measured}
    drawn = {name: lambda variable=v: show.draw(measured, variable) for name, v in shown.items()}
    paths = figures.save_all(drawn, folder / results.FIGURES)
    made = [show.make_table(measured, variable) for variable in shown.values()]
    attrs = measured.attrs
    lines = [f"# Tickets of {tables.escape(attrs['model'])} on {tables.escape(attrs['dataset'])}", ""]
    lines += [tables.escape(tables.attributes_line(measured)), ""]
    for title, header, rows in made:
        lines += [f"## {tables.escape(title)}", "", *tables.table_lines(header, rows), ""]
    notes = [*tables.diverged_lines(measured), *tables.collapsed_lines(measured)]
    lines += ["", *(f"* {tables.escape(line)}" for line in notes), ""]
    lines += [f"![{path.stem}]({path.relative_to(folder)})" for path in paths]
    lines += ["", "## Configuration", "", "```json", json.dumps(json.loads(attrs["config"]), indent=2), "```"]
    write_text(folder / results.REPORT, "\n".join(lines) + "\n")
    for title, header, rows in made:
        tables.print_table(console, title, header, rows)
    for line in notes:
        tables.print_line(console, line)
    tables.print_line(console, f"report: {folder / results.REPORT}")
    varied = json.loads(attrs["config"])
    several = varied.get("grid") or "rewind" in measured.dims  # each of them has its own tickets
    if not several and varied["sparse_training"] == settings.STATIC:
        last = f"--seed {measured['seed'].values[0]} --level {measured['level'].values[-1]}"
        tables.print_line(console, f"a ticket: lth-jax export {shlex.quote(str(folder))} {last}")
