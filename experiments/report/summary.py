"""The verdicts as Markdown: counts by document, then every claim below the run that judges it."""

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from experiments.report import distinct, wording
from experiments.report.gather import Run
from lth_jax.analysis.stats import holds_if, labels
from lth_jax.analysis.tables import escape

RENEW = "python -m experiments report --summary experiments/results/SUMMARY.md"


def text(runs: Sequence[Run], links: str = "") -> str:
    """The summary.

    Args:
      runs: in the order shown.
      links: the way from the summary's folder to the results', empty if it is the same.
    """
    lines = [
        "# Published claims and what came out",
        "",
        f"Made from the results files by `{RENEW}`; not to be edited by hand. *Ours* is the mean of a - b "
        "and its interval, a and b being what the claim compares, or what the unit says: a ratio, a share; "
        "*holds if* is what the interval has to show. A claim that is neither supported nor contradicted is "
        "inconclusive; so is one that would be one of them if it were judged alone. A family, corrected "
        "together, is what one section or figure of one source says. *Power* is the probability to find the "
        "claim supported at this n if the difference is the published one, or where none is published the "
        "least that counts (for equality: if there is none), from the spread seen here, of several "
        "comparisons that of the one shown; behind it the n for 90 %, alone and, in parentheses, at 0.05 "
        "over the family's size. "
        "`python -m experiments report` writes a page that says more.",
        "",
        "A distinct claim counts once, whatever variants and readings judge it; the first that follows the "
        "document's text stands for it.",
        "",
        *count_lines(runs),
    ]
    for run in runs:
        lines += ["", *run_lines(run, links)]
    if missing := wording.without_results(runs):
        lines += ["", f"No results yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def count_lines(runs: Sequence[Run]) -> list[str]:
    """A row a document, and one for all: distinct claims by verdict, and how many rows judge them."""
    rows_of = {name: counts.total() for name, (_, counts) in wording.by_document(runs).items()}
    counted = distinct.by_document(runs)
    total = sum(counted.values(), Counter[str]())
    rows = [
        [title, *(str(counts[kind]) for kind in wording.CONCLUSIONS), str(counts.total()), str(judged)]
        for title, counts, judged in [
            *((name, counts, rows_of[name]) for name, counts in counted.items()),
            ("**all**", total, sum(rows_of.values())),
        ]
    ]
    return table_lines(["document", *wording.CONCLUSIONS, "distinct claims", "rows below"], rows)


def run_lines(run: Run, links: str) -> list[str]:
    """A run's heading, origin and claims."""
    where = quote("/".join(part for part in (links, run.place, "report.md") if part))
    lines = [f"## {escape(run.title)}", ""]
    if run.problem:
        return [*lines, f"**{escape(run.place)}: {escape(run.problem)}**"]
    pairs = "; ".join(f"{name} {escape(value)}" for name, value in wording.origin(run))
    lines += [f"[{escape(run.place)}]({where}): {pairs}.", ""]
    rows = [
        [
            escape(verdict.claim.document),
            escape(label),
            escape(verdict.claim.published),
            escape(wording.measured(verdict)),
            holds_if(verdict.claim),
            escape(wording.said(verdict)),
            f"{verdict.n:,}",
            wording.power_of(verdict),
        ]
        for verdict, label in zip(run.verdicts, labels(run.verdicts), strict=True)
    ]
    if not rows:
        return [*lines, "It judges no claim."]
    header = ["document", "claim", "published", "ours", "holds if", "verdict", "n", "power; n for 90 %"]
    return lines + table_lines(header, rows)
