"""Small runs of the experiments, frozen before the training loops became one: what they gave must not move.

    python -m tests.frozen         write tests/frozen.npz anew (only where a change of numbers is meant)

Every case is an experiment with a few flags, trained on the embedded digits in seconds; what is kept are its
results' arrays.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("frozen.npz")

TINY_E2 = (
    "--seeds 42-43 --prunings 1,2 --epochs-per-level 1 --epochs 2 --batch-size 100 --hidden 20,10 "
    "--dataset mnist-5k"
)
TINY_E4 = (
    "--seeds 42-43 --iterations 60 --eval-every 20 --smallest 0.6 --hidden 20,10 --control-trials 1 "
    "--validation 500 --dataset mnist-5k"
)
TINY_E6 = (
    "--seeds 42-43 --hidden 20,8 --first-layers 10 --second-layers 4 --overtraining-steps 60 --steps 40 "
    "--eval-every 20 --thresholds 0,0.05 --grid-seeds 1 --grid-hidden 16,8 --grid-dense-steps 40 "
    "--grid-levels 2,4 --grid-trained-level 4 --grid-steps 20 --grid-criteria large_final,movement "
    "--learned-seeds 1 --learned-steps 40 --learned-draws 2 --dataset mnist-5k"
)
CASES: Mapping[str, tuple[str, str]] = {
    "E1 as described": (
        "init_comparison",
        "--initializers xavier_normal,kaiming_uniform --seeds 42-43 --levels 3 --epochs-per-level 1 "
        "--hidden 20,10",
    ),
    "E1 as run": (
        "init_comparison",
        "--variant as-run --initializers xavier_normal,standard_uniform --seeds 42-43 --levels 3 "
        "--epochs-per-level 1 --hidden 20,10",
    ),
    "E2 as described": ("ticket_distribution", TINY_E2),
    "E2 as run": ("ticket_distribution", f"--variant as-run {TINY_E2}"),
    "E3": ("xor", "--networks 8 --steps 60"),
    "E4 controls": (
        "mnist_tickets",
        f"{TINY_E4} --controls reinit,rearrange,shuffle,random_mask --rewind-step 20",
    ),
    "E4 reset": ("mnist_tickets", f"{TINY_E4} --part reset"),
    "E4 standard deviations": ("mnist_tickets", f"{TINY_E4} --part init_std --stds 0.05,0.2"),
    "E5": (
        "variance_propagation",
        "--seeds 0-3 --depth 4 --variances 0.02 --schemes he_normal --scheme-seeds 2 --activations relu,tanh "
        "--training-schemes he_normal,normal:0.001 --training-seeds 2 --epochs 2",
    ),
    "E6": ("supermask", TINY_E6),
    "E6 in a fixed order": ("supermask", f"{TINY_E6} --shuffle false --grid-seeds 0 --learned-seeds 0"),
}


def results_of(case: str, folder: Path) -> dict[str, np.ndarray]:
    """A case's numeric arrays by their variables' names, run now."""
    from experiments import cli
    from lth_jax import data
    from lth_jax.runs.job import Job

    name, flags = CASES[case]
    experiment = cli.find(name)
    settings, execution = cli.parse(experiment, flags.split())
    named = getattr(settings, "dataset", None)
    measured = experiment.train(settings, Job(folder, execution), data.load(named) if named else None)
    arrays = {str(variable): values for variable, values in measured.data_vars.items()}
    return {name: values.values for name, values in arrays.items() if values.dtype.kind in "fiub"}


def main() -> None:
    """Run every case and write what it gives."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from lth_jax.runs import axis

    axis.use_host_devices(2)
    arrays = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = results_of(case, Path(folder))
        arrays |= {f"{case}/{name}": values for name, values in found.items()}
        print(case, len(found), sum(values.nbytes for values in found.values()), flush=True)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
