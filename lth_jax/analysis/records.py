"""What a search for tickets records of its levels, and how it is labelled."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree

from lth_jax import levels
from lth_jax.analysis import connectivity, flops, tables
from lth_jax.errors import InputError
from lth_jax.levels import Outcome, Plan, Run
from lth_jax.models import Network
from lth_jax.runs import results
from lth_jax.runs.progress import Progress
from lth_jax.runs.sweep import Swept
from lth_jax.tickets import masks
from lth_jax.training import observed_at
from lth_jax.types import Collections, Shapes


def record(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    """What is recorded of a network: its measurements and sizes, and its curves where there are some."""
    prunable = np.flatnonzero(jax.tree.leaves(plan.prunable))
    kept = jnp.stack(jax.tree.leaves(masks.counts(outcome.ticket.mask)))
    sizes = {"kept_weights": kept[prunable], "compressed": outcome.compressed[prunable]}
    found = {"measured": {**levels.measurements(outcome, plan), **sizes}, "curves": {}}
    if plan.recipe.eval_every:
        found["curves"] = {
            f"{name}_{metric}_curve" if metric else f"{name}_curve": values
            for name, seen in outcome.curves.observed.items()
            for metric, values in (seen.items() if isinstance(seen, dict) else [("", seen)])
        }
        found["curves"]["batch_loss_curve"] = outcome.curves.batch_loss
    return found


def packed_masks(run: Run, plan: Plan) -> list[Array]:
    """The ticket's mask of each prunable leaf, a bit a weight."""
    leaves = zip(jax.tree.leaves(run.ticket.mask), jax.tree.leaves(plan.prunable), strict=True)
    return [jnp.packbits(mask.ravel()) for mask, yes in leaves if yes]


def unpacked(packed: Sequence[np.ndarray], shapes: Shapes, prunable: PyTree[bool]) -> PyTree:
    """Bool trees from :func:`packed_masks`, whatever leading axes they have; other leaves are all True."""
    leading, parts = packed[0].shape[:-1], list(packed)

    def leaf(shape: Any, yes: bool) -> np.ndarray:
        if not yes:
            return np.ones((*leading, *shape.shape), bool)
        bits = np.unpackbits(parts.pop(0), axis=-1, count=shape.size)
        return bits.astype(bool).reshape(*leading, *shape.shape)

    return jax.tree.map(leaf, shapes, prunable)


def labelled(
    plan: Plan, shapes: Shapes, swept: Swept, seeds: Sequence[int], attrs: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """What :func:`record` has recorded, as arrays ``[network, seed, level, ...]``.

    Without controls and copies the dimension *network* is left out. Where there is a validation split and
    there are curves, ``early_stop_iteration`` is that of least validation loss, and ``early_stop_…`` are the
    other curves there. ``diverged`` marks networks whose loss is not finite, and those whose masks come of
    such a ticket. Controls are NaN, and have not diverged, at levels where none were trained. Pairs of
    copies: see :func:`compared`.
    ``compressed`` is as how many values a layer was held while it was trained, 0 where it was held dense.
    """
    leaves = zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(plan.prunable), strict=True)
    layers = {"/".join(masks.path_names(path)): leaf.size for (path, leaf), yes in leaves if yes}
    measured, curves = swept.networks["measured"], swept.networks["curves"]
    axes = [{"level": range(len(swept.seconds))}, {"seed": seeds}, {"network": plan.networks}]
    found = results.label(measured, *axes, {"layer": list(layers)})
    found["weights"] = (("layer",), np.asarray(list(layers.values())))
    if curves:
        at = observed_at(plan.recipe, plan.first)
        found = found.merge(results.label(curves, *axes, {"iteration": at}))
    if plan.children:
        found = found.merge(compared(plan, swept.compared, seeds))
    found = found.transpose("network", "seed", "level", ...)
    if plan.networks == ["ticket"]:
        found = found.isel(network=0, drop=True)
    found = with_early_stop(found)
    there = trained_at(plan, range(len(swept.seconds)))
    if not bool(there.all()):
        found = found.map(lambda values: values.where(there) if "network" in values.dims else values)
    ranked = "start" if plan.prune_at == "start" else "dense" if plan.sizes.one_shot else "before"
    found = results.mark_diverged(found, ranked)
    if not bool(there.all()):
        found["diverged"] = found["diverged"] & there
    return found.assign_attrs(dict(attrs or {}))


def trained_at(plan: Plan, levels: Sequence[int]) -> xr.DataArray:
    """Which networks are trained at which of some levels, ``[network, level]``."""
    there = [[name in plan.at(level).networks for level in levels] for name in plan.networks]
    return xr.DataArray(there, {"network": plan.networks, "level": list(levels)}, ("network", "level"))


def compared(plan: Plan, found: Mapping[str, np.ndarray], seeds: Sequence[int]) -> xr.Dataset:
    """What was recorded of pairs of copies, ``[level, seed, pair, ...]``, as labelled arrays.

    Dims ``level, seed, parent, pair``, and ``share`` along the line. ``SPLIT_loss_barrier`` and, of an
    accuracy, ``SPLIT_error_barrier`` are derived, see ``connectivity.barrier``.
    """
    level, copies = len(next(iter(found.values()))), range(1, plan.children + 1)
    names = [f"{one}-{other}" for one, other in itertools.combinations(copies, 2)]
    points = {name: values.shape[-1] for name, values in found.items() if name.endswith("_path")}
    axes = [{"level": range(level)}, {"seed": seeds}, {"parent": plan.parents, "pair": names}]
    labelled = results.label(found, *axes, *({"share": np.linspace(0, 1, n)} for n in {*points.values()}))
    for name in points:
        split, metric = name.removesuffix("_path").rsplit("_", 1)
        if metric in ("loss", "accuracy"):
            values = np.asarray(labelled[name]) if metric == "loss" else 1 - np.asarray(labelled[name])
            kind = "loss" if metric == "loss" else "error"
            height = np.asarray(connectivity.barrier(jnp.asarray(values)))
            labelled[f"{split}_{kind}_barrier"] = (labelled[name].dims[:-1], height)
    return labelled


def with_multiply_adds(
    found: xr.Dataset, network: Network, shapes: Shapes, collections: Collections, inputs: PyTree
) -> xr.Dataset:
    """Add ``multiply_adds``, those of each ticket and control for one example, and each layer's dense number.

    Args:
      found: from :func:`labelled`.
      network: the model.
      shapes: its parameters, or their shapes.
      collections: its other variables, likewise.
      inputs: what it is given for one example, or its shapes.

    Returns:
      The results with them; without, where a model's program does not say how often a weight is used.
    """
    try:
        dense = flops.multiply_adds(network, shapes, collections, inputs)
    except InputError:
        return found
    layers = np.asarray([dense.get(str(name), 0) for name in found["layer"].values], np.float64)
    other = sum(count for name, count in dense.items() if name not in found["layer"].values)
    each = found["kept_weights"] * xr.DataArray(layers / found["weights"].values, dims="layer")
    total = (each.sum("layer") + other).round().astype(np.int64)
    return found.assign(multiply_adds=total, layer_multiply_adds=("layer", layers.astype(np.int64)))


def with_early_stop(found: xr.Dataset) -> xr.Dataset:
    """Add the iteration of least validation loss, and every other curve's value there."""
    if "validation_loss_curve" not in found:
        return found
    loss = found["validation_loss_curve"]
    known = xr.ufuncs.isfinite(loss)
    place = loss.where(known, np.inf).argmin("iteration")
    there = known.any("iteration")
    stop = {
        "early_stop_iteration": found["iteration"].isel(iteration=place).drop_vars("iteration").where(there)
    }
    for name in [str(name) for name in found if str(name).endswith("_curve") and name != "batch_loss_curve"]:
        value = found[name].isel(iteration=place).drop_vars("iteration")
        stop[f"early_stop_{name.removesuffix('_curve')}"] = value.where(there)
    return found.assign(stop)


def describe(progress: Progress) -> str:
    """A level in a line: its size, and the tickets' accuracy, or loss where there is none."""
    networks, *_ = progress.record
    measured = {name: values[progress.level, :, 0] for name, values in networks["measured"].items()}
    shown = f"kept {measured['kept'].mean():7.2%}  "
    if "test_accuracy" in measured:
        return f"{shown}test accuracy (%) {tables.accuracy(measured['test_accuracy'])}"
    return f"{shown}test loss {np.nanmean(measured['test_loss']):.4g}"
