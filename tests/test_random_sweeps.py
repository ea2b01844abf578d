"""Random sweeps, whole: sizes as counted beforehand, pruned weights 0, masks nested, the same if disturbed.

A *run* is one seed's way through all levels. What is compiled is a setting, of which there are few; every
setting is played with several drawn :class:`Numbers`, each with several seeds. What is disturbed is stopped
and resumed, on two devices; what is not runs through on one, all seeds together, and one of them alone.
"""

import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jaxtyping
import numpy as np
import optax
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_levels import assert_equal

import lth_jax
from lth_jax.analysis import ticket_files
from lth_jax.runs import axis, checkpoints
from lth_jax.tickets import early
from lth_jax.tickets.dynamic import RULES, Dynamic

EXAMPLES, CLASSES, LEVELS, SEEDS, PLAYS = 24, 3, 3, 11, 2
FIXED = {"levels": LEVELS, "epochs": 2, "batch_size": 8, "keep_weights": True, "sparse_kernels": "off"}
"""Six iterations a level; without compressed kernels a seed has the same bits alone and beside others."""


class Net(nn.Module):
    """Perhaps a convolution, some layers with or without biases and batch statistics, logits."""

    widths: tuple[int, ...] = ()
    bias: bool = True
    norm: bool = False
    filters: int = 0

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = images
        if self.filters:
            x = nn.relu(nn.Conv(self.filters, (2, 2), use_bias=self.bias)(x))
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = nn.Dense(width, use_bias=self.bias)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x) if self.norm else x
            x = nn.relu(x)
        return nn.Dense(CLASSES, use_bias=self.bias, name="output")(x)


class Setting(NamedTuple):
    """What is compiled."""

    module: nn.Module
    optimizer: optax.GradientTransformation
    options: dict[str, Any]

    @property
    def at_start(self):
        """Whether masks are there before training."""
        return self.options.get("prune_at") == "start"


DECAYING = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9))
STEPPED = optax.sgd(optax.piecewise_constant_schedule(0.2, {3: 0.1}), 0.9)
START = {"prune_at": "start", "score": early.SCORES["random"]}


def changing(rule):
    """The options of masks that change while networks are trained."""
    return {**START, "dynamic": Dynamic(RULES[rule], every=2)}


SETTINGS = {
    "one layer": Setting(Net(), optax.sgd(0.2), {"controls": ("reinit",)}),
    "three layers": Setting(Net((8, 5)), optax.adam(0.01), {"controls": ("shuffle", "random_mask")}),
    "no biases, learning rate rewound": Setting(Net((6,), bias=False), STEPPED, {"rewind": "lr:2"}),
    "weight decay, rewound to a step": Setting(Net((7,)), DECAYING, {"rewind": 2}),
    "batch statistics, never rewound": Setting(Net((5,), norm=True), optax.adamw(0.01), {"rewind": "none"}),
    "convolution, optimizer rewound": Setting(
        Net(filters=3), optax.adam(0.02), {"rewind": 3, "rewind_optimizer": "rewound"}
    ),
    "convolution, optimizer carried": Setting(
        Net((4,), filters=3, norm=True), optax.sgd(0.1, 0.9),
        {"rewind": "none", "rewind_optimizer": "carried", "controls": ("rearrange",)},
    ),
    "by its gradients at the start": Setting(
        Net((6, 4)), optax.sgd(0.1), {"prune_at": "start", "score": early.SCORES["snip"], "score_batch": 8}
    ),
    "masks that grow by gradients": Setting(Net((6,)), optax.adam(0.01), changing("rigl")),
    "masks that shrink gradually": Setting(Net((5, 4)), optax.sgd(0.1, 0.9), changing("gradual")),
}  # fmt: skip


class Numbers(NamedTuple):
    """What a compiled setting is played with.

    ``removed`` are percent: of the survivors after each level; with ``dense`` of the dense network at each
    level but the first. ``own`` is the output's instead of the first of them, 0 to spare it.
    """

    seeds: tuple[int, ...]
    examples: int
    removed: tuple[int, int]
    dense: bool
    own: int | None
    scope: str
    one_shot: bool
    stop: int
    alone: int


@st.composite
def numbers(draw, setting):
    """Seeds, examples, a schedule of sizes that empties no layer, and how what is disturbed is disturbed."""
    percent, seed = st.integers(5, 60), st.integers(-(2**31), 2**31 - 1)
    scope, dense = draw(st.sampled_from(["layer", "global"])), draw(st.booleans())
    root = draw(st.integers(4, 9))  # a density of root² percent is reached through one of ten times root
    several = bool(setting.module.widths or setting.module.filters) and not dense
    spared = st.sampled_from([None, 0])
    return Numbers(
        seeds=tuple(draw(st.lists(seed, min_size=SEEDS, max_size=SEEDS, unique=True))),
        examples=draw(st.integers(0, 2**32 - 1)),
        removed=(100 - 10 * root, 100 - root**2) if dense else (draw(percent), draw(percent)),
        dense=dense,
        own=draw(spared | percent if scope == "layer" else spared) if several else None,
        scope=scope,
        one_shot=not setting.at_start and draw(st.booleans()),
        stop=draw(st.integers(1, LEVELS - 1)),
        alone=draw(st.integers(0, SEEDS - 1)),
    )


def asked(chosen):
    """The numbers as ``find_tickets`` is told them."""
    found: dict[str, Any] = {"scope": chosen.scope, "one_shot": chosen.one_shot}
    if chosen.dense:
        return {**found, "density": (100 - chosen.removed[-1]) / 100}
    own = {} if chosen.own is None else {"layers": {"output": chosen.own / 100}}
    return {**found, **own, "rate": [percent / 100 for percent in chosen.removed]}


def examples_of(chosen):
    """Images and labels; the same for training and test."""
    rng = np.random.default_rng(chosen.examples)
    images = rng.normal(size=(EXAMPLES, 2, 3, 2)).astype(np.float32)
    return images, rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)


def percent_of(count, percent):
    """In whole numbers, rounded half to even."""
    whole, rest = divmod(count * percent, 100)
    return whole + (rest > 50 or (rest == 50 and whole % 2 == 1))


def left(count, chosen, own=None):
    """How many of so many weights each level keeps."""
    kept = [count]
    for percent in chosen.removed if own is None else (own, own):
        dense, before = percent_of(count, 100 - percent), kept[-1]
        kept.append(dense if chosen.dense else before - percent_of(before, percent))
    return kept


def check_counts(results, chosen):
    """Every network of every seed keeps exactly as many weights as can be counted beforehand."""
    kept = results["kept_weights"].transpose("level", "layer", ...)
    sizes = dict(zip(results["layer"].values.tolist(), results["weights"].values.tolist(), strict=True))
    own = {name: chosen.own if name == "output/kernel" else None for name in sizes}
    if chosen.scope == "layer":
        for name, size in sizes.items():
            for level, count in enumerate(left(size, chosen, own[name])):
                assert (kept.sel(level=level, layer=name) == count).all(), (name, level, count)
        return
    ranked = [name for name in sizes if own[name] is None]
    for name in sizes.keys() - ranked:
        assert (kept.sel(layer=name) == sizes[name]).all(), name
    for level, count in enumerate(left(sum(sizes[name] for name in ranked), chosen)):
        assert (kept.sel(level=level, layer=ranked).sum("layer") == count).all(), (level, count)


def check_zeros(tickets, seed):
    """Pruned weights are 0 after training, those of controls too."""
    networks = tickets.results.attrs["networks"].split(",")
    for level in range(LEVELS):
        mask = ticket_files.flat(tickets.ticket(seed, level)[1])
        for network in networks:
            at = tickets.results["kept_weights"].sel(seed=seed, level=level)
            at = at.sel(network=network) if "network" in at.dims else at
            weights = ticket_files.flat(tickets.trained(seed, level, network).params)
            for name in tickets.results["layer"].values.tolist():
                assert np.count_nonzero(weights[name]) <= at.sel(layer=name), (network, name, level)
            if network == "ticket":
                assert all((weights[name][~mask[name]] == 0).all() for name in mask), level


def check_masks(tickets, seed, setting, chosen):
    """Masks are nested, and what a level is without are the smallest of what was trained before it."""
    level_masks = [ticket_files.flat(tickets.ticket(seed, level)[1]) for level in range(LEVELS)]
    layers = tickets.results["layer"].values.tolist()
    for level, (before, after) in enumerate(itertools.pairwise(level_masks)):
        assert all((after[name] <= before[name]).all() for name in before), level
        if setting.at_start:
            continue
        trained = ticket_files.flat(tickets.trained(seed, 0 if chosen.one_shot else level).params)
        among = level_masks[0] if chosen.one_shot else before
        together = [name for name in layers if not (name == "output/kernel" and chosen.own == 0)]
        for group in [together] if chosen.scope == "global" else [[name] for name in together]:
            sizes, kept, there = (
                np.concatenate([np.ravel(tree[name]) for name in group]) for tree in (trained, after, among)
            )
            assert np.abs(sizes[there & ~kept]).max(initial=0) <= np.abs(sizes[kept]).min(), (level, group)


class Stopped(Exception):
    """What stands for the end of the process."""


@contextlib.contextmanager
def stopped_after(level):
    """End what runs when it has saved so many levels."""
    save = checkpoints.save

    def save_and_stop(folder, finished, tree):
        save(folder, finished, tree)
        if finished == level:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stopped):
        patch.setattr(checkpoints, "save", save_and_stop)
        yield


@contextlib.contextmanager
def on_one_device():
    """Runs beside each other lie on the second device alone."""
    mesh = axis.run_mesh(jax.devices()[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axis, "run_mesh", lambda devices=None: mesh)
        yield


def check_same(found, alone, seed):
    """A seed has the same bits in both searches."""
    one, other = (tickets.results.sel(seed=[seed]) for tickets in (found, alone))
    xr.testing.assert_identical(one, other)
    for level in range(LEVELS):
        assert_equal(found.ticket(seed, level), alone.ticket(seed, level))
        for network in found.results.attrs["networks"].split(","):
            assert_equal(*(tickets.trained(seed, level, network) for tickets in (found, alone)))


@pytest.mark.parametrize("name", SETTINGS)
def test_random_runs_keep_what_is_counted_and_are_the_same_if_disturbed(name, tally, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks of shapes are half of the time
    setting, played = SETTINGS[name], set()

    @settings(max_examples=PLAYS, deadline=None)
    @given(numbers(setting))
    def play(chosen):
        assume(chosen.examples > 0)  # the simplest of all, which comes first, is not worth one of so few
        examples, seed = examples_of(chosen), chosen.seeds[chosen.alone]

        def find(seeds, folder=None):
            return lth_jax.find_tickets(
                setting.module, setting.optimizer, examples, examples, seeds, folder=folder,
                **FIXED, **setting.options, **asked(chosen),
            )  # fmt: skip

        with tempfile.TemporaryDirectory() as folder:
            with stopped_after(chosen.stop):
                find(chosen.seeds, folder)
            assert checkpoints.numbers(Path(folder) / "checkpoints")[0] == chosen.stop
            found = find(chosen.seeds, folder)
        with on_one_device():
            undisturbed, alone = find(chosen.seeds), find((seed,))
        assert dict(found.results.sizes)["seed"] == SEEDS
        check_counts(found.results, chosen)
        for each in chosen.seeds:
            check_zeros(found, each)
            if "dynamic" not in setting.options:
                check_masks(found, each, setting, chosen)
            check_same(found, undisturbed, each)
        check_same(found, alone, seed)
        played.add(chosen)

    play()
    tally("random runs as counted", SEEDS * len(played))
