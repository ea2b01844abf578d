"""Invented results of E4's parts: what is drawn and claimed of them is seen without training."""

import jax
import jax.numpy as jnp
import numpy as np

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
