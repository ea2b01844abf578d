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
from jaxtyping import Array, Bool, Float, Int, PyTree

from experiments.supermask.config import Config
from experiments.supermask.steps import Wait
from lth_jax import initializers, models
from lth_jax.keys import stream
from lth_jax.models import Network
from lth_jax.runs import axis, results
from lth_jax.tickets import masks
from lth_jax.tickets.scores import large_final_same_sign
from lth_jax.training import Recipe, TrainState, evaluate, init_state, train
from lth_jax.types import Mask, Metrics, Params, Shapes, Split

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


def embed(small: Params, shapes: Shapes) -> tuple[Params, Mask]:
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


class Start(NamedTuple):
    """One network about to be trained."""

    seed: Int[Array, ""]
    params: Params
    mask: Mask
    stop: Int[Array, ""]  # iterations; later ones are left out


def train_start(
    start: Start, data: Split, validation: Split, setting: Setting, steps: int, order: int
) -> tuple[TrainState, Metrics, Metrics]:
    """Train one network; its last state, its metrics before training, and its validation curve."""
    config, adam = setting.config, optax.adam(setting.config.learning_rate)
    recipe = Recipe(setting.network, adam, config.batch_size, steps, config.eval_every, config.shuffle)
    state = init_state(recipe, start.params, {}, start.mask)
    before = evaluate(state, validation, setting.network)
    key, noise = stream(start.seed, "order", order), stream(start.seed, "model", order)
    watch = {"validation": validation}
    state, curves = train(key, state, start.mask, data, recipe, watch, noise, start.stop)
    return state, before, curves.watched["validation"]


def train_many(
    starts: Start, splits: tuple[Split, Split], setting: Setting, steps: int, order: int,
    wait: Wait, chunk: int | None, keep_weights: bool = False,
) -> tuple[Params, Metrics, Metrics]:  # fmt: skip
    """:func:`train_start` over a leading axis of starts, in one compiled call."""

    def one(start: Start, data: Split, validation: Split) -> tuple[Any, Metrics, Metrics]:
        state, before, curve = train_start(start, data, validation, setting, steps, order)
        return (state.params if keep_weights else {}), before, curve

    mapped = axis.map_runs(one, chunk=chunk, wait=wait)
    return jax.tree.map(np.asarray, mapped(starts, *axis.replicate(splits)))


def baseline_starts(setting: Setting, stop: Any) -> Start:
    """Every seed's baseline, dense, to be trained for ``stop`` iterations (one number or one a seed)."""
    seeds = jnp.asarray(setting.config.seeds)
    params = jax.jit(jax.vmap(lambda seed: initial_weights(seed, setting)))(seeds)
    stops = jnp.broadcast_to(jnp.asarray(stop, jnp.int32), seeds.shape)
    return Start(seeds, params, masks.ones_like(params), stops)


def best_iteration(loss: np.ndarray, every: int) -> np.ndarray:
    """The iteration of the lowest loss, along the last axis; a loss that is not finite is never it."""
    return (np.argmin(np.where(np.isfinite(loss), loss, np.inf), axis=-1) + 1) * every


def overtrain(setting: Setting, splits: tuple[Split, Split], wait: Wait, chunk: int | None) -> xr.Dataset:
    """Step 1: train too long, and note the iteration of minimum validation loss."""
    config, steps = setting.config, setting.config.overtraining_steps
    starts = baseline_starts(setting, steps)
    _, before, curve = train_many(starts, splits, setting, steps, OVERTRAIN, wait, chunk)
    return results.by_label(
        {
            "initial_accuracy": (("seed",), before.accuracy),
            "initial_loss": (("seed",), before.loss),
            "overtraining_loss": (("seed", "long_iteration"), curve.loss),
            "overtraining_accuracy": (("seed", "long_iteration"), curve.accuracy),
            "stop_iteration": (("seed",), best_iteration(curve.loss, config.eval_every)),
        },
        {"seed": list(config.seeds), "long_iteration": iterations(steps, config)},
        {},
    )


def iterations(steps: int, config: Config) -> np.ndarray:
    """Iterations after which there was an evaluation."""
    return np.arange(config.eval_every, steps + 1, config.eval_every)


def retrain(
    setting: Setting, before: xr.Dataset, splits: tuple[Split, Split], wait: Wait, chunk: int | None
) -> xr.Dataset:
    """Step 2: from θ0 again, each seed for its own number of iterations, in one compiled call."""
    config, stop = setting.config, before["stop_iteration"].values
    steps = int(stop.max())
    starts = baseline_starts(setting, stop)
    params, _, curve = train_many(starts, splits, setting, steps, RETRAIN, wait, chunk, keep_weights=True)
    at = iterations(config.overtraining_steps, config)
    ran = iterations(steps, config)[None] <= stop[:, None]
    values: dict[str, Any] = {}
    for name, curves in curve._asdict().items():
        whole = np.full((len(stop), len(at)), np.nan, np.float32)
        whole[:, : ran.shape[1]] = np.where(ran, curves, np.nan)
        values[f"retraining_{name}"] = (("seed", "long_iteration"), whole)
        values[f"trained_{name}"] = (("seed",), curves[:, -1])  # a stopped curve stays at its last value
    values |= named_weights(params)
    return results.by_label(values, {"seed": list(config.seeds), "long_iteration": at}, {})


def named_weights(params: Params) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """A tree ``{layer: {kind: array[seed, ...]}}`` as variables of a dataset."""
    return {
        f"weights_{layer}_{kind}": (
            ("seed", *(f"{layer}_{kind}_{axis}" for axis in range(leaf.ndim - 1))),
            np.asarray(leaf),
        )
        for layer, leaves in params.items()
        for kind, leaf in leaves.items()
    }


def weights_of(saved: xr.Dataset, shapes: Shapes) -> Params:
    """The tree that :func:`named_weights` has taken apart."""
    return {
        layer: {kind: jnp.asarray(saved[f"weights_{layer}_{kind}"].values) for kind in leaves}
        for layer, leaves in shapes.items()
    }


def judge_thresholds(
    setting: Setting, trained: Params, validation: Split, wait: Wait, chunk: int | None
) -> xr.Dataset:
    """Steps 3 and 4: every threshold's mask on the untrained weights, and the best one of each seed."""
    config, levels = setting.config, jnp.asarray(setting.config.thresholds)

    def one(run: tuple[Array, Params], validation: Split) -> tuple[Array, Metrics]:
        seed, end = run
        start = initial_weights(seed, setting)

        def at(t: Float[Array, ""]) -> tuple[Array, Metrics]:
            mask = threshold_mask(start, end, t, setting.prunable)
            state = TrainState(masks.apply(mask, start), {}, ())
            return masks.kept_fraction(mask, setting.prunable), evaluate(state, validation, setting.network)

        return jax.vmap(at)(levels)

    mapped = axis.map_runs(one, chunk=chunk, wait=wait)
    runs = (jnp.asarray(config.seeds), trained)
    kept, found = jax.tree.map(np.asarray, mapped(runs, axis.replicate(validation)))
    best = np.argmax(np.where(np.isfinite(found.accuracy), found.accuracy, -1), axis=1)
    return results.by_label(
        {
            "masked_size": (("seed", "threshold"), kept),
            "masked_accuracy": (("seed", "threshold"), found.accuracy),
            "masked_loss": (("seed", "threshold"), found.loss),
            "best_threshold": (("seed",), np.asarray(config.thresholds)[best]),
        },
        {"seed": list(config.seeds), "threshold": list(config.thresholds)},
        {},
    )


def labelled_curves(names: list[str], sizes: np.ndarray, curve: Metrics, setting: Setting) -> xr.Dataset:
    """Validation curves ``[network, seed, iteration]`` of step 5 or 6, and relative sizes."""
    config = setting.config
    shape = (len(names), len(config.seeds), -1)
    dims = ("network", "seed", "iteration")
    values = {f"validation_{n}": (dims, np.reshape(c, shape)) for n, c in curve._asdict().items()}
    return results.by_label(
        {**values, "relative_size": (dims[:2], np.reshape(sizes, shape[:2]))},
        {"network": names, "seed": list(config.seeds), "iteration": iterations(config.steps, config)},
        {},
    )


def train_tickets(
    setting: Setting, best: xr.Dataset, trained: Params, splits: tuple[Split, Split],
    wait: Wait, chunk: int | None,
) -> xr.Dataset:  # fmt: skip
    """Step 5: each seed's ticket, the zeros of its best threshold frozen."""
    dense = baseline_starts(setting, setting.config.steps)
    thresholds = jnp.asarray(best["best_threshold"].values, jnp.float32)
    of = setting.prunable
    mask = jax.jit(jax.vmap(lambda *run: threshold_mask(*run, of)))(dense.params, trained, thresholds)
    sizes = jax.vmap(lambda m: masks.kept_fraction(m, of))(mask)
    starts = dense._replace(mask=mask)
    _, _, curve = train_many(starts, splits, setting, setting.config.steps, FINAL, wait, chunk)
    return labelled_curves(["ticket"], np.asarray(sizes), curve, setting)


def train_architectures(
    setting: Setting, splits: tuple[Split, Split], wait: Wait, chunk: int | None
) -> xr.Dataset:
    """Step 6: the ten architectures from fresh draws, all of them and all seeds on one run axis."""
    config = setting.config
    seeds, pairs = jnp.asarray(config.seeds), config.architectures()
    make = lambda index: jax.vmap(lambda seed: architecture(seed, index, setting))(seeds)  # noqa: E731
    drawn = jax.jit(lambda: axis.stack([make(index) for index in range(len(pairs))]))()
    params, mask = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), drawn)
    sizes = jax.vmap(lambda m: masks.kept_fraction(m, setting.prunable))(mask)
    runs = len(pairs) * len(seeds)
    stops = jnp.full(runs, config.steps, jnp.int32)
    starts = Start(jnp.tile(seeds, len(pairs)), params, mask, stops)
    _, _, curve = train_many(starts, splits, setting, config.steps, FINAL, wait, chunk)
    return labelled_curves([f"({a}, {b})" for a, b in pairs], np.asarray(sizes), curve, setting)


def recipe_results(done: Mapping[str, xr.Dataset]) -> list[xr.Dataset]:
    """What the report needs of the recipe's steps: everything but the weights."""
    names = ("overtrain", "retrain", "thresholds")
    parts = [done[name] for name in names]
    parts[1] = parts[1][[n for n in parts[1].data_vars if not str(n).startswith("weights_")]]
    return [*parts, xr.concat([done["tickets"], done["architectures"]], "network")]
