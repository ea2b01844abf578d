"""Claims under other choices: planted ones that hold up, or do not, and the committed page."""

from dataclasses import replace

import numpy as np
import pytest
from pages import make_run

from experiments.report import gather, headlines, multiverse
from lth_jax.analysis import stats
from lth_jax.analysis.stats import Claim, Published, judge, judge_all, rejudge
from lth_jax.errors import InputError

CLAIM = Claim("a", "000, Figure 3", "a is better", "yes", "greater")
NEAR = replace(CLAIM, identifier="near", kind="at_least", margin=1.0)
UP = np.array([1.0, 2.0, 3.0, 2.5, 1.5, 2.2, 1.8, 2.1])


# Judged again


def test_a_verdict_judged_again_as_it_was_is_the_same(committed):
    """In all that is said of the samples; a note may have been added by the experiment."""
    for run in committed:
        for verdict in [v for v in run.verdicts if v.family][:12]:
            again = rejudge(verdict)
            np.testing.assert_equal(again._replace(note=""), verdict._replace(note=""))


def test_the_others_of_a_family_are_a_choice():
    up = UP[:6]  # p = 2/64 alone
    verdict, other = judge_all([(CLAIM, up, 0.0), (NEAR, up - 2, 0.0)])
    assert (verdict.verdict, verdict.adjusted_p) == ("inconclusive", 4 / 64)
    alone = rejudge(verdict, among=[verdict])
    assert (alone.verdict, alone.adjusted_p) == ("supported", 2 / 64)
    assert rejudge(verdict, among=[other, verdict]).adjusted_p == 4 / 64
    third = judge(CLAIM, up + 1, 0.0)  # of another family
    assert rejudge(verdict, among=[other, third, verdict]).adjusted_p == 6 / 64


def test_a_margin_and_the_tests_are_choices():
    verdict = judge(NEAR, UP - 2.2, 0.0)  # mean -0.19
    assert [rejudge(verdict, margin=m).verdict for m in (0.25, 1.0, 2.0)] == [
        "inconclusive",
        "supported",
        "supported",
    ]
    assert rejudge(verdict, margin=2.0).claim.margin == 2.0
    student = rejudge(verdict, method="student")
    assert student == judge(NEAR, UP - 2.2, 0.0, method="student")
    assert rejudge(student, method="bootstrap") == verdict
    assert rejudge(verdict._replace(protocol="shorter")).protocol == "shorter"


def test_what_cannot_be_judged_again_is_refused():
    arithmetic = stats.fact(CLAIM, 1.0)
    with pytest.raises(ValueError, match="expected one of samples, found 'a'; leave it"):
        rejudge(arithmetic)
    verdict = judge(CLAIM, UP, 0.0)
    with pytest.raises(ValueError, match="expected the verdict too, found a; add it"):
        rejudge(verdict, among=[judge(CLAIM, UP, 0.0), arithmetic])


# Planted claims


@pytest.fixture
def chosen(monkeypatch):
    """Choose the claims ``near`` and ``a`` of the run ``here``."""
    monkeypatch.setattr(headlines, "CHOSEN", {"here": ("a", "near")})


def judged(runs):
    return {one.verdict.claim.identifier: one for one in multiverse.judge(runs)}


def test_robust_and_fragile_claims_are_told_apart(chosen):
    verdicts = judge_all([(CLAIM, UP, 0.0), (NEAR, UP - 2.2, 0.0)])
    found = judged([make_run("here", verdicts)])
    assert set(found["a"].choices) == {"alone", "with all", "t test", "bootstrap"}
    assert (found["a"].grade, found["a"].others) == ("robust", {})
    assert set(found["near"].choices) == set(multiverse.CHOICES)
    assert (found["near"].grade, found["near"].others) == ("fragile", {"margin ½": "inconclusive"})


def test_a_claim_that_needs_to_be_judged_alone_is_fragile(chosen):
    up = UP[:6]
    found = judged([make_run("here", judge_all([(CLAIM, up, 0.0), (NEAR, up - 3, 0.0)]))])
    assert found["a"].verdict.verdict == "inconclusive"
    assert found["a"].grade == "fragile"
    assert found["a"].others["alone"] == "supported"
    rest = judge_all([(replace(CLAIM, identifier=f"rest-{i}"), up - 2, 0.0) for i in range(3)])
    verdicts = [*judge_all([(CLAIM, up, 0.0)]), judge(NEAR, UP, 0.0), *rest]
    assert judged([make_run("here", verdicts)])["a"].others == {"with all": "inconclusive"}


def test_other_readings_measures_and_variants_count(chosen):
    verdicts = [judge(CLAIM, UP, 0.0), judge(NEAR, UP, 0.0)]
    own = judge(replace(CLAIM, identifier="a:own", statement="a"), UP - 2, 0.0)
    at_end, elsewhere = judge(CLAIM, UP + 1, 0.0), judge(CLAIM, -UP, 0.0)
    runs = [
        make_run("here", [*verdicts, own], alternatives={"at the end": [at_end]}),
        make_run("there/fixed", [elsewhere], alternatives={"at the end": [at_end]}),
    ]
    found = judged(runs)
    assert found["a"].readings == {
        "own": "inconclusive",
        "fixed": "contradicted",
        "at the end": "supported",
        "fixed at the end": "supported",
    }
    assert (found["a"].grade, found["near"].grade) == ("turns", "robust")
    assert judged(runs[:1])["a"].grade == "fragile"
    page = multiverse.text(runs, "results")
    assert "Of 2 claims 1 are robust, 0 fragile, and 1 turn, judged 14 times in all." in page
    row = "| [a is better (a)](results/here/report.md) | ✓ supported | ✓ | ✓ | – | – | ✓ | ✓ | "
    assert row + "own ~; fixed ✗; at the end ✓; fixed at the end ✓ | **turns**, 6 of 8 |" in page


def test_tests_are_no_choice_where_there_is_but_one():
    assert not multiverse.tests_apply(judge(replace(CLAIM, kind="equal", margin=1.0), UP, 0.0))
    assert not multiverse.tests_apply(judge(CLAIM, UP, Published(1.0, 0.5, 10)))
    assert not multiverse.tests_apply(stats.fact(CLAIM, 1.0))
    few = judge(CLAIM, UP[:5], 0.0, method="student")
    assert set(multiverse.choices(make_run("here", [few]), few)) == {"alone", "with all", "t test"}


def test_a_headline_that_no_run_judges_is_refused(chosen):
    with pytest.raises(InputError, match="--multiverse: here judges no claim 'near'"):
        multiverse.text([make_run("here", [judge(CLAIM, UP, 0.0)])])


# Committed results


def test_the_committed_page_is_what_the_command_makes(committed):
    page = gather.PACKAGE.parent / "docs/multiverse.md"
    made = multiverse.text(committed, "../experiments/results")
    assert page.read_text(encoding="utf-8") == made, f"renew it: {multiverse.RENEW}"


def test_another_measure_speaks_of_claims_that_are_judged(committed):
    measures = {run.place: run.alternatives for run in committed if run.alternatives}
    assert {"accuracy at the end", "the last epoch's", "ties count as right", "least loss"} <= {
        name for found in measures.values() for name in found
    }
    for run in committed:
        names = {verdict.claim.identifier for verdict in run.verdicts}
        for judged_again in run.alternatives.values():
            assert judged_again
            assert {verdict.claim.identifier for verdict in judged_again} <= names
