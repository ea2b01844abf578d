"""Where files are: paths as people write them, and the user's cache folder."""

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """A path as somebody has written it: a ``~`` that the shell has left is their home."""
    return Path(os.path.expanduser(text))


def cache_folder(kind: str) -> Path:
    """Where a kind of thing that can be made again is kept: below ``XDG_CACHE_HOME`` or ``~/.cache``.

    As the XDG specification says, a variable that is no absolute path is ignored. The folder is not made yet.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    root = chosen if os.path.isabs(chosen) else os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "lth_jax" / kind
