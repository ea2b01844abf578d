"""E1 · Initializations compared for finding winning tickets (document 000: Wijnja, Wierstra, Hamburger 2020).

    python -m experiments init_comparison                                   embedded digits, minutes
    python -m experiments init_comparison --preset paper                    full MNIST, as described
    python -m experiments init_comparison --preset paper --variant as-run   full MNIST, as the program ran

784–300–100–10, Adam 1.2e-3, batch 60, 20 levels of 5 epochs, 20 % of every layer pruned by magnitude at each
level, reset to θ0, seeds 42–52; test accuracy before each pruning. ``as-described`` follows the text;
``as-run`` follows the program its curves came from: LeakyReLU(0.05), Kaiming with gain √2, biases pruned
too, one Adam for all levels, and a reset to the framework's default draw instead of the scheme under test.
"""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from lth_jax import data, levels, models
from lth_jax.analysis import figures, tables
from lth_jax.errors import require
from lth_jax.initializers import SCHEMES, Scheme, get, initialize
from lth_jax.keys import stream
from lth_jax.runs import memory, results
from lth_jax.runs.config import check_batches, check_choices, check_distinct, check_limits, option
from lth_jax.runs.job import Job
from lth_jax.runs.progress import Progress
from lth_jax.runs.sweep import sweep
from lth_jax.tickets import masks, schedules
from lth_jax.training import Recipe, splits

SUMMARY = "E1: initializations compared for finding winning tickets (document 000)"
DISTRIBUTED = True
VARIANTS = ("as-described", "as-run")
DOCUMENT = ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")
SCALED = tuple(f"xavier_{shape}_{scale}" for shape in ("uniform", "normal") for scale in ("half", "double"))
EIGHT = DOCUMENT + SCALED
AS_RUN = (*EIGHT, "standard_normal", "standard_uniform")


LIMITS = {
    "levels": (1, 1_000),
    "epochs_per_level": (1, 10_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "rate": (1e-4, 0.9999),  # pruning counts in steps of 1 / 10,000
    "hidden": (1, 100_000),
}


@dataclass(frozen=True)
class Config:
    """One comparison; every field is a flag."""

    variant: str = option("as-described", "the text, or the program behind its curves", VARIANTS)
    dataset: str = option("mnist", "data set", data.DATASETS)
    initializers: tuple[str, ...] = option(EIGHT, "initializations, by name", tuple(SCHEMES))
    seeds: tuple[int, ...] = option(tuple(range(42, 53)), "seeds, as 42-52 or 42,43")
    levels: int = option(20, "rounds of training and pruning; the first is dense")
    epochs_per_level: int = option(5, "epochs trained before each pruning")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")
    rate: float = option(0.2, "fraction of each layer's survivors pruned per level, in (0, 1)")
    hidden: tuple[int, ...] = option((300, 100), "widths of the hidden layers")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "initializers", "seeds")
        widths = ",".join(map(str, self.hidden))
        require(0 < len(self.hidden) <= 20, f"--hidden {widths}: expected 1 to 20 widths")
        check_limits(self, LIMITS)


QUICK = {"dataset": "mnist-5k", "initializers": DOCUMENT, "epochs_per_level": 3}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets of a variant: as-run's paper scale has the program's ten initializers."""
    return {"quick": QUICK, "paper": {"initializers": AS_RUN} if variant == "as-run" else {}}


def scheme(initializer: str, variant: str) -> Scheme:
    """An initializer's distribution: the program behind the curves used Kaiming with gain √2."""
    return get(initializer.replace("kaiming", "he") if variant == "as-run" else initializer)


def make_plan(config: Config, examples: int, image_shape: tuple[int, ...]) -> tuple[levels.Plan, Any]:
    """The plan of every level, and the network's parameter shapes."""
    as_run = config.variant == "as-run"
    activation = models.leaky_relu if as_run else jax.nn.relu
    network = models.from_linen(models.MLP(config.hidden, activation=activation))
    shapes = models.parameter_shapes(network, image_shape)
    steps = config.epochs_per_level * (examples // config.batch_size)
    prunable = masks.prunable(shapes, masks.everything if as_run else masks.is_kernel)
    plan = levels.Plan(
        Recipe(network, optax.adam(config.learning_rate), config.batch_size, steps),
        sizes=schedules.iterative(shapes, prunable, [config.rate] * (config.levels - 1)),
        prunable=prunable,
        optimizer="carried" if as_run else "fresh",
    )
    return plan, shapes


def begin(seed: Any, initializer: str, config: Config, plan: levels.Plan, shapes: Any) -> levels.Run:
    """A run before level 0. Initializers of one seed share the draws that their schemes scale."""
    kernels = scheme(initializer, config.variant)
    if config.variant == "as-described":
        return levels.begin(seed, initialize(stream(seed, "init"), shapes, kernels), {}, plan)
    default = get("torch_default")
    saved = initialize(stream(seed, "default_init"), shapes, default, default)
    tested = initialize(stream(seed, "init"), shapes, kernels)
    first = {layer: {"kernel": tested[layer]["kernel"], "bias": saved[layer]["bias"]} for layer in saved}
    return levels.begin(seed, first, {}, plan, rewind_to=saved)


def measure(outcome: levels.Outcome, plan: levels.Plan) -> dict[str, Any]:
    """What is recorded: accuracy, loss, size, classes that no input influences, weights held compressed."""
    mask = outcome.ticket.mask
    kernels = [mask[name]["kernel"] for name in models.MLP.layers(len(mask) - 1)]
    lost = jnp.sum(~masks.reached(kernels), dtype=jnp.int32)
    held = jnp.sum(outcome.compressed)
    return {**levels.measurements(outcome, plan), "unreached_classes": lost, "compressed_weights": held}


def describe(progress: Progress) -> str:
    """A level in a line."""
    networks, *_ = progress.record
    shown = tables.accuracy(networks["test_accuracy"][progress.level].ravel())
    return f"kept {networks['kept'][progress.level].mean():7.2%}  test accuracy (%) {shown}"


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    check_batches(config, examples, epochs=("epochs_per_level",))
    plan, shapes = make_plan(config, examples, dataset.train_images.shape[1:])
    one = jax.eval_shape(lambda: begin(0, config.initializers[0], config, plan, shapes))
    memory.check(one, min(len(config.initializers) * len(config.seeds), jax.device_count()))  # a block


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume the sweep; the labelled results."""
    plan, shapes = make_plan(config, len(dataset.train_labels), dataset.train_images.shape[1:])
    make = functools.partial(begin, config=config, plan=plan, shapes=shapes)
    draw = jax.jit(jax.vmap(make, in_axes=(0, None)), static_argnums=1)

    def start(pairs: Sequence[tuple[str, int]]) -> levels.Run:
        groups = itertools.groupby(pairs, key=lambda pair: pair[0])
        parts = [draw(jnp.asarray([seed for _, seed in group]), name) for name, group in groups]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    train_split, test_split = splits(dataset)
    found = sweep(
        job,
        list(itertools.product(config.initializers, config.seeds)),
        jax.eval_shape(lambda: make(0, config.initializers[0])),
        start,
        train_split,
        plan,
        describe=describe,
        name=lambda pair: f"{pair[0]} seed {pair[1]}",
        final={"train": train_split, "test": test_split},
        record=functools.partial(measure, plan=plan),
    )
    attrs = results.attributes(
        config,
        experiment="init_comparison",
        preset=job.preset,
        variant=config.variant,
        **dataset.attributes,
        seconds=float(found.seconds.sum()),
        level_seconds=json.dumps(np.round(found.seconds, 2).tolist()),
        inputs=int(np.prod(dataset.train_images.shape[1:])),
        classes=dataset.classes,
    )
    return labelled(found.networks, config, attrs)


def labelled(record: Mapping[str, np.ndarray], config: Config, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Records ``[level, run, 1]`` as arrays ``[initializer, seed, level]``."""
    runs = {"initializer": config.initializers, "seed": config.seeds}
    measured = results.label(
        {name: values[:, :, 0] for name, values in record.items()}, {"level": range(config.levels)}, runs
    )
    return results.mark_diverged(measured.transpose("initializer", "seed", "level")).assign_attrs(attrs)


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """The document's figures 1 to 4; 3 and 4 for test and for training accuracy."""
    config = json.loads(measured.attrs["config"])
    initializers = measured["initializer"].values.tolist()
    document = [m for m in initializers if m in DOCUMENT]
    scaled = [m for m in initializers if m in SCALED]
    inputs = int(measured.attrs["inputs"])
    widths = (inputs, *config["hidden"], int(measured.attrs["classes"]))
    layers = {f"layer {i + 1}": pair for i, pair in enumerate(itertools.pairwise(widths))}
    schemes = {m: scheme(m, config["variant"]) for m in document or initializers}
    kept = measured["kept"].mean(["initializer", "seed"]).values
    drawn = {
        "figure1_densities": lambda: figures.densities(schemes, layers),
        "figure2_size": lambda: figures.size_over_epochs(kept, config["epochs_per_level"]),
    }
    groups = {"figure3": document, "figure4": scaled, "others": set(initializers) - {*document, *scaled}}
    for name, group in groups.items():
        chosen = [m for m in initializers if m in group]
        for split in ("test", "train") if chosen else ():
            drawn[f"{name}_{split}"] = lambda c=chosen, s=split: draw_accuracy(measured.sel(initializer=c), s)
    return figures.save_all(drawn, folder)


def draw_accuracy(measured: xr.Dataset, split: str) -> Any:
    """Accuracy of some initializers against weights remaining, with a close-up of the upper part."""
    figure, (whole, close) = figures.new_figure(2)
    figures.against_kept(whole, measured, f"{split}_accuracy")
    figures.against_kept(close, measured, f"{split}_accuracy")
    best = float(measured[f"{split}_accuracy"].mean("seed").max()) * 100
    if np.isfinite(best):  # a seed of some initializer did not diverge
        close.set_ylim(best - 3, best + 0.5)
    for ax in (whole, close):
        ax.set_ylabel(f"{'training' if split == 'train' else split} accuracy (%), mean ± std")
    seeds, attrs = measured.sizes["seed"], measured.attrs
    figure.suptitle(f"{attrs['dataset']}, {attrs['variant']}, {seeds} seeds", fontsize=10)
    return figure
