"""Models of all kinds as two functions: linen, NNX, your own; flags, streams, what grows, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits, one_line
from flax import nnx

import lth_jax
from lth_jax import models

DIGITS = make_digits()
IMAGES = jnp.ones((2, 4, 4, 1))


def flat(images):
    return images.reshape(len(images), -1)


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(flat(x)))


class IsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, is_training):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not is_training)(flat(x)))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, *, deterministic: bool = True):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=deterministic)(flat(x)))


class Positional(nn.Module):
    @nn.compact
    def __call__(self, x, is_train, /):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not is_train)(flat(x)))


class Rematerialized(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.remat(Train, static_argnums=(2,))()(x, train)


class OtherStream(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        noise = jax.random.normal(self.make_rng("noise"), flat(x).shape) if train else 0.0
        return nn.Dense(4)(flat(x) + noise)


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = flat(x)
        self.sow("watched", "mean", x.mean())
        return nn.Dense(4)(nn.BatchNorm(not train)(x))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        return nn.Dense(4, kernel_init=kernel)(flat(x))


class Shared(nn.Module):
    """Tied weights: one layer twice."""

    @nn.compact
    def __call__(self, x):
        same = nn.Dense(16)
        return nn.Dense(4)(nn.relu(same(nn.relu(same(flat(x))))))


class Layers(nn.Module):
    """nn.scan over layers: kernels with a leading axis *layer*."""

    @nn.compact
    def __call__(self, x):
        body = nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(4)(body()(flat(x), None)[0])


class Body(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.relu(nn.Dense(16)(carry)), None


class Grouped(nn.Module):
    """Depthwise, grouped and one-dimensional convolutions."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2))(x)
        x = nn.Conv(4, (2, 2), feature_group_count=4)(x)
        x = nn.Conv(4, (2, 2), feature_group_count=2)(x)
        return nn.Dense(4)(nn.Conv(4, (3,))(x.reshape(len(x), -1, 4)).mean(1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.RNN(nn.GRUCell(6))(x[..., 0])[:, -1])


NOISY = [Train(), IsTraining(), Deterministic(), Positional(), Rematerialized(), OtherStream()]
ALL = [*NOISY, Sows(), Boxed(), Shared(), Layers(), Grouped(), Recurrent()]
named = lambda module: type(module).__name__  # noqa: E731


@pytest.mark.parametrize("module", NOISY, ids=named)
def test_noise_is_on_while_training_and_off_in_evaluation(module):
    network = models.from_linen(module)
    params, collections = network.init(jax.random.key(0), IMAGES)
    run = lambda key: np.asarray(network.apply(params, collections, IMAGES, key)[0])  # noqa: E731
    np.testing.assert_array_equal(run(None), run(None))
    one, other = run(jax.random.key(1)), run(jax.random.key(2))
    assert (one != other).any()
    np.testing.assert_array_equal(one, run(jax.random.key(1)))


@pytest.mark.parametrize("module", ALL, ids=named)
def test_every_kind_of_module_gives_tickets(module):
    found = lth_jax.find_tickets(
        module, optax.adam(0.01), DIGITS, DIGITS, seeds=(1,), levels=2, epochs=1, batch_size=50,
        keep_weights=[1],
    )  # fmt: skip
    assert np.isfinite(found.results["test_loss"]).all()
    trained, (_, mask) = found.trained(1, 1).params, found.ticket(1, 1)
    for weight, kept in zip(*map(jax.tree.leaves, (trained, mask)), strict=True):
        assert (np.asarray(weight)[~np.asarray(kept)] == 0).all()


def test_what_a_module_sows_is_not_kept():
    network = models.from_linen(Sows())
    params, collections = network.init(jax.random.key(0), IMAGES)
    assert set(collections) == {"batch_stats"}
    _, later = network.apply(params, collections, IMAGES, jax.random.key(1))
    assert jax.tree.structure(later) == jax.tree.structure(collections)


def test_boxed_parameters_come_unboxed():
    params, _ = models.from_linen(Boxed()).init(jax.random.key(0), IMAGES)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(flat(nnx.relu(self.norm(self.conv(x))))))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(not train, momentum=0.99)(nn.Conv(4, (2, 2))(x)))
        return nn.Dense(4)(nn.Dropout(0.2, deterministic=not train)(flat(x)))


def test_an_nnx_module_is_as_good_as_the_same_in_linen():
    options = {"seeds": (1, 2, 3), "levels": 2, "epochs": 6, "batch_size": 20}
    both = [
        lth_jax.find_tickets(model, optax.adam(0.01), DIGITS, DIGITS, **options).results["test_accuracy"]
        for model in (lth_jax.from_nnx(lambda rngs: Nnx(rngs)), Linen())
    ]
    assert min(float(each.min()) for each in both) > 0.9
    assert abs(float(both[0].mean() - both[1].mean())) < 0.05


def test_an_nnx_modules_noise_and_statistics_follow_the_mode():
    network = lth_jax.from_nnx(lambda rngs: Nnx(rngs))
    params, collections = network.init(jax.random.key(0), IMAGES)
    assert set(params) == {"conv", "norm", "head"}
    still, same = network.apply(params, collections, IMAGES, None)
    np.testing.assert_array_equal(still, network.apply(params, collections, IMAGES, None)[0])
    assert same is collections
    one, moved = network.apply(params, collections, 2 * IMAGES, jax.random.key(1))
    other, _ = network.apply(params, collections, 2 * IMAGES, jax.random.key(2))
    assert (one != other).any()
    assert (moved["norm"]["mean"] != collections["norm"]["mean"]).any()
    assert jax.tree.structure(moved) == jax.tree.structure(collections)


def test_seeds_of_an_nnx_module_start_apart():
    network = lth_jax.from_nnx(lambda rngs: Nnx(rngs))
    one, other = (network.init(jax.random.key(seed), IMAGES)[0]["head"]["kernel"] for seed in (1, 2))
    assert (one != other).all()


def test_a_pair_of_functions_is_a_model():
    def init(key, x):
        return {"layer": {"kernel": 0.1 * jax.random.normal(key, (16, 4))}}, {}

    def apply(params, collections, x, key):
        return flat(x) @ params["layer"]["kernel"], collections

    found = lth_jax.find_tickets(
        (init, apply), optax.adam(0.05), DIGITS, DIGITS, seeds=(1,), levels=2, epochs=4, batch_size=20
    )
    assert float(found.results["test_accuracy"].min()) > 0.9


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Train, r"the class Train: pass an instance, Train\(\)"),
        (Nnx, r"pass from_nnx\(lambda rngs: Nnx\(rngs=rngs\)\)"),
        (Nnx(nnx.Rngs(0)), r"pass from_nnx\(lambda rngs: Nnx\(rngs=rngs\)\)"),
        ("Train", "the model is a str: expected a linen module"),
    ],
)
def test_what_is_no_model_is_told_what_to_pass(model, message):
    with pytest.raises(ValueError, match=message) as error:
        lth_jax.find_tickets(model, optax.sgd(0.1), DIGITS, DIGITS)
    one_line(error)


class NeverDrops(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=True)(flat(x)))


class AlwaysDrops(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(flat(x)))


class OverRuns(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(4)(nn.BatchNorm(not train, axis_name="run")(flat(x)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (NeverDrops(), "Dropout_0 never drops anything"),
        (AlwaysDrops(), "Dropout_0 drops in evaluation too"),
        (OverRuns(), "BatchNorm_0 has axis_name 'run': it could mix seeds"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(module, message):
    with pytest.raises(ValueError, match=message) as error:
        lth_jax.find_tickets(module, optax.sgd(0.1), DIGITS, DIGITS)
    one_line(error)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_seeds_numbers_do_not_depend_on_its_neighbours_whatever_keys_jax_makes(implementation):
    options = {"levels": 2, "epochs": 1, "batch_size": 50}
    with jax.default_prng_impl(implementation):
        alone, beside = (
            lth_jax.find_tickets(Train(), optax.adam(0.01), DIGITS, DIGITS, seeds=seeds, **options)
            for seeds in ((2,), (1, 2, 3))
        )
    for own, other in zip(*(jax.tree.leaves(each.masks) for each in (alone, beside)), strict=True):
        np.testing.assert_array_equal(own[:, 0], other[:, 1])
    np.testing.assert_allclose(
        alone.results["test_loss"].sel(seed=2), beside.results["test_loss"].sel(seed=2), rtol=1e-4
    )


def test_an_initializer_leaves_alone_what_it_has_no_rule_for():
    found = lth_jax.find_tickets(
        Linen(), optax.adam(0.01), DIGITS, DIGITS, seeds=(1,), levels=1, epochs=1, batch_size=50,
        initializer=lth_jax.initializers.get("he_normal"),
    )  # fmt: skip
    assert (found.start["BatchNorm_0"]["scale"] == 1).all()
    own, _ = lth_jax.from_linen(Linen()).init(lth_jax.stream(1, "init"), IMAGES)
    assert (own["Dense_0"]["kernel"] != found.start["Dense_0"]["kernel"][0]).all()
    assert lth_jax.initializers.without_rule(own) == ["BatchNorm_0/bias", "BatchNorm_0/scale"]


def test_attentions_kernels_have_the_fans_of_what_they_multiply():
    attention = nn.MultiHeadDotProductAttention(4, qkv_features=400)
    x = jnp.ones((1, 3, 100))
    shapes = jax.eval_shape(lambda key: attention.init(key, x, x)["params"], jax.random.key(0))
    drawn = lth_jax.initializers.initialize(
        jax.random.key(0), shapes, lth_jax.initializers.get("kaiming_normal")
    )
    np.testing.assert_allclose(float(drawn["query"]["kernel"].std()), 100**-0.5, rtol=0.03)  # [100, 4, 100]
    np.testing.assert_allclose(float(drawn["out"]["kernel"].std()), 400**-0.5, rtol=0.03)  # [4, 100, 100]
