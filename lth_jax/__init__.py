"""Lottery tickets in functional JAX: whole pruning sweeps, many seeds at once, one compiled program.

The names below are in the order in which data flows; each module says more. Everything is written for one
run; :mod:`lth_jax.parallel` adds the run axis.
"""

from lth_jax import data, initializers, keys, levels, models, training
from lth_jax.analysis.ticket_files import Ticket, load_ticket
from lth_jax.find import Tickets, find_tickets
from lth_jax.keys import stream
from lth_jax.levels import Level, Plan, Run, begin, play, play_level
from lth_jax.models import MLP, Network, from_flax, parameter_shapes
from lth_jax.runs import axis
from lth_jax.tickets import masks, pruning, rewinding
from lth_jax.training import Recipe, TrainState, evaluate, splits, train, train_step
from lth_jax.types import Mask, Metrics, Params, Split

__all__ = [
    "MLP",
    "Level",
    "Mask",
    "Metrics",
    "Network",
    "Params",
    "Plan",
    "Recipe",
    "Run",
    "Split",
    "Ticket",
    "Tickets",
    "TrainState",
    "axis",
    "begin",
    "data",
    "evaluate",
    "find_tickets",
    "from_flax",
    "initializers",
    "keys",
    "levels",
    "load_ticket",
    "masks",
    "models",
    "parameter_shapes",
    "play",
    "play_level",
    "pruning",
    "rewinding",
    "splits",
    "stream",
    "train",
    "train_step",
    "training",
]
