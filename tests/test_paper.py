"""Figures and tables for papers: sizes, fonts and formats of figures, tables as LaTeX and CSV."""

import csv
import io
import re

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from lth_jax.analysis import figures, tables
from lth_jax.runs import results


@pytest.fixture
def place(tmp_path):
    """A folder with a run of twelve levels, two networks, one run of which has diverged."""
    kept = 0.8 ** np.arange(12)
    values = 0.9 + np.random.default_rng(0).normal(0, 0.01, (2, 3, 12))
    values[1, 2, 4] = np.nan
    measured = xr.Dataset(
        {"test_accuracy": (("network", "seed", "level"), values), "kept": ("level", kept)},
        {"network": ["ticket", "random_mask"], "seed": [1, 2, 3], "level": range(12)},
        {"experiment": "sweep", "model": "mlp_50%", "dataset": "digits"},
    )
    (tmp_path / "run").mkdir()
    results.save(measured, tmp_path / "run" / "results.nc")
    return tmp_path


def values_of(place):
    return 100 * xr.load_dataset(place / "run" / "results.nc")["test_accuracy"]


@pytest.mark.parametrize(("columns", "width"), [("1", 3.4), ("2", 7.0)])
def test_a_figure_is_as_wide_as_the_columns_of_a_paper(place, call, columns, width):
    for kind in figures.FORMATS:
        said = call("show", "run", "--figures", "drawn", "--format", kind, "--columns", columns)
        assert f"figure: drawn/test_accuracy.{kind}" in said
    with Image.open(place / "drawn" / "test_accuracy.png") as image:
        assert image.width == round(300 * width)
    text = (place / "drawn" / "test_accuracy.svg").read_text()
    assert float(re.search(r'<svg [^>]*width="([\d.]+)pt"', text)[1]) == pytest.approx(72 * width)
    page = (place / "drawn" / "test_accuracy.pdf").read_bytes()
    assert float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", page)[1]) == pytest.approx(72 * width)
    sizes = {float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)}
    assert sizes == {7.0, 8.0}, "in points, as printed"
    assert ">weights remaining (%)<" in text, "text is text"
    assert ">random mask<" in text
    assert "mlp_50%" not in text, "the caption has what a title would say"
    assert b"/Type3" not in page
    assert b"/FontType 42" in page or b"/CIDFontType2" in page


def test_ticks_leave_room_in_one_column():
    for columns, most in ((None, 19), (1, 7)):
        with figures.for_paper(columns):
            _, ax = figures.new_figure()
            figures.kept_axis(ax, 0.8 ** np.arange(19))
        assert len(ax.get_xticks()) == most
    assert not figures.is_for_paper()


def test_without_flags_a_figure_is_what_it_was(place, call):
    call("show", "run", "--figures", "drawn")
    assert [path.name for path in (place / "drawn").iterdir()] == ["test_accuracy.png"]
    with Image.open(place / "drawn" / "test_accuracy.png") as image:
        assert image.size == (768, 504)


def test_flags_of_figures_go_with_figures(refused):
    for flags in (["--format", "pdf"], ["--columns", "2"]):
        assert f"{flags[0]}: goes with --figures DIR" in refused("show", "run", *flags)
    assert "invalid choice: 'jpg'" in refused("show", "run", "--figures", "drawn", "--format", "jpg")
    assert "invalid choice: 3" in refused("show", "run", "--figures", "drawn", "--columns", "3")
    assert "invalid choice: 'html'" in refused("show", "run", "--table", "html")


def test_a_csv_table_has_the_numbers_unrounded(place, call):
    found = list(csv.DictReader(io.StringIO(call("show", "run", "--table", "csv"))))
    values = values_of(place)
    assert [row["level"] for row in found] == [str(level) for level in range(12)]
    assert float(found[3]["kept (%)"]) == pytest.approx(51.2)
    for name, column in (("ticket", "ticket"), ("random_mask", "random mask")):
        for row, level in zip(found, range(12), strict=True):
            own = values.sel(network=name, level=level)
            assert float(row[f"{column} mean (%)"]) == pytest.approx(float(own.mean()), rel=1e-12)
            assert float(row[f"{column} std (%)"]) == pytest.approx(float(own.std(ddof=1)), rel=1e-12)
            assert int(row[f"{column} n"]) == int(own.count())
    assert found[4]["random mask n"] == "2"


def test_a_latex_table_has_the_cells_of_the_printed_one(place, call):
    lines = call("show", "run", "--table", "latex").splitlines()
    start = lines.index(r"\begin{tabular}{lrrr}")
    assert all(line.startswith("% ") for line in lines[:start])
    assert "mlp_50%" in lines[0]
    header, rows = [lines[start + 2], lines[start + 4 : -2]]
    assert lines[start + 1 :: 2][0] == r"\toprule"
    assert lines[start + 3] == r"\midrule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert header == r"level & kept & ticket & random mask \\"
    values = values_of(place).sel(network="ticket", level=2).values
    mean, std = values.mean(), values.std(ddof=1)
    assert rows[2].startswith(rf"2 & 64.00\% & {mean:.2f} $\pm$ {std:.2f} & ")
    assert r"(1 left out) \\" in rows[4]
    assert len(rows) == 12


def test_what_means_something_to_latex_is_written_out():
    lines = tables.latex_lines(
        ["a&b", "50%", "x_1"], [["$#{}", "~^\\", "<>"], ["[1]", "θ → −1", "two\nlines"]], ["a\nb"]
    )
    assert lines == [
        "% a b",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"a\&b & 50\% & x\_1 \\",
        r"\midrule",
        r"\$\#\{\} & \textasciitilde{}\textasciicircum{}\textbackslash{} & \textless{}\textgreater{} \\",
        r"{}[1] & $\theta$ $\to$ $-$1 & two lines \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_csv_quotes_what_it_must():
    text = tables.csv_text(["a,b", 'say "x"'], [[None, 0.1], [1, "two\nlines"]])
    assert list(csv.reader(io.StringIO(text))) == [["a,b", 'say "x"'], ["", "0.1"], ["1", "two\nlines"]]
