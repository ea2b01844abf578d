"""What a flag names of somebody's own: ``PACKAGE.MODULE:NAME``, looked for in the working folder too."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from lth_jax.errors import in_one_line


def imported(what: str, text: str, make: Callable[[Any], Any] = lambda found: found) -> Any:
    """What somebody's ``PACKAGE.MODULE:NAME`` names, and what is made of it.

    Args:
      what: the flag, for the error.
      text: the flag's value.
      make: what is done with it; nothing unless given.

    Raises:
      InputError: it cannot be imported or made; the message has its own words.
    """
    package, _, name = text.partition(":")
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())  # an installed command does not look there by itself
    try:
        with in_one_line(f"{what} {text}: cannot be made"):
            return make(getattr(importlib.import_module(package), name))
    finally:
        sys.path[:] = before
