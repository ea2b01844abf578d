"""Logistic regression: closed forms of two groups, a general optimizer, separation, coverage."""

import numpy as np
import pytest
import scipy

from lth_jax.analysis import logistic

GROUP = np.repeat([0.0, 1.0], [20, 30])
DESIGN = np.column_stack([np.ones(50), GROUP])


def counts(first, second):
    """Ones among 20 and 30 rows."""
    return np.concatenate([np.arange(20) < first, np.arange(30) < second])


def test_two_groups_have_their_odds():
    found = logistic.fit(DESIGN, counts(5, 18))
    assert not found.separated
    odds = [np.log(5 / 15), np.log((18 / 12) / (5 / 15))]
    assert [one.estimate for one in found.coefficients] == pytest.approx(odds, abs=1e-6)
    entropy = scipy.special.xlogy([5, 15, 18, 12], np.array([5, 15, 18, 12]) / [20, 20, 30, 30]).sum()
    assert found.log_likelihood == pytest.approx(entropy)
    # The likelihood-ratio test of two shares: G of the 2 × 2 table.
    g = scipy.stats.chi2_contingency([[5, 15], [18, 12]], correction=False, lambda_="log-likelihood")
    assert found.coefficients[1].p_value == pytest.approx(g.pvalue)


@pytest.mark.parametrize(("first", "second"), [(5, 18), (0, 18)])
def test_an_intervals_ends_are_where_the_ratio_test_rejects(first, second):
    y = counts(first, second)
    found = logistic.fit(DESIGN, y)
    slope = found.coefficients[1]
    assert slope.low < slope.estimate < slope.high

    def profile(value):  # by a general optimizer, over the constant alone
        def loss(constant):
            beta = np.array([constant, value])
            return -logistic.log_likelihood(beta, DESIGN, y, found.separated)

        return -scipy.optimize.minimize_scalar(loss, bounds=(-20, 20), method="bounded").fun

    bar = scipy.stats.chi2.ppf(0.95, 1) / 2
    for end in (slope.low, slope.high):
        assert found.log_likelihood - profile(end) == pytest.approx(bar, abs=1e-4)
    p = scipy.stats.chi2.sf(2 * (found.log_likelihood - profile(0.0)), 1)
    assert slope.p_value == pytest.approx(p, rel=1e-3)


def test_separated_groups_have_the_odds_of_half_a_one_more():
    """Firth's penalty adds a half to each cell of a 2 × 2 table (Jeffreys' prior, one share a group)."""
    found = logistic.fit(DESIGN, counts(0, 18))
    assert found.separated
    assert found.coefficients[1].estimate == pytest.approx(np.log((18.5 / 12.5) / (0.5 / 20.5)), abs=1e-5)
    assert np.isfinite([found.coefficients[1].low, found.coefficients[1].high]).all()


@pytest.mark.parametrize(
    ("y", "apart"),
    [
        ([0, 0, 1, 1], True),  # complete
        ([0, 1, 0, 1], False),
        ([0, 1, 1, 1], True),
        ([1, 1, 0, 0], True),
    ],
)
def test_separation_is_found(y, apart):
    x = np.column_stack([np.ones(4), [1.0, 2.0, 3.0, 4.0]])
    assert logistic.separated(x, np.array(y, bool)) == apart


def test_a_tie_at_the_border_separates_too():
    x = np.column_stack([np.ones(6), [1.0, 2.0, 3.0, 3.0, 4.0, 5.0]])
    assert logistic.separated(x, np.array([0, 0, 0, 1, 1, 1], bool))  # all but the border
    assert not logistic.separated(x, np.array([0, 1, 0, 1, 0, 1], bool))


@pytest.mark.parametrize("penalized", [False, True])
def test_the_maximum_is_a_general_optimizers(penalized):
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(80), rng.normal(size=(80, 2))])
    y = rng.random(80) < scipy.special.expit(x @ [0.5, 1.0, -0.7])
    y = x[:, 1] > 0.2 if penalized else y
    found = logistic.fit(x, y)
    assert found.separated == penalized
    best = scipy.optimize.minimize(
        lambda beta: -logistic.log_likelihood(beta, x, y, penalized), np.zeros(3), tol=1e-9
    )
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    assert [one.estimate for one in found.coefficients] == pytest.approx(best.x, abs=2e-3)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, x = np.random.default_rng(2), np.column_stack([np.ones(60), np.linspace(-1, 1, 60)])
    truth = np.array([-0.3, 1.0])
    held = []
    for _ in range(150):
        slope = logistic.fit(x, rng.random(60) < scipy.special.expit(x @ truth)).coefficients[1]
        held.append(slope.low <= truth[1] <= slope.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (DESIGN[:, [0, 1, 1]], counts(5, 18), "none a combination of others"),
        (DESIGN * np.nan, counts(5, 18), "expected finite columns"),
        (DESIGN, counts(0, 0), "expected ones and zeros, found 0; report the share"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        logistic.fit(x, y)
