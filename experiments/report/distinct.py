"""Distinct claims: a statement of a document counts once, however many runs and readings judge it.

The first reading of the first run stands for it: of the variants the one that follows the document's text,
of readings the one that is written first. All others are its repeats.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from experiments.report.gather import Run
from lth_jax.analysis.stats import Verdict, source

FIRST = ("as-described", "shuffled")
"""Variants that stand for a statement before others do."""


class Statement(NamedTuple):
    """What a document claims: the verdict that stands for it, with its run, and its repeats with theirs."""

    run: Run
    verdict: Verdict
    repeats: tuple[tuple[Run, Verdict], ...]


def statements(runs: Sequence[Run]) -> list[Statement]:
    """Every statement that some run judges, in the order of the runs."""
    found: dict[tuple[str, str, str], list[tuple[Run, Verdict]]] = {}
    for run in sorted(runs, key=lambda run: str(run.attrs.get("variant", "")) not in FIRST):
        for verdict in run.verdicts:
            claim = verdict.claim
            name = claim.statement or claim.identifier
            key = (str(run.attrs.get("experiment", run.place)), source(claim), name)
            found.setdefault(key, []).append((run, verdict))
    order = {run.place: place for place, run in enumerate(runs)}
    judged = [Statement(*first, tuple(others)) for first, *others in found.values()]
    return sorted(judged, key=lambda statement: order[statement.run.place])


def by_document(runs: Sequence[Run]) -> dict[str, Counter[str]]:
    """How many distinct claims of every document have which verdict."""
    found: dict[str, Counter[str]] = {}
    for statement in statements(runs):
        found.setdefault(source(statement.verdict.claim), Counter())[statement.verdict.verdict] += 1
    return dict(sorted(found.items()))
