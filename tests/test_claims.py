"""Claims of `lth_jax.stats`: verdicts by hand, families, tables, and errors that say what to do."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from lth_jax.analysis import stats
from lth_jax.analysis.stats import (
    Claim,
    equivalence,
    holm,
    judge,
    judge_all,
    mean_interval,
    paired_difference,
)

CLAIM = Claim("xavier-beats-kaiming", "000", "Xavier is more accurate", "98.1 against 97.9", "greater")
EQUAL = replace(CLAIM, identifier="normal-is-uniform", kind="equal", margin=1.0)
AT_LEAST = replace(CLAIM, identifier="no-worse", kind="at_least", margin=1.0)
UP = np.array([1.0, 2.0, 3.0, 2.5, 1.5, 2.2, 1.8, 2.1])


@pytest.mark.parametrize(
    ("claim", "a", "verdict"),
    [
        (CLAIM, UP, "supported"),
        (CLAIM, -UP, "contradicted"),
        (CLAIM, UP - 2, "inconclusive"),
        (replace(CLAIM, margin=1.0), UP, "supported"),
        (replace(CLAIM, margin=2.0), UP, "inconclusive"),
        (replace(CLAIM, margin=4.0), UP, "contradicted"),
        (AT_LEAST, UP, "supported"),
        (AT_LEAST, UP - 2, "supported"),  # equal on average, and worse by 1 is excluded
        (AT_LEAST, UP - 3, "inconclusive"),
        (AT_LEAST, UP - 4, "contradicted"),
        (EQUAL, UP - 2, "supported"),
        (EQUAL, UP - 1, "inconclusive"),
        (EQUAL, UP, "contradicted"),
        (EQUAL, -UP, "contradicted"),
        (CLAIM, np.full(8, np.nan), "inconclusive"),
        (EQUAL, [0.0] + [np.nan] * 7, "inconclusive"),
        (AT_LEAST, [9.0] + [np.nan] * 7, "inconclusive"),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_judge(claim, a, verdict, constant):
    found = judge(claim, a, 0.0 if constant else np.zeros(8))
    assert found.verdict == verdict
    assert found.claim is claim
    assert found.adjusted_p == found.p_value


def test_judge_reports_the_difference_of_the_samples_not_of_the_threshold():
    found = judge(AT_LEAST, UP, 0.0)
    expected = paired_difference(UP, np.zeros(8))
    assert (found.estimate, found.low, found.high) == pytest.approx(expected[:3])
    assert found.p_value == 2 / 256  # every difference is above -1


def test_five_pairs_are_too_few_for_sign_flips_and_the_note_says_so():
    up = UP[:5]
    found = judge(CLAIM, up, 0.0)
    assert (found.verdict, found.p_value) == ("inconclusive", 2 / 32)
    assert found.note == "5 pairs never reach p < 0.05 by sign flips"
    student = judge(CLAIM, up, 0.0, method="student")
    assert (student.verdict, student.note) == ("supported", "")


def test_notes_name_dropped_pairs_and_missing_spread():
    assert judge(CLAIM, [*UP, np.nan], 0.0).note == "1 of 9 pairs dropped, not finite"
    assert judge(CLAIM, [1.0, np.nan], 0.0).note.endswith("finite; fewer than two pairs")
    assert judge(EQUAL, [1.0, 2.0], [1.0, 2.0]).note == "all differences equal: no test"


def test_a_family_is_corrected_together():
    up = UP[:6]  # p = 2/64 alone
    assert judge(CLAIM, up, 0.0).verdict == "supported"
    second = judge_all([(CLAIM, up, 0.0), (CLAIM, up - 2, 0.0)])[0]
    assert (second.verdict, second.p_value, second.adjusted_p) == ("inconclusive", 2 / 64, 4 / 64)
    assert second.note == "supported alone, not among 2 claims"
    strong = judge_all([(CLAIM, np.tile(UP, 2), 0.0), (CLAIM, up, 0.0)])
    assert [v.verdict for v in strong] == ["supported", "supported"]  # Holm's second step is raw
    assert judge_all([]) == []


def test_judging_repeats_and_a_claim_does_not_depend_on_its_neighbours():
    family = [(CLAIM, UP, 0.0), (EQUAL, UP - 2, 0.0), (AT_LEAST, UP, 0.5)]
    forth, back = judge_all(family, seed=4), judge_all(family[::-1], seed=4)[::-1]
    assert forth == judge_all(family, seed=4) == back


# tables


@pytest.fixture
def verdicts():
    awkward = replace(CLAIM, text='a | b, "quoted"\nsecond \\ line é', published="")
    return judge_all([(CLAIM, UP, 0.0), (awkward, [np.nan, 1.0], 0.0), (EQUAL, UP - 2, 0.0)])


def test_csv_round_trip(verdicts, tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("old")
    with path.open() as reader:
        stats.write_csv(verdicts, path)
        assert reader.read() == "old"  # put in place, not written over
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [path.name for path in tmp_path.iterdir()] == ["claims.csv"]
    for row, found, verdict in zip(stats.to_rows(verdicts), read, verdicts, strict=True):
        assert tuple(row) == tuple(found) == stats.COLUMNS
        assert found == {column: str(value) for column, value in row.items()}  # repr: nothing is lost
        assert row["identifier"] == verdict.claim.identifier
        assert row["verdict"] == verdict.verdict
        assert {type(row[name]) for name in ("estimate", "low", "high", "p_value")} == {float}


def test_csv_of_no_verdicts_has_a_header(tmp_path):
    stats.write_csv([], tmp_path / "claims.csv")
    assert (tmp_path / "claims.csv").read_text().strip() == ",".join(stats.COLUMNS)


def test_a_failed_write_leaves_the_old_file(verdicts, tmp_path, monkeypatch):
    path = tmp_path / "claims.csv"
    path.write_text("old")

    def full(self, rows):
        raise OSError("no space left")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="no space left"):
        stats.write_csv(verdicts, path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("claims.csv", "old")]


def test_markdown_table(verdicts):
    lines = stats.markdown_table(verdicts).splitlines()
    assert lines[0] == (
        "| claim | published | a - b | holds if | p (Holm) | n | verdict | power; n for 90 % (in its family) "
        "| note |"
    )
    assert lines[1] == "|" + " --- |" * 9
    assert lines[2].startswith(
        "| Xavier is more accurate (xavier-beats-kaiming) | 98.1 against 97.9 | +2.01 [+1.6"
    )
    assert lines[2].endswith("] accuracy points | > 0 | 0.008 | 8 | supported | – |  |")
    assert lines[3] == (
        r'| a \| b, "quoted" second \\ line é |  | +1 [no interval] accuracy points | > 0 | 1.000 | 1 '
        "| inconclusive | – | 1 of 2 pairs dropped, not finite; fewer than two pairs |"
    )
    assert len(lines) == 5


def test_claims_that_share_a_text_are_told_apart():
    verdicts = [judge(replace(CLAIM, identifier=name, text=text), UP, 0.0) for name, text in NAMED]
    assert stats.labels(verdicts) == ["x (test)", "x (train)", "y"]
    assert [line.split(" | ")[0] for line in stats.markdown_table(verdicts).splitlines()[2:]] == [
        "| x (test)", "| x (train)", "| y",
    ]  # fmt: skip


NAMED = (("a:test", "x"), ("a:train", "x"), ("b", "y"))


@pytest.mark.parametrize(
    ("kind", "margin", "said"),
    [
        ("greater", 0.0, "> 0"),
        ("greater", 0.1, "> 0.1"),
        ("at_least", 0.0, "≥ 0"),
        ("at_least", 0.1, "≥ -0.1"),
        ("equal", 0.1, "within ±0.1"),
    ],
)
def test_what_a_claim_needs_in_words(kind, margin, said):
    assert stats.holds_if(replace(CLAIM, kind=kind, margin=margin)) == said


# errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1, 2], [1, 2, 3]), r"found \(2,\) and \(3,\); keep the seeds"),
        (lambda: paired_difference([[1, 2]], [[1, 2]]), r"one shape \(seeds,\), found \(1, 2\)"),
        (lambda: paired_difference([1, 2], [1, 2], confidence=95.0), r"\(0, 1\), found 95.0; e.g. 0.95"),
        (lambda: paired_difference([1, 2], [1, 2], resamples=0), "resamples: expected >= 100, found 0"),
        (lambda: mean_interval([1, 2], np.nan), "finite constant, found nan; drop the claim"),
        (lambda: equivalence([1, 2], [1, 2], 0.0), "margin: expected > 0, found 0.0; say what"),
        (lambda: equivalence([1, 2], [1, 2], -1.0), "margin: expected > 0, found -1.0"),
        (lambda: equivalence([1, 2], [1, 2], 1.0, alpha=0.5), r"alpha.*\(0, 0.5\), found 0.5"),
        (lambda: holm([0.5, np.nan]), r"within \[0, 1\], found \[0.5, nan\]; use 1"),
        (lambda: replace(CLAIM, margin=-1.0), "expected margin >= 0.*found -1.0"),
        (lambda: replace(CLAIM, margin=np.nan), "expected margin >= 0.*found nan"),
        (lambda: replace(EQUAL, margin=0.0), "> 0 if 'equal', found 0.0; say what"),
        (lambda: judge(EQUAL, [1, 2], 0.0, resample=9), r"resamples, seed, method, found \['resample'\]"),
    ],
)
def test_errors_say_what_was_expected_what_came_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1, 2], [1, 2], method="bca"), "'student'.*found bca; pick one"),
        (lambda: replace(CLAIM, kind="less"), "beats-kaiming': expected kind.*found 'less'; choose"),
    ],
)
def test_unknown_words_are_refused_here_or_by_run_time_types(call, message):
    with pytest.raises((ValueError, TypeError), match=f"{message}|Type-check error"):
        call()
