"""The work of E4: a group's lines, their controls, what is recorded, and its labels."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, PyTree

from experiments import cli
from experiments.mnist_tickets.config import Config, Group, levels, siblings
from lth_jax import branches, initializers, models
from lth_jax.keys import stream
from lth_jax.runs import axis, results
from lth_jax.runs.sweep import Progress, remember
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Curves, Recipe
from lth_jax.types import Mask, Params, Split

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


def kept_counts(group: Group, config: Config, shapes: PyTree) -> PyTree:
    """Weights kept in each leaf at each level; the output layer always loses half as much as the others."""
    steps = range(1, levels(config, group.rate))
    fractions = [1 - (1 - group.rate) ** step if group.one_shot else group.rate for step in steps]
    removed = [pruning.rates(shapes, rate, {"output": rate / 2}) for rate in fractions]
    return pruning.kept_counts(shapes, removed, group.one_shot) if removed else jax.tree.map(_whole, shapes)


def _whole(leaf: Any) -> np.ndarray:
    return np.asarray([leaf.size], np.int32)


def make_sibling(name: str, group: Group, config: Config, shapes: PyTree) -> branches.Sibling:
    """A control by its label.

    ``reinit``: the ticket's mask with weights drawn anew. ``rearrange``: every weight of a hidden layer moved
    to another place of it, its mask with it. ``shuffle``: the kept weights of a hidden layer permuted among
    their places. ``random_mask``: θ0 under a random mask of the same counts. ``late``: the ticket from θ_k.
    """
    kind, _, trial = name.partition(":")
    number, scheme = int(trial or 0), initializers.get(group.lines[0][1])
    hidden = masks.prunable(shapes, lambda path, leaf: masks.is_kernel(path, leaf) and path[0] != "output")
    kernels = masks.prunable(shapes)

    def key(line: branches.Line, use: str) -> Array:
        return stream(line.seed, use, line.level, number)

    def reinit(line: branches.Line) -> tuple[Params, Mask]:
        return rewinding.fresh(key(line, "reinit"), shapes, scheme), line.mask

    def rearrange(line: branches.Line) -> tuple[Params, Mask]:
        return rewinding.rearrange(key(line, "shuffle"), line.mask, line.params, hidden)

    def shuffle(line: branches.Line) -> tuple[Params, Mask]:
        return rewinding.shuffle(key(line, "shuffle"), line.mask, line.params, hidden), line.mask

    def random_mask(line: branches.Line) -> tuple[Params, Mask]:
        return line.params, masks.permute(key(line, "mask"), line.mask, kernels)

    def late(line: branches.Line) -> tuple[Params, Mask]:
        return line.early, line.mask

    return {f.__name__: f for f in (reinit, rearrange, shuffle, random_mask, late)}[kind]


def make_rules(group: Group, config: Config, splits: Splits) -> tuple[branches.Rules, PyTree]:
    """What happens at every level of a group, and its parameters' shapes."""
    network, shapes = shapes_of(group, splits.train.images.shape[1:], splits.classes)
    optimizer = optax.adam(config.learning_rate)
    return branches.Rules(
        recipe=Recipe(network, optimizer, config.batch_size, config.iterations, config.eval_every),
        keep=kept_counts(group, config, shapes),
        prunable=masks.prunable(shapes),
        one_shot=group.one_shot,
        rewind=rewinding.to_start if group.reset else rewinding.no_reset,
        siblings={name: make_sibling(name, group, config, shapes) for name in siblings(config, group)},
    ), shapes


def begin(group: Group, config: Config, rules: branches.Rules, shapes: PyTree, train: Split) -> branches.Line:
    """All lines before level 0, line by line and seed by seed. Lines of one seed share their draws."""

    def draw(seed: Array, name: str) -> Params:
        return initializers.initialize(stream(seed, "init"), shapes, initializers.get(name))

    seeds = jnp.asarray(config.seeds)
    drawn = [jax.jit(jax.vmap(functools.partial(draw, name=name)))(seeds) for _, name in group.lines]
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    seeds = jnp.tile(seeds, len(group.lines))
    early = params
    if "late" in rules.siblings:

        def first_steps(one: tuple[Array, Params], data: Split) -> Params:
            return rewinding.at_step(
                stream(one[0], "order", 0), one[1], data, rules.recipe, config.rewind_step
            )

        early = axis.map_runs(first_steps)((seeds, params), axis.replicate(train))
    return jax.vmap(lambda s, p, e: branches.begin(s, p, early=e))(seeds, params, early)


def select(start: branches.Start, curves: Curves, prunable: PyTree) -> dict[str, Array]:
    """What is recorded of each network: curves ``[evaluations]``, and its size."""
    counted = zip(jax.tree.leaves(masks.counts(start.mask)), jax.tree.leaves(prunable), strict=True)
    return {
        "validation_loss": curves.watched["validation"].loss,
        "test_accuracy": curves.watched["test"].accuracy,
        "batch_loss": curves.batch_loss,
        "kept": masks.kept_fraction(start.mask, prunable),
        "kept_weights": sum(count for count, yes in counted if yes),
    }


def inspect(line: branches.Line, scheme: initializers.Scheme) -> dict[str, Array]:
    """What is recorded of a ticket before it trains: survivors' initial weights, connections per unit.

    Returns:
      ``survivors_LAYER``: how many of a layer's kept weights start in each of ``BINS`` bins, ± ``REACH``
      standard deviations of its distribution; ``incoming_LAYER``: connections from the layer below of each of
      its units, most first; ``outgoing_LAYER``: connections of each unit below it to LAYER, most first.
    """
    found = {}
    for layer, leaves in line.mask.items():
        kept, weights = leaves["kernel"], line.params[layer]["kernel"]
        place = (weights / scheme.spread(*initializers.fans(weights.shape)) + REACH) * (BINS / (2 * REACH))
        index = jnp.clip(jnp.floor(place), 0, BINS - 1).astype(jnp.int32)
        counts = jnp.zeros(BINS, jnp.int32).at[index.ravel()].add(kept.ravel().astype(jnp.int32))
        below, above = masks.connections(kept)
        found[f"survivors_{layer}"] = counts
        found[f"incoming_{layer}"] = -jnp.sort(-above)
        found[f"outgoing_{layer}"] = -jnp.sort(-below)
    return found


def run_group(
    group: Group, config: Config, execution: cli.Execution, folder: Path, splits: Splits
) -> tuple[xr.Dataset, float]:
    """Play a group's levels, or go on with them; its labelled results, and the seconds they took."""
    train, watch, _ = splits
    rules, shapes = make_rules(group, config, splits)
    lines = begin(group, config, rules, shapes, train)
    scheme = initializers.get(group.lines[0][1])
    record = {
        "select": lambda start, curves: select(start, curves, rules.prunable),
        "inspect": (lambda line: inspect(line, scheme)) if group.inspect else (lambda line: {}),
    }
    count = levels(config, group.rate)
    like = branches.record_shapes(lines, train, watch, rules, **record)

    def play(lines: branches.Line, wait: Callable[[PyTree], PyTree]) -> Any:
        chunk = execution.chunk or None
        return branches.play(lines, train, watch, rules, count, chunk=chunk, wait=wait, **record)

    def describe(progress: Progress) -> str:
        networks, _ = progress.record
        accuracy = networks["test_accuracy"][progress.level, :, 0, -1]
        kept = networks["kept"][progress.level].mean()
        return f"{group.name}: kept {kept:6.2%}  test accuracy {np.nanmean(accuracy):.2%} at the end"

    steps = len(lines.seed) * (1 + len(rules.siblings)) * config.iterations
    with cli.reporter(describe, steps, group.name) as report:
        place = folder / results.CHECKPOINTS / group.name.replace(" ", "_")
        _, found, seconds = remember(place, lines, like, play, count, report)
    return labelled(group, config, *found), float(seconds.sum())


def labelled(
    group: Group, config: Config, networks: Mapping[str, np.ndarray], lines: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Records ``[level, line × seed, network, ...]`` as arrays ``[arm, seed, level, ...]``.

    An arm is a line's tickets, under the line's label, or one control of them, under the control's. What was
    inspected has the dimension ``line`` instead.
    """
    labels, seeds = [label for label, _ in group.lines], list(config.seeds)
    controls = siblings(config, group)
    arms = [name for label in labels for name in (label, *controls)]
    values: dict[str, Any] = {}
    for name, array in networks.items():
        level, _, networks_each, *rest = array.shape
        split = array.reshape(level, len(labels), len(seeds), networks_each, *rest)
        ordered = np.moveaxis(split, (1, 3, 2, 0), (0, 1, 2, 3))
        values[name] = (
            ("arm", "seed", "level", *("iteration" for _ in rest)),
            ordered.reshape(len(arms), len(seeds), level, *rest),
        )
    for name, array in lines.items():
        split = array.reshape(array.shape[0], len(labels), len(seeds), *array.shape[2:])
        values[name] = (
            ("line", "seed", "level", "bin" if name.startswith("survivors") else f"unit_{name}"),
            np.moveaxis(split, 0, 2),
        )
    edges = np.linspace(-REACH, REACH, BINS + 1)
    coordinates = {
        "arm": arms,
        "seed": seeds,
        "level": np.arange(levels(config, group.rate)),
        "iteration": np.arange(config.eval_every, config.iterations + 1, config.eval_every),
    }
    if lines:
        coordinates |= {"line": labels, "bin": (edges[:-1] + edges[1:]) / 2}
    return results.by_label(values, coordinates, {})


def join(groups: list[xr.Dataset]) -> xr.Dataset:
    """The groups of a part as one data set; a group with fewer levels has NaN in those it has not."""
    inspected = [g[[n for n in g.data_vars if "line" in g[n].dims]] for g in groups]
    inspected = [g for g in inspected if g.data_vars]
    trained = [g[[n for n in g.data_vars if "arm" in g[n].dims]] for g in groups]
    joined = xr.concat(trained, "arm", join="outer", data_vars="all", coords="minimal", compat="equals")
    return xr.merge([joined, *inspected], join="outer", compat="no_conflicts")
