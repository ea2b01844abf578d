"""The installed command: looking at runs, data, help, completion, exit codes, logs and progress."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from idx import TEST, TRAIN, write_idx

from lth_jax.analysis import tables
from lth_jax.commands import exits, settings, show
from lth_jax.data import datasets as data
from lth_jax.errors import InputError, StorageError
from lth_jax.runs import progress
from lth_jax.runs.job import Execution, Job
from lth_jax.runs.progress import Progress

COMMITTED = Path(__file__).parents[1] / "experiments" / "results"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits."""
    folder = tmp_path_factory.mktemp("command")
    write_idx(folder / "DIGITS")
    return folder


# Looking at runs


def test_show_prints_committed_results(call, tmp_path):
    folder = COMMITTED / "init_comparison" / "as-described"
    printed = call("show", str(folder), "--figures", str(tmp_path))
    accuracy = xr.load_dataset(folder / "results.nc")["test_accuracy"] * 100
    cell = accuracy.sel(initializer="xavier_normal", level=18)
    shown = f"{float(cell.mean()):.2f} ± {float(cell.std(ddof=1)):.2f}"
    assert shown == "95.99 ± 2.86", "as its report has it"
    (line,) = [line for line in printed.splitlines() if line.startswith("│ 18 ")]
    assert [part.strip() for part in line.split("│")][2:5] == ["1.80%", "88.08 ± 6.66", shown]
    assert (tmp_path / "test_accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert "\x1b" not in printed, "no colours without a terminal"


def test_show_takes_any_variable_of_any_run(call, refused):
    printed = call("show", str(COMMITTED / "xor"), "--variable", "logit")
    assert "mean ± std over 1000 networks" in printed
    assert "unknown; expected one of" in refused("show", str(COMMITTED / "xor"), "--variable", "accuracy")
    assert "--variable: name one of logit" in refused("show", str(COMMITTED / "xor"))
    assert "epoch" in call("show", str(COMMITTED / "variance_propagation"))
    assert "no such file" in refused("show", "nowhere")


def test_a_curve_is_shown_at_its_end_and_diverged_runs_are_counted():
    values = np.zeros((2, 3, 2, 4), "f")
    values[..., -1] = np.arange(12).reshape(2, 3, 2) / 100
    values[0, 1, 1, -1] = np.nan
    dims = ("arm", "seed", "level", "iteration")
    measured = xr.Dataset({"test_accuracy": (dims, values)}, {"arm": ["a", "he_b"], "seed": [1, 2, 3]})
    title, header, rows = show.make_table(measured, "test_accuracy")
    assert title == "Test accuracy (%), mean ± std over 3 seeds"
    assert header == ["level", "a", "He b"]
    assert rows == [["0", "2.00 ± 2.00", "8.00 ± 2.00"], ["1", "3.00 ± 2.83 (1 left out)", "9.00 ± 2.00"]]


def test_a_table_is_cut_where_the_terminal_is_narrow(capsys):
    console = tables.Console(width=30)
    tables.print_table(console, "title", ["row", "first", "second"], [["1", "x" * 10, "y" * 10]])
    printed = capsys.readouterr().out
    assert printed.count("row") == 2
    assert all(text in printed for text in ("x" * 10, "y" * 10))


# Data


def test_data_sets_are_listed_and_verified(place, call, refused, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(data, "SYSTEM", tmp_path)
    found = data.load("mnist", place / "DIGITS")
    printed = call("data", "list", "--data-dir", "DIGITS")
    (line,) = [line for line in printed.splitlines() if line.startswith("│ mnist ")]
    cells = [part.strip() for part in line.split("│")[2:-1]]
    assert cells == ["IDX files", str(TRAIN), str(TEST), "28×28×1", "10", found.fingerprint]
    assert "8dc7e6b24520c505" in call("data", "list"), "the embedded digits are always here"
    assert "not here" in call("data", "list", "cifar10")
    printed = call("data", "verify", "mnist", "--data-dir", "DIGITS")
    assert found.fingerprint in printed
    assert "not the official files" in printed
    assert "mnist was not found. Four ways" in refused("data", "verify", "mnist")
    assert "no such directory" in refused("data", "verify", "mnist", "--data-dir", "elsewhere")
    assert "'mist': unknown" in refused("data", "verify", "mist")
    path = write_idx(tmp_path / "damaged") / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert path.name in refused("data", "verify", "mnist", "--data-dir", str(tmp_path / "damaged"))
    monkeypatch.setattr("lth_jax.data.prepare", lambda name, directory: data.load(name, "DIGITS"))
    assert found.fingerprint in call("data", "prepare", "mnist", "--data-dir", str(tmp_path))


# Help, completion, exit codes


@pytest.mark.parametrize(
    "line", ["", "sweep", "data", "data verify", "show", "compare", "export", "completion"]
)
def test_help_has_examples_and_exit_codes(call, capsys, line):
    with pytest.raises(SystemExit) as stop:
        call(*line.split(), "--help")
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert "examples:\n  lth-jax" in printed
    assert exits.CODES in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_every_field_is_in_the_help_once():
    assert sorted(sum(settings.GROUPS.values(), ())) == sorted(settings.Config.__dataclass_fields__)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_flags_and_values(call, tmp_path, shell):
    script = call("completion", shell)
    assert all(
        word in script for word in ("--layer-rates", "xavier_normal", "mnist-5k", "verify", "nesterov")
    )
    if shell == "bash":
        ask = "COMP_WORDS=(lth-jax sweep --opt) COMP_CWORD=2; _shtab_lth_jax; echo ${COMPREPLY[@]}"
        answer = subprocess.run(
            ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
        )
        assert answer.stdout.split() == ["--optimizer"]


def test_no_arguments_are_answered_by_help(call):
    assert "COMMAND" in call()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("this is wrong"), 2, "error: this is wrong"),
        (data.DataError("data are wrong"), 2, "error: data are wrong"),
        (StorageError("the disk is full"), 1, "error: the disk is full; to go on: X"),
        (MemoryError("17 GB"), 1, "error: out of memory (17 GB)"),
        (KeyboardInterrupt(), 130, "stopped; every finished level is saved; to go on: X"),
        (exits.signals.Stopped(15), 143, "stopped; every finished level is saved; to go on: X"),
    ],
)
def test_what_goes_wrong_is_a_line_and_a_code(capsys, error, code, told):
    with pytest.raises(SystemExit) as stop, exits.exit_on_error("to go on: X"):
        raise error
    assert stop.value.code == code
    assert told in capsys.readouterr().err


# Logs and progress


def say(told):
    return "kept 80%"


def test_a_log_entry_has_scalars_and_the_ends_of_curves(tmp_path):
    curves = np.array([[[0.1, 0.5], [0.2, np.nan]]], "f")
    record = ({"test_accuracy": curves, "kept": np.array([[0.5, 0.5]])}, {"units": np.ones((1, 2, 3), int)})
    told = Progress(0, 1, record, np.array([2.0]), 0)
    with progress.reporting(Job(tmp_path, Execution()), say, 10, "part 1") as report:
        report(told)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["values"] == {"test_accuracy": [0.5, None], "kept": [0.5, 0.5]}
    assert (line["accuracy_mean"], line["accuracy_std"], line["kept"]) == (0.5, None, 0.5)
    assert (line["part"], line["network_steps_per_second"]) == ("part 1", 5.0)
    with progress.reporting(None, say, 10, "nowhere") as report:
        report(told)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1, "without a job nothing is"


def test_a_log_entry_tells_tickets_from_controls():
    accuracy = np.array([[[0.9, 0.5], [0.8, 0.4]]], "f")  # a level, two runs, a ticket and a control
    record = ({"measured": {"test_accuracy": accuracy}}, [np.ones((1, 2, 3), np.uint8)])
    line = progress.entry(Progress(0, 1, record, np.array([2.0]), 0, ["ticket", "reinit"]), 0, 10)
    assert {name: values.tolist() for name, values in line["values"].items()} == {
        "test_accuracy": pytest.approx([0.9, 0.8]),
        "reinit/test_accuracy": pytest.approx([0.5, 0.4]),
    }
    assert line["accuracy_mean"] == pytest.approx(0.85), "of tickets alone"


def test_tensorboard_that_is_not_installed_is_named(refused, monkeypatch):
    find_spec = progress.importlib.util.find_spec
    missing = lambda name, *more: None if name == "tensorboardX" else find_spec(name, *more)  # noqa: E731
    monkeypatch.setattr(progress.importlib.util, "find_spec", missing)
    assert "pip install 'lth_jax[tensorboard]'" in refused("sweep", "--log", "tensorboard", "--out", "never")


@pytest.mark.parametrize(("colours", "expected"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_a_bar_and_colours_unless_refused(monkeypatch, capsys, tmp_path, colours, expected):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120", **colours}.items():
        monkeypatch.setenv(name, value)
    told = Progress(1, 4, {}, np.array([1.0, 2.0, 0, 0]), 0)
    with progress.reporting(Job(tmp_path, Execution()), say, 10) as report:
        report(told)
    printed = capsys.readouterr().out
    assert "2/4" in printed
    assert "kept 80%  5 network-steps/s" in printed
    assert any(f"\x1b[{code}" in printed for code in ("38;", "3", "9")) == expected


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lth_jax", "data", "prepare", "nothing"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nothing" in done.stderr


def test_show_draws_what_has_levels_without_sizes(call, tmp_path):
    folder = str(COMMITTED / "ticket_distribution" / "as-run")
    call("show", folder, "--variable", "pruning_test_accuracy", "--figures", str(tmp_path))
    assert (tmp_path / "pruning_test_accuracy.png").read_bytes()[:4] == b"\x89PNG"
