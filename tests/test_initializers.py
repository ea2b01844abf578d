"""Initializers against their formulas, scipy's distributions, and JAX's own initializers."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from lth_jax import initializers, models
from lth_jax.initializers import SCHEMES, fans, get

DENSE, CONVOLUTION = (400, 250), (5, 5, 40, 100)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((784, 300), (784, 300)),
        ((5, 5, 1, 6), (25, 150)),
        ((3, 3, 64, 128), (576, 1152)),
        ((5, 3, 8), (15, 40)),
    ],
)
def test_fans_of_dense_and_convolution_kernels(shape, expected):
    assert fans(shape) == expected


def test_a_bias_has_no_fans():
    with pytest.raises(ValueError, match=r"two or more dimensions"):
        fans((300,))


# Spreads for fan-in 784, fan-out 300, worked out by hand from the papers' formulas.
SPREADS = {
    "xavier_uniform": 0.0743981,
    "xavier_normal": 0.0429538,
    "kaiming_uniform": 0.0618590,
    "kaiming_normal": 0.0357143,
    "xavier_uniform_half": 0.0371991,
    "xavier_normal_double": 0.0859075,
    "he_uniform": 0.0874818,
    "he_normal": 0.0505076,
    "he_normal_fan_out": 0.0816497,
    "he_uniform_fan_out": 0.1414214,
    "kaiming_uniform_fan_out": 0.1000000,
    "kaiming_normal_fan_out": 0.0577350,
    "torch_default": 0.0357143,
    "flax_default": 0.0406017,
    "standard_normal": 1.0,
    "standard_uniform": 0.5,
}


@pytest.mark.parametrize(("name", "expected"), SPREADS.items())
def test_spread_of_the_first_layer_of_lenet(name, expected):
    assert get(name).spread(784, 300) == pytest.approx(expected, rel=1e-5)


def reference(scheme, fan):
    """scipy's distribution of a scheme's weights."""
    spread, center = scheme.spread(*fan), scheme.center
    return {
        "uniform": stats.uniform(center - spread, 2 * spread),
        "normal": stats.norm(center, spread),
        "truncated": stats.truncnorm(-2, 2, center, spread),
    }[scheme.kind]


@pytest.mark.parametrize("shape", [DENSE, CONVOLUTION], ids=["dense", "convolution"])
@pytest.mark.parametrize("name", SCHEMES)
def test_moments_support_and_distribution(name, shape):
    scheme = get(name)
    weights = np.asarray(scheme(jax.random.key(7), shape), np.float64).ravel()
    expected = reference(scheme, fans(shape))
    n, std = weights.size, expected.std()
    assert abs(weights.mean() - expected.mean()) < 5 * std / math.sqrt(n)
    fourth = float(expected.stats("k")) + 2  # Var[s²] = σ⁴ (excess kurtosis + 2) / n
    assert abs(weights.var() - std**2) < 5 * std**2 * math.sqrt(fourth / n)
    low, high = expected.support()
    assert low - 1e-6 <= weights.min()
    assert weights.max() <= high + 1e-6
    assert stats.kstest(weights, expected.cdf).pvalue > 1e-3
    assert initializers.weight_variance(scheme, *fans(shape)) == pytest.approx(std**2, rel=1e-6)


def test_the_kolmogorov_smirnov_test_notices_the_wrong_gain():
    weights = np.asarray(get("he_normal")(jax.random.key(7), DENSE), np.float64).ravel()
    assert stats.kstest(weights, reference(get("kaiming_normal"), DENSE).cdf).pvalue < 1e-6


JAX = jax.nn.initializers
SAME = {
    "xavier_uniform": JAX.glorot_uniform(),
    "xavier_normal": JAX.variance_scaling(1.0, "fan_avg", "normal"),
    "kaiming_uniform": JAX.lecun_uniform(),
    "kaiming_normal": JAX.variance_scaling(1.0, "fan_in", "normal"),
    "kaiming_uniform_fan_out": JAX.variance_scaling(1.0, "fan_out", "uniform"),
    "kaiming_normal_fan_out": JAX.variance_scaling(1.0, "fan_out", "normal"),
    "he_uniform": JAX.he_uniform(),
    "he_normal": JAX.variance_scaling(2.0, "fan_in", "normal"),
    "he_uniform_fan_out": JAX.variance_scaling(2.0, "fan_out", "uniform"),
    "he_normal_fan_out": JAX.variance_scaling(2.0, "fan_out", "normal"),
    "torch_default": JAX.variance_scaling(1 / 3, "fan_in", "uniform"),
    "flax_default": JAX.lecun_normal(),
    "standard_normal": JAX.normal(1.0),
}


@pytest.mark.parametrize("shape", [(40, 30), (5, 5, 3, 6)], ids=["dense", "convolution"])
@pytest.mark.parametrize("name", SAME)
def test_draws_equal_those_of_jax(name, shape):
    key = jax.random.key(3)
    np.testing.assert_allclose(get(name)(key, shape), SAME[name](key, shape), rtol=1e-5)


FUNCTIONS = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "tanh": math.tanh,
    "gelu": lambda z: z * stats.norm.cdf(z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gains_carry_variance_one_on_as_one(name):
    square = integrate.quad(lambda z: FUNCTIONS[name](z) ** 2 * stats.norm.pdf(z), -12, 12, points=[0])[0]
    assert initializers.GAINS[name] ** 2 * square == pytest.approx(1, rel=1e-7)
    assert initializers.for_activation(name).spread(100, 7) == pytest.approx(initializers.GAINS[name] / 10)


def test_relu_gain_is_he_initialization():
    key = jax.random.key(0)
    ours, he = initializers.for_activation("relu"), get("he_normal")
    np.testing.assert_array_equal(ours(key, (30, 20)), he(key, (30, 20)))
    with pytest.raises(ValueError, match=r"no gain .* 'swish'"):
        initializers.for_activation("swish")


def test_a_normal_of_any_standard_deviation_by_name():
    scheme = get("normal:0.025")
    assert (scheme.kind, scheme.spread(3, 5), scheme.center) == ("normal", 0.025, 0.0)


@pytest.mark.parametrize("name", ["xavier", "normal:", "normal:0", "normal:-1", "normal:nan", "normal:x"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"normal|xavier"):
        get(name)


@given(st.floats(0.01, 100), st.integers(1, 2000), st.integers(1, 2000))
def test_scaling_a_scheme_scales_its_spread(factor, fan_in, fan_out):
    scheme = get("xavier_uniform")
    scaled = initializers.scaled(scheme, factor)
    assert scaled.spread(fan_in, fan_out) == pytest.approx(factor * scheme.spread(fan_in, fan_out))
    assert scaled.kind == scheme.kind


def test_a_scheme_is_a_flax_initializer():
    module = nn.Dense(6, kernel_init=get("xavier_normal"))
    params = module.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    assert params["kernel"].shape == (4, 6)
    half = get("he_uniform")(jax.random.key(0), (4, 6), jnp.float16)
    assert half.dtype == jnp.float16


def test_initialize_draws_every_kernel_of_its_own_and_leaves_biases_zero():
    network = models.from_flax(models.MLP((20, 20), classes=4))
    shapes = models.parameter_shapes(network, (5, 4, 1))
    params = initializers.initialize(jax.random.key(1), shapes, get("he_normal"))
    assert all(not np.any(layer["bias"]) for layer in params.values())
    first, second = params["hidden_0"]["kernel"], params["hidden_1"]["kernel"]
    assert first.shape == second.shape == (20, 20)
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.2


def test_initialize_gives_biases_their_kernels_fans():
    network = models.from_flax(models.MLP((2000,), classes=4))
    shapes = models.parameter_shapes(network, (5, 5, 1))
    default = get("torch_default")
    biases = initializers.initialize(jax.random.key(1), shapes, default, default)["hidden_0"]["bias"]
    assert 0.19 < np.abs(biases).max() <= 0.2  # 1/√25
    assert np.std(biases) == pytest.approx(0.2 / math.sqrt(3), rel=0.05)


def test_initialize_refuses_what_is_neither_kernel_nor_bias():
    shapes = {"norm": {"scale": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    with pytest.raises(ValueError, match=r"norm/scale is neither"):
        initializers.initialize(jax.random.key(0), shapes, get("he_normal"))
