"""D_n as a distribution: oracles by simulation and by hand, the model recovered, draws judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lth_jax import initializers
from lth_jax.analysis import distributions as dn

FAN = (784, 300)
PARAMETERS = st.tuples(st.floats(0.01, 3), st.floats(0.1, 3), st.floats(-1, 1))


def model(kind="uniform", spread=0.5, threshold=0.6, displacement=0.25, drift=0.05, center=0.0):
    return dn.Model(kind, center, spread, threshold, displacement, drift)


def simulate(scheme, threshold, displacement, drift, count=200_000, seed=0):
    """Weights drawn, moved and pruned as the model says, none of its formulas used."""
    rng = np.random.default_rng(seed)
    spread = scheme.spread(*FAN)
    draws = {"uniform": lambda: rng.uniform(-1, 1, count), "normal": lambda: rng.normal(size=count)}
    start = spread * draws[scheme.kind]()
    moved = start + spread * rng.normal(drift, displacement, count)
    return start[np.abs(moved) > spread * threshold]


def test_kept_values_are_the_nonzero_kept_kernel_weights():
    params = {"a": {"kernel": jnp.array([[1.0, -2.0], [0.0, 4.0]]), "bias": jnp.array([9.0, 9.0])}}
    mask = {"a": {"kernel": jnp.array([[True, True], [True, False]]), "bias": jnp.array([True, True])}}
    found = dn.kept_values(mask, params, {"a": {"kernel": True, "bias": False}})
    assert {layer: values.tolist() for layer, values in found.items()} == {"a": [1.0, -2.0]}


def test_keep_probability_by_hand():
    x = np.array([0.0, 1.0, -1.0, 30.0])
    # 2Φ(−1); Φ(0) + Φ(−2), twice by symmetry; certain far out.
    expected = [0.317310508, 0.522750132, 0.522750132, 1.0]
    np.testing.assert_allclose(dn.keep_probability(x, 1.0, 1.0, 0.0), expected, atol=1e-9)
    # A drift of 1 moves the whole curve by −1.
    np.testing.assert_allclose(dn.keep_probability(x - 1, 1.0, 1.0, 1.0), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "flax_default", "standard_uniform"])
def test_nothing_pruned_is_the_initializer_itself(name):
    scheme = initializers.get(name)
    spread, before = scheme.spread(*FAN), dn.initial(scheme, FAN)
    oracle = {
        "uniform": stats.uniform(scheme.center - spread, 2 * spread),
        "normal": stats.norm(scheme.center, spread),
        "truncated": stats.truncnorm(-2, 2, scheme.center, spread),
    }[scheme.kind]
    at = scheme.center + spread * np.linspace(-2.5, 2.5, 80)
    np.testing.assert_allclose(dn.density([(1.0, before)], at), oracle.pdf(at), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(dn.cumulative([(1.0, before)], at), oracle.cdf(at), atol=1e-6)


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal"])
def test_the_fit_recovers_what_was_simulated(name):
    scheme, truth = initializers.get(name), (0.7, 0.25, 0.06)
    values = simulate(scheme, *truth)
    fitted = dn.fit(values, scheme, FAN)
    np.testing.assert_allclose(
        [fitted.threshold, fitted.displacement, fitted.drift], truth, rtol=0.05, atol=0.01
    )
    gap = dn.distance(values, lambda w: dn.cumulative([(1.0, fitted)], w))
    # The 99.99 % quantile of Kolmogorov's distribution is 2.2 / √n.
    assert gap < 2.2 / np.sqrt(len(values))
    symmetric = dn.fit(values, scheme, FAN, drifting=False)
    assert symmetric.drift == 0
    worse = dn.distance(values, lambda w: dn.cumulative([(1.0, symmetric)], w))
    before = dn.distance(values, lambda w: dn.cumulative([(1.0, dn.initial(scheme, FAN))], w))
    assert gap < worse < before


def test_the_fit_of_unpruned_weights_prunes_nothing():
    values = np.random.default_rng(1).uniform(-1, 1, 20_000) * initializers.get("xavier_uniform").spread(*FAN)
    fitted = dn.fit(values, initializers.get("xavier_uniform"), FAN)
    at = np.linspace(-1, 1, 11)
    kept = dn.keep_probability(at, fitted.threshold, fitted.displacement, fitted.drift)
    assert np.ptp(kept) / kept.mean() < 0.1


def test_what_cannot_be_fitted_is_refused():
    scheme = initializers.get("xavier_uniform")
    with pytest.raises(ValueError, match="got 0 values"):
        dn.fit(np.array([]), scheme, FAN)
    with pytest.raises(ValueError, match="draws from uniform"):
        dn.fit(np.array([0.01, 0.0751]), scheme, FAN)


def test_a_network_is_the_mixture_of_its_layers():
    layers = {"a": model(spread=0.1), "b": model(kind="normal", spread=0.4)}
    parts = dn.mixture(layers, {"a": 300, "b": 100})
    assert [weight for weight, _ in parts] == [0.75, 0.25]
    at = np.linspace(-0.3, 0.3, 31)
    alone = [dn.density([(1.0, layer)], at) for layer in layers.values()]
    np.testing.assert_allclose(dn.density(parts, at), 0.75 * alone[0] + 0.25 * alone[1])


@settings(max_examples=25, deadline=None)
@given(PARAMETERS, st.sampled_from(["uniform", "normal", "truncated"]))
def test_density_cumulative_and_quantiles_are_one_distribution(parameters, kind):
    parts = [(1.0, model(kind, 0.5, *parameters))]
    at = np.linspace(-3.5, 3.5, 7001)
    below = dn.cumulative(parts, at)
    assert np.all(np.diff(below) >= 0)
    assert below[0] < 1e-9
    assert below[-1] > 1 - 1e-9
    inside = np.arange(-0.4995, 0.4999, 0.0005)  # away from where a uniform's density jumps
    slope = np.diff(dn.cumulative(parts, inside)) / 0.0005
    middle = dn.density(parts, (inside[1:] + inside[:-1]) / 2)
    np.testing.assert_allclose(slope, middle, atol=0.02 * dn.density(parts, at).max())
    table = dn.quantiles(parts, 101)
    assert np.all(np.diff(table) >= 0)
    inner = table[10:91].astype(np.float64)
    np.testing.assert_allclose(dn.cumulative(parts, inner), np.linspace(0.1, 0.9, 81), atol=1e-3)


def test_draws_follow_the_model():
    parts = dn.mixture({"a": model(spread=0.1), "b": model(spread=0.4, drift=-0.1)}, {"a": 1, "b": 1})
    table = jnp.asarray(dn.quantiles(parts))
    drawn = dn.draw(jax.random.key(0), (100, 200), table)
    assert drawn.shape == (100, 200)
    values = np.asarray(drawn, np.float64).ravel()
    assert dn.distance(values, lambda w: dn.cumulative(parts, w)) < 2.2 / np.sqrt(20_000)
    assert np.abs(values).max() <= 0.4
    again = dn.draw(jax.random.key(1), (100, 200), table)
    assert not np.array_equal(drawn, again)


def test_distance_by_hand():
    assert dn.distance(np.array([0.5]), stats.uniform(0, 1).cdf) == pytest.approx(0.5)
    assert dn.distance(np.array([0.25, 0.75]), stats.uniform(0, 1).cdf) == pytest.approx(0.25)
    assert dn.distance(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert dn.distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.0])) == pytest.approx(0.25)


def test_signs_are_taken_from_the_reference():
    drawn = {"kernel": jnp.array([[1.0, -2.0], [3.0, -0.0]]), "bias": jnp.array([-5.0])}
    reference = {"kernel": jnp.array([[-1.0, -7.0], [2.0, 1.0]]), "bias": jnp.array([1.0])}
    signed = dn.with_signs(drawn, reference, {"kernel": True, "bias": False})
    np.testing.assert_array_equal(signed["kernel"], [[-1.0, -2.0], [3.0, 0.0]])
    np.testing.assert_array_equal(signed["bias"], [-5.0])
