"""Modules of others in whole sweeps: half precision, NaN, files they read, names that others have too."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from small_levels import assert_equal
from sweeps import TINY, make_place

from lth_jax.analysis import ticket_files
from lth_jax.runs import checkpoints

BODY = """
import flax.linen as nn
import jax.numpy as jnp
{before}
class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1){change}
        return nn.Dense(10, dtype={dtype}, param_dtype={dtype})(x)
"""
HALF = {"before": "", "change": "", "dtype": "jnp.bfloat16"}
NAN = {"before": "", "change": " * float('nan')", "dtype": "jnp.float32"}
READS = {
    "before": "from pathlib import Path\nscale = float(Path('scale.txt').read_text())",
    "change": " * scale",
    "dtype": "jnp.float32",
}
LINE = ["--levels", "2", "--seeds", "1,2", "--initializer", "module", *TINY]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits and some modules."""
    folder = make_place(tmp_path_factory.mktemp("modules"))
    for name, parts in {"half": HALF, "never": NAN, "reads": READS}.items():
        (folder / f"{name}_net.py").write_text(BODY.format(**parts))
    (folder / "scale.txt").write_text("0.5")
    (folder / "json.py").write_text("raise RuntimeError('shadowed')")
    return folder


def test_a_sweep_in_half_precision_is_saved_shown_and_resumed(place, call, monkeypatch, capsys):
    line = ["sweep", "--model", "half_net:Net", "--keep-weights", "1", *LINE]
    call(*line, "--out", "whole")
    saved = checkpoints.save

    def stop(folder, finished, tree):
        saved(folder, finished, tree)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stop)
        with pytest.raises(SystemExit, match="130"):
            call(*line, "--out", "stopped")
    capsys.readouterr()
    assert "report: stopped/report.md" in call(*line, "--out", "stopped")
    found = [xr.load_dataset(place / name / "results.nc") for name in ("whole", "stopped")]
    one, other = (each.drop_vars("seconds", errors="ignore") for each in found)
    xr.testing.assert_equal(one, other)
    both = [ticket_files.read_trained(place / name / "tickets.npz", 2, 1) for name in ("whole", "stopped")]
    assert_equal(*both)
    assert both[0][0]["Dense_0/kernel"].dtype == jnp.bfloat16
    assert np.isfinite(one["test_accuracy"]).all()
    assert all(json.loads(row) for row in (place / "stopped" / "log.jsonl").read_text().splitlines())
    assert "Test accuracy" in call("show", "stopped")


def test_a_module_with_nan_in_it_diverges_and_says_so(place, call):
    printed = call("sweep", "--model", "never_net:Net", *LINE, "--out", "never")
    assert "diverged, and in no mean: seed 1 from level 0" in printed
    assert "report: never/report.md" in printed


def test_a_module_that_reads_a_file_is_trained(call):
    assert "report: reads/report.md" in call("sweep", "--model", "reads_net:Net", *LINE, "--out", "reads")


def test_a_module_whose_name_a_library_has_is_named(refused):
    line = refused("sweep", "--model", "json:Net", *LINE, "--out", "shadowed")
    assert "--model json:Net: cannot be made: a module json is there already" in line
    assert "rename json.py" in line


def test_the_working_folder_has_a_file_of_a_librarys_name(place):
    done = subprocess.run(
        [sys.executable, "-m", "lth_jax", "--version"], cwd=place, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lth_jax ")
