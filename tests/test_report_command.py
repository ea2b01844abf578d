"""The report's command: runs that are read or named, files that are written, input that is refused."""

import re
import shutil
import sys

import pytest
from pages import Seen

import experiments.__main__
from experiments.report import gather
from lth_jax.runs import results

COMMITTED = gather.PACKAGE / "results"


@pytest.fixture
def copies(tmp_path):
    """A folder with the committed XOR results twice, ``good`` and ``deep/other``."""
    for place in ("good", "deep/other"):
        shutil.copytree(COMMITTED / "xor", tmp_path / "results" / place)
    return tmp_path / "results"


def report(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiments", "report", *map(str, arguments)])
    code = 0
    try:
        experiments.__main__.main()
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_results_are_named_and_counted_nowhere(copies, tmp_path, monkeypatch, capsys):
    damage(copies / "deep/other/results.nc")
    code, printed = report(monkeypatch, capsys, "--out", tmp_path / "out", "--results", copies)
    assert code == 2
    line = "results.nc is damaged: results.nc is not what was written"
    assert printed.splitlines() == [f"error: deep/other: {line}"]
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert f'<p class="problem">deep/other: {line}</p>' in html
    assert (
        Seen(html).text.count("10 random units beat 2 random units (strict)") == 2
    )  # all claims, and the run's
    text = (tmp_path / "out/summary.md").read_text(encoding="utf-8")
    assert f"**deep/other: {line}**" in text
    assert re.search(r"\| \*\*all\*\* \|.* 20 \| 20 \|\n", text)


def test_whatever_is_amiss_is_said(copies, monkeypatch):
    (copies / "good/results.nc").unlink()
    other = copies / "deep/other"
    (other / "results.nc.sha256").unlink()
    damage(other / "figures/success.png")
    text = (other / "claims.csv").read_text(encoding="utf-8")
    (other / "claims.csv").write_text(text.replace("supported", "contradicted", 1), encoding="utf-8")
    good, odd = sorted(gather.gather(copies), key=lambda run: run.problem, reverse=True)
    assert good.problem == "results.nc: no such file"
    assert not odd.problem
    assert odd.remarks == (
        "results.nc.sha256 is missing: read without a check",
        "figures/success.png is damaged: left out",
        "claims.csv was written by another version; the claims here are judged anew",
    )
    assert [picture.name for picture in odd.pictures] == ["boundaries"]
    assert odd.seeds == "0–999 (1,000)"

    measured = results.load(other / "results.nc")
    results.save(measured.drop_vars("logit"), other / "results.nc")
    results.save(measured.assign_attrs(experiment="../xor"), copies / "good/results.nc")
    problems = [run.problem for run in gather.gather(copies)]
    assert any(
        problem.startswith("results.nc cannot be judged by this version: KeyError") for problem in problems
    )
    assert "results.nc is of an unknown experiment '../xor'" in problems


def test_a_figure_without_a_caption_gets_its_name(copies):
    figures = copies / "good/figures"
    shutil.copy(figures / "success.png", figures / "another_view.png")
    pictures, unreadable = gather.read_pictures(figures, "xor")
    assert [picture.name for picture in pictures] == ["success", "boundaries", "another_view"]
    assert pictures[2].caption == "Another view."
    assert (pictures[0].width, pictures[0].height) == (1656, 504)
    assert not unreadable


def test_it_writes_a_page_and_summaries_and_nothing_else(copies, tmp_path, monkeypatch, capsys):
    arguments = ["--out", tmp_path / "out", "--results", copies, "--summary", tmp_path / "new/SUMMARY.md"]
    assert report(monkeypatch, capsys, *arguments) == (0, "")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and copies not in path.parents]
    names = {path.relative_to(tmp_path).as_posix() for path in written}
    assert names == {"out/report.html", "out/summary.md", "new/SUMMARY.md"}
    assert (tmp_path / "new/SUMMARY.md").read_text() == (tmp_path / "out/summary.md").read_text()
    assert "(../results/deep/other/report.md)" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--results none", "--results none: no such folder"),
        ("--results file", "--results file: no such folder"),
        ("--results empty", "--results empty: holds no results.nc"),
        ("--out file", "--out file: file is not a folder"),
        ("--out file/below", "--out file/below:"),
        ("--out=", "--out: expected a path"),
        ("--results=", "--results: expected a path"),
        ("--summary=", "--summary: expected a path"),
        ("--summary empty", "--summary empty: is a folder"),
        ("--summary file/SUMMARY.md", "--summary file: "),
        ("--claims empty", "--claims empty: is a folder"),
        ("--claims file/claims.md", "--claims file: "),
        ("--multiverse empty", "--multiverse empty: is a folder"),
        ("--multiverse file/page.md", "--multiverse file: "),
        ("--headlines=", "--headlines: expected a path"),
        ("--headlines none.md", "--headlines none.md: cannot be read"),
        ("--headlines file", "--headlines file: expected one line"),
        ("--out " + "x" * 5000, "File name too long"),
        ("--out a\x07b", "cannot be printed"),
        ("--theme dark", "--theme"),
        ("extra", "extra"),
        ("--out", "expected one argument"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")
    code, printed = report(monkeypatch, capsys, *arguments.split(" "))
    assert code == 2
    assert len(printed.splitlines()) == 1
    assert printed.startswith("error: ")
    assert named in printed
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


def test_it_is_listed_beside_the_experiments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiments"])
    experiments.__main__.main()
    listed = capsys.readouterr().out
    assert "  report " in listed
    assert not set(experiments.__main__.COMMANDS) & set(experiments.__main__.EXPERIMENTS)
    assert gather.experiment_names() == sorted(experiments.__main__.EXPERIMENTS)
