"""What ``lth-jax sweep`` can be told, and the search that comes of it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import optax

from lth_jax import augmentation, data, initializers, models, networks, optimizers
from lth_jax.analysis import connectivity
from lth_jax.choices import rewind_step
from lth_jax.commands import grid, inputs
from lth_jax.errors import InputError, require
from lth_jax.optimizers import Rate
from lth_jax.runs.config import (
    check_choices,
    check_distinct,
    check_limits,
    flag,
    option,
)
from lth_jax.tickets import budgets, dynamic, early, patterns
from lth_jax.tickets.controls import CONTROLS, parsed
from lth_jax.tickets.pruning import SCOPES


def _of_the_field(name: str, config: "Config", classes: int) -> nn.Module:
    """A network of ``networks``."""
    norm = {"norm": config.norm} if name.startswith(networks.NORMED) else {}
    return networks.MODELS[name](classes=classes, **norm)


MODELS: dict[str, Callable[["Config", int], nn.Module]] = {
    "lenet-300-100": lambda config, classes: models.MLP((300, 100), classes),
    "mlp": lambda config, classes: models.MLP(config.hidden, classes),
    "lenet5": lambda config, classes: models.LeNet5(classes=classes),
    **{name: functools.partial(_of_the_field, name) for name in networks.MODELS},
}
OPTIMIZERS: dict[str, Callable[["Config", Rate], optax.GradientTransformation]] = {
    "adam": lambda config, rate: optax.adam(rate),
    "adamw": lambda config, rate: optax.adamw(rate, weight_decay=config.weight_decay, mask=decaying(config)),
    "sgd": lambda config, rate: optax.sgd(rate),
    "momentum": lambda config, rate: optax.sgd(rate, config.momentum),
    "nesterov": lambda config, rate: optax.sgd(rate, config.momentum, nesterov=True),
    "rmsprop": lambda config, rate: optax.rmsprop(rate),
}
SCHEDULES = ("constant", "cosine", "warmup", "piecewise")
NO_BUDGET = "none"
BUDGETS = (NO_BUDGET, *budgets.BUDGETS)
STATIC = "static"
PRUNE_AT = ("trained", "start")
KEPT = ("kept", "restarted")
OPTIMIZER_STATES = ("fresh", "carried", "rewound")
OWN = "module"
"""The initializer that leaves initialization to the module."""

LIMITS = {
    "levels": (1, 1_000),
    "epochs": (1, 10_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-30, 1e30),
    "weight_decay": (0, 1e6),
    "momentum": (0, 0.999999),
    "warmup_steps": (0, 1_000_000_000),
    "decay": (1e-6, 1),
    "rate": (1e-4, 0.9999),  # pruning counts in steps of 1 / 10,000
    "hidden": (1, 100_000),
    "density": (0, 0.9999),
    "children": (0, 100),
    "path_points": (1, 10_000),
    "eval_every": (0, 1_000_000_000),
    "validation": (0, 1_000_000_000),
    "score_batch": (0, 1_000_000),
    "score_steps": (0, 10_000),
    "mask_every": (1, 1_000_000_000),
    "mask_fraction": (1e-4, 1),
    "mask_until": (1e-4, 1),
}
GROUPS = {
    "the network": ("model", "hidden", "norm", "initializer", "dataset"),
    "training": (
        *("optimizer", "learning_rate", "weight_decay", "decoupled", "decay_only", "momentum"),
        *("schedule", "warmup_steps", "boundaries", "decay", "epochs", "batch_size", "seeds"),
        *("augment", "normalize"),
    ),
    "pruning": (
        *("levels", "rate", "density", "layer_rates", "scope", "budget", "one_shot"),
        *("score", "pattern", "prune_at", "score_steps", "score_batch"),
        *("sparse_training", "mask_every", "mask_fraction", "mask_until"),
        *("rewind", "rewind_schedule", "rewind_optimizer"),
    ),
    "stability": ("children", "path_points", "path_statistics"),
    "several sweeps": ("grid",),
    "what is recorded": ("controls", "eval_every", "validation", "keep_weights"),
}


@dataclass(frozen=True)
class Config:
    """One sweep; every field is a flag, and a key of the TOML file."""

    model: str = option("lenet-300-100", f"{', '.join(MODELS)}, or your Flax module's PACKAGE.MODULE:CLASS")
    hidden: tuple[int, ...] = option((), "widths of mlp's hidden layers, as 300,100")
    norm: str = option("batch", "behind the convolutions of resnet… and vgg…", networks.NORMS)
    initializer: str = option(OWN, "of the kernels: a scheme's name, normal:STD, or the module's own")
    dataset: str = option(
        data.EMBEDDED, "data set, or npz:FILE, npy:FOLDER, folder:FOLDER, tfds:NAME", data.DATASETS
    )
    optimizer: str = option("adam", "fresh at every level", tuple(OPTIMIZERS))
    learning_rate: float = option(1.2e-3, "its learning rate, the schedule's highest")
    weight_decay: float = option(0.0, "decoupled in adamw; in the others this times w joins the gradient")
    decoupled: bool = option(False, "take --weight-decay from the weights beside the update, as adamw does")
    decay_only: str = option(
        "all", "what decays: no biases and norms with kernels", tuple(optimizers.DECAYED)
    )
    momentum: float = option(0.9, "of momentum and nesterov")
    schedule: str = option("constant", "the learning rate within a level", SCHEDULES)
    warmup_steps: int = option(0, "steps of linear warmup, for warmup, cosine and piecewise")
    boundaries: tuple[str, ...] = option(
        (), "where piecewise drops: iterations as 32000,48000, epochs as 80e"
    )
    decay: float = option(0.1, "what piecewise multiplies the learning rate by at each boundary")
    epochs: int = option(3, "trained before each pruning")
    batch_size: int = option(60, "examples per step")
    augment: tuple[str, ...] = option(
        (),
        f"changes of training images, as flip,crop:4: {', '.join(augmentation.NAMES)}, your MODULE:FUNCTION",
    )
    normalize: bool = option(False, "images less the training images' mean, over their standard deviation")
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "one run each, as 42-46 or 42,43")
    levels: int = option(10, "rounds of training and pruning; the first is dense")
    rate: tuple[float, ...] = option((0.2,), "fraction of the survivors pruned per level, or one for each")
    density: float = option(
        0.0, "fraction that the last level keeps, exactly, instead of --rate; 0 is --rate"
    )
    layer_rates: tuple[str, ...] = option(
        (), "other rates (or densities) of layers, as output=0.1,Block_1/Dense_0=0"
    )
    scope: str = option("layer", "rank the weights of each layer, or of all together", tuple(SCOPES))
    budget: str = option(
        NO_BUDGET, "how a level's weights are shared out among layers; none is --scope", BUDGETS
    )
    one_shot: bool = option(False, "cut every level out of the dense network")
    score: str = option("large_final", "what weights are ranked by", tuple(early.SCORES))
    pattern: str = option("none", "weights go one by one (none), as units, groups:M or blocks:ROWSxCOLUMNS")
    prune_at: str = option("trained", "rank what is trained, or what a level will start from", PRUNE_AT)
    score_steps: int = option(0, "prunings from level to level, each scored anew; 0: 100 of synflow, else 1")
    score_batch: int = option(0, "training examples whose gradient a score takes; 0 is 10 a class")
    sparse_training: str = option(
        STATIC, "masks while networks are trained: they stay (static), or change", (STATIC, *dynamic.RULES)
    )
    mask_every: int = option(dynamic.Dynamic.every, "iterations between two changes of a mask")
    mask_fraction: float = option(
        dynamic.Dynamic.fraction, "of a layer's weights that set and rigl replace at first"
    )
    mask_until: float = option(dynamic.Dynamic.until, "share of a level's iterations after which masks stay")
    rewind: str = option(
        "start",
        "to θ0 (start), step K (K), not at all (none), the schedule only (lr:K); several as 0,500",
    )
    rewind_schedule: str = option("kept", "after K: go on from there, or a whole level again", KEPT)
    rewind_optimizer: str = option("fresh", "its state at levels after the first", OPTIMIZER_STATES)
    controls: tuple[str, ...] = option((), f"trained beside each ticket: {', '.join(CONTROLS)}")
    children: int = option(0, "orders of the examples that every network is trained in; 0 and 1: one")
    path_points: int = option(connectivity.POINTS, "steps of the line between two of them")
    path_statistics: str = option(
        "interpolated", "batch statistics on that line, mixed or of training batches", connectivity.STATISTICS
    )
    eval_every: int = option(0, "iterations between two evaluations within a level, for curves; 0 is none")
    validation: int = option(0, "training examples held out, whose least loss says when to stop; 0 is none")
    grid: tuple[str, ...] = option(
        (), "a sweep for each value, as learning_rate=1e-3,3e-3; may be given again", repeated=True
    )
    keep_weights: str = option("none", "trained weights to keep: none, all, or levels as 0,9")

    def __post_init__(self) -> None:
        check_choices(self)
        own = self.model in MODELS or all(self.model.partition(":"))
        expected = f"expected {', '.join(MODELS)} or PACKAGE.MODULE:CLASS"
        require(own, f"--model {self.model}: unknown; {expected}")
        widths = ",".join(map(str, self.hidden))
        if self.model == "mlp":
            require(0 < len(self.hidden) <= 20, f"--hidden {widths or 'nothing'}: --model mlp takes 1 to 20")
        else:
            require(not self.hidden, f"--hidden {widths}: only --model mlp takes widths")
        normed = self.model.startswith(networks.NORMED) and self.model in networks.MODELS
        require(
            normed or self.norm == "batch", f"--norm {self.norm}: --model {self.model} has none to choose"
        )
        check_distinct(self, "seeds")
        check_limits(self, LIMITS)
        if self.initializer != OWN:
            named("--initializer", lambda: initializers.get(self.initializer))
        if self.schedule == "constant":
            require(self.warmup_steps == 0, f"--warmup-steps {self.warmup_steps}: --schedule is constant")
        if self.schedule == "warmup":
            require(self.warmup_steps > 0, "--schedule warmup: say --warmup-steps too")
        check_decay(self)
        check_sparse_training(self)
        given = ",".join(f"{rate:g}" for rate in self.rate)
        fits = len(self.rate) in (1, self.levels - 1)
        require(fits, f"--rate {given or 'nothing'}: expected one, or {self.levels - 1} for the levels")
        inputs.check(self.augment)
        layer_rates(self)
        named("--", lambda: patterns.named(self.pattern, early.SCORES[self.score]), "")
        ways = self.rewind.split(",")
        for way in ways:
            named("--", lambda way=way: rewind_step(way), "")
        places = [rewind_step(way) for way in ways]
        require(len(set(places)) == len(places), f"--rewind {self.rewind}: one is named twice")
        require(self.children != 1, "--children 1: a line needs two")
        if self.controls:
            check_distinct(self, "controls")
        for name in self.controls:
            named("--controls", lambda name=name: parsed(name))
        check_kept_levels(self)
        if self.grid:
            grid.points(self)


def check_decay(config: Config) -> None:
    """Refuse boundaries that are none, and flags that would do nothing."""
    steps = config.schedule == "piecewise"
    listed = ",".join(config.boundaries)
    require(steps or not listed, f"--boundaries {listed}: --schedule is {config.schedule}")
    require(steps or config.decay == 0.1, f"--decay {config.decay:g}: --schedule is {config.schedule}")
    require(not steps or bool(listed), "--schedule piecewise: say --boundaries too")
    for entry in config.boundaries:
        named("--boundaries", lambda entry=entry: optimizers.iteration(entry, 1), " ")
    for name in [*["--decoupled"] * config.decoupled, *["--decay-only"] * (config.decay_only != "all")]:
        require(config.weight_decay > 0, f"{name}: say --weight-decay too")


def check_sparse_training(config: Config) -> None:
    """Refuse masks that change with nothing to begin from, and flags that would do nothing."""
    way = config.sparse_training
    if way != STATIC:
        start = config.prune_at == "start"
        require(start, f"--sparse-training {way}: say --prune-at start too, and --score random as papers do")
        require(not config.children, f"--children {config.children}: --sparse-training is {way}")
    for name in ("mask_every", "mask_fraction", "mask_until"):
        value, usual = getattr(config, name), Config.__dataclass_fields__[name].default
        used = way != STATIC and not (way == "gradual" and name == "mask_fraction")
        require(used or value == usual, f"{flag(name)} {value:g}: --sparse-training is {way}")


def dynamic_masks(config: Config) -> dynamic.Dynamic | None:
    """How masks change while networks are trained; ``None`` where they stay."""
    if config.sparse_training == STATIC:
        return None
    rule = dynamic.RULES[config.sparse_training]
    return dynamic.Dynamic(rule, config.mask_every, config.mask_fraction, config.mask_until)


def decaying(config: Config) -> Any:
    """Which parameters decay, as Optax takes it."""
    if config.decay_only == "all":
        return None
    return optimizers.leaves(optimizers.DECAYED[config.decay_only])


def named(what: str, function: Callable[[], Any], behind: str = ": ") -> Any:
    """What a function returns; its ``ValueError`` as an ``InputError`` that begins with a flag's name."""
    try:
        return function()
    except ValueError as error:
        raise InputError(f"{what}{behind}{error}") from None


def layer_rates(config: Config) -> dict[str, float]:
    """The layers with a rate of their own."""
    given: dict[str, float] = {}
    for entry in config.layer_rates:
        layer, _, number = entry.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        require(
            bool(layer) and (1e-4 <= value <= 0.9999 or value == 0),
            f"--layer-rates {entry}: expected LAYER=RATE, the rate 0.0001 to 0.9999, or 0 to spare it",
        )
        require(layer not in given, f"--layer-rates {entry}: {layer} is named twice")
        given[layer] = value
    return given


def kept_levels(config: Config) -> list[int]:
    """The levels whose trained weights are kept."""
    if config.keep_weights in ("none", "all"):
        return list(range(config.levels)) if config.keep_weights == "all" else []
    return [int(entry) for entry in config.keep_weights.split(",")]


def check_kept_levels(config: Config) -> None:
    """Refuse levels that there are not."""
    text = config.keep_weights
    parts = text.split(",")
    known = text in ("none", "all") or all(p.isascii() and p.isdecimal() and len(p) < 6 for p in parts)
    require(known, f"--keep-weights {text}: expected none, all, or levels such as 0,9")
    for level in kept_levels(config):
        require(level < config.levels, f"--keep-weights {level}: the levels are 0 to {config.levels - 1}")
    require(len(set(kept_levels(config))) == len(kept_levels(config)), f"--keep-weights {text}: one is twice")
