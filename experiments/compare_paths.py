"""Two runs of E1 on different paths, level by level: are they equal, and how long did each take?

    python -m experiments.compare_paths OLD NEW --out DIR

OLD and NEW are folders or results files of ``init_comparison`` with the same configuration and data, for
example one with ``--sparse-kernels off`` and one without. Their networks start alike and see the same
examples in the same order; what differs is the order of sums, and through it, after thousands of steps, the
weights. So a level's accuracies differ by chance in each run and should not differ in their mean. For each
level, test and training accuracy: the mean difference NEW − OLD over the seeds (each the mean of its
initializations), its 95 % t interval, and whether it is within ±0.1 points at the 5 % level (TOST). Beside it
how many of its weights the level held compressed, and its speed. Writes ``comparison.md`` and ``new.nc``,
NEW's results.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lth_jax.analysis import stats, tables
from lth_jax.commands import exits
from lth_jax.commands.flags import Parser
from lth_jax.errors import InputError, require
from lth_jax.places import user_path
from lth_jax.runs import results
from lth_jax.runs.config import check_printable
from lth_jax.runs.storage import write_text

MARGIN = 0.1
"""Accuracy points within which two paths count as equal, as in E1's own claims."""
ACCURACIES = ("test_accuracy", "train_accuracy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two runs; exit codes as in ``exits``."""
    with exits.exit_on_error():
        parser = Parser(
            prog="python -m experiments.compare_paths",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("old", metavar="OLD", help="a run")
        parser.add_argument("new", metavar="NEW", help="another of the same configuration")
        parser.add_argument("--out", required=True, metavar="DIR", help="where comparison.md and new.nc go")
        given = parser.parse_args(arguments)
        check_printable([given.old, given.new, given.out])
        old, new = (read(user_path(place)) for place in (given.old, given.new))
        text, folder = compared(old, new), user_path(given.out)
        write_text(folder / "comparison.md", text)
        results.save(new, folder / "new.nc")
        print(text, flush=True)


def read(path: Path) -> xr.Dataset:
    """The results of one run.

    Raises:
      InputError: they cannot be read, or are another experiment's.
    """
    measured = results.load(path / results.RESULTS if path.is_dir() else path)
    experiment = str(measured.attrs.get("experiment"))
    require(experiment == "init_comparison", f"{path}: results of {experiment}, expected init_comparison")
    return measured


def differences(old: xr.Dataset, new: xr.Dataset, name: str) -> list[tuple[stats.Difference, bool]]:
    """Of each level, in accuracy points: the mean difference with its interval, and whether it is none."""
    found = []
    for level in new["level"].values:
        ours, theirs = (100 * each[name].sel(level=level).mean("initializer").values for each in (new, old))
        difference = stats.paired_difference(ours, theirs, method="student")
        found.append((difference, stats.equivalence(ours, theirs, MARGIN).verdict == "supported"))
    return found


def compared(old: xr.Dataset, new: xr.Dataset) -> str:
    """The comparison as Markdown.

    Raises:
      InputError: the runs are of different configurations or data.
    """
    for name in ("config", "fingerprint"):
        same = old.attrs.get(name) == new.attrs.get(name)
        require(same, f"{name}: {old.attrs.get(name)} in one run, {new.attrs.get(name)} in the other")
    sides = [differences(old, new, name) for name in ACCURACIES]
    header = [
        "kept",
        "compressed",
        "steps/s",
        *(f"{name.replace('_', ' ')}, new − old" for name in ACCURACIES),
    ]
    rows = []
    for place, level in enumerate(new["level"].values):
        at = new.sel(level=level)
        held = float(at["compressed_weights"].max()) if "compressed_weights" in new else 0.0
        row = [f"{float(at['kept'].mean()):.2%}", f"{held:,.0f}", speed(new, place)]
        for side in sides:
            difference, equal = side[place]
            interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            row.append(interval + (" equal" if equal else ""))
        rows.append(row)
    seconds = [float(each.attrs["seconds"]) for each in (old, new)]
    levels = slice(0, 14)  # down to 5.5 %: below, whole classes are lost in some runs
    whole = [
        100 * (new[name] - old[name]).isel(level=levels).mean(("initializer", "level")).values
        for name in ACCURACIES
    ]
    lines = ["# Two paths of one experiment", "", "New: " + origin(new), "", "Old: " + origin(old), ""]
    share = seconds[1] / seconds[0]
    lines += [f"The levels took {seconds[1]:,.0f} s, {share:.2f} of the {seconds[0]:,.0f} s before."]
    for name, values in zip(ACCURACIES, whole, strict=True):
        difference = stats.mean_interval(values, method="student")
        lines.append(
            f"Mean {name.replace('_', ' ')} of levels 0 to 13, new − old: {difference.mean:+.4f} points "
            f"[{difference.low:+.4f}, {difference.high:+.4f}], 95 % t interval over {difference.n} seeds."
        )
    return "\n".join([*lines, "", *tables.table_lines(header, rows)]) + "\n"


def origin(measured: xr.Dataset) -> str:
    """Where a run comes from, in a line."""
    return tables.escape(tables.attributes_line(measured))


def speed(measured: xr.Dataset, place: int) -> str:
    """Network-steps a second of one level; a dash where it was not recorded."""
    recorded: Any = measured.attrs.get("level_seconds")
    if recorded is None:
        return "–"
    try:
        config = json.loads(measured.attrs["config"])
        seconds = json.loads(recorded)[place]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"the results do not say how they were made: {error}") from None
    examples = {"mnist-5k": 4_000, "cifar10": 50_000}.get(config["dataset"], 60_000)
    steps = config["epochs_per_level"] * (examples // config["batch_size"])
    networks = len(config["initializers"]) * len(config["seeds"])
    return f"{networks * steps / seconds:,.0f}" if np.isfinite(seconds) and seconds else "–"


if __name__ == "__main__":
    main()
