"""What one run of E4 is: its flags, its presets, and the groups of networks that each part trains."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_jax import data, initializers
from lth_jax.errors import InputError, require
from lth_jax.runs.config import check_choices, check_distinct, option

PARTS = {
    "controls": "iterative pruning with both controls, and one-shot pruning beside it (d)",
    "one_shot": "one-shot pruning to a grid of sizes with both controls (a, b, c)",
    "iterative": "iterative pruning alone, what survives included",
    "inspect": "what survives: initial weights and connections per unit (e, f)",
    "init_std": "initial standard deviations by doublings (g)",
    "sizes": "network sizes, one-shot and iterative (h)",
    "rates": "pruning rates (i)",
    "reset": "reset against no reset (j)",
}
CONTROLS = ("reinit", "rearrange", "shuffle", "random_mask")


@dataclass(frozen=True)
class Config:
    """One run of one part; every field is a flag."""

    part: str = option("controls", "which part", tuple(PARTS))
    dataset: str = option("mnist", "data set", data.DATASETS)
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "trials, as 42-46 or 42,43")
    iterations: int = option(50_000, "iterations (minibatches) of every training")
    eval_every: int = option(100, "iterations between evaluations; must divide --iterations")
    batch_size: int = option(60, "examples per iteration")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")
    validation: int = option(5000, "training examples held out for the early-stop iteration")
    rate: float = option(0.2, "fraction of each hidden layer pruned per level; the output layer loses half")
    smallest: float = option(0.0144, "prune until no more than this fraction of the hidden layers is kept")
    hidden: tuple[int, ...] = option((300, 100), "widths of the hidden layers")
    initialization: str = option("xavier_normal", "a scheme by name, or normal:STD (v1: normal:0.1)")
    controls: tuple[str, ...] = option(
        ("reinit", "rearrange"), "control 1: reinit; control 2: rearrange; others", CONTROLS
    )
    control_trials: int = option(3, "networks of each control in each trial")
    rewind_step: int = option(0, "k: with the controls, retrain each ticket from θ_k too; 0 does not")
    stds: tuple[float, ...] = option((0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), "of part init_std")
    sizes: tuple[str, ...] = option(
        ("25-9", "50-17", "100-34", "150-50", "200-67", "300-100", "400-134"), "of part sizes"
    )
    rates: tuple[float, ...] = option((0.1, 0.2, 0.3, 0.5, 0.7), "of part rates")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "stds", "sizes", "rates")
        require(len(set(self.controls)) == len(self.controls), "--controls: one is named twice")
        for name in ("iterations", "eval_every", "batch_size", "validation", "control_trials"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')} {value}: must be at least 1")
        require(
            self.iterations % self.eval_every == 0,
            f"--eval-every {self.eval_every}: must divide --iterations {self.iterations}",
        )
        require(self.learning_rate > 0, f"--learning-rate {self.learning_rate}: must be positive")
        for name, rates in {"rate": (self.rate,), "rates": self.rates}.items():
            for rate in rates:
                require(0.001 <= rate <= 0.999, f"--{name} {rate}: expected 0.001 to 0.999")
        require(0 < self.smallest < 1, f"--smallest {self.smallest}: outside (0, 1)")
        require(min(self.stds) > 0, f"--stds {self.stds}: each must be positive")
        require(len(self.hidden) > 0 and min(self.hidden) > 0, "--hidden: widths must be at least 1")
        fits = 0 <= self.rewind_step < self.iterations
        require(fits, f"--rewind-step {self.rewind_step}: outside 0 … --iterations")
        for size in self.sizes:
            widths(size)
        try:
            initializers.get(self.initialization)
        except ValueError as error:
            raise InputError(f"--initialization {self.initialization}: {error}") from None

    @property
    def variant(self) -> str:
        """What the folder and the report call this run by."""
        return self.part


QUICK = {
    "dataset": "mnist-5k",
    "seeds": (42, 43, 44),
    "iterations": 1000,
    "eval_every": 50,
    "validation": 500,
    "smallest": 0.1343,
    "stds": (0.0125, 0.1, 1.6),
    "sizes": ("50-17", "300-100"),
    "rates": (0.2, 0.7),
}
MIDDLE = {"iterations": 15_000, "eval_every": 250}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """``quick``: embedded digits; ``middle``: full MNIST, a third of the training; ``paper``: ICLR 2019."""
    return {"quick": QUICK, "middle": MIDDLE, "paper": {}}


def widths(size: str) -> tuple[int, ...]:
    """``300-100`` as ``(300, 100)``.

    Raises:
      InputError: not whole numbers of at least 1 with hyphens between them.
    """
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", size):
        raise InputError(f"--sizes {size}: expected widths such as 300-100")
    return tuple(map(int, size.split("-")))


@dataclass(frozen=True)
class Group:
    """Networks of one architecture and one pruning schedule: one compiled program, one level loop.

    ``lines`` are labels with their initializations; each is trained for every seed. ``controls`` adds some;
    ``inspect`` records what survives.
    """

    name: str
    lines: tuple[tuple[str, str], ...]
    hidden: tuple[int, ...]
    rate: float
    one_shot: bool = False
    reset: bool = True
    controls: bool = False
    inspect: bool = False


def levels(config: Config, rate: float) -> int:
    """Levels until no more than ``smallest`` of the hidden layers is kept, the dense one included."""
    count = 1
    while (1 - rate) ** (count - 1) > config.smallest * 1.01:  # 0.8^19 = 0.0144 is written with three digits
        count += 1
    return count


def groups(config: Config) -> tuple[Group, ...]:
    """What a part trains."""

    def group(name: str, **changes: Any) -> Group:
        lines = ((name, config.initialization),)
        return Group(
            **{"name": name, "lines": lines, "hidden": config.hidden, "rate": config.rate, **changes}
        )

    one_shot = group("one_shot", one_shot=True)
    by_std = tuple((f"std {std:g}", f"normal:{std!r}") for std in config.stds)
    return {
        "controls": lambda: (group("iterative", controls=True, inspect=True), one_shot),
        "one_shot": lambda: (group("one_shot", one_shot=True, controls=True, inspect=True),),
        "iterative": lambda: (group("iterative", inspect=True),),
        "inspect": lambda: (group("iterative", inspect=True),),
        "init_std": lambda: (group("init_std", lines=by_std),),
        "sizes": lambda: tuple(
            group(f"{size} {how}", hidden=widths(size), one_shot=how == "one-shot")
            for size in config.sizes
            for how in ("iterative", "one-shot")
        ),
        "rates": lambda: tuple(group(f"rate {rate:g}", rate=rate) for rate in config.rates),
        "reset": lambda: (group("iterative"), group("no_reset", reset=False)),
    }[config.part]()


def controls_of(config: Config, group: Group) -> tuple[str, ...]:
    """Labels of a run's controls: ``reinit:0`` … and ``late``, the ticket from θ_k."""
    if not group.controls:
        return ()
    numbered = tuple(f"{name}:{trial}" for name in config.controls for trial in range(config.control_trials))
    return (*numbered, "late") if config.rewind_step else numbered
