"""Tickets of a model that is not ours: a small convolutional net with batch normalisation and dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth_jax
from lth_jax import initializers, training
from lth_jax.tickets import masks


class Theirs(nn.Module):
    """A stranger's network."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="stem")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(4, name="head")(x)


@pytest.fixture(scope="module")
def found():
    from conftest import make_digits

    digits = make_digits()
    return digits, lth_jax.find_tickets(
        Theirs(), optax.adamw(0.01), digits, digits, seeds=(3, 4, 5), levels=3, epochs=6, batch_size=20
    )


def test_results_are_labelled(found):
    _, tickets = found
    assert dict(tickets.results.sizes) == {"seed": 3, "level": 3}
    # stem 3·3·1·4 = 36, head 64·4 = 256; 36 → 29 → 23, 256 → 205 → 164.
    np.testing.assert_allclose(tickets.results["kept"][0], [1, 234 / 292, 187 / 292], rtol=1e-6)
    assert float(tickets.results["test_accuracy"].min()) > 0.9


def test_a_ticket_is_the_initial_weights_at_its_mask(found):
    digits, tickets = found
    params, mask = tickets.ticket(seed=4, level=2)
    own = Theirs().init(lth_jax.stream(4, "init"), training.to_float(digits.images[:1]))["params"]
    jax.tree.map(np.testing.assert_array_equal, params, masks.apply(mask, own))
    assert int(mask["head"]["kernel"].sum()) == 164
    assert bool(mask["BatchNorm_0"]["scale"].all())


def test_a_scheme_may_replace_the_modules_own_draw(found):
    digits, _ = found
    scheme, module = initializers.get("xavier_uniform_half"), lth_jax.MLP((6,), classes=4)
    tickets = lth_jax.find_tickets(module, optax.sgd(0.1), digits, digits, (1,), 1, 1, 50, initializer=scheme)
    bound = 0.5 * np.sqrt(6 / (16 + 6))
    assert 0.8 * bound < jnp.abs(tickets.start["hidden_0"]["kernel"]).max() <= bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": "galaxy"}, "unknown scope 'galaxy'"),
        ({"rate": 1.5}, "pruning rate 1.5 of 'rate' is outside 0.0001 … 0.9999"),
        ({"rate": 0.00001}, "outside 0.0001"),
        ({"rate": 0.9, "levels": 4}, "stem/kernel would have none of its 36 weights left at level 2"),
        ({"rate": 0.9, "levels": 5, "scope": "global"}, "all layers would have none of its 292 weights"),
        ({"batch_size": 500}, "batch_size 500: larger than the 200 training examples"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"levels": 0}, "levels 0: expected at least 1"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (2**31,)}, "below 2³¹"),
        ({"layers": {"neck": 0.1}}, "no layer called neck"),
        ({"prunable": lambda path, leaf: False}, "no prunable parameter"),
    ],
)
def test_impossible_requests_are_named(found, change, message):
    digits, _ = found
    with pytest.raises(ValueError, match=message):
        lth_jax.find_tickets(Theirs(), optax.sgd(0.1), digits, digits, **change)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, images):
        logits = nn.Dense(4)(images.reshape(len(images), -1))
        return logits, logits


class Map(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(4)(images)


class Nothing(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images.reshape(len(images), -1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Pair(), "the network (gives a tuple|refuses them: .*tuple)"),  # the second where types are checked
        (Map(), r"the network (gives float32|refuses them: .*f32)\[1,4,4,4\]"),
        (Nothing(), "no prunable parameter"),
    ],
)
def test_modules_that_give_no_logits_are_named(found, module, message):
    digits, _ = found
    with pytest.raises(ValueError, match=message):
        lth_jax.find_tickets(module, optax.sgd(0.1), digits, digits, (1,), 1, 1, 50)


@pytest.mark.parametrize(
    ("seed", "level", "message"),
    [(9, 0, "seed 9: expected one of 3, 4, 5"), (3, 3, "0 to 2"), (3, -1, "0 to 2")],
)
def test_a_ticket_that_is_not_there_is_named(found, seed, level, message):
    with pytest.raises(ValueError, match=message):
        found[1].ticket(seed, level)


def test_a_run_that_diverges_is_marked_and_in_no_mean(found):
    digits, _ = found
    module, wild = lth_jax.MLP((6,), classes=4), optax.sgd(1e30)
    tickets = lth_jax.find_tickets(module, wild, digits, digits, (1, 2), 2, 1, 50)
    assert tickets.results["diverged"].all()
    assert tickets.results["test_accuracy"].isnull().all()
    assert not found[1].results["diverged"].any()
