"""Faults: killed, stopped, damaged, out of room, run twice. Nothing is lost, the results are the same bits.

The runs are the real command line (see ``forks.py``), tiny: four levels of one epoch, two seeds.
"""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from forks import small_tree

from lth_jax.errors import InputError
from lth_jax.runs import checkpoints, folders, results

HERE = Path(__file__).parent
TINY = ["--levels", "4", "--seeds", "42-43", "--initializers", "xavier_uniform"]
TINY += ["--epochs-per-level", "1", "--hidden", "16"]


class Runner:
    """The process that forks runs, and what its runs print."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "COLUMNS": "200"}
        command = [sys.executable, str(HERE / "forks.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, out, *more, **step):
        """One run in the folder ``out``: exit code, seconds, what it printed."""
        self.count += 1
        step |= {"output": str(self.folder / f"output{self.count}")}
        if not {"save", "find"} & step.keys():
            step |= {"arguments": ["init_comparison", *TINY, *more, "--out", str(out)]}
        self.process.stdin.write(json.dumps(step) + "\n")
        self.process.stdin.flush()
        end = json.loads(self.process.stdout.readline())
        return end["code"], end["seconds"], Path(step["output"]).read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runner = Runner(tmp_path_factory.mktemp("runner"))
    with runner.process:
        yield runner
        runner.process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, printed = run(folder)
    assert code == 0, printed
    return folder


def arrays(folder):
    return results.load(folder / "results.nc").drop_attrs()


def assert_same(folder, undisturbed):
    xr.testing.assert_identical(arrays(folder), arrays(undisturbed))


def one_line(printed, start="error: "):
    """The only line of its kind, and no traceback."""
    assert "Traceback" not in printed, printed
    lines = [line for line in printed.splitlines() if line.startswith(start)]
    assert len(lines) == 1, printed
    return lines[0]


# Killed


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_a_run_loses_nothing(run, undisturbed, tmp_path, tally, kills):
    _, whole, _ = run(tmp_path / "again")
    moments, survived, folder = np.random.default_rng(kills), 0, tmp_path / "0"
    while survived < kills:
        code, _, printed = run(folder, kill_after=moments.uniform(0, whole))
        assert code in (0, -9), printed
        survived += code == -9
        if code == 0:  # it came too late
            assert_same(folder, undisturbed)
            folder = tmp_path / str(survived)
    assert run(folder)[0] == 0
    assert_same(folder, undisturbed)
    tally("kills survived", kills)


@pytest.mark.parametrize("kill", ["level 1/3", "level 2/3"])
def test_a_killed_search_goes_on_to_the_same_arrays(run, tmp_path, tally, kill):
    code, _, printed = run(None, find=str(tmp_path / "whole"))
    assert code == 0, printed
    code, _, printed = run(None, find=str(tmp_path / "killed"), kill_at=kill)
    assert code == -9, printed
    finished = checkpoints.numbers(tmp_path / "killed" / "checkpoints")[0]
    assert finished < 3, "killed before its end"
    code, _, printed = run(None, find=str(tmp_path / "killed"))
    assert code == 0, printed
    assert f"resumed after level {finished}/3" in printed
    ours, theirs = (np.load(tmp_path / f"{name}.npz") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() > {"mask0", "weights0", "early_stop_iteration", "test_loss_curve"}
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    tally("kills survived")


def test_killed_before_any_file_operation_of_a_save_a_whole_checkpoint_is_newest(
    run, tmp_path, tally, capsys
):
    folder, saved, operation, code = tmp_path / "checkpoints", 0, 0, -9
    while code == -9 or saved < 4:  # the first saves find no older checkpoint to remove
        operation += 1
        code, _, printed = run(None, save=str(folder), kill_at_operation=operation)
        assert code in (0, -9), printed
        newest = max(checkpoints.numbers(folder), default=0)
        assert newest in (saved, saved + 1)
        if newest:
            number, tree = checkpoints.restore_newest(folder, small_tree(newest))
            assert number == newest
            np.testing.assert_array_equal(tree["runs"]["w"], small_tree(newest)["runs"]["w"])
        if newest > saved or code == 0:
            saved = newest
    assert operation > 20
    assert capsys.readouterr().err == ""  # no checkpoint was ever found damaged
    assert {path.name for path in folder.iterdir()} == {str(saved - 1), str(saved)}
    tally("kills survived", operation - 1)


# Stopped


@pytest.mark.parametrize(("name", "exit_code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_lets_the_level_finish_and_says_how_to_go_on(run, undisturbed, tmp_path, name, exit_code):
    code, _, printed = run(tmp_path / "run", kill_at="level 2/4", signals=[name])
    assert code == exit_code, printed
    line = one_line(printed, "stopped; ")
    assert line.endswith(f"--out {tmp_path / 'run'}")
    assert "python -m experiments init_comparison --levels 4" in line
    finished = checkpoints.numbers(tmp_path / "run" / "checkpoints")[0]
    assert f"level {finished}/4" in printed  # what was reported is saved, and the reverse
    code, _, printed = run(tmp_path / "run")
    assert code == 0
    assert f"resumed after level {finished}/4" in printed
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(("signals", "exit_code"), [(["SIGTERM"], 143), (["SIGINT", "SIGINT"], 130)])
def test_a_level_that_takes_longer_is_left(run, tmp_path, signals, exit_code):
    long_level = ["--epochs-per-level", "5000", "--levels", "2"]  # 330,000 steps: minutes
    grace = 0.2 if len(signals) == 1 else 100
    code, seconds, printed = run(tmp_path, *long_level, kill_at="results in", signals=signals, grace=grace)
    assert code == exit_code, printed
    assert seconds < 60
    one_line(printed, "stopped; ")
    assert checkpoints.numbers(tmp_path / "checkpoints") == []


# Damaged


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"flipped": flip, "truncated": truncate, "gone": Path.unlink, "emptied": lambda p: os.truncate(p, 0)}


def test_a_checkpoint_with_any_file_damaged_is_named_and_left_out(tmp_path, tally, capsys):
    folder, damaged = tmp_path / "whole", 0
    for finished in (1, 2, 3):
        checkpoints.save(folder, finished, small_tree(finished))
    files = sorted(path.relative_to(folder) for path in (folder / "3").rglob("*") if path.is_file())
    assert len(files) >= 8
    for file in files:
        for kind, damage in DAMAGE.items():
            copy = tmp_path / "copies" / kind / file
            shutil.copytree(folder, copy)
            damage(copy / file)
            finished, tree = checkpoints.restore_newest(copy, small_tree(0))
            found = capsys.readouterr().err
            damaged += 1
            assert finished == 2, (file, kind)
            np.testing.assert_array_equal(tree["runs"]["mask"], small_tree(2)["runs"]["mask"])
            assert f"checkpoint {copy / '3'} is damaged" in one_line(found, "warning: ")
    assert damaged >= 32
    tally("damaged files survived", damaged)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_results_are_made_again_from_the_checkpoint(run, undisturbed, tmp_path, tally, damage):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    damage(folder / "results.nc")
    with pytest.raises(InputError, match=r"results\.nc"):
        results.load(folder / "results.nc")
    code, _, printed = run(folder)
    assert code == 0, printed
    if damage is not Path.unlink:
        assert "results.nc is damaged" in one_line(printed, "warning: ")
    assert "resumed after level 4/4" in printed
    assert_same(folder, undisturbed)
    tally("damaged files survived")


@pytest.mark.parametrize("numbers", [(4,), (4, 3)])
def test_a_run_goes_on_from_the_checkpoint_before_the_damaged(run, undisturbed, tmp_path, tally, numbers):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    (folder / "results.nc").unlink()
    for number in numbers:
        flip(max((folder / f"checkpoints/{number}").rglob("d/*"), key=lambda path: path.stat().st_size))
    code, _, printed = run(folder)
    assert code == 0, printed
    assert printed.count("warning: ") == len(numbers)
    assert ("resumed after level 3/4" in printed) == (numbers == (4,))
    assert_same(folder, undisturbed)
    assert checkpoints.numbers(folder / "checkpoints")[0] == 4
    tally("damaged files survived", len(numbers))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: tree | {"seconds": np.ones(4)}, "seconds is float64[3] there, float64[4] here"),
        (lambda tree: tree | {"seconds": np.ones(3, np.float32)}, "seconds is float64[3] there, float32[3]"),
        (lambda tree: tree | {"more": np.ones(3)}, "more is absent there"),
        (lambda tree: {"seconds": tree["seconds"]}, "runs.mask is bool[6] there, absent here"),
    ],
)
def test_a_checkpoint_of_another_program_is_refused_not_bent(tmp_path, change, named):
    checkpoints.save(tmp_path, 1, small_tree(1))
    with pytest.raises(InputError) as raised:
        checkpoints.restore_newest(tmp_path, change(small_tree(1)))
    assert named in str(raised.value)


# Out of room


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of ``size`` bytes at ``folder``; what it gives remounts it."""

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)

    folder.mkdir()
    try:
        mount(f"size={size}")
    except (OSError, subprocess.CalledProcessError) as error:  # no root, or root in a container
        pytest.skip(
            f"a small file system cannot be mounted here ({error}); a file size limit is tested besides"
        )
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def size_of(folder):
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


@pytest.mark.parametrize("parts", [0.4, 1.5, 2.5, 2.8])
def test_a_full_disk_is_one_line_and_room_is_all_it_takes(run, undisturbed, tmp_path, parts):
    checkpoint = size_of(undisturbed / "checkpoints/4")
    with small_disk(tmp_path / "disk", int(parts * checkpoint)) as remount:
        folder = tmp_path / "disk" / "run"
        code, _, printed = run(folder)
        assert code == 1, printed
        line = one_line(printed)
        assert "No space left on device" in line
        assert "to go on: python -m experiments" in line
        whole = checkpoints.numbers(folder / "checkpoints")
        assert len(whole) == min(int(parts), 2)
        assert f"level {max(whole, default=0)}/4" in f"{printed} level 0/4"
        remount("size=100m")
        code, _, printed = run(folder)
        assert code == 0, printed
        assert ("resumed after" in printed) == bool(whole)
        assert "warning" not in printed
        assert_same(folder, undisturbed)


def test_a_limit_on_file_sizes_is_met_like_a_full_disk(run, undisturbed, tmp_path):
    folder = tmp_path / "run"
    assert run(folder, kill_at="level 2/4")[0] == -9
    before = checkpoints.numbers(folder / "checkpoints")
    code, _, printed = run(folder, file_size=20_000)
    assert code == 1, printed
    assert "File too large" in one_line(printed)
    assert checkpoints.numbers(folder / "checkpoints") == before
    assert run(folder)[0] == 0
    assert_same(folder, undisturbed)


def test_a_folder_that_cannot_be_written_is_refused_before_training(run, undisturbed, tmp_path):
    if os.geteuid() != 0:
        (tmp_path / "run").mkdir(mode=0o555)
        code, _, printed = run(tmp_path / "run")
        assert code == 2
        assert str(tmp_path / "run") in one_line(printed)
        return
    with small_disk(tmp_path / "disk", 100_000_000) as remount:
        folder = shutil.copytree(undisturbed, tmp_path / "disk" / "run")
        (folder / "results.nc").unlink()
        remount("ro")
        for out in (folder, tmp_path / "disk" / "new"):
            code, _, printed = run(out)
            assert code == 2, printed
            assert str(out) in one_line(printed)
        remount("rw")
        assert run(folder)[0] == 0
        assert_same(folder, undisturbed)


# Run twice


def test_a_second_process_on_a_folder_is_refused_with_the_first_ones_name(run, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    with folders.hold(folder):
        code, _, printed = run(folder)
        assert code == 2, printed
        assert f"in use by process {os.getpid()} on {platform.node()}" in one_line(printed)
        with pytest.raises(InputError, match="in use"), folders.hold(folder):
            pass
    assert run(folder)[0] == 0


def test_a_dead_process_holds_nothing(run, tmp_path):
    (tmp_path / ".lock").write_text("process 999999 on elsewhere")
    code, _, printed = run(tmp_path, kill_at="level 1/4")
    assert code == -9, printed
    assert (tmp_path / ".lock").exists()
    with folders.hold(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {platform.node()}"
    assert not (tmp_path / ".lock").exists()


def test_what_a_killed_process_was_writing_is_cleared_away(run, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    for name in (".4711.results.nc", "figures/.4711.figure2_size.png", ".claims.csv.4711"):
        (folder / name).write_text("half")
    assert run(folder)[0] == 0
    assert not list(folder.rglob("*4711*"))
