"""Lottery-ticket sweeps over seeds and initializations as one compiled JAX program.

Functions describe one run; ``lth_jax.runs.axis`` gives them the run axis. The names below are what most
programs need; everything else is a module away. They are imported when they are first used, so that importing
``lth_jax`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lth_jax import augmentation, data, initializers, keys, levels, models, networks, tasks, training
    from lth_jax.analysis.comparison import compare
    from lth_jax.analysis.ticket_files import load_ticket
    from lth_jax.analysis.ticket_formats import export_ticket
    from lth_jax.find import Tickets, find_tickets
    from lth_jax.keys import stream
    from lth_jax.levels import Plan, Run, Ticket, begin
    from lth_jax.models import MLP, Network, from_flax, from_linen, from_nnx, parameter_shapes
    from lth_jax.networks import VGG, ConvNet, ResNet
    from lth_jax.runs import axis
    from lth_jax.runs.sweep import run_levels
    from lth_jax.tasks import Task
    from lth_jax.tickets import dynamic, early, masks, pruning, rewinding, schedules, scores
    from lth_jax.tickets.keeping import keep_mask
    from lth_jax.training import Recipe, TrainState, evaluate, splits, train, train_step
    from lth_jax.types import Mask, Metrics, Params, Split

__all__ = [
    "MLP",
    "VGG",
    "ConvNet",
    "Mask",
    "Metrics",
    "Network",
    "Params",
    "Plan",
    "Recipe",
    "ResNet",
    "Run",
    "Split",
    "Task",
    "Ticket",
    "Tickets",
    "TrainState",
    "augmentation",
    "axis",
    "begin",
    "compare",
    "data",
    "dynamic",
    "early",
    "evaluate",
    "export_ticket",
    "find_tickets",
    "from_flax",
    "from_linen",
    "from_nnx",
    "initializers",
    "keep_mask",
    "keys",
    "levels",
    "load_ticket",
    "masks",
    "models",
    "networks",
    "parameter_shapes",
    "pruning",
    "rewinding",
    "run_levels",
    "schedules",
    "scores",
    "splits",
    "stream",
    "tasks",
    "train",
    "train_step",
    "training",
]

_HOMES = {
    "lth_jax.analysis.comparison": ("compare",),
    "lth_jax.analysis.ticket_files": ("load_ticket",),
    "lth_jax.analysis.ticket_formats": ("export_ticket",),
    "lth_jax.find": (
        "Tickets",
        "find_tickets",
    ),
    "lth_jax.keys": ("stream",),
    "lth_jax.levels": (
        "Plan",
        "Run",
        "Ticket",
        "begin",
    ),
    "lth_jax.models": (
        "MLP",
        "Network",
        "from_flax",
        "from_linen",
        "from_nnx",
        "parameter_shapes",
    ),
    "lth_jax.networks": (
        "VGG",
        "ConvNet",
        "ResNet",
    ),
    "lth_jax.runs.sweep": ("run_levels",),
    "lth_jax.tasks": ("Task",),
    "lth_jax.tickets.keeping": ("keep_mask",),
    "lth_jax.training": (
        "Recipe",
        "TrainState",
        "evaluate",
        "splits",
        "train",
        "train_step",
    ),
    "lth_jax.types": (
        "Mask",
        "Metrics",
        "Params",
        "Split",
    ),
}
"""Where the names are that are no modules."""
_MODULES = {
    "lth_jax.runs": ("axis",),
    "lth_jax.tickets": ("dynamic", "early", "masks", "pruning", "rewinding", "schedules", "scores"),
}
"""Where the modules are that are not here."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lth_jax' has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "")
    folder = next((folder for folder, names in _MODULES.items() if name in names), "lth_jax")
    module = importlib.import_module(home or f"{folder}.{name}")
    found = getattr(module, name) if home else module
    globals()[name] = found  # the next time it is simply there
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
