"""Shared by all tests: two host devices, shapes checked at run time, tiny data or none, a tally of faults."""

import collections
import importlib.util
import os
import re
from pathlib import Path

from jaxtyping import install_import_hook

# Programs are compiled once for all tests, and for the processes that they start.
CACHE = Path(__file__).resolve().parents[1] / "runs" / "test-cache"
os.environ.setdefault("XDG_CACHE_HOME", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Every function checks the shapes and dtypes that its annotations promise.
install_import_hook(["lth_jax", "experiments"], "fields.checked_with_tower")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest.register_assert_rewrite("command_line")  # its assertions are explained as those of tests are
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
if not jax.config.jax_enable_x64:  # where constants of NumPy are float64, and ours float32
    jax.config.update("jax_numpy_dtype_promotion", "strict")

import fields  # noqa: E402

fields.check_named_tuples("lth_jax", "experiments")


def make_digits():
    """200 separable 4×4 'digits' of 4 classes as uint8, and their labels: learnable in a few steps."""
    from lth_jax.types import Split

    rng = np.random.default_rng(0)
    labels = np.arange(200, dtype=np.int32) % 4
    images = rng.integers(0, 60, (200, 4, 4, 1), dtype=np.uint8)
    for label in range(4):
        images[labels == label, label] += 180
    return Split(jax.numpy.asarray(images), jax.numpy.asarray(labels))


@pytest.fixture
def digits():
    """A tiny data set."""
    return make_digits()


@pytest.fixture
def nothing_of_this_machine(monkeypatch, tmp_path_factory):
    """No source but what a test makes; TensorFlow looks as if it were not installed."""
    from lth_jax.data import datasets as data

    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("LTH_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr(data, "SYSTEM", home / "system")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )


# The command in the folder that a module's own fixture ``place`` names.


@pytest.fixture
def call(place, monkeypatch, capsys):
    """The command, to be called with its arguments: what it printed."""
    import command_line

    return command_line.calling(place, monkeypatch, capsys)


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """The command, to be called with arguments that are wrong: its one line."""
    import command_line

    return command_line.refusing(place, monkeypatch, capsys)


@pytest.fixture(scope="session")
def committed():
    """The committed results, as the report gathers them."""
    from experiments.report import gather

    return gather.gather(gather.PACKAGE / "results")


@pytest.fixture(scope="session")
def committed_page(committed):
    """Their page."""
    from experiments.report import page

    return page.text(committed)


@pytest.fixture(scope="session")
def hostile_page():
    """A page whose every text is hostile."""
    import pages

    return pages.make_hostile_page()


def one_line(error: pytest.ExceptionInfo) -> str:
    """An error's message, which is to be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


# Faults survived and inputs refused, counted where they are and summed over all processes of a test run. A
# whole run that counts fewer than README says fails.

TALLY = collections.Counter()
README = {
    "kills survived": r"(\d+)\s+kills",
    "damaged files survived": r"(\d+)\s+damaged\s+files",
    "malformed inputs refused": r"(\d+)\s+malformed\s+inputs",
    "signals survived": r"(\d+)\s+signals",
    "mutated files read or refused": r"(\d+)\s+mutated\s+files",
    "random runs as counted": r"(\d+)\s+random\s+runs",
}


@pytest.fixture
def tally(record_property):
    """Call it with a name of ``README`` and how many more."""

    def add(name, more=1):
        assert name in README
        record_property(name, more)

    return add


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        for name, more in report.user_properties:
            TALLY[name] += more


def overstated(text, counted):
    """What README says, by name, where fewer were counted."""
    said = {name: int(re.search(pattern, text)[1]) for name, pattern in README.items()}
    return {name: number for name, number in said.items() if counted.get(name, 0) < number}


def pytest_sessionfinish(session):
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    selected = session.config.option.keyword or session.config.option.markexpr
    if hasattr(session.config, "workerinput") or not whole or selected or session.testsfailed:
        return
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    if more := overstated(text, TALLY):
        print(f"README says {more}, counted were {dict(TALLY)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if TALLY:
        terminalreporter.section("survived and refused")
        terminalreporter.line(", ".join(f"{number} {name}" for name, number in sorted(TALLY.items())))
