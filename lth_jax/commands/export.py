"""``lth-jax export``: one ticket of a sweep for others, with a card, and what its sparsity saves."""

import argparse
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from lth_jax import models
from lth_jax.analysis import flops, pytorch, sparsity, tables, ticket_files, ticket_formats
from lth_jax.analysis.ticket_files import Flat
from lth_jax.analysis.ticket_formats import Contents
from lth_jax.commands import build, sweep
from lth_jax.commands.settings import STATIC, Config
from lth_jax.errors import InputError, require
from lth_jax.keys import stream
from lth_jax.places import user_path
from lth_jax.runs import results, storage
from lth_jax.runs.config import check_printable
from lth_jax.tickets import shrinking

HELP = "one ticket of a sweep as safetensors, for PyTorch, Orbax or SciPy, with a JSON card"
EXAMPLES = """\
examples:
  lth-jax export runs/sweep/0a1b2c3d --seed 42 --level 9
  lth-jax export RUN --seed 42 --level 9 --out ticket.safetensors --measure
  lth-jax export RUN --seed 42 --level 9 --trained --out ticket.pt          where PyTorch is installed
  lth-jax export RUN --seed 42 --level 9 --format pytorch --out torch.safetensors      where it is not
  lth-jax export RUN --seed 42 --level 9 --out ticket                       a folder of Orbax
  lth-jax export RUN --seed 42 --level 9 --out ticket.npz                   CSR matrices

Read it again with

  import lth_jax
  params, mask, card = lth_jax.load_ticket("ticket.safetensors")

or with safetensors alone: params/LAYER/kernel are the weights that training starts from, the pruned ones 0;
mask/LAYER/kernel are bools, True is kept. The card says model, data, accuracy, versions, multiply-adds, and
bytes as dense, CSR and BCOO. --measure times inference here, jax.experimental.sparse's BCOO kernels against
dense ones. --trained takes the weights after training, of the levels that the sweep kept (--keep-weights).

In PyTorch, a module whose layers are called as Flax calls them (block_0/conv is block_0.conv):

  model.load_state_dict(torch.load("ticket.pt"))
  model.load_state_dict(safetensors.torch.load_file("torch.safetensors"))

Dense and Conv kernels are Linear's and Conv2d's weight; behind a flattened image the inputs are in the order
of nn.Flatten. With --masks there are weight_orig and weight_mask, as torch.nn.utils.prune has them, for a
model with prune.identity(layer, "weight"). A start has no running statistics: strict=False. What is no such
layer keeps its layout and name, and is listed. Orbax and SciPy:

  orbax.checkpoint.StandardCheckpointer().restore("/absolute/path/ticket")             {params, mask}
  f, k = numpy.load("ticket.npz"), "params/output/kernel/"
  scipy.sparse.csr_matrix((f[k + "data"], f[k + "indices"], f[k + "indptr"]), f[k + "shape"])"""

SAME_MASK = ("ticket", "reinit", "shuffle")
"""The networks that have the ticket's own mask; another control's is where its weights are not 0."""


def add(commands: Any) -> None:
    """The subcommand and its flags."""
    parser = commands.add_parser("export", help=HELP, description=HELP, epilog=EXAMPLES)
    parser.add_argument("folder", metavar="RUN", help="the folder of an lth-jax sweep")
    parser.add_argument("--seed", type=int, required=True, metavar="SEED", help="which run")
    parser.add_argument("--level", type=int, required=True, metavar="LEVEL", help="which level; 0 is dense")
    parser.add_argument(
        "--trained", action="store_true", help="its weights after training, if they were kept"
    )
    parser.add_argument("--network", default="ticket", metavar="NAME", help="with --trained: or a control's")
    parser.add_argument("--out", metavar="FILE", help="[RUN/tickets/seed-SEED-level-LEVEL.safetensors]")
    parser.add_argument("--format", choices=ticket_formats.FORMATS, help="[what the name of --out says]")
    parser.add_argument("--masks", action="store_true", help="for PyTorch: weight_orig and weight_mask")
    parser.add_argument("--measure", action="store_true", help="time inference, sparse against dense")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """The whole command."""
    folder, seed, level = user_path(parsed.folder), parsed.seed, parsed.level
    which = f"-{re.sub('[:/]', '-', parsed.network)}-trained" if parsed.trained else ""
    ending = ticket_formats.ENDINGS.get(parsed.format, ".safetensors")
    name = f"seed-{seed}-level-{level}{which}{ending}"
    path = folder / results.EXPORTED / name if parsed.out is None else user_path(parsed.out)
    check_printable([str(path)])
    format = ticket_formats.check_name(path, parsed.format)
    require(not parsed.masks or format == "pytorch", "--masks: goes with --format pytorch")
    measured = results.load(folder / results.RESULTS)
    with results.understood(folder / results.RESULTS):
        chosen = configuration(measured, folder)
        image_shape = json.loads(measured.attrs["image_shape"])
        classes = int(measured.attrs["classes"])
    model = build.make_model(chosen, image_shape, classes)
    stored, saved = folder / ticket_files.TICKETS, {}
    require(parsed.trained or parsed.network == "ticket", "--network: goes with --trained")
    changed = chosen.sparse_training != STATIC
    require(
        parsed.trained or not changed,
        f"--sparse-training {chosen.sparse_training}: its mask was found while training; say --trained",
    )
    if parsed.trained:
        params, saved = ticket_files.read_trained(stored, seed, level, parsed.network)
        same = ("ticket",) if changed else SAME_MASK
        if re.split("[:/]", parsed.network)[0] in same:  # whose kept weights may be exactly 0
            mask = ticket_files.read_mask(stored, seed, level)
        else:
            mask = {
                name: np.asarray(leaf != 0) if leaf.ndim > 1 else np.ones(leaf.shape, bool)
                for name, leaf in params.items()
            }
    else:
        params, mask = ticket_files.read(stored, seed, level, sweep.drawer(model))
    check_tree(model, params, mask, stored)
    with results.understood(folder / results.RESULTS):
        if parsed.network == "ticket":
            check_counts(measured, seed, level, mask, stored)
        card = make_card(measured, seed, level, (params, mask), parsed.network, parsed.trained)
    card["multiply_adds"] = count(model, mask)
    if parsed.measure:
        collections = model.initial(stream(seed, "init"))[1]
        arrays = [{name: jnp.asarray(leaf) for name, leaf in leaves.items()} for leaves in (params, mask)]
        tree, kept = map(ticket_files.nested, arrays)
        times = sparsity.measure(model.network, tree, kept, collections, image_shape)
        card["measured"] = as_card(times)
    if parsed.trained and chosen.model in ("mlp", "lenet-300-100"):
        card["shrunk"] = shrunk(params, mask, image_shape, parsed.measure)
    with storage.in_a_place_of("--out"):
        contents = Contents(params, mask, saved, card, model.network, model.sample, parsed.masks)
        card = ticket_formats.write(path, format, contents)
    for line in said(card, path):
        tables.print_line(tables.console(), line)


def configuration(measured: xr.Dataset, folder: Path) -> Config:
    """The configuration of the sweep that a results file is of.

    Raises:
      InputError: it is another program's.
    """
    attrs = measured.attrs
    kind = str(attrs.get("experiment", "something else"))
    require(kind == "sweep", f"{folder}: is a run of {kind}; only lth-jax sweep keeps its tickets")
    try:
        written: dict[str, Any] = dict(json.loads(attrs["config"]))
        for name in ("image_shape", "versions"):
            json.loads(attrs[name])
    except (KeyError, ValueError, TypeError) as error:
        problem = f"{type(error).__name__}: {str(error)[:80]}"
        raise InputError(f"{folder}: {results.RESULTS} does not say how it was made ({problem})") from None
    unknown = set(written) ^ {field.name for field in fields(Config)}
    require(not unknown, f"{folder}: written by another version ({', '.join(sorted(unknown))} differ)")
    as_fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in written.items()}
    return Config(**as_fields)


def check_tree(model: build.Model, params: Flat, mask: Flat, stored: Path) -> None:
    """Refuse weights and masks that are not of the model's parameters.

    Raises:
      InputError: the message names the file, and the first of them.
    """
    tree, _ = jax.eval_shape(model.initial, jax.random.key(0))
    wanted = {name: leaf.shape for name, leaf in ticket_files.flat(tree).items()}
    for leaves in (params, mask):
        for name in sorted({*wanted, *leaves}):
            fits = name in leaves and wanted.get(name) == leaves[name].shape
            require(fits, f"{stored}: {name[:80]} is no parameter of the model, or of another shape")


def check_counts(measured: xr.Dataset, seed: int, level: int, mask: Flat, stored: Path) -> None:
    """Refuse masks that keep other numbers of weights than the results say: one that is missing keeps all.

    Raises:
      InputError: the message names the file, and the first of them.
    """
    kept = measured["kept_weights"].sel(seed=seed, level=level)
    kept = kept.sel(network="ticket") if "network" in kept.dims else kept
    for name, count in zip(measured["layer"].values.tolist(), kept.values.tolist(), strict=True):
        same = name in mask and int(mask[name].sum()) == count
        require(same, f"{stored} is damaged: its mask of {name[:80]} is not the one of the results")


def make_card(
    measured: xr.Dataset,
    seed: int,
    level: int,
    ticket: tuple[Flat, Flat],
    network: str = "ticket",
    trained: bool = False,
) -> dict[str, Any]:
    """What a ticket, weights and mask, is for people and programs; accuracies are fractions, once trained."""
    params, mask = ticket
    attrs, at = measured.attrs, measured.sel(seed=seed, level=level)
    at = at.sel(network=network) if "network" in at.dims else at
    config = json.loads(attrs["config"])
    own = ("model", "hidden", "initializer", "rewind")
    numbers = {name: float(at[name]) for name in ("kept", "test_accuracy", "train_accuracy", "test_loss")}
    weights = {
        str(name): {"kept": int(mask[str(name)].sum()), "of": mask[str(name)].size}
        for name in measured["layer"].values
    }
    return {
        "format": "lth_jax ticket 1",
        "params": f"weights {'after training' if trained else 'that training starts from'}, pruned ones 0",
        "network": network,
        "seed": seed,
        "level": level,
        **{name: config[name] for name in own},
        "dataset": attrs["dataset"],
        "fingerprint": attrs["fingerprint"],
        "normalization": json.loads(attrs.get("normalization", "{}")),
        **{name: value if np.isfinite(value) else None for name, value in numbers.items()},
        "weights": weights,
        "bytes": sparsity.sizes(mask, params),
        "config": config,
        "versions": json.loads(attrs["versions"]),
        "device": attrs["device"],
        "commit": attrs["commit"],
    }


def count(model: build.Model, mask: Flat) -> dict[str, Any] | None:
    """A ticket's multiply-adds for one example, by layer and in all; ``None`` if uncountable."""
    params, collections = jax.eval_shape(model.initial, jax.random.key(0))
    try:
        dense = flops.multiply_adds(model.network, params, collections, model.sample)
    except InputError:
        return None
    kept = flops.of_ticket(dense, mask)
    layers = {name: {"kept": kept[name], "of": dense[name]} for name in dense}
    return {"kept": sum(kept.values()), "of": sum(dense.values()), "layers": layers}


def shrunk(params: Flat, mask: Flat, image_shape: Sequence[int], timed: bool) -> dict[str, Any]:
    """What is left of a trained MLP without its dead units: its sizes and, asked for, its time."""
    tree, kept = (ticket_files.nested(dict(leaves)) for leaves in (params, mask))
    number = lambda name: int(name.rpartition("_")[2])  # noqa: E731
    layers = [*sorted((name for name in tree if name != "output"), key=number), "output"]
    smaller = shrinking.shrink(tree, kept, layers)
    *hidden, classes = smaller.widths
    network = models.from_linen(models.MLP(tuple(hidden), classes))
    sample = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    work = flops.multiply_adds(network, smaller.params, {}, sample)
    found: dict[str, Any] = {
        "units": dict(zip(layers, smaller.widths, strict=True)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(smaller.params)),
        "multiply_adds": sum(work.values()),
    }
    if timed:
        call = jax.jit(lambda weights, images: network.apply(weights, {}, images, None)[0])
        time = functools.partial(sparsity.seconds_of, call, (smaller.params,), image_shape)
        found["ms"] = {str(batch): 1e3 * time(batch) for batch in sparsity.BATCHES}
    return found


def as_card(times: Mapping[int, sparsity.Times]) -> dict[str, Any]:
    """Measured inference as the card has it: milliseconds, and how many times as long BCOO takes."""
    batches = {
        str(batch): {"dense_ms": 1e3 * t.dense, "bcoo_ms": 1e3 * t.bcoo, "ratio": t.bcoo / t.dense}
        for batch, t in times.items()
    }
    return {"device": results.device_name(), "median_of_one_run": batches}


def said(card: Mapping[str, Any], path: Path) -> list[str]:
    """What is printed: the ticket, its sizes and, where measured, its speed."""
    size, dense = card["bytes"], card["bytes"]["dense"]
    shown = ", ".join(f"{name} {size[name]:,} ({size[name] / dense:.1%})" for name in ("csr", "bcoo"))
    accuracy = "diverged" if card["test_accuracy"] is None else f"{card['test_accuracy']:.2%}"
    lines = [
        f"{card['model']}, seed {card['seed']}, level {card['level']}: {card['kept']:.2%} of the weights, "
        f"test accuracy {accuracy} once trained",
        f"parameters in bytes: dense {dense:,} (100%), {shown}",
    ]
    if work := card.get("multiply_adds"):
        share = work["kept"] / max(work["of"], 1)
        lines.append(f"multiply-adds an example: dense {work['of']:,}, ticket {work['kept']:,} ({share:.1%})")
    if small := card.get("shrunk"):
        units = ", ".join(f"{name} {count}" for name, count in small["units"].items())
        timed = "".join(f", {ms:.3g} ms for {batch}" for batch, ms in small.get("ms", {}).items())
        lines.append(f"without its dead units, dense: {units}; {small['parameters']:,} parameters{timed}")
    if measured := card.get("measured"):
        lines.append(f"inference on {measured['device']}, medians of one run:")
        for batch, t in measured["median_of_one_run"].items():
            more = t["ratio"] >= 1
            factor = t["ratio"] if more else 1 / t["ratio"]
            lines.append(
                f"  batch {batch}: dense {t['dense_ms']:.3g} ms, BCOO {t['bcoo_ms']:.3g} ms: "
                f"sparse is {factor:.3g} times {'slower' if more else 'faster'}"
            )
    if card.get("file", {}).get("layout") == "pytorch":
        lines += pytorch.said(card["file"])
    return [*lines, f"ticket: {path}", f"card: {ticket_files.card_path(path)}"]
