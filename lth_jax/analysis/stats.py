"""Claims, and the verdicts that they get from paired differences over seeds.

What is compared is d_i = a_i - b_i, one per seed. Methods that share a seed share its data order too
where they train at the same level; across levels only the seed's first weights are shared.

* The tests themselves are those of `differences`.
* Families: claims judged together are corrected together (Holm 1979). A family is one
  question: what one section, figure or table of one source says; one test is entered once.
* "Against every one": a claim of several comparisons at once holds where each of them does, and needs no
  correction for that (intersection-union, Berger 1982); it falls where one of them does, corrected for
  their number (Bonferroni).
* No spread, no test: where all differences are equal a t test has p = 0 or 1 and says nothing.
* Power: see `power`. Effects, margins and results are worded in the reader's units: `measured`, `holds_if`.

Where a pair with NaN or inf (a diverged seed) is dropped the verdict says so.
"""

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from lth_jax.analysis import power as powers
from lth_jax.analysis.differences import (
    Conclusion,
    Difference,
    Equivalence,
    Method,
    Other,
    Published,
    Sample,
    Share,
    Single,
    Summary,
    Values,
    compare,
    equivalence,
    mean_interval,
    paired_difference,
    place,
    published_difference,
    require,
    share_interval,
    summary,
)

__all__ = [
    "COLUMNS", "Claim", "Conclusion", "Difference", "Equivalence", "Kind", "Method", "Published", "Share",
    "Single", "Summary", "Verdict", "equivalence", "fact", "holds_if", "holm", "judge", "judge_all",
    "judge_families", "labels", "markdown_table", "mean_interval", "measured", "paired_difference",
    "published_difference", "said", "share_interval", "source", "summary", "to_rows", "under", "write_csv",
]  # fmt: skip

Kind = Literal["greater", "equal", "at_least", "one_of"]
Side = Values | Mapping[str, Values]
Theirs = Other | Mapping[str, Other]


def holm(p_values: Values) -> np.ndarray:
    """Step-down adjusted p-values (Holm 1979): those under alpha are rejected, family-wise.

    With p sorted upwards, adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    p = np.asarray(p_values, dtype=np.float64)
    valid = p.ndim == 1 and np.all((p >= 0) & (p <= 1))
    require(bool(valid), "p_values: expected (m,) within [0, 1]", p_values, "use 1 for none")
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order)]


@dataclass(frozen=True)
class Claim:
    """A statement about two sets of runs, fixed before anyone looks at them.

    Attributes:
      kind: "greater" (a > b + margin), "at_least" (a >= b - margin, non-inferiority), "equal"
        (``|a - b|`` < margin), "one_of" (b, one published run, is a run like ours). For "lower" swap a and b.
      effect: a - b as published, in the unit of the values, or else the least that counts; power is for
        it. NaN: 0 where kind allows it, none for "greater".
      base: a and b are logarithms to it, and people read a / b. 0: they are not.
      offset: what people read is a - b + offset: 50 where b is a constant 50 %.
      statement: what is claimed, the same for all readings of it; empty: the identifier.
    """

    identifier: str
    document: str
    text: str
    published: str
    kind: Kind
    margin: float = 0.0  # in the unit of the values
    unit: str = "accuracy points"
    effect: float = np.nan
    base: float = 0.0
    offset: float = 0.0
    statement: str = ""

    def __post_init__(self):
        kinds, m, where = get_args(Kind), self.margin, f"claim {self.identifier!r}: expected"
        require(self.kind in kinds, f"{where} kind in {kinds}", repr(self.kind), "choose one")
        valid = 0 <= m < np.inf and (m > 0 or self.kind not in ("equal", "one_of"))
        require(valid, f"{where} margin >= 0, > 0 if 'equal'", m, "say what difference is none")


class Verdict(NamedTuple):
    """A claim, what was measured of it, and what follows."""

    claim: Claim
    estimate: float  # mean of a - b, with its interval, in the claim's unit
    low: float
    high: float
    p_value: float  # of this claim alone
    n: int
    verdict: Conclusion
    adjusted_p: float  # Holm, over the claims judged together
    note: str  # what to know before believing it; may be empty
    power: float = np.nan  # at this n, for the claim's effect, of the claim alone
    needed: float = np.nan  # n for a power of 0.9, alone
    needed_in_family: float = np.nan  # at alpha / number of claims judged together
    protocol: str = ""  # how the runs differ from what the document did; empty if they do not


Pair = tuple[Claim, Side, Theirs]


def judge(claim: Claim, a: Side, b: Theirs, **options) -> Verdict:
    """`judge_all` of one claim, where Holm changes nothing. b may be a constant."""
    return judge_all([(claim, a, b)], **options)[0]


def judge_all(pairs: Sequence[Pair], *, alpha: float = 0.05, **options) -> list[Verdict]:
    """Verdicts of a family of claims, (claim, a, b) each, by interval and Holm-adjusted p.

    greater, at_least: supported where the 1 - alpha interval of a - b lies above the threshold
    (margin, -margin), contradicted where below; p is two-sided, of a - b being at the threshold.
    equal: as in `equivalence`; p is TOST's, or the opposite test's where ``|estimate|`` > margin.
    one_of, b a `Single`: supported where b lies in the 1 - alpha prediction interval of a run, else
    contradicted where the adjusted p of that is below alpha.
    Either other verdict needs adjusted p < alpha as well, otherwise it is inconclusive. Intervals are
    each claim's own, not simultaneous.

    a and b are (seeds,) each; b may be a constant, or `Published`. Two mappings of the same names, to
    such values: the claim is made of every one, by intersection-union. options are
    `paired_difference`'s resamples, seed, method.
    """
    known = options.keys() <= {"resamples", "seed", "method"}
    require(known, "options: expected resamples, seed, method", [*options], "mind the spelling")
    alone = [_judge_alone(*pair, alpha, options) for pair in pairs]
    tested = [v.p_value < 1 or v.low < v.high for v, _ in alone]
    adjusted = iter(holm([v.p_value for (v, _), test in zip(alone, tested, strict=True) if test]).tolist())
    family, verdicts = max(sum(tested), 1), []
    for (v, spread), test in zip(alone, tested, strict=True):
        p = next(adjusted) if test else 1.0
        needs_p = v.verdict == "contradicted" or (v.verdict == "supported" and v.claim.kind != "one_of")
        v = _open(v, family) if needs_p and p >= alpha else v
        verdicts.append(_with_power(v._replace(adjusted_p=p), spread, alpha, family))
    return verdicts


def judge_families(
    pairs: Sequence[Pair], family: Callable[[Claim], object] | None = None, **options
) -> list[Verdict]:
    """`judge_all`, family by family, verdicts in the order of pairs.

    family: what claims are judged together, by default one question: what one section, figure or table
    of one source says, as the claim's `document` names it.
    """
    families = [claim.document if family is None else family(claim) for claim, *_ in pairs]
    found: dict[int, Verdict] = {}
    for name in dict.fromkeys(families):
        places = [i for i, other in enumerate(families) if other == name]
        found |= zip(places, judge_all([pairs[i] for i in places], **options), strict=True)
    return [found[i] for i in range(len(pairs))]


def fact(claim: Claim, difference: float) -> Verdict:
    """The verdict of a matter of arithmetic: a - b is a number, not a sample. kind "greater" only."""
    require(claim.kind == "greater", "kind: expected 'greater'", claim.kind, "judge a sample instead")
    verdict: Conclusion = "supported" if difference > claim.margin else "contradicted"
    note = "arithmetic, not a sample: no test"
    return Verdict(claim, difference, difference, difference, 0.0, 0, verdict, 0.0, note)


def source(claim: Claim) -> str:
    """The document that a claim is of, without section: ``002 §2`` is of 002."""
    return match[0] if (match := re.match(r"\d{3}\b", claim.document)) else claim.document


def under(verdicts: Sequence[Verdict], protocol: str) -> list[Verdict]:
    """The verdicts, of runs whose protocol is not the document's: what is said of each says so."""
    return [v._replace(protocol=protocol) for v in verdicts]


COLUMNS = (*Claim.__dataclass_fields__, *Verdict._fields[1:])


def to_rows(verdicts: Sequence[Verdict]) -> list[dict]:
    """A flat dict a verdict, its keys COLUMNS: the claim's fields, then the verdict's."""
    return [dict(zip(COLUMNS, (*vars(v.claim).values(), *v[1:]), strict=True)) for v in verdicts]


def write_csv(verdicts: Sequence[Verdict], path: str | os.PathLike) -> None:
    """`to_rows` as UTF-8 CSV, whole or not at all: written aside, then renamed."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(to_rows(verdicts))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _read(claim: Claim, value: float) -> str:
    """A difference as people read it: a ratio, or with the claim's offset, or signed."""
    if claim.base:
        return f"{claim.base**value:.3g}"
    return f"{value + claim.offset:.4g}" if claim.offset else f"{value:+.3g}"


def measured(verdict: Verdict) -> str:
    """Our value with its interval, in the reader's unit."""
    claim, (value, low, high) = verdict.claim, verdict[1:4]
    if not math.isfinite(value):
        return "no value"
    interval = "[no interval]"
    if math.isfinite(low) and math.isfinite(high):
        interval = f"[{_read(claim, low)}, {_read(claim, high)}]"
    return f"{_read(claim, value)} {interval} {claim.unit}"


def holds_if(claim: Claim) -> str:
    """Where `measured` has to lie for a claim to hold: ``> 0``, ``≥ -0.1``, ``within ±0.1``, ``49 to 51``."""
    margin = claim.margin
    if claim.kind == "one_of":
        return "0 in the interval" if not claim.base else "1 in the interval"
    if not claim.base and not claim.offset:
        if claim.kind == "equal":
            return f"within ±{margin:g}"
        return f"> {margin:g}" if claim.kind == "greater" else f"≥ {-margin or 0:g}"
    low, high = (_read(claim, bound) for bound in (-margin, margin))
    return {"equal": f"{low} to {high}", "greater": f"> {high}", "at_least": f"≥ {low}"}[claim.kind]


def said(verdict: Verdict) -> str:
    """The verdict in words, with what sets the runs apart from the document's: ``supported (…)``."""
    return f"{verdict.verdict} ({verdict.protocol})" if verdict.protocol else verdict.verdict


def power_of(verdict: Verdict) -> str:
    """Power at this n and the n for 90 %, alone and in its family: ``62 %; 9 (14)``."""
    if math.isnan(verdict.power):
        return "–"
    alone, family = (
        "never" if math.isinf(n) else f"{n:,.0f}" for n in (verdict.needed, verdict.needed_in_family)
    )
    return f"{100 * verdict.power:.0f} %; {alone}" + (f" ({family})" if family != alone else "")


def labels(verdicts: Sequence[Verdict]) -> list[str]:
    """The claims' texts; where several share one, the identifier's last part tells them apart."""
    often = Counter(verdict.claim.text for verdict in verdicts)

    def label(claim: Claim) -> str:
        return claim.text if often[claim.text] == 1 else f"{claim.text} ({claim.identifier.split(':')[-1]})"

    return [label(verdict.claim) for verdict in verdicts]


def markdown_table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table, a row a verdict; pipes, backslashes and newlines in cells are escaped."""
    header = ["claim", "published", "a - b", "holds if", "p (Holm)", "n", "verdict"]
    header += ["power; n for 90 % (in its family)", "note"]
    rows = [header, ["---"] * len(header)]
    for v, label in zip(verdicts, labels(verdicts), strict=True):
        p = "< 0.001" if v.adjusted_p < 0.001 else f"{v.adjusted_p:.3f}"
        cells = [label, v.claim.published, measured(v), holds_if(v.claim), p, str(v.n), said(v)]
        one_line = [" ".join(cell.split()) for cell in (*cells, power_of(v), v.note)]
        rows.append([cell.replace("\\", r"\\").replace("|", r"\|") for cell in one_line])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


_Judged = tuple[Verdict, powers.Spread | None]


def _open(verdict: Verdict, family: int) -> Verdict:
    """A verdict that its family takes back."""
    return _noted(verdict, f"{verdict.verdict} alone, not among {family} claims")._replace(
        verdict="inconclusive"
    )


def _noted(verdict: Verdict, note: str) -> Verdict:
    return verdict._replace(note=f"{verdict.note}; {note}".removeprefix("; "))


def _judge_alone(claim: Claim, a: Side, b: Theirs, alpha: float, options: dict) -> _Judged:
    """The verdict of a claim that has no family, and the spread that it comes from."""
    if isinstance(a, Mapping):
        require(isinstance(b, Mapping) and a.keys() == b.keys(), "expected the same names", b, "name both")
        return _judge_every(claim, a, b, alpha, options)  # type: ignore[arg-type]
    sample = compare(a, b)  # type: ignore[arg-type]
    flips = claim.kind != "equal" and options.get("method") != "student"
    flips = flips and not isinstance(b, Published | Single)
    n = len(sample.values)
    if claim.kind == "equal":
        mean, low, high, p, _, verdict, outside = equivalence(a, b, claim.margin, alpha=alpha)  # type: ignore
        p = outside if abs(mean) > claim.margin else p
    elif isinstance(b, Published | Single):
        null = {"greater": claim.margin, "at_least": -claim.margin}.get(claim.kind, 0.0)
        mean, low, high, p, _ = published_difference(a, b, null=null, confidence=1 - alpha)  # type: ignore
        verdict = place(low, high, null, np.inf)
        if claim.kind == "one_of":
            verdict = "inconclusive" if n < 2 else "supported" if low <= 0 <= high else "contradicted"
    else:
        null = claim.margin if claim.kind == "greater" else -claim.margin
        found = paired_difference(a, b, null=null, confidence=1 - alpha, **options)  # type: ignore[arg-type]
        mean, low, high, p, _ = found
        verdict = place(low, high, null, np.inf)
    untested = bool(sample.error == 0 and not flips)
    remarks = {
        f"{sample.offered - n} of {sample.offered} pairs dropped, not finite": n < sample.offered,
        "fewer than two pairs": n < 2,
        f"{n} pairs never reach p < {alpha:g} by sign flips": flips and n > 1 and 2 / 2**n >= alpha,
        "all differences equal" + ": no test" * untested: low == high,
    }
    note = "; ".join(remark for remark, applies in remarks.items() if applies)
    p = 1.0 if untested else p
    if claim.kind != "one_of" or untested:
        verdict = verdict if p < alpha else "inconclusive"
    return Verdict(claim, mean, low, high, p, n, verdict, p, note), _spread(sample, b)


def _judge_every(claim: Claim, a: Mapping, b: Mapping, alpha: float, options: dict) -> _Judged:
    """Intersection-union: supported where every part is, at the largest p; contradicted where one part is."""
    parts = {name: _judge_alone(claim, a[name], b[name], alpha, options) for name in a}
    null = {"greater": claim.margin, "at_least": -claim.margin}.get(claim.kind)

    def against(part: _Judged) -> float:  # p of what would have to be rejected for this part to hold
        v = part[0]
        right = abs(v.estimate) <= claim.margin if null is None else v.estimate > null
        return v.p_value if right else 2 - v.p_value

    def slack(part: _Judged) -> float:  # of parts whose p-values tie, as sign flips' may
        return abs(part[0].estimate) if null is None else -part[0].estimate

    fallen = [name for name, (v, _) in parts.items() if v.verdict == "contradicted"]
    worst = min(fallen, key=lambda name: parts[name][0].p_value, default="")
    if worst and len(parts) * parts[worst][0].p_value < alpha:
        v, spread = parts[worst]
        p = len(parts) * v.p_value
        return _noted(v, f"of {len(parts)} the one that fails: {worst}")._replace(
            p_value=p, adjusted_p=p
        ), spread
    weakest = max(parts, key=lambda name: (against(parts[name]), slack(parts[name])))
    v, spread = parts[weakest]
    p = min(1.0, against(parts[weakest]))
    holds = all(part.verdict == "supported" for part, _ in parts.values())
    return _noted(v, f"weakest of {len(parts)}: {weakest}")._replace(
        p_value=p, adjusted_p=p, verdict="supported" if holds else "inconclusive"
    ), spread


def _spread(sample: Sample, b: object) -> powers.Spread | None:
    if len(sample.values) < 2:
        return None
    std = float(sample.values.std(ddof=1))
    if isinstance(b, Published):
        return powers.Spread(std, b.std**2 / b.n, b.n - 1.0)
    return powers.Spread(std, single=isinstance(b, Single))


def _with_power(verdict: Verdict, spread: powers.Spread | None, alpha: float, family: int) -> Verdict:
    """The verdict with its power for the claim's effect and the n that it takes."""
    claim = verdict.claim
    effect = 0.0 if np.isnan(claim.effect) and claim.kind != "greater" else claim.effect
    if spread is None or np.isnan(effect) or verdict.low == verdict.high:
        return verdict

    def power_at(n: int, alpha: float) -> float:
        return powers.power(claim.kind, effect, claim.margin, spread, n, alpha)

    alone, together = (powers.needed(lambda n, a=a: power_at(n, a)) for a in (alpha, alpha / family))
    at_n = power_at(verdict.n, alpha)
    if claim.kind == "one_of" and verdict.verdict == "supported":
        verdict = _noted(
            verdict, f"consistent; a distance of {claim.margin:g} would show with a probability of {at_n:.0%}"
        )
    return verdict._replace(power=at_n, needed=alone, needed_in_family=together)
