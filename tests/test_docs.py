"""The reference renders, what is public says what it is, and figures named in the docs are drawn."""

import ast
import importlib
import inspect
import re
import shlex
from html import unescape
from pathlib import Path

import pytest
import yaml
from conftest import overstated

import lth_jax
from docs import reference
from experiments import cli
from experiments.__main__ import EXPERIMENTS

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (?P<figure>[^|]+) \| (?P<shows>[^|]+) \| (?P<command>[^|]+) \| (?P<file>[^|]*)\|$")
ROWS = [
    match.groupdict()
    for line in (ROOT / "docs/figures.md").read_text(encoding="utf-8").splitlines()
    if (match := ROW.match(line)) and not line.startswith(("| figure |", "| ---"))
]
DRAWN = [row for row in ROWS if row["command"].startswith("`python -m experiments ")]


def public_objects():
    """Every public function and class with its name, and the public methods and properties of classes."""
    for name in ["", *(f".{module}" for module in reference.module_names())]:
        module = importlib.import_module(f"lth_jax{name}")
        yield module.__name__, module
        for label, found in vars(module).items():
            own = getattr(found, "__module__", None) == module.__name__
            if label[0] == "_" or not own or not (inspect.isfunction(found) or inspect.isclass(found)):
                continue
            yield f"{module.__name__}.{label}", found
            fields = getattr(found, "__annotations__", {})  # some of which hold functions
            for method, entry in vars(found).items() if inspect.isclass(found) else ():
                own = method[0] != "_" and method not in fields and not hasattr(found.__mro__[1], method)
                if own and (inspect.isfunction(entry) or isinstance(entry, property)):
                    yield f"{module.__name__}.{label}.{method}", entry


def test_everything_public_has_a_docstring():
    documented = {name: (inspect.getdoc(found) or "").strip() for name, found in public_objects()}
    assert len(documented) > 200  # the walk has found the package
    signatures = {name: f"{name.rpartition('.')[2]}(" for name in documented}  # which Python gives to classes
    assert not [name for name, text in documented.items() if not text or text.startswith(signatures[name])]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The reference's pages by module name, their main part; warnings are errors."""
    folder = tmp_path_factory.mktemp("api")
    reference.build(folder)
    assert (folder / "index.html").exists()
    found = {path.relative_to(folder / "lth_jax"): path for path in (folder / "lth_jax").rglob("*.html")}
    texts = {place.with_suffix(""): path.read_text(encoding="utf-8") for place, path in found.items()}
    return {place.as_posix().replace("/", "."): text.split("<main", 1)[1] for place, text in texts.items()}


def test_the_reference_has_a_page_for_every_module(pages):
    assert set(pages) == set(reference.module_names())
    assert "find_tickets" in pages["find"]
    assert "stats" not in lth_jax.__all__  # which is as it was before the reference was built


LEFT_OVER = r"``|:(?:func|class|mod|data|meth):|^(?:Args|Raises|Returns|Yields):[ ]*\S|Alias for field"
"""Markup that was not understood: roles, double backticks outside code, sections run into a paragraph."""


def test_no_markup_is_left_over(pages):
    for name, page in pages.items():
        for docstring in re.findall(r'(?s)<div class="docstring">(.*?)</div>', page):
            text = re.sub(r"(?s)<(code|pre)\b.*?</\1>", "", docstring)
            text = unescape(re.sub(r"<[^>]+>", "", text))
            assert not re.findall(rf".*(?:{LEFT_OVER}).*", text, re.M), name


def test_google_sections_become_lists(pages):
    section = pages["find"].split('id="find_tickets"', 1)[1]
    arguments = section.split("Arguments:", 1)[1].split("Returns:", 1)[0]
    assert "<li><strong>prunable:</strong>  which parameters, by path and leaf" in arguments
    assert arguments.count("<li>") == len(inspect.signature(lth_jax.find_tickets).parameters)


def test_the_table_has_every_document():
    text = (ROOT / "docs/figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d{3}) ", text, re.M) == ["000", "001", "002", "003", "004"]
    assert len(DRAWN) == len(ROWS) - 1 > 40  # Table 1 of document 000 is a formula, not a figure
    assert {row["command"].split()[3] for row in DRAWN} == set(EXPERIMENTS) - {"benchmark"}


@pytest.mark.parametrize("command", sorted({row["command"].strip("` ") for row in DRAWN}))
def test_a_command_of_the_table_is_one(command):
    python, _, package, name, *flags = shlex.split(command)
    assert (python, package) == ("python", "experiments")
    experiment = importlib.import_module(f"experiments.{name}.experiment").EXPERIMENT
    settings, execution = cli.parse(experiment, flags)
    assert isinstance(settings, experiment.config)
    assert execution.preset in ("paper", "paper-lenet5", "middle")


def names_drawn(experiment):
    """Literal strings of an experiment's modules, and names that its f-strings make of its literals."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in (ROOT / "experiments" / experiment).glob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    literals = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
    patterns = [
        "".join(re.escape(p.value) if isinstance(p, ast.Constant) else r"(\w+?)" for p in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return literals, [re.compile(pattern) for pattern in patterns if pattern.count("(") <= 2]


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - {"benchmark"}))
def test_a_figure_of_the_table_is_drawn(experiment):
    literals, patterns = names_drawn(experiment)
    rows = [row for row in DRAWN if row["command"].split()[3] == experiment]
    for row in rows:
        name = re.search(r"`([^`]+)`", row["file"])[1]
        stem, _, kind = name.rpartition(".")
        if name == "report.md":
            continue
        made = [match for pattern in patterns if (match := pattern.fullmatch(stem))]
        assert kind == "png"
        assert stem in literals or any(set(match.groups()) <= literals for match in made), name
    invented = [match for pattern in patterns if (match := pattern.fullmatch("figure9_none"))]
    assert not any(set(match.groups()) <= literals for match in invented)


def test_the_links_of_the_table_lead_somewhere():
    links = [match[1] for row in ROWS if (match := re.search(r"\]\(([^)]+)\)", row["file"]))]
    assert len(links) >= 12
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert (citation["cff-version"], citation["title"], citation["type"]) == ("1.2.0", "lth_jax", "software")
    assert (citation["license"], citation["version"]) == ("MIT", project)
    assert citation["authors"] == [{"name": "The lth_jax developers"}]
    assert all({"type", "title", "authors"} <= set(work) for work in citation["references"])
    assert f"What will be {project}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_readme_that_counts_too_many_faults_is_caught():
    text = "survives 44 kills and 38 damaged files, refuses 257 malformed inputs"
    enough = {"kills survived": 44, "damaged files survived": 50, "malformed inputs refused": 257}
    assert overstated(text, enough) == {}
    assert overstated(text, {**enough, "kills survived": 43}) == {"kills survived": 44}
    assert set(overstated(text, {})) == set(enough)
    assert overstated((ROOT / "README.md").read_text(encoding="utf-8"), {})  # README has all three


def test_the_readmes_example_finds_tickets_word_for_word(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"## Tickets of your own model.*?```python\n(.*?)```", text, re.DOTALL)[1]
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    results, mask = names["tickets"].results, names["mask"]
    kept = sum(int(mask[layer]["kernel"].sum()) for layer in ("Dense_0", "Dense_1"))
    assert kept / (784 * 32 + 32 * 10) == pytest.approx(0.8**4, abs=1e-3)
    assert float(results["test_accuracy"].min()) > 0.85
    assert capsys.readouterr().out.splitlines()[-1].startswith("44 ")  # a row a seed
