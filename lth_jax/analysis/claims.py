"""Claims and verdicts: what they hold, and how people read them, in words, as a table, as CSV.

Claims are judged by `stats`. Effects, margins and results are worded in the reader's units: `measured`,
`holds_if`.
"""

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lth_jax.analysis.differences import Conclusion, Other, Values, require

Kind = Literal["greater", "equal", "at_least", "one_of"]
Side = Values | Mapping[str, Values]
Theirs = Other | Mapping[str, Other]


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


@dataclass(frozen=True, eq=False)
class Comparison:
    """A claim with the samples that judge it, and how: what `stats.judge_all` was given."""

    claim: Claim
    a: Side
    b: Theirs
    alpha: float
    options: Mapping[str, Any]  # of `differences.paired_difference`


@dataclass(frozen=True)
class Family:
    """The comparisons that were judged together, and which of them a verdict is of.

    All are equal to each other: verdicts are compared by what they say, not by the arrays behind them.
    """

    comparisons: tuple[Comparison, ...] = field(compare=False, repr=False)
    own: int = field(compare=False)


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
    family: Family | None = None  # what it was judged from, for `stats.rejudge`; None of arithmetic


def source(claim: Claim) -> str:
    """The document that a claim is of, without section: ``002 §2`` is of 002."""
    return match[0] if (match := re.match(r"\d{3}\b", claim.document)) else claim.document


COLUMNS = (*Claim.__dataclass_fields__, *(name for name in Verdict._fields[1:] if name != "family"))


def to_rows(verdicts: Sequence[Verdict]) -> list[dict]:
    """A flat dict a verdict, its keys COLUMNS: the claim's fields, then the verdict's."""
    whole = [vars(verdict.claim) | verdict._asdict() for verdict in verdicts]
    return [{name: row[name] for name in COLUMNS} for row in whole]


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
