"""The report of E6: Table 1 with the published numbers, the text's numbers, the grid, the learned masks."""

import json
from collections.abc import Iterable

import numpy as np
import scipy
import xarray as xr

from experiments.supermask.published import (
    BASELINE,
    COLUMNS,
    GROUPS,
    NUMBERS,
    TABLE,
    TICKET,
    at_best_threshold,
    descriptions,
    follows_document,
    measured_numbers,
    table,
)
from experiments.supermask.zhou_claims import best_untrained, learned, trained
from lth_jax.analysis.stats import summary

DIGITS = {"size": 1, "final_loss": 3, "minimum_loss": 3, "iteration": 0}
TRIED = """The optimizer and its rate are the same for all four kinds. The paper's program takes SGD with
momentum 0.9, a rate of 100, batches of 250 and 2,000 epochs: 440,000 iterations."""


def plus_minus(values: np.ndarray, digits: int) -> str:
    """Mean ± standard deviation over the last axis."""
    found = summary(values)
    return f"{found.mean:.{digits}f} ± {found.std:.{digits}f}"


def is_outside(values: np.ndarray, mean: float, std: float) -> bool:
    """Whether our mean lies more than two published standard deviations from the published one."""
    return bool(abs(summary(values).mean - mean) > 2 * std)


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Table 1: a row a network; ours, and in parentheses what is published where the protocol is the same."""
    ours, compare = table(measured), follows_document(measured)
    rows, networks = [], ours["network"].values.tolist()
    order = [*(name for name in TABLE if name in networks), *(n for n in networks if n not in TABLE)]
    for name in order:
        row, published = ours.sel(network=name), TABLE.get(name) if compare else None
        category = TABLE[name].category if name in TABLE else "other"
        size = plus_minus(row["size"].values, 1) if name == TICKET else f"{float(row['size'].mean()):.1f}"
        if published:
            size += f" ({published.size:g}" + (f" ± {published.size_std:g})" if name == TICKET else ")")
        cells = [label(name), category, size]
        for column in COLUMNS:
            digits, values = DIGITS[column], row[column].values
            cell = plus_minus(values, digits)
            if published:
                mean, std = getattr(published, column)
                mark = " *" if is_outside(values, mean, std) else ""
                cell += f" ({mean:.{digits}f} ± {std:.{digits}f}){mark}"
            cells.append(cell)
        rows.append(cells)
    header = ["network", "category", "size (%)", "final loss", "minimal loss", "iteration of the minimum"]
    told = "; published in parentheses, * = farther than two published standard deviations" if compare else ""
    title = f"Table 1: validation loss (nats), mean ± std over {measured.sizes['seed']} seeds{told}"
    return title, header, rows


def label(name: str) -> str:
    """A network's name for people."""
    return "Lottery ticket" if name == TICKET else name


def notes(measured: xr.Dataset) -> str:
    """The report's other tables."""
    parts = [text_numbers(measured), group_losses(measured), tickets(measured)]
    parts += [beside_published(measured)] if follows_document(measured) else []
    parts += [deviations(measured), data_order(measured)]
    parts += [grid_table(measured)] if "criterion" in measured.dims else []
    parts += [learned_table(measured)] if "weights" in measured.dims else []
    return "\n\n".join(part for part in parts if part)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def text_numbers(measured: xr.Dataset) -> str:
    """The numbers of the document's text."""
    found, compare = measured_numbers(measured), follows_document(measured)
    rows = []
    for number in NUMBERS:
        if number.identifier in found:
            values, digits = found[number.identifier], 1 if number.unit == "%" else 3
            unit = " %" if number.unit == "%" else ""
            cells = [number.text, plus_minus(values, digits) + unit]
            cells.append(f"{number.mean:g} ± {number.std:g}{unit}" if compare else "")
            rows.append([*cells, f"{values.min():.{digits}f} … {values.max():.{digits}f}"])
    stops = measured["stop_iteration"].values
    published = "around 5000" if compare else ""
    extremes = f"{stops.min()} … {stops.max()}"
    rows.append(["iteration of the first minimum", plus_minus(stops, 0), published, extremes])
    config = json.loads(measured.attrs["config"])
    judged = "every parameter, biases included" if config["prune_biases"] else "kernels only"
    text = (
        f"Thresholds judge {judged}. Epochs {epochs(measured)}. The validation set is the test set, as "
        "documented."
    )
    header = ["number", "mean ± std over seeds", "published", "smallest … largest"]
    return f"## The recipe in numbers\n\n{text}\n\n{markdown(header, rows)}"


def beside_published(measured: xr.Dataset) -> str:
    """Published numbers that are no claims: how ours lie to them, which is no verdict."""
    text = (
        "Of the text's numbers those whose published spread is too wide for any number of our runs to show "
        'them equal, and all cells of Table 1. "Within" is a description: the wider a published spread, the '
        "more lies within it. The differences are Welch's, each alone."
    )
    rows = descriptions(measured)
    return f"## Beside the published\n\n{text}\n\n{markdown(['number', 'published', 'ours', 'lies'], rows)}"


def epochs(measured: xr.Dataset) -> str:
    """What the recipe's epochs do with the order of the images."""
    return "are shuffled" if json.loads(measured.attrs["config"])["shuffle"] else "keep the data set's order"


def group_losses(measured: xr.Dataset) -> str:
    """Final loss and size of the document's groups, over all networks and seeds of each."""
    ours, rows = table(measured), []
    for group in GROUPS:
        names = [n for n in ours["network"].values.tolist() if n in TABLE and TABLE[n].category == group]
        if names:
            chosen = ours.sel(network=names)
            cells = [plus_minus(chosen[column].values.ravel(), DIGITS[column]) for column in map(str, chosen)]
            rows.append([group, str(len(names)), *cells])
    header = ["group", "networks", "size (%)", "final loss", "minimal loss", "iteration"]
    compare = follows_document(measured)
    text = "\n\nThe high performers' final loss is published as 0.106 ± 0.016." if compare else ""
    return f"## Groups{text}\n\n{markdown(header, rows)}"


def tickets(measured: xr.Dataset) -> str:
    """Every seed's ticket, the smallest first: its loss follows its size."""
    ours = table(measured).sel(network=TICKET)
    untrained = at_best_threshold(measured, "masked_accuracy").values * 100
    rows = [
        [
            str(int(measured["seed"][i])),
            f"{float(measured['best_threshold'][i]):.2f}",
            f"{float(ours['size'][i]):.1f}",
            f"{untrained[i]:.1f}",
            f"{float(ours['final_loss'][i]):.3f}",
            f"{float(ours['minimum_loss'][i]):.3f}",
        ]
        for i in np.argsort(ours["size"].values, kind="stable")
    ]
    header = ["seed", "best threshold", "size (%)", "untrained accuracy (%)", "final loss", "minimal loss"]
    ranked = scipy.stats.spearmanr(ours["size"].values, ours["minimum_loss"].values).statistic
    follows = f" Rank correlation of size and minimal loss: {ranked:.2f}." if np.isfinite(ranked) else ""
    text = f"A seed's ticket is as large as its best threshold makes it.{follows}"
    return f"## The tickets, the smallest first\n\n{text}\n\n{markdown(header, rows)}"


def deviations(measured: xr.Dataset) -> str:
    """What lies farther than two published standard deviations away, by name."""
    if not follows_document(measured):
        return ""
    ours, found = table(measured), measured_numbers(measured)
    far = [n.text for n in NUMBERS if is_outside(found[n.identifier], n.mean, n.std)]
    far += [
        f"{label(name)}: {column.replace('_', ' ')}"
        for name, row in TABLE.items()
        for column in COLUMNS
        if is_outside(ours[column].sel(network=name).values, *getattr(row, column))
    ]
    count = len(NUMBERS) + len(TABLE) * len(COLUMNS)
    listed = "; ".join(far) or "none"
    below = {
        column: sum(
            bool(np.mean(ours[column].sel(network=name).values) < getattr(row, column)[0])
            for name, row in TABLE.items()
        )
        for column in COLUMNS
    }
    lower = ", ".join(f"{column.replace('_', ' ')} {number}" for column, number in below.items())
    return (
        "## Farther than two published standard deviations\n\n"
        f"{len(far)} of {count} published means with a standard deviation: {listed}.\n\n"
        f"Of the {len(TABLE)} networks, so many have a mean below the published: {lower}."
    )


def data_order(measured: xr.Dataset) -> str:
    """The three published numbers that tell in which order the document's program reads the images."""
    if not follows_document(measured):
        return ""
    ours = table(measured)
    rise = float((ours["final_loss"] - ours["minimum_loss"]).mean())
    published = np.mean([row.final_loss[0] - row.minimum_loss[0] for row in TABLE.values()])
    spread = summary(ours["final_loss"].sel(network=BASELINE).values).std
    stops = measured["stop_iteration"].values
    other = str(not json.loads(measured.attrs["config"])["shuffle"]).lower()
    rows = [
        ["final loss above the minimal one, mean over networks (nats)", f"{rise:.4f}", f"{published:.4f}"],
        [
            f"standard deviation of the final loss of {BASELINE} over seeds (nats)",
            f"{spread:.3f}",
            f"{TABLE[BASELINE].final_loss[1]:.3f}",
        ],
        ["first minimum of the first training (iteration)", plus_minus(stops, 0), "around 5000"],
    ]
    return (
        "## What the order of the images does\n\n"
        "The document does not say in which order its program reads them. In a fixed order the loss takes "
        "the same shape in every epoch, and training ends at one place of it, so three published numbers "
        f"tell the orders apart. Here epochs {epochs(measured)}; `--shuffle {other}` gives the other order."
        f"\n\n{markdown(['number', 'here', 'published'], rows)}"
    )


def grid_table(measured: xr.Dataset) -> str:
    """The criteria grid: untrained at its best size / trained, a row a criterion, a column a treatment."""
    config = json.loads(measured.attrs["config"])
    pairs = [(k, p) for p in measured["pruned_weights"].values for k in measured["kept_weights"].values]
    rows = [
        [
            criterion.replace("_", " "),
            *(
                f"{summary(best_untrained(measured, criterion, k, p)).mean:.1f} / "
                f"{summary(trained(measured, criterion, k, p)).mean:.2f}"
                for k, p in pairs
            ),
        ]
        for criterion in measured["criterion"].values.tolist()
    ]
    kept, levels = measured["grid_kept"].values, list(config["grid_levels"])
    at = kept[levels.index(config["grid_trained_level"])]
    dense = plus_minus(measured["grid_dense_accuracy"].values * 100, 2)
    sizes = ", ".join(f"{size:.1%}" for size in kept)
    text = (
        f"Accuracy in percent, untrained at the best of the sizes {sizes} / trained at {at:.1%}; mean over "
        f"{measured.sizes['grid_seed']} seeds. {'-'.join(map(str, config['grid_hidden']))}, "
        f"{config['grid_initialization']}, pruned in one shot by a dense network trained for "
        f"{config['grid_dense_steps']:,} iterations (accuracy {dense} %); cells are trained for "
        f"{config['grid_steps']:,}."
    )
    header = ["criterion", *(f"kept: {k.replace('_', ' ')}, pruned: {p}" for k, p in pairs)]
    return f"## Criteria grid\n\n{text}\n\n{markdown(header, rows)}"


def learned_table(measured: xr.Dataset) -> str:
    """Learned masks: accuracy of drawn masks and of the likeliest one, and how much they keep."""
    config, rows = json.loads(measured.attrs["config"]), []
    for weights in measured["weights"].values.tolist():
        for rescaling in measured["rescaling"].values.tolist():
            cell = measured.sel(weights=weights, rescaling=rescaling)
            likely = cell["likely_accuracy"].isel(learning_iteration=-1).values * 100
            rows.append(
                [
                    weights.replace("_", " "), "yes" if rescaling else "no",
                    plus_minus(learned(measured, weights, rescaling), 2), plus_minus(likely, 2),
                    plus_minus(cell["learned_kept"].values * 100, 1),
                ]
            )  # fmt: skip
    text = (
        f"{measured.sizes['learned_seed']} seeds, {config['learned_steps']:,} iterations of "
        f"{config['learned_optimizer']} at {config['learned_rate']:g} on batches of "
        f"{config['learned_batch_size']}; the mean of {config['learned_draws']} drawn masks. {TRIED}"
    )
    header = ["weights", "rescaling", "drawn masks (%)", "likeliest mask (%)", "kept (%)"]
    return f"## Learned masks\n\n{text}\n\n{markdown(header, rows)}"
