"""The table of the best known claims: what the command makes, and what cannot be renewed."""

import pytest

from experiments.report import gather, headlines
from lth_jax.errors import InputError


def test_the_page_holds_what_the_command_makes(committed):
    page = (gather.PACKAGE.parent / "docs/documents.md").read_text(encoding="utf-8")
    made = headlines.renewed(page, committed, "../experiments/results")
    assert page == made, f"renew it: {headlines.RENEW}"


@pytest.mark.parametrize(
    "text",
    [
        "no marks",
        headlines.BEGIN,
        headlines.END + headlines.BEGIN,
        headlines.BEGIN + headlines.BEGIN + headlines.END,
        headlines.BEGIN + headlines.END + headlines.END,
    ],
)
def test_a_page_without_its_marks_is_refused(text, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(InputError, match="expected one line"):
        headlines.read(tmp_path / "page.md")


def test_a_headline_that_no_run_judges_is_refused(committed):
    xor = next(run for run in committed if run.place == "xor")
    others = [run for run in committed if run is not xor]
    with pytest.raises(InputError, match="xor judges no claim 'one-shot-beats-random:strict'"):
        headlines.table([*others, xor._replace(verdicts=())], "")
    with pytest.raises(InputError, match="no results of xor"):
        headlines.table([*others, xor._replace(problem="damaged")], "")
