"""Every notebook runs from start to end in the repository's root, defines nothing, and stays small."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 250_000
"""Bytes of a notebook with its outputs."""

LAST_LEVEL = re.compile(r"level (\d+)/\1  .+ network-steps/s  0.0 min left")
"""What is left of the line that shows progress."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])

# What a reader is shown, by notebook: a pattern whose numbers must lie within these bounds. They are wide
# enough for other versions and devices; chance, an untrained network or a wrong file falls outside.
SHOWN = {
    "bring_your_own": (r"NNX +([\d.]+)% .*functions +([\d.]+)%", (85, 100), (85, 100)),
    "initialization": (r"log10 variance at layer 500: \[([\d.]+)", (820, 880)),
    "own_model": (
        r"overlap of seeds 42 and 43: ([\d.]+)\nof 42 and a random mask: +([\d.]+)",
        (0.02, 0.5),
        (0.02, 0.1),
    ),
    "quick_start": (r"ticket minus fresh weights, levels 10 to 13: (-?[\d.]+) points", (1.5, 9)),
    "reading_results": (
        r"ours: +\+([\d.]+) \[\+([\d.]+), \+([\d.]+)\]",
        (60, 64),
        (56, 61),
        (63, 68),
    ),
    "stability": (
        r" 1\.5% kept: ticket +([\d.]+), random mask +([\d.]+)"
        r".*moved: barrier ([\d.]+).*aligned: barrier ([\d.]+)",
        (0, 1.5),
        (1, 10),
        (5, 50),
        (0, 0.05),
    ),
    "supermasks": (
        r"untrained ([\d.]+)%, trained ([\d.]+)%.*best: t = [\d.]+, kept [\d.]+%, accuracy ([\d.]+)%",
        (2, 25),
        (90, 97),
        (60, 93),
    ),
}


def code_of(notebook):
    """A notebook's code cells as Python, IPython's magics left out."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    lines = [line for source in cells for line in source.splitlines() if not line.startswith("%")]
    return "\n".join(lines)


def outputs_of(notebook):
    """All outputs, in their order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook):
    """What a notebook printed; nothing goes to standard error."""
    streams = [output for output in outputs_of(notebook) if output.output_type == "stream"]
    assert {output.name for output in streams} == {"stdout"}
    return "".join(output.text for output in streams)


def check_shown(name, text):
    """The numbers that a reader is shown lie where they must."""
    pattern, *bounds = SHOWN[name]
    found = re.search(pattern, text, re.S)
    assert found, f"{pattern!r} is not in {text}"
    for number, (low, high) in zip(found.groups(), bounds, strict=True):
        assert low <= float(number) <= high, found[0]


def test_all_of_them_are_there():
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWN)


@every_notebook
def test_it_runs(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()  # raises CellExecutionError where a cell does, an assertion included
    check_shown(path.stem, printed(notebook))
    shown = [output.get("data", {}) for output in outputs_of(notebook)]
    assert any("image/png" in data for data in shown)
    last_levels = [data for data in shown if LAST_LEVEL.match(data.get("text/plain", ""))]
    assert bool(last_levels) == ("find_tickets(" in code_of(notebook)), "progress, where there is some"


@every_notebook
def test_it_imports_and_never_defines(path):
    tree = ast.parse(code_of(nbformat.read(path, as_version=4)))
    users = path.stem in ("own_model", "bring_your_own")
    if users:  # but for a user's own modules, predicates, losses and training
        for module in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
            assert ast.unparse(module.bases[0]) in ("nn.Module", "nnx.Module")
            tree.body.remove(module)
    forbidden = [ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]
    forbidden += [] if users else [ast.Lambda]
    assert not [node for node in ast.walk(tree) if isinstance(node, tuple(forbidden))]


@every_notebook
def test_its_outputs_are_kept_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < LARGEST
    check_shown(path.stem, printed(notebook))
    assert any("image/png" in output.get("data", {}) for output in outputs_of(notebook))
    assert all(not cell.metadata for cell in notebook.cells)  # no timings
    written = path.read_text(encoding="utf-8")
    assert not [word for word in ("Traceback", str(ROOT), str(Path.home()), "/tmp/") if word in written]


@every_notebook
def test_a_sentence_stands_before_every_output(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    if path.stem == "initialization":  # the lecture's figures follow the cells that measure
        return
    for before, cell in itertools.pairwise(cells):
        assert cell.cell_type != "code" or before.cell_type == "markdown", cell.source
