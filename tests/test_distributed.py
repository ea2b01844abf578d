"""Two processes on this machine play a small sweep together and get what one process gets."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from forks import small_search

from experiments import cli
from lth_jax import commands
from lth_jax.errors import InputError
from lth_jax.runs import axis, processes

ROOT = Path(__file__).parents[1]
FLAGS = ["--levels", "2", "--initializers", "kaiming_normal", "--seeds", "42-44", "--hidden", "8"]
FLAGS += ["--epochs-per-level", "1", "--batch-size", "100"]
EXPERIMENT = ["-m", "experiments", "init_comparison", *FLAGS, "--distributed"]
SWEEP = [
    "--model",
    "mlp",
    "--hidden",
    "8",
    "--levels",
    "2",
    "--seeds",
    "1-3",
    "--epochs",
    "1",
    "--batch-size",
]
SWEEP += ["100", "--controls", "reinit,random_mask", "--rewind", "3", "--eval-every", "20"]
SWEEP += ["--validation", "400", "--keep-weights", "1"]

# What every process runs, as a program would that calls the library.
FIND = """
import sys
import numpy as np
from lth_jax.runs import processes
processes.join()
from tests.forks import small_search
found = small_search(sys.argv[2])
if processes.is_first():
    np.savez(sys.argv[2] + ".npz", **found)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start_together(out: Path, cache: Path, what=EXPERIMENT) -> list[subprocess.CompletedProcess]:
    """The same command twice, as SLURM's ``srun --ntasks=2`` would start it."""
    address = f"127.0.0.1:{free_port()}"
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    job |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address}
    job |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, *what]
    started = [
        subprocess.Popen(
            [*command, "--out", str(out)],
            cwd=ROOT,
            env={**os.environ, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


def test_two_processes_get_the_arrays_of_one(tmp_path, capsys):
    together, alone = tmp_path / "together", tmp_path / "alone"
    first, second = start_together(together, tmp_path / "cache")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "4 x CPU" in first.stdout  # three runs on four devices: one is padding
    assert "level 2/2" in first.stdout
    assert "report:" in first.stdout
    assert "level" not in second.stdout

    cli.main(cli.find("init_comparison"), [*FLAGS, "--out", str(alone)])
    ours, theirs = (xr.load_dataset(folder / "results.nc") for folder in (together, alone))
    assert dict(ours.sizes) == {"initializer": 1, "seed": 3, "level": 2}
    np.testing.assert_array_equal(ours["kept"], theirs["kept"])
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    for name in ("train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-3)
    assert len(np.unique(ours["test_loss"])) == 6  # every run is its own

    # What both have saved is read by both: nothing is left to play.
    parts = {path.name for path in (together / "checkpoints" / "2").rglob("ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}
    (together / "results.nc").unlink()
    again, silent = start_together(together, tmp_path / "cache")
    assert (again.returncode, silent.returncode) == (0, 0), again.stderr + silent.stderr
    assert "resumed after level 2/2" in again.stdout
    xr.testing.assert_identical(xr.load_dataset(together / "results.nc").drop_attrs(), ours.drop_attrs())
    shutil.rmtree(together)


def test_two_processes_find_the_tickets_of_one(tmp_path):
    together, expected = tmp_path / "together", small_search(None)
    first, second = start_together(together, tmp_path / "cache", ["-c", FIND])
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "level 3/3" in first.stdout
    found = np.load(f"{together}.npz")
    assert found.keys() == expected.keys()
    for name in found:
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected[name], name)


def test_two_processes_sweep_controls_as_one_does(tmp_path, monkeypatch):
    together, alone = tmp_path / "together", tmp_path / "alone"
    first, second = start_together(
        together, tmp_path / "cache", ["-m", "lth_jax", "sweep", *SWEEP, "--distributed"]
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "level 2/2" in first.stdout
    assert "level" not in second.stdout
    commands.main(["sweep", *SWEEP, "--out", str(alone)])
    ours, theirs = (xr.load_dataset(folder / "results.nc") for folder in (together, alone))
    assert ours["network"].values.tolist() == ["ticket", "reinit", "random_mask"]
    assert ours.sizes == theirs.sizes
    np.testing.assert_array_equal(ours["kept_weights"], theirs["kept_weights"])
    for name in ("train_loss", "validation_loss_curve", "batch_loss_curve"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
    tickets, others = (np.load(folder / "tickets.npz") for folder in (together, alone))
    assert tickets.keys() == others.keys()
    for name in tickets:
        if tickets[name].dtype.kind == "f":
            np.testing.assert_allclose(tickets[name], others[name], atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(tickets[name], others[name], name)


def test_without_a_cluster_one_line_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(cli.find("init_comparison"), [*FLAGS, "--distributed", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--distributed: the other processes cannot be found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_experiment_for_one_process_refuses(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(cli.find("benchmark"), ["--distributed", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--distributed: benchmark runs in one process" in capsys.readouterr().err


def test_one_process_is_all_of_them():
    tree = {"x": jax.numpy.arange(3)}
    assert processes.is_first()
    assert processes.smallest(7) == 7
    assert isinstance(processes.gather(tree)["x"], np.ndarray)
    assert axis.spread(tree) is tree
    np.testing.assert_array_equal(processes.own(tree["x"]), [0, 1, 2])
    sharded = axis.place(jax.numpy.arange(4), jax.NamedSharding(axis.run_mesh(), jax.P("run")))
    np.testing.assert_array_equal(processes.own(sharded), [0, 1, 2, 3])


def test_no_cluster_is_wrong_input():
    with pytest.raises(InputError, match="SLURM, Open MPI, Kubernetes or a TPU pod"):
        processes.join()
