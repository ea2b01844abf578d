"""E7: end to end on sixty digits, its claims on made-up results, its table by hand."""

import numpy as np
import pytest
import xarray as xr
from command_line import experiment_refuses
from idx import write_idx
from invented import copies

from experiments import cli
from experiments.stability import claims, report
from lth_jax.errors import InputError
from lth_jax.runs import results

TINY = ["--dataset", "mnist", "--hidden", "8", "--seeds", "3,4", "--children", "2", "--levels", "3"]
TINY += ["--epochs", "2", "--batch-size", "20", "--rewinds", "0,2", "--points", "4"]
TINY += ["--table-levels", "2", "--table-epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stability")
    write_idx(folder / "DIGITS")
    line = [*TINY, "--data-dir", str(folder / "DIGITS"), "--out", str(folder / "run")]
    cli.main(cli.find("stability"), line)
    return folder / "run"


def test_it_leaves_the_lines_of_every_network_and_the_table(finished):
    found = results.load(finished / "results.nc")
    assert found["parent"].values.tolist() == ["ticket", "reinit", "random_mask"]
    assert found["rewind"].values.tolist() == [0, 2]
    barrier = found["test_error_barrier"]
    assert bool(np.isfinite(barrier.sel(rewind=0)).all())
    assert bool(np.isfinite(barrier.sel(rewind=2, parent="ticket")).all())
    assert bool(np.isnan(barrier.sel(rewind=2, parent="reinit")).all())  # controls belong to k = 0
    assert not bool(found["diverged"].any())
    # 784·8 + 8·10 = 6352 weights, ranked together: 0.6 of them pruned at each level, 3811, then 1525.
    kept = found["kept"].sel(network="ticket")[0, 0]
    np.testing.assert_allclose(kept, [1, 2541 / 6352, 1016 / 6352], rtol=1e-6)
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert figures == {"barrier.png", "lines.png", "rewinding.png"}
    assert "Two copies of one ticket" in (finished / "report.md").read_text()


def test_a_whole_network_is_no_distance_from_itself(finished, tmp_path):
    """At the dense level the ticket, the random mask and the whole network are one training in one order."""
    flags = ["--levels", "1", "--rewinds", "0", "--table-levels", "1", "--out", str(tmp_path / "run")]
    cli.main(cli.find("stability"), [*TINY, *flags, "--data-dir", str(finished.parent / "DIGITS")])
    found = results.load(tmp_path / "run" / "results.nc")
    np.testing.assert_array_equal(found["pruning_distance"], 0)
    assert (found["order_distance"] > 0).all()
    first, second = (found["order_distance"].sel(kind=kind) for kind in ("ticket", "random_mask"))
    np.testing.assert_array_equal(first, second)
    at = results.load(finished / "results.nc")
    assert (at["pruning_distance"] > 0).all()  # a smaller one is another network
    assert at["order_distance"].dims == ("kind", "seed", "pair")


def test_what_is_finished_is_not_trained_again(finished, capsys):
    (finished / "results.nc").unlink()
    config = results.load(finished / "checkpoints" / "table.nc")
    line = [*TINY, "--data-dir", str(finished.parent / "DIGITS"), "--out", str(finished)]
    cli.main(cli.find("stability"), line)
    assert capsys.readouterr().out.count("(from before)") == 4
    np.testing.assert_array_equal(results.load(finished / "results.nc")["order_angle"], config["order_angle"])


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--rewinds", "0,12"], "--rewinds 12: a level has 6 iterations"),
        (["--rewinds", "0,0"], "--rewinds 0,0: one is named twice"),
        (["--children", "1"], "--children 1: expected 2 to 100"),
        (["--levels", "60", "--rate", "0.9"], "--levels"),
        (["--network", "resnet20"], "--table-levels 2: the table is of --network mlp; say 0"),
    ],
)
def test_what_cannot_be_is_refused(finished, flags, line, capsys):
    arguments = [*TINY, *flags, "--data-dir", str(finished.parent / "DIGITS")]
    assert line in experiment_refuses("stability", arguments, finished.parent / "none", capsys)


@pytest.mark.long
def test_a_resnet_has_its_lines_too(finished, tmp_path):
    flags = ["--network", "resnet20", "--width", "2", "--children", "2", "--levels", "2", "--rewinds", "1"]
    flags += [
        "--epochs",
        "2",
        "--batch-size",
        "20",
        "--points",
        "2",
        "--seeds",
        "3",
        "--learning-rate",
        "0.1",
    ]
    flags += [
        "--preset",
        "paper-resnet20",
        "--dataset",
        "mnist",
        "--data-dir",
        str(finished.parent / "DIGITS"),
    ]
    cli.main(cli.find("stability"), [*flags, "--out", str(tmp_path / "run")])
    found = results.load(tmp_path / "run" / "results.nc")
    assert found["parent"].values.tolist() == ["ticket"]
    assert bool(np.isfinite(found["test_error_barrier"]).all())
    assert (found["distance"] > 0).all()
    assert float(found["kept"].sel(level=1).mean()) == pytest.approx(0.8, abs=1e-3)
    assert "kind" not in found.dims


def test_the_papers_resnet_is_that_of_the_protocol():
    settings, _ = cli.parse(cli.find("stability"), ["--preset", "paper-resnet20"])
    assert settings.epochs * (50_000 // settings.batch_size) == pytest.approx(63_000, rel=0.01)
    assert (settings.learning_rate, settings.rewinds, settings.children) == (0.1, (0, 500, 2000), 3)
    assert 0.8 ** (settings.levels - 1) < 0.02


def test_claims_judge_what_they_say():
    barriers = {
        "ticket": [0.5, 0.4, 0.3, 3.0],
        "random_mask": [0.5, 0.5, 2.5, 5.0],
        "reinit": [0.5, 0.5, 1.0, 4.0],
    }
    accuracies = {
        "ticket": [98, 98.2, 98.1, 97.5],
        "random_mask": [98, 97.9, 97.0, 95.0],
        "reinit": [98, 98.2, 97, 94],
    }
    judged = {v.claim.identifier: v.verdict for v in claims.verdicts(copies(barriers, accuracies))}
    expected = {
        "dense-stable": "supported", "dense-below-a-point": "supported",
        "tickets-stable-10.7": "supported", "tickets-stable-3.5": "contradicted",
        "tickets-match-10.7": "supported", "tickets-match-3.5": "contradicted",
        "tickets-stable": "contradicted", "tickets-match": "contradicted",  # at every level: one is enough
        "random-stable-10.7": "contradicted", "reinit-stable-10.7": "supported",
        "ticket-over-random-3.5": "supported", "ticket-over-reinit-3.5": "supported",
        "ticket-below-random-3.5": "supported", "ticket-below-reinit-3.5": "supported",
    }  # fmt: skip
    assert {name: judged[name] for name in expected} == expected


def test_a_verdict_says_how_its_levels_differ_from_the_papers():
    measured = copies({n: [0.5] * 4 for n in claims.NAMES}, {n: [98] * 4 for n in claims.NAMES})
    told = {
        v.protocol for v in claims.verdicts(measured.assign_attrs(config='{"epochs": 24, "rate": 0.488}'))
    }
    assert told == {"48.8 % pruned at a level, not 20 %"}
    assert {v.protocol for v in claims.verdicts(measured)} == {""}
    assert claims.verdicts(measured.assign_attrs(config='{"network": "resnet20"}')) == []


def test_a_size_that_was_not_measured_has_no_claim():
    measured = copies({n: [0.5] * 4 for n in claims.NAMES}, {n: [98] * 4 for n in claims.NAMES})
    short = {v.claim.identifier for v in claims.verdicts(measured.isel(level=slice(0, 2)))}
    assert "tickets-stable-21" in short
    assert "tickets-stable-3.5" not in short


def test_the_table_says_how_far_ours_lie_in_published_spreads():
    kinds, seeds = ["ticket", "random_mask"], [1, 2, 3]
    number = lambda value: (("kind", "seed"), value + np.tile([-1, 0, 1], (2, 1)))  # noqa: E731
    measured = xr.Dataset(
        {
            **{name: number(21.9) for name in list(claims.QUANTITIES)[:4]},
            "table_accuracy": (("kind", "seed"), np.full((2, 3), 0.983)),
            "dense_accuracy": ("seed", np.full(3, 0.98)),
        },
        {"kind": kinds, "seed": seeds},
    )
    text = report.notes(measured)
    assert "| tickets: distance between two orders | 20.7 ± 0.6 | 21.90 ± 1.00 | +2.0 |" in text
    assert "| random masks: angle between two orders (°) | 49.2 ± 3.0 | 21.90 ± 1.00 | -9.1 |" in text


def test_the_table_is_judged_at_its_own_size_alone(finished):
    found = results.load(finished / "results.nc")  # 80 % kept
    assert {v.claim.document for v in claims.verdicts(found)} == {claims.PAPER}
    told = '{"rate": 0.2, "table_levels": 11, "table_epochs": 5}'
    judged = [
        v for v in claims.verdicts(found.assign_attrs(config=told)) if v.claim.document == claims.EARLIER
    ]
    assert len(judged) == 15
    assert {v.protocol for v in judged} == {"5 of 50 epochs"}


def test_a_preset_of_another_name_is_refused():
    with pytest.raises(InputError, match="paper"):
        cli.parse(cli.find("stability"), ["--preset", "full"])
