"""E3: the tiny networks against NumPy, the readings of success, and the study end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import cli
from experiments.xor import claims as xor_claims
from experiments.xor import experiment as xor
from lth_jax.errors import InputError
from lth_jax.runs import results
from lth_jax.tickets import masks, units

TINY = xor.Config(networks=3, sizes=(4, 2), steps=30)
SOLUTION = {
    "hidden": {"kernel": jnp.array([[2.0, -2.0], [-2.0, 2.0]]), "bias": jnp.zeros(2)},
    "output": {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.array([-1.0])},
}


@pytest.fixture(scope="module")
def found():
    return jax.tree.map(np.asarray, jax.vmap(lambda seed: xor.study(seed, TINY))(jnp.arange(3)))


def test_logits_by_hand():
    # relu(2x − 2y)·3 + relu(2y − 2x)·4 − 1 at (0,0), (0,1), (1,0), (1,1)
    np.testing.assert_allclose(xor.logits(SOLUTION, jnp.asarray(xor.POINTS)), [-1.0, 7.0, 5.0, -1.0])


def adam_in_numpy(params, mask, steps, rate):
    """Masked full-batch Adam on binary cross-entropy, in float64, gradients written out."""
    a, b = (np.array(params["hidden"][k], np.float64) for k in ("kernel", "bias"))
    c, d = (np.array(params["output"][k], np.float64) for k in ("kernel", "bias"))
    theta = [a, b, c, d]
    keep = [np.asarray(mask[layer][k]) for layer in ("hidden", "output") for k in ("kernel", "bias")]
    theta = [w * m for w, m in zip(theta, keep, strict=True)]
    first, second = ([np.zeros_like(w) for w in theta] for _ in range(2))
    for t in range(1, steps + 1):
        a, b, c, d = theta
        before = xor.POINTS @ a + b
        hidden = np.maximum(before, 0)
        delta = (1 / (1 + np.exp(-(hidden @ c + d)[:, 0])) - xor.TARGETS)[:, None] / 4
        back = (delta @ c.T) * (before > 0)
        gradients = [xor.POINTS.T @ back, back.sum(0), hidden.T @ delta, delta.sum(0)]
        for i, (g, m) in enumerate(zip(gradients, keep, strict=True)):
            g = g * m
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            step = first[i] / (1 - 0.9**t) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
            theta[i] = theta[i] - rate * step * m
    return theta


def test_training_agrees_with_numpy():
    start = xor.initialize(7, TINY)
    alive = jnp.array([True, False, True, True])
    mask = units.restrict(masks.ones_like(start), "hidden", "output", alive)
    trained = jax.jit(lambda p, m: xor.fit(p, m, TINY))(start, mask)
    expected = adam_in_numpy(start, mask, TINY.steps, TINY.learning_rate)
    ours = [trained[layer][k] for layer in ("hidden", "output") for k in ("kernel", "bias")]
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(trained["hidden"]["kernel"])[:, 1] == 0)


def test_initial_weights_are_cut_at_two_standard_deviations():
    kernels = jax.vmap(lambda seed: xor.initialize(seed, xor.Config())["hidden"]["kernel"])(jnp.arange(500))
    assert float(jnp.abs(kernels).max()) <= 0.2
    # A normal cut at ±2σ has the standard deviation 0.8796 σ.
    assert float(kernels.std()) == pytest.approx(0.08796, rel=0.02)


def test_a_study_prunes_whole_units_and_nests_them(found):
    assert found.logits.shape == (3, len(xor.STRATEGIES), 2, 4)
    alive = found.params["output"]["kernel"][..., 0] != 0
    np.testing.assert_array_equal(alive[:, :, 0].sum(-1), 4)
    np.testing.assert_array_equal(alive[:, :, 1].sum(-1), 2)
    gone = ~alive
    assert np.all(np.moveaxis(found.params["hidden"]["kernel"], -2, 0)[:, gone] == 0)
    assert np.all(found.params["hidden"]["bias"][gone] == 0)
    np.testing.assert_array_equal(alive[:, 0, 1], [[True, True, False, False]] * 3)


def test_what_is_pruned_is_what_the_score_says(found):
    dense = jax.tree.map(lambda leaf: leaf[:, 0, 0], found.params)
    incoming, outgoing = np.abs(dense["hidden"]["kernel"]).sum(1), np.abs(dense["output"]["kernel"][..., 0])
    expected = {"product": incoming * outgoing, "input": incoming, "output": outgoing}
    expected["one_shot_product"] = expected["product"]
    for name, score in expected.items():
        alive = found.params["output"]["kernel"][:, xor.STRATEGIES.index(name), 1, :, 0] != 0
        best = np.argsort(score, axis=1)[:, 2:]
        np.testing.assert_array_equal(np.sort(best, 1), np.stack([np.flatnonzero(row) for row in alive]))


def test_every_pruned_strategy_begins_with_the_dense_network(found):
    for strategy in range(1, len(xor.STRATEGIES)):
        np.testing.assert_array_equal(found.logits[:, strategy, 0], found.logits[:, 0, 0])


def test_a_network_does_not_depend_on_those_beside_it(found):
    alone = jax.jit(lambda seed: xor.study(seed, TINY))(jnp.asarray(2))
    np.testing.assert_allclose(alone.logits, found.logits[2], rtol=1e-4, atol=1e-5)


def readings(logit):
    measured = xr.Dataset(
        {"logit": (("network", "point"), np.array([logit], np.float32)), "target": ("point", xor.TARGETS)},
        attrs={"config": json.dumps({"tie": 1e-3, "loss_threshold": 0.1})},
    )
    return [bool(xor_claims.success(measured, name)[0]) for name in ("strict", "tolerant", "loss")]


def test_three_readings_of_success():
    assert readings([-5, 5, 5, -5]) == [True, True, True]
    assert readings([-0.1, 0.1, 0.1, -0.1]) == [True, True, False]
    assert readings([-5, 5, 0.0005, 0.0005]) == [False, True, False]
    assert readings([-5, 5, 0, 0]) == [False, True, False]
    assert readings([-9, 9, 9, 0.01]) == [False, False, False]


def test_standard_errors_between_two_shares():
    # Pooled 0.525: √(0.525 · 0.475 · 2/1000) = 0.0223327
    assert xor_claims.errors_apart(0.55, 1000, 0.5, 1000) == pytest.approx(2.23886, rel=1e-5)
    assert xor_claims.errors_apart(0.5, 1000, 0.55, 1000) == pytest.approx(-2.23886, rel=1e-5)
    assert xor_claims.errors_apart(1.0, 10, 1.0, 1000) == 0.0


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"networks": 0}, "--networks"),
        ({"sizes": (10,)}, "--sizes"),
        ({"sizes": (2, 4)}, "--sizes"),
        ({"sizes": (4, 0)}, "--sizes"),
        ({"steps": 0}, "--steps"),
        ({"std": 0.0}, "--std"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"first_seed": -1}, "--first-seed"),
        ({"tie": -1.0}, "--tie"),
    ],
)
def test_impossible_configurations_name_their_flag(wrong, flag):
    with pytest.raises(InputError, match=flag):
        xor.Config(**wrong)


def test_a_stopped_study_goes_on_with_the_networks_that_are_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(xor, "PART", 2)
    arguments = ["--networks", "5", "--steps", "20", "--sizes", "4,2"]
    cli.main(cli.find("xor"), [*arguments, "--out", str(tmp_path / "whole")])
    label, asked = xor.labelled, []

    def stop_at_the_second(found, seeds, config):
        asked.append(list(seeds))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return label(found, seeds, config)

    monkeypatch.setattr(xor, "labelled", stop_at_the_second)
    out = tmp_path / "stopped"
    with pytest.raises(SystemExit) as stop:
        cli.main(cli.find("xor"), [*arguments, "--out", str(out)])
    assert stop.value.code == 130
    capsys.readouterr()
    cli.main(cli.find("xor"), [*arguments, "--out", str(out)])
    printed = capsys.readouterr().out
    assert asked == [[0, 1], [2, 3], [2, 3], [4]]
    assert printed.count("(from before)") == 1
    assert "stage 3/3" in printed
    ours, theirs = (
        results.load(folder / results.RESULTS).drop_attrs() for folder in (out, tmp_path / "whole")
    )
    xr.testing.assert_identical(ours, theirs)


def test_from_command_to_report(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--networks", "6", "--steps", "40", "--sizes", "10,4,2", "--out", str(out)]
    cli.main(cli.find("xor"), arguments)
    assert "(49.1," in capsys.readouterr().out, "the published cell stands beside ours"
    measured = results.load(out / results.RESULTS)
    assert dict(measured["logit"].sizes) == {"network": 6, "strategy": 5, "units": 3, "point": 4}
    assert {path.name for path in (out / "figures").iterdir()} == {"success.png", "boundaries.png"}
    report = (out / results.REPORT).read_text()
    assert "2 units left by iterative pruning beat 2 random units (strict)" in report
    written = (out / results.RESULTS).stat().st_mtime_ns
    cli.main(cli.find("xor"), arguments)
    assert (out / results.RESULTS).stat().st_mtime_ns == written, "a finished run is not trained again"
