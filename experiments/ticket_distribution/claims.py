"""What document 001 published, its claims as data, and the values that judge them.

A network's number is the document's: the best epoch of the mean over trials. A trial's number is its value at
that epoch, so that the trials' mean is the number in the table.
"""

import json
from typing import NamedTuple, cast

import numpy as np
import xarray as xr

from experiments.ticket_distribution.weights import NETWORK
from lth_jax.analysis.stats import Claim, Kind, Verdict, judge_all


class Published(NamedTuple):
    """A row of the document's tables: best mean accuracy and its epoch, least mean loss and its epoch."""

    accuracy: float
    epoch: int
    loss: float
    loss_epoch: int


PUBLISHED = {
    "fc1": {
        "full": Published(0.9068, 96, 0.656e-3, 95),
        "pruned-6": Published(0.9055, 91, 1.707e-3, 91),
        "pruned-10": Published(0.9043, 75, 3.915e-3, 96),
        "reinit-6": Published(0.9045, 100, 2.395e-3, 100),
        "reinit-10": Published(0.9036, 67, 4.471e-3, 100),
        "remask-6": Published(0.9028, 95, 2.964e-3, 96),
        "remask-10": Published(0.8983, 100, 10.04e-3, 100),
    },
    "lenet5": {
        "full": Published(0.5861, 89, 0.2341, 300),
        "pruned-6": Published(0.5689, 298, 0.8001, 298),
        "pruned-10": Published(0.5218, 300, 1.121, 297),
        "reinit-6": Published(0.5499, 292, 0.8902, 300),
        "reinit-10": Published(0.5167, 300, 1.156, 299),
        "remask-6": Published(0.5478, 269, 0.8884, 298),
        "remask-10": Published(0.5089, 291, 1.183, 298),
    },
}
"""As printed; the loss of reinit-26% stands there as ``2.395-3``."""

COUNTED = 9216 / 10000
"""⌊10000 / 1024⌋ · 1024 test images were scored and their hits divided by 10,000."""
TESTED_ON, EPOCHS = {"fc1": "mnist", "lenet5": "cifar10"}, {"fc1": 100, "lenet5": 300}
REPRODUCED = {"fc1": 0.3, "lenet5": 1.0}
"""Accuracy points within which a network counts as the published one; CIFAR-10 here went through JPEG."""
MARGIN = 0.1
"""Accuracy points within which two networks count as the same."""
EVEN = 1.0
"""Per cent within which the share of positive weights counts as a half."""
TITLES = {
    "full": "full network",
    "pruned": "ticket",
    "reinit": "ticket's mask, weights from D_n",
    "remask": "permuted mask, weights from D_n",
    "full_dn": "full network, weights from D_n",
    "parametric": "ticket's mask, weights from the model of D_n",
    "signed": "ticket's mask, magnitudes from D_n, signs of θ0",
}


def corrected(row: Published) -> float:
    """The accuracy over the images that were scored, a fraction."""
    return row.accuracy / COUNTED


def at_best(measured: xr.Dataset, name: str, variable: str) -> tuple[np.ndarray, int]:
    """Every trial's value at the epoch where the mean over trials is best, and that epoch.

    Args:
      measured: the results.
      name: of a network.
      variable: ``test_accuracy``, whose best is the greatest, or ``train_loss``, whose best is the least.
    """
    values = measured[variable].sel(network=name)
    mean = values.mean("seed")
    if not bool(np.isfinite(mean).any()):  # all trials diverged
        return np.full(measured.sizes["seed"], np.nan), int(measured["epoch"][-1])
    at = int((mean.argmax("epoch") if variable == "test_accuracy" else mean.argmin("epoch")).item())
    return values.isel(epoch=at).values, int(measured["epoch"][at])


def points(measured: xr.Dataset, name: str) -> np.ndarray:
    """A network's accuracy in points, a value a trial."""
    return 100 * at_best(measured, name, "test_accuracy")[0].astype(np.float64)


def log_loss(measured: xr.Dataset, name: str) -> np.ndarray:
    """log10 of a network's training loss, a value a trial."""
    loss = at_best(measured, name, "train_loss")[0].astype(np.float64)
    return np.log10(np.maximum(loss, 1e-30))


def title(name: str, measured: xr.Dataset) -> str:
    """A network's name for people: ``reinit 26.2 %``."""
    kind, _, n = name.partition("-")
    if not n:
        return kind
    if kind == "full_dn":
        return f"full from D_{n}"
    return f"{kind} {100 * (1 - json.loads(measured.attrs['config'])['rate']) ** int(n):.1f} %"


Judged = tuple[Claim, np.ndarray, np.ndarray]


def verdicts(measured: xr.Dataset) -> list[Verdict]:
    """Judge every claim that these networks can speak to; a family a question."""
    have = set(measured["network"].values.tolist())
    judged = []
    for family in (accuracies, losses, weights, reproduction, beyond):
        pairs = family(measured, have)
        judged += judge_all(pairs, method="student") if pairs else []
    return judged


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
        )
        found.append((claim, points(measured, better), points(measured, worse)))
    return found


def losses(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """The same order in least mean training loss, as log10 of the ratio of the two losses."""
    found = []
    for better, worse, _ in _orders(measured, have):
        text = f"{title(better, measured)} reaches a lower training loss than {title(worse, measured)}"
        published = _published(measured, better, worse, loss=True)
        claim = Claim(f"loss:{better}:{worse}", "001", text, published, "greater", unit="log10 of the ratio")
        found.append((claim, log_loss(measured, worse), log_loss(measured, better)))
    return found


def weights(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """D_n: symmetric, with a divot at 0 between two modes, and what the model of it is worth."""
    found = []
    for n in measured["prunings"].values.tolist():
        of = measured.sel(prunings=n, part=NETWORK)
        divot, positive = (of[name].values.astype(np.float64) for name in ("divot_ratio", "positive_share"))
        share, unit = f"D_n after {n} prunings", "of an even spread"
        two_modes = Claim(
            f"divot:{n}", "001", f"{share} has a divot at 0 between two modes", "a strong divot near 0",
            "greater", unit=unit,
        )  # fmt: skip
        even = Claim(
            f"symmetric:{n}", "001", f"{share} has as many positive weights as negative ones",
            "no bias on positive or negative", "equal", EVEN, "per cent of weights",
        )  # fmt: skip
        gaps = [of["distance"].sel(fit=fit).values * 100.0 for fit in ("initial", "symmetric", "drifting")]
        text = "the model of D_n, fitted to other trials, lies closer to it than"
        model = Claim(
            f"model:{n}", "001 §6", f"{text} the initial density ({share})", "left to future work",
            "greater", unit="per cent (Kolmogorov–Smirnov)",
        )  # fmt: skip
        drift = Claim(
            f"drift:{n}", "001 §6", f"{text} the one symmetric in w ({share})", "left to future work",
            "greater", unit="per cent (Kolmogorov–Smirnov)",
        )  # fmt: skip
        half = np.full_like(positive, 50.0)
        found += [(two_modes, np.ones_like(divot), divot), (even, 100 * positive, half)]
        found += [(model, gaps[0], gaps[2]), (drift, gaps[1], gaps[2])]
    return found


def comparable(measured: xr.Dataset) -> bool:
    """Whether this run can be held against the published numbers: the document's data, for its epochs."""
    config = json.loads(measured.attrs["config"])
    model = config["model"]
    return config["dataset"] == TESTED_ON[model] and config["epochs"] >= EPOCHS[model]


def reproduction(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """Our accuracies are the corrected published ones, where they are comparable."""
    if not comparable(measured):
        return []
    model, found = json.loads(measured.attrs["config"])["model"], []
    for name, row in PUBLISHED[model].items():
        if name in have:
            ours = points(measured, name)
            theirs = 100 * corrected(row)
            text = f"{title(name, measured)} is as accurate as published, corrected"
            kind, margin = "equal", REPRODUCED[model]
            claim = Claim(f"reproduced:{name}", "001", text, f"{theirs:.2f}", kind, margin)
            found.append((claim, ours, np.full_like(ours, theirs)))
    return found


def beyond(measured: xr.Dataset, have: set[str]) -> list[Judged]:
    """What the document asks, and what the literature it cites answers."""
    found = []
    initial = json.loads(measured.attrs["config"])["source"] == "initial"
    for n in measured["prunings"].values.tolist():
        table = [
            ("full_dn", f"full_dn-{n}", "full", "greater", "a full network starts better from D_n than from"
             " its initialization", "asked in its future work"),
            ("parametric", f"parametric-{n}", f"reinit-{n}", "equal", "the model of D_n serves as well as"
             " D_n", "left to future work"),
            ("signs", f"signed-{n}", f"reinit-{n}", "greater", "D_n with the signs of θ0 serves better than"
             " D_n", "signs matter (Zhou et al. 2019)"),
            ("signs-suffice", f"signed-{n}", f"pruned-{n}", "at_least", "D_n with the signs of θ0 serves as"
             " well as the ticket's own weights", "signs suffice (Zhou et al. 2019)"),
        ]  # fmt: skip
        for identifier, one, other, kind, text, published in table:
            # A model of initial weights says nothing of trained ones.
            if {one, other} <= have and (initial or identifier != "parametric"):
                margin = 0.0 if kind == "greater" else MARGIN
                title, judged = f"{text} (n = {n})", cast(Kind, kind)
                claim = Claim(f"{identifier}:{n}", "001 §6", title, published, judged, margin)
                found.append((claim, points(measured, one), points(measured, other)))
    return found
