"""How verdicts and origins are worded, the same on the page and in the summary."""

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from experiments.report.gather import Run, experiment_names
from lth_jax.analysis.stats import Claim, Conclusion, Verdict, measured, power_of, said, source

__all__ = ["measured", "power_of", "said"]

CONCLUSIONS: tuple[str, ...] = get_args(Conclusion)


def p_value(verdict: Verdict) -> str:
    """The p-value after Holm's correction."""
    return "< 0.001" if verdict.adjusted_p < 0.001 else f"{verdict.adjusted_p:.3f}"


def document(claim: Claim) -> str:
    """The document that a claim is of, without section: ``002 §2`` is of 002."""
    return source(claim)


def by_document(runs: Iterable[Run]) -> dict[str, tuple[list[Run], Counter[str]]]:
    """For every document, by name: the runs that judge it, and how many claims have which verdict."""
    found: dict[str, tuple[list[Run], Counter[str]]] = {}
    for run in runs:
        for verdict in run.verdicts:
            judges, counts = found.setdefault(document(verdict.claim), ([], Counter()))
            counts[verdict.verdict] += 1
            if run not in judges:
                judges.append(run)
    return dict(sorted(found.items()))


def totals(runs: Iterable[Run]) -> Counter[str]:
    """How many claims have which verdict."""
    return Counter(verdict.verdict for run in runs for verdict in run.verdicts)


def origin(run: Run) -> list[tuple[str, str]]:
    """Where a run's numbers come from: names and values, those that it has."""
    attrs = {name: str(value) for name, value in run.attrs.items()}
    data = attrs.get("dataset", "none")
    if "fingerprint" in attrs:
        data += f", from {attrs.get('source', 'unknown')}, fingerprint {attrs['fingerprint']}"
    commit = attrs.get("commit", "")
    pairs = [
        ("preset", attrs.get("preset", "")),
        ("variant", attrs.get("variant", "")),
        ("data set", data),
        ("seeds", run.seeds),
        ("machine", attrs.get("device", "")),
        ("commit", commit + (" (with changes not committed)" if commit.endswith("+") else "")),
        ("computed in", duration(run.attrs["seconds"]) if "seconds" in run.attrs else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def short_origin(run: Run) -> str:
    """Data set, preset and machine in a line."""
    attrs = run.attrs
    named = (
        attrs.get("dataset"),
        f"preset {attrs['preset']}" if "preset" in attrs else "",
        attrs.get("device"),
    )
    return ", ".join(str(part) for part in named if part)


def duration(seconds: float) -> str:
    """``1 h 52 min`` or ``3 min 22 s``."""
    whole = round(float(seconds))
    minutes, rest = divmod(whole, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def without_results(runs: Iterable[Run]) -> list[str]:
    """The experiments that no run here is of."""
    return sorted(set(experiment_names()) - {str(run.attrs.get("experiment")) for run in runs})
