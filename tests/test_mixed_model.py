"""The mixed model: by hand, against SciPy, against a likelihood that knows nothing of sums of squares."""

import numpy as np
import pytest
import scipy

from lth_jax.analysis import mixed_model


def planted(methods, trials, levels, trial=1.0, network=0.7, residual=0.5, method=0.0, both=0.0, seed=0):
    """Balanced data ``[method, trial, level]`` with these standard deviations and effects."""
    rng = np.random.default_rng(seed)
    y = residual * rng.normal(size=(methods, trials, levels))
    y += trial * rng.normal(size=(1, trials, 1)) + network * rng.normal(size=(methods, trials, 1))
    y += method * np.arange(methods)[:, None, None] + np.arange(levels)
    return y + both * np.outer(np.arange(methods), np.arange(levels))[:, None]


def negative_reml(log_variances, y):
    """Less the restricted log likelihood (Patterson & Thompson 1971), from the whole covariance matrix."""
    trial, network, residual = np.exp(log_variances)
    methods, trials, levels = y.shape
    ones = np.ones
    between = np.kron(ones((methods, methods)), np.kron(np.eye(trials), ones((levels, levels))))
    within = np.kron(np.eye(methods * trials), ones((levels, levels)))
    v = trial * between + network * within + residual * np.eye(y.size)
    x = np.kron(np.eye(methods), np.kron(ones((trials, 1)), np.eye(levels)))
    solved = np.linalg.solve(v, x)
    information = x.T @ solved
    left = y.ravel() - x @ np.linalg.solve(information, solved.T @ y.ravel())
    parts = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1] + left @ np.linalg.solve(v, left)
    return 0.5 * float(parts)


def test_variances_are_those_of_the_greatest_restricted_likelihood():
    y = planted(2, 6, 3)
    found = mixed_model.fit(y)
    assert found.negative == ()
    best = scipy.optimize.minimize(
        negative_reml, np.zeros(3), args=(y,), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
    )
    assert best.success
    assert np.exp(best.x / 2) == pytest.approx([found.trial, found.network, found.residual], rel=1e-4)


def test_of_two_methods_the_test_is_the_paired_t_test_of_their_means_over_levels():
    y = planted(2, 7, 4, method=0.5)
    t = scipy.stats.ttest_rel(*y.mean(2))
    found = mixed_model.fit(y).method
    assert (found.f, found.p_value) == pytest.approx((t.statistic**2, t.pvalue))
    assert (found.freedom, found.error_freedom, found.p_least) == (1, 6, found.p_value)


def test_of_two_levels_the_interaction_is_the_analysis_of_variance_of_their_differences():
    y = planted(3, 5, 2, both=0.4)
    f = scipy.stats.f_oneway(*(y[..., 1] - y[..., 0]))
    found = mixed_model.fit(y).interaction
    assert (found.f, found.p_value) == pytest.approx((f.statistic, f.pvalue))
    assert found.p_least == found.p_value  # two levels have one correlation


def test_the_sums_of_squares_by_hand():
    """Two methods, two trials, two levels: 1 2, 3 6 and 2 2, 5 9."""
    found = mixed_model.fit(np.array([[[1.0, 2], [3, 6]], [[2, 2], [5, 9]]]))
    # Cell means 1.5 4.5 / 2 7, of method 3 and 4.5, of trial 1.75 and 5.75, of level 2.75 and 4.75.
    # Squares: method 4.5, trial 32, networks 2; level 8; method × level 0; within, 4 - degrees 2 - 5.
    assert found.method.f == pytest.approx(4.5 / 2)
    assert found.level.f == pytest.approx(8 / (5 / 2))
    assert found.interaction.f == pytest.approx(0.0)
    assert found.trial == pytest.approx(np.sqrt((32 - 2) / 4))
    assert (found.network, found.negative) == (0.0, ("network",))  # (2 - 2.5) / 2
    assert found.residual == pytest.approx(np.sqrt(2.5))


def test_tests_err_as_often_as_they_say_and_see_what_is_planted():
    null = [mixed_model.fit(planted(3, 6, 4, seed=seed)) for seed in range(400)]
    for term in ("method", "interaction"):
        assert np.mean([getattr(one, term).p_value < 0.05 for one in null]) == pytest.approx(0.05, abs=0.03)
    assert all(one.level.p_value <= one.level.p_least < 1e-3 for one in null)
    assert mixed_model.fit(planted(3, 6, 4, method=3.0)).method.p_value < 0.01
    assert mixed_model.fit(planted(3, 6, 4, both=1.0)).interaction.p_value < 0.001


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ones((1, 3, 3)), r"two each, found \(1, 3, 3\); drop"),
        (np.full((2, 3, 3), np.nan), "expected finite"),
        (np.ones((2, 3, 3)), "expected networks and levels that vary"),
    ],
)
def test_what_cannot_be_fitted_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        mixed_model.fit(y)
