"""The page's parts that repeat: a table of claims, and a run's section."""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from experiments.report import wording
from experiments.report.elements import box, from_markdown, make, plain_table
from experiments.report.gather import Picture, Run
from lth_jax.analysis import tables
from lth_jax.analysis.stats import Verdict, holds_if, labels

MARKS = {"supported": "✓", "contradicted": "✗", "inconclusive": "~"}


def identifiers(runs: Sequence[Run]) -> list[str]:
    """A name for every run that serves as ``id``: of letters, digits and hyphens, no two alike."""
    found: list[str] = []
    for run in runs:
        name, again = slug(run.place), 2
        while name in found:
            name, again = f"{slug(run.place)}-{again}", again + 1
        found.append(name)
    return found


def slug(text: str) -> str:
    """Text as an ``id``; the prefix keeps it apart from the page's own."""
    return "run-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def claim_table(judged: Sequence[tuple[Run, str]], label: str, with_origin: bool = False) -> Element:
    """Claims of runs, a row each.

    Args:
      judged: runs with the ids of their sections.
      label: what the table is, for those who cannot see it.
      with_origin: a last column that says which run judges, on which data and machine.
    """
    numbers = {"p (Holm)", "n"}
    header = ["document", "claim", "published", "ours: a − b", "p (Holm)", "n", "verdict"]
    header += ["judged by"] if with_origin else []
    rows = [
        claim_row(verdict, text, make("td", _origin_of(run, name)) if with_origin else None)
        for run, name in judged
        for verdict, text in zip(run.verdicts, labels(run.verdicts), strict=True)
    ]
    head = [make("th", name, scope="col", class_="number" if name in numbers else None) for name in header]
    table = make("table", make("thead", make("tr", head)), make("tbody", rows), class_="sortable claims")
    return box(table, f"{label}, table")


def _origin_of(run: Run, name: str) -> list[Element]:
    return [make("a", run.place, href=f"#{name}"), make("small", wording.short_origin(run))]


def claim_row(verdict: Verdict, text: str, origin: Element | None) -> Element:
    """A claim: what it says, what was published, what came out."""
    claim = verdict.claim
    value, _, rest = wording.measured(verdict).replace("-", "−").partition(" ")
    interval, _, unit = rest.partition("] ")
    shown = f"{interval}]" if unit else rest
    ours = [make("b", value), " ", make("span", shown, class_="interval"), make("small", unit)]
    needs = make("small", "needs " + holds_if(claim).replace("-", "−"))
    power = make("small", f"power; n for 90 %: {wording.power_of(verdict)}")
    return make(
        "tr",
        make("td", claim.document),
        make("td", text, make("small", verdict.note) if verdict.note else None),
        make("td", claim.published),
        make("td", ours, needs, power, class_="ours", data_value=repr(float(verdict.estimate))),
        make("td", wording.p_value(verdict), class_="number", data_value=repr(float(verdict.adjusted_p))),
        make("td", f"{verdict.n:,}", class_="number"),
        make(
            "td",
            make("span", f"{MARKS[verdict.verdict]} {verdict.verdict}", class_=f"verdict {verdict.verdict}"),
            make("small", verdict.protocol) if verdict.protocol else None,
        ),
        origin,
        data_verdict=verdict.verdict,
    )


def run_section(run: Run, name: str) -> Element:
    """Everything of one run: origin, table, notes, claims, figures."""
    heading = [make("h2", run.title), make("p", run.place, class_="place")]
    if run.problem:
        return make("section", heading, make("p", run.problem, class_="problem"), id=name, class_="run")
    title, header, rows = run.table
    counts = [make("p", f"Diverged, and in no mean: {one}", class_="quiet") for one in run.diverged]
    claims = [make("p", "It judges no claim.", class_="quiet")]
    if run.verdicts:
        claims = [claim_table([(run, name)], f"Claims of {run.place}")]
    return make(
        "section",
        heading,
        make(
            "dl", [make("div", make("dt", k), make("dd", v)) for k, v in wording.origin(run)], class_="origin"
        ),
        configuration(run),
        [make("p", remark, class_="remark") for remark in run.remarks],
        make("h3", title),
        plain_table(title, header, rows),
        counts,
        make("div", from_markdown(run.notes, f"Notes of {run.place}"), class_="notes") if run.notes else None,
        make("h3", "Claims"),
        claims,
        [make("h3", "Figures"), [figure(picture, run) for picture in run.pictures]] if run.pictures else None,
        id=name,
        class_="run",
    )


def configuration(run: Run) -> Element:
    """The run's configuration and the versions it ran with, folded."""
    versions = json.loads(run.attrs.get("versions", "{}"))
    pairs = [(key, _compact(value)) for key, value in run.config.items()]
    pairs += [(key, str(value)) for key, value in versions.items()]
    rows = [make("tr", make("th", key, scope="row"), make("td", value)) for key, value in pairs]
    table = make("table", make("tbody", rows), class_="configuration")
    return make("details", make("summary", "Configuration and versions"), table)


def _compact(value: Any) -> str:
    """A configuration's value: lists in a line, long ones of whole numbers as ranges."""
    if isinstance(value, list):
        whole = len(value) > 2 and all(type(entry) is int for entry in value)
        return tables.ranges(value) if whole else ", ".join(map(str, value))
    return str(value)


def figure(picture: Picture, run: Run) -> Element:
    """A figure, its bytes in the page as they are."""
    image = make(
        "img",
        src=f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
        alt=f"Figure {picture.name} of {run.place}: {picture.caption}",
        width=str(picture.width),
        height=str(picture.height),
    )
    caption = make("figcaption", picture.caption, " ", make("code", f"{picture.name}.png"))
    return make("figure", make("div", image, class_="card"), caption)
