"""Variance in depth: against NumPy in float64, closed forms, and the theory's own numbers."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from experiments import cli
from experiments.variance_propagation import (
    claims as variance_propagation_claims,
)
from experiments.variance_propagation import (
    experiment as variance_propagation,
)
from experiments.variance_propagation import (
    training as variance_propagation_training,
)
from lth_jax import initializers, models
from lth_jax.analysis import variance
from lth_jax.keys import stream
from lth_jax.types import Split

LN10 = math.log(10)


def normal(weight_variance):
    return variance_propagation.normal(weight_variance)


def test_stack_sizes_repeat_the_widths():
    assert variance.stack_sizes(7, (5, 3), 3) == (7, 5, 3, 5, 1)
    with pytest.raises(ValueError, match=r"depth 0"):
        variance.stack_sizes(7, (5,), 0)
    with pytest.raises(ValueError, match=r"widths \(5, 0\)"):
        variance.stack_sizes(7, (5, 0), 2)


def test_steps_add_up_from_the_input_up_and_from_the_output_down():
    steps = variance.Steps(np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0]))
    found = variance.accumulate(steps)
    np.testing.assert_allclose(found.forward, [1, 3])
    assert found.output == 7
    np.testing.assert_allclose(found.backward, np.array([30, 20]) + 7 + math.log(4))


FUNCTIONS = {
    "identity": lambda u: u,
    "relu": lambda u: np.maximum(u, 0),
    "tanh": np.tanh,
    "gelu": lambda u: u * special.ndtr(u),
}


def by_differences(seed, sizes, scheme, activation):
    """ln mean squares of f_k and of ∂(output²)/∂f_k by central differences, in float64 NumPy."""
    layers, kernels = variance.make_layers(sizes, scheme), []
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        key = jax.random.fold_in(stream(seed, "init", 0), k)
        square = initializers.standard_sample(scheme.kind, key, (max(sizes), max(sizes)), jnp.float32)
        kernel = layers.center[k] + layers.spread[k] * np.asarray(square, np.float64)
        kernels.append(kernel[:fan_in, :fan_out])
    x = np.asarray(jax.random.normal(stream(seed, "sample", 0), (sizes[0],)), np.float64)

    def play(pushed=-1, unit=0, by=0.0):
        hidden, pres = x, []
        for k, kernel in enumerate(kernels):
            pres.append(hidden @ kernel)
            if k == pushed:
                pres[-1][unit] += by
            hidden = FUNCTIONS[activation](pres[-1])
        return pres

    slopes = [
        [(play(k, i, 1e-6)[-1][0] ** 2 - play(k, i, -1e-6)[-1][0] ** 2) / 2e-6 for i in range(size)]
        for k, size in enumerate(sizes[1:-1])
    ]
    return [[np.log(np.mean(np.square(a))) for a in found] for found in (play()[:-1], slopes)]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("relu", "he_normal"),
        ("tanh", "xavier_uniform"),
        ("gelu", "flax_default"),
        ("identity", "standard_uniform"),
    ],
)
def test_one_network_equals_plain_numpy(activation, name):
    sizes = variance.stack_sizes(6, (9, 5), 5)
    found = variance.measure([3], sizes, initializers.get(name), activation)
    forward, backward = by_differences(3, sizes, initializers.get(name), activation)
    np.testing.assert_allclose(found.forward[0], forward, atol=2e-4)
    np.testing.assert_allclose(found.backward[0], backward, atol=5e-4)


def test_the_scale_of_relu_weights_only_tilts_the_lines():
    sizes = variance.stack_sizes(10, (8,), 12)
    small, large = (variance.measure([0, 1], sizes, normal(v), "relu") for v in (1e-3, 1e3))
    layers = np.arange(1, 13)
    np.testing.assert_allclose(large.forward - small.forward, np.tile(layers * 6 * LN10, (2, 1)), atol=1e-3)
    difference = (13 + 13 - layers) * 6 * LN10
    np.testing.assert_allclose(large.backward - small.backward, np.tile(difference, (2, 1)), atol=2e-3)


@pytest.mark.parametrize("weight_variance", [1.0, 0.001])
def test_500_layers_neither_overflow_nor_vanish(weight_variance):
    sizes = variance.stack_sizes(20, (20,), 500)
    found = variance.measure(range(8), sizes, normal(weight_variance), "relu")
    theory = variance.predict(sizes, normal(weight_variance), "relu")
    assert all(np.isfinite(values).all() for values in found)
    assert abs(theory.forward[-1]) > 1000  # e^±1000 is beyond float64, let alone float32
    errors = variance.agreement(found.forward, theory.forward).mean_ratio
    assert abs(errors.mean()) < 0.02


def test_tanh_saturates_at_500_layers_and_its_gradient_is_followed():
    sizes = variance.stack_sizes(30, (30,), 500)
    found = variance.measure(range(4), sizes, normal(1.0), "tanh")
    # q = 30 E[tanh²(√q z)]: by the theory's own fixed point, ln q = 3.224.
    assert np.median(found.forward[:, 100:]) == pytest.approx(3.224, abs=0.15)
    assert np.isfinite(found.backward).all()
    assert (found.backward[:, 0] > 200).all()  # chaotic: gradients explode although activations are bounded


def test_seeds_do_not_depend_on_their_company_and_indices_draw_anew():
    sizes = variance.stack_sizes(10, (10,), 4)
    scheme = initializers.get("he_normal")
    first = variance.measure([5, 9], sizes, scheme, "relu")
    again = variance.measure([1, 5], sizes, scheme, "relu")
    other = variance.measure([5, 9], sizes, scheme, "relu", index=1)
    np.testing.assert_allclose(again.forward[1], first.forward[0], rtol=1e-5)
    assert np.abs(other.forward - first.forward).min() > 1e-4


def test_a_dead_network_has_variance_zero_and_no_nan():
    sizes = variance.stack_sizes(1, (1,), 30)
    found = variance.measure(range(20), sizes, initializers.get("he_normal"), "relu")
    assert np.isneginf(found.forward[:, -1]).any()
    assert np.isneginf(found.output).any()
    assert not any(np.isnan(values).any() for values in found)


def test_moments_in_closed_form():
    assert variance.moments("relu", 3.0) == pytest.approx((0.5, 0.5))
    assert variance.moments("identity", -900.0) == pytest.approx((1, 1))
    gelu = 1 / 3 + 1 / (2 * math.pi * math.sqrt(3))
    assert variance.moments("gelu", 0.0)[0] == pytest.approx(gelu, rel=1e-9)
    assert variance.moments("tanh", -600.0) == pytest.approx((1, 1))
    assert variance.moments("gelu", -600.0) == pytest.approx((0.25, 0.25))  # GELU(u) ≈ u/2 near 0
    assert variance.moments("gelu", 300.0) == pytest.approx((0.5, 0.5), rel=1e-3)  # a ReLU far away
    assert variance.moments("tanh", math.log(1e4))[0] == pytest.approx(1e-4, rel=0.01)  # a sign far away


def test_predicted_exponents_of_figure_7_4():
    sizes = variance.stack_sizes(100, (100,), 50)
    expected = {1.0: 85.25, 0.1: 35.25, 0.02: 0.30, 0.01: -14.75, 0.001: -64.75}
    for weight_variance, exponent in expected.items():
        found = variance.predict(sizes, normal(weight_variance), "relu")
        assert found.forward[-1] / LN10 == pytest.approx(exponent, abs=0.01)
    # Backward, σ² = 0.02: 4 E[output²] · 0.02/2 in every layer, the output's variance being 2 as f's.
    flat = variance.predict(sizes, normal(0.02), "relu")
    np.testing.assert_allclose(np.exp(flat.backward), 4 * 2 * 0.02 / 2, rtol=1e-9)


def test_he_fan_in_holds_the_forward_and_fan_out_the_backward_variance():
    sizes = variance.stack_sizes(10, (40, 10), 6)
    fan_in = variance.predict(sizes, initializers.get("he_normal"), "relu")
    fan_out = variance.predict(sizes, initializers.get("he_normal_fan_out"), "relu")
    np.testing.assert_allclose(np.diff(fan_in.forward), 0, atol=1e-9)
    np.testing.assert_allclose(np.diff(fan_out.backward), 0, atol=1e-9)
    np.testing.assert_allclose(np.exp(np.diff(fan_in.backward)), [4, 0.25, 4, 0.25, 4], rtol=1e-9)


def test_uncentred_schemes_have_no_prediction():
    found = variance.predict((4, 4, 1), initializers.get("standard_uniform"), "relu")
    assert np.isnan(found.forward).all()


def test_log_bias_of_narrow_layers_in_closed_form():
    assert variance.relu_log_bias(1) == pytest.approx(-np.euler_gamma)  # ψ(1/2) + ln 4
    two = (2 * (-np.euler_gamma - math.log(2)) + (math.log(2) - np.euler_gamma)) / 3
    assert variance.relu_log_bias(2) == pytest.approx(two)
    assert variance.relu_log_bias(2000) * 2000 == pytest.approx(-2.5, rel=0.01)


def test_three_means_of_many_narrow_networks():
    sizes = variance.stack_sizes(12, (12,), 16)
    scheme = initializers.get("he_normal")
    measured = variance.measure(range(400), sizes, scheme, "relu")
    theory = variance.predict(sizes, scheme, "relu")
    forward = variance.agreement(measured.forward, theory.forward)
    assert abs(forward.mean_ratio.mean()) < 0.025  # unbiased; one in 4096 layers dies
    alive = measured.forward[np.isfinite(measured.forward).all(-1)]
    typical = variance.agreement(alive, theory.forward).typical
    assert typical == pytest.approx(math.expm1(variance.relu_log_bias(12)), abs=0.03)
    assert typical < -0.15
    backward = variance.agreement(measured.backward[:, ::-1], theory.backward[::-1])
    assert abs(backward.mean_ratio.mean()) < 0.025


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-300, 300), st.integers(2, 6))
def test_agreement_finds_a_constant_excess_per_layer(excess, offset, networks):
    predicted = np.linspace(3, 90, 12)
    measured = predicted + offset + excess * np.arange(12) + np.zeros((networks, 1))
    found = variance.agreement(measured, predicted)
    np.testing.assert_allclose(found.mean_ratio, math.expm1(excess), atol=1e-9)
    assert found.mean_variance == pytest.approx(math.expm1(excess), abs=1e-9)
    assert found.typical == pytest.approx(math.expm1(excess), abs=1e-9)


def test_agreement_tells_the_arithmetic_from_the_geometric_mean():
    measured = np.log([[1.0, 1.0, 1.0], [1.0, 3.0, 9.0]])
    found = variance.agreement(measured, np.zeros(3))
    np.testing.assert_allclose(found.mean_ratio, [0, 2])
    assert found.mean_variance == pytest.approx(math.sqrt(5) - 1)  # means 1, 2, 5
    assert found.typical == pytest.approx(math.sqrt(3) - 1)


def test_agreement_counts_a_death_as_a_ratio_of_zero():
    found = variance.agreement(np.array([[0.0, 0.0, -np.inf, -np.inf]]), np.zeros(4))
    np.testing.assert_allclose(found.mean_ratio, [-0.5])  # ratios 1 and 0; 0/0 left out
    assert math.isnan(found.typical)
    both = variance.agreement(np.log([[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.5, 0.5]]), np.zeros(4))
    np.testing.assert_allclose(both.mean_ratio, [0, -0.5 / 3])


@pytest.fixture
def lenet():
    network = models.from_flax(models.MLP((6, 5), classes=4))
    shapes = models.parameter_shapes(network, (4, 4, 1))
    draw = jax.jit(lambda key: initializers.initialize(key, shapes, initializers.get("he_normal")))
    return network, draw(jax.random.key(0))


def test_layer_gradients_sum_to_the_biases(lenet, digits):
    network, params = lenet
    batch = Split(digits.images[:20], digits.labels[:20])
    found, slopes = jax.jit(variance_propagation_training.gradients)(params, batch)
    images = batch.images.astype(jnp.float32) / 255

    def loss(params):
        logits, _ = network.apply(params, {}, images, None)
        return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(20), batch.labels])

    expected = jax.jit(jax.grad(loss))(params)
    np.testing.assert_allclose(found[-1], network.apply(params, {}, images, None)[0], atol=1e-5)
    for name, slope in zip(variance_propagation_training.LAYERS, slopes, strict=True):
        np.testing.assert_allclose(jnp.sum(slope, axis=0), expected[name]["bias"], atol=1e-4)


def test_dead_units_and_weight_changes_are_counted(lenet, digits):
    _, params = lenet
    probe = Split(digits.images[:50], digits.labels[:50])
    killed = {
        **params,
        "hidden_0": {**params["hidden_0"], "bias": jnp.array([-1e3, -1e3, 1e3, 1e3, 1e3, 1e3])},
    }
    killed["hidden_1"] = {**params["hidden_1"], "kernel": 1.5 * params["hidden_1"]["kernel"]}
    seen = jax.jit(variance_propagation_training.look)(killed, params, probe)
    assert seen.dead[0] == pytest.approx(2 / 6)
    assert seen.inactive[0] == pytest.approx(2 / 6)
    np.testing.assert_allclose(seen.weight_change, [0, 0.5, 0], atol=1e-6)


TINY = [
    "--seeds=0-5", "--depth=12", "--inputs=20", "--widths=20", "--variances=0.05,0.1",
    "--schemes=he_normal,normal:0.3,own_gain", "--activations=relu", "--scheme-widths=12,8",
    "--scheme-seeds=4", "--training-schemes=he_normal", "--training-seeds=1", "--epochs=1",
]  # fmt: skip


def test_the_experiment_writes_labelled_results(tmp_path):
    folder = tmp_path / "run"
    cli.main(cli.find("variance_propagation"), [*TINY, "--out", str(folder)])
    with xr.open_dataset(folder / "results.nc") as measured:
        assert measured["forward_log10_variance"].sizes == {"weight_variance": 2, "seed": 6, "layer": 12}
        assert measured["scheme_backward_log10_variance"].dims[:3] == ("activation", "scheme", "scheme_seed")
        assert measured["dead"].sel(network_layer="output").isnull().all()
        assert (measured["test_accuracy"].isel(epoch=1) > 0.5).all()
        assert json.loads(measured.attrs["config"])["variances"] == [0.05, 0.1]
        ratio = variance_propagation_claims.predicted_ratio(measured, "backward", weight_variance=0.1)
        assert ratio == pytest.approx(1.0)
        where = {"activation": "relu", "scheme": "he_normal"}
        layers = variance_propagation_claims.layers_of(measured, "scheme_")
        assert layers == slice(5, 12)  # whole periods of two layers
        ratio = variance_propagation_claims.predicted_ratio(measured, "backward", "scheme_", **where)
        assert ratio == pytest.approx(1.0)
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    assert drawn == [
        "figure7_4_standard_deviation.png",
        "figure7_4_variance.png",
        "schemes.png",
        "three_means.png",
        "training.png",
    ]
    report = (folder / "report.md").read_text()
    assert "Which mean agrees" in report
    assert "Figure 7.4 read twice" not in report  # another depth: the published numbers do not apply


def test_a_part_already_measured_is_read_back(tmp_path, monkeypatch, capsys):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    arguments = [*TINY, "--training-seeds=0", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(variance_propagation, "measure_schemes", stop)
        with pytest.raises(Stopped):
            cli.main(cli.find("variance_propagation"), arguments)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("*.nc")} == {"figure.nc"}
    figure = xr.load_dataset(tmp_path / "run" / "checkpoints" / "figure.nc")
    monkeypatch.setattr(variance_propagation, "measure_figure", pytest.fail)
    cli.main(cli.find("variance_propagation"), arguments)
    assert "stage 1/2  figure: " in capsys.readouterr().out
    measured = xr.load_dataset(tmp_path / "run" / "results.nc")
    for name, values in figure.items():
        xr.testing.assert_identical(measured[name], values)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--schemes xavier", "--schemes: unknown initialization 'xavier'"),
        ("--training-schemes own_gain", "--training-schemes: unknown initialization 'own_gain'"),
        ("--variances 0", "--variances 0.0: must lie between"),
        ("--widths 20,0", "--widths: at least one width"),
        ("--depth 2", "--depth 2: must be at least 3"),
        ("--activation swish", "--activation swish: unknown"),
        ("--seeds 1,2 --scheme-seeds 3", "--scheme-seeds 3: there are 2 seeds"),
        ("--batch-size 5000", "--batch-size 5000: larger than the 4000 training examples"),
    ],
)
def test_wrong_input_is_one_line(flags, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(cli.find("variance_propagation"), [*flags.split(), "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_lines_of_the_experiment_have_draws_of_their_own():
    names = [variance_propagation.draws_of(v) for v in (0.001, 0.01, 0.02, 0.1, 1.0)]
    assert len(set(names)) == 5
    assert names[0] == 220021967
