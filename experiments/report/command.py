"""``python -m experiments report``: all results below a folder as one page and a summary.

python -m experiments report                                                  into runs/report
python -m experiments report --summary experiments/results/SUMMARY.md         and the committed summary
python -m experiments report --headlines docs/documents.md                    and the best known claims
python -m experiments report --claims docs/claims.md                          and every claim, by section
python -m experiments report --multiverse docs/multiverse.md                  and these by other choices
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.report import by_section, gather, headlines, multiverse, page, summary
from lth_jax.commands import exits
from lth_jax.commands.flags import Parser
from lth_jax.errors import InputError, fail, require, warn
from lth_jax.places import user_path
from lth_jax.runs.storage import write_text

SUMMARY = "gathers all results into one HTML page and a Markdown summary"
PAGE, MARKDOWN = "report.html", "summary.md"


class Places(NamedTuple):
    """Where to write, where the results are, and what else is written or renewed, if anything."""

    out: Path
    results: Path
    summary: Path | None
    headlines: Path | None
    claims: Path | None
    multiverse: Path | None


def main(arguments: Sequence[str]) -> None:
    """Write the page and the summary; exit codes as in ``exits``: also 2 if some run could not be read."""
    with exits.exit_on_error():
        runs = run(arguments)
    if broken := [run for run in runs if run.problem]:
        fail("; ".join(f"{run.place}: {run.problem}" for run in broken))


def run(arguments: Sequence[str]) -> list[gather.Run]:
    """:func:`main` without its exit codes; the runs that it found."""
    places = parse(arguments)
    known = headlines.read(places.headlines) if places.headlines else ""
    runs = gather.gather(places.results)
    for found in runs:
        for remark in found.remarks:
            warn(f"{found.place}: {remark}")
    written = {places.out / PAGE: page.text(runs)}
    for path in (places.out / MARKDOWN, places.summary):
        if path:
            written[path] = summary.text(runs, _way(path, places.results))
    if places.claims:
        written[places.claims] = by_section.text(runs, _way(places.claims, places.results))
    if places.multiverse:
        written[places.multiverse] = multiverse.text(runs, _way(places.multiverse, places.results))
    if places.headlines:
        way = _way(places.headlines, places.results)
        written[places.headlines] = headlines.renewed(known, runs, way)
    for path, text in written.items():
        write_text(path, text)
    claims = sum(len(found.verdicts) for found in runs)
    print(f"{claims} claims of {len(runs)} runs: {', '.join(map(str, written))}", flush=True)
    return runs


def _way(path: Path, folder: Path) -> str:
    """From a file's folder to the results', with slashes; empty if it is the same."""
    way = Path(os.path.relpath(folder, path.parent)).as_posix()
    return "" if way == "." else way


def parse(arguments: Sequence[str]) -> Places:
    """The places that the arguments name.

    Raises:
      InputError: one of them cannot be.
    """
    parser = Parser(
        prog="python -m experiments report", description=f"Report: {SUMMARY}.", allow_abbrev=False
    )
    parser.add_argument(
        "--out", default="runs/report", metavar="DIR", help=f"folder for {PAGE} and {MARKDOWN}"
    )
    parser.add_argument(
        "--results",
        default=os.path.relpath(gather.PACKAGE / "results"),
        metavar="DIR",
        help="folder with runs, at any depth",
    )
    parser.add_argument("--summary", metavar="FILE", help="write the summary here too")
    parser.add_argument("--headlines", metavar="FILE", help="renew the table of best known claims here too")
    parser.add_argument("--claims", metavar="FILE", help="write every claim by section here too")
    parser.add_argument(
        "--multiverse", metavar="FILE", help="write the best known claims under other choices here too"
    )
    for argument in arguments:  # nothing that a file's name or a terminal would trip over
        require(argument.isprintable(), f"{argument!r}: holds characters that cannot be printed")
    given = parser.parse_args(list(arguments))
    for name, path in vars(given).items():
        require(path != "", f"--{name}: expected a path")
    out = user_path(given.out)
    names = ("summary", "headlines", "claims", "multiverse")
    files = {name: user_path(path) if (path := getattr(given, name)) else None for name in names}
    _check_folder("--out", out)
    for name, path in files.items():
        if path and name != "headlines":  # which is read before anything is written
            require(not path.is_dir(), f"--{name} {path}: is a folder; name a file in it")
            _check_folder(f"--{name}", path.parent)
    return Places(out, user_path(given.results), **files)


def _check_folder(flag: str, folder: Path) -> None:
    """Refuse a folder that is a file, lies below one, or cannot be written."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name too long
        raise InputError(f"{flag} {folder}: {error.strerror}") from None
    require(there.is_dir(), f"{flag} {folder}: {there} is not a folder")
    require(os.access(there, os.W_OK), f"{flag} {folder}: cannot be written")
