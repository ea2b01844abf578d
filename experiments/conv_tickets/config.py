"""What one run of E9 is: its flags, and what each part is trained like at each scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_jax import data
from lth_jax.errors import require
from lth_jax.runs.config import check_choices, check_distinct, check_limits, option

PARTS = ("conv2", "conv4", "conv6", "resnet20", "vgg16")
DEEP = ("resnet20", "vgg16")
"""The parts with SGD, a schedule and recipes, pruned over all layers together."""
RECIPES = ("standard", "low", "warmup", "rewinding")
"""How a deep network is trained; the others have ``standard`` alone."""
CONTROLS = ("reinit", "random_mask")

LIMITS = {
    "levels": (2, 1_000),
    "iterations": (1, 1_000_000_000),
    "eval_every": (1, 1_000_000_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "low_rate": (1e-30, 1e30),
    "warm_rate": (1e-30, 1e30),
    "warmup": (1, 1_000_000_000),
    "rewind": (1, 1_000_000_000),
    "validation": (0, 1_000_000_000),
    "rate": (1e-4, 0.9999),
    "conv_rate": (1e-4, 0.9999),
    "control_trials": (1, 100),
    "width": (1, 10_000),
    "hidden": (1, 100_000),
}


@dataclass(frozen=True)
class Config:
    """One run of one part; every field is a flag. Presets differ from part to part."""

    part: str = option("conv2", "which network, and how it is trained", PARTS)
    dataset: str = option("cifar10", "data set of colour images, 32×32", data.DATASETS)
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "trials, as 42-46 or 42,43")
    levels: int = option(19, "rounds of training and pruning; the first is dense")
    iterations: int = option(20_000, "iterations (minibatches) of every training")
    eval_every: int = option(100, "iterations between evaluations")
    batch_size: int = option(60, "examples per iteration")
    learning_rate: float = option(2e-4, "of Adam; with resnet20 and vgg16 the highest of SGD's schedule")
    validation: int = option(
        5000, "training examples held out for the early-stop iteration; 0: there is none"
    )
    rate: float = option(
        0.2, "fraction of each dense layer pruned per level, of the output layer half; of all in deep parts"
    )
    conv_rate: float = option(0.1, "fraction of each convolution pruned per level, in conv2, conv4 and conv6")
    controls: tuple[str, ...] = option(CONTROLS, "networks beside the tickets", CONTROLS)
    control_trials: int = option(3, "networks of each control in each trial")
    control_levels: tuple[int, ...] = option((), "levels with controls, the first being 0; none: all but 0")
    width: int = option(64, "filters of the first convolution; deeper ones have as many times more")
    hidden: tuple[int, ...] = option((256, 256), "widths of the dense layers of conv2, conv4 and conv6")
    recipes: tuple[str, ...] = option(("standard",), "ways to train resnet20 and vgg16", RECIPES)
    low_rate: float = option(0.01, "highest learning rate of recipe low")
    warm_rate: float = option(0.03, "highest learning rate of recipe warmup")
    warmup: int = option(20_000, "iterations over which recipe warmup's rate rises")
    rewind: int = option(500, "iteration that recipe rewinding's tickets are rewound to")

    def __post_init__(self) -> None:
        check_choices(self)
        check_distinct(self, "seeds", "recipes")
        for name in ("controls", "control_levels"):
            values = getattr(self, name)
            told = ",".join(map(str, values))
            once = len(set(values)) == len(values)
            require(once, f"--{name.replace('_', '-')} {told}: one is named twice")
        check_limits(self, LIMITS)
        for level in self.control_levels:
            require(0 <= level < self.levels, f"--control-levels {level}: levels are 0 to {self.levels - 1}")
        for recipe in () if self.part in DEEP else self.recipes:
            known = recipe == "standard"
            require(known, f"--recipes {recipe}: of {' and '.join(DEEP)}; {self.part} has standard")
        for recipe, name in {"warmup": "warmup", "rewinding": "rewind"}.items():
            value = getattr(self, name)
            fits = recipe not in self.recipes or value < self.iterations
            require(fits, f"--{name} {value}: a training has {self.iterations:,} iterations")

    @property
    def variant(self) -> str:
        """What the folder and the report call this run by."""
        return self.part


_DEEP = {
    "seeds": (42, 43, 44), "levels": 21, "iterations": 62_400, "eval_every": 1_560, "batch_size": 128,
    "learning_rate": 0.1, "validation": 0, "control_trials": 1, "recipes": RECIPES,
}  # fmt: skip
PAPER: dict[str, dict[str, Any]] = {
    "conv2": {},
    "conv4": {"iterations": 25_000, "learning_rate": 3e-4, "levels": 23},
    "conv6": {"iterations": 30_000, "learning_rate": 3e-4, "conv_rate": 0.15, "levels": 23},
    "resnet20": {**_DEEP, "width": 16},
    "vgg16": {**_DEEP, "rewind": 1_000},
}
"""What differs from the defaults at the documents' scale; the levels lead to less than 2 %."""

_FEW = {
    "seeds": (42, 43, 44), "levels": 8, "iterations": 5_000, "eval_every": 250, "control_trials": 1,
    "control_levels": (2, 4, 7),
}  # fmt: skip
_SHORT = {
    "levels": 6, "iterations": 3_120, "eval_every": 312, "rate": 0.285, "control_levels": (2, 4, 5),
    "warmup": 1_000,
}  # fmt: skip
REDUCED: dict[str, dict[str, Any]] = {
    "conv2": {**_FEW, "rate": 0.29, "conv_rate": 0.15},
    "conv4": {**_FEW, "rate": 0.31, "conv_rate": 0.17},
    "conv6": {**_FEW, "rate": 0.34, "conv_rate": 0.26},
    "resnet20": {**_SHORT, "width": 8, "rewind": 25},
    "vgg16": {**_SHORT, "width": 16, "rewind": 50},
}
"""Besides: rates that lead to the sizes that claims are about, 51, 26 and 9 % (17 % of deep networks), in few
levels, and controls at these sizes alone."""

_GLANCE = {
    "dataset": data.EMBEDDED, "seeds": (42, 43, 44), "levels": 4, "iterations": 300, "eval_every": 20,
    "validation": 500, "rate": 0.5, "control_trials": 1, "control_levels": (1, 2), "width": 8,
}  # fmt: skip
_DEEP_GLANCE = {
    **_GLANCE, "seeds": (42, 43), "levels": 3, "iterations": 120, "validation": 0, "control_levels": (1,),
    "batch_size": 64, "warmup": 40, "rewind": 10,
}  # fmt: skip
_SMALL_GLANCE = {**_GLANCE, "conv_rate": 0.3, "hidden": (64, 64)}
QUICK: dict[str, dict[str, Any]] = {
    "conv2": _SMALL_GLANCE,
    "conv4": _SMALL_GLANCE,
    "conv6": _SMALL_GLANCE,
    "resnet20": {**_DEEP_GLANCE, "width": 4},
    "vgg16": {**_DEEP_GLANCE, "width": 4},
}


def presets(part: str) -> Mapping[str, Mapping[str, Any]]:
    """``quick``: embedded digits, narrow networks; ``reduced``: for a CPU; ``paper``: the documents' scale.

    Args:
      part: one of ``PARTS``; empty or unknown is conv2, and an unknown one is refused later.
    """
    paper = PAPER.get(part, {})
    scales = {"quick": QUICK, "reduced": REDUCED, "paper": PAPER}
    return {name: {**paper, **scale.get(part, scale["conv2"])} for name, scale in scales.items()}
