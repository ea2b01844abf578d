"""What document 004 says of E6 in words, as data, and the values that judge it; see ``published`` too."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from experiments.supermask.published import (
    ACCURACY,
    AROUND,
    BASELINE,
    GROUPS,
    LOSS_MARGIN,
    SIZE_MARGIN,
    STARTS_RISING,
    TICKET,
    Triple,
    at_best_threshold,
    follows_document,
    group,
    numbers,
    of,
    table,
    table_columns,
)
from experiments.supermask.zhou_claims import grid_claims, learned_claims, learned_protocol
from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_all, judge_families, under


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim; a figure is a family. Sign flips need six seeds, Student's t two."""
    method = "bootstrap" if measured.sizes["seed"] >= 6 else "student"
    judged = judge_families(list(statements(measured)), method=method)
    if follows_document(measured):
        judged += judge_all(numbers(measured, decidable=True))
        judged += judge_all(list(table_columns(measured)))
    if "criterion" in measured.dims:
        judged += judge_all(list(grid_claims(measured)), method="student")
    if "weights" in measured.dims:
        learned = judge_all(list(learned_claims(measured)), method="student")
        judged += under(learned, learned_protocol(measured))
    return judged


def alternatives(measured: xr.Dataset) -> dict[str, list[Verdict]]:
    """The claims about final losses, by the least loss of each run instead."""
    method = "bootstrap" if measured.sizes["seed"] >= 6 else "student"
    judged = judge_families(list(statements(measured, "minimum_loss")), method=method)
    names = ("ticket-beats-all", "ticket-beats-high")
    return {"least loss": [verdict for verdict in judged if verdict.claim.identifier in names]}


def say(
    figure: str,
    name: str,
    text: str,
    published: str,
    kind: Kind,
    margin: float,
    unit: str,
    effect: float = np.nan,
    **more,
) -> Claim:
    """A claim of the document's words, about one of its figures or in a section."""
    return Claim(
        name,
        f"004, {figure}" if figure[0] == "F" else f"004 {figure}",
        text,
        published,
        kind,
        margin,
        unit,
        effect,
        **more,
    )


def each(variable: xr.DataArray) -> dict[str, np.ndarray]:
    """A variable ``[network, seed]`` of every network but the ticket."""
    return {name: of(variable, name) for name in variable["network"].values.tolist() if name != TICKET}


def statements(measured: xr.Dataset, column: str = "final_loss") -> Iterator[Triple]:
    """What the document says in words; ``column`` of Table 1 says how good a network is."""
    yield from training_statements(measured)
    yield from mask_statements(measured)
    loss, course = table(measured)[column], measured["validation_loss"].mean("iteration")
    for name, values, how in (
        ("ticket-beats-all", loss, "final loss"),
        ("ticket-quick-as-all", course, "mean loss over training"),
    ):
        others = each(values)
        what = "effectively" if values is loss else "quickly"
        text = f"the ticket trains at least as {what} as every other architecture ({how})"
        claim = say(
            "Figure 5", name, text, "at least as quickly and effectively", "at_least", LOSS_MARGIN, "nats"
        )
        yield claim, others, dict.fromkeys(others, of(values, TICKET))
    if (high := group(loss, GROUPS[1])) is not None:
        text = "the ticket ends with a lower loss than the high performers, their mean"
        claim = say(
            "Figure 5", "ticket-beats-high", text, "0.091 against 0.106", "greater", 0.0, "nats", 0.015
        )
        yield claim, high, of(loss, TICKET)
    if BASELINE in course["network"].values:
        text = "the ticket trains faster than the unpruned network (mean loss over training)"
        claim = say("§1", "ticket-faster", text, "faster training", "greater", 0.0, "nats", LOSS_MARGIN)
        yield claim, of(course, BASELINE), of(course, TICKET)
    if BASELINE in course["network"].values and "validation_accuracy" in measured:
        text = "the ticket ends more accurate than the unpruned network"
        claim = say(
            "§1", "ticket-more-accurate", text, "higher accuracy", "greater", 0.0, "accuracy points", ACCURACY
        )
        end = measured["validation_accuracy"].isel(iteration=-1) * 100
        yield claim, of(end, TICKET), of(end, BASELINE)
    yield from size_statements(table(measured)["size"])


def training_statements(measured: xr.Dataset) -> Iterator[Triple]:
    """Figures 1 and 2: where the loss is least, that it rises afterwards, and that retraining avoids it."""
    long, stop = measured["overtraining_loss"], measured["stop_iteration"].values.astype(np.float64)
    end = long.isel(long_iteration=-1).values.astype(np.float64)
    yield (
        say("Figure 1", "minimum-around-5000", "the first run's loss is least around iteration 5000",
            "always around 5000", "equal", AROUND * STARTS_RISING, "iterations", offset=float(STARTS_RISING)),
        stop, float(STARTS_RISING),
    )  # fmt: skip
    if STARTS_RISING in long["long_iteration"].values:
        yield (
            say("Figure 1", "overtrained", "the first run ends with a higher loss than at iteration 5000",
                "starts increasing again", "greater", 0.0, "nats", LOSS_MARGIN),
            end, long.sel(long_iteration=STARTS_RISING).values.astype(np.float64),
        )  # fmt: skip
    if "trained_loss" in measured:
        trained = measured["trained_loss"].values.astype(np.float64)
        yield (
            say("Figure 2", "retrained-not-overfit", "retrained and stopped there, networks end with a lower "
                "loss than the first run does", "non-overfit, small validation loss", "greater", 0.0, "nats",
                LOSS_MARGIN),
            end, trained,
        )  # fmt: skip


def mask_statements(measured: xr.Dataset) -> Iterator[Triple]:
    """Figures 3 and 4: sizes that hardly differ between seeds, accuracies above chance."""
    untrained = measured["initial_accuracy"].values.astype(np.float64) * 100
    told, unit = "42.6 against 10.1 %", "accuracy points"
    yield (
        say("Figure 4", "supermask", "a masked untrained network is better than the untrained one", told,
            "greater", 0.0, unit, 32.5),
        at_best_threshold(measured, "masked_accuracy").values.astype(np.float64) * 100, untrained,
    )  # fmt: skip
    mean = 100 * measured["masked_accuracy"].mean("threshold").values.astype(np.float64)
    yield (
        say("Figure 4", "supermask-curve", "masked untrained networks are better than the untrained "
            "one, mean over all thresholds", "significantly better than chance", "greater", 0.0, unit, 5.0),
        mean, untrained,
    )  # fmt: skip
    sizes = 100 * measured["masked_size"].astype(np.float64)
    apart = abs(sizes - sizes.mean("seed"))
    parts = {f"t = {t:g}": apart.sel(threshold=t).values for t in sizes["threshold"].values}
    yield (
        say("Figure 3", "sizes-alike", "sizes lie within a point of their mean over seeds, at every "
            "threshold",
            "too small to be visible", "greater", 0.0, "points of size short of one", 0.5),
        {name: np.ones_like(values) for name, values in parts.items()}, parts,
    )  # fmt: skip


def size_statements(size: xr.DataArray) -> Iterator[Triple]:
    """Figure 6: smaller than the better groups, and as small as the low performers."""
    ticket, unit = of(size, TICKET), "points of size"
    others = size.drop_sel(network=TICKET)
    smallest = str(others["network"].values[int(others.mean("seed").argmin("network"))])
    text = f"the ticket is as small as the smallest architecture, {smallest}"
    claim = say(
        "Figure 6", "ticket-size-of-smallest", text, "38.7 against 24.2 %", "at_least", SIZE_MARGIN, unit
    )
    yield claim, of(size, smallest), ticket
    for category, mean, kind in zip(
        GROUPS[1:], (69.4, 40.7, 36.3), ("greater", "greater", "at_least"), strict=True
    ):
        sizes = group(size, category)
        if sizes is None:
            continue
        name = category.split()[0].lower()
        what = "as small as" if kind == "at_least" else "smaller than"
        claim = say(
            "Figure 6", f"ticket-size-of-{name}", f"the ticket is {what} the {name} performers, their mean",
            f"38.7 against {mean} %", kind, SIZE_MARGIN if kind == "at_least" else 0.0, unit,
            0.0 if kind == "at_least" else mean - 38.7,
        )  # fmt: skip
        yield claim, sizes, ticket
