"""E7 · Stability and linear mode connectivity (Frankle et al., arXiv:1903.01611 and arXiv:1912.05671).

    python -m experiments stability                    embedded digits, minutes
    python -m experiments stability --preset paper     full MNIST, an hour and a half on two cores

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
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, PyTree

from lth_jax import data, initializers, models, search
from lth_jax.analysis import connectivity, figures, records, tables
from lth_jax.errors import require
from lth_jax.keys import stream
from lth_jax.levels import Start, Ticket, train_network
from lth_jax.runs import axis, results
from lth_jax.runs.config import check_batches, check_choices, check_distinct, check_limits, option
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Done, Stage, run_stages
from lth_jax.search import Choices, Search
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
    "rewinds": (0, 1_000_000_000),
    "table_levels": (0, 1_000),
    "table_epochs": (1, 10_000),
}


@dataclass(frozen=True)
class Config:
    """One experiment; every field is a flag."""

    dataset: str = option("mnist", "data set", data.DATASETS)
    hidden: tuple[int, ...] = option((300, 100), "widths of the hidden layers")
    seeds: tuple[int, ...] = option((42, 43, 44), "initializations, one run each")
    children: int = option(3, "orders of the examples that every network is trained in")
    levels: int = option(16, "rounds of training and pruning; the first is dense")
    rate: float = option(0.2, "fraction of all survivors pruned per level")
    epochs: int = option(24, "epochs at each level")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")
    rewinds: tuple[int, ...] = option((0, 500), "steps k that tickets are rewound to; controls at 0")
    points: int = option(connectivity.POINTS, "steps of the line between two networks")
    table_levels: int = option(11, "levels to the table's size, 10.7 % at 11; 0 leaves the table out")
    table_epochs: int = option(50, "epochs at each of them")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "rewinds")
        check_limits(self, LIMITS)


PRESETS = {
    "quick": {
        "dataset": data.EMBEDDED, "seeds": (42, 43), "children": 2, "levels": 4, "rate": 0.6, "epochs": 3,
        "rewinds": (0, 50), "points": 10, "table_levels": 3, "table_epochs": 3,
    },
    "paper": {},
}  # fmt: skip


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """Presets by name."""
    return PRESETS


def make_search(config: Config, dataset: data.Dataset, **changes: Any) -> Search:
    """The search of one k: levels, controls and copies."""
    network = models.from_linen(models.MLP(config.hidden, classes=dataset.classes))
    shapes = models.parameter_shapes(network, dataset.train_images.shape[1:])

    def initial(key: Array) -> tuple[Params, Any]:
        return initializers.initialize(key, shapes, initializers.get("xavier_normal")), {}

    choices = Choices(
        **{
            "levels": config.levels, "epochs": config.epochs, "batch_size": config.batch_size,
            "rate": config.rate, "scope": "global", "path_points": config.points, **changes,
        }
    )  # fmt: skip
    return search.prepare(
        network, optax.adam(config.learning_rate), len(dataset.train_labels), initial, choices
    )


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
    swept = [done[f"rewind {k}"].assign_coords(rewind=k) for k in config.rewinds]
    parts = [_side_by_side(swept)]
    if config.table_levels:
        parts.append(done["table"])
    attrs = results.attributes(
        config, experiment="stability", preset=job.preset, **dataset.attributes, seconds=seconds
    )
    return xr.merge(parts, combine_attrs="drop", compat="no_conflicts").assign_attrs(attrs)


def _side_by_side(swept: Sequence[xr.Dataset]) -> xr.Dataset:
    """The results of each k along ``rewind``; NaN where one has no such network."""
    most = max(swept, key=lambda each: each.sizes["network"])
    filled = dict.fromkeys(most.data_vars, np.nan) | {"diverged": False}
    joined = xr.concat(swept, "rewind", join="outer", fill_value=filled, combine_attrs="drop")
    return joined.sel(network=most["network"].values, parent=most["parent"].values)


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


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Test accuracy and error barrier, both in points, a row a level."""
    barriers, rows = measured["test_error_barrier"] * 100, []
    columns = [(0, name) for name in measured["parent"].values] if 0 in measured["rewind"] else []
    columns += [(int(k), "ticket") for k in measured["rewind"].values if k != 0]
    kept = measured["kept"].sel(network="ticket").mean(["rewind", "seed"]).values
    for level in measured["level"].values:
        row = [f"{kept[level]:.2%}"]
        for k, parent in columns:
            accuracy = measured["test_accuracy"].sel(rewind=k, level=level)
            copies = accuracy.sel(
                network=[n for n in accuracy["network"].values if str(n).split("/")[0] == parent]
            )
            height = barriers.sel(rewind=k, level=level, parent=parent)
            row.append(f"{tables.accuracy(copies.values.ravel())}, {float(height.mean()):.2f}")
        rows.append(row)
    header = ["kept", *(f"{figures.label(parent)}, k = {k}" for k, parent in columns)]
    return "Test accuracy (%), mean ± std over copies, and the mean error barrier (points)", header, rows


def draw_figures(measured: xr.Dataset, folder: Path) -> list[Path]:
    """Barrier and accuracy against size, the lines themselves, barrier against k."""
    drawn = {
        "barrier": lambda: draw_against_size(measured),
        "lines": lambda: draw_lines(measured),
        "rewinding": lambda: draw_rewinding(measured),
    }
    return figures.save_all(drawn, folder)


def draw_against_size(measured: xr.Dataset) -> Any:
    """Error barrier and test accuracy of tickets and controls at k = 0, against weights kept."""
    figure, (left, right) = figures.new_figure(2)
    at = measured.isel(rewind=0)
    kept = at["kept"].sel(network="ticket").mean("seed").values * 100
    for index, parent in enumerate(at["parent"].values.tolist()):
        height = (
            at["test_error_barrier"].sel(parent=parent).transpose(..., "level").values.reshape(-1, len(kept))
        )
        figures.bands(left, kept, height * 100, figures.label(parent), index, percentiles=(0, 100))
        copies = [n for n in at["network"].values.tolist() if n.split("/")[0] == parent]
        accuracy = (
            at["test_accuracy"].sel(network=copies).transpose(..., "level").values.reshape(-1, len(kept))
        )
        figures.bands(right, kept, accuracy * 100, figures.label(parent), index, percentiles=(0, 100))
    left.axhline(2, color="#000000", linewidth=0.8, linestyle=":")
    left.set(ylabel="error barrier (points), mean and range")
    right.set(ylabel="test accuracy (%), mean and range")
    for ax in (left, right):
        figures.kept_axis(ax, kept / 100)
        ax.legend(fontsize=7)
    return figure


def draw_lines(measured: xr.Dataset) -> Any:
    """Test error along the line at some sizes, all pairs: a column a network, a line a size."""
    at = measured.isel(rewind=0)
    parents, levels = (
        at["parent"].values.tolist(),
        np.unique(np.linspace(0, measured.sizes["level"] - 1, 5).astype(int)),
    )
    figure, axes = figures.new_figure(len(parents), width=4.2, squeeze=False, sharey=True)
    kept = at["kept"].sel(network="ticket").mean("seed").values
    for ax, parent in zip(axes[0], parents, strict=True):
        for index, level in enumerate(levels):
            lines = (
                1 - at["test_accuracy_path"].sel(parent=parent, level=level).transpose(..., "share").values
            )
            flat = lines.reshape(-1, lines.shape[-1]) * 100
            figures.bands(ax, at["share"].values, flat, f"{kept[level]:.1%}", index, percentiles=(0, 100))
        ax.set(title=figures.label(parent), xlabel="place on the line")
    axes[0][0].set_ylabel("test error (%), mean and range")
    axes[0][-1].legend(fontsize=7, title="kept")
    return figure


def draw_rewinding(measured: xr.Dataset) -> Any:
    """Error barrier of tickets against size, a line for each k."""
    figure, ax = figures.new_figure()
    kept = measured["kept"].sel(network="ticket").mean(["rewind", "seed"]).values
    for index, k in enumerate(measured["rewind"].values):
        height = measured["test_error_barrier"].sel(rewind=k, parent="ticket").transpose(..., "level").values
        figures.bands(
            ax, kept * 100, height.reshape(-1, len(kept)) * 100, f"k = {int(k)}", index, percentiles=(0, 100)
        )
    ax.axhline(2, color="#000000", linewidth=0.8, linestyle=":")
    figures.kept_axis(ax, kept)
    ax.set(ylabel="error barrier of tickets (points), mean and range")
    ax.legend(fontsize=7)
    return figure
