"""The work of E4: a group's runs, their controls, what is recorded, and its labels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, PyTree

from experiments.mnist_tickets.config import Config, Group, controls_of, levels
from lth_jax import initializers, models, training
from lth_jax import levels as one_level
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.runs.job import Job
from lth_jax.runs.progress import Progress
from lth_jax.runs.sweep import nothing, sweep
from lth_jax.tickets import controls, masks, rewinding, schedules
from lth_jax.training import Recipe
from lth_jax.types import Split

BINS, REACH = 81, 4.0
"""Bins of the survivors' initial weights, and how many standard deviations of their layer they span."""


class Splits(NamedTuple):
    """What is trained on, what is watched (``validation`` and ``test``), and the number of classes."""

    train: Split
    watch: dict[str, Split]
    classes: int


def shapes_of(group: Group, image_shape: tuple[int, ...], classes: int) -> tuple[models.Network, PyTree]:
    """A group's network and its parameters' shapes."""
    network = models.from_flax(models.MLP(group.hidden, classes=classes))
    return network, models.parameter_shapes(network, image_shape)


def sizes_of(group: Group, config: Config, shapes: PyTree) -> schedules.Sizes:
    """Weights kept at each level; the output layer always loses half as much as the others."""
    prunable, count = masks.prunable(shapes), levels(config, group.rate)
    if group.one_shot:
        removed = [1 - (1 - group.rate) ** level for level in range(1, count)]
        return schedules.one_shot(shapes, prunable, removed, [{"output": gone / 2} for gone in removed])
    return schedules.iterative(shapes, prunable, [group.rate] * (count - 1), {"output": group.rate / 2})


def make_control(name: str, group: Group, shapes: PyTree) -> one_level.Control:
    """A control by its label: ``reinit:0`` … or ``late``, the ticket from θ_k. Hidden layers are moved."""
    kind, _, trial = name.partition(":")
    number, scheme = int(trial or 0), initializers.get(group.lines[0][1])
    hidden = masks.prunable(shapes, lambda path, leaf: masks.is_kernel(path, leaf) and path[0] != "output")
    return {
        "reinit": lambda: controls.reinit(lambda key: initializers.initialize(key, shapes, scheme), number),
        "rearrange": lambda: controls.rearrange(hidden, number),
        "shuffle": lambda: controls.shuffle(hidden, number),
        "random_mask": lambda: controls.random_mask(masks.prunable(shapes), number),
        "late": lambda: controls.from_extra("late"),
    }[kind]()


def make_plan(group: Group, config: Config, splits: Splits) -> tuple[one_level.Plan, PyTree]:
    """What happens at every level of a group, and its parameters' shapes."""
    network, shapes = shapes_of(group, splits.train.images.shape[1:], splits.classes)
    optimizer = optax.adam(config.learning_rate)
    return one_level.Plan(
        recipe=Recipe(network, optimizer, config.batch_size, config.iterations, config.eval_every),
        sizes=sizes_of(group, config, shapes),
        prunable=masks.prunable(shapes),
        rewind=rewinding.to_start if group.reset else rewinding.no_reset,
        controls={name: make_control(name, group, shapes) for name in controls_of(config, group)},
    ), shapes


def begin_one(
    seed: Any, scheme: str, config: Config, plan: one_level.Plan, shapes: PyTree, train: Split | None = None
) -> one_level.Run:
    """A run before level 0. Those of one seed share their draws; ``train`` gives θ_k where it is needed."""
    params = initializers.initialize(stream(seed, "init"), shapes, initializers.get(scheme))
    if "late" not in plan.controls:
        return one_level.begin(seed, params, {}, plan)
    late = params
    if train is not None:
        dense, order = masks.ones_like(params), stream(seed, "order", 0)
        state = training.init_state(plan.recipe, params, {}, dense)
        late = training.train(order, state, dense, train, plan.recipe, steps=config.rewind_step)[0].params
    return one_level.begin(seed, params, {}, plan, extras={"late": late})


def inspect(run: one_level.Run, scheme: initializers.Scheme) -> dict[str, Array]:
    """What is recorded of a ticket before it trains: survivors' initial weights, connections per unit.

    Returns:
      ``survivors_LAYER``: how many of a layer's kept weights start in each of ``BINS`` bins, ± ``REACH``
      standard deviations of its distribution; ``incoming_LAYER``: connections from the layer below of each of
      its units, most first; ``outgoing_LAYER``: connections of each unit below it to LAYER, most first.
    """
    found = {}
    for layer, leaves in run.ticket.mask.items():
        kept, weights = leaves["kernel"], run.ticket.params[layer]["kernel"]
        place = (weights / scheme.spread(*initializers.fans(weights.shape)) + REACH) * (BINS / (2 * REACH))
        index = jnp.clip(jnp.floor(place), 0, BINS - 1).astype(jnp.int32)
        counts = jnp.zeros(BINS, jnp.int32).at[index.ravel()].add(kept.ravel().astype(jnp.int32))
        below, above = masks.connections(kept)
        found[f"survivors_{layer}"] = counts
        found[f"incoming_{layer}"] = -jnp.sort(-above)
        found[f"outgoing_{layer}"] = -jnp.sort(-below)
    return found


def record(outcome: one_level.Outcome, prunable: PyTree) -> dict[str, Array]:
    """What is recorded of each network: curves ``[evaluations]``, and its size."""
    mask, seen = outcome.ticket.mask, outcome.curves.observed
    counted = zip(jax.tree.leaves(masks.counts(mask)), jax.tree.leaves(prunable), strict=True)
    return {
        "validation_loss": seen["validation"]["loss"],
        "test_accuracy": seen["test"]["accuracy"],
        "batch_loss": outcome.curves.batch_loss,
        "kept": masks.kept_fraction(mask, prunable),
        "kept_weights": jnp.stack([count for count, yes in counted if yes]).sum(),
    }


def run_group(group: Group, config: Config, job: Job, splits: Splits) -> tuple[xr.Dataset, float]:
    """Take a group's runs through their levels, or go on with them; results, and the seconds they took."""
    plan, shapes = make_plan(group, config, splits)
    scheme = initializers.get(group.lines[0][1])
    make = functools.partial(begin_one, config=config, plan=plan, shapes=shapes)

    def begin(labels: Sequence[tuple[str, int]]) -> one_level.Run:
        parts = []
        for name in dict.fromkeys(name for name, _ in labels):
            seeds = jnp.asarray([seed for other, seed in labels if other == name])
            one = lambda seed, train, name=name: make(seed, name, train=train)  # noqa: E731
            if "late" in plan.controls:
                parts.append(axis.map_runs(one)(seeds, axis.replicate(splits.train)))
            else:
                parts.append(jax.jit(jax.vmap(functools.partial(one, train=None)))(seeds))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def describe(progress: Progress) -> str:
        networks, *_ = progress.record
        accuracy = networks["test_accuracy"][progress.level, :, 0, -1]
        kept = networks["kept"][progress.level].mean()
        return f"{group.name}: kept {kept:6.2%}  test accuracy {np.nanmean(accuracy):.2%} at the end"

    found = sweep(
        job,
        [(name, seed) for _, name in group.lines for seed in config.seeds],
        jax.eval_shape(lambda: make(0, group.lines[0][1])),
        begin,
        splits.train,
        plan,
        describe=describe,
        part=group.name,
        name=lambda label: f"{label[0]} seed {label[1]}",
        watch=splits.watch,
        record=functools.partial(record, prunable=plan.prunable),
        inspect=functools.partial(inspect, scheme=scheme) if group.inspect else nothing,
    )
    return labelled(group, config, found.networks, found.inspected), float(found.seconds.sum())


def labelled(
    group: Group, config: Config, networks: dict[str, np.ndarray], runs: dict[str, np.ndarray]
) -> xr.Dataset:
    """Records ``[level, line × seed, network, ...]`` as arrays ``[arm, seed, level, ...]``.

    An arm is a line's tickets, under the line's label, or one control of them, under the control's. What was
    inspected has the dimension ``line`` instead.
    """
    labels, seeds, names = [label for label, _ in group.lines], list(config.seeds), controls_of(config, group)
    level, runs_axis = {"level": range(levels(config, group.rate))}, {"line": labels, "seed": seeds}
    iteration = {"iteration": np.arange(config.eval_every, config.iterations + 1, config.eval_every)}
    arms = [name or label for label in labels for name in ("", *names)]
    trained = results.label(networks, level, runs_axis, {"network": ["", *names]}, iteration)
    trained = trained.stack(arm=("line", "network"), create_index=False).drop_vars(["line", "network"])
    trained = trained.assign_coords(arm=arms).transpose("arm", "seed", "level", ...)
    middles = np.linspace(-REACH, REACH, BINS + 1)
    bins = {"bin": (middles[:-1] + middles[1:]) / 2}
    inspected = [
        results.label({name: array}, level, runs_axis, bins if name[0] == "s" else {f"unit_{name}": None})
        for name, array in runs.items()
    ]
    return xr.merge([trained, *(each.transpose("line", "seed", "level", ...) for each in inspected)])


def join(groups: list[xr.Dataset]) -> xr.Dataset:
    """The groups of a part as one data set; a group with fewer levels has NaN in those it has not."""
    inspected = [g[[n for n in g.data_vars if "line" in g[n].dims]] for g in groups]
    inspected = [g for g in inspected if g.data_vars]
    trained = [g[[n for n in g.data_vars if "arm" in g[n].dims]] for g in groups]
    joined = xr.concat(trained, "arm", join="outer", data_vars="all", coords="minimal", compat="equals")
    return xr.merge([joined, *inspected], join="outer", compat="no_conflicts")
