"""Numbers that prose states are computed from the committed results, and none is left out."""

import re
from pathlib import Path

import pytest
from stated import ROWS

from experiments.report import headlines

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/documents.md", "docs/speed.md")
"""Those that state results; what is not there is not read."""
NOT_RESULTS = {
    "lth_jax", "Tickets of your own model", "What it can do", "The command", "How it is built",
    "Where is what", "Experiments", "Which document is which", "Data", "Licence", "Where to go on",
    "Reliability", "How to trust it",  # whose counts the test run itself counts, see conftest
}  # fmt: skip
"""Sections that say how to use what is there, or what was run: reports say where each result is from."""
NAME = r"LeNet-300-100|LeNet-5|Conv-2|CIFAR-10|hole at 0|\(200, 30\)|\b00[0-4]\b|§\d|\b(?:19|20)\d\d\b"
"""Networks, data, documents, sections, years, the origin: no numbers of results."""
NUMBER = r"(?<![\w.,])[−-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)"


def prose(text: str) -> str:
    """A page's sentences and tables on a line: no code, links' targets, comments, generated blocks."""
    text = re.sub(r"(?s)<!-- headlines: .*?<!-- end of the headlines -->", "", text)
    text = re.sub(r"(?ms)^```.*?^```$", "", text)
    text = re.sub(r"(?m)^(?: {4}.*\n)+", "", text)
    sections = re.split(r"(?m)^#+ (.+)$", text)
    kept = [
        part for head, part in zip(sections[1::2], sections[2::2], strict=True) if head not in NOT_RESULTS
    ]
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|`[^`]*`|(?<=\])\([^)]*\)|<!--.*?-->", "", "\n".join(kept))
    return " ".join(re.sub(r"\*\*|[\[\]]", "", text).split())


def uncovered(text: str, wordings: list[str]) -> list[str]:
    """The numbers of a prose that stand in none of the wordings, with the words around them."""
    open_text = re.sub(NAME, lambda name: "x" * len(name[0]), text)
    spans = [found.span() for words in wordings for found in re.finditer(re.escape(words), text)]
    return [
        text[max(0, number.start() - 40) : number.end() + 30]
        for number in re.finditer(NUMBER, open_text)
        if not any(start <= number.start() and number.end() <= end for start, end in spans)
    ]


@pytest.fixture(scope="module")
def pages():
    return {name: prose((ROOT / name).read_text("utf-8")) for name in PAGES if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def stated():
    """The wordings of every row, with the numbers that the results give."""
    made = [(compute(), wordings) for compute, *wordings in ROWS]
    return [[words.format(*numbers) for words in wordings] for numbers, wordings in made]


def test_every_row_is_what_some_page_says(pages, stated):
    text = "\n".join(pages.values())
    missing = [wordings for wordings in stated if not any(words in text for words in wordings)]
    assert not missing, "the results say this, and no page does: correct the page, or remove the row"


def test_every_number_of_results_is_computed(pages, stated):
    known = [words for wordings in stated for words in wordings]
    left = {name: uncovered(text, known) for name, text in pages.items()}
    assert not any(left.values()), f"no row of tests/stated.py computes these: {left}"


# The mechanism


PAGE = f"""# lth_jax

11 seeds.

## What came out

At 5.5 % LeNet-5 has **0.32** points more ([report](a/b-3.md)), by 001 (2018), −0.5 to 1,000.

```python
x = 7
```

    run 8

{headlines.BEGIN}

| 9 |

{headlines.END}

Then `10` and θ0; ![13 %](a.png) 12 of
the rest.

## Data

14
"""


def test_only_sentences_about_results_are_read():
    assert prose(PAGE) == (
        "At 5.5 % LeNet-5 has 0.32 points more (report), by 001 (2018), −0.5 to 1,000. Then and θ0; 12 of "
        "the rest."
    )


def test_a_number_in_no_wording_is_found():
    text = prose(PAGE)
    known = ["At 5.5 % LeNet-5 has 0.32", "−0.5 to 1,000.", "12 of"]
    assert uncovered(text, known) == []
    assert len(uncovered(text, known[:1])) == 3
    assert len(uncovered(text, [])) == 5
    assert len(uncovered(text.replace("12 of", "13 of"), known)) == 1  # a stale number is not covered
