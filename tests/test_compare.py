"""Two runs side by side: levels of one size, differences by hand, masks by hand, what is refused."""

import csv
import io
import json

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import lth_jax
from lth_jax.analysis import comparison, ticket_files
from lth_jax.analysis.connectivity import overlap
from lth_jax.commands import compare as command
from lth_jax.errors import InputError
from lth_jax.runs import results

SIZES = (1.0, 0.8, 0.64)


@pytest.fixture
def place(tmp_path):
    """A folder for invented runs."""
    return tmp_path


def make_run(folder, seeds=(1, 2, 3), kept=SIZES, shift=0.0, masks=None, config=(), **attrs):
    """A run with invented accuracies, and masks of one layer if there are some."""
    draw = np.random.default_rng(len(folder.name))
    values = 0.9 + shift + draw.normal(0, 0.01, (len(seeds), len(kept)))
    measured = xr.Dataset(
        {
            "test_accuracy": (("seed", "level"), values),
            "kept": (("seed", "level"), np.tile(kept, (len(seeds), 1))),
        },
        {"seed": list(seeds), "level": range(len(kept))},
        {"dataset": "digits", "fingerprint": "f1", "config": json.dumps(dict(config)), **attrs},
    )
    folder.mkdir()
    results.save(measured, folder / "results.nc")
    if masks is not None:
        start = {"a/kernel": np.ones((len(seeds), *masks.shape[2:]), np.float32)}
        bits = np.packbits(np.swapaxes(masks, 0, 1).reshape(len(kept), len(seeds), -1), axis=-1)
        stored = ticket_files.Kept({"a/kernel": bits}, start, {}, {})
        ticket_files.write(
            folder / "tickets.npz", seeds, stored, lambda seed: {"a/kernel": start["a/kernel"][0]}
        )
    return values


def drawn_masks(seed, seeds=3, levels=3):
    """``[seed, level, 2, 5]``, about half of the weights kept."""
    return np.random.default_rng(seed).random((seeds, levels, 2, 5)) < 0.5


def test_seeds_in_common_are_paired_and_the_others_named(place, call):
    one = make_run(place / "one", (1, 2, 3, 4), shift=0.02, config={"rate": 0.2, "epochs": 5})
    other = make_run(place / "another", (3, 4, 1, 9), config={"rate": 0.2, "epochs": 3, "score": "snip"})
    found = lth_jax.compare(place / "one", place / "another")
    assert found.attrs["method"] == "paired"
    expected = one[[0, 2, 3]] - other[[2, 0, 1]]
    np.testing.assert_allclose(found["difference"].sel(end="mean"), expected.mean(0))
    for place_, row in enumerate(found["difference"].values):
        again = comparison.differences.paired_difference(one[[0, 2, 3], place_], other[[2, 0, 1], place_])
        np.testing.assert_allclose(row[1:], [again.low, again.high])
    np.testing.assert_array_equal(found["n"], [3, 3, 3])
    np.testing.assert_allclose(found["measured"].sel(run="another", seed=9), other[3])
    assert found["measured"].sel(run="one", seed=9).isnull().all()
    assert json.loads(found.attrs["settings"]) == {"epochs": [5, 3], "score": [None, "snip"]}
    printed = call("compare", "one", "another")
    (line,) = [line for line in printed.splitlines() if line.startswith("│ 1 ")]
    cells = [part.strip() for part in line.split("│")[2:-1]]
    mean, std = 100 * one[:, 1].mean(), 100 * one[:, 1].std(ddof=1)
    assert cells[:2] == ["80.00%", f"{mean:.2f} ± {std:.2f}"]
    low, high = 100 * found["difference"].values[1, 1:]
    assert cells[3] == f"{100 * expected[:, 1].mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    for said in (
        "one less another, seeds 1, 3–4 in pairs",
        "left out: seeds 2 of one",
        "left out: seeds 9 of another",
        "epochs: 5 | 3",
        "score: not there | snip",
    ):
        assert said in printed
    assert "rate" not in printed


@pytest.mark.parametrize(
    ("seeds", "told"), [((7, 8, 9), "no seed is in both"), ((3, 8, 9), "only seed 3 is in both")]
)
def test_without_pairs_it_is_welchs_test(place, call, seeds, told):
    one, other = make_run(place / "one"), make_run(place / "another", seeds, shift=-0.01)
    found = lth_jax.compare(place / "one", place / "another" / "results.nc")
    assert found.attrs["method"] == "welch"
    expected = scipy.stats.ttest_ind(one, other, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found["p_value"], expected.pvalue)
    np.testing.assert_allclose(found["difference"].sel(end="low"), interval.low)
    np.testing.assert_allclose(found["difference"].sel(end="high"), interval.high)
    printed = call("compare", "one", "another")
    assert f"all seeds of each by Welch's test, as {told}" in printed
    assert "left out" not in printed
    assert "no setting differs" in printed


def test_a_single_seed_has_a_difference_without_an_interval(place, call):
    one, other = make_run(place / "one", (1,)), make_run(place / "another", (1,))
    found = lth_jax.compare(place / "one", place / "another")
    np.testing.assert_allclose(found["difference"].sel(end="mean"), (one - other)[0])
    assert found["difference"].sel(end=["low", "high"]).isnull().all()
    assert "[" not in call("compare", "one", "another").split("difference:")[0]


def test_levels_are_aligned_by_what_they_keep(place, call):
    one = make_run(place / "one", kept=(1.0, 0.8, 0.64, 0.512))
    other = make_run(place / "another", kept=(1.0, 0.5, 0.638, 0.2))
    found = lth_jax.compare(place / "one", place / "another")
    np.testing.assert_array_equal(found["level_at"], [[0, 2], [0, 2]])
    np.testing.assert_allclose(found["size"], [1.0, 0.64])
    np.testing.assert_allclose(found["difference"].sel(end="mean"), (one - other)[:, [0, 2]].mean(0))
    printed = call("compare", "one", "another")
    assert "left out: levels 1, 3 of one" in printed
    assert "left out: levels 1, 3 of another" in printed
    make_run(place / "third", kept=(0.8, 0.64))
    printed = call("compare", "one", "third")
    assert "level of one" in printed
    np.testing.assert_array_equal(
        lth_jax.compare(place / "one", place / "third")["level_at"], [[1, 2], [0, 1]]
    )


def test_sizes_pair_once_and_with_the_nearest():
    assert comparison.same_sizes(np.array([1, 0.5, 0.5]), np.array([0.502, 0.5, 1])) == [
        (0, 2),
        (1, 1),
        (2, 0),
    ]
    assert comparison.same_sizes(np.array([0.5]), np.array([0.506])) == []


def test_masks_overlap_as_the_library_has_it_and_chance_is_that_of_random_masks(place, call):
    ours, theirs = drawn_masks(1), drawn_masks(2)
    make_run(place / "one", (1, 2, 3), masks=ours)
    make_run(place / "another", (3, 2, 5), masks=theirs)
    found = lth_jax.compare(place / "one", place / "another")
    assert found["common"].values.tolist() == [2, 3]
    for seed, a, b in ((2, 1, 1), (3, 2, 0)):
        for level in range(3):
            pair = [{"k": masks[row, level]} for masks, row in ((ours, a), (theirs, b))]
            expected = float(overlap(*pair, {"k": True}))
            assert float(found["overlap"].sel(common=seed)[level]) == pytest.approx(expected)
            kept = [mask["k"].sum() for mask in pair]
            both = kept[0] * kept[1] / 10
            chance = float(found["chance"].sel(common=seed)[level])
            assert chance == pytest.approx(both / (kept[0] + kept[1] - both))
    mean = f"{float(found['overlap'][1].mean()):.3f} ({float(found['chance'][1].mean()):.3f})"
    assert mean in call("compare", "one", "another")
    make_run(place / "maskless")
    assert "overlap" not in lth_jax.compare(place / "one", place / "maskless")


def test_chance_is_what_shuffled_masks_share(place):
    draw, kept = np.random.default_rng(0), (300, 500)
    for folder, count in zip(("one", "another"), kept, strict=True):
        flat = [draw.permutation(1000) < count for _ in range(20)]
        make_run(place / folder, range(20), (0.4,), masks=np.reshape(flat, (20, 1, 25, 40)))
    found = lth_jax.compare(place / "one", place / "another")
    np.testing.assert_allclose(found["chance"], 150 / 650)
    assert float(found["overlap"].mean()) == pytest.approx(150 / 650, rel=0.05)
    assert float(found["overlap"].std()) > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fingerprint": "f2"}, "fingerprint f1 in one run, f2 in the other"),
        ({"dataset": "clothes"}, "dataset digits in one run, clothes in the other"),
        ({"kept": (0.3, 0.2, 0.1)}, "no level of one run keeps as many weights"),
        ({"config": "["}, "is no JSON object"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(place, refused, change, told):
    make_run(place / "one")
    options = dict(change)
    broken = options.pop("config", None)
    make_run(place / "another", **options)
    if broken:
        measured = xr.load_dataset(place / "another" / "results.nc").assign_attrs(config=broken)
        results.save(measured, place / "another" / "results.nc")
    assert told in refused("compare", "one", "another", "--figures", "drawn")


def test_what_is_no_run_of_seeds_and_levels_is_one_line(place, refused):
    make_run(place / "one")
    (place / "empty").mkdir()
    assert "no run; expected a folder with a results.nc" in refused("compare", "one", "empty")
    assert "no run" in refused("compare", "nowhere", "one")
    assert "has no test_loss" in refused("compare", "one", "one", "--variable", "test_loss")
    assert "--columns: goes with --figures" in refused("compare", "one", "one", "--columns", "1")
    measured = xr.load_dataset(place / "one" / "results.nc").expand_dims(rewind=[0, 5])
    (place / "grid").mkdir()
    results.save(measured, place / "grid" / "results.nc")
    assert "test_accuracy has a dimension rewind" in refused("compare", "one", "grid")
    with pytest.raises(InputError, match="has no loss"):
        lth_jax.compare(place / "one", place / "one", "loss")


def test_tickets_are_compared_and_not_their_controls(place):
    one = make_run(place / "one")
    measured = xr.load_dataset(place / "one" / "results.nc")
    both = xr.concat([measured, measured - 0.5], xr.DataArray(["ticket", "reinit"], dims="network"))
    (place / "controls").mkdir()
    results.save(both.assign_attrs(measured.attrs), place / "controls" / "results.nc")
    found = lth_jax.compare(place / "one", place / "controls")
    np.testing.assert_array_equal(found["difference"], 0)
    np.testing.assert_allclose(found["measured"].sel(run="controls"), one)


def test_the_table_as_csv_and_both_curves_as_a_figure(place, call):
    one = make_run(place / "one", masks=drawn_masks(1))
    make_run(place / "another", kept=(1.0, 0.8), masks=drawn_masks(2, levels=2))
    table = list(csv.DictReader(io.StringIO(call("compare", "one", "another", "--table", "csv"))))
    assert [float(row["kept (%)"]) for row in table] == pytest.approx([100, 80])
    assert float(table[1]["one mean (%)"]) == pytest.approx(100 * one[:, 1].mean())
    found = lth_jax.compare(place / "one", place / "another")
    for name, end in (("difference (%)", "mean"), ("low (%)", "low"), ("high (%)", "high")):
        assert float(table[1][name]) == pytest.approx(100 * float(found["difference"].sel(end=end)[1]))
    assert float(table[1]["overlap"]) == pytest.approx(float(found["overlap"][1].mean()))
    lines = call("compare", "one", "another", "--table", "latex").splitlines()
    assert sum(line.endswith(r"\\") for line in lines) == 3
    assert all(line.startswith("%") for line in lines[: lines.index(r"\begin{tabular}{lrrrrr}")])
    printed = call("compare", "one", "another", "--figures", "drawn", "--format", "svg")
    assert "figure: drawn/compare_test_accuracy.svg" in printed
    text = (place / "drawn" / "compare_test_accuracy.svg").read_text()
    assert all(f">{name}<" in text for name in ("one", "another"))
    (_, _, bars), *_ = command.draw(found).axes[0].containers
    assert len(bars[0].get_segments()) == 3, "levels without a partner are drawn too"


def test_runs_of_one_name_are_told_apart(place):
    for folder in ("a", "b"):
        (place / folder).mkdir()
        make_run(place / folder / "run")
    assert comparison.names(place / "a" / "run", place / "b" / "run") == [
        str(place / n / "run") for n in "ab"
    ]
    assert len(set(comparison.names(place / "a" / "run", place / "a" / "run"))) == 2
