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

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments import cli
from experiments.mnist_tickets import measures
from experiments.mnist_tickets.claims import verdicts
from experiments.mnist_tickets.config import Config, groups, presets
from experiments.mnist_tickets.figures import draw_figures
from experiments.mnist_tickets.parts import Splits, join, kept_counts, run_group, shapes_of
from lth_jax import data, figures, results
from lth_jax.config import require
from lth_jax.types import Split


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve, or that leaves a layer without weights."""
    examples = len(dataset.train_labels)
    require(config.validation < examples, f"--validation {config.validation}: there are {examples} examples")
    left = examples - config.validation
    require(config.batch_size <= left, f"--batch-size {config.batch_size}: larger than the {left} examples")
    for group in groups(config):
        _, shapes = shapes_of(group, dataset.train_images.shape[1:], dataset.classes)
        for layer, counts in kept_counts(group, config, shapes).items():
            fewest = int(counts["kernel"].min())
            require(fewest > 0, f"--smallest {config.smallest}: leaves {layer} of {group.name} no weight")


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


def train(config: Config, execution: cli.Execution, folder: Path, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume every group of the part; the labelled results."""
    splits = split(config, dataset)
    runs = [run_group(group, config, execution, folder, splits) for group in groups(config)]
    measured = join([group for group, _ in runs])
    return measured.assign_attrs(
        results.attributes(
            config,
            experiment="mnist_tickets",
            preset=execution.preset,
            variant=config.part,
            **dataset.attributes,
            seconds=sum(seconds for _, seconds in runs),
        )
    )


def cell(accuracy: np.ndarray, stop: np.ndarray) -> str:
    """``97.93 ± 0.11 @ 5,400``: accuracies in [0, 1] in percent, and the mean early-stop iteration."""
    known = stop[np.isfinite(stop)]
    return f"{cli.accuracy(accuracy.ravel())} @ {known.mean():,.0f}" if len(known) else "all diverged"


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """A row a level, a column a family: fraction kept, accuracy at the early stop, and when that was."""
    stop, accuracy = measures.stop_iteration(measured), measures.at_stop(measured, "test_accuracy")
    names = measures.families(measured)
    rows = []
    for level in range(measured.sizes["level"]):
        row = [str(level)]
        for name in names:
            kept = measures.kept(measured, name)[level]
            points, when = (measures.members(v, name).isel(level=level).values for v in (accuracy, stop))
            row.append(f"{kept:.1%}: {cell(points, when)}" if np.isfinite(kept) else "")
        rows.append(row)
    title = (
        "Kept: test accuracy (%) at the early stop, mean ± std over trials and their networks @ mean "
        f"early-stop iteration; {measured.sizes['seed']} trials"
    )
    return title, ["level", *map(figures.label, names)], rows


def notes(measured: xr.Dataset) -> str:
    """What to know of the protocol, and how many times are lower bounds only."""
    bound = measures.read(measured).values["bound"]
    known, last = int(bound.notnull().sum()), int(bound.sum())
    return (
        "The protocol is that of the ICLR 2019 version: the optimizer, the batch size and the definition of "
        "convergence of the first version could not be recovered. The early-stop iteration is that of least "
        "validation loss; times are compared as natural logarithms of it, where 0.1 is about a tenth. "
        f"{last:,} of {known:,} networks were best at the very last evaluation: their times are lower bounds."
    )


EXPERIMENT = cli.Experiment(
    name="mnist_tickets",
    summary="E4: winning tickets on MNIST and their controls (document 002 §3–§6)",
    config=Config,
    presets=presets,
    check=check,
    train=train,
    claims=verdicts,
    figures=draw_figures,
    table=make_table,
    notes=notes,
)
