"""E6 · Networks that work untrained, and how small a network must be (document 004: Rolfs; Zhou et al. 2019).

    python -m experiments supermask                    embedded digits, minutes
    python -m experiments supermask --preset paper     full MNIST, the document's protocol
    python -m experiments supermask --preset paper --shuffle false --grid-seeds 0 --learned-seeds 0
                                                       its recipe alone, epochs in the data set's order

784–200–30–10, Adam 1.2e-3, batch 60, ten seeds. Train 20,000 iterations; train again, each seed up to its
minimum of validation loss; keep w0 where sign(w0) · w_trained ≥ t for t = 0, 0.01 … 0.2; take each seed's
best untrained network; train it for 5,000 iterations beside ten architectures. The test set is the validation
set. The initialization U(±1/√fan_in) is a fit: the document names none, and this gives its sizes.

Beside it, on LeNet-300-100: every criterion × what kept weights become × what pruned ones become, untrained
and trained; and masks that are learned while the weights stay. Each step is saved when it is finished.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr

from experiments.supermask import grid, learned, recipe
from experiments.supermask.config import Config
from experiments.supermask.published import at_best_threshold
from lth_jax import data, training
from lth_jax.analysis import tables
from lth_jax.errors import InputError
from lth_jax.runs import memory, results
from lth_jax.runs.config import check_batches
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.types import Shapes, Split

SUMMARY = "E6: networks that work untrained, and how small a network must be (document 004)"


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    check_batches(config, len(dataset.train_labels), ("batch_size", "learned_batch_size"))
    shape = dataset.train_images.shape[1:]
    setting = recipe.make_setting(config, shape, dataset.classes)
    try:
        grid.make_setting(config, shape, dataset.classes)
    except ValueError as error:  # no weight is left, or more goes at once than can be counted
        levels = ",".join(map(str, config.grid_levels))
        raise InputError(f"--grid-levels {levels}: {error}") from None
    state = (setting.shapes,) * 3  # weights and Adam's moments
    memory.check(state, len(config.architectures()) * len(config.seeds), "architectures × --seeds")


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume all stages; the labelled results."""
    splits, shape = training.splits(dataset), dataset.train_images.shape[1:]
    recipe_setting = recipe.make_setting(config, shape, dataset.classes)
    grid_setting = grid.make_setting(config, shape, dataset.classes)
    stages = recipe_stages(recipe_setting, splits, job)
    if config.grid_seeds:
        stages += grid_stages(grid_setting, splits, job)
    if config.learned_seeds:
        stages.append(learned_stage(grid_setting, splits, job))
    done, seconds = run_stages(job, stages)
    parts = recipe.recipe_results(done)
    if config.grid_seeds:
        criteria = [done[f"grid_{name}"] for name in config.grid_criteria]
        parts.append(grid.grid_results(grid_setting, criteria, done["grid_dense"]))
    if config.learned_seeds:
        parts.append(done["learned"])
    attrs = results.attributes(
        config,
        experiment="supermask",
        preset=job.preset,
        variant=config.variant,
        **dataset.attributes,
        seconds=seconds,
    )
    return xr.merge(parts, combine_attrs="drop").assign_attrs(attrs)


def multiplications(shapes: Shapes, steps: int, batch: int, evaluated: int) -> float:
    """Of training for so many steps, forwards and twice backwards, and of evaluating so many examples."""
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim > 1)
    return float(weights) * (3 * steps * batch + evaluated)


def percent(values: xr.DataArray) -> str:
    """An accuracy over seeds, for a step's line."""
    return f"accuracy (%) {tables.accuracy(np.asarray(values))}"


def stage(
    name: str,
    compute: Callable[[Done], xr.Dataset],
    describe: Callable[[xr.Dataset], str],
    shapes: Shapes,
    networks: int,
    steps: int,
    batch: int,
    evaluated: int,
) -> Stage:
    """A stage that trains so many networks for so many steps, and evaluates so many examples of each."""
    cost = networks * multiplications(shapes, steps, batch, evaluated)
    return Stage(name, compute, describe, networks, networks * steps, cost)


def recipe_stages(setting: recipe.Setting, splits: tuple[Split, Split], job: Job) -> list[Stage]:
    """The document's six steps; the fourth, the best threshold, belongs to the third."""
    config, seeds = setting.config, len(setting.config.seeds)

    def make(name: str, networks: int, steps: int, compute: Any, describe: Any, looks: int = 0) -> Stage:
        seen = (looks or steps // config.eval_every) * len(splits[1].labels)
        return stage(name, compute, describe, setting.shapes, networks, steps, config.batch_size, seen)

    def trained(done: Done) -> Any:
        return recipe.weights_of(done["retrain"], setting.shapes)

    def final(found: xr.Dataset) -> str:
        return percent(found["validation_accuracy"].isel(network=0, iteration=-1))

    long, about = config.overtraining_steps, min(config.steps, config.overtraining_steps)
    return [
        make(
            "overtrain", seeds, long,
            lambda done: recipe.overtrain(setting, splits, job),
            lambda found: percent(found["overtraining_accuracy"].isel(long_iteration=-1)),
        ),
        make(
            "retrain", seeds, about,  # as it turns out
            lambda done: recipe.retrain(setting, done["overtrain"], splits, job),
            lambda found: percent(found["trained_accuracy"]),
        )._replace(network_steps=0),
        make(
            "thresholds", seeds * len(config.thresholds), 0,
            lambda done: recipe.judge_thresholds(setting, trained(done), splits[1], job),
            lambda found: f"untrained {percent(at_best_threshold(found, 'masked_accuracy'))}",
            looks=1,
        ),
        make(
            "tickets", seeds, config.steps,
            lambda done: recipe.train_tickets(setting, done["thresholds"], trained(done), splits, job),
            final,
        ),
        make(
            "architectures", seeds * len(config.architectures()), config.steps,
            lambda done: recipe.train_architectures(setting, splits, job),
            lambda found: f"the baseline's {final(found)}",
        ),
    ]  # fmt: skip


def grid_stages(setting: grid.Setting, splits: tuple[Split, Split], job: Job) -> list[Stage]:
    """The dense networks, and a stage a criterion; one compiled program serves all criteria."""
    config, seeds = setting.config, list(setting.config.seeds[: setting.config.grid_seeds])
    program = functools.cache(lambda: grid.cell_program(setting, job))
    examples, cells = len(splits[1].labels), len(grid.KEPT) * len(grid.PRUNED) * len(seeds)
    make = functools.partial(stage, shapes=setting.shapes, batch=config.batch_size)

    def run_criterion(name: str, done: Done) -> xr.Dataset:
        return grid.run_criterion(name, setting, done["grid_dense"], splits, program())

    def describe(found: xr.Dataset) -> str:
        cell = found.isel(criterion=0, kept_weights=0, pruned_weights=0)  # initial weights, the others 0
        best = float(cell["grid_untrained_accuracy"].mean("grid_seed").max()) * 100
        return f"untrained {best:.1f}, trained {percent(cell['grid_trained_accuracy'])}"

    dense = make(
        "grid_dense",
        lambda done: grid.train_dense(setting, seeds, splits, job),
        lambda found: percent(found["grid_dense_accuracy"]),
        networks=len(seeds), steps=config.grid_dense_steps, evaluated=examples,
    )  # fmt: skip
    looked_at = (len(config.grid_levels) + 1) * examples
    return [dense] + [
        make(
            f"grid_{name}", functools.partial(run_criterion, name), describe,
            networks=cells, steps=config.grid_steps, evaluated=looked_at,
        )
        for name in config.grid_criteria
    ]  # fmt: skip


def learned_stage(setting: grid.Setting, splits: tuple[Split, Split], job: Job) -> Stage:
    """All learned masks."""
    config, seeds = setting.config, list(setting.config.seeds[: setting.config.learned_seeds])
    evaluated = (config.learned_draws + learned.EVALUATIONS) * len(splits[1].labels)
    found = stage(
        "learned",
        lambda done: learned.learn_masks(setting, seeds, splits, job),
        lambda found: percent(found["learned_accuracy"].mean("draw").isel(weights=0, rescaling=0)),
        setting.shapes, 2 * len(learned.WEIGHTS) * len(seeds), config.learned_steps, config.batch_size,
        evaluated,
    )  # fmt: skip
    return found._replace(cost=3 * found.cost)  # drawing the masks costs more than the network does
