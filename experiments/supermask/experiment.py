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
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from experiments import cli
from experiments.supermask import grid, learned, recipe
from experiments.supermask.claims import at_best_threshold, verdicts
from experiments.supermask.config import Config, presets
from experiments.supermask.figures import draw_figures
from experiments.supermask.report import make_table, notes
from experiments.supermask.steps import Done, Step, Wait, play
from lth_jax import data, training
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.types import Shapes, Split


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    for name in ("batch_size", "learned_batch_size"):
        value = getattr(config, name)
        message = f"--{name.replace('_', '-')} {value}: larger than the {examples} training examples"
        require(value <= examples, message)
    shape = dataset.train_images.shape[1:]
    recipe_setting = recipe.make_setting(config, shape, dataset.classes)
    grid_setting = grid.make_setting(config, shape, dataset.classes)
    fewest = min(int(leaf.min()) for leaf in jax.tree.leaves(grid_setting.keep))
    levels = ",".join(map(str, config.grid_levels))
    require(fewest > 0, f"--grid-levels {levels}: the last leaves a layer without any weight")
    state = (recipe_setting.shapes,) * 3  # weights and Adam's moments
    cli.check_memory(state, len(config.architectures()) * len(config.seeds))


def train(config: Config, execution: cli.Execution, folder: Path, dataset: data.Dataset) -> xr.Dataset:
    """Play or resume all steps; the labelled results."""
    splits = training.splits(dataset)
    shape, chunk = dataset.train_images.shape[1:], execution.chunk or None
    recipe_setting = recipe.make_setting(config, shape, dataset.classes)
    grid_setting = grid.make_setting(config, shape, dataset.classes)
    steps = recipe_steps(recipe_setting, splits, chunk)
    if config.grid_seeds:
        steps += grid_steps(grid_setting, splits, chunk)
    if config.learned_seeds:
        steps += learned_steps(grid_setting, splits, chunk)
    done, seconds = play(folder, steps)
    parts = recipe.recipe_results(done)
    if config.grid_seeds:
        criteria = [done[grid_step(name)] for name in config.grid_criteria]
        parts.append(grid.grid_results(grid_setting, criteria, done["grid_dense"]))
    if config.learned_seeds:
        parts.append(done["learned"])
    attrs = results.attributes(
        config,
        experiment="supermask",
        preset=execution.preset,
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
    return f"accuracy (%) {cli.accuracy(np.asarray(values))}"


def recipe_steps(setting: recipe.Setting, splits: tuple[Split, Split], chunk: int | None) -> list[Step]:
    """The document's six steps; the fourth, the best threshold, belongs to the third."""
    config, shapes = setting.config, setting.shapes
    seeds, examples = len(config.seeds), len(splits[1].labels)
    last = {"network": 0, "iteration": -1}

    def step(name: str, networks: int, steps: int, compute, describe, evaluations: int | None = None) -> Step:
        seen = (steps // config.eval_every if evaluations is None else evaluations) * examples
        cost = networks * multiplications(shapes, steps, config.batch_size, seen)
        return Step(name, networks, networks * steps, cost, compute, describe)

    def trained(done: Done):
        return recipe.weights_of(done["retrain"], shapes)

    return [
        step(
            "overtrain", seeds, config.overtraining_steps,
            lambda done, wait: recipe.overtrain(setting, splits, wait, chunk),
            lambda found: percent(found["overtraining_accuracy"].isel(long_iteration=-1)),
        ),
        step(
            "retrain", seeds, min(config.steps, config.overtraining_steps),  # about as many, as it turns out
            lambda done, wait: recipe.retrain(setting, done["overtrain"], splits, wait, chunk),
            lambda found: percent(found["trained_accuracy"]),
        )._replace(network_steps=0),
        step(
            "thresholds", seeds * len(config.thresholds), 0,
            lambda done, wait: recipe.judge_thresholds(setting, trained(done), splits[1], wait, chunk),
            lambda found: f"untrained {percent(at_best_threshold(found, 'masked_accuracy'))}",
            evaluations=1,
        ),
        step(
            "tickets", seeds, config.steps,
            lambda done, wait: recipe.train_tickets(
                setting, done["thresholds"], trained(done), splits, wait, chunk
            ),
            lambda found: percent(found["validation_accuracy"].isel(last)),
        ),
        step(
            "architectures", seeds * len(config.architectures()), config.steps,
            lambda done, wait: recipe.train_architectures(setting, splits, wait, chunk),
            lambda found: f"the baseline's {percent(found['validation_accuracy'].isel(last))}",
        ),
    ]  # fmt: skip


def grid_step(criterion: str) -> str:
    """The name of a criterion's step."""
    return f"grid_{criterion}"


def grid_steps(setting: grid.Setting, splits: tuple[Split, Split], chunk: int | None) -> list[Step]:
    """The dense networks, and a step a criterion; one compiled program serves all criteria."""
    config, seeds = setting.config, list(setting.config.seeds[: setting.config.grid_seeds])
    program = functools.cache(functools.partial(grid.cell_program, setting, chunk))
    examples = len(splits[1].labels)
    cells = len(grid.KEPT) * len(grid.PRUNED) * len(seeds)

    def step(name: str, networks: int, steps: int, evaluations: int, compute, describe) -> Step:
        cost = multiplications(setting.shapes, steps, config.batch_size, evaluations * examples)
        return Step(name, networks, networks * steps, networks * cost, compute, describe)

    dense = step(
        "grid_dense", len(seeds), config.grid_dense_steps, 1,
        lambda done, wait: grid.train_dense(setting, seeds, splits, wait, chunk),
        lambda found: percent(found["grid_dense_accuracy"]),
    )  # fmt: skip

    def play_criterion(name: str, done: Done, wait: Wait) -> xr.Dataset:
        return grid.play_criterion(name, setting, done["grid_dense"], splits, program(wait))

    def describe(found: xr.Dataset) -> str:
        cell = found.isel(criterion=0, kept_weights=0, pruned_weights=0)  # initial weights, the others 0
        best = float(cell["grid_untrained_accuracy"].mean("grid_seed").max()) * 100
        return f"untrained {best:.1f}, trained {percent(cell['grid_trained_accuracy'])}"

    return [dense] + [
        step(
            grid_step(name), cells, config.grid_steps, len(config.grid_levels) + 1,
            functools.partial(play_criterion, name), describe,
        )
        for name in config.grid_criteria
    ]  # fmt: skip


def learned_steps(setting: grid.Setting, splits: tuple[Split, Split], chunk: int | None) -> list[Step]:
    """All learned masks in one step."""
    config, seeds = setting.config, list(setting.config.seeds[: setting.config.learned_seeds])
    networks, steps = 2 * len(learned.WEIGHTS) * len(seeds), config.learned_steps
    evaluated = (config.learned_draws + learned.EVALUATIONS) * len(splits[1].labels)
    cost = multiplications(setting.shapes, steps, config.learned_batch_size, evaluated)
    drawing = 2 * cost  # chance costs more than the network does
    return [
        Step(
            "learned", networks, networks * steps, networks * (cost + drawing),
            lambda done, wait: learned.learn_masks(setting, seeds, splits, wait, chunk),
            lambda found: percent(found["learned_accuracy"].mean("draw").isel(weights=0, rescaling=0)),
        )
    ]  # fmt: skip


EXPERIMENT = cli.Experiment(
    name="supermask",
    summary="E6: networks that work untrained, and how small a network must be (document 004)",
    config=Config,
    presets=presets,
    check=check,
    train=train,
    claims=verdicts,
    figures=draw_figures,
    table=make_table,
    notes=notes,
)
