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

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments import cli
from experiments.ticket_distribution import networks, weights
from experiments.ticket_distribution.claims import verdicts
from experiments.ticket_distribution.config import Config, names, presets
from experiments.ticket_distribution.figures import draw_figures
from experiments.ticket_distribution.report import make_table, notes, variant
from lth_jax import data, levels
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.runs.sweep import Progress
from lth_jax.tickets import masks, pruning
from lth_jax.training import Recipe, splits
from lth_jax.types import Split


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    require(
        config.batch_size <= examples,
        f"--batch-size {config.batch_size}: larger than the {examples} training examples",
    )
    for name in ("epochs_per_level", "epochs"):
        most = 2**29 // examples
        value = getattr(config, name)
        require(value <= most, f"--{name.replace('_', '-')} {value}: at most {most:,} of {examples} examples")
    plan, shapes = networks.make_plan(config, examples, dataset.train_images.shape[1:], dataset.classes)
    pruning.check_levels(shapes, plan.rates, max(config.prunings) + 1)
    state = jax.eval_shape(lambda: begin(0, config, plan, shapes))
    cli.check_memory(state, (len(names(config)) + 1) * len(config.seeds))


def begin(seed: int | jax.Array, config: Config, plan: levels.Plan, shapes: object) -> levels.Run:
    """One trial before its first level."""
    return levels.begin(seed, networks.initial_weights(seed, config, shapes), {}, plan)


def train(config: Config, execution: cli.Execution, folder: Path, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume: find the tickets, describe D_n, train all networks; the labelled results."""
    examples, image_shape = len(dataset.train_labels), dataset.train_images.shape[1:]
    plan, shapes = networks.make_plan(config, examples, image_shape, dataset.classes)
    seeds, chunk = np.asarray(config.seeds, np.int32), execution.chunk or None
    runs = jax.jit(jax.vmap(lambda seed: begin(seed, config, plan, shapes)))(jnp.asarray(seeds))
    theta0 = jax.tree.map(np.asarray, runs.rewind_to)
    train_split, test_split = splits(dataset)

    steps = len(seeds) * plan.recipe.steps
    with cli.reporter(describe_level, steps, "tickets") as report:
        tickets, levels, seconds = networks.find_tickets(
            folder, config, plan, runs, train_split, test_split, report, chunk
        )
    samples = weights.collect(theta0, tickets, plan.prunable)
    fans = weights.layer_fans(shapes, plan.prunable)
    models = weights.fit_models(samples, config, fans)
    tables = weights.quantile_tables(models, samples, config)
    described = weights.describe(samples, models, config, fans)

    recipe = networks.make_recipe(config, plan.recipe.network, examples, epochs=1)
    trainees = networks.make_trainees(config, recipe, seeds, theta0, tickets, tables, plan.prunable)
    kept = jax.vmap(lambda mask: masks.kept_fraction(mask, plan.prunable))(trainees.mask)
    curves, more = train_all(config, recipe, trainees, (train_split, test_split), folder, chunk)
    attrs = results.attributes(
        config,
        experiment="ticket_distribution",
        preset=execution.preset,
        variant=config.variant,
        **dataset.attributes,
        seconds=seconds + more,
        test_examples=len(dataset.test_labels),
    )
    return labelled(curves, np.asarray(kept), levels, config).merge(described).assign_attrs(attrs)


def train_all(
    config: Config,
    recipe: Recipe,
    trainees: networks.Trainee,
    data: tuple[Split, Split],
    folder: Path,
    chunk: int | None,
) -> tuple[dict[str, np.ndarray], float]:
    """The networks' training, reported as it goes."""
    part, called = networks.segment_epochs(config.epochs), names(config)
    runs = len(called) * len(config.seeds)

    def describe(progress: Progress) -> str:
        accuracy = progress.record["test_accuracy"][progress.level, :: len(called), -1]
        return (
            f"epoch {(progress.level + 1) * part}  test accuracy (%) of {called[0]} {cli.accuracy(accuracy)}"
        )

    with cli.reporter(describe, runs * recipe.steps * part, "networks") as report:
        return networks.train_networks(folder, config, recipe, trainees, *data, report, chunk)


def describe_level(progress: Progress) -> str:
    """A level of pruning in a line."""
    accuracy = cli.accuracy(progress.record["test_accuracy"][progress.level])
    return f"kept {progress.record['kept'][progress.level].mean():7.2%}  test accuracy (%) {accuracy}"


def labelled(curves: dict, kept: np.ndarray, levels: dict, config: Config) -> xr.Dataset:
    """Curves as arrays ``[network, seed, epoch]``, and what pruning saw as ``[seed, level]``."""
    called, trials = names(config), len(config.seeds)

    def by_network(values: np.ndarray) -> np.ndarray:
        return np.swapaxes(values.reshape(trials, len(called), *values.shape[1:]), 0, 1)

    variables = {name: (("network", "seed", "epoch"), by_network(values)) for name, values in curves.items()}
    variables["kept"] = (("network", "seed"), by_network(kept))
    variables |= {f"pruning_{name}": (("seed", "level"), values.T) for name, values in levels.items()}
    coordinates = {
        "network": called,
        "seed": list(config.seeds),
        "epoch": np.arange(1, config.epochs + 1),
        "level": np.arange(max(config.prunings)),
    }
    return results.by_label(variables, coordinates, {})


EXPERIMENT = cli.Experiment(
    name="ticket_distribution",
    summary="E2: what makes a ticket special, its mask or its weights (document 001)",
    config=Config,
    presets=presets,
    check=check,
    train=train,
    claims=verdicts,
    figures=draw_figures,
    table=make_table,
    notes=notes,
    variant=variant,
)
