"""Published numbers, single runs, shares, and claims of every one: against SciPy, by hand, by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lth_jax.analysis import stats
from lth_jax.analysis.stats import Claim, Published, Single, judge, judge_all, judge_families

OURS = np.array([0.081, 0.079, 0.09, 0.072, 0.085, 0.088, 0.078])
STEP = np.array([0.008, 0.011, 0.006, 0.012, 0.009, 0.011, 0.004])
CLAIM = Claim("c", "000 §1", "a is more than b", "", "greater")
EQUAL = replace(CLAIM, kind="equal", margin=0.005)


def test_welch_is_scipys():
    published = Published(0.109, 0.019, 10)
    found = stats.published_difference(OURS, published)
    theirs = scipy_stats.ttest_ind_from_stats(
        OURS.mean(), OURS.std(ddof=1), 7, 0.109, 0.019, 10, equal_var=False
    )
    assert found.p_value == pytest.approx(theirs.pvalue)
    ours, other = OURS.var(ddof=1) / 7, 0.019**2 / 10
    freedom = (ours + other) ** 2 / (ours**2 / 6 + other**2 / 9)
    interval = scipy_stats.t.interval(0.95, freedom, OURS.mean() - 0.109, np.sqrt(ours + other))
    assert (found.low, found.high) == pytest.approx(interval)


def test_equality_with_a_published_mean_is_two_welch_tests():
    a, b = scipy_stats.norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]), scipy_stats.norm.ppf([0.2, 0.4, 0.6, 0.85])
    found = stats.equivalence(a, Published(float(b.mean()), float(b.std(ddof=1)), 4), 1.9)
    tails = [
        scipy_stats.ttest_ind(a, b + shift, equal_var=False, alternative=side).pvalue
        for shift, side in ((-1.9, "greater"), (1.9, "less"))
    ]
    assert found.p_value == pytest.approx(max(tails))
    assert found.verdict == ("supported" if max(tails) < 0.05 else "inconclusive")


def test_a_published_mean_without_error_is_a_constant():
    exact = stats.published_difference(OURS, Published(0.08, 0.0, 10))
    assert exact == pytest.approx(stats.mean_interval(OURS, 0.08, method="student"))


@pytest.mark.parametrize("published", [Published(np.nan, 1, 5), Published(0, -1, 5), Published(0, 1, 1)])
def test_a_published_number_that_is_none_is_refused(published):
    with pytest.raises(ValueError, match="finite mean, std >= 0 and n > 1"):
        stats.published_difference(OURS, published)


def test_a_prediction_interval_holds_the_next_run_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, (2000, 9))
    found = [stats.published_difference(d[:8], Single(float(d[8]))) for d in draws]
    held = np.mean([low <= 0 <= high for _, low, high, _, _ in found])
    assert held == pytest.approx(0.95, abs=0.02)  # 4 standard errors
    low, high = found[0].low, found[0].high
    half = scipy_stats.t.ppf(0.975, 7) * draws[0, :8].std(ddof=1) * np.sqrt(9 / 8)
    assert (high - low) / 2 == pytest.approx(half)


def test_one_published_run_is_among_ours_or_not():
    claim = replace(CLAIM, kind="one_of", margin=1.0)
    near, far = (judge(claim, OURS, Single(value)) for value in (0.09, 0.2))
    assert (near.verdict, far.verdict) == ("supported", "contradicted")
    assert near.note.startswith("consistent; a distance of 1 would show with a probability of 100%")
    assert stats.holds_if(claim) == "0 in the interval"


@pytest.mark.parametrize(("count", "n"), [(0, 11), (3, 11), (11, 11), (1, 1)])
def test_share_interval_is_scipys(count, n):
    found = stats.share_interval(np.arange(n) < count)
    exact = scipy_stats.binomtest(count, n).proportion_ci(method="exact")
    assert (found.count, found.n, found.share) == (count, n, count / n)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert np.isnan(stats.share_interval([]).share)


def test_a_claim_of_every_one_needs_no_correction():
    """Intersection-union: supported at the largest p, however many parts; Berger 1982."""
    near, far = OURS + STEP, OURS + 0.1 * (1 + OURS)
    alone = judge(CLAIM, near, OURS, method="student")
    found = judge(CLAIM, {"near": near, "far": far}, {"near": OURS, "far": OURS}, method="student")
    assert (found.verdict, found.p_value) == ("supported", alone.p_value)
    assert found.note == "weakest of 2: near"
    assert found.p_value == pytest.approx(scipy_stats.ttest_rel(near, OURS).pvalue)


def test_of_parts_with_one_p_value_the_smallest_is_shown():
    """Sign flips of seven: every part's p is 2 / 2^7."""
    parts = {"large": OURS + 2 * STEP, "small": OURS + STEP, "larger": OURS + 3 * STEP}
    found = judge(CLAIM, parts, dict.fromkeys(parts, OURS))
    assert (found.p_value, found.verdict, found.note) == (2 / 128, "supported", "weakest of 3: small")


def test_one_part_that_fails_contradicts_after_a_correction_for_their_number():
    below = OURS - STEP
    parts = {"above": OURS + 0.1 * (1 + OURS), "below": below}
    found = judge(CLAIM, parts, dict.fromkeys(parts, OURS), method="student")
    assert found.verdict == "contradicted"
    assert found.p_value == pytest.approx(2 * scipy_stats.ttest_rel(below, OURS).pvalue)
    # On the wrong side, but not clearly so: inconclusive, and never for its small p.
    unclear = {
        "above": parts["above"],
        "unclear": OURS - np.array([0.01, -0.01, 0.01, -0.01, 0.01, 0.0, 0.01]),
    }
    found = judge(CLAIM, unclear, dict.fromkeys(unclear, OURS), method="student")
    assert (found.verdict, found.p_value) == ("inconclusive", 1.0)


def test_a_claim_of_every_one_errs_at_most_at_alpha():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):  # one part at its bound, the other far above
        parts = {"null": rng.normal(0, 1, 8), "far": rng.normal(5, 1, 8)}
        hits += judge(CLAIM, parts, {"null": 0.0, "far": 0.0}, method="student").verdict == "supported"
    assert hits / 400 < 0.025 + 4 * np.sqrt(0.025 * 0.975 / 400)


def test_parts_need_the_same_names():
    with pytest.raises(ValueError, match="expected the same names"):
        judge(CLAIM, {"x": OURS}, {"y": OURS})


def test_without_spread_there_is_no_test_and_no_place_in_the_family():
    same = (CLAIM, OURS + 1, OURS)
    other = (CLAIM, OURS + STEP, OURS)
    found = judge_all([same, other], method="student")
    assert (found[0].verdict, found[0].p_value) == ("inconclusive", 1.0)
    assert found[0].note == "all differences equal: no test"
    assert found[1].adjusted_p == found[1].p_value


def test_a_family_is_what_one_section_says():
    up = OURS + STEP
    first, second = CLAIM, replace(CLAIM, document="ICLR 2019")
    found = judge_families([(first, up, OURS), (second, up, OURS), (first, up, OURS)], method="student")
    assert [v.adjusted_p / v.p_value for v in found] == pytest.approx([2, 1, 2])
    assert [v.claim.document for v in found] == ["000 §1", "ICLR 2019", "000 §1"]


def test_facts_are_not_samples():
    assert stats.fact(CLAIM, 0.2).verdict == "supported"
    assert stats.fact(CLAIM, -0.2).verdict == "contradicted"
    assert stats.fact(CLAIM, 0.2).n == 0
    with pytest.raises(ValueError, match="expected 'greater'"):
        stats.fact(EQUAL, 0.0)


@pytest.mark.parametrize(
    ("fields", "said", "needs"),
    [
        ({"unit": "points"}, "+0.693 [+0.5, +1] points", "> 0"),
        ({"base": np.e, "unit": "times"}, "2 [1.65, 2.72] times", "> 1"),
        ({"base": np.e, "kind": "equal", "margin": np.log(1.1), "unit": "times"}, "2 [1.65, 2.72] times",
         "0.909 to 1.1"),
        ({"base": 10.0, "kind": "at_least", "margin": 1.0, "unit": "x"}, "4.93 [3.16, 10] x", "≥ 0.1"),
        ({"offset": 50.0, "kind": "equal", "margin": 1.0, "unit": "%"}, "50.69 [50.5, 51] %", "49 to 51"),
    ],
)  # fmt: skip
def test_people_read_their_own_units(fields, said, needs):
    verdict = judge(replace(CLAIM, **fields), OURS, 0.0)._replace(estimate=np.log(2), low=0.5, high=1.0)
    assert stats.measured(verdict) == said
    assert stats.holds_if(verdict.claim) == needs


def test_another_protocol_is_part_of_what_is_said():
    verdict = stats.under([judge(CLAIM, OURS, 0.0)], "15 of 50 iterations")[0]
    assert stats.said(verdict) == "supported (15 of 50 iterations)"
    assert stats.to_rows([verdict])[0]["protocol"] == "15 of 50 iterations"
