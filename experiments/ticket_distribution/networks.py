"""E2's networks: tickets found by iterative magnitude pruning, what is made of them, and their training."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from experiments.ticket_distribution.config import BEYOND, FOUR, Config, names
from lth_jax import initializers, levels, models
from lth_jax.analysis import distributions
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.runs.sweep import Reporter, Wait, remember
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Recipe, TrainState, init_state, train
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


class Trainee(NamedTuple):
    """One network on its way through the final training: what a checkpoint holds."""

    seed: Int[Array, ""]
    epoch: Int[Array, ""]
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
    """Adam with an L2 term in the gradient; evaluated every epoch."""
    decay, adam = optax.add_decayed_weights(config.weight_decay), optax.adam(config.learning_rate)
    steps = examples // config.batch_size
    return Recipe(network, optax.chain(decay, adam), config.batch_size, epochs * steps, steps)


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
        rates=pruning.rates(shapes, config.rate),
        prunable=prunable,
        rewind=kernels_only if as_run else rewinding.to_start,
        carry_optimizer=as_run,
    )
    return plan, shapes


def initial_weights(seed: int | Int[Array, ""], config: Config, shapes: PyTree) -> Params:
    """θ0: kernels by the named scheme; biases 0, or as-run the framework's default draw."""
    biases = initializers.get("torch_default") if config.variant == "as-run" else None
    return initializers.initialize(
        stream(seed, "init"), shapes, initializers.get(config.initialization), biases
    )


def find_tickets(
    folder: Path,
    config: Config,
    plan: levels.Plan,
    runs: levels.Run,
    data: Split,
    test: Split,
    report: Reporter,
    chunk: int | None,
) -> tuple[dict[str, Ticket], Mapping[str, np.ndarray], float]:
    """Iterative magnitude pruning of all trials, saved after every level.

    Returns:
      For each number of prunings the trials' tickets, the levels' measurements ``[level, trial]``, seconds.
    """
    levels = max(config.prunings)

    def select(level: levels.Level) -> tuple[Params, PyTree]:
        return level.trained.params, levels.measurements(level)

    def play(state: PyTree, wait: Wait) -> Iterator[tuple[PyTree, PyTree]]:
        runs, tickets = state
        played = levels.play(runs, data, {"test": test}, plan, levels, chunk=chunk, select=select, wait=wait)
        for after, (trained, record) in played:
            n = int(after.level[0])
            if n in config.prunings:
                tickets = {**tickets, str(n): Ticket(after.mask, after.params, trained)}
            yield (after, tickets), record

    def record_of(run: levels.Run) -> PyTree:
        return levels.measurements(levels.play_level(run, data, {"test": test}, plan)[1])

    none_yet = {str(n): Ticket(runs.mask, runs.params, runs.params) for n in config.prunings}
    like = jax.eval_shape(jax.vmap(record_of), runs)
    place = folder / results.CHECKPOINTS / "pruning"
    (_, tickets), record, seconds = remember(place, (runs, none_yet), like, play, levels, report)
    # In their order: JAX sorts a tree's names, "10" before "6".
    found = {str(n): jax.tree.map(np.asarray, tickets[str(n)]) for n in config.prunings}
    return found, record, float(seconds.sum())


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


def make_trainees(
    config: Config,
    recipe: Recipe,
    seeds: Int[np.ndarray, " trials"],
    theta0: Params,
    tickets: Mapping[str, Ticket],
    tables: Mapping[str, Mapping[str, np.ndarray]],
    of: PyTree[bool],
) -> Trainee:
    """All networks of all trials before their training, on one leading axis: a trial's stand together."""

    def trial(inputs: tuple) -> Trainee:
        seed, theta0, tickets, tables = inputs

        def one(name: str) -> Trainee:
            params, mask = make_start(name, seed, theta0, tickets, tables, config, of)
            return Trainee(seed, jnp.asarray(0, jnp.int32), mask, init_state(recipe, params, {}, mask))

        return axis.stack([one(name) for name in names(config)])

    # One trial after another: vectorised, the draws of all of them would be in memory at once.
    stacked = jax.jit(functools.partial(jax.lax.map, trial))((seeds, theta0, tickets, tables))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)


def train_epochs(
    trainee: Trainee, data: Split, watch: Mapping[str, Split], recipe: Recipe, epochs: int
) -> tuple[Trainee, dict[str, Array]]:
    """Some epochs of one network, and what was seen after each of them.

    Every epoch has its own key, so the numbers do not depend on how many are trained between checkpoints.

    Args:
      trainee: where it is.
      data: training examples.
      watch: the split ``test``.
      recipe: of one epoch.
      epochs: how many.
    """

    def epoch(state: TrainState, index: Array) -> tuple[TrainState, dict[str, Array]]:
        order, noise = (stream(trainee.seed, name, AFTER, index) for name in ("order", "model"))
        state, curves = train(order, state, trainee.mask, data, recipe, watch, noise)
        seen = {f"test_{k}": value[0] for k, value in curves.watched["test"]._asdict().items()}
        return state, {"train_loss": curves.batch_loss[0], **seen}

    indices = trainee.epoch + jnp.arange(epochs, dtype=jnp.int32)
    state, record = jax.lax.scan(epoch, trainee.state, indices)
    return trainee._replace(epoch=trainee.epoch + epochs, state=state), record


def segment_epochs(epochs: int) -> int:
    """Epochs between two checkpoints: the largest divisor of ``epochs`` up to ``CHECKPOINT_EPOCHS``."""
    return max(part for part in range(1, CHECKPOINT_EPOCHS + 1) if epochs % part == 0)


def train_networks(
    folder: Path,
    config: Config,
    recipe: Recipe,
    trainees: Trainee,
    data: Split,
    test: Split,
    report: Reporter,
    chunk: int | None,
) -> tuple[dict[str, np.ndarray], float]:
    """Train every network of every trial together, saved every ``segment_epochs``.

    Returns:
      Curves as arrays ``[network and trial, epoch]``, and seconds.
    """
    part = segment_epochs(config.epochs)
    segments = config.epochs // part

    def one(trainee: Trainee, data: Split, watch: Mapping[str, Split]) -> tuple[Trainee, PyTree]:
        return train_epochs(trainee, data, watch, recipe, part)

    def play(trainees: Trainee, wait: Callable[[PyTree], PyTree]) -> Iterator[tuple[Trainee, PyTree]]:
        step = axis.map_runs(one, chunk=chunk, wait=wait)
        shared = axis.replicate((data, {"test": test}))
        for _ in range(int(trainees.epoch[0]) // part, segments):
            trainees, record = step(trainees, *shared)
            yield trainees, record

    like = jax.eval_shape(lambda t: jax.vmap(lambda run: one(run, data, {"test": test})[1])(t), trainees)
    place = folder / results.CHECKPOINTS / "networks"
    _, record, seconds = remember(place, trainees, like, play, segments, report)
    curves = {name: np.moveaxis(values, 0, 1).reshape(values.shape[1], -1) for name, values in record.items()}
    return curves, float(seconds.sum())
