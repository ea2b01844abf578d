"""Scores of pruning at initialization: what each weight counts for before anything is trained.

They are scores like all others, functions of a network's weights, so each of them can also rank what is
trained. The lowest scored weights go first, usually over all layers together (scope ``global``), and
``score_steps`` scores anew after each of several prunings. Compared in *Pruning Neural Networks at
Initialization: Why Are We Missing the Mark?* (Frankle et al. 2021, arXiv:2009.08576).

What the papers leave open: the batch has as many examples of each class as there can be, ten unless said;
GraSP's outputs are divided by 200, and its gradient is that of the ranked leaves; SynFlow takes the magnitude
of every leaf, biases too, and ones for inputs, the model's other variables as they are. ``taylor`` ranks as
``snip`` does.

Magnitude at initialization is ``large_init`` of :mod:`scores`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lth_jax.errors import InputError
from lth_jax.keys import uniform_like
from lth_jax.tickets import masks
from lth_jax.tickets.scores import CRITERIA, Score, Scoring, by_weight, gradient, magnitude
from lth_jax.types import Params, Scores

TEMPERATURE = 200.0
"""What GraSP divides logits by: nowhere in its paper, but in its authors' program."""

SYNFLOW_STEPS = 100
"""How often SynFlow scores, and prunes, on its way to a density (Tanaka et al. 2020)."""

EXAMPLES_PER_CLASS = 10
"""Of the batch that gradients are taken of (Frankle et al. 2021)."""


def at_random(scoring: Scoring) -> Scores:
    """A draw for each weight from the run's own stream, whatever the weight is."""
    return uniform_like(scoring.key, scoring.trained)


def snip(scoring: Scoring) -> Scores:
    """``|g ⊙ θ|``: how much the loss feels a weight's mask (SNIP: Lee et al. 2019, arXiv:1810.02340).

    The paper divides by the sum over all weights, which changes no order.
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), scoring.trained, gradient(scoring))


def taylor(scoring: Scoring) -> Scores:
    """(g ⊙ θ)²: the squared change of the loss, to first order (Molchanov et al. 2019, arXiv:1906.10771)."""
    return jax.tree.map(jnp.square, snip(scoring))


def fisher(scoring: Scoring) -> Scores:
    """θ² ⊙ F, F the mean over examples of the squared gradient of each one's loss (Theis et al. 2018).

    Half of it is the rise of the loss, to second order, at weights where the gradient is 0.
    """

    def add(total: Params, example: Array) -> tuple[Params, None]:
        own = jax.grad(lambda params: scoring.loss(params, example=example))(scoring.trained)
        return jax.tree.map(lambda t, g: t + g * g, total, own), None

    start = jax.tree.map(jnp.zeros_like, scoring.trained)
    total, _ = jax.lax.scan(add, start, jnp.arange(scoring.examples))
    found = jax.tree.map(lambda w, t: w * w * t / scoring.examples, scoring.trained, total)
    return masks.apply(scoring.mask, found)


def grasp(scoring: Scoring, temperature: float = TEMPERATURE) -> Scores:
    """θ ⊙ H g: what the gradient's norm loses with a weight (GraSP: Wang et al. 2020, arXiv:2002.07376).

    Without the weight θ_q the squared norm gᵀg changes by −2 θ_q (H g)_q, to first order. Where that is
    negative the gradient's flow shrinks, so weights with the lowest θ ⊙ H g go first: those whose removal
    makes it grow most. The gradient g, and its norm, are of the ranked leaves alone; the outputs are divided
    by ``temperature``.
    """
    ranked = jax.tree.map(lambda _: True, scoring.mask) if scoring.ranked is None else scoring.ranked

    def of_ranked(params: Params) -> Params:
        whole = jax.grad(lambda weights: scoring.loss(weights, temperature=temperature))(params)
        kept = masks.apply(scoring.mask, whole)
        return jax.tree.map(lambda g, yes: g if yes else jnp.zeros_like(g), kept, ranked)

    product = jax.jvp(of_ranked, (scoring.trained,), (of_ranked(scoring.trained),))[1]
    return jax.tree.map(jnp.multiply, scoring.trained, product)


def synflow(scoring: Scoring) -> Scores:
    """θ ⊙ ∂R/∂θ at ``|θ|``: the flow through each weight (SynFlow: Tanaka et al. 2020, arXiv:2006.05467).

    R is the sum of the outputs where every input and every weight's sign is 1. It takes no data, is never
    negative, and a layer's scores add up to R wherever units neither add nor lose (no biases): so no layer is
    emptied while another can give, if it is scored often enough. Networks so deep that R leaves float32's
    range are no longer told apart.
    """
    if scoring.flow is None:
        raise InputError("synflow looks at the network: say prune_at start, or a score_batch of 1 or more")
    size = jax.tree.map(jnp.abs, scoring.trained)
    found = jax.tree.map(jnp.multiply, size, jax.grad(scoring.flow)(size))
    return masks.apply(scoring.mask, found)


OF_GRADIENTS: dict[str, Score] = {"snip": snip, "grasp": grasp, "taylor": taylor, "fisher": fisher}
"""Scores that ask for the loss of a batch."""

SCORES: dict[str, Score] = {
    **{name: by_weight(criterion) for name, criterion in CRITERIA.items()},
    "magnitude": magnitude,
    "random": at_random,
    **OF_GRADIENTS,
    "synflow": synflow,
}
"""Every score by its name."""


def default_steps(name: str) -> int:
    """How often a score is taken at a level where nobody says: 100 times SynFlow, once all others."""
    return SYNFLOW_STEPS if name == "synflow" else 1


def examples_of_batch(name: str, asked: int, classes: int, examples: int) -> int:
    """How many training examples a score's batch has, 0 for scores that look at none.

    Args:
      name: of ``SCORES``.
      asked: how many somebody has asked for; 0 is ten a class, or all that there are.
      classes: how many there are.
      examples: to draw from.

    Raises:
      InputError: more are asked for than there are, or a batch for a score that takes none.
    """
    if asked > examples:
        raise InputError(f"score-batch {asked}: larger than the {examples} training examples")
    if name not in OF_GRADIENTS:
        if asked:
            raise InputError(f"score-batch {asked}: {name} looks at no examples")
        return 0
    return asked or min(EXAMPLES_PER_CLASS * classes, examples)
