"""``lth-jax sweep --grid``: one sweep a point, their results side by side, and what is no grid."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from sweeps import TRUNK, make_place

from lth_jax.commands import grid
from lth_jax.commands.settings import Config
from lth_jax.errors import InputError

FLAGS = [*TRUNK, "--grid", "learning_rate=1e-3,0.03", "--grid", "rate=0.2,0.5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    alone = ["--learning-rate", "0.03", "--rate", "0.2", "--out", "alone"]
    lines = ["sweep", *FLAGS, "--out", "run"], ["sweep", *TRUNK, *alone]
    return make_place(tmp_path_factory.mktemp("grid"), *lines)


def test_results_have_a_dimension_a_field(place):
    found = xr.load_dataset(place / "run" / "results.nc")
    accuracy = found["test_accuracy"]
    assert accuracy.dims == ("learning_rate", "rate", "seed", "level")
    assert found["learning_rate"].values.tolist() == [0.001, 0.03]
    assert found["rate"].values.tolist() == [0.2, 0.5]
    np.testing.assert_allclose(found["kept"].sel(rate=0.5).isel(level=2), 0.25, atol=1e-3)
    for rate in (0.001, 0.03):
        for share in (0.2, 0.5):
            part = place / "run" / f"learning_rate-{rate}" / f"rate-{share}" / "results.nc"
            own = xr.load_dataset(part)
            xr.testing.assert_equal(found.sel(learning_rate=rate, rate=share, drop=True), own)


def test_each_point_is_the_sweep_that_it_would_be_alone(place):
    alone = xr.load_dataset(place / "alone" / "results.nc")
    found = xr.load_dataset(place / "run" / "results.nc").sel(learning_rate=0.03, rate=0.2, drop=True)
    xr.testing.assert_equal(found, alone)


def test_the_report_names_the_columns_and_draws_no_size_that_differs(place):
    text = (place / "run" / "report.md").read_text(encoding="utf-8")
    assert "learning rate 0.001 rate 0.5" in text
    assert "| level | kept |" not in text
    assert "a ticket:" not in text


def test_finished_sweeps_are_not_made_again(place, call):
    printed = call("sweep", *FLAGS, "--out", "run")
    assert "level 1/3" not in printed


def test_another_grid_is_refused_in_the_same_folder(refused):
    line = refused("sweep", *TRUNK, "--grid", "rate=0.2,0.4", "--out", "run")
    assert "grid" in line


def test_a_grid_of_ways_to_rewind_and_levels(place, call):
    call("sweep", *TRUNK, "--grid", "levels=2,3", "--rewind", "0,none", "--out", "levels")
    found = xr.load_dataset(place / "levels" / "results.nc")["test_accuracy"]
    assert found.dims == ("levels", "rewind", "seed", "level")
    assert bool(found.sel(levels=2, level=2).isnull().all())
    assert bool(found.sel(levels=3).notnull().all())


def config_of(*entries, **changes):
    return Config(dataset="mnist", levels=3, seeds=(1,), grid=entries, **changes)


def test_values_are_read_as_their_flags_read_them():
    varied = grid.axes(config_of("learning-rate=1e-3", "3e-3", "one_shot=true", "false", "score=snip"))
    assert varied == {
        "learning_rate": {0.001: 0.001, 0.003: 0.003},
        "one_shot": {"true": True, "false": False},
        "score": {"snip": "snip"},
    }
    points = grid.points(config_of("rate=0.2", "0.5"))
    assert [point.config.rate for point in points] == [(0.2,), (0.5,)]
    assert [str(point.folder) for point in points] == ["rate-0.2", "rate-0.5"]
    assert all(point.config.grid == () for point in points)


def test_without_a_grid_there_is_one_point_and_it_is_the_whole():
    (point,) = grid.points(config_of())
    assert point.config == config_of()
    assert str(point.folder) == "."


def test_folders_have_names_that_every_file_system_takes():
    points = grid.points(config_of("model=a.b:Net", "c.d:Net"))
    assert [str(point.folder) for point in points] == ["model-a.b-Net", "model-c.d-Net"]


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        (["0.2"], "--grid 0.2: expected FIELD=VALUE"),
        (["ratio=0.2"], "--grid ratio: expected one of"),
        (["seeds=1"], "--grid seeds: expected one of"),
        (["dataset=mnist"], "--grid dataset: expected one of"),
        (["hidden=8"], "--grid hidden: expected one of"),
        (["rate=x"], "--grid rate=x: --rate x: expected float"),
        (["rate=0.2", "0.20"], "--grid rate: 0.20 is named twice"),
        (["rate=0.2", "levels=3", "rate=0.3"], "--grid rate: is named twice"),
        (["rate=2"], "--rate 2.0: expected 0.0001 to 0.9999 (with --rate 2.0)"),
        (["score=snap"], "--score snap: unknown"),
        (["model=a:b/c", "a:b c"], "two values would have folders of one name"),
        ([f"levels={n}" if n == 2 else str(n) for n in range(2, 900)], "rate"),
    ],
)
def test_what_is_no_grid_is_refused_in_a_line(entries, line):
    if line == "rate":  # 898 of them are allowed, twice as many are not
        twice = [*entries, "one_shot=true", "false"]
        with pytest.raises(InputError, match="1,796 sweeps"):
            config_of(*twice)
        return
    with pytest.raises(InputError) as error:
        config_of(*entries)
    assert line in str(error.value)


def test_a_file_has_a_grid_too(place, call):
    (place / "grid.toml").write_text("[grid]\nrate = [0.2, 0.5]\nlearning_rate = [0.001]\n")
    call("sweep", *TRUNK, "--config", "grid.toml", "--out", "file")
    found = xr.load_dataset(place / "file" / "results.nc")
    assert found["rate"].values.tolist() == [0.2, 0.5]
    assert found["learning_rate"].values.tolist() == [0.001]


def test_attributes_are_those_that_all_sweeps_share(place, call):
    call("sweep", *TRUNK[4:], "--grid", "model=lenet-300-100,somebodys_net:Net", "--out", "models")
    found = xr.load_dataset(place / "models" / "results.nc")
    assert found.attrs["model"] == "lenet-300-100, somebodys_net:Net"
    assert found["model"].values.tolist() == ["lenet-300-100", "somebodys_net:Net"]
    other = grid.attributes([xr.Dataset(attrs={"a": 1, "b": n, "seconds": 2.0}) for n in (1, 2)])
    assert other == {"a": 1, "seconds": 4.0}


def test_several_processes_take_one_sweep(refused):
    line = refused("sweep", *FLAGS, "--distributed", "--out", "none")
    assert "--distributed: takes one sweep" in line


def test_every_field_of_a_grid_is_one_of_the_sweep():
    assert set(grid.FIXED) <= {field.name for field in dataclasses.fields(Config)}
