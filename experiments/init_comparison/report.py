"""What E1 prints: its table, one model of all levels, and where its erratic levels come from."""

import numpy as np
import xarray as xr

from experiments.init_comparison.claims import ALL, COLLAPSE, KAIMING, NORMAL, TO_3, collapsed, fractions
from lth_jax.analysis import figures, logistic, mixed_model, tables


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
    """The sections that these results can speak to."""
    return "\n\n".join(filter(None, (one_model(measured), unreached(measured))))


def one_model(measured: xr.Dataset) -> str:
    """The four initializations at all levels at once: accuracies down to 3.5 %, collapses below."""
    there = set(ALL) <= set(measured["initializer"].values.tolist())
    if not there:
        return ""
    four = measured.sel(initializer=list(ALL)).transpose("initializer", "seed", "level")
    whole = np.isfinite(four["test_accuracy"].values).all((0, 2))
    four = four.isel(seed=whole)  # a trial that lost a network unbalances the design
    down = np.flatnonzero(fractions(measured) >= TO_3[0])
    points = four["test_accuracy"].isel(level=down).values.astype(np.float64) * 100
    if whole.sum() < 2 or len(down) < 2 or np.ptp(points) == 0:
        return ""
    left_out = f" {(~whole).sum()} trials with a diverged network are left out." if not whole.all() else ""
    lines = [
        "## One model of all levels",
        "",
        f"Test accuracy of the four initializations at the {len(down)} levels down to "
        f"{100 * fractions(measured)[down[-1]]:.1f} % of the weights, {whole.sum()} trials: initializer and "
        "level fixed, trial random and network random in it. The last p takes levels to be as dependent as "
        "they can be, with the least degrees of freedom (Geisser and Greenhouse). Not a claim of the "
        f"document, so of no family.{left_out}",
        "",
        *accuracy_lines(points),
        "",
        *collapse_lines(collapsed(four, "test_accuracy").values),
    ]
    return "\n".join(lines).strip()


def accuracy_lines(points: np.ndarray) -> list[str]:
    """The mixed model of accuracies ``[initializer, seed, level]`` in points."""
    model = mixed_model.fit(points)
    tests = {"initializer": model.method, "level": model.level, "initializer × level": model.interaction}
    rows = [
        [name, f"{t.f:.2f}", f"{t.freedom}, {t.error_freedom}", p_value(t.p_value), p_value(t.p_least)]
        for name, t in tests.items()
    ]
    means = points.mean((1, 2))
    order = ", ".join(f"{figures.label(ALL[i])} {means[i]:.2f}" for i in np.argsort(-means))
    zero = f" (estimated as negative: {', '.join(model.negative)})" if model.negative else ""
    return [
        *tables.table_lines(["term", "F", "degrees of freedom", "p", "p, dependent levels"], rows),
        "",
        f"Means over levels (%): {order}. Standard deviations in points: between trials {model.trial:.3f}, "
        f"between networks of a trial {model.network:.3f}, within networks {model.residual:.3f}{zero}.",
    ]


def collapse_lines(fallen: np.ndarray) -> list[str]:
    """The logistic model of where networks first collapse, of which have: ``[initializer, seed, level]``."""
    first = np.where(fallen.any(2), fallen.argmax(2), fallen.shape[2] - 1)
    start = int(first[fallen.any(2)].min()) if fallen.any() else fallen.shape[2]
    rows = [
        (1.0, level - start, (name in KAIMING) - 0.5, (name in NORMAL) - 0.5, fallen[i, j, level])
        for i, name in enumerate(ALL)
        for j in range(fallen.shape[1])
        for level in range(start, first[i, j] + 1)
    ]
    table, levels = np.array(rows, dtype=np.float64).reshape(-1, 5), fallen.shape[2] - start
    x, happened = table[:, :-1], table[:, -1] > 0
    if happened.all() or np.linalg.matrix_rank(x) < x.shape[1]:  # so too where none has
        return []
    model = logistic.fit(x, happened)
    names = ("one level more", "Kaiming rather than Xavier", "normal rather than uniform")
    cells = [
        [
            name,
            f"{np.exp(c.estimate):.3g}",
            f"{np.exp(c.low):.3g} to {np.exp(c.high):.3g}",
            p_value(c.p_value),
        ]
        for name, c in zip(names, model.coefficients[1:], strict=True)
    ]
    how = (
        "The data are separated, so the fit is Firth's, with a penalty."
        if model.separated
        else "The data are not separated: no penalty."
    )
    return [
        f"A network has collapsed where it lies more than {COLLAPSE:g} points below its dense self. Of those "
        f"that have not at the level before, the odds to do so at the last {levels} levels (logistic, "
        f"{happened.sum()} collapses in {len(rows)} networks and levels at risk; intervals of 95 % by "
        f"profile likelihood). {how}",
        "",
        *tables.table_lines(["", "times the odds", "interval", "p"], cells),
    ]


def p_value(p: float) -> str:
    """A p-value for a cell."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def unreached(measured: xr.Dataset) -> str:
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
