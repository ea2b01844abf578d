"""E1's dimension ``initializer``: committed results have it, older ones get it bit for bit."""

import json

import netCDF4
import numpy as np
import pytest
import xarray as xr

from experiments import rename_dimension
from experiments.report import gather
from lth_jax.runs import results

COMMITTED = sorted((gather.PACKAGE / "results").rglob(results.RESULTS))
E1 = [path for path in COMMITTED if "init_comparison" in path.parts]


def test_committed_results_are_selected_by_keyword():
    assert len(E1) == 2
    for path in E1:
        chosen = results.load(path).sel(initializer="xavier_normal")
        assert chosen["initializer"].item() == "xavier_normal"
        assert dict(chosen["test_accuracy"].sizes) == {"seed": 11, "level": 20}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_no_committed_dimension_is_an_argument_of_sel(path):
    measured = results.load(path)
    assert not {"method", "tolerance", "drop"} & {*measured.dims, *measured.coords}
    fields = json.loads(measured.attrs["config"])
    assert json.loads((path.parent / results.CONFIG).read_text(encoding="utf-8")) == fields
    assert "methods" not in fields


@pytest.fixture
def older(tmp_path):
    """A run's folder as it was written before, with values that a careless copy would change."""
    dims, numbers = ("method", "seed", "level"), np.random.default_rng(0)
    loss = numbers.normal(size=(2, 3, 4)).astype("float32")
    loss[0, 0, 0], loss[1, 1, 1], loss[1, 2, 3] = np.nan, -0.0, np.inf
    measured = xr.Dataset(
        {
            "test_loss": (dims, loss),
            "diverged": (dims, np.isnan(loss)),
            "lost": ("level", np.arange(4, dtype="int32")),
        },
        {"method": ["xavier_normal", "he"], "seed": [42, 43, 44], "level": np.arange(4)},
    )
    fields = {"variant": "as-run", "methods": ["xavier_normal", "he"], "learning_rate": 1.2e-3}
    attrs = {"config": json.dumps(fields), "seconds": 7706.811635358999, "experiment": "init_comparison"}
    results.save(measured.assign_attrs(attrs), tmp_path / results.RESULTS)
    (tmp_path / results.CONFIG).write_text(json.dumps(fields, indent=2))
    return tmp_path


def contents(path):
    """What a file holds, read without xarray: types, bytes and attributes of its variables, and its own."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        variables = {
            name: (variable.dtype, variable.dimensions, variable[:].tobytes(), str(variable.__dict__))
            for name, variable in file.variables.items()
            if variable.dtype is not str
        }
        labels = {name: v[:].tolist() for name, v in file.variables.items() if v.dtype is str}
        return variables, labels, dict(file.__dict__)


def test_older_results_are_renamed_bit_for_bit(older, capsys):
    path = older / results.RESULTS
    variables, labels, attrs = contents(path)
    rename_dimension.main([str(older)])
    assert capsys.readouterr().out == f"{older}: results.nc, config.json\n"
    now, new_labels, new_attrs = contents(path)
    in_new_words = {
        name: (kind, tuple(d.replace("method", "initializer") for d in dims), *rest)
        for name, (kind, dims, *rest) in variables.items()
    }
    assert now == in_new_words
    assert (labels, new_labels) == (
        {"method": ["xavier_normal", "he"]},
        {"initializer": ["xavier_normal", "he"]},
    )
    assert new_attrs.pop("config") == attrs.pop("config").replace('"methods"', '"initializers"')
    assert new_attrs == attrs
    fields = {"variant": "as-run", "initializers": ["xavier_normal", "he"], "learning_rate": 1.2e-3}
    assert (older / results.CONFIG).read_text() == json.dumps(fields, indent=2)
    assert results.load(path).sel(initializer="he").sizes == {"seed": 3, "level": 4}  # its digest holds


def test_what_is_up_to_date_is_left_alone(older, capsys):
    rename_dimension.main([str(older)])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in older.iterdir()}
    capsys.readouterr()
    rename_dimension.main([str(older)])
    assert capsys.readouterr().out == f"{older}: up to date\n"
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in older.iterdir()} == before


def test_a_rename_that_was_stopped_half_way_is_finished(older):
    text = (older / results.CONFIG).read_text()
    rename_dimension.rename(older)
    (older / results.CONFIG).write_text(text)
    assert rename_dimension.rename(older) == [results.CONFIG]


def test_what_cannot_be_renamed_is_one_line(older, capsys):
    def refusal():
        with pytest.raises(SystemExit) as stopped:
            rename_dimension.main([str(older)])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    path, before = older / results.RESULTS, (older / results.RESULTS).read_bytes()
    for text in ("[]", "{"):
        (older / results.CONFIG).write_text(text)
        assert "config.json cannot be read as a configuration" in refusal()
    assert path.read_bytes() == before
    results.save(results.load(path).assign_attrs(experiment="xor"), path)
    assert refusal().endswith("results.nc: results of xor, expected init_comparison")
    path.write_bytes(before[:-1])
    assert "is damaged" in refusal()
    path.unlink()
    assert refusal().endswith("results.nc: no such file")
