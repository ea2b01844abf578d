"""Results: labelled arrays and the folder they live in.

A run's folder holds ``config.json``, ``checkpoints/``, ``results.nc``, ``claims.csv``, ``report.md`` and
``figures/``. ``results.nc`` is an ``xarray.Dataset`` that opens with ``xarray.open_dataset`` and nothing of
ours. Every file appears whole or not at all: it is written aside and renamed.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import xarray as xr

from lth_jax.config import InputError, differences, to_json

CONFIG, RESULTS, CLAIMS, REPORT = "config.json", "results.nc", "claims.csv", "report.md"
CHECKPOINTS, FIGURES = "checkpoints", "figures"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "lth_jax")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def open_folder(folder: Path, config: Any) -> Path:
    """Make a run's folder, or join the run of the same configuration that it holds.

    Raises:
      InputError: it holds another configuration's run, or cannot be written.
    """
    path = folder / CONFIG
    try:
        if path.exists():
            written = json.loads(path.read_text(encoding="utf-8"))
            if different := differences(config, written):
                raise InputError(
                    f"{folder} holds another configuration's run ({'; '.join(different)}); "
                    "choose another --out or repeat its flags"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no run; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise InputError(f"{folder} cannot be written; choose another --out")
        if not path.exists():
            write_text(path, to_json(config))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); choose another --out") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; choose another --out") from None
    return folder


def git_commit() -> str:
    """The source tree's commit, ``+`` behind it if files differ from it, or ``unknown``."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device_name() -> str:
    """What trained: the accelerator's name, or the processor's and its number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return f"{jax.device_count()} x CPU ({model})"


def attributes(config: Any, **more: Any) -> dict[str, Any]:
    """What a results file says of its origin: configuration, versions, device, commit, and ``more``."""

    def version(library: str) -> str:
        try:
            return importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    versions = {library: version(library) for library in LIBRARIES}
    return {
        "config": json.dumps(json.loads(to_json(config))),
        "versions": json.dumps({**versions, "python": platform.python_version()}),
        "device": device_name(),
        "commit": git_commit(),
        **more,
    }


def save(dataset: xr.Dataset, path: Path) -> None:
    """Write ``results.nc``, compressed."""
    encoding = {name: {"zlib": True, "complevel": 5} for name, data in dataset.data_vars.items() if data.ndim}
    write_whole(path, lambda aside: dataset.to_netcdf(aside, engine="netcdf4", encoding=encoding))


def load(path: Path) -> xr.Dataset:
    """Read ``results.nc`` into memory.

    Raises:
      InputError: it is missing or damaged.
    """
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as results: {error}") from None


def by_label(
    values: Mapping[str, tuple[tuple[str, ...], Any]], coordinates: Mapping[str, Any], attrs: Mapping
) -> xr.Dataset:
    """Arrays with named dimensions and labels as a dataset."""
    return xr.Dataset(dict(values), coords=dict(coordinates), attrs=dict(attrs))
