"""``python -m experiments report``: all results below a folder as one page and a summary.

python -m experiments report                                                  into runs/report
python -m experiments report --summary experiments/results/SUMMARY.md         and the committed summary
"""

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.report import gather, page, summary
from lth_jax import config, exits, results

SUMMARY = "gathers all results into one HTML page and a Markdown summary"
PAGE, MARKDOWN = "report.html", "summary.md"


def main(arguments: Sequence[str]) -> None:
    """Write the page and the summary; exit codes as in ``exits``, and 1 if some run could not be read."""
    with exits.explained():
        runs = run(arguments)
    if broken := [run for run in runs if run.problem]:
        config.fail("; ".join(f"{run.place}: {run.problem}" for run in broken), 1)


def run(arguments: Sequence[str]) -> list[gather.Run]:
    """:func:`main` without its exit codes; the runs that it found."""
    out, folder, extra = parse(arguments)
    runs = gather.gather(folder)
    for found in runs:
        for remark in found.remarks:
            config.warn(f"{found.place}: {remark}")
    results.write_text(out / PAGE, page.text(runs))
    summaries = [out / MARKDOWN] + ([extra] if extra else [])
    for path in summaries:
        links = Path(os.path.relpath(folder, path.parent)).as_posix()
        results.write_text(path, summary.text(runs, "" if links == "." else links))
    claims = sum(len(found.verdicts) for found in runs)
    print(f"{claims} claims of {len(runs)} runs: {', '.join(map(str, [out / PAGE, *summaries]))}", flush=True)
    return runs


def parse(arguments: Sequence[str]) -> tuple[Path, Path, Path | None]:
    """Where to write, where the results are, and where another summary goes.

    Raises:
      InputError: one of them cannot be.
    """
    parser = config.Parser(
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
    for argument in arguments:  # nothing that a file's name or a terminal would trip over
        config.require(argument.isprintable(), f"{argument!r}: holds characters that cannot be printed")
    given = parser.parse_args(list(arguments))
    for flag, path in (("--out", given.out), ("--results", given.results), ("--summary", given.summary)):
        config.require(path != "", f"{flag}: expected a path")
    out, extra = Path(given.out), Path(given.summary) if given.summary else None
    _check_folder("--out", out)
    if extra:
        config.require(not extra.is_dir(), f"--summary {extra}: is a folder; name a file in it")
        _check_folder("--summary", extra.parent)
    return out, Path(given.results), extra


def _check_folder(flag: str, folder: Path) -> None:
    """Refuse a folder that is a file, lies below one, or cannot be written."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name too long
        raise config.InputError(f"{flag} {folder}: {error.strerror}") from None
    config.require(there.is_dir(), f"{flag} {folder}: {there} is not a folder")
    config.require(os.access(there, os.W_OK), f"{flag} {folder}: cannot be written")
