"""E8 · Pruning before, while and after training (Frankle et al., arXiv:2009.08576).

    python -m experiments early_pruning                      embedded digits, minutes
    python -m experiments early_pruning --preset reduced     full MNIST, half the epochs, a third of the sizes
    python -m experiments early_pruning --preset paper       full MNIST, 18 sizes from 80 % to 1.8 %

LeNet-300-100, Adam 1.2e-3, batch 60, Glorot normal. Every way to prune is trained for as long, to the same
numbers of weights, 0.8ⁿ of all:

* before training, by ``magnitude``, ``random``, ``snip``, ``grasp`` and ``synflow``, ranked over all layers
  together; beside each the same mask shuffled inside each layer (``random_mask``), with fresh weights
  (``reinit``), and the mask of the negated score (``invert``);
* after training: ``one_shot`` and ``imp`` with the first two of these controls, both rewound to θ0, and
  ``lr_rewinding``, iterative, whose weights go on from where they are;
* while training: ``static``, ``set``, ``rigl`` and ``gradual`` with layers of one density (``uniform``) and
  of Erdős and Rényi's (``erk``).

The gradients of a score are of 100 examples, ten a class; SynFlow prunes in 100 steps, all others in one.
Networks of one seed begin with one θ0; what is pruned before and while training has no dense level, so that
its order of examples at a size is the one that the others have at the size before.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
import xarray as xr

from lth_jax import data, initializers, models, search
from lth_jax.analysis import records
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.runs.config import check_batches, check_choices, check_distinct, check_limits, option
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.search import Choices, Search
from lth_jax.tickets import dynamic, early, schedules
from lth_jax.training import splits
from lth_jax.types import Split

SUMMARY = "E8: pruning before, while and after training (Frankle et al. 2021; Evci et al. 2020)"
ABLATIONS = ("random_mask", "reinit")
"""Of masks that are made after training; those made before have ``invert`` too."""

BEFORE: dict[str, str] = {
    "magnitude": "large_init",
    "random": "random",
    "snip": "snip",
    "grasp": "grasp",
    "synflow": "synflow",
}
"""Before training: how a way to prune is called here, and its score."""

AFTER: dict[str, dict[str, Any]] = {
    "one_shot": {"one_shot": True, "controls": ABLATIONS},
    "imp": {"controls": ABLATIONS},
    "lr_rewinding": {"rewind": "lr:0"},
}
"""After training: by magnitude, over all layers together."""

CHANGING = ("static", *dynamic.RULES)
BUDGETS = ("uniform", "erk")
WHILE = tuple(f"{rule}_{budget}" for rule in CHANGING for budget in BUDGETS)
"""While training: a rule, and how weights are shared out among layers."""

PRUNERS = (*BEFORE, *AFTER, *WHILE)

LIMITS = {
    "levels": (2, 1_000),
    "epochs": (1, 10_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "rate": (1e-4, 0.9999),
    "hidden": (1, 100_000),
    "mask_every": (1, 1_000_000_000),
}


@dataclass(frozen=True)
class Config:
    """One experiment; every field is a flag."""

    dataset: str = option("mnist", "data set", data.DATASETS)
    hidden: tuple[int, ...] = option((300, 100), "widths of the hidden layers")
    pruners: tuple[str, ...] = option(PRUNERS, "ways to prune", PRUNERS)
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "initializations, one run each")
    levels: int = option(19, "sizes, the dense one with them")
    rate: float = option(0.2, "fraction of all survivors that each size is without")
    epochs: int = option(24, "epochs of every training")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "of Adam")
    mask_every: int = option(100, "iterations between two changes of a mask, while training")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "pruners")
        check_limits(self, LIMITS)


PRESETS = {
    "quick": {
        "dataset": data.EMBEDDED, "seeds": (42, 43), "levels": 3, "rate": 0.8, "epochs": 3, "mask_every": 20,
    },
    "reduced": {"levels": 7, "rate": 0.488, "epochs": 12},
    "paper": {},
}  # fmt: skip


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """Presets by name."""
    return PRESETS


def choices_of(config: Config, pruner: str, dataset: data.Dataset) -> dict[str, Any]:
    """What one way to prune asks of the search."""
    if pruner in BEFORE:
        score = BEFORE[pruner]
        count = early.examples_of_batch(score, 0, dataset.classes, len(dataset.train_labels))
        return {
            "score": early.SCORES[score], "score_batch": max(count, int(score == "synflow")),
            "score_steps": early.default_steps(score), "prune_at": "start", "scope": "global",
            "controls": () if pruner == "random" else (*ABLATIONS, "invert"),
        }  # fmt: skip
    if pruner in AFTER:
        return {"scope": "global", **AFTER[pruner]}
    rule, _, budget = pruner.rpartition("_")
    changing = None if rule == "static" else dynamic.Dynamic(dynamic.RULES[rule], config.mask_every)
    return {"score": early.SCORES["random"], "prune_at": "start", "budget": budget, "dynamic": changing}


def search_of(config: Config, dataset: data.Dataset, pruner: str) -> Search:
    """The levels of one way to prune; the dense one only where it is trained before it is pruned."""
    network = models.from_linen(models.MLP(config.hidden, classes=dataset.classes))
    shapes = models.parameter_shapes(network, dataset.train_images.shape[1:])
    glorot = initializers.get("xavier_normal")
    choices = Choices(
        levels=config.levels, epochs=config.epochs, batch_size=config.batch_size, rate=config.rate,
        **choices_of(config, pruner, dataset),
    )  # fmt: skip
    found = search.prepare(
        network,
        optax.adam(config.learning_rate),
        len(dataset.train_labels),
        lambda key: (initializers.initialize(key, shapes, glorot), {}),
        choices,
    )
    if pruner in AFTER:
        return found
    small = schedules.without_first(found.plan.sizes)
    return found._replace(plan=dataclasses.replace(found.plan, sizes=small))


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    check_batches(config, examples, epochs=("epochs",))
    steps = config.epochs * (examples // config.batch_size)
    changing = [name for name in config.pruners if name in WHILE and not name.startswith("static")]
    changes = dynamic.Dynamic(dynamic.RULES["set"], config.mask_every).last(steps)
    require(
        changes > 0 or not changing, f"--mask-every {config.mask_every}: a training has {steps:,} iterations"
    )
    try:
        for pruner in config.pruners:
            search_of(config, dataset, pruner)
    except ValueError as error:
        raise type(error)(f"--levels: {error}") from None


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume every way to prune; the labelled results, a dimension ``pruner``."""
    both = splits(dataset)
    done, seconds = run_stages(job, [stage_of(config, job, dataset, both, name) for name in config.pruners])
    attrs = results.attributes(
        config, experiment="early_pruning", preset=job.preset, **dataset.attributes, seconds=seconds
    )
    return results.side_by_side(done, "pruner").assign_attrs(attrs)


def stage_of(
    config: Config, job: Job, dataset: data.Dataset, both: tuple[Split, Split], pruner: str
) -> Stage:
    """All sizes of one way to prune."""
    found = search_of(config, dataset, pruner)
    networks, levels = len(config.seeds) * len(found.plan.networks), found.plan.sizes.levels

    def compute(done: Done) -> xr.Dataset:
        train, test = both
        swept, _ = search.run(found, job, config.seeds, train, {"test": test}, part=pruner)
        measured = records.labelled(found.plan, found.shapes, swept, config.seeds)
        if "network" not in measured.dims:
            measured = measured.expand_dims(network=["ticket"])
        return measured.assign_coords(level=measured["level"] + config.levels - levels)

    steps = networks * levels * found.plan.recipe.steps
    return Stage(pruner, compute, describe, networks, steps, float(steps))


def describe(found: xr.Dataset) -> str:
    """The accuracy of the smallest networks."""
    last = found.sel(network="ticket").isel(level=-1)
    return f"{float(last['test_accuracy'].mean()):.2%} at {float(last['kept'].mean()):.1%} kept"


def empty_layers(measured: xr.Dataset) -> xr.DataArray:
    """Of how many seeds some layer has lost all its weights, ``[pruner, network, level]``."""
    lost = (measured["kept_weights"] == 0).any("layer")
    return lost.sum("seed")


def kept(measured: xr.Dataset) -> np.ndarray:
    """The fraction of weights kept at every level, whichever way they were pruned."""
    return measured["kept"].sel(network="ticket").mean(["pruner", "seed"]).values


def smaller(measured: xr.Dataset) -> list[int]:
    """The levels at which something is pruned."""
    return [place for place, size in enumerate(kept(measured)) if size < 1 - 1e-6]


def used(measured: xr.Dataset) -> list[tuple[str, str]]:
    """The pairs of pruner and network that there are."""
    there = measured["test_accuracy"].notnull().any(["seed", "level"])
    return [
        (pruner, network)
        for pruner in measured["pruner"].values.tolist()
        for network in measured["network"].values.tolist()
        if bool(there.sel(pruner=pruner, network=network))
    ]
