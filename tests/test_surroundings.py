"""Paths as people write them, outputs that have no ±, files of other names, and code of others."""

import io
import itertools
import json
import os
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from sweeps import TINY, TRUNK, make_place, search_in

import lth_jax
from lth_jax import commands
from lth_jax.analysis import figures, ticket_files
from lth_jax.commands.execution import Execution
from lth_jax.errors import InputError, write_any_text

NETS = {
    "leaves_at_import": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "leaves_when_called": ("def hook(): raise SystemExit(0)", "SystemExit: 0"),
    "leaves_a_batch": ("def change(x): return x if len(x) == 1 else exit(0)", "SystemExit: 0"),
    "refuses_a_batch": ("def change(x): return x if len(x) == 1 else x + 'a'", "TypeError: "),
    "whole_numbers": ("def change(x): return x.astype('int32')", "int32"),
    "complex": ("def change(x): return x.astype('complex64')", "complex64"),
    "several": ("def change(x): return x, x", "expected"),
}
BODY = """
import flax.linen as nn
def hook(): pass
def change(x): return x
{}
class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        hook()
        return change(nn.Dense(10)(images.reshape(len(images), -1)))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, modules that do what they should not, and a run."""
    folder = make_place(tmp_path_factory.mktemp("surroundings"), ["sweep", *TRUNK, "--out", "run"])
    for name, (code, _) in NETS.items():
        (folder / f"{name}.py").write_text(BODY.format(code))
    (folder / "talks.py").write_text(
        BODY.format(
            "import warnings; print('hello'); warnings.warn('beware')\nseen = []\ndef hook(): seen.append(1)"
        )
    )
    return folder


@pytest.mark.parametrize("name", NETS)
def test_a_module_that_does_what_it_should_not_is_one_line(refused, name):
    line = refused("sweep", "--model", f"{name}:Net", *TINY, "--out", "new")
    assert f"--model {name}:Net" in line
    assert NETS[name][1] in line


@pytest.mark.filterwarnings("ignore:beware")
def test_a_module_that_prints_warns_and_remembers_is_trained(call):
    printed = call("sweep", "--model", "talks:Net", "--levels", "2", "--seeds", "1", *TINY, "--out", "talks")
    assert printed.startswith("hello\n")
    assert "report: talks/report.md" in printed


def test_a_file_of_a_librarys_name_does_not_take_its_place(place, tmp_path):
    """The folder in hand is looked into for somebody's module only, not for json."""
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "somebodys_net.py").write_text((place / "somebodys_net.py").read_text())
    script = "from lth_jax.__main__ import main; main()"
    line = ["sweep", "--model", "somebodys_net:Net", "--levels", "1", "--seeds", "1", "--epochs", "1"]
    line += ["--dataset", "mnist", "--batch-size", "20", "--data-dir", str(place / "DIGITS"), "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *line], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# Paths


def test_a_tilde_is_the_home_wherever_a_path_is_named(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(place)
    (tmp_path / "digits").symlink_to(place / "DIGITS")
    toml = 'out = "~/from-toml"\ndata_dir = "~/digits"\ndataset = "mnist"\nepochs = 1\nlevels = 1\n'
    toml += 'batch_size = 20\nseeds = "1"\nmodel = "mlp"\nhidden = [8]\n'
    (tmp_path / "run.toml").write_text(toml)
    commands.main(["sweep", "--config", "~/run.toml"])
    assert (tmp_path / "from-toml" / "results.nc").exists()
    commands.main(["export", "~/from-toml", "--seed", "1", "--level", "0", "--out=~/t.safetensors"])
    commands.main(["show", "~/from-toml", "--figures", "~/figures"])
    commands.main(["data", "verify", "mnist", "--data-dir", "~/digits"])
    capsys.readouterr()
    assert (tmp_path / "figures" / "test_accuracy.png").exists()
    assert set(lth_jax.load_ticket("~/t.safetensors").params) == {"hidden_0", "output"}
    assert not (place / "~").exists()
    assert Execution(out="~/a", data_dir="~/b").out == str(tmp_path / "a")
    search_in("~/found")
    assert (tmp_path / "found" / "checkpoints").is_dir()


def test_the_report_takes_sweeps_too(place, monkeypatch, capsys):
    from experiments.report import command

    monkeypatch.chdir(place)
    grid = ["--grid", "rate=0.2,0.5", "--controls", "reinit"]
    commands.main(["sweep", *TRUNK, *grid, "--levels", "2", "--seeds", "1", "--out", "several/grid"])
    capsys.readouterr()
    command.main(["--results", "several", "--out", "pages"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "0 claims of 3 runs" in said.out
    command.main(["--results", "run", "--out", "page"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "0 claims of 1 runs" in said.out
    assert "Tickets of mlp on " in (place / "page" / "report.html").read_text()


# Names


def test_each_ticket_has_a_card_of_its_own(tmp_path):
    weights, mask = {"a/kernel": np.ones((2, 2), np.float32)}, {"a/kernel": np.ones((2, 2), bool)}
    expected = ("kept0.80.safetensors", "kept0.81.safetensors", "kept0.80", "x", "x.safetensors")
    for name in expected:
        ticket_files.save_ticket(tmp_path / name, weights, mask, {"name": name})
    names = {path.name: json.loads(path.read_text())["name"] for path in tmp_path.glob("*.json")}
    assert names == {f"{name}.json": name for name in expected}


@pytest.mark.parametrize(
    ("name", "start"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF"), ("X.PDF", b"%PDF")]
)
def test_a_figure_is_what_its_name_says(tmp_path, name, start):
    written = []
    for _ in range(2):
        figure, ax = figures.new_figure()
        ax.plot([0, 1], [0.2, 0.8], label="θ ± 1")
        figures.save(figure, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0].startswith(start)
    assert written[0] == written[1]
    for other in ("x", "x.jpg", "x.pdf.gz"):
        with pytest.raises(InputError, match="figures are written as png, svg, pdf"):
            figures.save(figure, tmp_path / other)


def test_a_slow_machine_does_not_complain_about_a_legend(tmp_path, monkeypatch):
    clock = itertools.count(step=10)
    monkeypatch.setattr("matplotlib.legend.time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    figure, ax = figures.new_figure()
    ax.plot([0, 1], [0.2, 0.8], label="θ")
    ax.legend()
    figures.save(figure, tmp_path / "x.png")
    assert next(clock) > 0


def test_sizes_are_those_of_the_stored_precision():
    from lth_jax.analysis import sparsity

    mask = {"kernel": np.asarray([[True, False], [True, True]]), "bias": np.ones(2, bool)}
    for dtype, size in ((np.float64, 8), (np.float32, 4), (jnp.bfloat16, 2)):
        params = {name: np.ones(leaf.shape, dtype) for name, leaf in mask.items()}
        found = sparsity.sizes(mask, params)
        assert found == {
            "dense": 6 * size,
            "csr": 3 * (size + 4) + 3 * 4 + 2 * size,
            "bcoo": 3 * (size + 8) + 2 * size,
        }


# Encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_text_is_written_in_any_encoding(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    write_any_text()
    print("97.93 ± 0.11 of θ at σ² → 1 … ━ 语")
    sys.stdout.flush()
    said = raw.getvalue().decode(encoding)
    plain = {
        "ascii": "97.93 +/- 0.11 of theta at sigma2 -> 1 ... ? ?\n",
        "utf-8": "97.93 ± 0.11 of θ at σ² → 1 … ━ 语\n",
    }
    half = {
        "cp1252": "97.93 ± 0.11 of theta at sigma² -> 1 … ? ?\n",
        "latin-1": "97.93 ± 0.11 of theta at sigma² -> 1 ... ? ?\n",
    }
    assert said == {**plain, **half}[encoding]


@pytest.mark.parametrize("line", [["sweep", *TRUNK, "--out", "ascii"], ["sweep", "--help"], ["show", "run"]])
def test_a_pipe_that_is_ascii_ends_nothing(place, line):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    script = "from lth_jax.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *line], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "--help" in line or "+/-" in done.stdout
