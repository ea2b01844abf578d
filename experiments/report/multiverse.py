"""The best known claims under every choice that can be defended: which verdicts hold up, and which turn.

One choice is changed at a time, all others being as the claim is judged. Everything is judged anew from the
samples of the results files (`stats.rejudge`), or from another reading, measure or run of the same claim.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from experiments.report import by_section, headlines, wording
from experiments.report.distinct import Statement, statements
from experiments.report.gather import Run
from experiments.report.sections import MARKS
from experiments.report.summary import table_lines
from lth_jax.analysis.stats import Conclusion, Published, Single, Verdict, rejudge
from lth_jax.analysis.tables import escape

RENEW = "python -m experiments report --multiverse docs/multiverse.md"
FLIPS = 6
"""Pairs from which on sign flips can reach 0.05."""
CHOICES = ("alone", "with all", "margin ½", "margin × 2", "t test", "bootstrap")
"""The choices that have a column, in order."""
NOT_CHOSEN = "–"


class Judged(NamedTuple):
    """A claim under its choices: the verdict by name of the choice, and by names of other readings."""

    run: Run
    verdict: Verdict
    label: str
    choices: Mapping[str, Conclusion]
    readings: Mapping[str, Conclusion]

    @property
    def others(self) -> dict[str, Conclusion]:
        """Every choice with another verdict than the claim's."""
        own = self.verdict.verdict
        return {name: v for part in self[3:] for name, v in part.items() if v != own}

    @property
    def grade(self) -> str:
        """``robust``, ``fragile``, or ``turns`` where supported becomes contradicted or the reverse."""
        decided = {"supported", "contradicted"}
        if not self.others:
            return "robust"
        return "turns" if decided <= {self.verdict.verdict, *self.others.values()} else "fragile"


def judge(runs: Sequence[Run]) -> list[Judged]:
    """Every headline claim under its choices.

    Raises:
      InputError: a chosen run or claim is not there.
    """
    judged = statements(runs)
    return [
        Judged(run, verdict, label, choices(run, verdict), readings(judged, run, verdict))
        for run, verdict, label in headlines.chosen(runs, "--multiverse")
    ]


def choices(run: Run, verdict: Verdict) -> dict[str, Conclusion]:
    """A claim's verdicts by those of ``CHOICES`` that apply to it."""
    found = {
        "alone": rejudge(verdict, among=[verdict]),
        "with all": rejudge(verdict, among=document(run, verdict)),
    }
    if verdict.claim.margin > 0:
        found |= {"margin ½": rejudge(verdict, margin=0.5), "margin × 2": rejudge(verdict, margin=2.0)}
    if tests_apply(verdict):
        found["t test"] = rejudge(verdict, method="student")
        if verdict.n >= FLIPS:
            found["bootstrap"] = rejudge(verdict, method="bootstrap")
    return {name: again.verdict for name, again in found.items()}


def tests_apply(verdict: Verdict) -> bool:
    """Whether there is a choice of tests: equality and published numbers have one each."""
    family = verdict.family
    if family is None or verdict.claim.kind in ("equal", "one_of"):
        return False
    return not isinstance(family.comparisons[family.own].b, Published | Single)


def document(run: Run, verdict: Verdict) -> list[Verdict]:
    """A run's verdicts on all that a claim's document says, a statement once, the claim as it is."""
    found: dict[str, Verdict] = {}
    for other in run.verdicts:
        if other.family and wording.document(other.claim) == wording.document(verdict.claim):
            found.setdefault(other.claim.statement or other.claim.identifier, other)
    return list((found | {verdict.claim.statement or verdict.claim.identifier: verdict}).values())


def readings(judged: Sequence[Statement], run: Run, verdict: Verdict) -> dict[str, Conclusion]:
    """A claim's verdicts by other references, measures and variants of the run."""
    found: dict[str, Conclusion] = {}
    for statement in judged:
        same = [(statement.run, statement.verdict), *statement.repeats]
        if any(place is run and other is verdict for place, other in same):
            own = Statement(run, verdict, ())
            rest = [(place, other) for place, other in same if other is not verdict]
            found |= {by_section.other_name(own, *one): one[1].verdict for one in rest}
            places = {place.place: place for place, _ in same}
            for place in places.values():
                found |= dict(measures(own, place))
    return found


def measures(own: Statement, run: Run) -> Iterator[tuple[str, Conclusion]]:
    """What a run's other measures say of a claim, by name; another run's with its name before."""
    before = "" if run.place == own.run.place else f"{run.place.split('/')[-1]} "
    for measure, verdicts in run.alternatives.items():
        for other in verdicts:
            if other.claim.identifier == own.verdict.claim.identifier:
                yield f"{before}{measure}", other.verdict


def text(runs: Sequence[Run], links: str = "") -> str:
    """The page.

    Args:
      runs: in any order; those without a headline claim are left out.
      links: the way from the page's folder to the results', empty if it is the same.

    Raises:
      InputError: a chosen run or claim is not there.
    """
    judged = judge(runs)
    grades = Counter(one.grade for one in judged)
    asked = sum(len(one.choices) + len(one.readings) for one in judged)
    lines = [
        "# The best known claims under other choices",
        "",
        f"Made from the results files by `{RENEW}`; not to be edited by hand. Each of the claims that the "
        "documents are best known for is judged again with one choice changed at a time: ✓ supported, ✗ "
        "contradicted, ~ inconclusive, – not a choice. *Robust*: the same verdict under all. *Fragile*: some "
        "choice leaves undecided what another decides. *Turns*: a claim is supported by one choice and "
        "contradicted by another. The choices were listed after the verdicts had been seen; none was left "
        "out for what it gives.",
        "",
        f"Of {len(judged)} claims {grades['robust']} are robust, {grades['fragile']} fragile, and "
        f"{grades['turns']} turn, judged {asked} times in all.",
        "",
        "* **as judged**: corrected by Holm within its family (a section, a figure or a question).",
        "* **alone**: not corrected. **with all**: corrected together with all that its document says and "
        "the same run judges, each statement once.",
        "* **margin ½, × 2**: the margin halved or doubled, where a claim has one.",
        "* **t test**, **bootstrap**: Student's t interval and test, or the BCa bootstrap's interval with "
        f"the p-value of sign flips, which have to agree. Under {FLIPS} pairs sign flips cannot reach 0.05 "
        "and are no choice; equality is judged by two t tests alone.",
        "* **other readings**: *own*: 002's tickets against their own dense network alone; *train*: "
        "training accuracy; *standing*: runs that have not collapsed; *as-run*, *fixed-order*: the other "
        "variant of the run; and other measures, by name.",
    ]
    for name, own in by_document(judged).items():
        lines += ["", f"## {escape(name)}", ""]
        header = ["claim", "as judged", *CHOICES, "other readings", "holds up"]
        lines += table_lines(header, [row(one, links) for one in own])
    return "\n".join(lines) + "\n"


def by_document(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The claims of every document, in order."""
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(wording.document(one.verdict.claim), []).append(one)
    return found


def row(one: Judged, links: str) -> list[str]:
    """A claim's cells."""
    where = quote("/".join(part for part in (links, one.run.place, "report.md") if part))
    marks = [MARKS[one.choices[name]] if name in one.choices else NOT_CHOSEN for name in CHOICES]
    others = "; ".join(f"{escape(name)} {MARKS[found]}" for name, found in one.readings.items())
    asked = len(one.choices) + len(one.readings)
    same = f"{asked - len(one.others)} of {asked}"
    return [
        f"[{escape(one.label)}]({where})",
        f"{MARKS[one.verdict.verdict]} {one.verdict.verdict}",
        *marks,
        others or NOT_CHOSEN,
        f"**{one.grade}**, {same}",
    ]
