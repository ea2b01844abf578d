"""What a search computes has a digest, and another one wherever what is computed is another."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits

from lth_jax import augmentation, models, search, tasks
from lth_jax.choices import Choices
from lth_jax.runs import identity

DIGITS = make_digits()


class Net(nn.Module):
    """A layer on what ``change`` makes of the images, as somebody's module."""

    change: Callable[[Any], Any]
    draw: Callable[..., Any] = nn.initializers.normal(0.1)
    slope: float = 0.01

    @nn.compact
    def __call__(self, images):
        x = self.change(images.reshape(len(images), -1))
        return nn.Dense(4, kernel_init=self.draw)(nn.leaky_relu(x, self.slope))


def table(last):
    """16 numbers that differ in the last one."""
    return np.append(np.ones(15, np.float32), np.float32(last))[None]


def plain(last):
    return lambda x: x * table(last)


def jitted(last):
    return jax.jit(plain(last))


def in_a_branch(last):
    return lambda x: jax.lax.cond(x[0, 0] > 0, jitted(last), lambda x: x, x)


def in_a_loop(last):
    return lambda x: jax.lax.scan(lambda x, _: (jitted(last)(x), None), x, None, 2)[0]


def drawn_from(last):
    return lambda key, shape, *_: jnp.tile(table(last).T, (1, shape[1]))


def brighter(factor):
    return lambda key, image: image * jnp.float32(factor)


def digest(net=None, step=None, optimizer=None):
    network = models.from_linen(net or Net(plain(1)))
    task = augmentation.augmented(tasks.classification(), *filter(None, [step]))
    choices = Choices(levels=2, epochs=1, batch_size=20)
    initial = lambda key: network.init(key, jnp.zeros((1, 4, 4, 1)))  # noqa: E731
    found = search.prepare(network, optimizer or optax.sgd(0.1), 200, initial, choices, task)
    return identity.program_digest(found, DIGITS, {"test": DIGITS})


CHANGES = {
    "a constant": lambda value: {"net": Net(plain(value))},
    "a constant of a jitted function": lambda value: {"net": Net(jitted(value))},
    "a constant in a branch": lambda value: {"net": Net(in_a_branch(value))},
    "a constant in a loop": lambda value: {"net": Net(in_a_loop(value))},
    "a field": lambda value: {"net": Net(plain(1), slope=value)},
    "an initializer's number": lambda value: {"net": Net(plain(1), nn.initializers.normal(value))},
    "an initializer's constants": lambda value: {"net": Net(plain(1), drawn_from(value))},
    "an initializer's jitted constants": lambda value: {
        "net": Net(plain(1), jax.jit(drawn_from(value), static_argnums=(1, 2)))
    },
    "an augmentation": lambda value: {"step": brighter(value)},
    "an optimizer's number": lambda value: {"optimizer": optax.sgd(value)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_computed_otherwise_is_another_program(change):
    given = CHANGES[change]
    one, same, other = (digest(**given(value)) for value in (0.5, 0.5, np.nextafter(np.float32(0.5), 1)))
    assert one == same  # traced anew: functions and arrays are other objects
    assert one != other
