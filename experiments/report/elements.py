"""HTML as a tree that is escaped when it is written, never by hand: text stays text, whatever it holds."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from markdown_it import MarkdownIt

MARKDOWN = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table").disable("image")
"""Images are left out: a page that loads nothing has no use for their addresses."""


def make(tag: str, *children: Element | str | Sequence | None, **attributes: str | bool | None) -> Element:
    """An element.

    Args:
      tag: its name.
      children: elements, text, sequences of both, or ``None`` for nothing.
      attributes: by name, ``_`` for ``-`` and a trailing one dropped (``class_``, ``aria_sort``);
        ``True`` is present without a value, ``False`` and ``None`` are absent.
    """
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            element.set(name.rstrip("_").replace("_", "-"), "" if value is True else str(value))
    _append(element, children)
    return element


def _append(element: Element, children: Sequence) -> None:
    for child in children:
        if isinstance(child, str):
            if len(element):
                element[-1].tail = (element[-1].tail or "") + child
            else:
                element.text = (element.text or "") + child
        elif isinstance(child, Element):
            element.append(child)
        elif child is not None:
            _append(element, child)


def to_text(root: Element) -> str:
    """A whole document as HTML."""
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"


def from_markdown(text: str, label: str) -> list[Element]:
    """Markdown as elements: headings one step down, tables sortable in boxes of their own.

    Args:
      text: Markdown; HTML in it is shown as text.
      label: what its tables are of, for those who cannot see them.
    """
    printable = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)  # XML's
    body = ET.fromstring(f"<div>{MARKDOWN.render(printable)}</div>")
    for element in body.iter():
        if re.fullmatch("h[1-5]", element.tag):
            element.tag = f"h{max(3, int(element.tag[1]) + 1)}"
        if given := element.attrib.pop("style", ""):  # of a table's cell: our policy forbids styles in place
            element.set("class", "number" if "right" in given else "text")
    for parent in list(body.iter()):
        for place, child in enumerate(parent):
            if child.tag == "table":
                child.set("class", "sortable plain")
                align(child)
                parent[place] = box(child, f"{label}, table")
                parent[place].tail, child.tail = child.tail, None
    return list(body)


def box(table: Element, label: str) -> Element:
    """A box that a wide table scrolls in, by keyboard too."""
    return make("div", table, class_="box", role="region", tabindex="0", aria_label=label)


def plain_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """An experiment's table."""
    head = make("tr", [make("th", name, scope="col") for name in header])
    body = [make("tr", [make("td", cell) for cell in row]) for row in rows]
    table = make("table", make("thead", head), make("tbody", body), class_="sortable plain")
    align(table)
    return box(table, f"{title}, table")


def align(table: Element) -> None:
    """Put the columns that hold numbers on the right; what is empty or a dash decides nothing."""
    rows = [list(row) for row in table.iter("tr")]
    for column in zip(*rows, strict=False):
        texts = ["".join(cell.itertext()).strip() for cell in column if cell.tag == "td"]
        filled = [text for text in texts if text.strip("–—-")]
        if filled and all(re.match(r"[-+−<±]?\s?\.?\d", text) for text in filled):
            for cell in column:
                cell.set("class", "number")
