"""Places: a ``~`` in what is named, places that cannot be written or opened, systems that lack calls."""

import errno
import os

import jax
import numpy as np
import pytest

import lth_jax
from docs import site
from experiments import cli
from experiments.report import command as report
from lth_jax import commands, devices
from lth_jax.analysis import figures
from lth_jax.commands import compare, show, sweep
from lth_jax.data import datasets
from lth_jax.errors import InputError, StorageError
from lth_jax.runs import checkpoints, storage

WEIGHTS, MASK = {"kernel": np.ones((2, 2), np.float32)}, {"kernel": np.eye(2, dtype=bool)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and another folder that is worked in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_files_that_are_saved(home):
    lth_jax.export_ticket("~/a.safetensors", WEIGHTS, MASK)
    lth_jax.analysis.ticket_files.save_ticket("~/b.safetensors", WEIGHTS, MASK, {})
    figure, _ = figures.new_figure()
    assert figures.save(figure, "~/c.png") == home / "c.png"
    names = [f"{name}.safetensors{end}" for name in "ab" for end in ("", ".json")]
    assert sorted(path.name for path in home.glob("[a-z]*")) == sorted([*names, "c.png"])
    assert not any((home.parent / "work").iterdir())


def test_what_command_lines_name(home):
    parse = commands.build_parser().parse_args
    _, execution = sweep.configure(parse(["sweep", "--out=~/run", "--data-dir", "~/data"]))
    assert (execution.out, execution.data_dir) == (str(home / "run"), str(home / "data"))
    _, execution = cli.parse(cli.find("xor"), ["--out", "~/xor"])
    assert execution.out == str(home / "xor")
    places = report.parse(["--results", "~", "--out", "~/page", "--summary", "~/S.md"])
    assert (places.results, places.out, places.summary) == (home, home / "page", home / "S.md")
    for line, run in ((["show", "~/none"], show.run), (["compare", "~/none", "~/none"], compare.run)):
        with pytest.raises(InputError, match=str(home / "none")):
            run(parse(line))


def test_data_sets(home, monkeypatch):
    images = np.zeros((4, 2, 2), np.uint8)
    labels = np.asarray([0, 1, 0, 1])
    np.savez(home / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert lth_jax.data.load("npz:~/own.npz").train_images.shape == (4, 2, 2, 1)
    monkeypatch.setenv("LTH_DATA_DIR", "~/none")
    with pytest.raises(datasets.DataError, match=str(home / "none")):
        lth_jax.data.load("mnist")


def test_the_site(home, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(site, "build", built.append)
    site.main(["~/site"])
    assert built == [home / "site"]
    assert capsys.readouterr().out == f"{home / 'site' / 'index.html'}\n"


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, InputError), (errno.ENOSPC, StorageError)])
@pytest.mark.parametrize("wrapped", ["as a cause", "as a text"])
def test_a_place_that_orbax_cannot_write(tmp_path, monkeypatch, number, kind, wrapped):
    def save(*_, **__):
        error = OSError(number, os.strerror(number))
        if wrapped == "as a text":
            raise ValueError(f"UNKNOWN: cannot write the metadata: {os.strerror(number)} [os_error_code]")
        raise ValueError("cannot write the metadata") from error

    monkeypatch.setattr(checkpoints.ocp.Checkpointer, "save", save)
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    with pytest.raises(kind), storage.in_a_place_of("--out"):
        checkpoints.write_alone(tmp_path / "t", WEIGHTS, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_opened_is_saved_all_the_same(tmp_path, monkeypatch):
    opened = os.open

    def only_files(path, flags, *more, **others):
        if flags == os.O_RDONLY and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *more, **others)

    monkeypatch.setattr(checkpoints.os, "open", only_files)
    checkpoints._to_disk(tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoints._to_disk(tmp_path / "none")


@pytest.mark.parametrize("cores", [3, None])
def test_cores_where_the_system_does_not_say_which_are_usable(monkeypatch, cores):
    asked = {}
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(devices.jax, "config", Config(asked))
    devices.use_host_devices()
    assert asked == {"jax_num_cpu_devices": cores or 1}
    assert jax.device_count() == 2


class Config:
    """What stands for JAX's, which cannot be changed once devices are there."""

    jax_num_cpu_devices = -1

    def __init__(self, asked):
        self.update = asked.__setitem__
