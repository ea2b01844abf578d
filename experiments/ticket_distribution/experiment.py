"""E2 · What makes a ticket special, its mask or its weights (document 001).

    python -m experiments ticket_distribution                                    embedded digits, minutes
    python -m experiments ticket_distribution --preset paper                     FC-1 on MNIST, as described
    python -m experiments ticket_distribution --preset paper --variant as-run    … as the program ran
    python -m experiments ticket_distribution --preset paper-lenet5              LeNet-5 on CIFAR-10

784–300–100–10 or LeNet-5, Adam 1e-3 with an L2 term of 1e-4 in the gradient, batch 1024, Xavier. Iterative
magnitude pruning, 20 % of every layer after each 5 epochs, n = 6 and 10 times. Then four networks: full;
pruned (mask, θ0); reinit (mask, every weight drawn from D_n); remask (mask permuted inside each layer,
weights from D_n), D_n being the nonzero entries of m ⊙ θ0, the whole network's together (``--pool layer``:
each layer's own). And three that the document leaves open: a full network from D_n, reinit from a parametric
model of D_n, reinit with θ0's signs. 100 epochs (300 for LeNet-5), 5 trials.

``as-described`` follows the text; ``as-run`` follows the program behind its numbers: inputs (x − 0.1307) /
0.3081, the framework's default initialization, D_n from trained weights, one Adam through all levels of
pruning, biases not reset. All networks of all trials are trained in one batched call, checkpointed every 10
epochs at most; pruning is checkpointed at every level.
"""

import jax
import numpy as np
import xarray as xr

from experiments.ticket_distribution import networks, weights
from experiments.ticket_distribution.config import Config, names
from lth_jax import data
from lth_jax.runs import memory, results
from lth_jax.runs.config import check_batches
from lth_jax.runs.job import Job
from lth_jax.tickets import masks
from lth_jax.training import splits

SUMMARY = "E2: what makes a ticket special, its mask or its weights (document 001)"


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    check_batches(config, examples, epochs=("epochs_per_level", "epochs"))
    _, shapes = networks.make_plan(config, examples, dataset.train_images.shape[1:], dataset.classes)
    state = (shapes,) * 5  # a run's two and its mask; in training weights and Adam's moments
    memory.check(state, (len(names(config)) + 1) * len(config.seeds), "networks × --seeds")


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume: find the tickets, describe D_n, train all networks; the labelled results."""
    examples, image_shape = len(dataset.train_labels), dataset.train_images.shape[1:]
    plan, shapes = networks.make_plan(config, examples, image_shape, dataset.classes)
    prunable = plan.prunable
    train_split, test_split = splits(dataset)
    tickets, levels, seconds = networks.find_tickets(config, job, plan, shapes, train_split, test_split)

    seeds = np.asarray(config.seeds, np.int32)
    theta0 = jax.jit(jax.vmap(lambda seed: networks.initial_weights(seed, config, shapes)))(seeds)
    theta0 = jax.tree.map(np.asarray, theta0)
    samples, fans = weights.collect(theta0, tickets, prunable), weights.layer_fans(shapes, prunable)
    models = weights.fit_models(samples, config, fans)
    tables = weights.quantile_tables(models, samples, config)
    described = weights.describe(samples, models, config, fans)

    recipe = networks.make_recipe(config, plan.recipe.network, examples, config.epochs)
    runs = networks.make_runs(config, recipe, seeds, theta0, tickets, tables, prunable)
    kept = jax.vmap(lambda mask: masks.kept_fraction(mask, prunable))(runs.mask)
    curves, more = networks.train_networks(config, job, recipe, runs, train_split, test_split)
    attrs = results.attributes(
        config,
        experiment="ticket_distribution",
        preset=job.preset,
        variant=config.variant,
        **dataset.attributes,
        seconds=seconds + more,
        test_examples=len(dataset.test_labels),
    )
    return labelled(curves, np.asarray(kept), levels, config).merge(described).assign_attrs(attrs)


def labelled(curves: dict, kept: np.ndarray, levels: dict, config: Config) -> xr.Dataset:
    """Curves as arrays ``[network, seed, epoch]``, and what pruning saw as ``[seed, level]``."""
    runs = {"seed": config.seeds, "network": names(config)}
    networks = results.label({**curves, "kept": kept}, runs, {"epoch": range(1, config.epochs + 1)})
    pruning = {f"pruning_{name}": values for name, values in levels.items()}
    pruned = results.label(pruning, {"level": range(max(config.prunings))}, {"seed": config.seeds})
    return networks.merge(pruned).transpose("network", "seed", ...)
