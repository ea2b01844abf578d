"""Levels of small networks on tiny digits: a plan, runs that play it, and how their trees are compared."""

import jax
import numpy as np
import optax
from conftest import make_digits

from lth_jax import initializers, levels, models, training
from lth_jax.keys import stream
from lth_jax.runs import axis, sweep
from lth_jax.tickets import controls, masks, schedules

NETWORK = models.from_flax(models.MLP((8,), classes=4))
SHAPES = models.parameter_shapes(NETWORK, (4, 4, 1))
PRUNABLE = masks.prunable(SHAPES)
SCHEME, LEVELS, SEEDS = initializers.get("xavier_normal"), 4, (42, 43, 44)
DIGITS = make_digits()
LAYERS = ("hidden_0", "output")
reinit = controls.reinit(lambda key: initializers.initialize(key, SHAPES, SCHEME))
MOVED = controls.rearrange(PRUNABLE)


def initial(seed):
    return initializers.initialize(stream(seed, "init"), SHAPES, SCHEME)


def make_plan(rate=0.2, count=LEVELS, eval_every=20, **changes):
    recipe = training.Recipe(NETWORK, optax.adam(0.01), 20, 20, eval_every)
    sizes = changes.pop("sizes", None) or schedules.iterative(SHAPES, PRUNABLE, [rate] * (count - 1))
    return levels.Plan(recipe, sizes, PRUNABLE, **changes)


def begin(plan, seeds=SEEDS, **options):
    return axis.stack([levels.begin(seed, initial(seed), {}, plan, **options) for seed in seeds])


def play(plan, seeds=SEEDS, count=None, watch=None, **options):
    watch = {"test": DIGITS} if watch is None else watch
    options = {"record": lambda outcome: outcome, "inspect": lambda run: run.ticket.mask} | options
    return list(sweep.run_levels(begin(plan, seeds), DIGITS, plan, count, watch=watch, **options))


def one_shot_sizes(shapes, prunable, rates):
    removed = [1 - (1 - rates[0]) ** n for n in range(1, len(rates) + 1)]
    return schedules.one_shot(shapes, prunable, removed)


def at(tree, *index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def kernels(tree):
    return {layer: np.asarray(tree[layer]["kernel"]) for layer in LAYERS}


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)
