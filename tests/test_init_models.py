"""E1's models of all levels: what is counted, what is left out, and the committed sections."""

import numpy as np
import pytest
import xarray as xr

from experiments.init_comparison import report
from experiments.init_comparison.claims import ALL
from experiments.report import gather
from lth_jax.analysis import logistic, mixed_model
from lth_jax.runs import results


def planted(trials=6, levels=20, seed=0):
    """Accuracies of 98 ± 0.1 % at all levels; at the last two, half of Kaiming's networks collapse."""
    rng = np.random.default_rng(seed)
    accuracy = 0.98 + 0.001 * rng.normal(size=(4, trials, levels))
    accuracy[2:, ::2, 18:] -= 0.2
    accuracy[0, 0, 19] -= 0.2
    kept = np.broadcast_to(0.8 ** np.arange(levels), accuracy.shape)
    dims = ("initializer", "seed", "level")
    return xr.Dataset(
        {"test_accuracy": (dims, accuracy), "kept": (dims, kept)},
        {"initializer": list(ALL), "seed": np.arange(42, 42 + trials), "level": np.arange(levels)},
    )


def test_a_network_is_at_risk_until_it_collapses():
    """24 networks at the last level but one, the 18 left at the last; six collapse there, one then."""
    fallen = np.zeros((4, 6, 20), bool)
    fallen[2:, ::2, 18:] = fallen[0, 0, 19] = True
    lines = "\n".join(report.collapse_lines(fallen))
    assert "at the last 2 levels (logistic, 7 collapses in 42 networks and levels at risk" in lines
    assert "The data are not separated" in lines
    # By hand: of Kaiming's 12 and 6 at risk six and none fall, of Xavier's 12 and 12 none and one.
    rows = [(1.0, 0, 1)] * 6 + [(1.0, 0, 0)] * 6 + [(1.0, 1, 0)] * 6
    rows += [(0.0, 0, 0)] * 12 + [(0.0, 1, 0)] * 11 + [(0.0, 1, 1)]
    kaiming, level, happened = np.array(rows, float).T
    normal = np.concatenate([np.tile([0.0, 1.0], 9), np.tile([0.0, 1.0], 11), [1.0, 0.0]])
    x = np.column_stack([np.ones(42), level, kaiming, normal])
    odds = np.exp(logistic.fit(x, happened > 0).coefficients[2].estimate)
    row = next(line for line in lines.splitlines() if line.startswith("| Kaiming rather"))
    assert float(row.split("|")[2]) == pytest.approx(odds, rel=0.01)


def test_the_section_holds_the_mixed_model_of_the_levels_down_to_3_5():
    measured = planted()
    text = report.one_model(measured)
    points = measured["test_accuracy"].values[:, :, :16] * 100
    model = mixed_model.fit(points)
    assert "at the 16 levels down to 3.5 % of the weights, 6 trials" in text
    assert f"| initializer | {model.method.f:.2f} | 3, 15 | {model.method.p_value:.3f} |" in text
    assert f"within networks {model.residual:.3f}" in text


def test_a_trial_with_a_diverged_network_is_left_out():
    measured = planted()
    measured["test_accuracy"][1, 2, 5:] = np.nan
    text = report.one_model(measured)
    assert "5 trials: " in text
    assert "1 trials with a diverged network are left out." in text


@pytest.mark.parametrize(
    "measured",
    [
        planted().isel(initializer=slice(3)),
        planted().isel(seed=[0]),
        planted().isel(level=[0]),
        planted() * 0 + 0.5,
    ],
)
def test_what_has_no_model_has_no_section(measured):
    assert report.one_model(measured) == ""


def test_without_collapses_there_is_no_model_of_them():
    text = report.one_model(planted().isel(level=slice(16)))
    assert text.startswith("## One model of all levels")
    assert "collapsed" not in text
    assert report.collapse_lines(np.ones((4, 6, 3), bool)) == []  # all at once: nothing to tell apart


@pytest.mark.parametrize("variant", ["as-described", "as-run"])
def test_committed_reports_have_the_section_of_their_results(variant):
    folder = gather.PACKAGE / "results/init_comparison" / variant
    notes = report.notes(results.load(folder / "results.nc"))
    assert notes.startswith("## One model of all levels")
    assert f"\n\n{notes}\n\n## Claims\n" in (folder / "report.md").read_text(encoding="utf-8")
