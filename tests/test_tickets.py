"""Tickets of a model that is not ours: a small convolutional net with batch normalisation and dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lth_jax
from lth_jax import initializers, masks, training


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
        ({"rate": 1.5}, "outside \\(0, 1\\)"),
        ({"batch_size": 500}, "steps 0"),
        ({"layers": {"neck": 0.1}}, "no layer called neck"),
        ({"prunable": lambda path, leaf: False}, "no prunable parameter"),
    ],
)
def test_impossible_requests_are_named(found, change, message):
    digits, _ = found
    with pytest.raises(ValueError, match=message):
        lth_jax.find_tickets(Theirs(), optax.sgd(0.1), digits, digits, **change)
