"""The site is built without a warning, has a page for every module, and needs no network."""

import inspect
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import lth_jax
from docs import site

ROOT = Path(__file__).parent.parent
LEFT_OVER = r"``|:(?:func|class|mod|data|meth):|^(?:Args|Raises|Returns|Yields):[ ]*\S|Alias for field"
"""Markup that was not understood: roles, double backticks outside code, sections run into a paragraph."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the site, made by its command; Sphinx's warnings are errors there."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "docs.site", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(built):
    """The reference's pages by module name, their main part."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in (built / "docs/api").glob("*.html")}
    return {name: text.split("<article", 1)[1].split("</article>")[0] for name, text in found.items()}


def test_the_reference_has_a_page_for_every_module(pages):
    assert set(pages) == set(site.module_names())
    assert 'id="lth_jax.find.find_tickets"' in pages["find"]


def test_no_markup_is_left_over(pages):
    for name, page in pages.items():
        text = re.sub(r"(?s)<(code|pre|dt)\b.*?</\1>", "", page)
        text = unescape(re.sub(r"<[^>]+>", "", text))
        assert not re.findall(rf".*(?:{LEFT_OVER}).*", text, re.M), name


def test_google_sections_become_lists(pages):
    section = pages["find"].split('id="lth_jax.find.find_tickets"', 1)[1]
    arguments = section.split(">Parameters<", 1)[1].split(">Returns<", 1)[0]
    assert "which parameters, by path and leaf" in arguments
    assert arguments.count("<li>") == len(inspect.signature(lth_jax.find_tickets).parameters)


def test_every_page_and_notebook_is_there(built):
    wanted = [
        path.relative_to(ROOT)
        for pattern in ("docs/**/*.md", "notebooks/*.ipynb")
        for path in ROOT.glob(pattern)
    ]
    assert len(wanted) > 25
    for path in wanted:
        assert (built / path.with_suffix(".html")).exists(), path
    assert "docs/index.html" in (built / "index.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(built):
    """Links may lead away; what a page needs to be shown may not."""
    needed = re.compile(r"<(?:script|img|iframe)[^>]+src=\"(https?:)?//|<link[^>]+href=\"(https?:)?//")
    found = [path for path in built.rglob("*.html") if needed.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_links_between_pages_lead_somewhere(built):
    for path in built.rglob("*.html"):
        for link in re.findall(r'<a [^>]*href="([^"#]+)', path.read_text(encoding="utf-8")):
            inside = "://" not in link and not link.startswith("mailto:")
            assert not inside or (path.parent / unescape(link)).exists(), (path.name, link)
