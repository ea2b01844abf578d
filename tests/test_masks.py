"""Masks: literal trees, and the two laws of a pruned weight (exactly 0, never revived)."""

import jax.numpy as jnp
import numpy as np
import pytest

from lth_jax.tickets import masks

PARAMS = {
    "hidden_0": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)},
    "output": {"kernel": jnp.arange(3.0).reshape(3, 1), "bias": jnp.ones(1)},
}


def mask_of(first, last):
    mask = masks.ones_like(PARAMS)
    mask["hidden_0"]["kernel"] = jnp.asarray(first, bool).reshape(2, 3)
    mask["output"]["kernel"] = jnp.asarray(last, bool).reshape(3, 1)
    return mask


def test_kernels_are_prunable_and_biases_are_not():
    expected = {"hidden_0": {"kernel": True, "bias": False}, "output": {"kernel": True, "bias": False}}
    assert masks.prunable(PARAMS) == expected


def test_nothing_prunable_is_an_error_that_lists_the_parameters():
    with pytest.raises(ValueError, match="no prunable parameter among hidden_0/bias, hidden_0/kernel"):
        masks.prunable(PARAMS, lambda path, leaf: False)


def test_apply_zeroes_exactly_the_pruned_even_when_they_are_not_finite():
    params = {**PARAMS, "output": {"kernel": jnp.array([[jnp.nan], [jnp.inf], [2.0]]), "bias": jnp.ones(1)}}
    masked = masks.apply(mask_of([1, 0, 1, 0, 1, 0], [0, 0, 1]), params)
    np.testing.assert_array_equal(masked["hidden_0"]["kernel"], [[0, 0, 2], [0, 4, 0]])
    np.testing.assert_array_equal(masked["output"]["kernel"], [[0], [0], [2]])


def test_kept_fraction_counts_prunable_leaves_only():
    mask = mask_of([1, 0, 1, 0, 1, 0], [0, 0, 1])
    assert float(masks.kept_fraction(mask, masks.prunable(PARAMS))) == pytest.approx(4 / 9)
    everything = masks.prunable(PARAMS, masks.everything)
    assert float(masks.kept_fraction(mask, everything)) == pytest.approx(8 / 13)
    assert int(masks.counts(mask)["hidden_0"]["kernel"]) == 3


def test_overlap_is_both_over_either():
    one, other = mask_of([1, 1, 0, 0, 0, 0], [1, 0, 0]), mask_of([0, 1, 1, 0, 0, 0], [1, 0, 0])
    assert float(masks.overlap(one, other, masks.prunable(PARAMS))) == pytest.approx(2 / 4)


def test_nested():
    outer, inner = mask_of([1, 1, 0, 1, 0, 0], [1, 1, 0]), mask_of([1, 0, 0, 1, 0, 0], [1, 0, 0])
    assert bool(masks.is_nested(inner, outer))
    assert not bool(masks.is_nested(outer, inner))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["hidden_0"], "mask's tree"),
        (
            lambda m: {**m, "output": {**m["output"], "kernel": jnp.ones((1, 3), bool)}},
            "output/kernel has shape",
        ),
        (lambda m: {**m, "output": {**m["output"], "bias": jnp.ones(1, int)}}, "output/bias has dtype"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        masks.check(change(masks.ones_like(PARAMS)), PARAMS)


def test_a_unit_is_reached_only_through_an_unbroken_path():
    first = jnp.array([[True, False, False], [False, True, False]])
    second = jnp.array([[True, False, False], [False, False, True], [False, True, True]])
    assert masks.reached([first]).tolist() == [True, True, False]
    # The second unit hangs on the third one below it, which nothing reaches.
    assert masks.reached([first, second]).tolist() == [True, False, True]
