"""What ``lth-jax sweep`` can be told, and the network, plan and runs that come of it."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from lth_jax import checks, data, initializers, levels, models
from lth_jax.errors import InputError, require
from lth_jax.keys import stream
from lth_jax.runs import axis, processes, signals
from lth_jax.runs.config import check_choices, check_distinct, check_limits, option
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Recipe
from lth_jax.types import Collections, Params, PRNGKey, Shapes, Split

Rate = float | optax.Schedule

MODELS: dict[str, Callable[["Config", int], nn.Module]] = {
    "lenet-300-100": lambda config, classes: models.MLP((300, 100), classes),
    "mlp": lambda config, classes: models.MLP(config.hidden, classes),
    "lenet5": lambda config, classes: models.LeNet5(classes=classes),
}
OPTIMIZERS: dict[str, Callable[["Config", Rate], optax.GradientTransformation]] = {
    "adam": lambda config, rate: optax.adam(rate),
    "adamw": lambda config, rate: optax.adamw(rate, weight_decay=config.weight_decay),
    "sgd": lambda config, rate: optax.sgd(rate),
    "momentum": lambda config, rate: optax.sgd(rate, config.momentum),
    "nesterov": lambda config, rate: optax.sgd(rate, config.momentum, nesterov=True),
    "rmsprop": lambda config, rate: optax.rmsprop(rate),
}
SCHEDULES = ("constant", "cosine", "warmup")
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
    "rate": (1e-4, 0.9999),  # pruning counts in steps of 1 / 10,000
    "hidden": (1, 100_000),
}
GROUPS = {
    "the network": ("model", "hidden", "initializer", "dataset"),
    "training": (
        *("optimizer", "learning_rate", "weight_decay", "momentum"),
        *("schedule", "warmup_steps", "epochs", "batch_size", "seeds"),
    ),
    "pruning": ("levels", "rate", "layer_rates", "scope", "rewind"),
}


@dataclass(frozen=True)
class Config:
    """One sweep; every field is a flag, and a key of the TOML file."""

    model: str = option("lenet-300-100", f"{', '.join(MODELS)}, or your Flax module's PACKAGE.MODULE:CLASS")
    hidden: tuple[int, ...] = option((), "widths of mlp's hidden layers, as 300,100")
    initializer: str = option(OWN, "of the kernels: a scheme's name, normal:STD, or the module's own")
    dataset: str = option(data.EMBEDDED, "data set", data.DATASETS)
    optimizer: str = option("adam", "fresh at every level", tuple(OPTIMIZERS))
    learning_rate: float = option(1.2e-3, "its learning rate, the schedule's highest")
    weight_decay: float = option(0.0, "decoupled in adamw; in the others this times w joins the gradient")
    momentum: float = option(0.9, "of momentum and nesterov")
    schedule: str = option("constant", "the learning rate within a level", SCHEDULES)
    warmup_steps: int = option(0, "steps of linear warmup, for warmup and for cosine")
    epochs: int = option(3, "trained before each pruning")
    batch_size: int = option(60, "examples per step")
    seeds: tuple[int, ...] = option(tuple(range(42, 47)), "one run each, as 42-46 or 42,43")
    levels: int = option(10, "rounds of training and pruning; the first is dense")
    rate: float = option(0.2, "fraction of the surviving weights pruned per level, in (0, 1)")
    layer_rates: tuple[str, ...] = option((), "other rates for some layers, as output=0.1,hidden_0=0.3")
    scope: str = option("layer", "rank the weights of each layer, or of all together", tuple(pruning.SCOPES))
    rewind: str = option("start", "to θ0 (start), to its K-th step (K, a number), or not at all (none)")

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
        check_distinct(self, "seeds")
        check_limits(self, LIMITS)
        if self.initializer != OWN:
            named("--initializer", lambda: initializers.get(self.initializer))
        if self.schedule == "constant":
            require(self.warmup_steps == 0, f"--warmup-steps {self.warmup_steps}: --schedule is constant")
        if self.schedule == "warmup":
            require(self.warmup_steps > 0, "--schedule warmup: say --warmup-steps too")
        layers = layer_rates(self)
        require(
            not layers or self.scope == "layer",
            f"--layer-rates {','.join(self.layer_rates)}: --scope global has one rate for all layers",
        )
        rewind_step(self)


def named(what: str, function: Callable[[], Any]) -> Any:
    """What a function returns; its ``ValueError`` as an ``InputError`` that begins with a flag's name."""
    try:
        return function()
    except ValueError as error:
        raise InputError(f"{what}: {error}") from None


def layer_rates(config: Config) -> dict[str, float]:
    """The layers with a rate of their own."""
    given: dict[str, float] = {}
    for entry in config.layer_rates:
        layer, _, number = entry.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        require(
            bool(layer) and 1e-4 <= value <= 0.9999,
            f"--layer-rates {entry}: expected LAYER=RATE, the rate 0.0001 to 0.9999",
        )
        require(layer not in given, f"--layer-rates {entry}: {layer} is named twice")
        given[layer] = value
    return given


def rewind_step(config: Config) -> int:
    """The step that is rewound to: 0 for θ0 and where there is no rewinding."""
    if config.rewind in ("start", "none"):
        return 0
    known = len(config.rewind) < 12 and config.rewind.isascii() and config.rewind.isdecimal()
    require(
        known and int(config.rewind) > 0,
        f"--rewind {config.rewind[:40]}: expected start, none or a number of steps, at least 1",
    )
    return int(config.rewind)


def make_module(config: Config, classes: int) -> nn.Module:
    """The Flax module that ``--model`` names.

    Raises:
      InputError: it cannot be imported, or is no linen module.
    """
    if config.model in MODELS:
        return MODELS[config.model](config, classes)
    package, _, name = config.model.partition(":")
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())  # an installed command does not look there by itself
    try:
        found = getattr(importlib.import_module(package), name)
        module = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # somebody's module may raise anything
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"--model {config.model}: cannot be made: {problem}") from None
    finally:
        sys.path[:] = before
    kind = type(module).__name__
    require(isinstance(module, nn.Module), f"--model {config.model}: is a {kind}, no flax.linen.Module")
    return module


class Model(NamedTuple):
    """A network, how a run of it is initialized, and what that gives."""

    network: models.Network
    initial: Callable[[PRNGKey], tuple[Params, Collections]]
    shapes: Shapes
    collections: PyTree[Any]


def make_model(config: Config, image_shape: Sequence[int], classes: int) -> Model:
    """The network for images ``[height, width, channels]`` of so many classes.

    Raises:
      InputError: the module refuses such images, or the initializer the module's parameters.
    """
    network = models.from_flax(make_module(config, classes))
    sample = jnp.zeros((1, *image_shape), jnp.float32)

    def initial(key: PRNGKey) -> tuple[Params, Collections]:
        params, collections = network.init(key, sample)
        if config.initializer == OWN:
            return params, collections
        return initializers.initialize(key, params, initializers.get(config.initializer)), collections

    try:
        answer = jax.eval_shape(
            lambda key: network.apply(*network.init(key, sample), sample, None)[0], jax.random.key(0)
        )
    except Exception as error:  # each module refuses in its own words
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"--model {config.model}: refuses images {tuple(image_shape)}: {problem}") from None
    named(f"--model {config.model}", lambda: checks.check_logits(answer, 1, classes))
    what = f"--initializer {config.initializer} (module is the module's own)"
    shapes, collections = named(what, lambda: jax.eval_shape(initial, jax.random.key(0)))
    return Model(network, initial, shapes, collections)


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimizer of one level of so many steps."""
    peak, warm = config.learning_rate, config.warmup_steps
    rate: Mapping[str, Callable[[], Rate]] = {
        "constant": lambda: peak,
        "warmup": lambda: optax.warmup_constant_schedule(0.0, peak, warm),
        "cosine": lambda: (
            optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps)
            if warm
            else optax.cosine_decay_schedule(peak, steps)
        ),
    }
    optimizer = OPTIMIZERS[config.optimizer](config, rate[config.schedule]())
    if config.weight_decay == 0 or config.optimizer == "adamw":
        return optimizer
    return optax.chain(optax.add_decayed_weights(config.weight_decay), optimizer)


def make_plan(config: Config, model: Model, examples: int) -> levels.Plan:
    """The plan of every level.

    Raises:
      InputError: a batch, a warmup or a step to rewind to does not fit into a level, or a layer is unknown or
        loses its last weight.
    """
    require(
        config.batch_size <= examples,
        f"--batch-size {config.batch_size}: larger than the {examples} training examples",
    )
    most = 2**29 // examples
    require(config.epochs <= most, f"--epochs {config.epochs}: at most {most} of {examples} examples")
    steps, back = config.epochs * (examples // config.batch_size), rewind_step(config)
    require(config.warmup_steps < steps, f"--warmup-steps {config.warmup_steps}: a level has {steps} steps")
    require(back <= steps, f"--rewind {back}: a level has {steps} steps")
    which = named(f"--model {config.model}", lambda: masks.prunable(model.shapes))
    rates = named("--layer-rates", lambda: pruning.rates(model.shapes, config.rate, layer_rates(config)))
    pruning.check_scope(model.shapes, rates, config.scope, config.levels)
    recipe = Recipe(model.network, make_optimizer(config, steps), config.batch_size, steps, steps)
    return levels.Plan(
        recipe,
        rates=rates,
        prunable=which,
        scope=config.scope,
        rewind=rewinding.no_reset if config.rewind == "none" else rewinding.to_start,
    )


def make_run(config: Config, model: Model, plan: levels.Plan, seed: Any, split: Split | None) -> levels.Run:
    """A run before level 0; ``split``, the training examples, is needed to rewind to a later step only."""
    params, collections = model.initial(stream(seed, "init"))
    early = None
    if (step := rewind_step(config)) and split is not None:
        order, noise = stream(seed, "order", 0), stream(seed, "model", 0)  # as the dense level has them
        early = rewinding.at_step(order, params, split, plan.recipe, step, noise, collections)
    return levels.begin(seed, params, collections, plan, early)


def start_runs(
    config: Config, model: Model, plan: levels.Plan, seeds: Sequence[int], split: Split, chunk: int | None
) -> levels.Run:
    """Runs before level 0, stacked.

    Raises:
      signals.Stopped: Ctrl-C or SIGTERM came while the step to rewind to was trained for.
    """
    numbers = jnp.asarray(seeds, jnp.int32)
    if not rewind_step(config):
        return jax.jit(jax.vmap(lambda seed: make_run(config, model, plan, seed, None)))(numbers)
    one = lambda seed, split: make_run(config, model, plan, seed, split)  # noqa: E731
    with signals.asked() as request:
        later = axis.map_runs(one, chunk=chunk, wait=functools.partial(signals.wait, request=request))
        found = processes.gather(later(numbers, split))  # whole in every process, as without a step
        signals.leave(request)
    return jax.tree.map(jnp.asarray, found)
