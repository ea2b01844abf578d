"""What one run of E2 is: every field a flag, the presets, and the networks' names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_jax import data, initializers
from lth_jax.errors import require
from lth_jax.runs.config import check_choices, check_distinct, check_limits, option

VARIANTS = ("as-described", "as-run")
MODELS = ("fc1", "lenet5")
FOUR = ("full", "pruned", "reinit", "remask")
"""The document's networks; ``full`` is one, the others are one for each number of prunings."""
BEYOND = ("full_dn", "parametric", "signed")
"""What the document leaves open: D_n on a full network, a model of D_n, D_n with the ticket's signs."""

LIMITS = {
    "prunings": (1, 1_000),
    "epochs_per_level": (1, 10_000),
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "weight_decay": (0.0, 1e30),
    "rate": (1e-4, 0.9999),  # pruning counts in steps of 1 / 10,000
    "hidden": (1, 100_000),
}


@dataclass(frozen=True)
class Config:
    """One study; every field is a flag."""

    variant: str = option("as-described", "the text, or the program behind its numbers", VARIANTS)
    model: str = option("fc1", "multilayer perceptron or LeNet-5", MODELS)
    dataset: str = option("mnist", "data set", data.DATASETS)
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "trials' seeds, as 42-46 or 42,43")
    networks: tuple[str, ...] = option(FOUR + BEYOND, "which networks to train", FOUR + BEYOND)
    prunings: tuple[int, ...] = option((6, 10), "n, the prunings of a ticket, rising: 6,10")
    epochs_per_level: int = option(5, "epochs trained before each pruning")
    epochs: int = option(100, "epochs that each network is trained")
    batch_size: int = option(1024, "examples per step")
    learning_rate: float = option(1e-3, "Adam's learning rate")
    weight_decay: float = option(1e-4, "factor of the L2 term in the gradient")
    rate: float = option(0.2, "fraction of each layer's survivors pruned per level, in (0, 1)")
    initialization: str = option("xavier_uniform", "initialization, by name", tuple(initializers.SCHEMES))
    source: str = option("initial", "weights that D_n is made of", ("initial", "trained"))
    pool: str = option("network", "D_n over the whole network or layer by layer", ("network", "layer"))
    hidden: tuple[int, ...] = option((300, 100), "widths of FC-1's hidden layers; LeNet-5 has its own")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "networks", "prunings")
        rising = list(self.prunings) == sorted(self.prunings)
        require(rising, f"--prunings {','.join(map(str, self.prunings))}: expected rising numbers")
        widths = ",".join(map(str, self.hidden))
        require(0 < len(self.hidden) <= 20, f"--hidden {widths}: expected 1 to 20 widths")
        check_limits(self, LIMITS)


QUICK = {
    "dataset": "mnist-5k",
    "seeds": tuple(range(42, 53)),
    "epochs_per_level": 3,
    "epochs": 10,
    "batch_size": 100,
}
AS_RUN = {"initialization": "torch_default", "source": "trained"}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets of a variant; ``paper-lenet5`` is the document's second half."""
    own = AS_RUN if variant == "as-run" else {}
    lenet5 = {"model": "lenet5", "dataset": "cifar10", "epochs": 300}
    return {"quick": {**QUICK, **own}, "paper": own, "paper-lenet5": {**lenet5, **own}}


def names(config: Config) -> list[str]:
    """The networks of one trial, as results name them: ``full``, ``pruned-6`` … in the order they stand."""
    full = ["full"] if "full" in config.networks else []
    others = [kind for kind in config.networks if kind != "full"]
    return full + [f"{kind}-{n}" for n in config.prunings for kind in others]
