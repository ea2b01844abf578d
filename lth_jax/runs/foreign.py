"""Results files that nothing vouches for: another process reads them first.

What HDF5 makes of damaged bytes may be an endless loop or a crash, which nothing inside a process can end.
That process is given this file alone, so it imports nothing of the library.
"""

import math
import subprocess
import sys
from pathlib import Path

LARGEST, SMALL = 1100, 1 << 24
"""How many times as large as their file arrays may be, and how many bytes they may have in any case.

HDF5 compresses by deflate, to a 1032nd at best; a damaged or hostile header can claim any size.
"""
SECONDS = 20
"""How long the other process may take, and one more for each megabyte of the file."""


def check(path: Path) -> None:
    """Read a file in another process.

    Raises:
      ValueError: it cannot be read, claims arrays that it cannot hold, or HDF5 does not come to an end.
    """
    command = [sys.executable, "-P", __file__, str(path.absolute())]
    limit = SECONDS + path.stat().st_size / 1e6
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired:
        raise ValueError(f"HDF5 does not come to an end in {limit:.0f} seconds") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ValueError(said[-1] if done.returncode > 0 and said else "HDF5 breaks down")


def check_arrays(path: Path) -> None:
    """Open a file and see what its arrays claim to be, before any is read.

    Raises:
      OSError: it cannot be opened.
      ValueError: its arrays are larger than it can hold, or one has a dimension twice.
    """
    import netCDF4  # where a file is read, so that importing the library stays quick

    with netCDF4.Dataset(path) as file:
        total = sum(8 * math.prod(variable.shape) for variable in file.variables.values())
        if total > LARGEST * path.stat().st_size + SMALL:
            raise ValueError(f"it claims arrays of {total:,} bytes")
        for name, variable in file.variables.items():
            if len(set(variable.dimensions)) < len(variable.dimensions):
                raise ValueError(f"{name[:80]} has a dimension twice")


def read(path: Path) -> None:
    """Read all that a file has.

    Raises:
      OSError, ValueError, RuntimeError: it cannot be read.
    """
    import netCDF4

    check_arrays(path)
    with netCDF4.Dataset(path) as file:
        for holder in (file, *file.variables.values()):
            _ = [holder.getncattr(name) for name in holder.ncattrs()]
        _ = [variable[...] for variable in file.variables.values()]


if __name__ == "__main__":
    read(Path(sys.argv[1]))
