"""The page: one HTML file that needs nothing but itself.

Its policy lets the browser load nothing and run only the script that is in ``page.js``, so that no text of a
claim or a report could do otherwise even if it were taken for markup.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from experiments.report import distinct, wording
from experiments.report.elements import make, to_text
from experiments.report.gather import Run
from experiments.report.sections import claim_table, identifiers, run_section

TITLE = "Lottery tickets: published claims and what came out"
ABOUT = (
    "Every claim below was written down, with the margin that decides it, as something that runs of lth_jax "
    "can support or contradict. This page is made from the results files alone: claims are judged anew from "
    "the arrays each time it is written, and every run says where its numbers come from."
)
READING = (
    "A claim compares two sets of runs. Ours is the mean of a − b over pairs that share a seed, a being what "
    "the claim says is larger, with its interval: 95 % by bootstrap (by Student's t where the experiment "
    "says so), 90 % by Student's t for claims of equality. A claim is supported where the whole interval "
    "lies where the claim needs it, contradicted where all of it lies outside, and p, corrected after Holm "
    "over the claims judged together, is under 0.05; otherwise it is inconclusive, which says nothing "
    "against it. Judged together is what one section or figure of one source says. Power is the probability "
    "to find a claim supported at this n if the difference is the published one, or the least that counts; n "
    "for 90 % is of the claim alone, in parentheses corrected for its family."
)
HERE = Path(__file__).parent


def text(runs: Sequence[Run]) -> str:
    """The page, as HTML."""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    policy += "; base-uri 'none'; form-action 'none'"
    names = identifiers(runs)
    head = make(
        "head",
        make("meta", charset="utf-8"),
        make("meta", http_equiv="Content-Security-Policy", content=policy),
        make("meta", name="viewport", content="width=device-width, initial-scale=1"),
        make("meta", name="color-scheme", content="light dark"),
        make("title", TITLE),
        make("style", style),
    )
    top = make("header", make("h1", TITLE), make("p", ABOUT, class_="about"), tiles(runs), problems(runs))
    main = make(
        "main",
        documents_section(runs, names),
        claims_section(runs, names),
        [run_section(run, name) for run, name in zip(runs, names, strict=True)],
    )
    skip = make("a", "Skip to the claims", href="#claims", class_="skip")
    body = make("body", skip, top, contents(runs, names), main, make("script", script))
    return to_text(make("html", head, body, lang="en"))


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def contents(runs: Sequence[Run], names: Sequence[str]) -> Element:
    """The contents list, beside the page where there is room."""
    first = [("documents", "Verdicts by document", ""), ("claims", "All claims", "")]
    entries = first + [(name, run.title, run.place) for run, name in zip(runs, names, strict=True)]
    items = [
        make("li", make("a", title, href=f"#{name}"), make("small", place) if place else None)
        for name, title, place in entries
    ]
    return make("nav", make("h2", "Contents"), make("ol", items), aria_label="Contents")


def tiles(runs: Sequence[Run]) -> Element:
    """How many claims have which verdict, large."""
    counts = wording.totals(runs)
    numbers = [(f"{counts[kind]:,}", kind, kind) for kind in wording.CONCLUSIONS]
    judging = sum(bool(run.verdicts) for run in runs)
    apart = len(distinct.statements(runs))
    told = f"claims, {apart:,} of them distinct, judged by {judging} run{'s' * (judging != 1)}"
    numbers.append((f"{counts.total():,}", told, "all"))
    return make(
        "ul",
        [
            make("li", make("strong", number), " ", make("span", word), class_=kind)
            for number, word, kind in numbers
        ],
        class_="tiles",
    )


def problems(runs: Sequence[Run]) -> list[Element]:
    """A line for every run that could not be read."""
    return [make("p", f"{run.place}: {run.problem}", class_="problem") for run in runs if run.problem]


def documents_section(runs: Sequence[Run], names: Sequence[str]) -> Element:
    """A row a document: how its claims fared, and by which runs."""
    named = {run.place: name for run, name in zip(runs, names, strict=True)}
    header = ["document", *wording.CONCLUSIONS, "claims", "share", "runs"]
    kinds = dict.fromkeys((*wording.CONCLUSIONS, "claims"), "number")
    rows = []
    for document, (judges, counts) in wording.by_document(runs).items():
        links = [[make("a", run.place, href=f"#{named[run.place]}"), " "] for run in judges]
        rows.append(
            make(
                "tr",
                make("th", document, scope="row"),
                [make("td", str(counts[kind]), class_="number") for kind in wording.CONCLUSIONS],
                make("td", str(counts.total()), class_="number"),
                make("td", bar(counts), data_value=f"{counts['supported'] / counts.total():.4f}"),
                make("td", links),
            )
        )
    head = make("tr", [make("th", name, scope="col", class_=kinds.get(name)) for name in header])
    table = make("table", make("thead", head), make("tbody", rows), class_="sortable documents")
    missing = wording.without_results(runs)
    return make(
        "section",
        make("h2", "Verdicts by document"),
        make(
            "div", table, class_="box", role="region", tabindex="0", aria_label="Verdicts by document, table"
        ),
        make("p", f"No results here of: {', '.join(missing)}.", class_="quiet") if missing else None,
        id="documents",
    )


def bar(counts: Counter[str]) -> Element:
    """The shares of the verdicts as one bar; the numbers beside it say the same in words."""
    pieces, at = [], 0.0
    for kind in wording.CONCLUSIONS:
        width = 100 * counts[kind] / counts.total()
        pieces.append(make("rect", class_=kind, x=f"{at:.3f}", y="0", width=f"{width:.3f}", height="10"))
        at += width
    return make(
        "svg", pieces, class_="bar", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true"
    )


def claims_section(runs: Sequence[Run], names: Sequence[str]) -> Element:
    """Every claim of every run, with what filters them."""
    counts = wording.totals(runs)
    kinds = [("", f"all {counts.total()}")] + [
        (kind, f"{kind} {counts[kind]}") for kind in wording.CONCLUSIONS
    ]
    buttons = [
        make(
            "button",
            word,
            type="button",
            class_=f"choice {kind}",
            data_verdict=kind,
            aria_pressed=str(not kind).lower(),
        )
        for kind, word in kinds
    ]
    filters = make(
        "div",
        make("div", buttons, role="group", aria_label="Show claims by verdict"),
        make("label", "containing ", make("input", type="search", id="containing", autocomplete="off")),
        make("p", role="status"),
        class_="filters",
        hidden=True,  # until the script that serves it runs
    )
    return make(
        "section",
        make("h2", "All claims"),
        make(
            "details",
            make("summary", "How to read this"),
            make("p", READING),
        ),
        filters,
        claim_table(list(zip(runs, names, strict=True)), "All claims", with_origin=True),
        id="claims",
    )
