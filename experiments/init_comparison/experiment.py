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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from experiments import cli
from experiments.init_comparison.claims import verdicts
from experiments.init_comparison.report import make_table, notes
from lth_jax import data, initializers, levels, models
from lth_jax.analysis import figures
from lth_jax.errors import require
from lth_jax.keys import stream
from lth_jax.runs import results
from lth_jax.runs.config import check_choices, check_distinct, check_limits, option
from lth_jax.runs.sweep import Progress, blocks, sweep
from lth_jax.tickets import masks, pruning
from lth_jax.training import Recipe, splits

VARIANTS = ("as-described", "as-run")
DOCUMENT_METHODS = ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")
SCALED_METHODS = tuple(
    f"xavier_{shape}_{scale}" for shape in ("uniform", "normal") for scale in ("half", "double")
)
EIGHT_METHODS = DOCUMENT_METHODS + SCALED_METHODS
AS_RUN_METHODS = (*EIGHT_METHODS, "standard_normal", "standard_uniform")


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
    methods: tuple[str, ...] = option(EIGHT_METHODS, "initializations, by name", tuple(initializers.SCHEMES))
    seeds: tuple[int, ...] = option(tuple(range(42, 53)), "seeds, as 42-52 or 42,43")
    levels: int = option(20, "rounds of training and pruning; the first is dense")
    epochs_per_level: int = option(5, "epochs trained before each pruning")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")
    rate: float = option(0.2, "fraction of each layer's survivors pruned per level, in (0, 1)")
    hidden: tuple[int, ...] = option((300, 100), "widths of the hidden layers")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "methods", "seeds")
        widths = ",".join(map(str, self.hidden))
        require(0 < len(self.hidden) <= 20, f"--hidden {widths}: expected 1 to 20 widths")
        check_limits(self, LIMITS)


QUICK = {"dataset": "mnist-5k", "methods": DOCUMENT_METHODS, "epochs_per_level": 3}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets of a variant: as-run's paper scale has the program's ten methods."""
    return {"quick": QUICK, "paper": {"methods": AS_RUN_METHODS} if variant == "as-run" else {}}


def scheme(method: str, variant: str) -> initializers.Scheme:
    """A method's distribution: the program behind the curves used Kaiming with gain √2."""
    name = method.replace("kaiming", "he") if variant == "as-run" else method
    return initializers.get(name)


def make_plan(config: Config, examples: int, image_shape: tuple[int, ...]) -> tuple[levels.Plan, Any]:
    """The plan of every level, and the network's parameter shapes."""
    as_run = config.variant == "as-run"
    activation = models.leaky_relu if as_run else jax.nn.relu
    network = models.from_flax(models.MLP(config.hidden, activation=activation))
    shapes = models.parameter_shapes(network, image_shape)
    steps = config.epochs_per_level * (examples // config.batch_size)
    recipe = Recipe(network, optax.adam(config.learning_rate), config.batch_size, steps, steps)
    which = masks.everything if as_run else masks.is_kernel
    plan = levels.Plan(
        recipe,
        rates=pruning.rates(shapes, config.rate, predicate=which),
        prunable=masks.prunable(shapes, which),
        carry_optimizer=as_run,
    )
    return plan, shapes


def make_run(seed: int, method: str, config: Config, plan: levels.Plan, shapes: Any) -> levels.Run:
    """A run before level 0. Methods of one seed share the draws that their schemes scale."""
    kernels = scheme(method, config.variant)
    if config.variant == "as-described":
        params = initializers.initialize(stream(seed, "init"), shapes, kernels)
        return levels.begin(seed, params, {}, plan)
    default = initializers.get("torch_default")
    saved = initializers.initialize(stream(seed, "default_init"), shapes, default, default)
    tested = initializers.initialize(stream(seed, "init"), shapes, kernels)
    first = {layer: {"kernel": tested[layer]["kernel"], "bias": saved[layer]["bias"]} for layer in saved}
    return levels.begin(seed, first, {}, plan, rewind_to=saved)


def starter(config: Config, plan: levels.Plan, shapes: Any) -> Callable[..., levels.Run]:
    """Makes runs before level 0, stacked, of (method, seed) pairs that lie method by method."""

    @functools.partial(jax.jit, static_argnums=0)
    def drawn(methods: tuple[str, ...], seeds: Sequence[jax.Array]) -> list[levels.Run]:
        return [
            jax.vmap(lambda seed, m=method: make_run(seed, m, config, plan, shapes))(those)
            for method, those in zip(methods, seeds, strict=True)
        ]

    def start(pairs: Sequence[tuple[str, int]]) -> levels.Run:
        methods = tuple(dict.fromkeys(method for method, _ in pairs))
        seeds = [jnp.asarray([seed for method, seed in pairs if method == m]) for m in methods]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn(methods, seeds))

    return start


def measure(level: levels.Level) -> dict[str, jax.Array]:
    """What is recorded of a level: accuracy, loss, size, and how many classes no input influences."""
    kernels = [level.mask[name]["kernel"] for name in models.MLP.layers(len(level.mask) - 1)]
    lost = jnp.sum(~masks.reached(kernels), dtype=jnp.int32)
    return {**levels.measurements(level), "unreached_classes": lost}


def labelled(record: Mapping[str, np.ndarray], config: Config, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Records ``[level, run]`` as arrays ``[method, seed, level]``."""
    shape = (config.levels, len(config.methods), len(config.seeds))
    values = {
        name: (("method", "seed", "level"), np.moveaxis(array.reshape(shape), 0, -1))
        for name, array in record.items()
    }
    coordinates = {
        "method": list(config.methods),
        "seed": list(config.seeds),
        "level": np.arange(config.levels),
    }
    return results.mark_diverged(results.by_label(values, coordinates, attrs))


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    require(
        config.batch_size <= examples,
        f"--batch-size {config.batch_size}: larger than the {examples} training examples",
    )
    require(
        config.epochs_per_level * examples < 2**29,
        f"--epochs-per-level {config.epochs_per_level}: at most {2**29 // examples} of {examples} examples",
    )
    plan, shapes = make_plan(config, examples, dataset.train_images.shape[1:])
    pruning.check_levels(shapes, plan.rates, config.levels)
    one = jax.eval_shape(lambda: make_run(0, config.methods[0], config, plan, shapes))
    cli.check_memory(one, min(len(config.methods) * len(config.seeds), jax.device_count()))  # a block


def train(config: Config, execution: cli.Execution, folder: Path, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume the sweep; the labelled results."""
    plan, shapes = make_plan(config, len(dataset.train_labels), dataset.train_images.shape[1:])
    start = starter(config, plan, shapes)
    train_split, test_split = splits(dataset)
    watch = {"train": train_split, "test": test_split}

    def describe(progress: Progress) -> str:
        accuracy = cli.accuracy(progress.record["test_accuracy"][progress.level])
        kept = progress.record["kept"][progress.level].mean()
        return f"kept {kept:7.2%}  test accuracy (%) {accuracy}"

    pairs = list(itertools.product(config.methods, config.seeds))
    one = jax.eval_shape(lambda: make_run(0, config.methods[0], config, plan, shapes))
    played = []
    for place, block in blocks(folder / results.CHECKPOINTS, pairs, one, execution.block):
        if len(block) < len(pairs):
            print(f"{place.name} of {len(pairs):,}", flush=True)
        part = place.name if len(block) < len(pairs) else ""
        names = [f"{method} seed {seed}" for method, seed in block]
        with cli.reporter(describe, len(block) * plan.recipe.steps, part, names) as report:
            played.append(
                sweep(
                    place,
                    start(block),
                    train_split,
                    watch,
                    plan,
                    config.levels,
                    measure,
                    report,
                    chunk=execution.chunk or None,
                )[1:]
            )
    records, times = zip(*played, strict=True)
    record, seconds = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *records), sum(times)
    attrs = results.attributes(
        config,
        experiment="init_comparison",
        preset=execution.preset,
        variant=config.variant,
        **dataset.attributes,
        seconds=float(seconds.sum()),
        inputs=int(np.prod(dataset.train_images.shape[1:])),
        classes=dataset.classes,
    )
    return labelled(record, config, attrs)


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """The document's figures 1 to 4; 3 and 4 for test and for training accuracy."""
    config = json.loads(measured.attrs["config"])
    methods = measured["method"].values.tolist()
    document = [m for m in methods if m in DOCUMENT_METHODS]
    scaled = [m for m in methods if m in SCALED_METHODS]
    inputs = int(measured.attrs["inputs"])
    widths = (inputs, *config["hidden"], int(measured.attrs["classes"]))
    layers = {f"layer {i + 1}": pair for i, pair in enumerate(itertools.pairwise(widths))}
    schemes = {m: scheme(m, config["variant"]) for m in document or methods}
    kept = measured["kept"].mean(["method", "seed"]).values
    drawn = {
        "figure1_densities": lambda: figures.densities(schemes, layers),
        "figure2_size": lambda: figures.size_over_epochs(kept, config["epochs_per_level"]),
    }
    groups = {"figure3": document, "figure4": scaled, "others": set(methods) - {*document, *scaled}}
    for name, group in groups.items():
        chosen = [m for m in methods if m in group]
        for split in ("test", "train") if chosen else ():
            drawn[f"{name}_{split}"] = lambda c=chosen, s=split: draw_accuracy(measured.sel({"method": c}), s)
    return figures.save_all(drawn, folder)


def draw_accuracy(measured: xr.Dataset, split: str) -> Any:
    """Accuracy of some methods against weights remaining, with a close-up of the upper part."""
    figure, (whole, close) = figures.new_figure(2)
    figures.against_kept(whole, measured, f"{split}_accuracy")
    figures.against_kept(close, measured, f"{split}_accuracy")
    best = float(measured[f"{split}_accuracy"].mean("seed").max()) * 100
    if np.isfinite(best):  # a seed of some method did not diverge
        close.set_ylim(best - 3, best + 0.5)
    for ax in (whole, close):
        ax.set_ylabel(f"{'training' if split == 'train' else split} accuracy (%), mean ± std")
    seeds, attrs = measured.sizes["seed"], measured.attrs
    figure.suptitle(f"{attrs['dataset']}, {attrs['variant']}, {seeds} seeds", fontsize=10)
    return figure


EXPERIMENT = cli.Experiment(
    name="init_comparison",
    summary="E1: initializations compared for finding winning tickets (document 000)",
    config=Config,
    presets=presets,
    check=check,
    train=train,
    claims=verdicts,
    figures=draw_figures,
    table=make_table,
    notes=notes,
    distributed=True,
)
