"""Finds finished runs below a folder and reads of each what the page and the summary show.

Nothing is taken from what a run wrote about itself except its figures: claims, table and notes are made anew
from ``results.nc``, so that they cannot differ from the arrays. A run that cannot be read, or whose file is
not what was written, is one line in the report and stands in no count.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr
from PIL import Image, UnidentifiedImageError

from experiments import cli
from experiments.report import captions
from lth_jax.analysis import tables
from lth_jax.analysis.stats import Verdict, to_rows
from lth_jax.commands import show
from lth_jax.errors import InputError, require
from lth_jax.runs import results

PACKAGE = Path(__file__).parents[1]
DIGEST = results.digest_path(Path(results.RESULTS)).name


class Picture(NamedTuple):
    """A figure as it lies in the run's folder: its PNG bytes, untouched, and its size in pixels."""

    name: str
    caption: str
    png: bytes
    width: int
    height: int


class Run(NamedTuple):
    """A run as people read it; with ``problem`` set, everything after ``title`` is empty."""

    place: str  # its folder below the results', with slashes
    title: str
    attrs: Mapping[str, Any] = {}  # what results.nc says of its origin
    seeds: str = ""
    config: Mapping[str, Any] = {}
    table: tuple[str, list[str], list[list[str]]] = ("", [], [])
    diverged: tuple[str, ...] = ()
    notes: str = ""  # Markdown
    verdicts: tuple[Verdict, ...] = ()
    alternatives: Mapping[str, list[Verdict]] = {}  # claims by other measures, by the measure's name
    pictures: tuple[Picture, ...] = ()
    problem: str = ""  # why nothing of it can be shown
    remarks: tuple[str, ...] = ()  # what is amiss beside results.nc


def gather(folder: Path) -> list[Run]:
    """Every run below a folder, by title.

    Raises:
      InputError: there is no such folder, or no run in it.
    """
    require(folder.is_dir(), f"--results {folder}: no such folder")
    found = {path.parent for name in (results.RESULTS, DIGEST) for path in folder.rglob(name)}
    require(bool(found), f"--results {folder}: holds no {results.RESULTS}, at any depth")
    return sorted(
        (read_run(run, _place(run, folder)) for run in found), key=lambda run: (run.title, run.place)
    )


def _place(run: Path, folder: Path) -> str:
    return folder.resolve().name if run == folder else run.relative_to(folder).as_posix()


def experiment_names() -> list[str]:
    """The experiments there are: the packages beside this one that have an ``experiment.py``."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/experiment.py"))


def read_run(folder: Path, place: str) -> Run:
    """One run; what keeps it from being read becomes its ``problem``."""
    try:
        measured = results.load(folder / results.RESULTS)
    except InputError as error:
        return Run(place, place, problem=str(error).replace(f"{folder}/", ""))
    name = str(measured.attrs.get("experiment", ""))
    if name not in (*experiment_names(), "sweep"):
        return Run(place, place, problem=f"{results.RESULTS} is of an unknown experiment {name!r}")
    experiment = sweep(measured) if name == "sweep" else cli.find(name)
    try:
        return describe(experiment, measured, folder, place)
    except Exception as error:  # whatever an experiment makes of results that it did not expect
        problem = f"{results.RESULTS} cannot be judged by this version: {type(error).__name__}: {error}"
        return Run(place, experiment.summary, problem=problem)


def sweep(measured: xr.Dataset) -> cli.Experiment:
    """A run of ``lth-jax sweep`` as an experiment without claims."""
    summary = (
        f"Tickets of {measured.attrs.get('model', 'a model')} on {measured.attrs.get('dataset', 'data')}"
    )
    table = lambda measured: show.make_table(measured, "test_accuracy")  # noqa: E731
    nothing: Any = dict.fromkeys(("config", "train", "figures"))
    return cli.Experiment("sweep", summary, claims=lambda measured: [], table=table, **nothing)


def describe(experiment: cli.Experiment, measured: xr.Dataset, folder: Path, place: str) -> Run:
    """A run by its experiment's own words, claims judged from its arrays."""
    verdicts = tuple(experiment.claims(measured))
    pictures, unreadable = read_pictures(folder / results.FIGURES, experiment.name)
    judged = experiment.name != "sweep"  # which makes no claims, and writes none
    undigested = [] if (folder / DIGEST).exists() else [f"{DIGEST} is missing: read without a check"]
    variant = experiment.variant(measured)
    return Run(
        place,
        f"{experiment.summary} · {variant}" if variant else experiment.summary,
        attrs=dict(measured.attrs),
        seeds=tables.seeds_of(measured),
        config=json.loads(measured.attrs["config"]),
        table=experiment.table(measured),
        diverged=tuple(results.diverged_runs(measured)),
        notes=experiment.notes(measured).strip(),
        verdicts=verdicts,
        alternatives=experiment.alternatives(measured),
        pictures=pictures,
        remarks=(*undigested, *unreadable, *(outdated(verdicts, folder / results.CLAIMS) if judged else ())),
    )


def read_pictures(folder: Path, experiment: str) -> tuple[tuple[Picture, ...], list[str]]:
    """A run's figures in the order of their captions, and a line for each that is no picture."""
    pictures, unreadable = [], []
    for path in sorted(folder.glob("*.png"), key=lambda path: captions.order(experiment, path.stem)):
        png = path.read_bytes()
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                image.load()
                size = image.size
        except (OSError, SyntaxError, UnidentifiedImageError):  # Pillow's words for damage
            unreadable.append(f"{folder.name}/{path.name} is damaged: left out")
            continue
        pictures.append(Picture(path.stem, captions.caption(experiment, path.stem), png, *size))
    return tuple(pictures), unreadable


def outdated(verdicts: Iterable[Verdict], path: Path) -> list[str]:
    """A line if a run's ``claims.csv`` says something else than its results do now."""
    columns = ("identifier", "text", "published", "n", "verdict", "note")
    ours = [[str(row[name]) for name in columns] for row in to_rows(list(verdicts))]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            theirs = [[row.get(name) or "" for name in columns] for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return [f"{path.name} cannot be read; the claims here are judged from {results.RESULTS}"]
    if ours != theirs:
        return [f"{path.name} was written by another version; the claims here are judged anew"]
    return []
