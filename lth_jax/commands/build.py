"""From the settings of ``lth-jax sweep`` to its model, its optimizer and its search."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lth_jax import initializers, models, optimizers, search
from lth_jax.choices import Choices, rewind_step
from lth_jax.commands import theirs
from lth_jax.commands.settings import (
    MODELS,
    NO_BUDGET,
    OPTIMIZERS,
    OWN,
    Config,
    dynamic_masks,
    layer_rates,
    named,
)
from lth_jax.errors import in_one_line, require
from lth_jax.optimizers import Rate
from lth_jax.runs.config import check_batches
from lth_jax.search import Search
from lth_jax.tasks import Task, check_logits
from lth_jax.tickets import early, patterns
from lth_jax.types import Collections, Params, PRNGKey


def make_module(config: Config, classes: int) -> nn.Module:
    """The Flax module that ``--model`` names.

    Raises:
      InputError: it cannot be imported, or is no linen module.
    """
    if config.model in MODELS:
        return MODELS[config.model](config, classes)
    made = lambda found: found if isinstance(found, nn.Module) else found()  # noqa: E731
    module = theirs.imported("--model", config.model, made)
    kind = type(module).__name__
    require(isinstance(module, nn.Module), f"--model {config.model}: is a {kind}, no flax.linen.Module")
    return module


class Model(NamedTuple):
    """A network, and how a run of it is initialized."""

    network: models.Network
    initial: Callable[[PRNGKey], tuple[Params, Collections]]
    classes: int
    sample: jax.Array


def make_model(config: Config, image_shape: Sequence[int], classes: int) -> Model:
    """The network for images ``[height, width, channels]`` of so many classes.

    Raises:
      InputError: the module refuses such images, or the initializer the module's parameters.
    """
    network = models.from_linen(make_module(config, classes))
    sample = jnp.zeros((1, *image_shape), jnp.float32)

    def initial(key: PRNGKey) -> tuple[Params, Collections]:
        params, collections = network.init(key, sample)
        if config.initializer == OWN:
            return params, collections
        return initializers.initialize(key, params, initializers.get(config.initializer)), collections

    with in_one_line(f"--model {config.model}: refuses images {tuple(image_shape)}"):
        answer = jax.eval_shape(
            lambda key: network.apply(*network.init(key, sample), sample, None)[0], jax.random.key(0)
        )
    named(f"--model {config.model}", lambda: check_logits(answer, 1, classes))
    what = f"--initializer {config.initializer} (module is the module's own)"
    named(what, lambda: jax.eval_shape(initial, jax.random.key(0)))
    return Model(network, initial, classes, sample)


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimizer of one level of so many steps."""
    peak, warm = config.learning_rate, config.warmup_steps
    per_epoch = steps // config.epochs
    drops = [optimizers.iteration(entry, per_epoch) for entry in config.boundaries]
    rate: Mapping[str, Callable[[], Rate]] = {
        "constant": lambda: peak,
        "warmup": lambda: optax.warmup_constant_schedule(0.0, peak, warm),
        "cosine": lambda: (
            optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps)
            if warm
            else optax.cosine_decay_schedule(peak, steps)
        ),
        "piecewise": lambda: optimizers.piecewise(peak, drops, config.decay, warm),
    }
    make = functools.partial(OPTIMIZERS[config.optimizer], config)
    if config.optimizer == "adamw":
        return make(rate[config.schedule]())
    return optimizers.with_decay(
        make,
        rate[config.schedule](),
        config.weight_decay,
        decoupled=config.decoupled,
        only=optimizers.DECAYED[config.decay_only],
    )


def check_boundaries(config: Config, steps: int) -> None:
    """Refuse boundaries that do not rise, or lie outside a level.

    Raises:
      InputError: the message names the first of them.
    """
    last = 0
    for entry in config.boundaries:
        place = optimizers.iteration(entry, steps // config.epochs)
        require(place < steps, f"--boundaries {entry}: a level has {steps} steps")
        require(
            place > last, f"--boundaries {entry}: is step {place}, after one at {last}; they have to rise"
        )
        last = place


def make_search(config: Config, model: Model, examples: int, task: Task | None = None) -> Search:
    """What happens at every level, and how its runs begin.

    Args:
      config: the flags.
      model: the network.
      examples: training examples, those that are held out for validation included.
      task: what is learned; classification unless given.

    Raises:
      InputError: a batch, a warmup or a step to rewind to does not fit into a level, or a layer is unknown or
        loses its last weight.
    """
    require(config.validation < examples, f"--validation {config.validation}: there are {examples} examples")
    examples -= config.validation
    check_batches(config, examples, epochs=("epochs",))
    steps = config.epochs * (examples // config.batch_size)
    require(config.warmup_steps < steps, f"--warmup-steps {config.warmup_steps}: a level has {steps} steps")
    check_boundaries(config, steps)
    back = rewind_step(config.rewind)[1]
    require(back < steps, f"--rewind {config.rewind}: a level has {steps} steps")
    batch = named(
        "--", lambda: early.examples_of_batch(config.score, config.score_batch, model.classes, examples), ""
    )
    choices = Choices(
        levels=config.levels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        rate=config.rate[0] if len(config.rate) == 1 else config.rate,
        layers=layer_rates(config),
        scope=config.scope,
        one_shot=config.one_shot,
        density=config.density or None,
        budget=None if config.budget == NO_BUDGET else config.budget,
        rewind=config.rewind,
        rewind_schedule=cast(Any, config.rewind_schedule),
        optimizer=cast(Any, config.rewind_optimizer),
        controls=config.controls,
        eval_every=config.eval_every,
        score=patterns.named(config.pattern, early.SCORES[config.score]),
        score_batch=max(batch, int(config.score == "synflow")),
        prune_at=config.prune_at,
        score_steps=config.score_steps or early.default_steps(config.score),
        children=config.children,
        path_points=config.path_points,
        path_statistics=config.path_statistics,
        dynamic=dynamic_masks(config),
    )
    grouped = config.pattern.startswith("groups") and "invert" in config.controls
    require(
        not grouped or choices.score_steps == 1,
        f"--controls invert: with --pattern {config.pattern} say --score-steps 1; of several, its mask has "
        "other numbers in a group",
    )
    optimizer = make_optimizer(config, steps)
    return named(
        "the sweep",
        lambda: search.prepare(
            model.network, optimizer, examples, model.initial, choices, task, model.sample
        ),
    )
