"""The table of claims: section of a document → claim → run → verdict → power, and what has no run yet."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from experiments.report import wording
from experiments.report.distinct import Statement, statements
from experiments.report.gather import Run
from experiments.report.summary import table_lines
from lth_jax.analysis.stats import Verdict, holds_if, source
from lth_jax.analysis.tables import escape

RENEW = "python -m experiments report --claims docs/claims.md"


class Missing(NamedTuple):
    """What a document says that no committed run can speak to, and the run that could."""

    section: str
    text: str
    run: str
    n: str


TICKETS = "mnist_tickets --preset middle --part"
MISSING = (
    Missing("001 §4.3", "LeNet-5's full network is at its best at epoch 89 and declines; the others near 300",
            "ticket_distribution --preset paper-lenet5", "5 trials of 300 epochs"),
    Missing("001 §4.3", "LeNet-5's accuracies and losses are those published",
            "ticket_distribution --preset paper-lenet5", "5 trials of 300 epochs"),
    Missing("001 §4.4", "D_n has the same shape for FC-1 and LeNet-5: one claim of two runs",
            "a comparison of the two committed files", "5 trials each"),
    Missing("002 §3", "one-shot tickets stop 1.91 and 2.28 times as soon as their masks with fresh weights",
            f"{TICKETS} one_shot", "5 trials, 15 controls"),
    Missing("002 §3", "one-shot controls are slower and less accurate than dense networks, and more variable",
            f"{TICKETS} one_shot", "5 trials, 15 controls"),
    Missing("002 §3", "both controls of one-shot tickets stop at the same time, at every size",
            f"{TICKETS} one_shot", "5 trials, 15 controls"),
    Missing("002 §4", "back to the dense time and accuracy at 1.8 %, at the document's 50,000 iterations",
            "mnist_tickets --preset paper --part controls", "12 trials for a third of §4, 33 for 1.8 %"),
    Missing("002 §6", "wide initial weights are slow and inaccurate, narrow ones slow and accurate",
            f"{TICKETS} init_std", "5 trials"),
    Missing("002 §6", "the best ticket grows with the network, less by accuracy, and is smaller by iterative "
            "pruning; a bulge before the drop", f"{TICKETS} sizes", "5 trials"),
    Missing("002 §6", "pruning 50 or 70 % at once costs time and accuracy", f"{TICKETS} rates", "5 trials"),
    Missing("002 §6", "resetting is faster and holds accuracy longer, at very small sizes only",
            f"{TICKETS} reset", "5 trials"),
    Missing("003, notes", "no guarantee of low losses: a He network that does not train to a low loss",
            "variance_propagation with the training loss and a large learning rate", "8 networks"),
    Missing("003, notes", "much of the network is useless and could be pruned away",
            "judged as 000's tickets at 6.9 %", "11 seeds"),
)  # fmt: skip


def text(runs: Sequence[Run], links: str = "") -> str:
    """The table as Markdown.

    Args:
      runs: in the order shown.
      links: the way from the file's folder to the results', empty if it is the same.
    """
    judged = statements(runs)
    lines = [
        "# Every claim, by section",
        "",
        f"Made from the results files by `{RENEW}`; not to be edited by hand. A row is a distinct claim: "
        "what stands for it is the run that follows the document's text; *other readings* are the verdicts "
        "of the same statement by other variants, references or measures. *Holds if* and *power* are as in "
        f"[SUMMARY.md]({quote('/'.join(part for part in (links, 'SUMMARY.md') if part))}). What is judged "
        "together (a section, a figure or a question) and the reference of 002's tickets (all dense networks "
        "of a trial; *own*: the ticket's own) were decided on after these runs had been seen, and before any "
        "further ones.",
    ]
    for name in sorted({source(statement.verdict.claim) for statement in judged}):
        lines += ["", f"## {escape(name)}", ""]
        own = [statement for statement in judged if source(statement.verdict.claim) == name]
        own.sort(key=lambda statement: statement.verdict.claim.document)
        header = [
            "section",
            "claim",
            "run",
            "here",
            "holds if",
            "verdict",
            "power; n for 90 %",
            "other readings",
        ]
        lines += table_lines(header, [row(statement, name, links) for statement in own])
    lines += ["", "## Without a run yet", ""]
    rows = [[escape(cell) for cell in missing[:2]] + [f"`{missing.run}`", missing.n] for missing in MISSING]
    return "\n".join(lines + table_lines(["section", "claim", "run it needs", "n"], rows)) + "\n"


def row(statement: Statement, document: str, links: str) -> list[str]:
    """A statement's cells."""
    run, verdict, repeats = statement
    where = quote("/".join(part for part in (links, run.place, "report.md") if part))
    others = [f"{other_name(statement, *other)}: {other[1].verdict}" for other in repeats]
    section = verdict.claim.document.removeprefix(document).strip(" ,")
    return [
        escape(section or "–"),
        escape(verdict.claim.text),
        f"[{escape(run.place)}]({where})",
        escape(wording.measured(verdict)),
        holds_if(verdict.claim),
        escape(wording.said(verdict)),
        wording.power_of(verdict),
        escape("; ".join(others)),
    ]


def other_name(statement: Statement, run: Run, verdict: Verdict) -> str:
    """What tells a repeat from the verdict that stands for its statement: its run, what is read, or both."""
    own, other = (v.claim.identifier.split(":") for v in (statement.verdict, verdict))
    reading = " ".join(part for part in other if part not in own)
    place = run.place.split("/")[-1] if run.place != statement.run.place else ""
    return " ".join(part for part in (place, reading) if part)
