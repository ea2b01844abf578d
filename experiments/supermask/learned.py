"""E6, learned masks (Zhou et al. 2019, §5): frozen weights, one logit each, with and without rescaling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from experiments.supermask import grid
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.runs.job import Job
from lth_jax.tickets import masks, rewinding, supermasks
from lth_jax.training import Recipe, TrainState, evaluation, train
from lth_jax.types import Metrics, Split

WEIGHTS = ("initial", "signed_constant")
"""What the frozen weights are: as drawn, or ± the standard deviation of their layer's distribution."""
LEARN = 5
"""Order of the examples, beside the recipe's and the grid's."""
OPTIMIZERS = {"adam": optax.adam, "sgd": lambda rate: optax.sgd(rate, momentum=0.9)}
EVALUATIONS = 10


class MaskRun(NamedTuple):
    """One mask to be learned."""

    seed: Int[Array, "*runs"]
    constant: Bool[Array, "*runs"]
    rescale: Bool[Array, "*runs"]


class Learned(NamedTuple):
    """What is recorded of it: metrics of drawn masks, the most likely mask's curve, expected sizes."""

    drawn: Metrics
    likely: Metrics
    kept: Float[Array, "*runs"]


def evaluation_interval(steps: int) -> int:
    """The shortest interval that divides ``steps`` into at most ``EVALUATIONS`` parts."""
    return next(n for n in range(1, steps + 1) if steps % n == 0 and steps // n <= EVALUATIONS)


def learn(run: MaskRun, data: Split, validation: Split, setting: grid.Setting) -> Learned:
    """Learn one mask."""
    config, of = setting.config, setting.prunable
    drawn = grid.initial_weights(run.seed, setting)
    constant = rewinding.signed_constant(drawn, setting.spread, of)
    weights = jax.tree.map(lambda a, b: jnp.where(run.constant, a, b), constant, drawn)
    learner = supermasks.SupermaskConfig(setting.network, of, run.rescale)
    optimizer = OPTIMIZERS[config.learned_optimizer](config.learned_rate)
    steps = config.learned_steps
    network = supermasks.network(learner)
    recipe = Recipe(network, optimizer, config.learned_batch_size, steps, evaluation_interval(steps))
    logits = supermasks.start_logits(weights)
    start = TrainState(logits, {"weights": weights, "model": {}}, optimizer.init(logits))
    order, mask_key = stream(run.seed, "order", LEARN), stream(run.seed, "mask")
    observe = {"validation": evaluation(validation, recipe)}
    state, curves = train(order, start, masks.ones_like(logits), data, recipe, observe, model_key=mask_key)
    metrics = supermasks.evaluate_draws(
        stream(run.seed, "sample"), state.params, state.collections, validation, learner,
        config.learned_draws,
    )  # fmt: skip
    return Learned(metrics, curves.observed["validation"], supermasks.expected_kept(state.params, of))


def learn_masks(setting: grid.Setting, seeds: list[int], splits: tuple[Split, Split], job: Job) -> xr.Dataset:
    """Every seed with both kinds of weights, with and without rescaling, in one compiled call."""
    runs = {"weights": list(WEIGHTS), "rescaling": [False, True], "learned_seed": seeds}
    constant, rescale, at = (index.ravel() for index in np.indices([len(labels) for labels in runs.values()]))
    starts = MaskRun(
        jnp.asarray(np.asarray(seeds)[at]), jnp.asarray(constant == 1), jnp.asarray(rescale == 1)
    )
    mapped = axis.map_runs(lambda run, data, held: learn(run, data, held, setting), chunk=job.chunk)
    found = jax.tree.map(np.asarray, mapped(starts, *axis.replicate(splits)))
    drawn = {"learned_kept": found.kept, **{f"learned_{name}": each for name, each in found.drawn.items()}}
    likely = {f"likely_{name}": curve for name, curve in found.likely.items()}
    steps, every = setting.config.learned_steps, evaluation_interval(setting.config.learned_steps)
    curves = results.label(likely, runs, {"learning_iteration": np.arange(every, steps + 1, every)})
    return results.label(drawn, runs, {"draw": None}).merge(curves)
