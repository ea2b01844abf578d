"""E6's configuration: the document's protocol, and the scale of the two studies beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_jax import data, initializers
from lth_jax.errors import require
from lth_jax.runs.config import check_choices, check_distinct, check_limits, flag, option
from lth_jax.tickets.scores import CRITERIA

OPTIMIZERS = ("adam", "sgd")
EMBEDDED = "mnist-5k"

LIMITS = {
    "overtraining_steps": (1, 10_000_000),
    "steps": (1, 10_000_000),
    "eval_every": (1, 10_000_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "hidden": (1, 100_000),
    "first_layers": (1, 100_000),
    "second_layers": (1, 100_000),
    "thresholds": (0.0, 1e30),
    "grid_hidden": (1, 100_000),
    "grid_dense_steps": (1, 10_000_000),
    "grid_steps": (1, 10_000_000),
    "grid_levels": (0, 100),
    "learned_steps": (1, 10_000_000),
    "learned_batch_size": (1, 1_000_000),
    "learned_rate": (1e-30, 1e30),
    "learned_draws": (1, 10_000),
}


@dataclass(frozen=True)
class Config:
    """The recipe, the criteria grid and the learned masks; every field is a flag."""

    dataset: str = option("mnist", "data set; its test images are the validation set", data.DATASETS)
    seeds: tuple[int, ...] = option(tuple(range(42, 52)), "seeds, as 42-51 or 42,43")
    hidden: tuple[int, ...] = option((200, 30), "widths of the baseline's two hidden layers")
    first_layers: tuple[int, ...] = option((50, 100, 150), "smaller widths of the first layer")
    second_layers: tuple[int, ...] = option((5, 15, 25), "smaller widths of the second layer")
    initialization: str = option("torch_default", "distribution of kernels and biases, by name")
    overtraining_steps: int = option(20_000, "iterations of the first training")
    steps: int = option(5_000, "iterations of the ticket and of the other architectures")
    eval_every: int = option(100, "iterations between two evaluations")
    batch_size: int = option(60, "examples per step")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")
    thresholds: tuple[float, ...] = option(tuple(i / 100 for i in range(21)), "thresholds t, rising")
    shuffle: bool = option(True, "whether the recipe's epochs shuffle; false: always the data set's order")
    prune_biases: bool = option(True, "true: every parameter, as the document's formula; false: kernels only")

    grid_seeds: int = option(5, "how many of the seeds the criteria grid takes; 0 leaves it out")
    grid_criteria: tuple[str, ...] = option(tuple(CRITERIA), "criteria of the grid", tuple(CRITERIA))
    grid_hidden: tuple[int, ...] = option((300, 100), "hidden widths in the grid and of learned masks")
    grid_initialization: str = option("xavier_normal", "distribution of their kernels; biases start at 0")
    grid_dense_steps: int = option(10_000, "iterations of the dense network that the criteria judge")
    grid_levels: tuple[int, ...] = option(
        (2, 4, 6, 8, 10, 14), "sizes, rising: level n keeps 0.8^n of a hidden layer, 0.9^n of the output"
    )
    grid_trained_level: int = option(10, "the level at which the grid's networks are trained as well")
    grid_steps: int = option(2_000, "iterations of their training")

    learned_seeds: int = option(5, "how many of the seeds the learned masks take; 0 leaves them out")
    learned_steps: int = option(8_000, "iterations of mask learning")
    learned_batch_size: int = option(60, "examples per step of mask learning")
    learned_optimizer: str = option("adam", "optimizer of the logits (sgd has momentum 0.9)", OPTIMIZERS)
    learned_rate: float = option(0.1, "its learning rate")
    learned_draws: int = option(10, "drawn masks over which a learned mask is averaged")

    def __post_init__(self) -> None:
        check_choices(self)
        check_limits(self, LIMITS)
        check_distinct(self, "seeds", "first_layers", "second_layers")
        check_distinct(self, "thresholds", "grid_criteria", "grid_levels")
        for name in ("thresholds", "grid_levels"):
            entries = getattr(self, name)
            require(list(entries) == sorted(entries), f"{flag(name)} {_listed(entries)}: must rise")
        self._check_widths()
        for name in ("initialization", "grid_initialization"):
            _check_scheme(name, getattr(self, name))
        for name in ("overtraining_steps", "steps"):
            value = getattr(self, name)
            divided = value % self.eval_every == 0
            require(divided, f"--eval-every {self.eval_every}: must divide {flag(name)} {value}")
        for name in ("grid_seeds", "learned_seeds"):
            value, most = getattr(self, name), len(self.seeds)
            require(0 <= value <= most, f"{flag(name)} {value}: expected 0 to {most}, there are {most} seeds")
        known = self.grid_trained_level in self.grid_levels
        require(known, f"--grid-trained-level {self.grid_trained_level}: not among --grid-levels")

    @property
    def variant(self) -> str:
        """The order in which the recipe reads its images, of which the document says nothing."""
        return "shuffled" if self.shuffle else "fixed-order"

    def _check_widths(self) -> None:
        for name in ("hidden", "grid_hidden"):
            widths = getattr(self, name)
            require(len(widths) == 2, f"{flag(name)} {_listed(widths)}: expected two widths")
        for name, most in zip(("first_layers", "second_layers"), self.hidden, strict=True):
            for width in getattr(self, name):
                require(width < most, f"{flag(name)} {width}: must be smaller than --hidden's {most}")

    def architectures(self) -> tuple[tuple[int, int], ...]:
        """The baseline first, then every pair of smaller layers."""
        pairs = [(first, second) for first in self.first_layers for second in self.second_layers]
        return ((self.hidden[0], self.hidden[1]), *pairs)


def _listed(entries: tuple[Any, ...]) -> str:
    return ",".join(map(str, entries))


def _check_scheme(name: str, value: str) -> None:
    """Refuse an initialization that there is not."""
    try:
        initializers.get(value)
    except ValueError as error:
        require(False, f"{flag(name)}: {error}")


QUICK = {
    "dataset": EMBEDDED,
    "seeds": (42, 43, 44),
    "overtraining_steps": 2_000,
    "steps": 600,
    "eval_every": 50,
    "grid_seeds": 2,
    "grid_dense_steps": 1_000,
    "grid_levels": (2, 6, 10, 14),
    "grid_steps": 200,
    "learned_seeds": 2,
    "learned_steps": 1_000,
}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """``quick``: embedded digits, few iterations; ``paper``: the document's protocol, the defaults."""
    return {"quick": QUICK, "paper": {}}


PROTOCOL = (
    "dataset",
    "hidden",
    "first_layers",
    "second_layers",
    "initialization",
    "overtraining_steps",
    "steps",
    "eval_every",
    "batch_size",
    "learning_rate",
    "thresholds",
)
"""Fields that must be the document's for its numbers to be ours to compare with."""


def is_document(config: Mapping[str, Any]) -> bool:
    """Whether a configuration, as it is read from JSON, follows the document's protocol."""
    ours = Config()
    as_read = {name: getattr(ours, name) for name in PROTOCOL}
    listed = {n: list(value) if isinstance(value, tuple) else value for n, value in as_read.items()}
    return all(config[name] == value for name, value in listed.items())
