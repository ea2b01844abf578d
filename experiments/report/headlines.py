"""The table of the claims that each document is best known for, as the results judge them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from experiments.report import wording
from experiments.report.gather import Run
from experiments.report.summary import table_lines
from lth_jax.analysis.stats import Verdict, holds_if, labels
from lth_jax.analysis.tables import escape
from lth_jax.errors import InputError, require

RENEW = "python -m experiments report --headlines docs/documents.md"
BEGIN, END = f"<!-- headlines: {RENEW} -->", "<!-- end of the headlines -->"

CHOSEN = {
    "init_comparison/as-described": (
        "tickets-to-6.9:test",
        "none-below-6.9:test",
        "xavier-beats-kaiming:test",
        "normal-equals-uniform:test",
        "alike-above-3.5:test",
        "stable-to-3.5:test",
        "narrow-beats-wide:test",
        "unstable-at-1.8:test",
    ),
    "ticket_distribution/as-described": (
        "accuracy:full:pruned-10",
        "accuracy:pruned-10:reinit-10",
        "accuracy:reinit-10:remask-10",
        "divot:10",
        "symmetric:10",
    ),
    "xor": (
        "one-shot-beats-random:strict",
        "iterative-beats-one-shot:strict",
        "product-beats-input:strict",
    ),
    "mnist_tickets/controls": (
        "ticket-sooner-21",
        "ticket-better-13.5",
        "ticket-sooner-than-reinit-21",
        "ticket-better-than-reinit-21",
        "v1-ticket-as-dense-1.8",
        "v1-rearrange-below-reinit",
        "v1-tails-survive",
    ),
    "variance_propagation": (
        "slope-forward:0.02",
        "slope-backward:0.02",
        "keeps-forward:he_uniform",
        "reading",
    ),
    "supermask/shuffled": (
        "minimum-around-5000",
        "supermask",
        "ticket-beats-high",
        "ticket-beats-all",
        "sign-beats-magnitude",
        "rescaled-98-initial",
    ),
}
"""By run, the identifiers of claims. Chosen for what they are about, not for what came out."""


def chosen(runs: Sequence[Run], flag: str) -> Iterator[tuple[Run, Verdict, str]]:
    """Every chosen claim: its run, its verdict and its label.

    Raises:
      InputError: a chosen run or claim is not there; ``flag`` is what asked for it.
    """
    found = {run.place: run for run in runs}
    for place, identifiers in CHOSEN.items():
        require(place in found and not found[place].problem, f"{flag}: no results of {place} to show")
        judged = found[place].verdicts
        verdicts = {v.claim.identifier: (v, label) for v, label in zip(judged, labels(judged), strict=True)}
        for identifier in identifiers:
            require(identifier in verdicts, f"{flag}: {place} judges no claim {identifier!r}")
            yield found[place], *verdicts[identifier]


def table(runs: Sequence[Run], links: str) -> list[str]:
    """The table's lines.

    Args:
      runs: in any order; those that are not chosen are left out.
      links: the way from the page's folder to the results'.

    Raises:
      InputError: a chosen run or claim is not there.
    """
    rows = []
    for run, verdict, label in chosen(runs, "--headlines"):
        where = quote("/".join(part for part in (links, run.place, "report.md") if part))
        rows.append(
            [
                f"[{wording.document(verdict.claim)}]({where})",
                escape(label),
                escape(verdict.claim.published),
                escape(wording.measured(verdict)),
                holds_if(verdict.claim),
                f"**{verdict.verdict}**" + (f" ({escape(verdict.protocol)})" if verdict.protocol else ""),
                wording.power_of(verdict),
            ]
        )
    header = ["", "claim", "published", "here \\[interval\\]", "holds if", "verdict", "power; n for 90 %"]
    return table_lines(header, rows)


def read(path: Path) -> str:
    """The text of the page that has the table.

    Raises:
      InputError: it cannot be read, or has not both marks, once each and in order.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--headlines {path}: cannot be read: {error}") from None
    once = page.count(BEGIN) == page.count(END) == 1
    require(
        once and page.index(BEGIN) < page.index(END),
        f"--headlines {path}: expected one line {BEGIN!r} and below it one line {END!r}",
    )
    return page


def renewed(page: str, runs: Sequence[Run], links: str) -> str:
    """A page from :func:`read` with the table between its marks made anew.

    Raises:
      InputError: as in :func:`table`.
    """
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    return "\n".join([before + BEGIN, "", *table(runs, links), "", after])
