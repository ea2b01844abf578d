"""Power: against simulations of the very judging that it is of, and closed forms."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lth_jax.analysis import stats
from lth_jax.analysis.power import Spread, needed, power
from lth_jax.analysis.stats import Claim, Published, judge

CLAIM = Claim("c", "000", "a is more than b", "", "greater", effect=1.0)


def supported(kind, margin, sample, other=0.0):
    """Whether the tests that judge a claim find it supported, without its power."""
    if kind == "equal":
        return stats.equivalence(sample, other, margin).verdict == "supported"
    null = margin if kind == "greater" else -margin
    return stats.paired_difference(sample, other, null=null, method="student").low > null


def simulated(kind, truth, margin, n, draws=1500):
    """How often a claim is found supported of runs whose true difference is `truth`, spread 1."""
    rng = np.random.default_rng(n)
    return np.mean([supported(kind, margin, rng.normal(truth, 1, n)) for _ in range(draws)])


@pytest.mark.parametrize(
    ("kind", "effect", "margin", "n"),
    [
        ("greater", 1.0, 0.0, 5),
        ("greater", 1.2, 0.3, 12),
        ("at_least", 0.0, 0.8, 11),
        ("equal", 0.0, 0.9, 11),
        ("equal", 0.3, 1.2, 7),
    ],
)
def test_power_is_how_often_the_judge_finds_it(kind, effect, margin, n):
    expected = power(kind, effect, margin, Spread(1.0), n)
    assert 0.05 < expected < 0.99
    assert simulated(kind, effect, margin, n) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(1500))


def test_power_of_the_t_test_by_its_noncentral_distribution():
    bar = scipy_stats.t.ppf(0.975, 4)
    expected = scipy_stats.nct.sf(bar, 4, 0.5 / (0.4 / np.sqrt(5)))
    assert power("greater", 0.5, 0.0, Spread(0.4), 5) == pytest.approx(expected)


def test_power_against_a_published_mean_counts_its_error():
    """Simulated: ten published runs are drawn each time, as ours are."""
    rng, hits, n = np.random.default_rng(0), 0, 8
    for _ in range(800):
        theirs = rng.normal(0, 2, 10)
        published = Published(float(theirs.mean()), float(theirs.std(ddof=1)), 10)
        hits += supported("equal", 2.5, rng.normal(0, 1, n), published)
    expected = power("equal", 0.0, 2.5, Spread(1.0, 4 / 10, 9), n)
    assert hits / 800 == pytest.approx(expected, abs=0.08)


def test_needed_is_the_first_that_does():
    chance = lambda n: power("greater", 0.5, 0.0, Spread(1.0), n)  # noqa: E731
    n = int(needed(chance))
    assert chance(n) >= 0.9 > chance(n - 1)
    assert n == 44  # a paired t test of d = 0.5
    assert needed(lambda n: power("equal", 0.0, 0.1, Spread(1.0, 0.5, 9), n)) == np.inf
    assert np.isnan(needed(lambda n: power("greater", np.nan, 0.0, Spread(1.0), n)))


def test_a_margin_that_no_spread_reaches():
    assert power("equal", 0.0, 0.01, Spread(1.0), 3) == pytest.approx(0.0, abs=0.01)
    assert power("greater", 500.0, 0.0, Spread(1.0), 5) == 1.0
    assert np.isnan(power("greater", 1.0, 0.0, Spread(0.0), 5))


def test_verdicts_carry_their_power():
    rng = np.random.default_rng(3)
    pairs = [(replace(CLAIM, identifier=str(i)), rng.normal(1, 1, 9), 0.0) for i in range(3)]
    for (claim, a, _), verdict in zip(pairs, stats.judge_all(pairs, method="student"), strict=True):
        spread = Spread(float(a.std(ddof=1)))
        assert verdict.power == pytest.approx(power("greater", 1.0, 0.0, spread, 9))
        both = (needed(lambda n, a=a: power("greater", 1.0, 0.0, spread, n, a)) for a in (0.05, 0.05 / 3))  # noqa: B023
        assert (verdict.needed, verdict.needed_in_family) == tuple(both)
        assert stats.power_of(verdict).startswith(f"{100 * verdict.power:.0f} %; {verdict.needed:.0f} (")
        assert claim is verdict.claim
    assert stats.power_of(judge(replace(CLAIM, effect=np.nan), [1.0, 2.0, 3.0], 0.0)) == "–"


def test_every_undecided_committed_claim_says_how_many_runs_it_needs():
    undecided = [
        row
        for path in (Path(__file__).parents[1] / "experiments/results").rglob("claims.csv")
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if row["verdict"] == "inconclusive"
    ]
    assert len(undecided) > 50
    for row in undecided:
        assert np.isfinite(float(row["power"])), row["identifier"]
        assert float(row["needed"]) >= 2, row["identifier"]
