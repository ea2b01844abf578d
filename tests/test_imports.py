"""Start-up: what is slow to import is imported where it is used."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lth_jax

SLOW = ("matplotlib", "scipy.stats", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch")


def test_the_package_itself_is_imported_at_once_and_each_of_its_names_when_it_is_used():
    """Signals are heard before JAX is there; what a type checker is told of is what there is."""
    script = "import sys, lth_jax, lth_jax.__main__; print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    told = {}
    for node in ast.walk(ast.parse(Path(lth_jax.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lth_jax"):
            told |= {alias.name: node.module for alias in node.names}
    assert sorted(told) == sorted(lth_jax.__all__)
    for name, module in told.items():
        home = importlib.import_module(module)
        found = getattr(home, name) if home is not lth_jax and hasattr(home, name) else None
        expected = found if found is not None else importlib.import_module(f"{module}.{name}")
        assert getattr(lth_jax, name) is expected, name


@pytest.mark.parametrize("module", ["lth_jax", "lth_jax.commands", "experiments.__main__"])
def test_slow_libraries_wait_until_they_are_used(module):
    script = f"import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {*json.loads(done.stdout)}.intersection(SLOW)
