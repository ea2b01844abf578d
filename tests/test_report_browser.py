"""The report's page in a real browser: it fits, sorts, filters, and runs no script but its own."""

import itertools
from collections import Counter

import numpy as np
import pytest
from chromium import PATH, browsing, evaluate, open_page, press, screenshot

from experiments.report import sections, wording

in_chromium = pytest.mark.skipif(PATH is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as (call, events):
        yield call, events


@pytest.fixture(scope="module")
def written(tmp_path_factory, committed_page, hostile_page):
    folder = tmp_path_factory.mktemp("pages")
    # As if some text had got through: the page's policy is what then stands in its way.
    broken = committed_page.replace(
        "</main>", "<script>window.taken = 1</script><style>p{color:red}</style></main>"
    )
    pages = {"committed": committed_page, "hostile": hostile_page, "broken": broken}
    for name, html in pages.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return folder


def complaints(events):
    """What the browser's console would show, and addresses asked for that are not the page itself."""
    said = [e["params"]["entry"]["text"] for e in events if e["method"] == "Log.entryAdded"]
    thrown = [e["params"] for e in events if e["method"] == "Runtime.exceptionThrown"]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return said, thrown, [url for url in asked if not url.startswith(("file:", "data:"))]


@in_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_and_looks_as_asked(tab, written, width, scheme):
    call, events = tab
    events.clear()
    open_page(call, written / "committed.html", width, scheme=scheme)
    assert evaluate(call, "document.documentElement.scrollWidth") <= width
    assert evaluate(call, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    parts = "[...document.querySelectorAll('section, section > *')]"
    assert evaluate(call, f"{parts}.every(e => e.getBoundingClientRect().right <= innerWidth)")
    assert complaints(events) == ([], [], [])
    pixels = np.asarray(screenshot(call), np.float64)
    assert pixels.shape == (900, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # text is there, with its soft edges
    brightness = np.median(pixels.mean(2))
    assert brightness > 230 if scheme == "light" else brightness < 50
    card = evaluate(call, "getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert card == "rgb(255, 255, 255)"


CELLS = "[...document.querySelectorAll('#claims tbody tr')].map(r => r.cells[{}].textContent)"
SORT = "[...document.querySelectorAll('#claims th')][{}].getAttribute('aria-sort')"


@in_chromium
def test_columns_are_sorted_by_keyboard(tab, written, committed):
    call, _ = tab
    open_page(call, written / "committed.html", 1280)
    verdicts = [verdict for run in committed for verdict in run.verdicts]
    for column, key, shown in (
        (5, lambda v: v.n, lambda v: f"{v.n:,}"),
        (4, lambda v: v.adjusted_p, wording.p_value),
        (6, lambda v: sections.MARKS[v.verdict], None),
    ):
        before = evaluate(call, CELLS.format(column))
        call(
            "Runtime.evaluate", expression=f"document.querySelectorAll('#claims th button')[{column}].focus()"
        )
        press(call, "Enter", 13)
        assert evaluate(call, SORT.format(column)) == "ascending"
        upwards = evaluate(call, CELLS.format(column))
        if shown:
            assert upwards == [shown(v) for v in sorted(verdicts, key=key)]
        else:
            assert Counter(upwards) == Counter(before)
            kinds = [next(kind for kind in wording.CONCLUSIONS if kind in cell) for cell in upwards]
            assert len([1 for a, b in itertools.pairwise(kinds) if a != b]) == 2  # three groups
        press(call, "Enter", 13)
        assert evaluate(call, SORT.format(column)) == "descending"
        if shown:
            assert evaluate(call, CELLS.format(column)) == [
                shown(v) for v in sorted(verdicts, key=key, reverse=True)
            ]
        press(call, "Enter", 13)
        assert evaluate(call, SORT.format(column)) == "none"
        assert evaluate(call, CELLS.format(column)) == before


@in_chromium
def test_claims_are_filtered(tab, written, committed):
    call, _ = tab
    open_page(call, written / "committed.html", 1280)
    counts = wording.totals(committed)
    rows = "[...document.querySelectorAll('#claims tbody tr')]"
    visible = f"{rows}.filter(r => r.offsetHeight).map(r => r.dataset.verdict)"
    for kind in wording.CONCLUSIONS:
        evaluate(call, f"document.querySelector('.filters .{kind}').click()")
        assert evaluate(call, visible) == [kind] * counts[kind]
        assert evaluate(call, "document.querySelectorAll('.filters [aria-pressed=true]').length") == 1
    evaluate(call, "document.querySelector('.filters button').click()")
    assert len(evaluate(call, visible)) == counts.total()
    evaluate(call, "document.getElementById('containing').focus()")
    call("Input.insertText", text="(STRICT)")
    strict = sum("(strict)" in v.claim.text for run in committed for v in run.verdicts)
    assert len(evaluate(call, visible)) == strict > 0
    status = evaluate(call, "document.querySelector('[role=status]').textContent")
    assert status == f"{strict} of {counts.total()} claims shown"


@in_chromium
@pytest.mark.parametrize("name", ["hostile", "broken"])
def test_nothing_but_the_page_s_own_script_runs(tab, written, name):
    call, events = tab
    events.clear()
    open_page(call, written / f"{name}.html", 360)
    assert evaluate(call, "typeof window.taken") == "undefined"
    said, thrown, asked = complaints(events)
    assert (thrown, asked) == ([], [])
    assert bool(said) == (name == "broken")  # the policy speaks up where it has something to forbid
    assert evaluate(call, "document.documentElement.scrollWidth") <= 360
