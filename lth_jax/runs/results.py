"""Results: labelled arrays and the folder they live in.

A run's folder holds ``config.json``, ``data.json``, ``log.jsonl``, ``checkpoints/``, ``results.nc`` with its
digest, ``claims.csv``, ``report.md`` and ``figures/``. ``results.nc`` is an ``xarray.Dataset`` that opens
with ``xarray.open_dataset`` and nothing of ours. Every file but the log appears whole or not at all: it is
written aside and renamed. Beside the results, ``results.nc.sha256`` has the digests of all that a finished
run must have; report, claims and figures are made anew at every start.
"""

import contextlib
import functools
import importlib.metadata
import json
import operator
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from lth_jax.errors import InputError, StorageError, own_words, require, warn
from lth_jax.runs import foreign, storage
from lth_jax.runs.config import to_json
from lth_jax.runs.storage import write_text, write_whole

CONFIG, DATA, RESULTS, CLAIMS, REPORT = "config.json", "data.json", "results.nc", "claims.csv", "report.md"
CHECKPOINTS, FIGURES, LOG = "checkpoints", "figures", "log.jsonl"
TICKETS, EXPORTED = "tickets.npz", "tickets"
"""A sweep's masks, and the folder of the tickets that are taken out of it."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "lth_jax")

Readable = Callable[[Path], bool]
"""Whether a file can be read whole: asked where there is no digest of it."""


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


def version(library: str) -> str:
    """An installed library's version, or ``unknown``: of ours where it runs from its source."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """The versions of the libraries that numbers depend on."""
    return {library: version(library) for library in LIBRARIES}


def attributes(config: Any, **more: Any) -> dict[str, Any]:
    """What a results file says of its origin: configuration, versions, device, commit, and ``more``."""
    return {
        "config": json.dumps(json.loads(to_json(config))),
        "versions": json.dumps({**versions(), "python": platform.python_version()}),
        "device": device_name(),
        "commit": git_commit(),
        **more,
    }


def save(dataset: xr.Dataset, path: Path, beside: Sequence[str] = ()) -> None:
    """Write ``results.nc``, compressed, and beside it its digest, as ``sha256sum -c`` checks it.

    Args:
      dataset: the results.
      path: where.
      beside: files of its folder that belong to them, by name; those that exist have digests there too.

    Raises:
      StorageError: it cannot be written.
    """
    encoding = {name: {"zlib": True, "complevel": 5} for name, data in dataset.data_vars.items() if data.ndim}

    def write(aside: Path) -> None:
        # Without what was remembered of files it was read from: a label's length there would cut longer ones.
        dataset.drop_encoding().to_netcdf(aside, engine="netcdf4", encoding=encoding)
        # The digest first: results without theirs, or with another's, are never seen.
        path.unlink(missing_ok=True)
        others = [path.with_name(name) for name in beside if path.with_name(name).exists()]
        own = f"{storage.of_file(aside)}  {path.name}\n"
        write_text(digest_path(path), own + storage.listing(path.parent, others))

    write_whole(path, write)


def load(path: Path) -> xr.Dataset:
    """Read ``results.nc`` into memory.

    Raises:
      InputError: it is missing, damaged, or claims arrays far larger than the file.
    """
    require(path.exists(), f"{path}: no such file")
    if not digest_path(path).exists():
        warn(f"{path} has no {digest_path(path).name} beside it: read without a check")
    return _read(path)


def _read(path: Path) -> xr.Dataset:
    """:func:`load` without a warning."""
    require(path.exists(), f"{path}: no such file")
    with understood(path):
        if not digest_path(path).exists():
            foreign.check(path)
        elif digests(path).get(path.name) != storage.of_file(path):
            raise InputError(f"{path} is damaged: {path.name} is not what was written")
        foreign.check_arrays(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a file has that is none of ours
            with xr.open_dataset(path, engine="netcdf4") as dataset:
                return dataset.load()


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """The block makes something of a results file, which may hold anything.

    Raises:
      InputError: whatever a library says of damaged bytes or of arrays that are no run's, in a line.
    """
    try:
        yield
    except (InputError, StorageError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as results: {own_words(error)}") from None


def finished(path: Path) -> xr.Dataset | None:
    """The results of a run that has ended; ``None`` if it has not, or if they are damaged."""
    if not path.exists():
        return None
    try:
        return load(path)
    except InputError as error:
        warn(f"{error}; they are made again")
        return None


def is_whole(folder: Path, leaves: Mapping[str, Readable]) -> bool:
    """Whether a run has ended, and neither results nor what lies beside them has to be made again."""
    try:
        _read(folder / RESULTS)
    except InputError:
        return False
    return not problems(folder, leaves)


def problems(folder: Path, leaves: Mapping[str, Readable]) -> dict[str, str]:
    """What is wrong with some files of a finished run's folder, by name: ``is missing`` or ``is damaged``.

    Folders of earlier versions have no digest of some: those need only be readable.
    """
    listed, found = digests(folder / RESULTS), {}
    for name, readable in leaves.items():
        path = folder / name
        if not path.exists():
            found[name] = "is missing"
        elif listed[name] != storage.of_file(path) if name in listed else not readable(path):
            found[name] = "is damaged"
    return found


def digests(path: Path) -> dict[str, str]:
    """The digests beside some results, by their files' names."""
    beside = digest_path(path)
    return storage.by_name(beside.read_text(encoding="utf-8", errors="replace")) if beside.exists() else {}


def digest_path(path: Path) -> Path:
    """Where the digests beside some results are."""
    return path.with_name(path.name + ".sha256")


def mark_diverged(dataset: xr.Dataset, ranked: str = "before") -> xr.Dataset:
    """Add ``diverged``: where a loss is NaN or infinite, and wherever a mask comes of such a ticket.

    A network of NaN answers 0 to everything and is right about a tenth of the time: its accuracies become
    NaN, so that no mean counts them.

    Args:
      dataset: variables called ``…_loss`` and ``…_accuracy`` that share their dimensions. With a dimension
        ``network`` masks come of the ``ticket``, also those of its controls.
      ranked: what a level's mask comes of: the level ``before``, the ``dense`` one, or the ``start`` alone.
    """
    losses = [values for name, values in dataset.items() if str(name).endswith("_loss")]
    diverged = ~functools.reduce(operator.and_, map(xr.ufuncs.isfinite, losses))
    if "level" in diverged.dims and ranked != "start":
        ticket = diverged.sel(network="ticket", drop=True) if "network" in diverged.dims else diverged
        source = ticket if ranked == "before" else ticket & (ticket["level"] == ticket["level"].min())
        earlier = source.cumsum("level").shift(level=1, fill_value=0) > 0
        diverged = (diverged | earlier).transpose(*diverged.dims)
    accuracies = {name: v for name, v in dataset.items() if str(name).endswith("_accuracy")}
    marked = {name: values.where(~diverged) for name, values in accuracies.items()}
    return dataset.assign({**marked, "diverged": diverged})


def diverged_runs(dataset: xr.Dataset) -> list[str]:
    """The runs that :func:`mark_diverged` marked, by name, with the level at which it began."""
    if "diverged" not in dataset or "level" not in dataset["diverged"].dims:
        return []
    marks = dataset["diverged"].transpose(..., "level")
    found = []
    for place in zip(*np.nonzero(marks.any("level").values), strict=True):
        run = marks[place]
        name = " ".join(f"{dim} {run[dim].item()}" for dim in marks.dims[:-1])
        found.append(f"{name} from level {run['level'].values[np.argmax(run.values)]}")
    return found


Axis = Mapping[str, Sequence[Any] | np.ndarray | None]
"""An array's axis: a dimension with its labels, or several that it is the product of, outermost first.

``None`` takes the array's own length and gives no labels.
"""


def label(record: Mapping[str, Any], *axes: Axis, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Arrays that share their leading axes, as a dataset with named dimensions and labels.

    >>> runs = {"initializer": ["a", "b"], "seed": [1, 2, 3]}
    >>> label({"loss": np.zeros((5, 6))}, {"level": range(5)}, runs)["loss"].dims
    ('level', 'initializer', 'seed')

    Args:
      record: arrays by name; one may have fewer axes than all of them.
      *axes: of the arrays, in their order.
      attrs: what the dataset says of its origin.

    Raises:
      ValueError: an array's sizes are not those of the axes.
    """
    variables, coordinates = {}, {}
    for name, values in record.items():
        array, lengths = np.asarray(values), []
        if array.dtype.itemsize < 4 and jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float32)  # NetCDF has no 16-bit floats
        own = [dict(axis) for axis in axes[: array.ndim]]
        for size, dims in zip(array.shape, own, strict=True):
            lengths += [size if labels is None else len(labels) for labels in dims.values()]
            coordinates |= {dim: list(labels) for dim, labels in dims.items() if labels is not None}
        try:
            variables[name] = ([dim for dims in own for dim in dims], array.reshape(lengths))
        except ValueError:
            raise ValueError(f"{name} {list(array.shape)}: expected axes of lengths {lengths}") from None
    return xr.Dataset(variables, coordinates, dict(attrs or {}))


def side_by_side(found: Mapping[Any, xr.Dataset], dimension: str) -> xr.Dataset:
    """Results of several runs along a dimension of their own, its labels theirs.

    Where a run has no such network, iteration … as another, its values are NaN, and not diverged.
    """
    runs = list(found.values())
    filled = dict.fromkeys((name for run in runs for name in run), np.nan) | {"diverged": False}
    joined = xr.concat(runs, dimension, join="outer", fill_value=filled, combine_attrs="drop")
    places = {  # which the join has sorted by their names
        name: list(dict.fromkeys(label for run in runs for label in run[name].values.tolist()))
        for name in ("network", "parent")
        if name in joined.indexes
    }
    return joined.sel(places).assign_coords({dimension: list(found)})


def by_label(
    values: Mapping[str, tuple[tuple[str, ...], Any]], coordinates: Mapping[str, Any], attrs: Mapping
) -> xr.Dataset:
    """Arrays with named dimensions and labels as a dataset."""
    return xr.Dataset(dict(values), coords=dict(coordinates), attrs=dict(attrs))
