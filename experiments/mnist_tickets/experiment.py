"""E4 · Winning tickets on MNIST and their controls (document 002 §3–§6: Frankle & Carbin 2018 and 2019).

    python -m experiments mnist_tickets                                  embedded digits, minutes
    python -m experiments mnist_tickets --preset middle                  full MNIST, 15,000 iterations
    python -m experiments mnist_tickets --preset paper                   full MNIST, 50,000 iterations
    python -m experiments mnist_tickets --part one_shot|iterative|controls|inspect|init_std|sizes|rates|reset
    python -m experiments mnist_tickets --initialization normal:0.1      v1's initial weights

784–300–100–10, Adam 1.2e-3, batch 60, 55,000 training and 5,000 validation images, 20 % of each hidden layer
and 10 % of the output layer pruned per level, reset to θ0; five trials, three networks of each control in
each. The early-stop iteration is where the validation loss is least, found afterwards: training always runs
to the end. The optimizer, the batch size and the definition of convergence of the first version of the paper,
which the document summarises, could not be recovered; this is the protocol of its ICLR 2019 version.

Control 1, ``reinit``: the ticket's mask, fresh weights. Control 2, ``rearrange``: the ticket's weights moved
to random places of their hidden layer, so that its structure is lost and its weights are not. ``shuffle``
permutes the weights and keeps the places; ``random_mask`` keeps θ0 under another mask of the same counts.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.mnist_tickets import measures
from experiments.mnist_tickets.config import Config, groups
from experiments.mnist_tickets.parts import Splits, join, run_group, shapes_of, sizes_of
from lth_jax import data
from lth_jax.analysis import figures, tables
from lth_jax.errors import InputError, require
from lth_jax.runs import results
from lth_jax.runs.job import Job
from lth_jax.types import Split

SUMMARY = "E4: winning tickets on MNIST and their controls (document 002 §3–§6)"


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve, or that leaves a layer without weights."""
    examples = len(dataset.train_labels)
    require(config.validation < examples, f"--validation {config.validation}: there are {examples} examples")
    left = examples - config.validation
    require(config.batch_size <= left, f"--batch-size {config.batch_size}: larger than the {left} examples")
    for group in groups(config):
        _, shapes = shapes_of(group, dataset.train_images.shape[1:], dataset.classes)
        try:
            sizes_of(group, config, shapes)
        except ValueError as error:  # no weight is left, or more goes at once than can be counted
            raise InputError(f"--smallest {config.smallest}: {group.name}: {error}") from None


def split(config: Config, dataset: data.Dataset) -> Splits:
    """Training examples, and the validation and test examples that are watched."""
    held = data.split_validation(dataset, config.validation)
    pairs = (
        (held.train_images, held.train_labels),
        (held.validation_images, held.validation_labels),
        (dataset.test_images, dataset.test_labels),
    )
    train, validation, test = (Split(jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in pairs)
    return Splits(train, {"validation": validation, "test": test}, dataset.classes)


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume every group of the part; the labelled results."""
    splits = split(config, dataset)
    runs = [run_group(group, config, job, splits) for group in groups(config)]
    measured = join([group for group, _ in runs])
    return measured.assign_attrs(
        results.attributes(
            config,
            experiment="mnist_tickets",
            preset=job.preset,
            variant=config.part,
            **dataset.attributes,
            seconds=sum(seconds for _, seconds in runs),
        )
    )


def cell(accuracy: np.ndarray, stop: np.ndarray) -> str:
    """``97.93 ± 0.11 @ 5,400``: accuracies in [0, 1] in percent, and the mean early-stop iteration."""
    known = stop[np.isfinite(stop)]
    return f"{tables.accuracy(accuracy.ravel())} @ {known.mean():,.0f}" if len(known) else "all diverged"


def rows_of(
    measured: xr.Dataset, write: Callable[[int, str, float], str]
) -> tuple[list[str], list[list[str]]]:
    """A table's header and rows: a row a level, a column a family, ``write(level, family, kept)`` a cell."""
    names = measures.families(measured)
    sizes = {name: measures.kept(measured, name) for name in names}
    rows = [
        [
            str(level),
            *(write(level, n, float(sizes[n][level])) if np.isfinite(sizes[n][level]) else "" for n in names),
        ]
        for level in range(measured.sizes["level"])
    ]
    return ["level", *map(figures.label, names)], rows


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """A row a level, a column a family: fraction kept, accuracy at the early stop, and when that was."""
    stop, accuracy = measures.stop_iteration(measured), measures.at_stop(measured, "test_accuracy")

    def write(level: int, name: str, kept: float) -> str:
        points, when = (measures.members(v, name).isel(level=level).values for v in (accuracy, stop))
        return f"{kept:.1%}: {cell(points, when)}"

    title = (
        "Kept: test accuracy (%) at the early stop, mean ± std over trials and their networks @ mean "
        f"early-stop iteration; {measured.sizes['seed']} trials"
    )
    return title, *rows_of(measured, write)


def end_table(measured: xr.Dataset) -> list[str]:
    """The same levels and families with their accuracies at the end of training, as Markdown."""
    end = measures.at_end(measured, "test_accuracy")

    def write(level: int, name: str, kept: float) -> str:
        return f"{kept:.1%}: {tables.accuracy(measures.members(end, name).isel(level=level).values.ravel())}"

    iterations = int(measured["iteration"][-1])
    title = f"## Kept: test accuracy (%) at the end, after {iterations:,} iterations, mean ± std"
    return [title, "", *tables.table_lines(*rows_of(measured, write))]


def by_trial(measured: xr.Dataset) -> str:
    """How much sooner each trial's ticket of 21 % stops, as a reproduction by others reports it."""
    reading = measures.read(measured)
    own, ticket = (measures.at(reading, "stop", "iterative", kept) for kept in (1.0, 0.211))
    dense = measures.at(reading, "stop", measures.DENSE, 1.0)
    if own is None or ticket is None or dense is None:
        return ""
    sooner, than_all = 1 - np.exp(ticket - own), 1 - np.exp(np.mean(ticket - dense))
    return (
        f" Tickets of 21 % stop {', '.join(f'{share:.0%}' for share in sooner)} sooner than their trials' "
        f"own dense networks, {sooner.mean():.0%} on average (published: 38 %; by others, in five trials, "
        f"47, 0, −3, 45 and 18 %); {than_all:.0%} sooner than the geometric mean of all dense networks of a "
        "trial, those included from which its controls start."
    )


def notes(measured: xr.Dataset) -> str:
    """What to know of the protocol, how many times are lower bounds only, and the accuracies at the end."""
    bound = measures.read(measured).values["bound"]
    known, last = int(bound.notnull().sum()), int(bound.sum())
    text = (
        "The protocol is that of the ICLR 2019 version: the optimizer, the batch size and the definition of "
        "convergence of the first version could not be recovered. The early-stop iteration is that of least "
        "validation loss; times are compared as natural logarithms of it, where 0.1 is about a tenth. "
        f"{last:,} of {known:,} networks were best at the very last evaluation: their times are lower bounds."
        f"{by_trial(measured)}"
    )
    return "\n".join([text, "", *end_table(measured)])
