"""E6, the criteria grid (Zhou et al. 2019): criterion × what kept weights become × what pruned ones become.

One dense network a seed is trained; every criterion judges it in one shot. A cell of the grid is one run: its
mask at every size on the untrained weights, evaluated; and at one size trained. A cell is three indices and a
seed, so all cells share one program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Int, PyTree

from experiments.supermask.config import Config
from experiments.supermask.recipe import named_weights, weights_of
from lth_jax import initializers, models
from lth_jax.keys import stream
from lth_jax.models import Network
from lth_jax.runs import axis, results
from lth_jax.runs.job import Job
from lth_jax.tickets import masks, pruning, rewinding, schedules, scores
from lth_jax.training import Recipe, TrainState, evaluate, init_state, train
from lth_jax.types import Mask, Metrics, Params, Shapes, Split

HIDDEN_RATE, OUTPUT_RATE = 0.2, 0.1
"""Fractions of a hidden layer and of the output layer that a level removes (Frankle & Carbin 2019)."""
DENSE, CELL = 3, 4
"""Orders of the examples, beside the recipe's 0, 1 and 2."""
PRUNED = ("zero", "frozen")
"""What pruned weights become: 0, or their initial values, never trained."""


class Setting(NamedTuple):
    """What all cells share."""

    config: Config
    network: Network
    shapes: Shapes
    prunable: PyTree[bool]
    scheme: initializers.Scheme
    spread: PyTree[float]  # standard deviation of each leaf's initial weights
    sizes: schedules.Sizes  # weights kept in each leaf: dense, then the grid's levels


def make_setting(config: Config, image_shape: tuple[int, ...], classes: int) -> Setting:
    """The grid's network, its initialization and its sizes."""
    network = models.from_flax(models.MLP(config.grid_hidden, classes=classes))
    shapes = models.parameter_shapes(network, image_shape)
    scheme = initializers.get(config.grid_initialization)

    def spread(leaf: Any) -> float:
        return initializers.weight_variance(scheme, *initializers.fans(leaf.shape)) ** 0.5

    of = masks.prunable(shapes)
    spreads = jax.tree.map(lambda leaf, yes: spread(leaf) if yes else 0.0, shapes, of)
    gone = [
        (removed(level, HIDDEN_RATE), removed(level, OUTPUT_RATE)) for level in config.grid_levels if level
    ]
    hidden, output = zip(*gone, strict=True) if gone else ((), ())
    sizes = schedules.one_shot(shapes, of, hidden, [{"output": each} for each in output])
    return Setting(config, network, shapes, of, scheme, spreads, sizes)


def kept_at(setting: Setting) -> PyTree:
    """Weights kept in each leaf at each of the grid's levels."""
    first = 0 if 0 in setting.config.grid_levels else 1
    return jax.tree.map(lambda counts: jnp.asarray(counts[first:]), setting.sizes.keep)


def removed(level: int, rate: float) -> float:
    """What pruning a fraction ``rate`` of the survivors ``level`` times over removes."""
    return 1 - (1 - rate) ** level


Treatment = Callable[[Array, Mask, Params, Setting], Params]
KEPT: dict[str, Treatment] = {
    "initial": lambda seed, mask, initial, setting: initial,
    "reinitialized": lambda seed, mask, initial, setting: initializers.initialize(
        stream(seed, "reinit"), setting.shapes, setting.scheme
    ),
    "reshuffled": lambda seed, mask, initial, setting: rewinding.shuffle(
        stream(seed, "shuffle"), mask, initial, setting.prunable
    ),
    "signed_constant": lambda seed, mask, initial, setting: rewinding.signed_constant(
        initial, setting.spread, setting.prunable
    ),
}
"""What kept weights become; biases stay at 0, where they start."""


class Cell(NamedTuple):
    """One cell of the grid for one seed, as positions."""

    seed: Int[Array, "*runs"]
    criterion: Int[Array, "*runs"]
    kept: Int[Array, "*runs"]
    pruned: Int[Array, "*runs"]


class Dense(NamedTuple):
    """Networks that the criteria judge; every leaf has a leading axis *seed*."""

    seeds: Int[Array, " seeds"]
    initial: Params
    trained: Params


def initial_weights(seed: int | Int[Array, ""], setting: Setting) -> Params:
    """θ0 of the grid's network: kernels from the scheme, biases 0."""
    return initializers.initialize(stream(seed, "init"), setting.shapes, setting.scheme)


def train_dense(setting: Setting, seeds: list[int], splits: tuple[Split, Split], job: Job) -> xr.Dataset:
    """The networks that the criteria judge."""
    config, network = setting.config, setting.network
    recipe = Recipe(network, optax.adam(config.learning_rate), config.batch_size, config.grid_dense_steps)

    def one(seed: Array, data: Split, validation: Split) -> tuple[Params, Metrics]:
        params = initial_weights(seed, setting)
        dense = masks.ones_like(params)
        start = init_state(recipe, params, {}, dense)
        state, _ = train(stream(seed, "order", DENSE), start, dense, data, recipe)
        return state.params, evaluate(state, validation, network)

    mapped = axis.map_runs(one, chunk=job.chunk)
    params, metrics = jax.tree.map(np.asarray, mapped(jnp.asarray(seeds), *axis.replicate(splits)))
    seed = {"seed": seeds}
    accuracy = results.label({"grid_dense_accuracy": metrics["accuracy"]}, seed)
    return accuracy.merge(named_weights(params, seed))


def start_cell(
    cell: Cell, seed: Array, initial: Params, score: Params, keep: PyTree, setting: Setting
) -> tuple[Params, Mask]:
    """The weights and the mask of a cell at one size, ``keep`` being what each leaf keeps."""
    mask = pruning.prune_layers(masks.ones_like(initial), score, keep, setting.prunable)
    treatments = [
        lambda seed, mask, initial, treat=treat: treat(seed, mask, initial, setting)
        for treat in KEPT.values()
    ]
    kept = jax.lax.switch(cell.kept, treatments, seed, mask, initial)
    zero, frozen = masks.apply(mask, kept), rewinding.frozen(mask, kept, initial)
    return jax.tree.map(lambda a, b: jnp.where(cell.pruned == 0, a, b), zero, frozen), mask


def run_cell(
    cell: Cell, dense: Dense, data: Split, validation: Split, setting: Setting
) -> tuple[Metrics, Metrics]:
    """Metrics of one cell: untrained at every size ``[level]``, and trained at one."""
    config, network = setting.config, setting.network
    initial, trained = jax.tree.map(lambda leaf: leaf[cell.seed], (dense.initial, dense.trained))
    seed = dense.seeds[cell.seed]
    rankings = [functools.partial(scores.by_trees, scores.CRITERIA[name]) for name in config.grid_criteria]
    score = jax.lax.switch(cell.criterion, rankings, initial, trained)
    keep = kept_at(setting)

    def untrained(counts: PyTree) -> Metrics:
        params, _ = start_cell(cell, seed, initial, score, counts, setting)
        return evaluate(TrainState(params, {}, ()), validation, network)

    at = config.grid_levels.index(config.grid_trained_level)
    chosen = jax.tree.map(lambda leaf: leaf[at], keep)
    params, mask = start_cell(cell, seed, initial, score, chosen, setting)
    adam = optax.adam(config.learning_rate)
    recipe = Recipe(network, adam, config.batch_size, config.grid_steps)
    # Not init_state, which would set frozen weights to 0.
    start = TrainState(params, {}, adam.init(params))
    state, _ = train(stream(seed, "order", CELL), start, mask, data, recipe)
    return jax.lax.map(untrained, keep), evaluate(state, validation, network)


CellProgram = Callable[..., tuple[Metrics, Metrics]]


def cell_program(setting: Setting, job: Job) -> CellProgram:
    """:func:`run_cell` over a leading axis of cells; compiled once for all criteria."""
    return axis.map_runs(
        lambda cell, dense, data, held: run_cell(cell, dense, data, held, setting), chunk=job.chunk
    )


def run_criterion(
    name: str, setting: Setting, trained: xr.Dataset, splits: tuple[Split, Split], program: CellProgram
) -> xr.Dataset:
    """All cells of one criterion in one call: dims ``(kept_weights, pruned_weights, grid_seed[, level])``."""
    seeds = jnp.asarray(trained["seed"].values)
    initial = jax.jit(jax.vmap(lambda seed: initial_weights(seed, setting)))(seeds)
    dense = Dense(seeds, initial, weights_of(trained, setting.shapes))
    cells = {"kept_weights": list(KEPT), "pruned_weights": list(PRUNED), "grid_seed": np.asarray(seeds)}
    shape = [len(labels) for labels in cells.values()]
    kept, pruned, seed = (jnp.asarray(index.ravel()) for index in np.indices(shape, dtype=np.int32))
    criterion = jnp.full(seed.shape, setting.config.grid_criteria.index(name), jnp.int32)
    shared = axis.replicate((dense, *splits))
    untrained, after = jax.tree.map(np.asarray, program(Cell(seed, criterion, kept, pruned), *shared))
    values = {f"grid_trained_{metric}": array for metric, array in after.items()}
    values |= {f"grid_untrained_{metric}": array for metric, array in untrained.items()}
    found = results.label(values, cells, {"level": setting.config.grid_levels})
    return found.expand_dims(criterion=[name])


def kept_fractions(setting: Setting) -> np.ndarray:
    """Fraction in [0, 1] of the prunable weights that each level keeps."""
    found = schedules.kept_fractions(setting.sizes, setting.shapes, setting.prunable)
    return found[0 if 0 in setting.config.grid_levels else 1 :]


def grid_results(setting: Setting, parts: list[xr.Dataset], trained: xr.Dataset) -> xr.Dataset:
    """All criteria together, with the sizes and the dense networks' accuracy."""
    whole = xr.concat(parts, "criterion", combine_attrs="drop")
    whole["grid_kept"] = (("level",), kept_fractions(setting))
    whole["grid_dense_accuracy"] = (("grid_seed",), trained["grid_dense_accuracy"].values)
    return whole
