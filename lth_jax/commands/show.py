"""``lth-jax show``: any run's table and figure, from its ``results.nc`` alone."""

import argparse
import itertools
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lth_jax.analysis import figures, stats, tables
from lth_jax.errors import InputError, require, warn
from lth_jax.places import user_path
from lth_jax.runs import config, results, storage

HELP = "print a run's table, save or open its figures"
EXAMPLES = """\
examples:
  lth-jax show runs/sweep/0a1b2c3d
  lth-jax show RUN --variable train_accuracy         another variable of results.nc
  lth-jax show RUN --figures DIR --open              draw it, save it, open it
  lth-jax show RUN --figures DIR --format pdf --columns 1     for one column of a paper
  lth-jax show RUN --table latex > table.tex         for \\usepackage{booktabs}; csv has the numbers unrounded
  lth-jax show RUN --open                            open the figures that the run has made

A run is a folder with a results.nc, of lth-jax sweep or of an experiment, or such a file. Rows are levels (or
epochs …), columns whatever else was varied; cells are mean ± standard deviation over seeds."""

ROWS = ("level", "epoch", "iteration", "units", "depth", "layer")
"""Dimensions that go down a table, the first of them that a variable has; of the next two, the last entry."""
CURVES = ("epoch", "iteration", "share")
PERCENT = ("accuracy", "error_barrier", "agreement")
"""What variables that are fractions end in."""
OURS = ("column", "replicate")
"""What :func:`arranged` calls its own dimensions."""
REPLICATES = ("seed", "training_seed", "trial", "network", "draw")
"""Dimensions that are averaged over, the first of them that a variable has."""
TABLES = ("text", "csv", "latex")
"""How a table is printed."""


def add(commands: Any) -> None:
    """The subcommand and its flags."""
    parser = commands.add_parser("show", help=HELP, description=HELP, epilog=EXAMPLES)
    parser.add_argument("folder", metavar="RUN", help="a run's folder, or a results file")
    parser.add_argument("--variable", metavar="NAME", help="what to show; test_accuracy where there is one")
    add_output(parser, "draw it against the weights kept, into this folder")
    parser.add_argument("--open", action="store_true", help="open the figures")
    parser.set_defaults(run=run)


def add_output(parser: argparse.ArgumentParser, drawn: str) -> None:
    """The flags that say how a table is printed and what a figure is."""
    parser.add_argument("--table", choices=TABLES, default="text", help="how it is printed [text]")
    parser.add_argument("--figures", metavar="DIR", help=drawn)
    parser.add_argument("--format", choices=tuple(figures.FORMATS), help="of the figures [png]")
    columns = [f"{width:g} in" for width in figures.PAPER.values()]
    parser.add_argument(
        "--columns", type=int, choices=tuple(figures.PAPER), help=f"of a paper: {' or '.join(columns)} wide"
    )


def draw_into(parsed: argparse.Namespace, drawn: Mapping[str, Callable[[], Any]]) -> list[Path]:
    """Draw and write what ``--figures`` asks for; the files, none without it.

    Raises:
      InputError: a flag of figures without them, or nothing can be written there.
    """
    for name in ("format", "columns"):
        require(
            parsed.figures is not None or getattr(parsed, name) is None, f"--{name}: goes with --figures DIR"
        )
    if parsed.figures is None:
        return []
    config.check_printable([parsed.figures])
    with storage.in_a_place_of("--figures"):
        folder = user_path(parsed.figures)
        return figures.save_all(drawn, folder, parsed.format or "png", parsed.columns)


def run(parsed: argparse.Namespace) -> None:
    """The whole command."""
    path = user_path(parsed.folder)
    path = path / results.RESULTS if path.is_dir() else path
    measured, console = results.load(path), tables.console()
    with results.understood(path):
        name = choose(measured, parsed.variable)
        title, header, rows = make_table(measured, name)
        numbers = make_numbers(measured, name)
        origin = [str(measured.attrs[key]) for key in ("experiment", "model") if key in measured.attrs]
        line = ", ".join([*origin, tables.attributes_line(measured)])
        notes = [*tables.diverged_lines(measured), *tables.collapsed_lines(measured)]
        paths = draw_into(parsed, {name: lambda: draw(measured, name)})
    if parsed.open and not paths:
        paths = sorted((path.parent / results.FIGURES).glob("*.png"))
        require(
            bool(paths), f"--open: {path.parent / results.FIGURES} has no figures; draw with --figures DIR"
        )
    if parsed.table == "csv":
        print(tables.csv_text(*numbers), end="")
    elif parsed.table == "latex":
        print(*tables.latex_lines(header, rows, [line.strip(", "), title, *notes]), sep="\n")
    else:
        tables.print_line(console, line.strip(", "))
        tables.print_table(console, title, header, rows)
        for text in [*notes, *(f"figure: {figure}" for figure in paths)]:
            tables.print_line(console, text)
    for figure in paths if parsed.open else ():
        if not webbrowser.open(figure.resolve().as_uri()):
            warn(f"nothing here opens {figure}")


def choose(measured: xr.Dataset, named: str | None) -> str:
    """The variable that is shown.

    Raises:
      InputError: there is none of that name, or none that goes without saying; the message has them all.
    """
    numeric = [str(name) for name, values in measured.items() if values.dtype.kind in "fiub" and values.ndim]
    if named is None:
        accuracies = [name for name in numeric if name.endswith("accuracy")]
        chosen = "test_accuracy" if "test_accuracy" in accuracies else next(iter(accuracies), None)
        if chosen is None:
            raise InputError(f"--variable: name one of {', '.join(numeric)}")
        return chosen
    if named not in numeric:
        raise InputError(f"--variable {named[:80]}: unknown; expected one of {', '.join(numeric)}")
    return named


def arranged(measured: xr.Dataset, name: str) -> xr.DataArray:
    """A variable as ``[row, column, replicate]``; rows keep their dimension's name.

    Raises:
      InputError: it is empty, or has a dimension that is called as ours are.
    """
    values = measured[name]
    for dim in OURS:
        require(dim not in values.dims, f"--variable {name}: cannot be shown with a dimension called {dim}")
    require(values.size > 0, f"--variable {name}: is empty")
    row = next((dim for dim in ROWS if dim in values.dims), str(values.dims[0]))
    for curve in CURVES:
        if curve in values.dims and curve != row:
            values = values.isel({curve: -1})
    seed = next((dim for dim in REPLICATES if dim in values.dims and dim != row), None)
    values = values.rename({seed: "replicate"}) if seed else values.expand_dims("replicate")
    others = [str(dim) for dim in values.dims if dim not in (row, "replicate")]
    labels = [_labels(values, dim) if dim in values.coords
              else [f"{dim} {place}" for place in range(values.sizes[dim])] for dim in others]  # fmt: skip
    flat = values.transpose(row, *others, "replicate").values
    flat = flat.reshape(flat.shape[0], -1, flat.shape[-1]).astype(np.float64)
    columns = (
        [" ".join(map(figures.label, parts)) for parts in itertools.product(*labels)]
        if others
        else [figures.label(name)]
    )
    at = values.coords[row].values if row in values.coords else np.arange(flat.shape[0])
    attrs = {"seeds": seed or "", "count": flat.shape[-1]}
    return xr.DataArray(
        flat, dims=(row, "column", "replicate"), coords={row: at, "column": columns}, attrs=attrs
    )


def _labels(values: xr.DataArray, dim: str) -> list[str]:
    """What a dimension's entries are called in a column's title: numbers say what they are of."""
    named = values.coords[dim].dtype.kind in "iuf"
    return [f"{dim} {label}" if named else str(label) for label in values.coords[dim].values.tolist()]


def make_table(measured: xr.Dataset, name: str) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows: a row a level, a column for each combination of what else was varied."""
    values = arranged(measured, name)
    row, percent = str(values.dims[0]), name.endswith(PERCENT)
    kept = kept_of(measured, row)
    header = [row, *(["kept"] if kept is not None else []), *values["column"].values.tolist()]
    rows = []
    for place, at in enumerate(values[row].values):
        cells = [cell(line, percent) for line in values.values[place]]
        rows.append([str(at), *([f"{kept[place]:.2%}"] if kept is not None else []), *cells])
    over = (
        f", mean ± std over {values.attrs['count']} {values.attrs['seeds']}s" if values.attrs["seeds"] else ""
    )
    return f"{figures.label(name).capitalize()}{' (%)' if percent else ''}{over}", header, rows


def make_numbers(measured: xr.Dataset, name: str) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for other programs: of each column the mean, standard deviation and count, unrounded.

    Fractions are in percent, as in :func:`make_table`; what cannot be said is ``None``.
    """
    values, unit = arranged(measured, name), " (%)" if name.endswith(PERCENT) else ""
    row, kept = str(values.dims[0]), kept_of(measured, str(values.dims[0]))
    header = [row, *(["kept (%)"] if kept is not None else [])]
    for column in values["column"].values.tolist():
        header += [f"{column} mean{unit}", f"{column} std{unit}", f"{column} n"]
    rows = []
    for place, at in enumerate(values[row].values):
        summary = stats.summary(values.values[place] * (100 if unit else 1))
        cells: list[Any] = [at, *([float(kept[place]) * 100] if kept is not None else [])]
        for mean, std, n in zip(*summary, strict=True):
            cells += [*(float(value) if np.isfinite(value) else None for value in (mean, std)), int(n)]
        rows.append(cells)
    return header, rows


def kept_of(measured: xr.Dataset, row: str) -> np.ndarray | None:
    """The fraction of weights kept in each row; ``None`` where it is not known, or not one for all else."""
    if "kept" not in measured or row not in measured["kept"].dims:
        return None
    kept = measured["kept"]
    others = [dim for dim in kept.dims if dim != row]
    mean, most, least = kept.mean(others), kept.max(others), kept.min(others)
    return None if bool((most - least > 0.01 * mean).any()) else mean.values


def cell(values: np.ndarray, percent: bool) -> str:
    """``97.93 ± 0.11``, and how many values are left out because they are not finite."""
    summary = stats.summary(values * 100 if percent else values)
    number = "{:.2f}" if percent else "{:.4g}"
    lost = values.size - int(summary.n)
    text = number.format(float(summary.mean))
    text += f" ± {number.format(float(summary.std))}" if summary.n > 1 else ""
    return text + (f" ({lost} left out)" if lost else "")


def draw(measured: xr.Dataset, name: str) -> Any:
    """A variable's mean ± standard deviation over seeds, against the weights kept or along its rows."""
    values = arranged(measured, name)
    row, percent = str(values.dims[0]), name.endswith(PERCENT)
    figure, ax = figures.new_figure()
    plain = values.rename({"replicate": "seed"})
    if row == "level" and (sizes := kept_of(measured, row)) is not None:
        kept = xr.DataArray(sizes, dims=row, coords={row: plain[row]})
        both = xr.Dataset({name: plain, "kept": kept.broadcast_like(plain)})
        figures.against_kept(ax, both, name, over="column", scale=100.0 if percent else 1.0)
    else:
        at = plain[row].values if plain[row].dtype.kind in "fiu" else np.arange(plain.sizes[row])
        for index, column in enumerate(plain["column"].values):
            summary = stats.summary(plain.isel(column=index).values)
            scale = 100.0 if percent else 1.0
            ax.errorbar(
                at, summary.mean * scale, summary.std * scale,
                label=str(column), capsize=2, linewidth=1.2, elinewidth=0.8, **figures.style(index),
            )  # fmt: skip
        ax.set_xlabel(row)
        ax.legend(fontsize=7)
    if plain.sizes["column"] == 1:
        ax.get_legend().remove()
    ax.set_ylabel(f"{figures.label(name)}{' (%)' if percent else ''}, mean ± std")
    seeds = f"{values.attrs['count']} {values.attrs['seeds']}s" if values.attrs["seeds"] else ""
    parts = [str(measured.attrs[key]) for key in ("experiment", "model", "dataset") if key in measured.attrs]
    if not figures.is_for_paper():  # where the caption says so
        figure.suptitle(", ".join(filter(None, [*parts, seeds])), fontsize=10)
    return figure
