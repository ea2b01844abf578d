"""What is public says what it is, README's examples run, and figures named in the docs are drawn."""

import dataclasses
import importlib
import inspect
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from conftest import overstated
from invented import best_at, convolutional, copies, pruned, synthetic
from PIL import Image

import lth_jax
from docs import site
from experiments import cli
from experiments.__main__ import EXPERIMENTS
from experiments.early_pruning.experiment import PRUNERS
from lth_jax.commands import settings
from lth_jax.runs import results
from lth_jax.tickets import budgets, dynamic, early

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (?P<figure>[^|]+) \| (?P<shows>[^|]+) \| (?P<command>[^|]+) \| (?P<file>[^|]*)\|$")
ROWS = [
    match.groupdict()
    for line in (ROOT / "docs/figures.md").read_text(encoding="utf-8").splitlines()
    if (match := ROW.match(line)) and not line.startswith(("| figure |", "| ---"))
]
DRAWN = [row for row in ROWS if row["command"].startswith("`python -m experiments ")]
RESULTS = ROOT / "experiments/results"
LINK = re.compile(r"^\[`(?P<name>[^`]+)`\]\((?P<place>[^)]+)\) *$")


def public_objects():
    """Every public function and class with its name, and the public methods and properties of classes."""
    for name in ["", *(f".{module}" for module in site.module_names())]:
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


def test_the_table_has_every_document():
    text = (ROOT / "docs/figures.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d{3}) ", text, re.M) == ["000", "001", "002", "003", "004"]
    assert len(DRAWN) == len(ROWS) - 1 > 40  # Table 1 of document 000 is a formula, not a figure
    assert {row["command"].split()[3] for row in DRAWN} == set(EXPERIMENTS) - {"benchmark"}


@pytest.mark.parametrize("command", sorted({row["command"].strip("` ") for row in DRAWN}))
def test_a_command_of_the_table_is_one(command):
    python, _, package, name, *flags = shlex.split(command)
    assert (python, package) == ("python", "experiments")
    experiment = cli.find(name)
    settings, execution = cli.parse(experiment, flags)
    assert isinstance(settings, experiment.config)
    assert execution.preset in ("paper", "paper-lenet5", "middle", "reduced")


def linked():
    """The files that the table names for committed runs, by the run's folder below the results."""
    found = {path.parent.relative_to(RESULTS).as_posix(): set() for path in RESULTS.rglob(results.RESULTS)}
    for row in DRAWN:
        if link := LINK.match(row["file"]):
            path = (ROOT / "docs" / link["place"]).resolve()
            assert path.name == link["name"]
            folder = path.parent.parent if path.parent.name == results.FIGURES else path.parent
            found[folder.relative_to(RESULTS).as_posix()].add(link["name"])
    return {place: names for place, names in found.items() if place != "benchmark"}  # which no document has


LINKED = linked()


@pytest.mark.parametrize("place", LINKED)
def test_committed_results_are_drawn_as_the_table_says(place, tmp_path):
    measured = results.load(RESULTS / place / results.RESULTS)
    experiment = cli.find(measured.attrs["experiment"])
    drawn = experiment.figures(measured, tmp_path)
    for path in drawn:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    names = {path.name for path in drawn}
    assert LINKED[place], "the table has no figure of this run"
    assert LINKED[place] <= names | {results.REPORT}
    assert names == {path.name for path in (RESULTS / place / results.FIGURES).iterdir()}
    if results.REPORT in LINKED[place]:
        title, header, rows = experiment.table(measured)
        assert title
        assert {len(header)} == {len(row) for row in rows}


PARTS = sorted({row["command"].strip("` ") for row in DRAWN if not LINK.match(row["file"])})
"""Commands of figures that no committed run has; of E4 all of them, whose results are invented."""


@pytest.mark.parametrize("command", PARTS)
def test_what_no_committed_run_has_is_drawn_of_invented_results(command, tmp_path):
    _, _, _, name, *flags = shlex.split(command)
    settings, _ = cli.parse(cli.find(name), flags)
    if name == "stability":
        values = {kind: [0.5, 0.6, 0.7, 0.8] for kind in ("ticket", "random_mask", "reinit")}
        results_of = copies(values, values)
    elif name == "early_pruning":
        every = {(way, network): [97, 96, 90] for way in PRUNERS for network in ("ticket", "reinit")}
        results_of = pruned(every)
    elif name == "conv_tickets":
        every = {(recipe, family): [80] * 8 for recipe in settings.recipes for family in ("ticket", "reinit")}
        stops = {place: [5000] * 8 for place in every} if settings.validation else None
        results_of = convolutional(settings.part, every, stops)
    else:
        assert settings.part in ("one_shot", "init_std", "sizes", "rates", "reset")
        small = dataclasses.replace(settings, iterations=2000, sizes=("12-8", "30-20"), hidden=(30, 20))
        results_of = synthetic(small, best_at)
    drawn = cli.find(name).figures(results_of, tmp_path)
    named = {row["file"].strip("` ") for row in DRAWN if row["command"].strip("` ") == command}
    assert named - {results.REPORT} <= {path.name for path in drawn if path.stat().st_size > 1000}


def test_the_links_of_the_table_lead_somewhere():
    links = [match[1] for row in ROWS if (match := re.search(r"\]\(([^)]+)\)", row["file"]))]
    assert len(links) >= 12
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


def test_the_table_of_methods_names_every_method():
    """And no other: a name in it is one that a flag takes."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    _, scored, shared, changing, patterned = text.split("\n## ")
    names = lambda part: set(re.findall(r"`([\w:×]+)`", "".join(re.findall(r"^\| (.*?) \|", part, re.M))))  # noqa: E731
    used = {"large_final", "magnitude", "large_init", "random", *early.OF_GRADIENTS, "synflow"}
    assert names(scored) == used
    assert used <= set(early.SCORES)
    assert names(shared) == set(budgets.BUDGETS)
    assert names(changing) == {settings.STATIC, *dynamic.RULES}
    assert names(patterned) == {"groups:M", "blocks:ROWSxCOLUMNS", "units"}


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert (citation["cff-version"], citation["title"], citation["type"]) == ("1.2.0", "lth_jax", "software")
    assert (citation["license"], citation["version"]) == ("MIT", project)
    assert citation["authors"] == [{"name": "The lth_jax developers"}]
    assert all({"type", "title", "authors"} <= set(work) for work in citation["references"])
    assert f"What will be {project}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_readme_that_counts_too_many_faults_is_caught():
    text = "survives 44 kills and 38 damaged files, refuses 257 malformed inputs, 24 signals, "
    text += "2200 mutated files, 220 random runs"
    enough = {"kills survived": 44, "damaged files survived": 50, "malformed inputs refused": 257}
    enough |= {"signals survived": 24, "mutated files read or refused": 2200, "random runs as counted": 220}
    assert overstated(text, enough) == {}
    assert overstated(text, {**enough, "kills survived": 43}) == {"kills survived": 44}
    assert set(overstated(text, {})) == set(enough)
    assert overstated((ROOT / "README.md").read_text(encoding="utf-8"), {})  # README has all of them


def test_the_readmes_examples_find_tickets_word_for_word(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Tickets of your own model")[1].split("\n## ")[0]
    first, second, third = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {"__name__": "readme"}
    exec(compile(first, "README.md", "exec"), names)
    results, mask = names["tickets"].results, names["mask"]
    kept = sum(int(mask[layer]["kernel"].sum()) for layer in ("Dense_0", "Dense_1"))
    assert kept / (784 * 32 + 32 * 10) == pytest.approx(0.8**4, abs=1e-3)
    assert float(results["test_accuracy"].min()) > 0.85
    assert capsys.readouterr().out.splitlines()[-1].startswith("44 ")  # a row a seed
    exec(compile(third, "README.md", "exec"), names)
    gradient = jax.tree.map(jnp.ones_like, names["weights"])
    with jax.numpy_dtype_promotion("standard"):  # Optax multiplies floats by counts
        updates, _ = names["optimizer"].update(gradient, names["state"], names["weights"])
    moved = optax.apply_updates(names["weights"], updates)
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(moved[layer]["kernel"] != 0, mask[layer]["kernel"])
    exec(compile(second, "README.md", "exec"), names)
    more = names["more"]
    assert more.results["test_accuracy"].dims == ("network", "seed", "level")
    assert more.results["network"].values.tolist() == ["ticket", "reinit", "shuffle", "random_mask"]
    again = lth_jax.evaluate(more.trained(42, 2), names["test"], lth_jax.from_linen(names["Net"]()))
    written = more.results["test_accuracy"].sel(network="ticket", seed=42, level=2)
    assert float(again["accuracy"]) == pytest.approx(float(written), abs=2e-3)
