"""E2's networks: tickets found by iterative magnitude pruning, what is made of them, and their training."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from experiments.ticket_distribution.config import BEYOND, FOUR, Config, names
from lth_jax import initializers, levels, models
from lth_jax.analysis import distributions
from lth_jax.analysis.tables import accuracy
from lth_jax.keys import stream
from lth_jax.orders import restarted
from lth_jax.runs import axis
from lth_jax.runs.job import Job
from lth_jax.runs.progress import Progress, reporting
from lth_jax.runs.rounds import with_checkpoints
from lth_jax.runs.sweep import sweep
from lth_jax.tickets import masks, rewinding, schedules
from lth_jax.training import Recipe, TrainState, evaluation, init_state, train
from lth_jax.types import Mask, Params, Split

AFTER = 1_000_000
"""Stands where a level's number stands in the stream ``order``: the training after all levels."""
CHECKPOINT_EPOCHS = 10
"""Epochs trained between two checkpoints, at most."""
MEAN, STD = 0.1307, 0.3081
"""Of MNIST's pixels; the program behind the document used them for CIFAR-10 as well."""


class Ticket(NamedTuple):
    """One trial after n prunings."""

    mask: Mask
    start: Params  # where the next level would start: θ0; biases as trained where they are not reset
    trained: Params  # what this mask was ranked by, not yet masked by it


class TrainingRun(NamedTuple):
    """One network on its way through the final training: what a checkpoint holds."""

    seed: Int[Array, "*runs"]
    steps: Int[Array, "*runs"]  # that lie behind it
    mask: Mask
    state: TrainState


def normalized(network: models.Network, mean: float, std: float) -> models.Network:
    """The network behind (x − mean) / std, the same for every channel."""

    def apply(params: Params, collections: Any, images: Array, key: Any) -> Any:
        return network.apply(params, collections, (images - mean) / std, key)

    return models.Network(network.init, apply)


def make_network(config: Config, classes: int) -> models.Network:
    """The model, and what the variant does to its inputs."""
    fc1 = config.model == "fc1"
    module = models.MLP(config.hidden, classes) if fc1 else models.LeNet5(classes=classes)
    network = models.from_flax(module)
    return normalized(network, MEAN, STD) if config.variant == "as-run" else network


def make_recipe(config: Config, network: models.Network, examples: int, epochs: int) -> Recipe:
    """Adam with an L2 term in the gradient."""
    decay, adam = optax.add_decayed_weights(config.weight_decay), optax.adam(config.learning_rate)
    steps = epochs * (examples // config.batch_size)
    return Recipe(network, optax.chain(decay, adam), config.batch_size, steps)


def make_plan(
    config: Config, examples: int, image_shape: tuple[int, ...], classes: int
) -> tuple[levels.Plan, PyTree]:
    """What happens at every level of pruning, and the network's parameter shapes."""
    network = make_network(config, classes)
    shapes = models.parameter_shapes(network, image_shape)
    prunable, as_run = masks.prunable(shapes), config.variant == "as-run"

    def kernels_only(start: Params, trained: Params) -> Params:
        return jax.tree.map(lambda s, t, kernel: s if kernel else t, start, trained, prunable)

    plan = levels.Plan(
        make_recipe(config, network, examples, config.epochs_per_level),
        sizes=schedules.iterative(shapes, prunable, [config.rate] * max(config.prunings)),
        prunable=prunable,
        rewind=kernels_only if as_run else rewinding.to_start,
        optimizer="carried" if as_run else "fresh",
    )
    return plan, shapes


def initial_weights(seed: int | Int[Array, ""], config: Config, shapes: PyTree) -> Params:
    """θ0: kernels by the named scheme; biases 0, or as-run the framework's default draw."""
    biases = initializers.get("torch_default") if config.variant == "as-run" else None
    return initializers.initialize(
        stream(seed, "init"), shapes, initializers.get(config.initialization), biases
    )


def find_tickets(
    config: Config, job: Job, plan: levels.Plan, shapes: PyTree, data: Split, test: Split
) -> tuple[dict[str, Ticket], dict[str, np.ndarray], float]:
    """Iterative magnitude pruning of all trials, saved after every level.

    Returns:
      For each number of prunings the trials' tickets, the levels' measurements ``[level, trial]``, seconds.
    """
    begin = lambda seed: levels.begin(seed, initial_weights(seed, config, shapes), {}, plan)  # noqa: E731

    def keep(after: levels.Run, trained: TrainState) -> Ticket:
        tickets = jax.tree.map(lambda leaf: leaf[:, 0], trained.params)
        return Ticket(after.ticket.mask, after.ticket.params, tickets)

    found = sweep(
        job,
        config.seeds,
        jax.eval_shape(lambda: begin(0)),
        lambda seeds: jax.jit(jax.vmap(begin))(jnp.asarray(seeds, jnp.int32)),
        data,
        plan,
        max(config.prunings),
        describe=describe_level,
        part="pruning",
        keep=keep,
        keep_levels=[n - 1 for n in config.prunings],
        watch={"test": test},
    )
    tickets = {
        str(n): jax.tree.map(lambda leaf, at=at: leaf[at], found.kept) for at, n in enumerate(config.prunings)
    }
    measured = {name: values[:, :, 0] for name, values in found.networks.items()}
    return tickets, measured, float(found.seconds.sum())


def describe_level(progress: Progress) -> str:
    """A level of pruning in a line."""
    networks, *_ = progress.record
    shown = accuracy(networks["test_accuracy"][progress.level].ravel())
    return f"kept {networks['kept'][progress.level].mean():7.2%}  test accuracy (%) {shown}"


def make_start(
    name: str,
    seed: Int[Array, ""],
    theta0: Params,
    tickets: Mapping[str, Ticket],
    tables: Mapping[str, Mapping[str, Array]],
    config: Config,
    of: PyTree[bool],
) -> tuple[Params, Mask]:
    """Where one network of one trial starts: its weights, not masked yet, and its mask.

    Args:
      name: as from ``names``.
      seed: the trial's.
      theta0: the trial's initial weights.
      tickets: the trial's, by number of prunings.
      tables: quantiles of the model of D_n, by number of prunings and layer.
      config: source and pooling of D_n.
      of: the prunable leaves; all others start where the ticket's start (full networks': the initial).
    """
    kind, _, n = name.partition("-")
    if kind == "full":
        return theta0, masks.ones_like(theta0)
    ticket, key = tickets[n], stream(seed, "sample", int(n), (*FOUR, *BEYOND).index(kind))
    if kind == "signed":  # reinit's draw, so that the two differ in signs only
        key = stream(seed, "sample", int(n), FOUR.index("reinit"))
    mask = {
        "remask": lambda: masks.permute(stream(seed, "mask", int(n)), ticket.mask, of),
        "full_dn": lambda: masks.ones_like(theta0),
    }.get(kind, lambda: ticket.mask)()
    weights = {
        "pruned": lambda: ticket.start,
        "parametric": lambda: draw_from_model(key, ticket.start, tables[n], of),
    }.get(kind, lambda: draw_from_ticket(key, mask, ticket, config, of))()
    if kind == "signed":
        weights = distributions.with_signs(weights, ticket.start, of)
    rest = theta0 if kind == "full_dn" else ticket.start
    return jax.tree.map(lambda w, r, kernel: w if kernel else r, weights, rest, of), mask


def draw_from_ticket(key: Array, mask: Mask, ticket: Ticket, config: Config, of: PyTree[bool]) -> Params:
    """Every weight of ``mask`` uniformly, with replacement, from nonzero(m ⊙ θ), θ initial or trained."""
    source = ticket.start if config.source == "initial" else ticket.trained
    nonzero = jax.tree.map(lambda m, w: m & (w != 0), ticket.mask, source)
    return rewinding.resample(key, mask, nonzero, source, of, config.pool == "network")


def draw_from_model(key: Array, like: Params, tables: Mapping[str, Array], of: PyTree[bool]) -> Params:
    """Every prunable weight from its layer's quantiles; all others as in ``like``."""
    leaves, structure = jax.tree.flatten_with_path(like)
    drawn = []
    for position, ((path, leaf), kernel) in enumerate(zip(leaves, jax.tree.leaves(of), strict=True)):
        if kernel:
            table = tables["/".join(masks.path_names(path)[:-1])]
            leaf = distributions.draw(jax.random.fold_in(key, position), leaf.shape, table)
        drawn.append(leaf)
    return jax.tree.unflatten(structure, drawn)


def make_runs(
    config: Config,
    recipe: Recipe,
    seeds: Int[np.ndarray, " trials"],
    theta0: Params,
    tickets: Mapping[str, Ticket],
    tables: Mapping[str, Mapping[str, np.ndarray]],
    of: PyTree[bool],
) -> TrainingRun:
    """All networks of all trials before their training, on one leading axis: a trial's stand together."""

    def trial(inputs: tuple) -> TrainingRun:
        seed, theta0, tickets, tables = inputs

        def one(name: str) -> TrainingRun:
            params, mask = make_start(name, seed, theta0, tickets, tables, config, of)
            return TrainingRun(seed, jnp.asarray(0, jnp.int32), mask, init_state(recipe, params, {}, mask))

        return axis.stack([one(name) for name in names(config)])

    # One trial after another: vectorised, the draws of all of them would be in memory at once.
    stacked = jax.jit(functools.partial(jax.lax.map, trial))((seeds, theta0, tickets, tables))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)


def segment_epochs(epochs: int) -> int:
    """Epochs between two checkpoints: the largest divisor of ``epochs`` up to ``CHECKPOINT_EPOCHS``."""
    return max(part for part in range(1, CHECKPOINT_EPOCHS + 1) if epochs % part == 0)


def train_networks(
    config: Config, job: Job, recipe: Recipe, runs: TrainingRun, data: Split, test: Split
) -> tuple[dict[str, np.ndarray], float]:
    """Train every network of every trial together, saved every :func:`segment_epochs`.

    Every epoch has its own key, so the numbers do not depend on how many are trained between checkpoints.

    Returns:
      Curves as arrays ``[trial and network, epoch]``, and seconds.
    """
    part, called = segment_epochs(config.epochs), names(config)
    epoch = recipe.steps // config.epochs
    recipe, steps = dataclasses.replace(recipe, eval_every=epoch, order=restarted), part * epoch

    def segment(run: TrainingRun, data: Split, test: Split) -> tuple[TrainingRun, dict[str, Array]]:
        order, noise = (stream(run.seed, name, AFTER) for name in ("order", "model"))
        state, curves = train(
            order, run.state, run.mask, data, recipe, {"test": evaluation(test, recipe)},
            model_key=noise, first=run.steps, steps=steps,
        )  # fmt: skip
        seen = {f"test_{name}": values for name, values in curves.observed["test"].items()}
        return run._replace(steps=run.steps + steps, state=state), {"train_loss": curves.batch_loss, **seen}

    def play(runs: TrainingRun) -> Iterator[tuple[TrainingRun, PyTree, None]]:
        step, shared = axis.map_runs(segment, chunk=job.chunk), axis.replicate((data, test))
        while int(runs.steps[0]) < recipe.steps:
            runs, record = step(runs, *shared)
            yield runs, record, None

    def describe(progress: Progress) -> str:
        shown = accuracy(progress.record["test_accuracy"][progress.level, :: len(called), -1])
        return f"epoch {(progress.level + 1) * part}  test accuracy (%) of {called[0]} {shown}"

    like = jax.eval_shape(lambda runs: jax.vmap(lambda run: segment(run, data, test)[1])(runs), runs)
    with reporting(job, describe, len(runs.seed) * steps, "networks") as report:
        folder, segments = job.checkpoints / "networks", config.epochs // part
        record, _, seconds = with_checkpoints(folder, runs, (like, {}), play, segments, report)
    whole = {name: np.moveaxis(values, 0, 1) for name, values in record.items()}
    return {n: values.reshape(len(values), -1) for n, values in whole.items()}, float(seconds.sum())
