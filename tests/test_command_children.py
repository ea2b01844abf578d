"""``lth-jax sweep --children``: copies in other orders, the line between them, by the step rewound to."""

import pytest
import xarray as xr
from sweeps import TRUNK, make_place

FLAGS = [*TRUNK, "--children", "2", "--rewind", "0,2", "--path-points", "2", "--controls", "random_mask"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("children"), ["sweep", *FLAGS, "--out", "run"])


def test_each_step_has_its_sweep_and_all_are_side_by_side(place):
    found = xr.load_dataset(place / "run" / "results.nc")
    assert found["rewind"].values.tolist() == ["0", "2"]
    assert found["test_error_barrier"].dims == ("rewind", "seed", "level", "parent", "pair")
    for k in ("0", "2"):
        alone = xr.load_dataset(place / "run" / f"rewind-{k}" / "results.nc")
        xr.testing.assert_equal(found.sel(rewind=k, drop=True), alone)
    error = 1 - found["test_accuracy_path"]
    height = error.max("share") - (error.isel(share=0) + error.isel(share=-1)) / 2
    xr.testing.assert_allclose(found["test_error_barrier"], height, atol=1e-6)
    apart = found["distance"].sel(parent="ticket", level=0)
    assert (apart.sel(rewind="2") < apart.sel(rewind="0")).all()  # two of three steps are common
    report = (place / "run" / "report.md").read_text()
    assert "(figures/barrier.png)" in report
    assert "Test error barrier (%)" in report


def test_curves_that_begin_at_different_steps_stand_side_by_side(place, call):
    flags = ["--rewind", "0,2", "--eval-every", "1", "--levels", "2"]
    call("sweep", *TRUNK, *flags, "--out", "curves")
    found = xr.load_dataset(place / "curves" / "results.nc")["test_loss_curve"].sel(level=1)
    assert found["iteration"].values.tolist() == [1, 2, 3]
    assert bool(found.sel(rewind="0").notnull().all())
    assert found.sel(rewind="2").notnull().all("seed").values.tolist() == [False, False, True]


def test_finished_sweeps_are_not_made_again(place, call):
    before = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("results.nc")}
    printed = call("sweep", *FLAGS, "--out", "run")
    assert "level 1/3" not in printed
    parts = {path: path.stat().st_mtime_ns for path in before if "rewind" in str(path.parent.name)}
    assert parts == {path: time for path, time in before.items() if path in parts}


def test_tickets_are_exported_of_one_step(place, call):
    call("export", "run/rewind-2", "--seed", "7", "--level", "2", "--out", "late.safetensors")
    assert (place / "late.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--children", "1"], "--children 1: a line needs two"),
        (["--children", "101"], "--children 101: expected 0 to 100"),
        (["--rewind", "0,4"], "--rewind 4: a level has 3 steps"),
        (["--rewind", "0,start"], "--rewind 0,start: one is named twice"),
        (["--rewind", "0,,2"], "rewind : expected start, none, an iteration"),
        (["--path-statistics", "frozen"], "--path-statistics frozen: unknown"),
        (["--path-points", "0"], "--path-points 0: expected 1 to"),
    ],
)
def test_what_cannot_be_is_refused(refused, flags, line):
    assert line in refused("sweep", *TRUNK, *flags, "--out", "none")
