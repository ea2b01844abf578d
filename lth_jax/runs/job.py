"""A job: a run's folder, and how the work in it is carried out."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lth_jax.errors import require
from lth_jax.places import user_path
from lth_jax.runs import config, results

LOGS = ("json", "tensorboard")
SPARSE = ("auto", "on", "off")


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes its numbers beyond rounding."""

    out: str = config.option("", "folder of the run; started again on it, a run resumes")
    data_dir: str = config.option("", "folder with the data set's files; LTH_DATA_DIR serves too")
    chunk: int = config.option(0, "runs vectorised inside one device; 0 chooses by device and free memory")
    block: int = config.option(0, "runs carried from level to level together; 0 chooses by memory")
    distributed: bool = config.option(False, "one of the processes that SLURM, Kubernetes … have started")
    sparse_kernels: str = config.option(
        "auto",
        "on a CPU, compute with kept weights alone: where it is faster, wherever possible, never",
        SPARSE,
    )
    log: str = config.option("json", "log.jsonl, a line a level; or TensorBoard's scalars too", LOGS)

    def __post_init__(self) -> None:
        config.check_choices(self)
        for name in ("out", "data_dir"):
            if given := getattr(self, name):
                object.__setattr__(self, name, str(user_path(given)))
        for name in ("chunk", "block"):
            value = getattr(self, name)
            require(value >= 0, f"--{name} {value}: must be at least 1, or 0")


class Job(NamedTuple):
    """What is done in one folder: where, and how."""

    folder: Path
    execution: Execution

    @property
    def checkpoints(self) -> Path:
        """Where what is finished is saved until all is."""
        return self.folder / results.CHECKPOINTS

    @property
    def preset(self) -> str:
        """The scale that was asked for by name; empty where there are no presets."""
        return getattr(self.execution, "preset", "")

    @property
    def chunk(self) -> int | None:
        """Runs vectorised inside one device; ``None`` to choose."""
        return self.execution.chunk or None
