"""What a run's folder says of itself: versions, damage and blocks are said or mended, never passed over."""

import errno
import fcntl
import json
import os
import shutil

import numpy as np
import pytest
import xarray as xr
from sweeps import TRUNK, make_place, search_in

from lth_jax import commands
from lth_jax.errors import InputError
from lth_jax.runs import checkpoints, folders, memory, results, storage


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, and a finished run."""
    return make_place(tmp_path_factory.mktemp("folders"), ["sweep", *TRUNK, "--out", "run"])


@pytest.fixture
def copied(place, tmp_path):
    """The run, copied to be damaged: the name of its folder."""
    shutil.copytree(place / "run", place / tmp_path.name)
    return place / tmp_path.name


def arrays(folder):
    with xr.open_dataset(folder / "results.nc") as found:
        return found.load().drop_attrs()


def flip(path, place):
    """Change a bit of the byte at a place."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def command(folder):
    return ["sweep", *TRUNK, "--out", folder.name]


@pytest.mark.parametrize("damage", ["gone", "cut", "a bit flipped", "another file"])
def test_tickets_that_are_not_whole_are_made_again_from_the_checkpoint(place, call, copied, damage):
    path = copied / "tickets.npz"
    whole = path.read_bytes()
    cut = {"gone": b"", "cut": whole[: len(whole) // 2], "another file": b"PK\x03\x04 no archive"}
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    path.write_bytes(cut.get(damage, bytes(flipped)))
    if damage == "gone":
        path.unlink()
    said = call(*command(copied))
    assert "resumed after level 3/3" in said
    with np.load(path) as found, np.load(place / "run" / "tickets.npz") as expected:
        assert found.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    xr.testing.assert_identical(arrays(copied), arrays(place / "run"))


@pytest.mark.parametrize("content", [b"", b'{"levels": 3', b"\xff\xfe", b"[" * 100_000, None])
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_description_is_written_again_from_its_copy(
    place, copied, name, content, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    whole = (copied / name).read_bytes()
    (copied / name).unlink() if content is None else (copied / name).write_bytes(content)
    commands.main(command(copied))
    warned = capsys.readouterr().err
    assert warned == ("" if content is None else f"warning: {copied.name}/{name} is damaged: written again\n")
    assert (copied / name).read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "before"), [("config.json", '"levels": '), ("data.json", '"fingerprint": "')]
)
def test_a_description_with_another_byte_is_damaged_and_not_another_runs(
    place, copied, name, before, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    whole = (copied / name).read_bytes()
    flip(copied / name, whole.index(before.encode()) + len(before))
    assert json.loads((copied / name).read_text()) != json.loads(whole)
    commands.main(command(copied))
    assert capsys.readouterr().err == f"warning: {copied.name}/{name} is damaged: written again\n"
    assert (copied / name).read_bytes() == whole


def test_a_finished_run_has_the_digests_of_all_that_it_must_have(place, copied, monkeypatch, capsys):
    monkeypatch.chdir(place)
    files = [copied / name for name in ("config.json", "data.json", "results.nc", "tickets.npz")]
    listed = copied / "results.nc.sha256"
    assert storage.problem(copied, listed.read_text(), files) is None
    flip(listed, listed.read_bytes().index(b"  tickets.npz") - 1)
    commands.main(command(copied))
    assert capsys.readouterr().err == f"warning: {copied.name}/tickets.npz is damaged: made again\n"
    assert storage.problem(copied, listed.read_text(), files) is None


@pytest.mark.parametrize("damage", ["gone", "cut", "a bit flipped"])
@pytest.mark.parametrize(
    ("line", "name"), [("show", "results.nc"), ("export", "results.nc"), ("export", "tickets.npz")]
)
def test_who_reads_a_damaged_run_names_the_file(refused, copied, line, name, damage):
    path = copied / name
    os.truncate(path, path.stat().st_size // 2) if damage == "cut" else flip(path, path.stat().st_size // 3)
    if damage == "gone":
        path.unlink()
    which = ["--seed", "7", "--level", "2"] if line == "export" else []
    assert refused(line, copied.name, *which).startswith(f"error: {copied.name}/{name}")


def test_with_its_copy_damaged_too_it_is_refused(refused, copied):
    for path in (copied / "config.json", copied / "checkpoints" / "config.json"):
        path.write_text("{")
    assert "config.json and its copy are damaged" in refused(*command(copied))


def test_a_run_is_not_continued_with_another_version_of_a_library(refused, call, copied):
    for path in (copied / "data.json", copied / "checkpoints" / "data.json"):
        begun = json.loads(path.read_text())
        begun["versions"]["optax"] = "0.0.1"
        path.write_text(json.dumps(begun))
    assert "test accuracy" in call(*command(copied)).lower()  # finished: its results are what they are
    (copied / "results.nc").unlink()
    line = refused(*command(copied))
    assert "begun with other versions (optax 0.0.1 there, " in line


def test_a_search_is_not_continued_with_another_version_either(tmp_path, monkeypatch):
    search_in(tmp_path)
    search_in(tmp_path)
    monkeypatch.setattr(results, "version", lambda name: "0.0.1" if name == "jax" else "1")
    with pytest.raises(InputError, match="begun with other versions"):
        search_in(tmp_path)


def test_another_block_is_refused_and_none_takes_the_runs_own(place, call, copied, capsys):
    shutil.rmtree(copied)
    call(*command(copied), "--block", "1")
    (copied / "results.nc").unlink()
    assert {path.name for path in (copied / "checkpoints").iterdir() if path.is_dir()} == {
        "runs 1-1",
        "runs 2-2",
    }
    with pytest.raises(SystemExit) as stop:
        commands.main([*command(copied), "--block", "2"])
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert "--block 2: " in line
    assert "begun with blocks of 1 runs; repeat that" in line
    said = call(*command(copied))
    assert said.count("resumed after level 3/3") == 2
    xr.testing.assert_allclose(arrays(copied), arrays(place / "run"), rtol=1e-4)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def without(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with folders.hold(tmp_path):
        assert "this file system has no locks" in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"), folders.hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_brought_to_the_disk_is_no_failure(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    checkpoints.save(tmp_path, 1, {"runs": np.arange(3)})
    assert checkpoints.restore_newest(tmp_path, {"runs": np.arange(3)})[0] == 1


def test_memory_where_the_system_does_not_say(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(memory.Path, "exists", lambda path: False)  # no container says so either
    assert memory.total() == 2**62
