"""Invented results of E4's parts: what is drawn and claimed of them is seen without training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.mnist_tickets import config as configuration
from experiments.mnist_tickets import parts
from lth_jax import initializers, levels
from lth_jax.types import Split

SHAPE = (28, 28, 1)
BLANK = Split(np.zeros((1, *SHAPE), np.uint8), np.zeros(1, np.int32))


def synthetic(config, curve):
    """A part's results with invented validation losses: ``curve(arm, seed, kept, iterations)``."""
    found = []
    iterations, seeds = np.arange(config.eval_every, config.iterations + 1, config.eval_every), config.seeds
    for group in configuration.groups(config):
        _, shapes = parts.shapes_of(group, SHAPE, 10)
        kernels = {n: leaf["kernel"] for n, leaf in parts.sizes_of(group, config, shapes).keep.items()}
        weights, dense = (sum(kernels.values()), sum(c[0] for c in kernels.values()))
        arms = [(label, *configuration.controls_of(config, group)) for label, _ in group.lines]
        table = np.array([
            [[curve(arm, seed, n / dense, iterations) for arm in line] for line in arms for seed in seeds]
            for n in weights
        ])  # fmt: skip
        size = np.broadcast_to(weights[:, None, None], table.shape[:3])
        networks = {
            "validation_loss": table, "test_accuracy": 1 - table / 10, "batch_loss": table,
            "kept": size / dense, "kept_weights": size,
        }  # fmt: skip
        inspected = {}
        if group.inspect:
            plan, _ = parts.make_plan(group, config, parts.Splits(BLANK, {}, 10))
            run = levels.begin(0, jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes), {}, plan)
            one = jax.jit(lambda run: parts.inspect(run, initializers.get("normal:1")))(run)
            shape = (len(weights), len(config.seeds))
            inspected = {n: np.broadcast_to(np.asarray(a), (*shape, *a.shape)) for n, a in one.items()}
        found.append(parts.labelled(group, config, networks, inspected))
    joined = parts.join(found)
    return joined.assign_attrs(variant=config.part, dataset="invented", config="{}")


def best_at(arm, seed, kept, iterations):
    """Least loss at half the time for small iterative tickets, a little noise by seed; never a tie."""
    soon = arm == "iterative" and kept < 0.5
    return ((iterations / iterations[-1] - (0.25 if soon else 0.5)) ** 2) + 0.001 * seed + 0.01 * (not soon)


def copies(barriers, accuracies):
    """E7's results of three initializations, two copies each: values by parent at 100, 21, 10.7 and 3.5 %."""
    kept, seeds, parents = [1.0, 0.21, 0.107, 0.0352], [1, 2, 3], ["ticket", "random_mask", "reinit"]
    networks = [*parents, *(f"{name}/2" for name in parents)]
    jitter = np.array([-0.01, 0.0, 0.01])[:, None] * (1 + 0.3 * np.arange(4))
    at = lambda table, name, sign: np.asarray(table[name])[None] / 100 + sign * jitter / 100  # noqa: E731
    barrier = np.stack([at(barriers, name, 1 + place) for place, name in enumerate(parents)], -1)
    each = [at(accuracies, name.split("/")[0], -1 - place % 3) for place, name in enumerate(networks)]
    accuracy = np.stack(each, -1)
    line = (1 - accuracy[..., :3])[..., None, None] + np.array([0, 0.01, 0])
    return xr.Dataset(
        {
            "test_accuracy_path": (("rewind", "seed", "level", "parent", "pair", "share"), 1 - line[None]),
            "test_error_barrier": (("rewind", "seed", "level", "parent", "pair"), barrier[None, ..., None]),
            "test_accuracy": (("rewind", "seed", "level", "network"), accuracy[None]),
            "kept": (("network", "rewind", "seed", "level"), np.broadcast_to(kept, (6, 1, 3, 4))),
        },
        {
            "rewind": [0],
            "seed": seeds,
            "parent": parents,
            "network": networks,
            "pair": ["1-2"],
            "share": [0, 0.5, 1],
        },
    )


def pruned(accuracies, seeds=(1, 2, 3)):
    """E8's results at 100, 20, 13.4 and 1.8 %: accuracies in % by pruner and network, but at 100 %."""
    kept, level = [1.0, 0.2, 0.134, 0.018], [0, 1, 2, 3]
    pruners = list(dict.fromkeys(pruner for pruner, _ in accuracies))
    networks = list(dict.fromkeys(network for _, network in accuracies))
    jitter = np.array([-0.01, 0.0, 0.012])[: len(seeds), None]
    values = np.full((len(pruners), len(networks), len(seeds), 4), np.nan)
    for place, ((pruner, network), each) in enumerate(accuracies.items()):
        own = (np.asarray(each)[None] + jitter * (1 + 0.07 * place)) / 100
        values[pruners.index(pruner), networks.index(network), :, 1:] = own
    dims = ("pruner", "network", "seed", "level")
    whole = np.broadcast_to(kept, values.shape)
    counts = np.broadcast_to(np.asarray(kept)[:, None] * [1000, 100], (*values.shape, 2))
    variables = {"test_accuracy": (dims, values), "kept": (dims, whole)}
    variables["kept_weights"] = ((*dims, "layer"), counts)
    variables["diverged"] = (dims, np.zeros(values.shape, bool))
    where = {"pruner": pruners, "network": networks, "seed": list(seeds), "level": level}
    return xr.Dataset(variables, where)


def convolutional(part, accuracies, stops=None, kept=(1, 0.51, 0.264, 0.151, 0.111, 0.09, 0.046, 0.019)):
    """E9's results of three trials: accuracies in % and early stops by recipe and network, at each size.

    A control that was not trained at a size has NaN there.
    """
    recipes = list(dict.fromkeys(recipe for recipe, _ in accuracies))
    networks = list(dict.fromkeys(network for _, network in accuracies))
    jitter, iteration = np.array([-0.01, 0.0, 0.013])[:, None], np.arange(500, 20_001, 500)
    values = np.full((len(recipes), len(networks), 3, len(kept)), np.nan)
    when = values.copy()
    for place, ((recipe, network), each) in enumerate(accuracies.items()):
        at, own = (recipes.index(recipe), networks.index(network)), jitter * (1 + 0.07 * place)
        values[at] = np.asarray(each)[None] + own * (1 + 0.3 * np.arange(len(kept)))
        if stops is not None:
            when[at] = np.asarray(stops[recipe, network])[None] * np.exp(own * (1 + np.arange(len(kept)) % 3))
    dims = ("recipe", "network", "seed", "level")
    variables = {"test_accuracy": (dims, values / 100)}
    variables["kept"] = (dims, np.where(np.isfinite(values), kept, np.nan))
    curve = values[..., None] / 100 * (1 - np.exp(-iteration / 3000))
    variables["test_accuracy_curve"] = ((*dims, "iteration"), curve)
    if stops is not None:
        variables["early_stop_iteration"] = (dims, when)
        variables["early_stop_test_accuracy"] = (dims, values / 100)
    where = {"recipe": recipes, "network": networks, "seed": [1, 2, 3], "level": range(len(kept))}
    attrs = {"config": json.dumps({"part": part}), "dataset": "CIFAR-10"}
    return xr.Dataset(variables, {**where, "iteration": iteration}, attrs)
