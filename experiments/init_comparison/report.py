"""What E1 prints: its table, and where its erratic levels come from."""

import numpy as np
import xarray as xr

from lth_jax.analysis import figures, tables


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Test accuracy in percent, a row a level, a column an initializer."""
    names = measured["initializer"].values.tolist()
    kept = measured["kept"].mean(["initializer", "seed"]).values
    rows = [
        [f"{kept[level]:.2%}"]
        + [tables.accuracy(measured["test_accuracy"].sel(initializer=n, level=level).values) for n in names]
        for level in measured["level"].values
    ]
    title = f"Test accuracy (%), mean ± std over {measured.sizes['seed']} seeds"
    return title, ["kept", *map(figures.label, names)], rows


def notes(measured: xr.Dataset) -> str:
    """Where erratic accuracies come from: the levels at which no kept path leads to some classes."""
    if "unreached_classes" not in measured:  # written by an earlier version
        return ""
    runs = measured.stack(run=("initializer", "seed")).transpose("level", "run")
    lost, accuracy = runs["unreached_classes"].values, runs["test_accuracy"].values * 100
    kept = measured["kept"].mean(["initializer", "seed"]).values
    levels, most = np.flatnonzero(lost.any(1)), lost.max()
    if not len(levels):
        return ""
    header = ["kept", *(f"{count} unreached" for count in range(most + 1)), "variance explained"]
    rows = []
    for level in levels:
        groups = [accuracy[level, lost[level] == count] for count in range(most + 1)]
        groups = [group[np.isfinite(group)] for group in groups]
        pooled = np.concatenate(groups)
        within = sum(group.var() * group.size for group in groups if group.size)
        cells = [f"{g.mean():.2f} ± {g.std(ddof=1):.2f} ({g.size})" if g.size > 1 else "" for g in groups]
        cells = [
            f"{g.mean():.2f} (1)" if g.size == 1 else cell for g, cell in zip(groups, cells, strict=True)
        ]
        share = 1 - within / (pooled.var() * pooled.size) if pooled.size and pooled.var() else 0.0
        rows.append([f"{kept[level]:.2%}", *cells, f"{share:.1%}"])
    lines = [
        "## Classes that no input reaches",
        "",
        "A class whose output unit no path of kept weights joins to the input answers a constant. Test "
        "accuracy (%), mean ± std (runs) of all runs by how many such classes they have, "
        "and the share of the runs' variance that this number explains.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)
