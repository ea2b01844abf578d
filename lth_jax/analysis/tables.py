"""What people read of a run: where its data came from, tables on the terminal and in Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from lth_jax import data
from lth_jax.analysis import stats
from lth_jax.runs import results

REPEATED = ("seed", "network", "trial")
"""Dimensions along which a run is repeated, the first one found being called its seeds."""


def console() -> Console:
    """Where tables and lines are printed; as wide as they are where there is no terminal to fit into."""
    plain = Console(markup=False, highlight=False)
    return plain if plain.is_terminal else Console(markup=False, highlight=False, width=10_000)


def print_line(console: Console, text: str) -> None:
    """A line of text as it is, never wrapped by us."""
    console.print(text, highlight=False, soft_wrap=True)


def print_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose numbers stand on the right; cut into several where the terminal is narrower than it."""
    print_line(console, title)
    widths = [max(map(len, column)) + 3 for column in zip(header, *rows, strict=True)]
    first, shown = widths[0], list(range(1, len(header)))
    while True:
        count, used = 0, first + 1
        while count < len(shown) and (count == 0 or used + widths[shown[count]] <= console.width):
            used += widths[shown[count]]
            count += 1
        page, shown = [0, *shown[:count]], shown[count:]
        table = Table()
        for place in page:
            table.add_column(header[place], justify="right" if place else "left")
        for row in rows:
            table.add_row(*(row[place] for place in page))
        console.print(table)
        if not shown:
            return


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    lines = ["| " + " | ".join(map(escape, header)) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(map(escape, row)) + " |" for row in rows]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as CSV (RFC 4180, lines ended by a line feed); what is ``None`` is empty."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", "−": "$-$", "θ": r"$\theta$", "–": "--"},
}
"""What LaTeX writes for a character that means something to it, or that its fonts may lack."""


def latex_lines(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> list[str]:
    r"""A table as LaTeX with the rules of ``booktabs``, numbers on the right; notes are comments before it.

    >>> print(*latex_lines(["level", "a_b"], [["0", "97.9 ± 0.1"]]), sep="\n")
    \begin{tabular}{lr}
    \toprule
    level & a\_b \\
    \midrule
    0 & 97.9 $\pm$ 0.1 \\
    \bottomrule
    \end{tabular}
    """

    def line(cells: Sequence[str]) -> str:
        texts = ["".join(LATEX.get(char, char) for char in " ".join(cell.split())) for cell in cells]
        # A cell that begins with a bracket would be read as the option of the line's end before it.
        return " & ".join(f"{{}}{text}" if text[:1] in ("[", "*") else text for text in texts) + r" \\"

    comments = [f"% {' '.join(note.split())}" for note in notes]
    start = [*comments, rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    end = [r"\bottomrule", r"\end{tabular}"]
    return [*start, line(header), r"\midrule", *map(line, rows), *end]


def origin_of(dataset: data.Dataset | None) -> str:
    """What is trained on, for people: the data's title, source, sizes and fingerprint."""
    if dataset is None:
        return "no data set"
    train_count, test_count = len(dataset.train_labels), len(dataset.test_labels)
    return (
        f"{dataset.title} from {dataset.source} ({train_count:,} training and {test_count:,} test images, "
        f"fingerprint {dataset.fingerprint})"
    )


def attributes_line(measured: xr.Dataset) -> str:
    """What a results file says of its origin, in a line: preset, data, seeds, machine, commit."""
    attrs = {name: str(value) for name, value in measured.attrs.items()}
    names = ("preset", "variant", "dataset", "fingerprint", "seeds", "device", "commit")
    attrs["seeds"] = seeds_of(measured)
    return ", ".join(f"{name} {attrs[name]}" for name in names if attrs.get(name))


def seeds_of(measured: xr.Dataset) -> str:
    """A run's seeds as ranges, empty if it has none."""
    name = next((name for name in REPEATED if name in measured.coords), None)
    if name is None or measured[name].ndim != 1 or measured[name].dtype.kind not in "iu":
        return ""
    return f"{ranges(measured[name].values.tolist())} ({measured.sizes[name]:,})"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers with their runs shortened: ``42–52, 60``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("–".join(map(str, run)) for run in runs)


def escape(text: str) -> str:
    """Text as Markdown and HTML show it as it is, on one line and in a table's cell."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", plain)


def diverged_lines(measured: xr.Dataset) -> list[str]:
    """The runs whose loss became NaN or infinite, by name."""
    return [f"diverged, and in no mean: {run}" for run in results.diverged_runs(measured)]


def collapsed_lines(measured: xr.Dataset) -> list[str]:
    """The layers that lost all their weights, by name, with the levels and networks where they have none."""
    if "kept_weights" not in measured or "layer" not in measured["kept_weights"].dims:
        return []
    empty, lines = measured["kept_weights"] == 0, []
    for layer in measured["layer"].values.tolist():
        found = empty.sel(layer=layer)
        where = found.any([dim for dim in found.dims if dim != "level"])
        if not bool(where.any()):
            continue
        others = [str(dim) for dim in found.dims if dim in ("network", "seed")]
        names = [
            f"{dim} {', '.join(map(str, found[dim].values[found.any([d for d in found.dims if d != dim])]))}"
            for dim in others
        ]
        lines.append(
            f"collapsed: {layer} has no weight left at level "
            f"{ranges(found['level'].values[where.values].tolist())} ({'; '.join(names)})"
        )
    return lines


def accuracy(values: np.ndarray) -> str:
    """``97.93 ± 0.11`` in percent, over the last axis, with the number of runs left out if any diverged."""
    summary = stats.summary(np.asarray(values) * 100)
    lost = np.size(values) - int(summary.n)
    return f"{summary.mean:.2f} ± {summary.std:.2f}" + (f" ({lost} diverged)" if lost else "")
