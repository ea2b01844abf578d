"""What a flag names of somebody's own: ``PACKAGE.MODULE:NAME``, looked for in the working folder too."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from lth_jax.errors import InputError, own_words


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
        return make(getattr(importlib.import_module(package), name))
    except (Exception, SystemExit) as error:  # somebody's module may raise anything, or leave
        problem = own_words(error)
        file = getattr(sys.modules.get(package), "__file__", None) or "Python itself"
        if os.path.exists(f"{package}.py") and os.path.abspath(f"{package}.py") != os.path.abspath(file):
            problem = f"a module {package} is there already, of {file}; rename {package}.py ({problem})"
        raise InputError(f"{what} {text}: cannot be made: {problem}") from None
    finally:
        sys.path[:] = before
