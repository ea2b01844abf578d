"""`lth_jax.stats`: hand-computed numbers, oracles by enumeration, invariants, and simulated coverage."""

import itertools
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lth_jax.analysis import stats
from lth_jax.analysis.stats import equivalence, holm, mean_interval, paired_difference

# Darwin's maize, crossed minus self-fertilized heights in eighths of an inch. Fisher (1935, section 21)
# counts 863 of the 2^15 sign patterns at or above the total of 314; section 17 has t = 2.148.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

hundredths = st.integers(-500, 500).map(lambda hundredth: hundredth / 100)
pairs = st.lists(st.tuples(hundredths, hundredths), min_size=2, max_size=9)
fast = settings(max_examples=40, deadline=None)


def enumerated_p(differences):
    """Two-sided sign-flip p by visiting every pattern in exact arithmetic."""
    d = [Fraction(x).limit_denominator(10_000) for x in differences]
    patterns = list(itertools.product([1, -1], repeat=len(d)))
    sums = [abs(sum(sign * x for sign, x in zip(signs, d, strict=True))) for signs in patterns]
    return float(Fraction(sum(total >= abs(sum(d)) for total in sums), len(patterns)))


def enumerated_bca(d, confidence):
    """Efron 1987, equation 6.5, over all n^n resamples: no chance is left in it."""
    d, normal = np.asarray(d, float), scipy_stats.norm
    means = np.array([np.mean(resample) for resample in itertools.product(d, repeat=len(d))])
    share = np.mean(means < d.mean() - 1e-9) + np.mean(np.abs(means - d.mean()) < 1e-9) / 2
    bias, centred = normal.ppf(share), d - d.mean()
    acceleration = np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5)
    z = bias + normal.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    return np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))


# summary


def test_summary_leaves_out_diverged_seeds():
    values = [[1.0, 2.0, 3.0, np.nan], [5.0, np.inf, np.nan, -np.inf], [np.nan] * 4]
    mean, std, n = stats.summary(values)
    np.testing.assert_array_equal(mean, [2.0, 5.0, np.nan])
    np.testing.assert_array_equal(std, [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(n, [3, 1, 0])


def test_summary_takes_any_axis_and_formats_as_a_number():
    np.testing.assert_allclose(stats.summary([[1.0, 10.0], [3.0, 30.0]], axis=0).std, np.sqrt([2, 200]))
    one = stats.summary([1.0, 2.0, 4.0])
    assert (f"{one.mean:.3f}", f"{one.std:.3f}", int(one.n)) == ("2.333", "1.528", 3)
    none = stats.summary([np.nan, np.inf])
    assert (f"{none.mean:.1f}", f"{none.std:.1f}", int(none.n)) == ("nan", "nan", 0)


def test_summary_of_float32_is_computed_in_float64():
    values = np.float32([20000.0, 20000.25, 20000.5])
    assert float(stats.summary(values).std) == 0.25


# p-values


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),
        ([3, 1, -1], 6 / 8),  # |sum| = 3 is reached by ±(3+1+1), ±(3+1-1), ±(3-1+1)
        ([1, 1, -1], 1.0),
        ([0, 0, 0], 1.0),
        ([1] * 5, 2 / 32),
        ([1] * 11, 2 / 2048),
        ([1] * 16, 2 / 65536),
        (MAIZE, 2 * 863 / 32768),
    ],
)
def test_sign_flip_p_by_hand(differences, p):
    assert paired_difference(differences, np.zeros(len(differences)), resamples=100).p_value == p


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sign_flip_ties_survive_the_rounding_of_the_inputs(dtype):
    generator = np.random.default_rng(3)
    for _ in range(10):
        a, b = generator.integers(9700, 9712, (2, 9))  # correct of 10,000: many sums tie
        found = paired_difference(dtype(a / 10_000) * 100, dtype(b / 10_000) * 100, resamples=100)
        assert found.p_value == enumerated_p((a - b).tolist())


def test_sign_flip_p_agrees_with_scipy():
    d = np.random.default_rng(0).normal(0.5, 1, 11)
    found = scipy_stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert paired_difference(d, np.zeros(11)).p_value == pytest.approx(found.pvalue, abs=1e-12)


def test_sign_flip_p_above_sixteen_pairs_is_drawn_and_repeatable():
    d = np.random.default_rng(0).normal(0.5, 1, 17)
    first, again = (paired_difference(d, np.zeros(17), seed=5) for _ in range(2))
    assert first == again
    assert first.p_value != paired_difference(d, np.zeros(17), seed=6).p_value
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1).astype(np.int8)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-9)
    assert first.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))  # 4 standard errors
    assert paired_difference(np.ones(40), np.zeros(40), resamples=999).p_value == 1 / 1000


def test_p_value_of_another_null():
    assert paired_difference([2, 3, 4], [0, 0, 0], null=1.0).p_value == 2 / 8  # as [1, 2, 3]
    assert paired_difference([2, 3, 4], [0, 0, 0], null=3.0).p_value == 1.0


def test_student_by_hand():
    mean, low, high, p, n = paired_difference([1, 2, 3], [0, 0, 0], method="student")
    half = 4.302652729911275 / np.sqrt(3)  # t(0.975, 2) times 1 / sqrt(3)
    assert (mean, n) == (2.0, 3)
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert p == pytest.approx(0.07417990022744853)
    maize = paired_difference(MAIZE, np.zeros(15), method="student")
    assert maize.p_value == pytest.approx(scipy_stats.ttest_1samp(MAIZE, 0).pvalue)
    assert maize.p_value == pytest.approx(0.0497, abs=5e-5)


# intervals


@pytest.mark.parametrize("d", [[0.1, 0.5, 0.9, 2.0, 7.0], [-3, 0.2, 0.4, 0.5, 2], [0, 1, 1, 3, 4, 9]])
def test_bca_interval_is_efrons(d):
    found = paired_difference(d, np.zeros(len(d)), resamples=40_000, confidence=0.9)
    low, high = enumerated_bca(d, 0.9)
    # Resample means of few values are a lattice: allow the sampling error, in units of the range.
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * np.ptp(d))


def test_degenerate_samples():
    empty = paired_difference([np.nan, 1.0], [1.0, np.inf])
    assert np.isnan(empty[:3]).all()
    assert empty[3:] == (1.0, 0)
    one = paired_difference([3.0, np.nan], [1.0, 1.0])
    assert (one.mean, one.p_value, one.n) == (2.0, 1.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert paired_difference([], []).n == 0
    same = paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert same == (1.0, 1.0, 1.0, 2 / 8, 3)
    assert paired_difference([2.0, 3.0], [1.0, 2.0], method="student") == (1.0, 1.0, 1.0, 0.0, 2)
    assert paired_difference([2.0, 3.0], [2.0, 3.0], method="student") == (0.0, 0.0, 0.0, 1.0, 2)
    two = paired_difference([1.0, 3.0], [0.0, 0.0])
    assert (two.low, two.mean, two.high, two.p_value) == (1.0, 2.0, 3.0, 0.5)  # percentiles


def test_rounding_is_no_spread():
    a, b = np.array([0.3, 0.2, 0.9]), np.array([0.2, 0.1, 0.8])
    assert np.ptp(a - b) > 0
    found = paired_difference(a, b)
    assert found.low == found.high == found.mean


def test_takes_what_results_and_jax_hold():
    a, b = np.float32([97.5, 98.25, 99.0, 98.0]), np.float32([97.0, 98.0, 98.0, 98.5])
    expected = paired_difference(a, b)
    seeds = {"seed": [42, 43, 44, 45]}
    assert paired_difference(xr.DataArray(a, seeds), xr.DataArray(b, seeds)) == expected
    assert paired_difference(jnp.asarray(a), jnp.asarray(b)) == expected
    assert paired_difference(a.tolist(), b.tolist()).mean == expected.mean == 0.3125


def test_diverged_seeds_leave_with_their_pair():
    a, b = [1.0, np.nan, 3.0, 4.0, 6.0], [0.0, 5.0, np.inf, 1.0, 1.0]
    assert paired_difference(a, b) == paired_difference([1.0, 4.0, 6.0], [0.0, 1.0, 1.0])


def test_mean_interval_is_the_difference_from_a_constant():
    values = [97.9, 98.1, 98.4, 98.0]
    assert mean_interval(values, 98.0, seed=3) == paired_difference(values, [98.0] * 4, seed=3)
    assert mean_interval([1, 2, 3]).mean == 2.0


def test_bootstrap_interval_covers_nearly_as_often_as_it_says():
    generator = np.random.default_rng(1)
    samples = generator.normal(size=(500, 11))
    found = [paired_difference(d, np.zeros(11), resamples=400, seed=i) for i, d in enumerate(samples)]
    covered = np.mean([low < 0 < high for _, low, high, _, _ in found])
    assert 0.86 < covered < 0.95  # 0.91 in 4,000 samples; 4 standard errors of 500 are 0.05
    rejected = np.mean([difference.p_value < 0.05 for difference in found])
    assert rejected < 0.09  # an exact test: 0.05, and 4 standard errors


@pytest.mark.parametrize("n", [5, 11])
def test_student_interval_covers_as_often_as_it_says(n):
    samples = np.random.default_rng(n).normal(size=(1000, n))
    found = [paired_difference(d, np.zeros(n), method="student") for d in samples]
    covered = np.mean([low < 0 < high for _, low, high, _, _ in found])
    assert covered == pytest.approx(0.95, abs=0.028)  # 4 standard errors


@fast
@given(pairs, st.sampled_from(["bootstrap", "student"]))
def test_swapping_flips_the_difference(values, method):
    a, b = np.array(values).T
    forth = paired_difference(a, b, resamples=200, method=method)
    back = paired_difference(b, a, resamples=200, method=method)
    assert (back.mean, back.low, back.high) == pytest.approx((-forth.mean, -forth.high, -forth.low))
    assert back.p_value == pytest.approx(forth.p_value)
    assert back.n == forth.n
    assert forth.low <= forth.mean + 1e-9
    assert forth.mean <= forth.high + 1e-9


@fast
@given(pairs, hundredths)
@example([(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.01)], -0.02)  # resamples tie with the mean
def test_shifting_both_changes_nothing_and_one_shifts_the_interval(values, shift):
    a, b = np.array(values).T
    still = paired_difference(a, b, resamples=200)
    both = paired_difference(a + shift, b + shift, resamples=200)
    assert tuple(both) == pytest.approx(tuple(still))
    moved = paired_difference(a + shift, b, resamples=200, null=shift)
    assert np.subtract(moved[:3], shift) == pytest.approx(still[:3], abs=1e-9)
    assert moved.p_value == still.p_value


@fast
@given(pairs)
def test_exact_p_is_the_enumerated_one_in_any_order_of_seeds(values):
    a, b = np.array(values).T
    expected = enumerated_p([round(100 * x) for x in a - b])
    assert paired_difference(a, b, resamples=100).p_value == expected
    assert paired_difference(a[::-1], b[::-1], resamples=100).p_value == expected


# equivalence


def test_equivalence_by_hand():
    found = equivalence([1, 2, 3], [1.5, 1.5, 1.5], 2.0)  # differences -0.5, 0.5, 1.5
    half = 2.919985580355516 / np.sqrt(3)  # t(0.95, 2) times 1 / sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.p_value == pytest.approx(scipy_stats.t.sf(1.5 * np.sqrt(3), 2))
    assert found.verdict == "inconclusive"
    assert equivalence([1, 2, 3], 1.5, 2.2).verdict == "supported"
    assert equivalence([11, 12, 13], 1.5, 2.2).verdict == "contradicted"
    tails = scipy_stats.t.sf(np.sqrt(3) * np.array([10.5 - 2.2, 10.5 + 2.2]), 2)
    assert equivalence([11, 12, 13], 1.5, 2.2).p_outside == pytest.approx(tails.sum())


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, np.nan], [1.0, np.inf]])
def test_equivalence_without_two_pairs_is_inconclusive(values):
    found = equivalence(values, 1.0, 0.5)
    assert (found.verdict, found.p_value, found.p_outside) == ("inconclusive", 1.0, 1.0)


def test_equivalence_of_identical_runs():
    assert equivalence([1.0, 2.0], [1.0, 2.0], 0.1) == (0.0, 0.0, 0.0, 0.0, 2, "supported", 1.0)
    assert equivalence([2.0, 3.0], [1.0, 2.0], 0.1)[3:] == (1.0, 2, "contradicted", 0.0)


@fast
@given(pairs, st.sampled_from([0.1, 0.7, 2.0]), st.sampled_from([0.01, 0.05, 0.2]))
def test_equivalence_interval_and_tost_agree(values, margin, alpha):
    a, b = np.array(values).T
    found = equivalence(a, b, margin, alpha=alpha)
    assert (found.verdict == "supported") == (found.p_value < alpha)
    d = a - b
    if np.ptp(d) > 1e-9:
        above = scipy_stats.ttest_1samp(d, -margin, alternative="greater").pvalue
        below = scipy_stats.ttest_1samp(d, margin, alternative="less").pvalue
        assert found.p_value == pytest.approx(max(above, below))
    swapped = equivalence(b, a, margin, alpha=alpha)
    assert (swapped.low, swapped.verdict) == (pytest.approx(-found.high), found.verdict)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_outside_test_at_the_margin_errs_at_alpha(shift):
    # Mean at the edge of ±0.001 (nearly a two-sided t test) or of ±1 (nearly a one-sided one).
    generator = np.random.default_rng(2)
    margin = max(shift, 0.001)
    found = [equivalence(d, 0.0, margin) for d in generator.normal(margin, 1, (1000, 8))]
    assert np.mean([f.p_outside < 0.05 for f in found]) == pytest.approx(0.05, abs=0.028)


# families


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.5, 0.5]), [1.0, 1.0, 1.0])
    np.testing.assert_allclose(holm([0.04]), [0.04])
    assert holm([]).shape == (0,)


@fast
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_bonferroni_and_keeps_the_order(p_values):
    p, adjusted = np.array(p_values), holm(p_values)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(1, len(p) * p) + 1e-15)
    order = np.argsort(p)
    assert np.all(np.diff(adjusted[order]) >= 0)
