"""What document 001 claims of E2, as data, and the values that judge it; its numbers are ``published``'s."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from experiments.ticket_distribution.peaks import peaks
from experiments.ticket_distribution.published import (
    EPOCHS,
    PUBLISHED,
    TESTED_ON,
    comparable,
    corrected,
    log_loss,
    points,
    title,
)
from experiments.ticket_distribution.weights import NETWORK
from lth_jax.analysis.stats import Claim, Difference, Kind, Verdict, judge_all, paired_difference, under

REPRODUCED = {"fc1": 0.3, "lenet5": 1.0}
"""Accuracy points within which a network counts as the published one; CIFAR-10 here went through JPEG."""
MARGIN = 0.1
"""Accuracy points within which two networks count as the same."""
SIMILAR = 0.5
"""Accuracy points within which the document calls accuracies similar: its farthest lies 0.43 below."""
LOSS_FACTOR = 1.25
"""A factor within which a training loss counts as the published one."""
LATER = 1.1
"""A factor by which a peak that is later has to be later to count."""
EVEN = 1.0
"""Per cent within which the share of positive weights counts as a half."""
SECTIONS = {"fc1": "001 §4.2", "lenet5": "001 §4.3"}
Judged = tuple[Claim, Any, Any]


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these networks can speak to; a family a question and a source."""
    families = (accuracies, similarity, losses, epochs, weights, reproduction, own_model, signs)
    return judge_by_question(measured, families)


def alternatives(measured: xr.Dataset) -> dict[str, list[Verdict]]:
    """The claims about accuracies and losses, by those of the last epoch instead of the best."""
    last = measured.isel(epoch=slice(-1, None))
    return {"the last epoch's": judge_by_question(last, (accuracies, similarity, losses, signs))}


def judge_by_question(measured: xr.Dataset, families: Sequence[Callable]) -> list[Verdict]:
    """The verdicts of some families of claims, functions of the results and of the networks they have."""
    have, config = set(measured["network"].values.tolist()), json.loads(measured.attrs["config"])
    judged = []
    for family in families:
        # What is claimed of one architecture is not claimed of the other.
        pairs = [(of_model(claim, config["model"]), a, b) for claim, a, b in family(measured, have)]
        judged += judge_all(pairs, method="student") if pairs else []
    return under(judged, protocol_of(config))


def of_model(claim: Claim, model: str) -> Claim:
    """The claim as one of this architecture's, in its section."""
    document = SECTIONS[model] if claim.document == "001" else claim.document
    return replace(claim, document=document, statement=f"{model}:{claim.identifier}")


def protocol_of(config: dict[str, Any]) -> str:
    """What sets these runs apart from the document's."""
    remarks = {
        "as its program ran": config["variant"] == "as-run",
        f"{config['epochs']} of {EPOCHS[config['model']]} epochs": config["epochs"] < EPOCHS[config["model"]],
        f"on {config['dataset']}": config["dataset"] != TESTED_ON[config["model"]],
    }
    return ", ".join(remark for remark, applies in remarks.items() if applies)


def _published(measured: xr.Dataset, one: str, other: str, loss: bool) -> str:
    rows = PUBLISHED[json.loads(measured.attrs["config"])["model"]]
    if one not in rows or other not in rows:
        return "not published"
    if loss:
        return f"{rows[one].loss:.3g} against {rows[other].loss:.3g}"
    a, b = (f"{100 * corrected(rows[name]):.2f}" for name in (one, other))
    return f"{a} against {b} (corrected)"


def _orders(measured: xr.Dataset, have: set[str]) -> list[tuple[str, str, bool]]:
    """Pairs in the document's order, better first, and whether they may be equal."""
    ns = measured["prunings"].values.tolist()
    found = [
        pair
        for n in ns
        for pair in (
            ("full", f"pruned-{n}", True),
            (f"pruned-{n}", f"reinit-{n}", False),
            (f"reinit-{n}", f"remask-{n}", False),
        )
    ]
    if len(ns) > 1:
        found += [(f"{kind}-{ns[0]}", f"{kind}-{ns[-1]}", False) for kind in ("pruned", "reinit", "remask")]
    return [pair for pair in found if {pair[0], pair[1]} <= have]


def accuracies(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """full ≥ pruned > reinit > remask, and less pruned > more pruned, in best mean accuracy."""
    found = []
    for better, worse, equal in _orders(measured, have):
        what = "at least as accurate as" if equal else "more accurate than"
        claim = Claim(
            f"accuracy:{better}:{worse}",
            "001",
            f"{title(better, measured)} is {what} {title(worse, measured)}",
            _published(measured, better, worse, loss=False),
            "at_least" if equal else "greater",
            MARGIN if equal else 0.0,
            effect=effect_of(measured, better, worse, loss=False),
        )
        found.append((claim, points(measured, better), points(measured, worse)))
    return found


def effect_of(measured: xr.Dataset, better: str, worse: str, loss: bool) -> float:
    """The published difference: accuracy points, corrected, or log10 of the ratio of the losses."""
    rows = PUBLISHED[json.loads(measured.attrs["config"])["model"]]
    if {better, worse} <= rows.keys():
        if loss:
            return float(np.log10(rows[worse].loss / rows[better].loss))
        return 100 * (corrected(rows[better]) - corrected(rows[worse]))
    return MARGIN


def similarity(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """FC-1: which networks are similar to the full one, and which is the worst."""
    first, last = (f"-{n}" for n in (measured["prunings"].values[0], measured["prunings"].values[-1]))
    alike = [*(f"{kind}{first}" for kind in ("pruned", "reinit", "remask")), f"pruned{last}", f"reinit{last}"]
    worst = f"remask{last}"
    if json.loads(measured.attrs["config"])["model"] != "fc1" or not {"full", worst, *alike} <= have:
        return []
    at = {name: points(measured, name) for name in ("full", worst, *alike)}
    names = ", ".join(title(name, measured) for name in alike)
    similar = Claim(
        "similar-to-full", "001 §4.2", f"as accurate as the full network, any of {names}",
        "similar accuracy", "equal", SIMILAR,
    )  # fmt: skip
    lowest = Claim(
        "remask-lowest", "001 §4.2", f"{title(worst, measured)} is less accurate than any other network",
        "the lowest maximal accuracy", "greater",
        effect=effect_of(measured, f"remask{first}", worst, loss=False),
    )  # fmt: skip
    others = {title(name, measured): at[name] for name in ("full", *alike)}
    return [
        (
            similar,
            {title(n, measured): at["full"] for n in alike},
            {title(n, measured): at[n] for n in alike},
        ),
        (lowest, others, dict.fromkeys(others, at[worst])),
    ]


def losses(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """The same order in least mean training loss, where the document's own numbers have it."""
    found = []
    for better, worse, _ in _orders(measured, have):
        effect = effect_of(measured, better, worse, loss=True)
        if effect <= 0:
            continue
        text = f"{title(worse, measured)} reaches only a higher training loss than {title(better, measured)}"
        published = _published(measured, better, worse, loss=True)
        claim = Claim(
            f"loss:{better}:{worse}", "001", text, published, "greater", unit="times the loss", effect=effect,
            base=10.0,
        )  # fmt: skip
        found.append((claim, log_loss(measured, worse), log_loss(measured, better)))
    return found


def log_epoch(measured: xr.Dataset, name: str) -> np.ndarray:
    """ln of the epoch of a network's best test accuracy, trial by trial."""
    values = measured["test_accuracy"].sel(network=name).transpose("seed", "epoch").values
    best = np.argmax(np.where(np.isfinite(values), values, -np.inf), axis=1)
    return np.where(np.isfinite(values).any(1), np.log(measured["epoch"].values[best]), np.nan)


def epochs(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """When networks are at their best: later with other weights, and (FC-1) at 26 than at 10 %."""
    found, ns = [], measured["prunings"].values.tolist()
    config = json.loads(measured.attrs["config"])
    rows, options = PUBLISHED[config["model"]], {"unit": "times the epochs", "base": float(np.e)}
    for n in ns:
        for kind in ("reinit", "remask"):
            name, others = f"{kind}-{n}", ("full", f"pruned-{n}")
            if {name, *others} <= have:
                text = f"{title(name, measured)} is at its best later than the full network and the ticket"
                claim = Claim(
                    f"slower:{name}", "001, abstract", text, "the number of epochs increased significantly",
                    "greater", effect=float(np.log(LATER)), **options,
                )  # fmt: skip
                late = dict.fromkeys(others, log_epoch(measured, name))
                found.append((claim, late, {other: log_epoch(measured, other) for other in others}))
    for kind in ("pruned", "reinit"):
        first, last = f"{kind}-{ns[0]}", f"{kind}-{ns[-1]}"
        if config["model"] == "fc1" and {first, last} <= have & rows.keys() and len(ns) > 1:
            text = f"{title(first, measured)} is at its best later than {title(last, measured)}"
            told, effect = f"epoch {rows[first].epoch} against {rows[last].epoch}", rows[first].epoch
            claim = Claim(
                f"peak:{kind}", "001 §4.2", text, told, "greater",
                effect=float(np.log(effect / rows[last].epoch)), **options,
            )  # fmt: skip
            found.append((claim, log_epoch(measured, first), log_epoch(measured, last)))
    return found


def weights(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """D_n: symmetric, with a divot at 0 between two modes, and four peaks of which the inner are higher.

    Of trained weights the divot is there by construction, pruning by their magnitude having cut it out: no
    claim is made of it.
    """
    found = []
    initial = json.loads(measured.attrs["config"])["source"] == "initial"
    for n in measured["prunings"].values.tolist():
        of = measured.sel(prunings=n, part=NETWORK)
        divot, positive = (of[name].values.astype(np.float64) for name in ("divot_ratio", "positive_share"))
        share = f"D_n after {n} prunings"
        two_modes = Claim(
            f"divot:{n}", "001 §4.4", f"{share} has a divot at 0 between two modes", "a strong divot near 0",
            "greater", unit="% fewer weights near 0 than if they were even", effect=50.0,
        )  # fmt: skip
        even = Claim(
            f"symmetric:{n}", "001 §5", f"{share} has as many positive weights as negative ones",
            "no bias on positive or negative", "equal", EVEN, "% of the weights are positive", offset=50.0,
        )  # fmt: skip
        if initial:
            found.append((two_modes, 100 * (1 - divot), np.zeros_like(divot)))
        found.append((even, 100 * positive, np.full_like(positive, 50.0)))
        if initial and "initial_histogram" in measured:
            fourth, ratio = peaks(measured["initial_histogram"].sel(prunings=n).sum("layer").values)
            four = Claim(
                f"four-peaks:{n}", "001 §4.4", f"{share} has four peaks", "four peaks", "greater", 1.0,
                "% of the highest, the least peak's own height", effect=3.0,
            )  # fmt: skip
            inner = Claim(
                f"inner-peaks:{n}", "001 §4.4", f"the middle two peaks of {share} are more than twice as "
                "high as the outer two", "much higher", "greater", float(np.log(2)), "times as high",
                effect=float(np.log(4)), base=float(np.e),
            )  # fmt: skip
            found += [(four, fourth, np.zeros_like(fourth)), (inner, np.log(ratio), np.zeros_like(ratio))]
    return found


def own_model(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """What our model of D_n is worth, which the document leaves to future work."""
    found = []
    for n in measured["prunings"].values.tolist():
        of = measured.sel(prunings=n, part=NETWORK)
        gaps = [of["distance"].sel(fit=fit).values * 100.0 for fit in ("initial", "symmetric", "drifting")]
        text = "the model of D_n, fitted to other trials, lies closer to it than"
        for name, other, gap in (("model", "the initial density", 0), ("drift", "the one symmetric in w", 1)):
            claim = Claim(
                f"{name}:{n}", "beyond 001", f"{text} {other} (D_n after {n} prunings)",
                "left to future work", "greater", unit="per cent (Kolmogorov–Smirnov)", effect=1.0,
            )  # fmt: skip
            found.append((claim, gaps[gap], gaps[2]))
        one, other = f"parametric-{n}", f"reinit-{n}"
        # A model of initial weights says nothing of trained ones.
        if {one, other} <= have and json.loads(measured.attrs["config"])["source"] == "initial":
            text = f"the model of D_n serves as well as D_n (n = {n})"
            claim = Claim(f"parametric:{n}", "beyond 001", text, "left to future work", "equal", MARGIN)
            found.append((claim, points(measured, one), points(measured, other)))
    return found


def reproduction(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """Our accuracies are the corrected published ones, our losses the published, where comparable."""
    if not comparable(measured):
        return []
    model, found = json.loads(measured.attrs["config"])["model"], []
    for name, row in PUBLISHED[model].items():
        if name in have:
            ours, theirs = points(measured, name), 100 * corrected(row)
            text = f"{title(name, measured)} is as accurate as published, corrected"
            claim = Claim(f"reproduced:{name}", "001", text, f"{theirs:.2f}", "equal", REPRODUCED[model])
            found.append((claim, ours, np.full_like(ours, theirs)))
    for name, row in PUBLISHED[model].items():
        if name in have:
            ours, theirs = log_loss(measured, name), np.log10(row.loss)
            text = f"{title(name, measured)} reaches the published training loss"
            claim = Claim(
                f"reproduced-loss:{name}", "001", text, f"{row.loss:.3g}", "equal",
                float(np.log10(LOSS_FACTOR)), "times the published", base=10.0,
            )  # fmt: skip
            found.append((claim, ours, np.full_like(ours, theirs)))
    return found


def signs(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """What the literature that the document cites says of D_n with the signs of θ0."""
    table: list[tuple[str, str, Kind, str, str]] = [
        ("signs", "reinit", "greater", "D_n with the signs of θ0 serves better than D_n", "signs matter"),
        ("signs-suffice", "pruned", "at_least", "D_n with the signs of θ0 serves as well as the ticket's own "
         "weights", "signs suffice"),
    ]  # fmt: skip
    found = []
    for n in measured["prunings"].values.tolist():
        for identifier, other, kind, text, published in table:
            one, other = f"signed-{n}", f"{other}-{n}"
            if {one, other} <= have:
                margin = MARGIN if kind == "at_least" else 0.0
                effect = MARGIN if kind == "greater" else 0.0
                claim = Claim(
                    f"{identifier}:{n}", "Zhou et al. 2019", f"{text} (n = {n})", published, kind, margin,
                    effect=effect,
                )  # fmt: skip
                found.append((claim, points(measured, one), points(measured, other)))
    return found


def question(measured: xr.Dataset, n: int) -> Difference | None:
    """Points by which a full network is better from D_n than from its initialization: asked, not claimed."""
    name = f"full_dn-{n}"
    if name not in measured["network"].values.tolist():
        return None
    return paired_difference(points(measured, name), points(measured, "full"), method="student")
