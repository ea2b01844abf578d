"""The API reference as HTML, from the docstrings: ``python -m docs.reference runs/api``.

It needs ``pip install '.[docs]'``. ``pdoc lth_jax`` by itself leaves out the modules that ``import lth_jax``
does not load; here every module has its page. Warnings are errors.
"""

import contextlib
import importlib
import pkgutil
import sys
import warnings
from pathlib import Path
from types import ModuleType
from unittest import mock

import pdoc

import lth_jax

FOREIGN = (r"ForwardRef\('ArrayTree'\)", r"for lth_jax\.kernels\.convolutions\.Conv\.bias_init\b")
"""Annotations that name what only their own library can resolve: the state of optax, the zeros of JAX."""


def module_names() -> list[str]:
    """The package's modules, without its name before them."""
    found = pkgutil.walk_packages(lth_jax.__path__, "lth_jax.")
    names = [module.name.removeprefix("lth_jax.") for module in found]
    return [name for name in names if "_" not in name[0]]


def drop_aliases(module: ModuleType) -> None:
    """Take away what Python says of a NamedTuple's fields: ``Alias for field number 0``."""
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
            for part in (kind.__new__, *(vars(kind).get(field) for field in kind._fields)):
                if str(part.__doc__).startswith(("Alias for field", "Create new instance")):
                    part.__doc__ = ""


def build(folder: Path) -> None:
    """Write the reference.

    Args:
      folder: gets ``index.html``, a page a module, and a search index.
    """
    names = module_names()
    for name in lth_jax.__all__:
        getattr(lth_jax, name)  # imported when first used, and looked for in the module's dictionary
    with contextlib.ExitStack() as stack:
        for name in names:
            drop_aliases(importlib.import_module(f"lth_jax.{name}"))
        for package in [lth_jax, *(m for m in map(module_of, names) if hasattr(m, "__path__"))]:
            below = [module.name for module in pkgutil.iter_modules(package.__path__)]
            listed = list(getattr(package, "__all__", []))
            whole = [*listed, *(name for name in below if name not in listed and name[0] != "_")]
            stack.enter_context(mock.patch.object(package, "__all__", whole, create=True))
        render(folder)


def module_of(name: str) -> ModuleType:
    """A module of the package by its name."""
    return importlib.import_module(f"lth_jax.{name}")


def render(folder: Path) -> None:
    """Have pdoc write its pages, its warnings being errors."""
    pdoc.render.configure(docformat="google", footer_text="lth_jax")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for annotation in FOREIGN:
            warnings.filterwarnings("ignore", f".*{annotation}")
        pdoc.pdoc("lth_jax", output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.reference FOLDER")
    build(Path(sys.argv[1]))
    print(Path(sys.argv[1]) / "index.html")
