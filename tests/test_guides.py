"""The guides' code runs as it is printed: page by page, from top to bottom, in an empty folder.

Blocks in ``python`` share their names; one that begins with ``# NAME.py`` is that file, as are those in
``toml``. Of those in ``console`` every line is a call of ``lth-jax``. What is indented is not run: it needs
other machines.
"""

import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

from lth_jax import commands

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted([DOCS / "start.md", *(DOCS / "guides").glob("*.md")])
BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w.-]+\.(?:py|toml))\n")
COMMANDS_ONLY = {"hosts"}
"""Pages without code that one machine could run."""


def blocks(page):
    """Kind and text of every block of a page."""
    return [(match["kind"], match["text"]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_guide_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("LTH_DATA_DIR", raising=False)
    names, ran = {"__name__": page.stem}, 0
    for kind, text in blocks(page):
        ran += 1
        if file := FILE.match(text):
            (tmp_path / file[1]).write_text(text, encoding="utf-8")
            sys.modules.pop(file[1].removesuffix(".py"), None)
        elif kind == "python":
            with jax.numpy_dtype_promotion("standard"):  # as readers have it
                exec(compile(text, f"{page.name}, block {ran}", "exec"), names)
        else:
            assert kind == "console", f"{page.name}: a block of {kind or 'nothing'} is not run"
            for line in text.splitlines():
                prompt, command, *arguments = shlex.split(line, comments=True)
                assert (prompt, command) == ("$", "lth-jax"), line
                commands.main(arguments)
    assert (ran == 0) == (page.stem in COMMANDS_ONLY)
    assert "Traceback" not in capsys.readouterr().err


def test_every_page_of_the_site_is_in_its_contents():
    contents = re.findall(r"```\{toctree\}.*?```", (DOCS / "index.md").read_text(encoding="utf-8"), re.S)
    listed = {line for block in contents for line in block.splitlines() if re.fullmatch(r"[\w./-]+", line)}
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert written <= listed
    assert {f"../notebooks/{path.stem}" for path in (DOCS.parent / "notebooks").glob("*.ipynb")} <= listed
