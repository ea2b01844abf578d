"""Stopped at any moment of a cold run: one line, the code of the signal, and nothing lost."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from idx import write_idx

from lth_jax.runs import signals

START = """\
import time
print('up', flush=True)
from lth_jax.__main__ import main
main()
print('over', time.time(), flush=True)
"""
TINY = "sweep --model mlp --hidden 8 --levels 2 --seeds 42,7 --dataset mnist --data-dir DIGITS --epochs 1"
TINY = [*TINY.split(), "--batch-size", "20", "--out", "run"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopping")
    write_idx(folder / "DIGITS")
    return folder


def cold_run(place, folder, after=None, number=None):
    """One run that has to compile everything: exit code, seconds, standard error.

    A signal that a run does not stop for comes when all is over, but for what a busy machine takes to say so.
    """
    environment = {
        **os.environ,
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    command = [sys.executable, "-c", START, *TINY[:-1], folder]
    process = subprocess.Popen(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "up\n"
    started = time.perf_counter()
    if after is not None:
        time.sleep(after)
        process.send_signal(number)
    sent = time.time()
    output, error = process.communicate(timeout=120)
    if after is not None and process.returncode == 0:
        over = float(output.rsplit("over", 1)[1])
        assert over - sent < 1, f"a signal after {after:.1f} s was swallowed: it went on {over - sent} s"
    return process.returncode, time.perf_counter() - started, error


def arrays(folder):
    with xr.open_dataset(folder / "results.nc") as found:
        return found.load().drop_attrs()


@pytest.mark.long
def test_a_signal_at_any_of_thirty_moments_ends_a_cold_run_with_its_code(place, tally):
    code, whole, error = cold_run(place, "undisturbed")
    assert code == 0, error
    whole = min(whole, cold_run(place, "again")[1])
    expected = arrays(place / "undisturbed")
    stopped = []
    for position, moment in enumerate(np.linspace(0.2, 0.98 * whole, 30)):
        number, folder = (signal.SIGINT, signal.SIGTERM)[position % 2], f"run {position}"
        code, _, error = cold_run(place, folder, moment, number)
        assert "Traceback" not in error, (moment, error)
        assert code in (0, 128 + number), (moment, number, error)
        if code == 0:  # it came when everything was done
            assert error == "", (moment, error)
            xr.testing.assert_identical(arrays(place / folder), expected)
            assert (place / folder / "report.md").exists()
        else:
            assert error.splitlines()[-1].startswith("stopped"), (moment, error)
            stopped.append(folder)
    assert len(stopped) >= 15  # the others came when everything was done
    for folder in stopped[::8]:
        assert cold_run(place, folder)[0] == 0
        xr.testing.assert_identical(arrays(place / folder), expected)
    tally("signals survived", len(stopped))


def test_a_stop_that_was_dropped_is_found_where_the_program_asks(capsys):
    """Python prints and drops what a destructor raises: so it did with Ctrl-C, and the run went on."""

    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        with signals.signals_raise():
            thing = Dropping()
            del thing
            with signals.defer_signals():
                pytest.fail("the signal is lost")

    with pytest.raises(signals.Stopped) as stop:
        work()
    assert stop.value.number == signal.SIGINT
    assert capsys.readouterr().err == ""
    with signals.signals_raise():  # and is not remembered afterwards
        signals.stop_if_requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_comes_after_the_last_question_is_not_forgotten(number):
    """As while a level loop is torn down: all is saved, yet the work that follows is not to begin."""

    def work():
        with signals.signals_raise(), signals.defer_signals():
            signals.stop_if_requested()
            signal.raise_signal(number)

    with pytest.raises(signals.Stopped) as stop:
        work()
    assert stop.value.number == number
    with signals.defer_signals():  # and nobody hears of it again
        signals.stop_if_requested()
