"""Compiled programs that outlive the process: the next start of the same sweep does not compile again.

JAX keeps them by what they compute, its versions and the kind and number of devices, so nothing here can
become stale; the folder can be removed at any time. JAX's own variables go before:
``JAX_COMPILATION_CACHE_DIR`` names another folder, ``JAX_ENABLE_COMPILATION_CACHE=false`` does without.
"""

import contextlib
import os
from pathlib import Path

import jax


def use_cache() -> None:
    """Keep programs that take a second or more to compile in the user's cache folder."""
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, no room: compile every time
        chosen = os.environ.get("XDG_CACHE_HOME", "")
        folder = (Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache") / "lth_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
