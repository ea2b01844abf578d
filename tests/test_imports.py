"""Start-up: what is slow to import is imported where it is used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("matplotlib", "scipy.stats", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch")


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
