"""What E8 prints: accuracies by size, and the layers that lost all their weights."""

import xarray as xr

from experiments.early_pruning.experiment import empty_layers, kept, smaller, used
from lth_jax.analysis import figures, tables


def make_table(measured: xr.Dataset) -> tuple[str, list[str], list[list[str]]]:
    """Test accuracy, a row a way to prune and network, a column a size."""
    levels, at, rows = smaller(measured), kept(measured), []
    shown = levels[:: max(1, len(levels) // 6)]
    shown = [*shown, *levels[-1:]] if shown[-1:] != levels[-1:] else shown
    for pruner, network in used(measured):
        accuracy = measured["test_accuracy"].sel(pruner=pruner, network=network)
        name = pruner.replace("_", " ") + ("" if network == "ticket" else f", {figures.label(network)}")
        rows.append([name, *(tables.accuracy(accuracy.isel(level=level).values) for level in shown)])
    return (
        "Test accuracy (%), mean ± std over initializations",
        [
            "pruned by",
            *(f"{at[level]:.2%}" for level in shown),
        ],
        rows,
    )


def notes(measured: xr.Dataset) -> str:
    """Where a layer has lost all its weights."""
    lost, at = empty_layers(measured), kept(measured)
    lines = [
        f"* {pruner}, {network}: from {at[level]:.2%} on, first in {int(counts[level])} of "
        f"{measured.sizes['seed']} initializations"
        for pruner, network in used(measured)
        if (counts := lost.sel(pruner=pruner, network=network).values).any()
        for level in [int((counts > 0).argmax())]
    ]
    return "\n".join(["## Layers that lost all their weights", "", *(lines or ["None did."])])
