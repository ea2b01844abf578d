"""From a command line's configuration to a folder of results: what an experiment and a sweep do alike.

Devices, data, the run's folder and its lock, training or going on, results, and what is made of them. With
several processes all of them train, and the first one writes and prints.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import xarray as xr
from rich.console import Console

from lth_jax import data
from lth_jax.analysis import tables
from lth_jax.errors import warn
from lth_jax.places import cache_folder
from lth_jax.runs import axis, processes, progress, results
from lth_jax.runs.folders import open_folder
from lth_jax.runs.job import Execution, Job


class Work(NamedTuple):
    """What is done in a run's folder.

    ``check`` refuses a configuration that the data cannot serve; ``train`` trains or resumes and gives the
    labelled results; ``conclude`` makes of them what people look at. A configuration without a field
    ``dataset`` needs no data, and ``check`` and ``train`` are given ``None``. ``program`` gives a digest of
    what is computed, where code of the user's own has a part in it: a folder is of one program. ``leaves``
    names the files that ``train`` leaves beside the results, each with a function that tells whether one
    without a digest can be read; what is missing or damaged is made again, from the checkpoints.
    """

    check: Callable[[Any, Any], None]
    train: Callable[[Any, Job, Any], xr.Dataset]
    conclude: Callable[[xr.Dataset, Path, Console], None]
    program: Callable[[Any, Any], str] | None = None
    leaves: Mapping[str, results.Readable] = {}


def execute(work: Work, settings: Any, execution: Execution, folder: Path) -> Path:
    """Train or resume, then write results and what is made of them.

    Args:
      work: what is done.
      settings: the run's configuration.
      execution: how it is carried out.
      folder: where; made if it is not there.

    Returns:
      The folder.
    """
    progress.check_log(execution.log)
    axis.use_host_devices()
    use_cache()
    if execution.distributed:
        processes.join()
    with processes.first_prints():
        return _execute_in_folder(work, settings, Job(folder, execution))


def _execute_in_folder(work: Work, settings: Any, job: Job) -> Path:
    """:func:`execute` once the devices are there: several processes train together, the first one writes."""
    console, folder = tables.console(), job.folder
    named = getattr(settings, "dataset", None)
    dataset = data.load(named, job.execution.data_dir or None) if named else None
    work.check(settings, dataset)
    begun: dict[str, Any] = {"versions": results.versions()}
    if dataset:
        begun |= {name: getattr(dataset, name) for name in ("title", "source", "fingerprint")}
    if dataset and work.program:
        begun["program"] = work.program(settings, dataset)
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(open_folder(folder, settings, begun, work.leaves))
        processes.barrier("folder is open")
        origin = f"{tables.origin_of(dataset)} on {results.device_name()}\nresults in {folder}"
        tables.print_line(console, origin)
        measured = results.finished(folder / results.RESULTS)
        if measured is not None and (lost := results.problems(folder, work.leaves)):
            for name, what in lost.items():
                warn(f"{folder / name} {what}: made again")
            measured = None
        listed = measured is not None and _descriptions_are_listed(folder)
        if measured is None:
            measured = work.train(settings, job, dataset)
        if not listed and processes.is_first():
            beside = (results.CONFIG, results.DATA, *work.leaves)
            results.save(measured, folder / results.RESULTS, beside)
        if processes.is_first():
            work.conclude(measured, folder, console)
    processes.barrier("results are written")
    return folder


def _descriptions_are_listed(folder: Path) -> bool:
    """Whether the digests beside the results are those of what the folder says of its run; a line if not.

    The run is this command's, or its folder had not opened: it is the list that has to be written again.
    """
    other = results.problems(folder, {name: lambda path: True for name in (results.CONFIG, results.DATA)})
    for name in other:
        warn(f"{results.digest_path(folder / results.RESULTS)} has another digest of {name}: written again")
    return not other


def use_cache() -> None:
    """Keep programs that take a second or more to compile in the user's cache folder.

    JAX keeps them by what they compute, its versions and the kind and number of devices, so nothing there can
    become stale; the folder can be removed at any time. JAX's own variables go before:
    ``JAX_COMPILATION_CACHE_DIR`` names another folder, ``JAX_ENABLE_COMPILATION_CACHE=false`` does without.
    JAX writes there in place: a process that finds what another has half written warns and compiles it.
    The warning is left out; ``-W error`` would make it the end.
    """
    unreadable = "Error (reading|writing) persistent compilation cache"
    warnings.filterwarnings("ignore", message=unreadable, category=UserWarning)
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, no room: compile every time
        folder = cache_folder("xla")
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
