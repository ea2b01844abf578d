"""E5, third part: what becomes of the variances while a LeNet-300-100 trains (document 003's disclaimers)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from lth_jax import data, initializers, models, orders, training
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.tasks import to_float
from lth_jax.tickets import masks
from lth_jax.types import Params, Split

HIDDEN = (300, 100)
LAYERS = ("hidden_0", "hidden_1", "output")
PROBE = 1000
"""Test images over which variances and dead units are counted."""


class Seen(NamedTuple):
    """One network at one moment, an entry a layer; hidden layers only for ``inactive`` and ``dead``.

    Variances are over probe images and units: of the pre-activations, and of the gradients of one image's
    cross-entropy with respect to them. ``inactive`` is the fraction of (image, unit) pairs whose ReLU gives
    0, ``dead`` that of units that give 0 for every image; ``weight_change`` is ‖θ − θ0‖ / ‖θ0‖.
    """

    activation_variance: jax.Array
    gradient_variance: jax.Array
    weight_change: jax.Array
    inactive: jax.Array
    dead: jax.Array
    test_accuracy: jax.Array


def pre_activations(params: Params, images: jax.Array, shifts: Sequence[jax.Array]) -> list[jax.Array]:
    """Pre-activations ``[image, unit]`` of every layer, each with its shift added: gradients flow there."""
    x, found = images.reshape(images.shape[0], -1), []
    for name, shift in zip(LAYERS, shifts, strict=True):
        found.append(x @ params[name]["kernel"] + params[name]["bias"][None, :] + shift)
        x = jax.nn.relu(found[-1])
    return found


def gradients(params: Params, batch: Split) -> tuple[list[jax.Array], list[jax.Array]]:
    """Pre-activations of every layer, and the gradients of each image's own cross-entropy there."""
    images = to_float(batch.images)

    def loss(shifts: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        found = pre_activations(params, images, shifts)
        losses = optax.softmax_cross_entropy_with_integer_labels(found[-1], batch.labels)
        return jnp.sum(losses), found

    nothing = [jnp.zeros((len(batch.labels), params[name]["bias"].shape[0])) for name in LAYERS]
    slopes, found = jax.grad(loss, has_aux=True)(nothing)
    return found, slopes


def look(params: Params, start: Params, probe: Split) -> Seen:
    """Measure one network against the weights it started from."""
    found, slopes = gradients(params, probe)
    off = [pre <= 0 for pre in found[:-1]]
    change = [
        jnp.linalg.norm(params[name]["kernel"] - start[name]["kernel"])
        / jnp.linalg.norm(start[name]["kernel"])
        for name in LAYERS
    ]
    return Seen(
        jnp.stack([jnp.var(pre) for pre in found]),
        jnp.stack([jnp.var(slope) for slope in slopes]),
        jnp.stack(change),
        jnp.stack([jnp.mean(o) for o in off]),
        jnp.stack([jnp.mean(jnp.all(o, axis=0)) for o in off]),
        jnp.mean(jnp.argmax(found[-1], -1) == probe.labels),
    )


def measure(config: Any, chunk: int | None, dataset: data.Dataset) -> xr.Dataset:
    """Train every scheme × seed; dims (training_scheme, training_seed, epoch, network_layer)."""
    network = models.from_flax(models.MLP(HIDDEN, dataset.classes))
    shapes = models.parameter_shapes(network, dataset.train_images.shape[1:])
    epoch = len(dataset.train_labels) // config.batch_size
    adam, steps = optax.adam(config.learning_rate), config.epochs * epoch
    recipe = training.Recipe(network, adam, config.batch_size, steps, epoch, orders.restarted)
    schemes, seeds = config.training_schemes, config.seeds[: config.training_seeds]
    pairs = [(scheme, seed) for scheme in schemes for seed in seeds]
    params = axis.stack(
        [
            initializers.initialize(stream(seed, "init"), shapes, initializers.get(scheme))
            for scheme, seed in pairs
        ]
    )

    def one(run: tuple[jax.Array, Params], train_split: Split, probe: Split) -> Seen:
        seed, start = run
        mask = masks.ones_like(start)
        state = training.init_state(recipe, start, {}, mask)
        observe = {"seen": lambda state: look(state.params, start, probe)}
        _, curves = training.train(
            stream(seed, "order"), state, mask, train_split, recipe, observe, observe_start=True
        )
        return curves.observed["seen"]

    train_split, test_split = training.splits(dataset)
    probe = jax.tree.map(lambda leaf: leaf[:PROBE], test_split)
    numbers = jnp.asarray([seed for _, seed in pairs], jnp.int32)
    seen = jax.tree.map(np.asarray, axis.map_runs(one, chunk=chunk)((numbers, params), train_split, probe))
    return labelled(seen, schemes, seeds, config.epochs)


def labelled(seen: Seen, schemes: Sequence[str], seeds: Sequence[int], epochs: int) -> xr.Dataset:
    """Records ``[run, epoch, layer]`` with their labels; hidden layers' fractions are NaN for the output."""
    values = seen._asdict()
    for name in ("inactive", "dead"):
        values[name] = np.concatenate([values[name], np.full_like(values[name][..., :1], np.nan)], axis=-1)
    runs = {"training_scheme": schemes, "training_seed": seeds}
    return results.label(values, runs, {"epoch": range(epochs + 1)}, {"network_layer": LAYERS})
