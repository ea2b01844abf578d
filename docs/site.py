"""The documentation as a web site: ``python -m docs.site runs/site``.

It needs ``pip install '.[docs]'``, no network, and a minute. Pages are those of ``docs``, the notebooks
with their committed outputs, the reports of the committed results, and one for each module, made of its
docstrings. Warnings are errors.
"""

import importlib
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sphinx.cmd.build import build_main

import lth_jax
from lth_jax.places import user_path

ROOT = Path(__file__).parent.parent
PAGES = (
    "docs/**/*.md",
    "docs/conf.py",
    "notebooks/*.ipynb",
    "experiments/*/experiment.py",
    "experiments/results/**/*.md",
    "experiments/results/**/figures/*.png",
    "*.md",
)
"""What the site is made of; it keeps the repository's layout, so that links between files work in both."""
REDIRECT = '<!doctype html><title>lth_jax</title><meta http-equiv="refresh" content="0; url=docs/index.html">'


def module_names() -> list[str]:
    """The package's modules, without its name before them."""
    found = pkgutil.walk_packages(lth_jax.__path__, "lth_jax.")
    names = [module.name.removeprefix("lth_jax.") for module in found]
    return [name for name in names if "_" not in name[0]]


def module_of(name: str) -> ModuleType:
    """A module of the package by its name."""
    return importlib.import_module(f"lth_jax.{name}")


def write_reference(folder: Path) -> None:
    """Write the sources of the API reference: ``api.md``, and a page a module.

    Args:
      folder: where the other pages lie.
    """
    names = module_names()
    (folder / "api").mkdir()
    rows = []
    for name in names:
        (first, *_) = (module_of(name).__doc__ or "").split("\n")
        rows.append(f"* [`{name}`](api/{name}.md): {first.replace('``', '`')}")
        page = f"# `{name}`\n\n```{{eval-rst}}\n.. automodule:: lth_jax.{name}\n```\n"
        (folder / "api" / f"{name}.md").write_text(page, encoding="utf-8")
    listed = "\n".join(f"api/{name}" for name in names)
    text = "# API\n\nWhat `import lth_jax` offers, `lth_jax.__all__`, lives in these modules.\n\n"
    text += "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    (folder / "api.md").write_text(text, encoding="utf-8")


def write_reports(folder: Path, root: Path) -> None:
    """Write the page that lists the committed reports.

    Args:
      folder: where the other pages lie.
      root: of all sources.
    """
    found = sorted(p for p in root.glob("experiments/results/**/*.md") if p.name != "SUMMARY.md")
    listed = "\n".join(f"../{path.relative_to(root).with_suffix('').as_posix()}" for path in found)
    text = "# Reports\n\nWhat every committed run wrote: tables, claims, figures.\n\n"
    text += f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    (folder / "reports.md").write_text(text, encoding="utf-8")


def build(folder: Path) -> None:
    """Write the site.

    Args:
      folder: gets ``index.html``.

    Raises:
      SystemExit: Sphinx has warned.
    """
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for pattern in PAGES:
            for path in ROOT.glob(pattern):
                copy = root / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        write_reference(root / "docs")
        write_reports(root / "docs", root)
        options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(root / "docs")]
        if code := build_main([*options, place, str(folder)]):
            sys.exit(code)
    (folder / "index.html").write_text(REDIRECT, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Write the site into the folder that is named."""
    if len(arguments) != 1:
        sys.exit("usage: python -m docs.site FOLDER")
    chosen = user_path(arguments[0])
    build(chosen)
    print(chosen / "index.html")


if __name__ == "__main__":
    main(sys.argv[1:])
