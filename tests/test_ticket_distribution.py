"""E2: what its networks start from, its two variants, and end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import cli
from experiments.ticket_distribution import networks, weights
from experiments.ticket_distribution.config import Config, names, presets
from lth_jax import initializers, models
from lth_jax.analysis import distributions
from lth_jax.errors import InputError
from lth_jax.runs import checkpoints, results
from lth_jax.runs import config as configs
from lth_jax.tickets import masks

TINY = ["--seeds", "42-43", "--epochs", "2", "--epochs-per-level", "1", "--batch-size", "100"]
TINY += ["--hidden", "16", "--prunings", "2,10"]
SMALL = Config(hidden=(12,), prunings=(1, 2), seeds=(3,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    cli.main(cli.find("ticket_distribution"), [*TINY, "--out", str(folder)])
    return folder


def made_up_tickets(config, image_shape=(6, 6, 1)):
    """θ0, tickets with random masks and biases, and what is needed to start networks from them."""
    plan, shapes = networks.make_plan(config, 2000, image_shape, 10)
    rng = np.random.default_rng(0)

    def random(share):
        return jax.tree.map(
            lambda leaf, kernel: jnp.asarray((not kernel) | (rng.random(leaf.shape) < share)),
            shapes,
            plan.prunable,
        )

    theta0 = jax.jit(lambda seed: networks.initial_weights(seed, config, shapes))(3)
    trained = jax.tree.map(lambda w: jnp.asarray(w + rng.normal(size=w.shape), jnp.float32), theta0)
    start = plan.rewind(theta0, trained)
    tickets = {str(n): networks.Ticket(random(0.5**n), start, trained) for n in config.prunings}
    table = jnp.linspace(5.0, 6.0, 33)  # values that no initializer here draws
    tables = {n: dict.fromkeys(weights.layer_fans(shapes, plan.prunable), table) for n in tickets}

    def begin(name):
        def start(seed, theta0, tickets, tables):
            return networks.make_start(name, seed, theta0, tickets, tables, config, plan.prunable)

        return jax.jit(start)(jnp.asarray(3, jnp.int32), theta0, tickets, tables)

    return begin, theta0, tickets, plan


def kernels(tree):
    return {layer: np.asarray(leaves["kernel"]) for layer, leaves in tree.items()}


def biases(tree):
    return {layer: np.asarray(leaves["bias"]) for layer, leaves in tree.items()}


def same(one, other):
    return all(np.array_equal(one[layer], other[layer]) for layer in one)


def values_of(ticket, source, layer=None):
    """D_n by the document's definition, in NumPy."""
    mask, weights = kernels(ticket.mask), kernels(source)
    chosen = [layer] if layer else list(weights)
    kept = np.concatenate([weights[name][mask[name]] for name in chosen])
    return kept[kept != 0]


@pytest.mark.parametrize(("source", "pool"), [("initial", "network"), ("trained", "layer")])
def test_reinit_draws_only_values_of_dn(source, pool):
    begin, theta0, tickets, _ = made_up_tickets(
        configs.build(Config, {"": vars(SMALL)}, "", {"source": source, "pool": pool})
    )
    ticket = tickets["2"]
    origin = theta0 if source == "initial" else ticket.trained
    drawn, mask = begin("reinit-2")
    assert same(kernels(mask), kernels(ticket.mask))
    found = {}
    for layer, kernel in kernels(masks.apply(mask, drawn)).items():
        own = kernel[kernels(mask)[layer]]
        allowed = values_of(ticket, origin, layer if pool == "layer" else None)
        assert np.isin(own, allowed).all()
        found[layer] = np.isin(own, values_of(ticket, origin, layer)).mean()
    # Ten output units have few of the whole network's weights: pooled, most of theirs come from elsewhere.
    assert found["output"] < 0.7 if pool == "network" else found["output"] == 1
    several = [len(np.unique(kernel)) for kernel in kernels(drawn).values()]
    assert min(several) > 10, "more than a few of D_n's values are drawn"
    assert same(biases(drawn), biases(ticket.start))


def test_remask_keeps_every_layers_count_and_moves_the_mask():
    """Of filters as of matrices: the network is LeNet-5."""
    config = Config(model="lenet5", prunings=(1, 2))
    begin, theta0, tickets, _ = made_up_tickets(config, (32, 32, 3))
    drawn, mask = begin("remask-2")
    before, after = kernels(tickets["2"].mask), kernels(mask)
    assert {layer: m.sum() for layer, m in after.items()} == {layer: m.sum() for layer, m in before.items()}
    assert all(not np.array_equal(after[layer], before[layer]) for layer in before)
    assert all(m.all() for m in biases(mask).values())
    allowed = values_of(tickets["2"], theta0)
    for layer, kernel in kernels(masks.apply(mask, drawn)).items():
        assert np.isin(kernel[after[layer]], allowed).all()
        assert np.all(kernel[~after[layer]] == 0)
    assert same(biases(drawn), biases(tickets["2"].start))
    assert {layer: m.size for layer, m in after.items()} == {
        "conv_0": 450, "conv_1": 2400, "hidden_0": 48000, "hidden_1": 10080, "output": 840,
    }  # fmt: skip


def test_the_other_networks_start_as_they_say():
    begin, theta0, tickets, _ = made_up_tickets(SMALL)
    full, dense = begin("full")
    assert same(kernels(full), kernels(theta0))
    assert all(m.all() for m in kernels(dense).values())
    pruned, mask = begin("pruned-1")
    assert same(kernels(pruned), kernels(theta0))
    assert same(kernels(mask), kernels(tickets["1"].mask))
    anew, dense = begin("full_dn-2")
    assert all(m.all() for m in kernels(dense).values())
    assert all(np.isin(w, values_of(tickets["2"], theta0)).all() for w in kernels(anew).values())
    modelled, mask = begin("parametric-2")
    assert all(w.min() >= 5 and w.max() <= 6 for w in kernels(modelled).values())
    assert same(kernels(mask), kernels(tickets["2"].mask))
    assert same(biases(modelled), biases(theta0))


def test_signed_is_reinit_with_the_tickets_signs():
    begin, theta0, tickets, _ = made_up_tickets(SMALL)
    (signed, mask), (drawn, _) = begin("signed-2"), begin("reinit-2")
    kept = kernels(tickets["2"].mask)
    assert same(kernels(mask), kept)
    for layer, kernel in kernels(signed).items():
        np.testing.assert_array_equal(np.abs(kernel), np.abs(kernels(drawn)[layer]))
        np.testing.assert_array_equal(
            np.sign(kernel[kept[layer]]), np.sign(kernels(theta0)[layer][kept[layer]])
        )
    assert not same(kernels(signed), kernels(drawn))


def test_as_run_keeps_trained_biases_carries_adam_and_normalizes():
    config = configs.build(
        Config, presets("as-run"), "paper", {"variant": "as-run", "hidden": (12,), "prunings": (1, 2)}
    )
    assert (config.initialization, config.source, config.pool) == ("torch_default", "trained", "network")
    begin, theta0, tickets, plan = made_up_tickets(config)
    assert plan.optimizer == "carried"
    assert same(biases(tickets["1"].start), biases(tickets["1"].trained))
    assert same(kernels(tickets["1"].start), kernels(theta0))
    for name in ("pruned-1", "reinit-1"):
        assert same(biases(begin(name)[0]), biases(tickets["1"].trained)), name
    for name in ("full", "full_dn-1"):
        assert same(biases(begin(name)[0]), biases(theta0)), name
    assert np.abs(biases(theta0)["hidden_0"]).max() > 0, "the framework draws biases too"
    images = jnp.asarray(np.random.default_rng(0).random((2, 6, 6, 1)), jnp.float32)
    plain = models.from_flax(models.MLP((12,)))
    ours, _ = networks.make_network(config, 10).apply(theta0, {}, images, None)
    theirs, _ = plain.apply(theta0, {}, (images - 0.1307) / 0.3081, None)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_weight_decay_is_a_term_of_the_gradient():
    recipe = networks.make_recipe(Config(weight_decay=0.01), models.from_flax(models.MLP((4,))), 2048, 3)
    assert recipe.steps == 6
    rng = np.random.default_rng(0)
    w = rng.normal(size=5)
    params, first, second = {"w": jnp.asarray(w, jnp.float32)}, np.zeros(5), np.zeros(5)
    state = recipe.optimizer.init(params)
    for t in range(1, 4):
        gradient = rng.normal(size=5)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own
            updates, state = recipe.optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        whole = gradient + 0.01 * w
        first, second = 0.9 * first + 0.1 * whole, 0.999 * second + 0.001 * whole**2
        w = w - 1e-3 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(params["w"], w, rtol=1e-6)


def test_networks_are_named_in_their_order():
    assert names(Config(networks=("pruned", "full", "signed"))) == [
        "full", "pruned-6", "signed-6", "pruned-10", "signed-10",
    ]  # fmt: skip
    assert len(names(Config())) == 13


def test_segments_divide_the_epochs():
    assert [networks.segment_epochs(epochs) for epochs in (100, 300, 15, 7, 97, 2)] == [10, 10, 5, 7, 1, 2]


def test_shape_of_a_distribution_by_hand():
    even = np.linspace(0.0005, 0.9995, 1000)
    positive, divot = weights.shape({"a": np.concatenate([even, -even])})
    assert positive == [0.5, 0.5]
    np.testing.assert_allclose(divot, 1.0, rtol=0.01)
    positive, divot = weights.shape({"a": np.array([1.0, 2.0, 3.0, -0.001])})
    assert positive[0] == 0.75
    assert divot[0] == pytest.approx(5.0)  # one of four is near 0, 25 % where 5 % were even
    assert np.isnan(weights.shape({"a": np.array([])})[0]).all()


def test_the_model_of_a_trial_has_not_seen_that_trial():
    scheme, fan = initializers.get("xavier_uniform"), (20, 10)
    rng, spread = np.random.default_rng(0), scheme.spread(20, 10)
    even = [{"a": spread * rng.uniform(-1, 1, 4000)} for _ in range(2)]
    outer = {"a": spread * np.where(rng.random(4000) < 0.5, -1, 1) * rng.uniform(0.8, 1, 4000)}
    samples = weights.Samples(even, {"6": [*even, outer]}, {})
    fitted = weights.fit_models(samples, Config(), {"a": fan})["6"]
    expected = distributions.fit(np.concatenate([even[0]["a"], even[1]["a"]]), scheme, fan)
    assert fitted[2]["a"] == expected
    assert distributions.density([(1.0, fitted[2]["a"])], np.zeros(1)) > 0.9 / (2 * spread)
    assert distributions.density([(1.0, fitted[0]["a"])], np.zeros(1)) < 0.75 / (2 * spread)


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"networks": ()}, "--networks"),
        ({"networks": ("pruned", "pruned")}, "--networks"),
        ({"networks": ("nothing",)}, "--networks"),
        ({"prunings": (10, 6)}, "--prunings"),
        ({"prunings": (0,)}, "--prunings"),
        ({"rate": 1.0}, "--rate"),
        ({"weight_decay": -1e-4}, "--weight-decay"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"hidden": ()}, "--hidden"),
        ({"initialization": "nothing"}, "--initialization"),
        ({"source": "nothing"}, "--source"),
    ],
)
def test_impossible_configurations_name_their_flag(wrong, flag):
    with pytest.raises(InputError, match=flag):
        Config(**wrong)


def test_results_have_named_dimensions_and_exact_sizes(finished):
    with xr.open_dataset(finished / "results.nc") as measured:
        assert dict(measured["test_accuracy"].sizes) == {"network": 13, "seed": 2, "epoch": 2}
        assert measured["network"].values[:3].tolist() == ["full", "pruned-2", "reinit-2"]
        assert measured["prunings"].values.tolist() == [2, 10]
        # 784·16 + 16·10 = 12,704 weights; round(0.2 n) of each layer go at a pruning.
        kept = {"full": 1.0, "remask-2": 8130 / 12704, "signed-2": 8130 / 12704, "full_dn-10": 1.0}
        for name, share in kept.items():
            np.testing.assert_allclose(measured["kept"].sel(network=name), share, rtol=1e-6)
        np.testing.assert_array_equal(measured["kept_weights"].sel(prunings=2), [[8028, 102]] * 2)
        for source in ("initial", "trained"):
            total = measured[f"{source}_histogram"].sum(f"{source}_weight")
            np.testing.assert_array_equal(total, measured["kept_weights"])
        assert float(measured["test_accuracy"].sel(network="full")[:, -1].min()) > 0.6
        assert np.isfinite(measured["train_loss"]).all()
        assert json.loads(measured.attrs["config"])["seeds"] == [42, 43]
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert figures == {
        "figure2_curves.png", "beyond_curves.png", "figure5_distributions.png", "figure5_trained.png",
    }  # fmt: skip
    text = (finished / "report.md").read_text()
    assert "Two readings of accuracy" in text
    assert "98.39 @ 96" in text


def test_a_stopped_run_resumes_to_the_same_numbers(finished, tmp_path, monkeypatch):
    """Stopped after a pruning and after an epoch; with other checkpoints and fewer networks beside."""

    class Stopped(Exception):
        pass

    def stop_after(folder, levels):
        def save(*arguments):
            original(*arguments)
            if (arguments[0].name, arguments[1]) == (folder, levels):
                raise Stopped

        return save

    original, out = checkpoints.save, tmp_path / "run"
    arguments = [*TINY, "--networks", "full,pruned", "--out", str(out)]
    unseen = cli.find("ticket_distribution")._replace(figures=lambda measured, folder: [])
    monkeypatch.setattr(networks, "CHECKPOINT_EPOCHS", 1)
    for place in (("pruning", 1), ("networks", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "save", stop_after(*place))
            with pytest.raises(Stopped):
                cli.main(unseen, arguments)
    cli.main(unseen, arguments)
    ours, theirs = (results.load(folder / "results.nc").drop_attrs() for folder in (out, finished))
    theirs = theirs.sel(network=["full", "pruned-2", "pruned-10"])
    xr.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2.5e-3)
    xr.testing.assert_identical(ours["kept"], theirs["kept"])
