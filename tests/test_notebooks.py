"""Every notebook runs from start to end in the repository's root, defines nothing, and stays small."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def code_of(notebook):
    """A notebook's code cells as Python, IPython's magics left out."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    lines = [line for source in cells for line in source.splitlines() if not line.startswith("%")]
    return "\n".join(lines)


def test_the_lecture_is_among_them():
    assert "initialization" in [path.stem for path in NOTEBOOKS]


@every_notebook
def test_it_runs(path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()  # raises CellExecutionError where a cell does
    kinds = [{output.output_type for output in cell.get("outputs", [])} for cell in notebook.cells]
    assert any("stream" in found for found in kinds)
    figures = [
        o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert figures


@every_notebook
def test_it_imports_and_never_defines(path):
    tree = ast.parse(code_of(nbformat.read(path, as_version=4)))
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, defining)]


@every_notebook
def test_its_outputs_are_kept_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < 400_000
    assert "Traceback" not in path.read_text(encoding="utf-8")
