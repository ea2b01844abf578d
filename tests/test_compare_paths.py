"""Two runs of E1 compared: planted differences come out, other configurations are refused."""

import json
import re

import numpy as np
import pytest
import xarray as xr

from experiments import compare_paths
from lth_jax.runs import results

CONFIG = {
    "dataset": "mnist-5k",
    "batch_size": 40,
    "epochs_per_level": 2,
    "initializers": ["a", "b"],
    "seeds": [1, 2, 3],
}


def planted(folder, shift, **attrs):
    """A run whose test accuracies lie ``shift`` points above those of another, give or take."""
    rng, shape = np.random.default_rng(0), (2, 3, 4)
    base = 0.9 + 0.001 * rng.standard_normal(shape)
    noise = 0.0001 * np.random.default_rng(int(1000 * shift)).standard_normal(shape)
    dims, at = (
        ("initializer", "seed", "level"),
        {"initializer": ["a", "b"], "seed": [1, 2, 3], "level": range(4)},
    )
    found = xr.Dataset(
        {
            "test_accuracy": (dims, base + shift / 100 + noise),
            "train_accuracy": (dims, base),
            "diverged": (dims, np.zeros(shape, bool)),
            "kept": (dims, np.broadcast_to([1, 0.8, 0.64, 0.512], shape)),
            "compressed_weights": (dims, np.broadcast_to([0, 0, 300, 200], shape)),
        },
        at,
        {
            "experiment": "init_comparison",
            "config": json.dumps(CONFIG),
            "fingerprint": "f",
            "seconds": 100.0,
            **attrs,
        },
    )
    results.save(found, folder / "results.nc")
    return folder


def test_a_planted_difference_comes_out(tmp_path, capsys):
    for name in ("old", "alike", "shifted"):
        (tmp_path / name).mkdir()
    old = planted(tmp_path / "old", 0.0)
    alike = planted(tmp_path / "alike", 0.002, seconds=40.0, level_seconds="[10.0, 10.0, 5.0, 4.0]")
    shifted = planted(tmp_path / "shifted", 0.5)
    compare_paths.main([str(old), str(alike), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "The levels took 40 s, 0.40 of the 100 s before." in text
    assert text.count(" equal |") == 8
    # 6 networks of 200 steps in 10, 10, 5 and 4 seconds
    rows = [line.split(" | ")[1:3] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == [["0", "120"], ["0", "120"], ["300", "240"], ["200", "300"]]
    assert results.load(tmp_path / "out" / "new.nc").equals(results.load(alike / "results.nc"))
    compare_paths.main([str(old), str(shifted), "--out", str(tmp_path / "other")])
    text = (tmp_path / "other" / "comparison.md").read_text()
    found = re.search(r"Mean test accuracy of levels 0 to 13, new − old: (\S+) points", text)
    assert float(found[1]) == pytest.approx(0.5, abs=0.02)
    assert text.count(" equal |") == 4  # training accuracies only


def test_runs_of_other_data_or_another_experiment_are_refused(tmp_path, capsys):
    for name in ("old", "new", "xor"):
        (tmp_path / name).mkdir()
    old, new = planted(tmp_path / "old", 0.0), planted(tmp_path / "new", 0.0, fingerprint="g")
    xor = planted(tmp_path / "xor", 0.0, experiment="xor")
    for other, said in (
        (new, "fingerprint: f in one run, g in the other"),
        (xor, "results of xor, expected"),
    ):
        with pytest.raises(SystemExit) as stop:
            compare_paths.main([str(old), str(other), "--out", str(tmp_path / "out")])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
