"""The user's cache folder: what can be made again at any time."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Where a kind of thing is kept: below ``XDG_CACHE_HOME`` or ``~/.cache``; not made yet.

    Raises:
      RuntimeError: nobody knows where the user's home is.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache") / "lth_jax" / kind
