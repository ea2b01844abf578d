"""What document 001 published of its networks, and ours read as its tables read them.

A network's number is the document's: the best epoch of the mean over trials. A trial's number is its value at
that epoch, so that the trials' mean is the number in the table.
"""

import json
from typing import NamedTuple

import numpy as np
import xarray as xr


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


def comparable(measured: xr.Dataset) -> bool:
    """Whether this run can be held against the published numbers: the document's data, for its epochs."""
    config = json.loads(measured.attrs["config"])
    model = config["model"]
    return config["dataset"] == TESTED_ON[model] and config["epochs"] >= EPOCHS[model]
