"""Schedules: how many weights each level keeps, by literal numbers and by exact rational arithmetic."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth_jax.errors import InputError
from lth_jax.tickets import masks, schedules


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


SHAPES = {"hidden_0": {"bias": shape(8), "kernel": shape(16, 8)}, "output": {"kernel": shape(8, 4)}}
PRUNABLE = masks.prunable(SHAPES)
BLOCKS = {
    "Block_0": {"Dense_0": {"kernel": shape(10, 10)}, "Dense_1": {"kernel": shape(10, 10)}},
    "Block_1": {"Dense_0": {"kernel": shape(10, 10)}, "Dense_1": {"kernel": shape(10, 10)}},
    "Block_10": {"Dense_0": {"kernel": shape(10, 10)}},
}
OF_BLOCKS = masks.prunable(BLOCKS)


def kept(sizes, layer="hidden_0"):
    return sizes.keep[layer]["kernel"].tolist()


def half_even(count, fraction):
    """``fraction`` of ``count`` rounded half to even, in integers alone."""
    whole, rest = divmod(count * fraction.numerator, fraction.denominator)
    return whole + (2 * rest > fraction.denominator or (2 * rest == fraction.denominator and whole % 2 == 1))


@given(st.integers(0, 2**31 - 1), st.integers(1, 9999))
@settings(deadline=None, max_examples=300)
def test_a_part_rounds_the_exact_product_half_to_even(count, tenthousandths):
    exact, rest = divmod(count * tenthousandths, 10_000)
    expected = exact + (2 * rest > 10_000 or (2 * rest == 10_000 and exact % 2 == 1))
    assert schedules.part(count, tenthousandths / 10_000) == expected


def test_every_level_loses_a_fraction_of_the_survivors():
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.2] * 3)
    # 16×8 = 128 and 8×4 = 32 weights: round(0.2·n) fewer each time.
    assert kept(sizes) == [128, 102, 82, 66]
    assert kept(sizes, "output") == [32, 26, 21, 17]
    assert sizes.keep["hidden_0"]["bias"].tolist() == [8, 8, 8, 8]
    assert (sizes.levels, sizes.scope, sizes.one_shot) == (4, "layer", False)
    assert sizes.ranked == PRUNABLE


def test_a_rate_for_each_level():
    shapes, of = {"a": {"kernel": shape(2, 5)}}, {"a": {"kernel": True}}
    # 10; 10 − 2; 8 − 4; 4 − round(0.4) = 4
    assert kept(schedules.iterative(shapes, of, [0.2, 0.5, 0.1]), "a") == [10, 8, 4, 4]
    # 10; 10 − 2; 8 − round(1.6) = 6; 6 − round(1.2) = 5
    assert kept(schedules.iterative(shapes, of, [0.2] * 3), "a") == [10, 8, 6, 5]


def test_without_a_rate_there_is_the_dense_level_alone():
    for scope, expected in (("layer", [128]), ("global", [160])):
        sizes = schedules.iterative(SHAPES, PRUNABLE, [], scope=scope)
        assert sizes.levels == 1
        assert jax.tree.leaves(sizes.keep)[-2 if scope == "layer" else 0].tolist() == expected


def test_one_shot_fractions_are_of_the_dense_network():
    shapes, of = {"a": {"kernel": shape(2, 5)}}, {"a": {"kernel": True}}
    sizes = schedules.one_shot(shapes, of, [0.3, 0.85])
    assert kept(sizes, "a") == [10, 7, 2]  # round(8.5) = 8 go, half to even
    assert sizes.one_shot
    own = schedules.one_shot(SHAPES, PRUNABLE, [0.5, 0.75], [{"output": 0.25}, {"output": 0.0}])
    assert kept(own) == [128, 64, 32]
    assert kept(own, "output") == [32, 24, 32]


@given(st.integers(1, 3000), st.integers(2, 9998), st.integers(2, 6), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_density_is_met_exactly(size, tenthousandths, levels, cut):
    shapes, of = {"a": {"kernel": shape(size, 1)}}, {"a": {"kernel": True}}
    expected = half_even(size, Fraction(tenthousandths, 10_000))
    if expected == 0:
        with pytest.raises(InputError, match="none of its"):
            schedules.to_density(shapes, of, tenthousandths / 10_000, levels, cut_from_dense=cut)
        return
    sizes = schedules.to_density(shapes, of, tenthousandths / 10_000, levels, cut_from_dense=cut)
    counts = kept(sizes, "a")
    assert (counts[0], counts[-1], len(counts)) == (size, expected, levels)
    assert counts == sorted(counts, reverse=True)
    assert sizes.one_shot == cut


@pytest.mark.parametrize("cut", [False, True])
def test_five_percent_of_lenet_300_100(cut):
    shapes = {f"layer_{i}": {"kernel": shape(*s)} for i, s in enumerate([(784, 300), (300, 100), (100, 10)])}
    of = masks.prunable(shapes)
    sizes = schedules.to_density(shapes, of, 0.05, 2, cut_from_dense=cut)
    assert [kept(sizes, name)[-1] for name in shapes] == [11_760, 1_500, 50]
    together = schedules.to_density(shapes, of, 0.05, 2, scope="global", cut_from_dense=cut)
    assert together.keep["all layers"].tolist() == [266_200, 13_310]
    odd = {"a": {"kernel": shape(30, 1)}, "b": {"kernel": shape(50, 1)}}  # 1.5 and 2.5: both 2
    sizes = schedules.to_density(odd, masks.prunable(odd), 0.05, 2, cut_from_dense=cut)
    assert [kept(sizes, name)[-1] for name in odd] == [2, 2]


def test_a_density_is_reached_in_equal_ratios():
    sizes = schedules.to_density(SHAPES, PRUNABLE, 0.125, 4, {"output": 0.5, "hidden_0": 1 / 8})
    assert kept(sizes) == [128, 64, 32, 16]
    assert kept(sizes, "output") == [32, round(32 / 2 ** (1 / 3)), round(32 / 2 ** (2 / 3)), 16]
    spared = schedules.to_density(SHAPES, PRUNABLE, 0.125, 4, {"output": 1.0})
    assert kept(spared, "output") == [32] * 4
    assert not spared.ranked["output"]["kernel"]
    with pytest.raises(ValueError, match="1 levels: expected 2 or more"):
        schedules.to_density(SHAPES, PRUNABLE, 0.5, 1)


def test_layers_are_found_by_path_or_by_a_name_on_it():
    def removed(layers):
        sizes = schedules.iterative(BLOCKS, OF_BLOCKS, [0.5], layers)
        return {
            f"{block}/{dense}": 100 - int(leaf["kernel"][1])
            for block, denses in sizes.keep.items()
            for dense, leaf in denses.items()
        }

    everywhere = dict.fromkeys(removed({}), 50)
    assert set(everywhere.values()) == {50}
    assert removed({"Block_1/Dense_0": 0.1}) == everywhere | {"Block_1/Dense_0": 10}
    assert removed({"/Block_1/Dense_0/": 0.1}) == everywhere | {"Block_1/Dense_0": 10}
    assert removed({"Block_1": 0.1}) == everywhere | {"Block_1/Dense_0": 10, "Block_1/Dense_1": 10}
    first = ("Block_0/Dense_0", "Block_1/Dense_0", "Block_10/Dense_0")
    assert removed({"Dense_0": 0.2}) == everywhere | dict.fromkeys(first, 20)
    longest = {"Block_1/Dense_0": 0.1, "Dense_0": 0.2}
    assert removed(longest) == everywhere | dict.fromkeys(first, 20) | {"Block_1/Dense_0": 10}
    assert removed(dict(reversed(longest.items()))) == removed(longest)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_rate_of_0_spares_a_layer(scope):
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.5] * 2, {"output": 0.0}, scope)
    assert sizes.ranked == {"hidden_0": {"bias": False, "kernel": True}, "output": {"kernel": False}}
    if scope == "layer":
        assert kept(sizes, "output") == [32, 32, 32]
        assert kept(sizes) == [128, 64, 32]
    else:
        assert sizes.keep["all layers"].tolist() == [128, 64, 32]
    np.testing.assert_allclose(
        schedules.kept_fractions(sizes, SHAPES, PRUNABLE), [1, 96 / 160, 64 / 160], rtol=1e-12
    )


def test_all_layers_together_are_counted_as_one():
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.2] * 3, scope="global")
    assert sizes.keep["all layers"].tolist() == [160, 128, 102, 82]  # 160 weights in all
    np.testing.assert_allclose(
        schedules.kept_fractions(sizes, SHAPES, PRUNABLE), np.array([160, 128, 102, 82]) / 160
    )


def test_kept_fractions_are_of_all_prunable_weights():
    sizes = schedules.iterative(SHAPES, PRUNABLE, [0.2] * 3)
    found = schedules.kept_fractions(sizes, SHAPES, PRUNABLE)
    np.testing.assert_allclose(found, np.array([160, 128, 103, 83]) / 160, rtol=1e-12)
    assert found.dtype == np.float64


def test_a_global_ranking_refuses_several_rates():
    with pytest.raises(ValueError, match=r"one rate for all layers, got \[0.1, 0.5\]"):
        schedules.iterative(SHAPES, PRUNABLE, [0.5], {"output": 0.1}, "global")


def test_a_ranking_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one rate for all layers, got none"):
        schedules.iterative(SHAPES, PRUNABLE, [0.5], {"output": 0.0, "hidden_0": 0.0}, "global")


@pytest.mark.parametrize("rate", [0.0, 9e-5, 0.99995, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_rates_finer_than_pruning_are_refused(rate):
    with pytest.raises(ValueError, match=r"'rate' is outside 0\.0001 … 0\.9999"):
        schedules.iterative(SHAPES, PRUNABLE, [rate])
    with pytest.raises(ValueError, match=r"'rate' is outside 0\.0001 … 0\.9999"):
        schedules.one_shot(SHAPES, PRUNABLE, [rate])
    if rate:
        with pytest.raises(ValueError, match=r"'output' is outside"):
            schedules.iterative(SHAPES, PRUNABLE, [0.5], {"output": rate})


@pytest.mark.parametrize("rate", [1e-4, 0.9999])
def test_the_finest_rates_prune(rate):
    large = {"a": {"kernel": shape(1000, 100)}}
    sizes = schedules.iterative(large, masks.prunable(large), [rate])
    assert kept(sizes, "a")[1] == 100_000 - round(100_000 * rate)


@pytest.mark.parametrize("name", ["outptu", "hidden", "output/kernel/more", "bias", "hidden_0/bias", ""])
def test_a_name_that_fits_no_prunable_leaf_is_refused(name):
    with pytest.raises(ValueError, match=f"no layer called {name}; the model has hidden_0, output"):
        schedules.iterative(SHAPES, PRUNABLE, [0.2], {name: 0.1})


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="unknown scope 'network'; expected one of layer, global"):
        schedules.iterative(SHAPES, PRUNABLE, [0.2], scope="network")


def test_a_layer_that_would_lose_its_last_weight_is_named():
    # 32 - round(28.8) = 3, and round(2.7) = 3 go next
    assert kept(schedules.iterative(SHAPES, PRUNABLE, [0.9]), "output") == [32, 3]
    message = "output/kernel would have none of its 32 weights left at level 2 of 4"
    with pytest.raises(InputError, match=message):
        schedules.iterative(SHAPES, PRUNABLE, [0.9] * 3)
    halves = schedules.iterative(SHAPES, PRUNABLE, [0.5] * 999)  # round(0.5) is 0: the last one stays
    assert kept(halves, "output")[-1] == 1
    with pytest.raises(InputError, match="all layers would have none of its 160 weights left at level 1 of"):
        schedules.iterative(SHAPES, PRUNABLE, [0.999], scope="global")


@pytest.mark.parametrize(
    ("rate", "counts"),
    [
        (0.75, [32, 8, 2, 0]),  # round(1.5) = 2 go, half to even
        (0.9, [32, 3, 0]),
        (0.999, [32, 0]),
        (0.3, [32, 22, 15, 11, 8, 6, 4, 3, 2, 1, 1]),  # round(4.5) = 4 and round(0.6) = 1 go, round(0.3) = 0
    ],
)
def test_a_layer_is_emptied_where_its_last_weight_is_rounded_away(rate, counts):
    rates, layers = [1e-4] * (len(counts) - 1), {"output": rate}
    if counts[-1]:
        assert kept(schedules.iterative(SHAPES, PRUNABLE, rates, layers), "output") == counts
        return
    assert kept(schedules.iterative(SHAPES, PRUNABLE, rates[1:], layers), "output") == counts[:-1]
    with pytest.raises(InputError, match=f"output/kernel .* at level {len(rates)} of {len(counts)}"):
        schedules.iterative(SHAPES, PRUNABLE, rates, layers)
