"""E7 · Stability and linear mode connectivity (Frankle et al., arXiv:1903.01611 and arXiv:1912.05671).

    python -m experiments stability                    embedded digits, minutes
    python -m experiments stability --preset paper     full MNIST, an hour and a half on two cores
    python -m experiments stability --preset paper-resnet20 --data-dir DIR             CIFAR-10, for a GPU

LeNet-300-100, Adam 1.2e-3, batch 60, 24 epochs (24,000 iterations on MNIST), 20 % of all weights pruned
globally at each level, rewound to step k. At every level three copies of each network start from one place
and see the examples in three orders: the error on the line between any two, at 31 points, says whether they
lie in one basin. At k = 0 beside the ticket: the same mask with fresh weights (``reinit``) and a random mask
of as many weights in each layer (``random_mask``). An error barrier is the highest error on the line less the
mean of its ends; a network is *stable* where it is below 2 points, and *matches* where its accuracy is within
0.2 points of the dense network's.

The part ``table`` is that of 1903.01611 at 10.7 %, 50 epochs a level: how far two copies end from each other
(*order*), and how far a subnetwork ends from the same weights trained inside the whole network (*pruning*).
The paper does not say whether layers are ranked apart; here they are ranked together, as in 1912.05671.

ResNet-20: SGD with momentum 0.9 and weight decay 1e-4 of kernels, batch 128, learning rate 0.1 divided by 10
at 32/63 and 48/63 of 63,000 iterations, images flipped and cropped. Batch statistics on the line are those of
100 training batches: those of mixed weights are neither network's. No table.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, PyTree

from lth_jax import augmentation, data, initializers, models, networks, optimizers, search
from lth_jax.analysis import connectivity, records
from lth_jax.errors import require
from lth_jax.keys import stream
from lth_jax.levels import Start, Ticket, train_network
from lth_jax.runs import axis, results
from lth_jax.runs.config import check_batches, check_choices, check_distinct, check_limits, option
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.search import Choices, Search
from lth_jax.tasks import Task, classification
from lth_jax.tickets import masks
from lth_jax.training import splits
from lth_jax.types import Mask, Params, Split

SUMMARY = "E7: stability to the order of the examples (Frankle et al. 2019 and 2020)"
CONTROLS = ("reinit", "random_mask")
KINDS = ("ticket", "random_mask")
"""Of the table's rows."""

LIMITS = {
    "levels": (1, 1_000),
    "epochs": (1, 10_000),
    "children": (2, 100),
    "points": (1, 10_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "rate": (1e-4, 0.9999),
    "hidden": (1, 100_000),
    "width": (1, 10_000),
    "rewinds": (0, 1_000_000_000),
    "table_levels": (0, 1_000),
    "table_epochs": (1, 10_000),
}


NETWORKS = ("mlp", "resnet20")
DROPS = (32 / 63, 48 / 63)
"""Where ResNet-20's learning rate is divided by 10, as shares of its iterations."""


@dataclass(frozen=True)
class Config:
    """One experiment; every field is a flag."""

    network: str = option("mlp", "what is trained, and how", NETWORKS)
    dataset: str = option("mnist", "data set", data.DATASETS)
    hidden: tuple[int, ...] = option((300, 100), "widths of the mlp's hidden layers")
    width: int = option(16, "channels of resnet20's first convolution")
    seeds: tuple[int, ...] = option((42, 43, 44), "initializations, one run each")
    children: int = option(3, "orders of the examples that every network is trained in")
    levels: int = option(16, "rounds of training and pruning; the first is dense")
    rate: float = option(0.2, "fraction of all survivors pruned per level")
    epochs: int = option(24, "epochs at each level")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "of Adam, or the highest of resnet20's SGD")
    rewinds: tuple[int, ...] = option((0, 500), "steps k that tickets are rewound to; controls at 0")
    points: int = option(connectivity.POINTS, "steps of the line between two networks")
    table_levels: int = option(11, "levels to the table's size, 10.7 % at 11; 0 leaves the table out")
    table_epochs: int = option(50, "epochs at each of them")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "rewinds")
        check_limits(self, LIMITS)
        table = self.network == "mlp" or self.table_levels == 0
        require(table, f"--table-levels {self.table_levels}: the table is of --network mlp; say 0")


PRESETS = {
    "quick": {
        "dataset": data.EMBEDDED, "seeds": (42, 43), "children": 2, "levels": 4, "rate": 0.6, "epochs": 3,
        "rewinds": (0, 50), "points": 10, "table_levels": 3, "table_epochs": 3,
    },
    "paper": {},
    "paper-resnet20": {
        "network": "resnet20", "dataset": "cifar10", "levels": 20, "epochs": 162, "batch_size": 128,
        "learning_rate": 0.1, "rewinds": (0, 500, 2000), "table_levels": 0,
    },
}  # fmt: skip


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """Presets by name."""
    return PRESETS


def make_search(config: Config, dataset: data.Dataset, **changes: Any) -> Search:
    """The search of one k: levels, controls and copies."""
    examples = len(dataset.train_labels)
    network, initial, optimizer, task = trained_as(config, dataset, changes.get("epochs", config.epochs))
    choices = Choices(
        **{
            "levels": config.levels, "epochs": config.epochs, "batch_size": config.batch_size,
            "rate": config.rate, "scope": "global", "path_points": config.points,
            "path_statistics": "recomputed", **changes,
        }
    )  # fmt: skip
    return search.prepare(network, optimizer, examples, initial, choices, task)


def trained_as(
    config: Config, dataset: data.Dataset, epochs: int
) -> tuple[models.Network, search.Initial, optax.GradientTransformation, Task]:
    """The network, how a run of it begins, its optimizer, and its task."""
    image = dataset.train_images.shape[1:]
    if config.network == "mlp":
        network = models.from_linen(models.MLP(config.hidden, classes=dataset.classes))
        shapes = models.parameter_shapes(network, image)
        glorot = initializers.get("xavier_normal")
        adam = optax.adam(config.learning_rate)
        return network, lambda key: (initializers.initialize(key, shapes, glorot), {}), adam, classification()
    network = models.from_linen(networks.ResNet(20, dataset.classes, width=config.width))
    steps = epochs * (len(dataset.train_labels) // config.batch_size)
    schedule = optimizers.piecewise(config.learning_rate, [round(share * steps) for share in DROPS])
    sgd = optimizers.with_decay(
        lambda rate: optax.sgd(rate, 0.9), schedule, 1e-4, only=optimizers.is_kernel_by_name
    )
    statistics = augmentation.normalize(*augmentation.statistics(dataset.train_images))
    task = augmentation.augmented(classification(), augmentation.flip, augmentation.crop(4), statistics)
    return network, lambda key: network.init(key, jnp.zeros((1, *image), jnp.float32)), sgd, task


def search_of(config: Config, dataset: data.Dataset, k: int) -> Search:
    """Levels rewound to k; the controls belong to k = 0."""
    controls = CONTROLS if k == 0 else ()
    return make_search(config, dataset, rewind=k, children=config.children, controls=controls)


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    examples = len(dataset.train_labels)
    check_batches(config, examples, epochs=("epochs", "table_epochs"))
    steps = config.epochs * (examples // config.batch_size)
    for k in config.rewinds:
        require(k < steps, f"--rewinds {k}: a level has {steps:,} iterations")
    try:
        for levels in {config.levels, config.table_levels or 1}:
            make_search(config, dataset, levels=levels)
    except ValueError as error:
        raise type(error)(f"--levels: {error}") from None


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Run or resume every stage; the labelled results."""
    both = splits(dataset)
    stages = [stage_of(config, job, dataset, both, k) for k in config.rewinds]
    if config.table_levels:
        stages += table_stages(config, job, dataset, both)
    done, seconds = run_stages(job, stages)
    parts = [results.side_by_side({k: done[f"rewind {k}"] for k in config.rewinds}, "rewind")]
    if config.table_levels:
        parts.append(done["table"])
    attrs = results.attributes(
        config, experiment="stability", preset=job.preset, **dataset.attributes, seconds=seconds
    )
    return xr.merge(parts, combine_attrs="drop", compat="no_conflicts").assign_attrs(attrs)


def stage_of(config: Config, job: Job, dataset: data.Dataset, both: tuple[Split, Split], k: int) -> Stage:
    """All levels rewound to k."""
    found = search_of(config, dataset, k)
    networks = len(config.seeds) * len(found.plan.networks)

    def compute(done: Done) -> xr.Dataset:
        train, test = both
        swept, _ = search.run(found, job, config.seeds, train, {"test": test}, part=f"rewind {k}")
        return records.labelled(found.plan, found.shapes, swept, config.seeds)

    def describe(found: xr.Dataset) -> str:
        height = found["test_error_barrier"].sel(parent="ticket").max("level").mean() * 100
        return f"highest barrier of tickets {float(height):.2f} points"

    steps = networks * config.levels * (found.plan.recipe.steps - found.plan.first)
    return Stage(f"rewind {k}", compute, describe, networks, steps, float(steps))


def table_stages(config: Config, job: Job, dataset: data.Dataset, both: tuple[Split, Split]) -> list[Stage]:
    """The tickets of the table's size, and what is trained from them."""
    train, test = both
    levels, seeds = config.table_levels, config.seeds
    found = make_search(config, dataset, levels=levels, epochs=config.table_epochs)
    one, level = found.plan.recipe.steps, len(found.plan.networks) * len(seeds)

    def tickets(done: Done) -> xr.Dataset:
        swept, _ = search.run(found, job, seeds, train, {"test": test}, part="table tickets")
        parts = {f"mask_{place}": leaf[-1] for place, leaf in enumerate(swept.inspected)}
        axes = [
            results.label({name: leaf}, {"seed": seeds}, {f"byte_{name}": None})
            for name, leaf in parts.items()
        ]
        return xr.merge(axes)

    def table(done: Done) -> xr.Dataset:
        packed = [done["table tickets"][f"mask_{n}"].values for n in range(len(done["table tickets"]))]
        return train_table(
            config, job, both, found, records.unpacked(packed, found.shapes, found.plan.prunable)
        )

    count = len(seeds) * (len(KINDS) * config.children + 1)
    return [
        Stage(
            "table tickets", tickets, lambda found: "masks", level, levels * level * one, levels * level * one
        ),
        Stage("table", table, describe_table, count, count * one, count * one),
    ]


def describe_table(found: xr.Dataset) -> str:
    """The tickets' row in a few words."""
    row = found.sel(kind="ticket").mean()
    return f"order {float(row['order_distance']):.1f}, pruning {float(row['pruning_distance']):.1f} apart"


def train_table(config: Config, job: Job, both: tuple[Split, Split], found: Search, kept: Mask) -> xr.Dataset:
    """Copies of the ticket and of a random mask, and the whole network, compared.

    Args:
      config: the experiment.
      job: its folder.
      both: training and test examples.
      found: the search that the tickets are of.
      kept: their masks, ``[seed, ...]``.
    """
    plan, level = found.plan, config.table_levels - 1
    count = config.children

    def starts(seed: Array, mask: Mask) -> Start:
        run = found.begin(seed)
        theta0, whole = run.ticket.params, run.ticket.mask
        random = masks.permute(stream(seed, "mask", level), mask, plan.prunable)
        order = [(each, copy) for each in (mask, random) for copy in range(count)] + [(whole, 0)]
        return axis.stack(
            [
                Start(seed, jnp.asarray(level), Ticket(theta0, each, {}), {}, {}, jnp.asarray(copy))
                for each, copy in order
            ]
        )

    def one(start: Start, data: Split, test: Split) -> tuple[Params, PyTree]:
        outcome = train_network(start, data, {}, plan.recipe, final={"test": test})
        return outcome.trained.params, outcome.measured["test"]["accuracy"]

    seeds = jnp.asarray(config.seeds)
    begun = axis.flatten(jax.jit(jax.vmap(starts))(seeds, jax.tree.map(jnp.asarray, kept)))
    trained, accuracy = axis.map_runs(one, chunk=job.chunk)(begun, *axis.replicate(both))
    networks = len(KINDS) * count + 1
    weights, mask = axis.unflatten((trained, begun.ticket.mask), networks)
    first, second = np.triu_indices(count, 1)
    far = jax.jit(functools.partial(apart, prunable=plan.prunable))
    order, pruning = [], []
    for kind in range(len(KINDS)):
        at = kind * count
        order.append(far(weights, mask, jnp.asarray(at + first), jnp.asarray(at + second)))
        pruning.append(far(weights, mask, jnp.asarray([at]), jnp.asarray([networks - 1])))
    pairs = [f"{i + 1}-{j + 1}" for i, j in zip(first, second, strict=True)]
    whole = accuracy.reshape(len(config.seeds), networks)
    return xr.merge(
        [
            _labelled("order", order, config.seeds, {"pair": pairs}),
            _labelled("pruning", [jax.tree.map(lambda x: x[:, 0], each) for each in pruning], config.seeds),
            results.label(
                {"table_accuracy": whole[:, :-1].reshape(len(config.seeds), len(KINDS), count)},
                {"seed": config.seeds}, {"kind": list(KINDS)}, {"copy": range(1, count + 1)},
            ),
            results.label({"dense_accuracy": whole[:, -1]}, {"seed": config.seeds}),
        ]
    )  # fmt: skip


def apart(weights: Params, mask: Mask, first: Array, second: Array, prunable: PyTree) -> tuple[Array, Array]:
    """Distance and angle ``[seed, pair]`` over the weights that the first of each pair keeps."""

    def of_pair(weights: Params, mask: Mask, i: Array, j: Array) -> tuple[Array, Array]:
        at = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], tree)  # noqa: E731
        counted = jax.tree.map(lambda kept, yes: kept & yes, at(mask, i), prunable)
        return connectivity.distance(at(weights, i), at(weights, j), counted)

    over_pairs = jax.vmap(of_pair, in_axes=(None, None, 0, 0))
    return jax.vmap(over_pairs, in_axes=(0, 0, None, None))(weights, mask, first, second)


def _labelled(name: str, found: Sequence[Any], seeds: Sequence[int], *axes: Any) -> xr.Dataset:
    """Distances and angles of each kind, ``[seed, ...]``, with names: ``kind`` becomes a dimension."""
    values = {
        f"{name}_{what}": np.stack([np.asarray(each[place]) for each in found])
        for place, what in enumerate(("distance", "angle"))
    }
    return results.label(values, {"kind": list(KINDS)}, {"seed": seeds}, *axes)
