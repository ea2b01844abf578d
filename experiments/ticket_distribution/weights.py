"""D_n of E2's tickets, on the host: histograms, shape, and the parametric model fitted and judged.

Wherever there is more than one trial, the model for a trial is fitted to the tickets of the others: what it
says of this trial's D_n, and what is drawn from it for this trial's network, it has not seen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from experiments.ticket_distribution.config import Config
from experiments.ticket_distribution.networks import Ticket
from lth_jax import initializers
from lth_jax.analysis import distributions
from lth_jax.tickets import masks

BINS = 240
"""Of a histogram, from −r to r; even, so that 0 is an edge."""
NETWORK = "network"
"""Stands beside the layers' names for all of them together."""
FITS = ("initial", "symmetric", "drifting", "other trial")
"""What D_n is compared with: the initial density, the model without and with drift, another trial's D_n."""

Values = Mapping[str, np.ndarray]
"""Weights by layer."""


class Samples(NamedTuple):
    """Weights by layer, a list entry a trial; those of tickets by number of prunings, as text."""

    theta0: Sequence[Values]
    initial: Mapping[str, Sequence[Values]]  # nonzero(m ⊙ θ0)
    trained: Mapping[str, Sequence[Values]]  # nonzero(m ⊙ θ), θ as the mask was ranked


def collect(theta0: PyTree, tickets: Mapping[str, Ticket], of: PyTree[bool]) -> Samples:
    """The weights of all trials, from trees with a leading axis *trial*."""
    trials = range(jax.tree.leaves(theta0)[0].shape[0])

    def one(tree: PyTree, trial: int) -> PyTree:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[trial], tree)

    def kept(ticket: Ticket, source: PyTree) -> list[Values]:
        pairs = [(one(ticket.mask, t), one(source, t)) for t in trials]
        found = [distributions.kept_values(mask, params, of) for mask, params in pairs]
        # Trained weights of a trial that diverged may be NaN.
        return [{layer: v[np.isfinite(v)] for layer, v in trial.items()} for trial in found]

    dense = [one(theta0, t) for t in trials]
    return Samples(
        [distributions.kept_values(masks.ones_like(params), params, of) for params in dense],
        {n: kept(ticket, ticket.start) for n, ticket in tickets.items()},
        {n: kept(ticket, ticket.trained) for n, ticket in tickets.items()},
    )


def whole(values: Values) -> dict[str, np.ndarray]:
    """The layers, and behind them the network as one."""
    return {**values, NETWORK: np.concatenate(list(values.values()))}


def layer_fans(shapes: PyTree, of: PyTree[bool]) -> dict[str, tuple[int, int]]:
    """Fan-in and fan-out of each prunable layer."""
    leaves = zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(of), strict=True)
    return {
        "/".join(masks.path_names(path)[:-1]): initializers.fans(leaf.shape)
        for (path, leaf), yes in leaves
        if yes
    }


def fit_models(
    samples: Samples, config: Config, fans: Mapping[str, tuple[int, int]], drifting: bool = True
) -> dict[str, list[dict[str, distributions.Model]]]:
    """For each number of prunings and each trial a model of every layer, fitted to the other trials."""
    scheme = initializers.get(config.initialization)
    models: dict[str, list] = {}
    for n, trials in samples.initial.items():
        models[n] = []
        for trial in range(len(trials)):
            others = [values for t, values in enumerate(trials) if t != trial] or [trials[trial]]
            pooled = {layer: np.concatenate([values[layer] for values in others]) for layer in fans}
            models[n].append(
                {layer: distributions.fit(pooled[layer], scheme, fans[layer], drifting) for layer in fans}
            )
    return models


def parts_of(models: Mapping[str, distributions.Model], values: Values, part: str) -> list:
    """A layer's model, or the network's mixture, as ``distributions`` wants it."""
    if part != NETWORK:
        return [(1.0, models[part])]
    return distributions.mixture(models, {layer: len(values[layer]) for layer in models})


def quantile_tables(
    models: Mapping[str, Sequence[Mapping[str, distributions.Model]]], samples: Samples, config: Config
) -> dict[str, dict[str, np.ndarray]]:
    """What ``parametric`` networks draw from: quantiles ``[trial, point]``, by prunings and layer."""
    pooled = config.pool == "network"

    def table(fitted: Any, values: Values, layer: str) -> np.ndarray:
        return distributions.quantiles(parts_of(fitted, values, NETWORK if pooled else layer))

    return {
        n: {
            layer: np.stack([table(m, v, layer) for m, v in zip(trials, samples.initial[n], strict=True)])
            for layer in trials[0]
        }
        for n, trials in models.items()
    }


def describe(
    samples: Samples,
    models: Mapping[str, Sequence[Mapping[str, distributions.Model]]],
    config: Config,
    fans: Mapping[str, tuple[int, int]],
) -> xr.Dataset:
    """All that results say of D_n, its dimensions ``prunings``, ``layer`` or ``part``, ``seed``."""
    symmetric = fit_models(samples, config, fans, drifting=False)
    used = samples.initial if config.source == "initial" else samples.trained
    layers, ns = list(fans), list(samples.initial)
    cells: dict[str, list] = {"distance": [], "positive_share": [], "divot_ratio": []}
    for n in ns:
        gaps = [distances(samples, models, symmetric, config, fans, n, t) for t in range(len(used[n]))]
        shapes = [shape(values) for values in used[n]]
        cells["distance"].append(gaps)
        for index, name in enumerate(("positive_share", "divot_ratio")):
            cells[name].append([one[index] for one in shapes])
    by_part, by_layer = ("prunings", "seed", "part"), ("prunings", "seed", "layer")
    described = xr.Dataset(
        {name: (by_part, np.array(cells[name])) for name in ("positive_share", "divot_ratio")}
        | {"distance": (("prunings", "seed", "part", "fit"), np.array(cells["distance"]))}
        | {
            name: (
                by_layer,
                np.array([[[getattr(m[k], name) for k in layers] for m in models[n]] for n in ns]),
            )
            for name in ("threshold", "displacement", "drift")
        }
        | {"spread": ("layer", [models[ns[0]][0][layer].spread for layer in layers])}
        | {
            "kept_weights": (
                by_layer,
                [[[len(v[k]) for k in layers] for v in samples.initial[n]] for n in ns],
            )
        },
        {"part": [*layers, NETWORK], "layer": layers, "fit": list(FITS), "prunings": [int(n) for n in ns]},
    )
    return described.merge(histograms(samples)).assign_coords(seed=list(config.seeds))


def distances(
    samples: Samples, models: Any, symmetric: Any, config: Config, fans: Any, n: str, trial: int
) -> list[list[float]]:
    """Kolmogorov–Smirnov distances ``[part][fit]`` of one trial's nonzero(m ⊙ θ0), as in ``FITS``."""
    scheme, trials = initializers.get(config.initialization), samples.initial[n]
    before = {layer: distributions.initial(scheme, fan) for layer, fan in fans.items()}
    values, other = trials[trial], trials[(trial + 1) % len(trials)]
    rows = []
    for part, sample in whole(values).items():
        row = []
        for fitted in (before, symmetric[n][trial], models[n][trial]):
            parts = parts_of(fitted, values, part)
            row.append(distributions.distance(sample, lambda w, p=parts: distributions.cumulative(p, w)))
        another = distributions.distance(sample, whole(other)[part]) if other is not values else np.nan
        rows.append([*row, another])
    return rows


def shape(values: Values) -> tuple[list[float], list[float]]:
    """Two numbers a part: the share of positive weights, and the depth of the divot at 0.

    The latter is the share of weights smaller than a tenth of the median magnitude, divided by 5 %, which it
    would be if the magnitudes below the median were spread evenly, as a uniform draw's are: 0 for a hole, 1
    for no divot.
    """
    positive, divot = [], []
    for sample in whole(values).values():
        magnitudes, some = np.abs(sample), len(sample) > 0
        positive.append(float(np.mean(sample > 0)) if some else np.nan)
        divot.append(float(np.mean(magnitudes < np.median(magnitudes) / 10) / 0.05) if some else np.nan)
    return positive, divot


def histograms(samples: Samples) -> xr.Dataset:
    """Counts of initial weights (all, and those kept) and of trained kept ones, by layer and trial."""
    variables, coordinates = {}, {}
    sources = {"initial": samples.initial, "trained": samples.trained}
    layers = list(samples.theta0[0])
    for source, tickets in sources.items():
        every = [*samples.theta0, *(values for trials in tickets.values() for values in trials)]
        reach = max(float(np.abs(whole(values)[NETWORK]).max(initial=1e-30)) for values in every)
        edges = np.linspace(-reach, reach, BINS + 1)

        def count(trials: Sequence[Values], edges: np.ndarray = edges) -> list[list[np.ndarray]]:
            return [[np.histogram(values[layer], edges)[0] for layer in layers] for values in trials]

        weight = f"{source}_weight"
        coordinates[weight] = (edges[1:] + edges[:-1]) / 2
        cell = ("seed", "layer", weight)
        variables[f"{source}_histogram"] = (("prunings", *cell), [count(t) for t in tickets.values()])
        if source == "initial":
            variables["dense_histogram"] = (cell, count(samples.theta0))
    return xr.Dataset(variables, coordinates)
