"""E9 · Tickets in convolutional networks (Frankle & Carbin 2019, §3 and §4; arXiv:1903.01611).

    python -m experiments conv_tickets                                     embedded digits, minutes
    python -m experiments conv_tickets --preset reduced --data-dir DIR     CIFAR-10, Conv-2 on two cores
    python -m experiments conv_tickets --preset paper --data-dir DIR       CIFAR-10, for a GPU
    python -m experiments conv_tickets --part conv4|conv6|resnet20|vgg16

Conv-2, Conv-4 and Conv-6: Adam, batch 60, Gaussian Glorot, 5,000 training images held out for validation. At
each level every dense layer loses 20 % of its weights, the output layer half as much, every convolution 10 %
(Conv-6: 15 %); what survives goes back to θ0. The early-stop iteration is where the validation loss is least,
found afterwards: training always runs to the end.

``reduced`` trains Conv-2 for 5,000 of 20,000 iterations, in three trials of 8 levels whose rates lead to 51,
26 and 9 %, and trains the controls at these sizes alone: 3 × (8 + 3 × 2) = 42 networks. Two networks on two
cores take 130 ms a step, 11 minutes for 5,000; the 20 evaluations on validation and test images and the one
on the training images 3 minutes more. 25 such rounds are 6 hours. Conv-4 and Conv-6 cost more by the
iteration, in the ratio of their multiplications. Each level of each trial block is saved.

ResNet-20 and VGG-16, as open_lth has them: SGD with momentum 0.9, weight decay 1e-4 of kernels, batch 128,
160 epochs of 390 iterations, the learning rate of 0.1 divided by 10 after 80 and 120; images flipped and
cropped; kernels He-normal, BatchNorm scales from U(0, 1). 20 % of all weights go at each level, ranked over
all layers together; VGG-16's last layer is spared. Four recipes: ``standard``; ``low``, whose highest rate is
0.01; ``warmup``, whose rate rises to 0.03 over 20,000 iterations; ``rewinding``, ``standard`` with tickets
that go back to iteration 500 (VGG-16: 1,000) instead of θ0. There is no validation split and no early stop.
The paper reports VGG-19, and warms that up over 10,000 iterations to 0.1.

Beside tickets: ``reinit``, the same mask with fresh weights, and ``random_mask``, the same weights under a
random mask that keeps as many in each layer.
"""

from typing import Any

import jax.numpy as jnp
import optax
import xarray as xr

from experiments.conv_tickets.config import DEEP, Config
from lth_jax import augmentation, data, models, networks, optimizers, search
from lth_jax.analysis import records, tables
from lth_jax.errors import require
from lth_jax.runs import branching, results
from lth_jax.runs.config import check_batches
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.search import Choices, Search
from lth_jax.tasks import Task, classification
from lth_jax.training import splits
from lth_jax.types import Split

SUMMARY = "E9: tickets in convolutional networks (Frankle & Carbin 2019)"
IMAGE = (32, 32, 3)
PAIRS = {"conv2": 1, "conv4": 2, "conv6": 3}
"""Pairs of convolutions, each with twice the filters of the one before."""
DROPS = (80 / 160, 120 / 160)
"""Where the learning rate is divided by 10, as shares of a training."""


def module_of(config: Config, classes: int) -> Any:
    """The part's Flax module."""
    if config.part in PAIRS:
        filters = [config.width * 2**pair for pair in range(PAIRS[config.part])]
        return networks.ConvNet(filters, config.hidden, classes)
    deep = networks.ResNet if config.part == "resnet20" else networks.VGG
    return deep(20 if config.part == "resnet20" else 16, classes, width=config.width)


def optimizer_of(config: Config, recipe: str) -> optax.GradientTransformation:
    """Adam, or a recipe's SGD with its schedule."""
    if config.part not in DEEP:
        return optax.adam(config.learning_rate)
    peak = {"low": config.low_rate, "warmup": config.warm_rate}.get(recipe, config.learning_rate)
    drops = [round(share * config.iterations) for share in DROPS]
    rate = optimizers.piecewise(peak, drops, warmup=config.warmup if recipe == "warmup" else 0)
    kernels = optimizers.is_kernel_by_name
    return optimizers.with_decay(lambda rate: optax.sgd(rate, 0.9), rate, 1e-4, only=kernels)


def task_of(config: Config, images: Any) -> Task:
    """Classification; of flipped, cropped and normalized images for the deep networks."""
    if config.part not in DEEP:
        return classification()
    normal = augmentation.normalize(*augmentation.statistics(images))
    return augmentation.augmented(classification(), augmentation.flip, augmentation.crop(4), normal)


def pruning_of(config: Config) -> dict[str, Any]:
    """How a part's levels are pruned."""
    if config.part in DEEP:
        spared = {"output": 0} if config.part == "vgg16" else {}
        return {"rate": config.rate, "scope": "global", "layers": spared}
    convolutions = {f"conv_{layer}": config.conv_rate for layer in range(2 * PAIRS[config.part])}
    return {"rate": config.rate, "layers": {**convolutions, "output": config.rate / 2}}


def controls_of(config: Config) -> list[str]:
    """The controls' names: ``reinit``, ``reinit:1`` …"""
    trials = range(config.control_trials)
    return [f"{name}:{trial}" if trial else name for name in config.controls for trial in trials]


def search_of(config: Config, dataset: data.Dataset, recipe: str) -> Search:
    """All levels of one recipe."""
    network = models.from_linen(module_of(config, dataset.classes))
    image = jnp.zeros((1, *dataset.train_images.shape[1:]), jnp.float32)
    choices = Choices(
        levels=config.levels, iterations=config.iterations, batch_size=config.batch_size,
        eval_every=config.eval_every, rewind=config.rewind if recipe == "rewinding" else 0,
        controls=controls_of(config), control_levels=config.control_levels or range(1, config.levels),
        **pruning_of(config),
    )  # fmt: skip
    return search.prepare(
        network,
        optimizer_of(config, recipe),
        len(dataset.train_labels) - config.validation,
        lambda key: network.init(key, image),
        choices,
        task_of(config, dataset.train_images),
    )


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    shape, examples = dataset.train_images.shape[1:], len(dataset.train_labels)
    fits = shape == IMAGE or dataset.name == data.EMBEDDED
    told = "×".join(map(str, shape))
    require(fits, f"--dataset {config.dataset}: images of {told}, expected 32×32×3, or {data.EMBEDDED}")
    require(config.validation < examples, f"--validation {config.validation}: there are {examples} examples")
    check_batches(config, examples - config.validation)
    try:
        for recipe in config.recipes:
            search_of(config, dataset, recipe)
    except ValueError as error:
        raise type(error)(f"--levels: {error}") from None


def held_out(config: Config, dataset: data.Dataset) -> tuple[Split, dict[str, Split]]:
    """Training examples, and the others by name: ``validation``, if there are some, and ``test``."""
    train, test = splits(dataset)
    if not config.validation:
        return train, {"test": test}
    parts = data.split_validation(dataset, config.validation)
    train, validation = (
        Split(jnp.asarray(images), jnp.asarray(labels, jnp.int32))
        for images, labels in (parts[:2], parts[2:])
    )
    return train, {"validation": validation, "test": test}


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume every recipe; the labelled results, a dimension ``recipe``."""
    both = held_out(config, dataset)
    done, seconds = run_stages(job, [stage_of(config, job, dataset, both, name) for name in config.recipes])
    attrs = results.attributes(
        config, experiment="conv_tickets", preset=job.preset, variant=config.part, **dataset.attributes,
        seconds=seconds,
    )  # fmt: skip
    return results.side_by_side(done, "recipe").assign_attrs(attrs)


def stage_of(
    config: Config, job: Job, dataset: data.Dataset, both: tuple[Split, dict[str, Split]], recipe: str
) -> Stage:
    """All levels of one recipe."""
    found = search_of(config, dataset, recipe)

    def compute(done: Done) -> xr.Dataset:
        swept, _ = search.run(found, job, config.seeds, *both, part=recipe)
        measured = records.labelled(found.plan, found.shapes, swept, config.seeds)
        return measured if "network" in measured.dims else measured.expand_dims(network=["ticket"])

    count = len(config.seeds) * sum(branching.networks(found.plan, config.levels))
    steps = count * (found.plan.recipe.steps - found.plan.first)
    return Stage(recipe, compute, describe, count, steps, float(steps))


def describe(found: xr.Dataset) -> str:
    """The accuracies of dense networks and of the smallest tickets."""
    accuracy, kept = (found[name].sel(network="ticket") for name in ("test_accuracy", "kept"))
    dense, small = (tables.accuracy(accuracy.isel(level=level).values) for level in (0, -1))
    return f"dense {dense}, at {float(kept.isel(level=-1).mean()):.1%} {small}"
