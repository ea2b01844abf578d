"""Tickets of a ResNet-20 as the field finds them: everything at once, twice to the same bits."""

import jax
import numpy as np
import optax
import xarray as xr
from conftest import make_digits

import lth_jax
from lth_jax import networks
from lth_jax.augmentation import augmented, crop, cutout, flip, normalize
from lth_jax.tasks import classification


def resnet_tickets(seeds, folder=None):
    """Tickets of a narrow ResNet-20 as the field finds them: everything at once."""
    digits = make_digits()
    task = augmented(classification(), flip, crop(1), normalize((0.3,), (0.3,)), cutout(1))
    warm = optax.linear_schedule(0.0, 0.1, 2)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(warm, 0.9))
    return lth_jax.find_tickets(
        networks.ResNet(20, 4, width=2), optimizer, digits, digits, seeds, 3, 1, 50, scope="global",
        layers={"output": 0}, rewind=2, task=task, folder=folder, keep_weights=[2],
    )  # fmt: skip


def test_a_resnet_with_everything_trains_twice_to_the_same_bits():
    first, again = resnet_tickets((1, 2)), resnet_tickets((1, 2))
    for one, other in zip(
        *(jax.tree.leaves((x.masks, x.weights, x.rewind_to)) for x in (first, again)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    xr.testing.assert_identical(*(x.results.drop_attrs() for x in (first, again)))
    kept = first.results["kept_weights"].sum("layer").values
    spared = first.results["kept_weights"].sel(layer="output/kernel")
    assert (spared == 8 * 4).all()
    np.testing.assert_allclose((kept[:, 1:] - 32) / (kept[:, :-1] - 32), 0.8, atol=2e-3)
    assert np.isfinite(first.results["test_loss"]).all()
    (moved,) = {np.asarray(leaf).any() for leaf in jax.tree.leaves(first.weights[1])}
    assert moved, "statistics have been gathered"
