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

from experiments import cli
from experiments.benchmark import experiment as benchmark
from experiments.init_comparison import experiment as init_comparison
from lth_jax.errors import InputError
from lth_jax.runs import axis, processes

ROOT = Path(__file__).parents[1]
FLAGS = ["--levels", "2", "--methods", "kaiming_normal", "--seeds", "42-44", "--hidden", "8"]
FLAGS += ["--epochs-per-level", "1", "--batch-size", "100"]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start_together(out: Path, cache: Path) -> list[subprocess.CompletedProcess]:
    """The same command twice, as SLURM's ``srun --ntasks=2`` would start it."""
    address = f"127.0.0.1:{free_port()}"
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    job |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address}
    job |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-m", "experiments", "init_comparison", *FLAGS, "--distributed"]
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

    cli.main(init_comparison.EXPERIMENT, [*FLAGS, "--out", str(alone)])
    ours, theirs = (xr.load_dataset(folder / "results.nc") for folder in (together, alone))
    assert dict(ours.sizes) == {"method": 1, "seed": 3, "level": 2}
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


def test_without_a_cluster_one_line_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(init_comparison.EXPERIMENT, [*FLAGS, "--distributed", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--distributed: the other processes cannot be found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_experiment_for_one_process_refuses(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(benchmark.EXPERIMENT, ["--distributed", "--out", str(tmp_path / "out")])
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
