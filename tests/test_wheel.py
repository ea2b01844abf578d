"""The package as it is installed: a wheel with all that it needs and no more, no checkout beside it."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).parents[1]
TINY = ["--model", "mlp", "--hidden", "8", "--levels", "2", "--epochs", "1", "--seeds", "42,7"]


def run(*command, cwd, **environment):
    """A command's exit code and all that it printed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves folders behind, and finds what others have left."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "lth_jax", source / "lth_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("experiments", "tests"):  # what a checkout has beside it
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    code, printed = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "built", ".", cwd=source)
    if code and re.search(r"No matching distribution found for setuptools", printed):
        pytest.skip("pip finds no setuptools to build a wheel with: neither an index nor a folder has it")
    assert code == 0, printed
    (path,) = (source / "built").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder that it is installed in."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", "packages", str(wheel)]
    code, printed = run(sys.executable, *command, cwd=folder)
    assert code == 0, printed
    return folder / "packages"


@pytest.fixture
def python(site, tmp_path):
    """Python in an empty folder, which finds the installed package and no checkout."""

    def call(*arguments):
        return run(sys.executable, "-P", *arguments, cwd=tmp_path, PYTHONPATH=str(site))

    return call


def test_a_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not re.match(r"lth_jax-[\d.]+\.dist-info/", name)}
        commands = opened.read(next(n for n in opened.namelist() if n.endswith("entry_points.txt"))).decode()
    there = {path for path in (ROOT / "lth_jax").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert names == {path.relative_to(ROOT).as_posix() for path in there}
    native = {"handlers.cc", "sparse_product.h", "convolution.h", "vectors.h"}
    assert {"lth_jax/py.typed", *(f"lth_jax/kernels/native/{name}" for name in native)} <= names
    assert "lth-jax = lth_jax.__main__:main" in commands
    assert wheel.stat().st_size < 1_000_000


def test_it_finds_tickets_in_a_folder_of_its_own(python, site, tmp_path):
    code, printed = python("-c", "import lth_jax; print(lth_jax.__file__)")
    assert (code, printed.strip()) == (0, str(site / "lth_jax" / "__init__.py")), printed
    code, printed = python("-m", "lth_jax", "sweep", *TINY, "--out", "run")
    assert code == 0, printed
    assert dict(xr.load_dataset(tmp_path / "run" / "results.nc").sizes) == {"seed": 2, "level": 2, "layer": 2}
    code, printed = python("-m", "lth_jax", "export", "run", "--seed", "7", "--level", "1")
    assert code == 0, printed


def test_what_is_not_installed_is_said(python):
    code, printed = python("-m", "lth_jax", "experiments", "xor")
    assert code == 2
    assert printed.splitlines() == [
        "error: experiments: are not installed; in a checkout of the repository run python -m experiments"
    ]
