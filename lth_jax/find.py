"""Tickets of your own model: any Flax module, any Optax optimizer, your data, in one call.

:func:`find_tickets` composes what the other modules offer; read it as an example of how to do so.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from lth_jax import levels, models
from lth_jax.errors import require
from lth_jax.initializers import Scheme, initialize
from lth_jax.keys import stream
from lth_jax.runs.results import mark_diverged
from lth_jax.tickets import masks, pruning
from lth_jax.tickets.masks import Predicate, is_kernel
from lth_jax.training import Recipe
from lth_jax.types import Collections, Mask, Params, PRNGKey, Split


class Tickets(NamedTuple):
    """Winning-ticket candidates of several seeds: ``start`` at ``masks`` is what one trains.

    Every leaf of ``start`` and ``collections`` has a leading axis *seed*; every leaf of ``masks`` has leading
    axes *level* and *seed*. ``results`` has dims ``seed, level``: ``test_accuracy``, ``kept`` and so on;
    ``diverged`` is True where a loss is NaN or infinite and at the levels after it, accuracies there are NaN.
    """

    start: Params
    collections: Collections
    masks: Mask
    results: xr.Dataset

    def ticket(self, seed: int, level: int) -> tuple[Params, Mask]:
        """The masked initial weights, and the mask, that one seed had at one level.

        Raises:
          ValueError: there is no such seed or level.
        """
        seeds, levels = self.results["seed"].values.tolist(), self.results.sizes["level"]
        require(seed in seeds, f"seed {seed}: expected one of {', '.join(map(str, seeds))}")
        require(0 <= level < levels, f"level {level}: expected 0 to {levels - 1}")
        index = seeds.index(seed)
        mask = jax.tree.map(lambda leaf: jnp.asarray(leaf[level, index]), self.masks)
        return masks.apply(mask, jax.tree.map(lambda leaf: leaf[index], self.start)), mask


def find_tickets(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    data: Split,
    test: Split,
    seeds: Sequence[int] = tuple(range(42, 53)),
    levels: int = 10,
    epochs: int = 5,
    batch_size: int = 60,
    rate: float = 0.2,
    layers: Mapping[str, float] | None = None,
    scope: str = "layer",
    prunable: Predicate = is_kernel,
    initializer: Scheme | None = None,
) -> Tickets:
    """Iterative magnitude pruning with rewinding to θ0 (Frankle & Carbin 2019), all seeds at once.

    Args:
      module: maps float images ``[batch, height, width, channels]`` in [0, 1] to logits; batch statistics and
        dropout are looked after, see ``models.from_flax``.
      optimizer: fresh at every level.
      data: training examples: uint8 images ``[n, height, width, channels]``, int32 labels ``[n]``.
      test: evaluated at the end of every level.
      seeds: one independent run each; whole numbers below 2³¹, none twice.
      levels: rounds of training and pruning; level 0 is dense.
      epochs: trained at each level.
      batch_size: examples per step.
      rate: fraction of the survivors pruned after each level, see ``pruning.rates``.
      layers: other rates for some layers, by name.
      scope: rank weights inside each ``layer`` or ``global``ly.
      prunable: which parameters, by path and leaf; kernels by default.
      initializer: draws the kernels, biases 0; the module's own initializers when not given. Kernels are
        taken for ``[*window, in, out]``, which attention's are not.

    Returns:
      Initial weights, the masks of every level, and labelled results.

    Raises:
      ValueError: an impossible seed, number, rate or scope, a layer that would lose its last weight, or a
        module without prunable parameters.
    """
    require(scope in pruning.SCOPES, f"unknown scope {scope!r}; expected one of {', '.join(pruning.SCOPES)}")
    seeds = _whole_numbers(seeds)
    for name, value in {"levels": levels, "epochs": epochs, "batch_size": batch_size}.items():
        require(value >= 1, f"{name} {value}: expected at least 1")
    examples = len(data.labels)
    require(batch_size <= examples, f"batch_size {batch_size}: larger than the {examples} training examples")
    network = models.from_flax(module)
    sample = jnp.zeros((1, *data.images.shape[1:]), jnp.float32)

    def initial(key: PRNGKey) -> tuple[Params, Collections]:
        params, collections = network.init(key, sample)
        return (params if initializer is None else initialize(key, params, initializer)), collections

    shapes, _ = jax.eval_shape(initial, jax.random.key(0))
    steps = epochs * (examples // batch_size)
    plan = levels.Plan(
        Recipe(network, optimizer, batch_size, steps, steps),
        rates=pruning.rates(shapes, rate, layers, prunable),
        prunable=masks.prunable(shapes, prunable),
        scope=scope,
    )
    pruning.check_scope(shapes, plan.rates, scope, levels)
    begin = jax.vmap(lambda seed: levels.begin(seed, *initial(stream(seed, "init")), plan))
    runs = jax.jit(begin)(jnp.asarray(seeds, jnp.int32))  # op by op, a module's init compiles for long
    played = levels.play(runs, data, {"train": data, "test": test}, plan, levels, select=_record)
    recorded = [jax.tree.map(np.asarray, kept) for _, kept in played]
    mask, record = jax.tree.map(lambda *leaves: np.stack(leaves), *recorded)
    values = {name: (("seed", "level"), array.T) for name, array in record.items()}
    labelled = mark_diverged(xr.Dataset(values, {"seed": seeds, "level": np.arange(levels)}))
    return Tickets(runs.params, runs.collections, mask, labelled)


def _whole_numbers(seeds: Sequence[int]) -> list[int]:
    """The seeds, if each can name a run's random streams."""
    try:
        numbers = [operator.index(seed) for seed in seeds]
    except TypeError as error:
        raise ValueError(f"seeds {seeds}: {error}") from None
    fits = all(-(2**31) <= number < 2**31 for number in numbers)
    distinct = len(set(numbers)) == len(numbers) > 0
    require(fits and distinct, f"seeds {seeds}: expected whole numbers below 2³¹, at least one, none twice")
    return numbers


def _record(level: levels.Level) -> tuple[Mask, dict[str, jax.Array]]:
    """A level's mask and measurements."""
    return level.mask, levels.measurements(level)
