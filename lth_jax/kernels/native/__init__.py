"""The native kernels: compiled by the system's C++ compiler when they are first asked for, and kept.

What is compiled is for this processor and its widest vectors; the file's name has a digest of all that it
depends on, so a home folder shared by different machines holds one for each. Where there is no compiler, or
with ``LTH_JAX_NATIVE=0``, there are no native kernels and everything is computed without them.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from lth_jax.places import cache_folder

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
TARGETS = {
    "forward": "lth_forward",
    "values": "lth_values",
    "inputs": "lth_inputs",
    "convolve": "lth_convolve",
    "filters": "lth_filters",
}
PATIENCE = 120
"""Seconds that a compiler may take."""


class Native(NamedTuple):
    """Whether the native kernels are there; if not, why. Examples come ``lanes`` and ``tile`` at a time."""

    available: bool
    reason: str = ""
    lanes: int = 0
    tile: int = 0


@functools.cache
def native() -> Native:
    """The native kernels, compiled and registered with JAX under the names of ``TARGETS``."""
    if os.environ.get("LTH_JAX_NATIVE", "").lower() in ("0", "false", "off"):
        return Native(False, "LTH_JAX_NATIVE is 0")
    try:
        library = _loaded()
        for symbol in TARGETS.values():
            capsule = jax.ffi.pycapsule(getattr(library, symbol))
            jax.ffi.register_ffi_target(symbol, capsule, platform="cpu")
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        lines = str(error).splitlines()
        return Native(False, lines[0][:160] if lines else type(error).__name__)
    return Native(True, lanes=library.lth_lanes(), tile=library.lth_tile())


def _loaded() -> ctypes.CDLL:
    """The library; one that is damaged is compiled again."""
    path = build()
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(build()))


def build(folder: Path | None = None, machine: Sequence[str] | None = None) -> Path:
    """The kernels as a shared library, compiled unless it was before.

    Args:
      folder: where it is kept; the user's cache unless given.
      machine: the compiler's flags for a processor; for this one unless given.

    Raises:
      OSError: no compiler, it fails, or there is nowhere to write.
      subprocess.TimeoutExpired: it takes too long.
    """
    compiler = find_compiler()
    flags = [*FLAGS, *(machine_flags() if machine is None else machine)]
    parts = [processor(), platform.platform(), _version(compiler), jax.__version__, *compiler, *flags]
    content = [path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*"))]
    digest = hashlib.sha256("\n".join(parts).encode() + b"\0".join(content)).hexdigest()[:16]
    folder = cache_folder("native") if folder is None else folder
    library = folder / f"kernels-{digest}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:  # renamed when whole: others may be reading
        made = Path(aside) / "kernels.so"
        source, headers = str(SOURCES / "handlers.cc"), f"-isystem{jax.ffi.include_dir()}"
        command = [*compiler, *flags, headers, source, "-o", str(made)]
        found = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        if found.returncode:
            said = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
            raise OSError(f"{Path(compiler[0]).name} fails: {said[0]}")
        os.replace(made, library)
    return library


def find_compiler() -> list[str]:
    """The C++ compiler: what ``CXX`` says, arguments of its own included, or the system's.

    Raises:
      OSError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for name, *more in [named] if named else [[name] for name in COMPILERS]:
        if found := shutil.which(name):
            return [found, *more]
    raise OSError(f"no C++ compiler: {' '.join(named) or ', '.join(COMPILERS)}")


def machine_flags() -> list[str]:
    """What makes a compiler use all that this processor can."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return ["-mcpu=native"] if arm else ["-march=native"]


def processor() -> str:
    """What this processor is and can, as text."""
    described = Path("/proc/cpuinfo")
    kinds = ("flags", "Features", "model name", "CPU part")
    try:
        lines = described.read_text().splitlines()
    except OSError:
        lines = []
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(kinds)})])


def _version(compiler: Sequence[str]) -> str:
    asked = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=60
    )
    return asked.stdout
