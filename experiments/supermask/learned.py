"""E6, learned masks (Zhou et al. 2019, §5): frozen weights, one logit each, with and without rescaling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from experiments.supermask import grid
from experiments.supermask.steps import Wait
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.tickets import masks, rewinding, supermasks
from lth_jax.training import Recipe, TrainState, train
from lth_jax.types import Metrics, Split

WEIGHTS = ("initial", "signed_constant")
"""What the frozen weights are: as drawn, or ± the standard deviation of their layer's distribution."""
LEARN = 5
"""Order of the examples, beside the recipe's and the grid's."""
OPTIMIZERS = {"adam": optax.adam, "sgd": lambda rate: optax.sgd(rate, momentum=0.9)}
EVALUATIONS = 10


class Pupil(NamedTuple):
    """One mask to be learned."""

    seed: Int[Array, ""]
    constant: Bool[Array, ""]
    rescale: Bool[Array, ""]


class Learned(NamedTuple):
    """What is recorded of it: metrics of drawn masks, the most likely mask's curve, expected sizes."""

    drawn: Metrics
    likely: Metrics
    kept: Float[Array, ""]


def evaluation_interval(steps: int) -> int:
    """The shortest interval that divides ``steps`` into at most ``EVALUATIONS`` parts."""
    return next(n for n in range(1, steps + 1) if steps % n == 0 and steps // n <= EVALUATIONS)


def learn(pupil: Pupil, data: Split, validation: Split, setting: grid.Setting) -> Learned:
    """Learn one mask."""
    config, of = setting.config, setting.prunable
    drawn = grid.initial_weights(pupil.seed, setting)
    constant = rewinding.signed_constant(drawn, setting.spread, of)
    weights = jax.tree.map(lambda a, b: jnp.where(pupil.constant, a, b), constant, drawn)
    learner = supermasks.Learner(setting.network, of, pupil.rescale)
    optimizer = OPTIMIZERS[config.learned_optimizer](config.learned_rate)
    steps = config.learned_steps
    network = supermasks.network(learner)
    recipe = Recipe(network, optimizer, config.learned_batch_size, steps, evaluation_interval(steps))
    logits = supermasks.start_logits(weights)
    start = TrainState(logits, {"weights": weights, "model": {}}, optimizer.init(logits))
    order, chance = stream(pupil.seed, "order", LEARN), stream(pupil.seed, "mask")
    watch = {"validation": validation}
    state, curves = train(order, start, masks.ones_like(logits), data, recipe, watch, chance)
    metrics = supermasks.evaluate_draws(
        stream(pupil.seed, "sample"), state.params, state.collections, validation, learner,
        config.learned_draws,
    )  # fmt: skip
    return Learned(metrics, curves.watched["validation"], supermasks.expected_kept(state.params, of))


def learn_masks(
    setting: grid.Setting, seeds: list[int], splits: tuple[Split, Split], wait: Wait,
    chunk: int | None,
) -> xr.Dataset:  # fmt: skip
    """Every seed with both kinds of weights, with and without rescaling, in one compiled call."""
    shape = (len(WEIGHTS), 2, len(seeds))
    constant, rescale, at = (index.ravel() for index in np.indices(shape))
    pupils = Pupil(jnp.asarray(np.asarray(seeds)[at]), jnp.asarray(constant == 1), jnp.asarray(rescale == 1))
    mapped = axis.map_runs(lambda *inputs: learn(*inputs, setting), chunk=chunk, wait=wait)
    found = jax.tree.map(np.asarray, mapped(pupils, *axis.replicate(splits)))
    dims, steps = ("weights", "rescaling", "learned_seed"), setting.config.learned_steps
    values: dict[str, Any] = {"learned_kept": (dims, found.kept.reshape(shape))}
    for metric in Metrics._fields:
        draws, curve = getattr(found.drawn, metric), getattr(found.likely, metric)
        values[f"learned_{metric}"] = ((*dims, "draw"), draws.reshape(*shape, -1))
        values[f"likely_{metric}"] = ((*dims, "learning_iteration"), curve.reshape(*shape, -1))
    interval = evaluation_interval(steps)
    coordinates = {
        "weights": list(WEIGHTS),
        "rescaling": [False, True],
        "learned_seed": seeds,
        "learning_iteration": np.arange(interval, steps + 1, interval),
    }
    return results.by_label(values, coordinates, {})
