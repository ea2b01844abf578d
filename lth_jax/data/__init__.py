"""Data sets by name, as uint8 arrays with a fingerprint: where they are looked for, and in which formats."""

from lth_jax.data.datasets import (
    DATASETS,
    EMBEDDED,
    Dataset,
    Holdout,
    find,
    from_arrays,
    load,
    missing,
    official,
    prepare,
    split_validation,
)
from lth_jax.data.formats import DataError

__all__ = [
    "DATASETS",
    "EMBEDDED",
    "DataError",
    "Dataset",
    "Holdout",
    "find",
    "from_arrays",
    "load",
    "missing",
    "official",
    "prepare",
    "split_validation",
]
