"""The report: claims as data, text that stays text, a page that needs only itself."""

import base64
import csv
import io
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HOSTILE, Seen, make_run, make_verdict

from experiments.report import (
    by_section,
    captions,
    distinct,
    elements,
    gather,
    page,
    sections,
    summary,
    wording,
)
from lth_jax.analysis import tables

COMMITTED = gather.PACKAGE / "results"


# Wording


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([42, 43, 44, 60], "42–44, 60"), ([5, 4, 3], "5, 4, 3"), ([1, 3, 4], "1, 3–4")],
)
def test_ranges(numbers, text):
    assert tables.ranges(numbers) == text


@given(st.lists(st.integers(0, 50)))
def test_ranges_lose_nothing(numbers):
    parts = [part.split("–") for part in tables.ranges(numbers).split(", ") if part]
    assert [n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)] == numbers


def test_verdicts_in_words():
    assert wording.measured(make_verdict()) == "+1.25 [+0.75, +1.5] accuracy points"
    alone = make_verdict(estimate=-2.0, low=np.nan, high=np.nan)
    assert wording.measured(alone) == "-2 [no interval] accuracy points"
    assert wording.measured(make_verdict(estimate=np.nan)) == "no value"
    shown = [wording.p_value(make_verdict(adjusted_p=p)) for p in (0.0, 0.00099, 0.001, 0.05, 1.0)]
    assert shown == ["< 0.001", "< 0.001", "0.001", "0.050", "1.000"]
    assert [wording.duration(seconds) for seconds in (9.6, 201.9, 6697.8)] == [
        "10 s",
        "3 min 22 s",
        "1 h 51 min",
    ]


def test_committed_runs_have_titles_of_their_own(committed):
    titles = [run.title for run in committed]
    assert len(set(titles)) == len(titles) > 5


def test_documents_are_counted_without_their_sections():
    first = make_run(
        "a", [make_verdict(document="002 §2"), make_verdict(document="002", verdict="contradicted")]
    )
    second = make_run(
        "b", [make_verdict(document="Zhou et al. 2019", verdict="inconclusive"), make_verdict()]
    )
    found = wording.by_document([first, second])
    assert {name: dict(counts) for name, (_, counts) in found.items()} == {
        "000": {"supported": 1},
        "002": {"supported": 1, "contradicted": 1},
        "Zhou et al. 2019": {"inconclusive": 1},
    }
    assert list(found) == ["000", "002", "Zhou et al. 2019"]
    assert [run.place for run in found["002"][0]] == ["a"]


# Elements


@given(st.text())
def test_text_and_attributes_come_back_as_they_were(text):
    seen = Seen(elements.to_text(elements.make("p", text, elements.make("b"), text, title=text)))
    assert seen.tags == [("p", {"title": text}), ("b", {})]
    assert seen.text == f"\n{text}{text}\n"


@settings(max_examples=200)
@given(st.text("ab<>&\"'`*_|-[]()!# \n\\:/\x00\x0b" + "é"))
def test_any_markdown_is_a_tree_without_pictures_scripts_or_styles(text):
    root = elements.make("div", elements.from_markdown(text, "x"))
    assert not {"img", "script", "style"} & {element.tag for element in root.iter()}
    assert not any(name.startswith("on") or name == "style" for e in root.iter() for name in e.attrib)


def test_markdown_keeps_its_structure_and_shows_html_as_text():
    text = "## Head\n\n**bold** <b>not</b> [link](javascript:alert(1))\n\n"
    text += "| a | b |\n| --- | --: |\n| 1 | `2` |\n"
    seen = Seen(elements.to_text(elements.make("div", elements.from_markdown(text, "Notes"))))
    tags = [tag for tag, _ in seen.tags]
    assert " ".join(tags) == "div h3 p strong div table thead tr th th tbody tr td td code"
    assert "<b>not</b> [link](javascript:alert(1))" in seen.text
    box, right = seen.all("div")[1], seen.all("td")[1]
    assert box == {"class": "box", "role": "region", "tabindex": "0", "aria-label": "Notes, table"}
    assert right["class"] == "number"


def test_numbers_stand_on_the_right_and_words_on_the_left():
    rows = [
        ["forward", "98.6 ± 0.1", "+1", "–"],
        ["backward", "", "−2 %", "0.5"],
        ["3 units", "100", "a", ".5"],
    ]
    html = elements.to_text(elements.plain_table("T", ["", "a", "b", "c"], rows))
    assert [attrs.get("class") for attrs in Seen(html).all("th")] == [None, "number", None, "number"]
    assert [attrs.get("class") for attrs in Seen(html).all("td")] == [None, "number", None, "number"] * 3


# The page


@pytest.mark.parametrize("which", ["committed_page", "hostile_page"])
def test_the_page_is_whole_and_loads_nothing(which, request):
    html = request.getfixturevalue(which)
    seen = Seen(html)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in seen.all("a")]
    inner = {link.removeprefix("#") for link in links if link.startswith("#")}
    assert len(links) > 3
    assert inner <= set(ids)
    sections_there = {attrs["id"] for attrs in seen.all("section")}
    assert sections_there <= inner, "a section that the contents do not name"
    assert {"documents", "claims"} < sections_there
    assert all(attrs["alt"].strip() for attrs in seen.all("img"))
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in seen.all("img"))
    assert not {"link", "iframe", "object", "embed", "video", "audio", "base", "form"} & {
        t for t, _ in seen.tags
    }
    assert seen.all("script") == [{}]
    names = {name for _, attrs in seen.tags for name in attrs}
    assert not {name for name in names if name.startswith("on") or name in ("style", "srcset", "action")}
    style = (page.HERE / "page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_is_shown_as_text(hostile_page):
    seen = Seen(hostile_page)
    assert not seen.all("img")
    # title, table (heading, two headers, two cells), remarks …: many places, all of them text
    assert seen.text.count(HOSTILE) > 20
    assert "![x]" not in seen.text
    assert [attrs["href"] for attrs in seen.all("a") if not attrs["href"].startswith("#")] == [
        "http://example.org/y.png"
    ]


def test_runs_with_similar_places_get_different_names():
    runs = [make_run(place) for place in ("a/b", "a-b", "a b", "claims", "é")]
    assert sections.identifiers(runs) == ["run-a-b", "run-a-b-2", "run-a-b-3", "run-claims", "run-"]


def test_every_committed_figure_is_in_the_page_byte_for_byte(committed, committed_page):
    embedded = Counter(
        base64.b64decode(attrs["src"].partition(",")[2]) for attrs in Seen(committed_page).all("img")
    )
    assert embedded == Counter(path.read_bytes() for path in COMMITTED.rglob("figures/*.png"))
    for run in committed:
        for picture in run.pictures:
            assert picture.name in captions.CAPTIONS[run.attrs["experiment"]], (
                "write a caption for this figure"
            )


def test_every_committed_claim_is_in_the_page_and_counted_by_document(committed_page):
    expected, texts = Counter(), []
    for path in COMMITTED.rglob("claims.csv"):  # what the experiments wrote, read by other means
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            expected[re.match(r"\d{3}|.*", row["document"])[0], row["verdict"]] += 1
            texts.append(row["text"])
    section = committed_page.partition('id="documents"')[2].partition("</section>")[0]
    body = section.partition("<tbody>")[2]
    rows = re.findall(r'<th scope="row">(.*?)</th>' + r'<td class="number">(\d+)</td>' * 4, body)
    assert rows
    found = {
        (name, kind): int(count)
        for name, *counts, _ in rows
        for kind, count in zip(wording.CONCLUSIONS, counts, strict=True)
        if int(count)
    }
    assert found == expected, "some claims.csv is not what its results.nc gives: run its experiment's command"
    assert all(int(total) == sum(map(int, counts)) for _, *counts, total in rows)
    shown = Seen(committed_page).text
    assert all(text in shown for text in texts)


def test_the_committed_summary_is_what_the_command_makes(committed):
    made = summary.text(committed)
    assert (COMMITTED / "SUMMARY.md").read_text(encoding="utf-8") == made, f"renew it: {summary.RENEW}"


def test_the_committed_table_of_claims_is_what_the_command_makes(committed):
    made = by_section.text(committed, "../experiments/results")
    docs = COMMITTED.parents[1] / "docs/claims.md"
    assert docs.read_text(encoding="utf-8") == made, f"renew it: {by_section.RENEW}"


def test_a_statement_counts_once_and_the_run_by_the_text_stands_for_it():
    first, again = (make_verdict(identifier=name, verdict=v) for name, v in SAME)
    second = first._replace(claim=replace(first.claim, identifier="a:own", statement="a"))
    attrs = [{"experiment": "xor", "variant": name} for name in ("as-run", "as-described")]
    runs = [
        make_run("run", [again], attrs=attrs[0]),
        make_run("described", [first, second], attrs=attrs[1]),
        make_run("other", [first], attrs={"experiment": "supermask"}),
    ]
    found = distinct.statements(runs)
    assert [(s.run.place, s.verdict.verdict, len(s.repeats)) for s in found] == [
        ("described", "supported", 2),
        ("other", "supported", 0),
    ]
    assert distinct.by_document(runs) == {"000": {"supported": 2}}
    table = by_section.text(runs)
    assert "| own: supported; run: contradicted |" in table


SAME = (("a", "supported"), ("a", "contradicted"))


def test_every_section_has_its_claims(committed):
    """Documents 000 to 004: what they are divided into; what has no run is named with the run it needs."""
    text = by_section.text(committed)
    judged = {s.verdict.claim.document for s in distinct.statements(committed)}
    judged |= {missing.section for missing in by_section.MISSING}
    sections = [f"000, Figure {n}" for n in (1, 3, 4)]
    sections += ["001, abstract", *(f"001 §4.{n}" for n in (2, 3, 4)), "001 §5"]
    sections += [f"002 §{n}" for n in range(2, 7)] + ["003", "003, Figure 7.4", "003, notes"]
    sections += ["004 §1", *(f"004, Figure {n}" for n in range(1, 7)), "004, Table 1"]
    assert set(sections) <= judged
    assert all(f"`{missing.run}`" in text for missing in by_section.MISSING)


def test_the_summary_escapes_and_counts():
    verdicts = [
        make_verdict("a | b <i>", verdict="supported"),
        make_verdict("c", verdict="inconclusive", identifier="two"),
        make_verdict("c again", verdict="supported", identifier="two"),
    ]
    lines = summary.text([make_run("x y", verdicts)], "../there").splitlines()
    ours = r"+1.25 \[+0.75, +1.5\] accuracy points | > 0.5"
    row = rf"| 000 | a \| b &lt;i> | published | {ours} | supported | 11 | – |"
    assert row in lines
    assert "| **all** | 1 | 0 | 1 | 2 | 3 |" in lines  # one is judged twice
    assert "[x y](../there/x%20y/report.md): preset quick; data set none." in lines
