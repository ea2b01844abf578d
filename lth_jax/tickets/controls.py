"""Controls: networks that differ from a run's ticket in one thing, to be trained beside it.

Each function makes a ``levels.Control``, a pure function of the run. Its randomness is the run's own, told
apart by level and by ``trial``, so that several controls of one kind may stand side by side.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from lth_jax.errors import require
from lth_jax.keys import stream
from lth_jax.tickets import masks, rewinding
from lth_jax.types import Params, PRNGKey

Control = Callable[[Any], Any]
"""A ``levels.Run`` to a ``levels.Ticket``."""

CONTROLS = ("reinit", "shuffle", "rearrange", "random_mask", "invert")
"""Controls by name: the ticket with fresh weights, its weights permuted, moved with their places, its mask
permuted, its mask by the negated score. All but the last may be followed by a number, ``reinit:1``, so that
several of a kind stand side by side."""

INVERTED = "inverted"
"""What a run's extras call the mask that the negated score leaves."""


def reinit(draw: Callable[[PRNGKey], Params], trial: int = 0) -> Control:
    """The ticket's mask with fresh weights, drawn as the first ones were (Frankle & Carbin 2019)."""
    return lambda run: run.ticket._replace(params=draw(stream(run.seed, "reinit", run.level, trial)))


def shuffle(of: PyTree[bool], trial: int = 0) -> Control:
    """The ticket's mask, the kept weights of each chosen leaf permuted among their places."""

    def control(run: Any) -> Any:
        key = stream(run.seed, "shuffle", run.level, trial)
        return run.ticket._replace(params=rewinding.shuffle(key, run.ticket.mask, run.ticket.params, of))

    return control


def rearrange(of: PyTree[bool], trial: int = 0) -> Control:
    """Every weight of each chosen leaf moved to another place of it, its mask with it."""

    def control(run: Any) -> Any:
        key = stream(run.seed, "shuffle", run.level, trial)
        params, mask = rewinding.rearrange(key, run.ticket.mask, run.ticket.params, of)
        return run.ticket._replace(params=params, mask=mask)

    return control


def random_mask(of: PyTree[bool], trial: int = 0) -> Control:
    """The ticket's weights under a random mask that keeps as many of each chosen leaf."""

    def control(run: Any) -> Any:
        key = stream(run.seed, "mask", run.level, trial)
        return run.ticket._replace(mask=masks.permute(key, run.ticket.mask, of))

    return control


def from_extra(name: str) -> Control:
    """The ticket's mask on other weights that the run carries, such as θ_k."""
    return lambda run: run.ticket._replace(params=run.extras[name])


def invert(run: Any) -> Any:
    """The ticket's weights under the mask of the negated score, which a ``levels.Plan`` has to ask for.

    What the score would keep longest goes first: if that does no harm, the score is no reason for the mask
    (Frankle et al. 2021).
    """
    return run.ticket._replace(mask=run.extras[INVERTED])


def named(name: str, draw: Callable[[PRNGKey], Params], of: PyTree[bool]) -> Control:
    """A control by its name.

    Args:
      name: one of ``CONTROLS``, perhaps with a number.
      draw: fresh weights from a key, as the first ones were drawn.
      of: which leaves are permuted, from ``masks.prunable``.

    Raises:
      InputError: there is none of that name.
    """
    kind, trial = parsed(name)
    if kind == "invert":
        return invert
    if kind == "reinit":
        return reinit(draw, trial)
    return {"shuffle": shuffle, "rearrange": rearrange, "random_mask": random_mask}[kind](of, trial)


def parsed(name: str) -> tuple[str, int]:
    """A control's kind and number.

    Raises:
      InputError: there is none of that name.
    """
    kind, _, number = name.partition(":")
    counted = number.isascii() and number.isdecimal() and len(number) < 6 and kind != "invert"
    known = kind in CONTROLS and (name == kind or counted)
    require(known, f"{name[:40]!r}: unknown control; expected some of {', '.join(CONTROLS)}")
    return kind, int(number or 0)
