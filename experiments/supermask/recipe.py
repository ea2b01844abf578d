"""E6, document 004: the recipe's steps, each for one run, and each as one batched call.

1 overtrain · 2 retrain to the iteration of minimum validation loss · 3 threshold masks, untrained · 4 the
best threshold · 5 the ticket · 6 ten architectures. A smaller network is a mask of a larger: :func:`embed`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from experiments.supermask.config import Config
from lth_jax import initializers, models
from lth_jax.keys import stream
from lth_jax.levels import Start, Ticket, train_network
from lth_jax.models import Network
from lth_jax.orders import in_sequence, shuffled
from lth_jax.runs import axis, results
from lth_jax.runs.job import Job
from lth_jax.tickets import masks
from lth_jax.tickets.scores import large_final_same_sign
from lth_jax.training import Recipe, TrainState, evaluate
from lth_jax.types import Mask, Metrics, Params, Shapes, Split, Stacked

OVERTRAIN, RETRAIN, FINAL = 0, 1, 2
"""Orders of the examples: a seed's ticket and ten architectures see one, the trainings before it others."""


class Setting(NamedTuple):
    """What all runs of the recipe share."""

    config: Config
    network: Network
    shapes: Shapes
    prunable: PyTree[bool]
    classes: int


def make_setting(config: Config, image_shape: tuple[int, ...], classes: int) -> Setting:
    """The baseline network, and which of its parameters a threshold judges."""
    network = models.from_flax(models.MLP(config.hidden, classes=classes))
    shapes = models.parameter_shapes(network, image_shape)
    of = masks.prunable(shapes, masks.everything if config.prune_biases else masks.is_kernel)
    return Setting(config, network, shapes, of, classes)


def initial_weights(seed: int | Int[Array, ""], setting: Setting) -> Params:
    """θ0 of the baseline: kernels and biases from one distribution, biases with their kernel's fans."""
    scheme = initializers.get(setting.config.initialization)
    return initializers.initialize(stream(seed, "init"), setting.shapes, scheme, scheme)


def embed(small: Stacked, shapes: Shapes) -> tuple[Params, Mask]:
    """A smaller network inside a larger one: its parameters, zeros beside them, and the mask that keeps it.

    Absent units have no weights in, no bias and no weights out: they are 0, give nothing and get no gradient.

    Args:
      small: parameters whose every dimension is at most that of the larger network's.
      shapes: the larger network's parameter tree.
    """

    def pad(leaf: Array, large: Any) -> Array:
        return jnp.pad(leaf, [(0, to - has) for has, to in zip(leaf.shape, large.shape, strict=True)])

    present = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), small)
    return jax.tree.map(pad, small, shapes), jax.tree.map(pad, present, shapes)


def architecture(seed: int | Int[Array, ""], index: int, setting: Setting) -> tuple[Params, Mask]:
    """A fresh draw of the ``index``-th architecture, at its own size and with its own fans, embedded."""
    config = setting.config
    module = models.MLP(config.architectures()[index], classes=setting.classes)
    inputs = setting.shapes["hidden_0"]["kernel"].shape[0]
    shapes = models.parameter_shapes(models.from_flax(module), (inputs, 1, 1))
    scheme = initializers.get(config.initialization)
    small = initializers.initialize(stream(seed, "init", 1 + index), shapes, scheme, scheme)
    return embed(small, setting.shapes)


def threshold_mask(initial: Params, trained: Params, t: Float[Array, ""] | float, of: PyTree[bool]) -> Mask:
    """Keep where sign(w_initial) · w_trained ≥ t (document 004, §2.3); leaves not in ``of`` whole."""

    def keep(start: Array, end: Array, judged: bool) -> Bool[Array, "..."]:
        return large_final_same_sign(start, end) >= t if judged else jnp.ones(start.shape, bool)

    return jax.tree.map(keep, initial, trained, of)


def train_many(
    starts: Start,
    splits: tuple[Split, Split],
    setting: Setting,
    steps: int,
    job: Job,
    keep_weights: bool = False,
) -> tuple[Params, Metrics]:
    """Train stacked networks in one compiled call.

    Returns:
      The weights at the end, ``{}`` unless they are kept, and the validation metrics before the first step
      and after every ``--eval-every``: ``[network, 1 + evaluations]``.
    """
    config, adam = setting.config, optax.adam(setting.config.learning_rate)
    order = shuffled if config.shuffle else in_sequence
    recipe = Recipe(setting.network, adam, config.batch_size, steps, config.eval_every, order)

    def one(start: Start, data: Split, validation: Split) -> tuple[Params, Metrics]:
        outcome = train_network(start, data, {"validation": validation}, recipe, observe_start=True)
        weights = outcome.trained.params if keep_weights else {}
        return weights, outcome.curves.observed["validation"]

    return jax.tree.map(np.asarray, axis.map_runs(one, chunk=job.chunk)(starts, *axis.replicate(splits)))


def baseline_starts(setting: Setting, stop: Any, order: int) -> Start:
    """Every seed's baseline, dense, to be trained for ``stop`` iterations (one number or one a seed)."""
    seeds = jnp.asarray(setting.config.seeds)
    params = jax.jit(jax.vmap(lambda seed: initial_weights(seed, setting)))(seeds)
    return stacked_starts(seeds, params, masks.ones_like(params), stop, order)


def stacked_starts(seeds: Array, params: Params, mask: Mask, stop: Any, order: int) -> Start:
    """Stacked networks about to be trained, in the order of the examples that ``order`` names."""
    every = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.int32), seeds.shape)  # noqa: E731
    return Start(seeds, every(order), Ticket(params, mask, {}), {}, every(stop))


def best_iteration(loss: ArrayLike, every: int) -> np.ndarray:
    """The iteration of the lowest loss, along the last axis; a loss that is not finite is never it."""
    return (np.argmin(np.where(np.isfinite(loss), loss, np.inf), axis=-1) + 1) * every


def overtrain(setting: Setting, splits: tuple[Split, Split], job: Job) -> xr.Dataset:
    """Step 1: train too long, and note the iteration of minimum validation loss."""
    config, steps = setting.config, setting.config.overtraining_steps
    _, curve = train_many(baseline_starts(setting, steps, OVERTRAIN), splits, setting, steps, job)
    before = {f"initial_{name}": values[:, 0] for name, values in curve.items()}
    long = {f"overtraining_{name}": values[:, 1:] for name, values in curve.items()}
    stop = {"stop_iteration": best_iteration(curve["loss"][:, 1:], config.eval_every)}
    seed, at = {"seed": config.seeds}, {"long_iteration": iterations(steps, config)}
    return results.label({**before, **long, **stop}, seed, at)


def iterations(steps: int, config: Config) -> np.ndarray:
    """Iterations after which there was an evaluation."""
    return np.arange(config.eval_every, steps + 1, config.eval_every)


def retrain(setting: Setting, before: xr.Dataset, splits: tuple[Split, Split], job: Job) -> xr.Dataset:
    """Step 2: from θ0 again, each seed for its own number of iterations, in one compiled call."""
    config, stop = setting.config, before["stop_iteration"].values
    steps = int(stop.max())
    starts = baseline_starts(setting, stop, RETRAIN)
    params, curve = train_many(starts, splits, setting, steps, job, keep_weights=True)
    at = iterations(config.overtraining_steps, config)
    ran = iterations(steps, config)[None] <= stop[:, None]
    values: dict[str, Any] = {}
    for name, curves in curve.items():
        whole = np.full((len(stop), len(at)), np.nan, np.float32)
        whole[:, : ran.shape[1]] = np.where(ran, curves[:, 1:], np.nan)
        values[f"retraining_{name}"] = whole
        values[f"trained_{name}"] = curves[:, -1]  # a stopped curve stays at its last value
    seed = {"seed": config.seeds}
    return results.label(values, seed, {"long_iteration": at}).merge(named_weights(params, seed))


def named_weights(params: Params, seed: results.Axis) -> xr.Dataset:
    """A tree ``{layer: {kind: array[seed, ...]}}`` as variables of a dataset."""
    leaves = {f"{layer}_{kind}": leaf for layer, each in params.items() for kind, leaf in each.items()}
    axes = lambda name, leaf: [{f"{name}_{n}": None} for n in range(leaf.ndim - 1)]  # noqa: E731
    parts = [results.label({f"weights_{n}": leaf}, seed, *axes(n, leaf)) for n, leaf in leaves.items()]
    return xr.merge(parts)


def weights_of(saved: xr.Dataset, shapes: Shapes) -> Params:
    """The tree that :func:`named_weights` has taken apart."""
    return {
        layer: {kind: jnp.asarray(saved[f"weights_{layer}_{kind}"].values) for kind in leaves}
        for layer, leaves in shapes.items()
    }


def judge_thresholds(setting: Setting, trained: Params, validation: Split, job: Job) -> xr.Dataset:
    """Steps 3 and 4: every threshold's mask on the untrained weights, and the best one of each seed."""
    config, levels = setting.config, jnp.asarray(setting.config.thresholds)

    def one(run: tuple[Array, Params], validation: Split) -> Metrics:
        seed, end = run
        start = initial_weights(seed, setting)

        def at(t: Float[Array, ""]) -> Metrics:
            mask = threshold_mask(start, end, t, setting.prunable)
            found = evaluate(TrainState(masks.apply(mask, start), {}, ()), validation, setting.network)
            return {"size": masks.kept_fraction(mask, setting.prunable), **found}

        return jax.vmap(at)(levels)

    mapped, seeds = axis.map_runs(one, chunk=job.chunk), jnp.asarray(config.seeds)
    found = jax.tree.map(np.asarray, mapped((seeds, trained), axis.replicate(validation)))
    best = np.argmax(np.where(np.isfinite(found["accuracy"]), found["accuracy"], -1), axis=1)
    values = {f"masked_{name}": array for name, array in found.items()}
    values["best_threshold"] = np.asarray(config.thresholds)[best]
    return results.label(values, {"seed": config.seeds}, {"threshold": config.thresholds})


def labelled_curves(names: list[str], sizes: Any, curve: Metrics, setting: Setting) -> xr.Dataset:
    """Validation curves ``[network, seed, iteration]`` of step 5 or 6, and relative sizes."""
    config = setting.config
    values = {f"validation_{name}": curves[:, 1:] for name, curves in curve.items()}
    runs, at = {"network": names, "seed": config.seeds}, {"iteration": iterations(config.steps, config)}
    return results.label({**values, "relative_size": sizes}, runs, at)


def train_tickets(
    setting: Setting, best: xr.Dataset, trained: Params, splits: tuple[Split, Split], job: Job
) -> xr.Dataset:
    """Step 5: each seed's ticket, the zeros of its best threshold frozen."""
    steps, of = setting.config.steps, setting.prunable
    dense = baseline_starts(setting, steps, FINAL)
    thresholds = jnp.asarray(best["best_threshold"].values, jnp.float32)
    mask = jax.jit(jax.vmap(lambda start, end, t: threshold_mask(start, end, t, of)))(
        dense.ticket.params, trained, thresholds
    )
    sizes = jax.vmap(lambda m: masks.kept_fraction(m, of))(mask)
    starts = dense._replace(ticket=dense.ticket._replace(mask=mask))
    _, curve = train_many(starts, splits, setting, steps, job)
    return labelled_curves(["ticket"], sizes, curve, setting)


def train_architectures(setting: Setting, splits: tuple[Split, Split], job: Job) -> xr.Dataset:
    """Step 6: the ten architectures from fresh draws, all of them and all seeds on one run axis."""
    config = setting.config
    seeds, pairs = jnp.asarray(config.seeds), config.architectures()
    make = lambda index: jax.vmap(lambda seed: architecture(seed, index, setting))(seeds)  # noqa: E731
    drawn = jax.jit(lambda: axis.stack([make(index) for index in range(len(pairs))]))()
    params, mask = axis.flatten(drawn)
    sizes = jax.vmap(lambda m: masks.kept_fraction(m, setting.prunable))(mask)
    starts = stacked_starts(jnp.tile(seeds, len(pairs)), params, mask, config.steps, FINAL)
    _, curve = train_many(starts, splits, setting, config.steps, job)
    return labelled_curves([f"({a}, {b})" for a, b in pairs], sizes, curve, setting)


def recipe_results(done: Mapping[str, xr.Dataset]) -> list[xr.Dataset]:
    """What the report needs of the recipe's steps: everything but the weights."""
    names = ("overtrain", "retrain", "thresholds")
    parts = [done[name] for name in names]
    parts[1] = parts[1][[n for n in parts[1].data_vars if not str(n).startswith("weights_")]]
    return [*parts, xr.concat([done["tickets"], done["architectures"]], "network")]
