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
from lth_jax.analysis import ticket_files
from lth_jax.commands.settings import Config
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


@pytest.mark.parametrize("listed", ["nothing", "the results only"])
def test_tickets_without_a_digest_are_made_again_where_they_cannot_be_read(call, copied, listed):
    path, digests = copied / "tickets.npz", copied / "results.nc.sha256"
    own = next(line for line in digests.read_text().splitlines(True) if line.endswith("results.nc\n"))
    digests.write_text(own)
    if listed == "nothing":
        digests.unlink()
    whole = path.read_bytes()
    assert "resumed" not in call(*command(copied))
    assert path.read_bytes() == whole
    os.truncate(path, len(whole) // 2)
    assert "resumed after level 3/3" in call(*command(copied))
    assert ticket_files.is_whole(path)
    assert storage.by_name(digests.read_text()).keys() >= {"results.nc", "tickets.npz"}


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


def unfinished(folder):
    """Make a finished run one that has not ended, all of whose levels have checkpoints."""
    for name in ("results.nc", "results.nc.sha256", "tickets.npz"):
        (folder / name).unlink()


def flip_after(path, text):
    """Change a bit of the byte behind a text: it is JSON as before, and says something else."""
    whole = path.read_bytes()
    flip(path, whole.index(text.encode()) + len(text))
    assert json.loads(path.read_text()) != json.loads(whole)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("copy", ["", "checkpoints/"])
@pytest.mark.parametrize(
    ("name", "before"), [("config.json", '"levels": '), ("data.json", '"fingerprint": "')]
)
def test_a_description_with_another_byte_is_damaged_and_not_another_runs(
    place, copied, copy, name, before, finished, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    path = copied / f"{copy}{name}"
    whole = path.read_bytes()
    flip_after(path, before)
    if not finished:
        unfinished(copied)
    commands.main(command(copied))
    said = capsys.readouterr()
    assert said.err == f"warning: {copied.name}/{copy}{name} is damaged: written again\n"
    assert ("resumed" in said.out) != finished
    assert path.read_bytes() == whole


def test_with_other_bytes_in_both_copies_it_is_another_configurations_run(refused, copied):
    unfinished(copied)
    flip_after(copied / "config.json", '"levels": ')
    flip_after(copied / "checkpoints" / "config.json", '"epochs": ')
    assert "holds another configuration's run (levels: 2 there, 3 here)" in refused(*command(copied))


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_list_with_another_digest_of_a_description_is_written_again(
    place, copied, name, monkeypatch, capsys
):
    """What has to be written again is the list: nothing is trained for it."""
    monkeypatch.chdir(place)
    listed = copied / "results.nc.sha256"
    whole = listed.read_text()
    flip(listed, whole.index(f"  {name}") - 1)
    shutil.rmtree(copied / "checkpoints")
    commands.main(command(copied))
    said = capsys.readouterr()
    warned = f"warning: {copied.name}/results.nc.sha256 has another digest of {name}: written again\n"
    assert said.err == warned
    assert [line for line in listed.read_text().splitlines() if "results" not in line] == [
        line for line in whole.splitlines() if "results" not in line
    ]
    xr.testing.assert_identical(arrays(copied), arrays(place / "run"))


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


def another(monkeypatch, library):
    """Let another version of a library be installed."""
    version = results.version
    monkeypatch.setattr(results, "version", lambda name: "0.0.1" if name == library else version(name))


@pytest.mark.parametrize("library", ["jax", "jaxlib", "flax", "optax", "numpy", "lth_jax"])
def test_a_run_is_not_continued_with_another_version_of_a_library(tmp_path, monkeypatch, library):
    with folders.open_folder(tmp_path, Config(), {"versions": results.versions()}):
        pass
    another(monkeypatch, library)
    refusal = pytest.raises(InputError, match=f"a run begun with other versions .{library} .* 0.0.1 here")
    with refusal, folders.open_folder(tmp_path, Config(), {"versions": results.versions()}):
        pass


@pytest.mark.parametrize("damaged", [None, "results.nc", "tickets.npz"])
def test_only_what_is_finished_and_whole_is_opened_with_another_version(
    refused, call, copied, monkeypatch, damaged
):
    another(monkeypatch, "lth_jax")
    if damaged is None:
        assert "resumed" not in call(*command(copied))
        return
    os.truncate(copied / damaged, (copied / damaged).stat().st_size // 2)
    assert "holds a damaged run begun with other versions (lth_jax " in refused(*command(copied))


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
