"""``lth-jax compare``: two runs' curves, their differences with intervals, and how alike their masks are."""

import argparse
import json
from typing import Any

import numpy as np
import xarray as xr

from lth_jax.analysis import comparison, figures, stats, tables
from lth_jax.commands import show

HELP = "two runs side by side: curves, differences with intervals, overlap of masks"
EXAMPLES = """\
examples:
  lth-jax compare runs/imp runs/snip
  lth-jax compare RUN RUN --variable test_loss       another variable of results.nc
  lth-jax compare RUN RUN --figures DIR --format pdf --columns 1
  lth-jax compare RUN RUN --table csv > table.csv    the numbers unrounded

Rows are the levels at which both runs keep the same fraction of their weights; those that have no partner
are named. The difference is the first run less the second, with its 95 % interval, each level by itself: of
seeds in pairs where the runs have two or more in common (others are left out, and named), else by Welch's
test. Masks overlap in the weights that both keep, as a share of those that either keeps; in brackets what two
random masks of these sizes would share. The settings that differ are listed.

In Python: lth_jax.compare(RUN, RUN)."""


def add(commands: Any) -> None:
    """The subcommand and its flags."""
    parser = commands.add_parser("compare", help=HELP, description=HELP, epilog=EXAMPLES)
    parser.add_argument("one", metavar="RUN", help="a run's folder, or its results.nc")
    parser.add_argument("other", metavar="RUN", help="the run that it is compared with")
    parser.add_argument("--variable", default="test_accuracy", metavar="NAME", help="[test_accuracy]")
    show.add_output(parser, "draw both curves against the weights kept, into this folder")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> None:
    """The whole command."""
    found = comparison.compare(parsed.one, parsed.other, parsed.variable)
    paths = show.draw_into(parsed, {f"compare_{parsed.variable}": lambda: draw(found)})
    title, header, rows = make_table(found)
    if parsed.table == "csv":
        print(tables.csv_text(*make_numbers(found)), end="")
    elif parsed.table == "latex":
        print(*tables.latex_lines(header, rows, [title, *notes(found)]), sep="\n")
    else:
        console = tables.console()
        tables.print_table(console, title, header, rows)
        for line in [*notes(found), *(f"figure: {path}" for path in paths)]:
            tables.print_line(console, line)


def scale_of(found: xr.Dataset) -> float:
    """What values are multiplied by: 100 where they are fractions, to be shown in percent."""
    return 100.0 if found.attrs["variable"].endswith(show.PERCENT) else 1.0


def make_table(found: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows: a row a level."""
    scale, runs = scale_of(found), found["run"].values.tolist()
    number = "{:.2f}" if scale > 1 else "{:.4g}"
    signed = number.replace(":", ":+")
    same = bool((found["level_at"][0] == found["level_at"][1]).all())
    header = [*(["level"] if same else [f"level of {run}" for run in runs]), "kept", *runs]
    header += ["difference", *(["overlap"] if "overlap" in found else [])]
    rows = []
    for place, kept in enumerate(found["size"].values.tolist()):
        at = found.isel(size=place)
        mean, low, high = (at["difference"].values * scale).tolist()
        levels = [str(level) for level in at["level_at"].values.tolist()]
        cells = [show.cell(own, scale > 1) for own in values_at(found, place)]
        interval = f" [{signed.format(low)}, {signed.format(high)}]" if np.isfinite(low) else ""
        row = [*(levels[:1] if same else levels), f"{kept:.2%}", *cells]
        row.append(f"{signed.format(mean)}{interval}")
        if "overlap" in found:
            row.append(f"{float(at['overlap'].mean()):.3f} ({float(at['chance'].mean()):.3f})")
        rows.append(row)
    unit = " (%)" if scale > 1 else ""
    return f"{figures.label(found.attrs['variable']).capitalize()}{unit}, mean ± std", header, rows


def values_at(found: xr.Dataset, place: int) -> list[np.ndarray]:
    """Both runs' values of their own seeds at one of the sizes."""
    seeds, levels = json.loads(found.attrs["seeds"]), found["level_at"].isel(size=place).values.tolist()
    return [
        found["measured"].isel(run=run).sel(seed=own, level=level).values
        for run, (own, level) in enumerate(zip(seeds, levels, strict=True))
    ]


def make_numbers(found: xr.Dataset) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for other programs, unrounded; fractions are in percent, but for the overlap."""
    scale, runs = scale_of(found), found["run"].values.tolist()
    unit = " (%)" if scale > 1 else ""
    header = [*(f"level of {run}" for run in runs), "kept (%)"]
    header += [f"{run} {part}" for run in runs for part in (f"mean{unit}", f"std{unit}", "n")]
    header += [*(f"{part}{unit}" for part in ("difference", "low", "high")), "p", "n"]
    header += ["overlap", "chance"] if "overlap" in found else []
    rows = []
    for place, kept in enumerate(found["size"].values.tolist()):
        at = found.isel(size=place)
        row: list[Any] = [*at["level_at"].values.tolist(), kept * 100]
        for own in values_at(found, place):
            summary = stats.summary(own * scale)
            row += [float(summary.mean), float(summary.std), int(summary.n)]
        row += [*(at["difference"].values * scale).tolist(), float(at["p_value"]), int(at["n"])]
        row += [float(at[name].mean()) for name in ("overlap", "chance") if name in found]
        rows.append([None if isinstance(cell, float) and not np.isfinite(cell) else cell for cell in row])
    return header, rows


def notes(found: xr.Dataset) -> list[str]:
    """What a reader of the table should know: how it was compared, what is left out, what differs."""
    runs, attrs = found["run"].values.tolist(), found.attrs
    seeds, left_out = json.loads(attrs["seeds"]), json.loads(attrs["left_out"])
    common = [seed for seed in seeds[0] if seed in seeds[1]]
    if attrs["method"] == "paired":
        lines = [f"difference: {runs[0]} less {runs[1]}, seeds {tables.ranges(sorted(common))} in pairs"]
    else:
        lines = [
            f"difference: {runs[0]} less {runs[1]}, all seeds of each by Welch's test, as {_few(common)}"
        ]
    lines[0] += "; 95 % intervals, each level by itself"
    for kind, each in left_out.items():
        for name, gone in zip(runs, each, strict=True):
            lines += [f"left out: {kind} {tables.ranges(sorted(gone))} of {name}"] if gone else []
    if "overlap" in found:
        lines.append("overlap: weights that both keep of those that either keeps (of random masks)")
    settings = json.loads(attrs["settings"])
    lines += [f"{name}: {_said(one)} | {_said(other)}" for name, (one, other) in settings.items()]
    return lines if settings else [*lines, "no setting differs"]


def _few(common: list[int]) -> str:
    """Why seeds are not in pairs."""
    return f"only seed {common[0]} is in both" if common else "no seed is in both"


def _said(value: Any) -> str:
    """A setting's value in a line."""
    return "not there" if value is None else value if isinstance(value, str) else json.dumps(value)


def draw(found: xr.Dataset) -> Any:
    """Both runs' means ± standard deviations over seeds against the weights kept, all their levels."""
    scale, seeds = scale_of(found), json.loads(found.attrs["seeds"])
    figure, ax = figures.new_figure()
    for index, (name, own) in enumerate(zip(found["run"].values.tolist(), seeds, strict=True)):
        run = found[["measured", "kept"]].isel(run=index).dropna("level", subset=["kept"])
        summary = stats.summary(run["measured"].sel(seed=own).values * scale, axis=0)
        ax.errorbar(
            run["kept"] * 100 * (1 + 0.012 * (index - 0.5)), summary.mean, summary.std,
            label=name, capsize=2, linewidth=1.2, elinewidth=0.8, **figures.style(index),
        )  # fmt: skip
    sizes = [kept[np.isfinite(kept)] for kept in found["kept"].values]
    figures.kept_axis(ax, max(sizes, key=len))
    unit = " (%)" if scale > 1 else ""
    ax.set_ylabel(f"{figures.label(found.attrs['variable'])}{unit}, mean ± std")
    ax.legend(fontsize=7, loc="lower left")
    return figure
