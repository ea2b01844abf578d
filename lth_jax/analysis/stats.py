"""Paired differences over seeds, their intervals, and the verdicts that claims get from them.

Methods that share a seed share its data order: what is compared is d_i = a_i - b_i, one per seed.

* Interval: BCa bootstrap of the mean of d (Efron 1987). Short with few seeds: its 95 % held the truth
  91 % of the time at n = 11, 85 % at n = 5 (normal d, 4,000 samples, 1,000 resamples).
* p-value: sign flips (Fisher 1935, The Design of Experiments). Were the methods alike, d_i could as
  well be -d_i: p is the share of the 2^n sign patterns whose |mean| reaches the one seen.
  Two-sided; exact to n = 16, then over random patterns and the one seen (Phipson & Smyth
  2010). Never under 2 / 2^n: five seeds (0.0625) cannot reach 0.05, six can.
* Student: method="student" has the t interval and the paired t test (Student 1908) instead, for five trials.
* Equality: lack of a significant difference is not equality. TOST (Schuirmann 1987): within ±margin
  where both one-sided t tests reject, i.e. the 1 - 2 alpha t interval lies inside.
* Families: claims judged together are corrected together (Holm 1979).

A pair with NaN or inf (a diverged seed) is dropped, and the verdict says so: those left flatter an
unstable method. Values and margins share a unit: accuracy points are 100 * accuracy.
"""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike

Values = ArrayLike | Sequence | float | int
Kind = Literal["greater", "equal", "at_least"]
Method = Literal["bootstrap", "student"]
Conclusion = Literal["supported", "contradicted", "inconclusive"]


class Summary(NamedTuple):
    """Mean, standard deviation and count of the finite values."""

    mean: np.ndarray
    std: np.ndarray
    n: np.ndarray


class Difference(NamedTuple):
    """Mean of a - b, its interval, a two-sided p-value, and the number of pairs."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int


class Equivalence(NamedTuple):
    """Mean of a - b, its 1 - 2 alpha t interval, and whether a and b are equal within ±margin."""

    mean: float
    low: float
    high: float
    p_value: float  # TOST: small when the difference is within ±margin
    n: int
    verdict: Conclusion
    p_outside: float  # the opposite test: small when it is not


def summary(values: Values, axis: int = -1) -> Summary:
    """Mean, std (ddof=1) and count of the finite values along an axis; NaN for too few."""
    finite = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    mean, std = finite.mean(axis), finite.std(axis, ddof=1)
    return Summary(np.ma.filled(mean, np.nan), np.ma.filled(std, np.nan), finite.count(axis))


def paired_difference(
    a: Values,
    b: Values,
    *,
    null: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bootstrap",
) -> Difference:
    """Mean of a - b over seeds, its interval, and the two-sided p-value of that mean being `null`.

    a and b are (seeds,), paired by position; b may be a constant. `resamples` are the bootstrap's,
    and the sign patterns drawn where n > 16. No pairs: NaN, p = 1. One: no interval (NaN), p = 1.
    All differences equal: low = high = mean. Two pairs: percentiles, as BCa takes three.
    """
    _require(0 < confidence < 1, "confidence: expected within (0, 1)", confidence, "e.g. 0.95")
    _require(resamples >= 100, "resamples: expected >= 100", resamples, "10,000 is usual")
    _require(method in get_args(Method), f"method: expected {get_args(Method)}", method, "pick one")
    sample = _differences(a, b)
    low, high = _student_interval(sample, confidence)
    p, n = min(1.0, 2 * _student_tail(sample, abs(sample.mean - null))), len(sample.values)
    if method == "bootstrap":
        p = _sign_flip_p(sample, null, resamples, seed)
        if sample.error > 0:
            low, high = _bootstrap_interval(sample, confidence, resamples, seed)
    return Difference(sample.mean, low, high, p, n)


def mean_interval(values: Values, reference: float = 0.0, **options) -> Difference:
    """Mean of values - reference, a published number say, taken as exact: its own spread is left
    out. Options and result are `paired_difference`'s; p assumes values symmetric about their mean.
    """
    return paired_difference(values, float(reference), **options)


def equivalence(a: Values, b: Values, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Are a and b equal within ±margin? By TOST (Schuirmann 1987).

    Supported where the 1 - 2 alpha t interval lies inside ±margin, that is TOST p < alpha;
    contradicted where wholly outside; else, and for n < 2, inconclusive. Never the bootstrap's
    interval: a short one would claim equality too easily.
    """
    _require(0 < margin < np.inf, "margin: expected > 0", margin, "say what difference is none")
    _require(0 < alpha < 0.5, "alpha: expected within (0, 0.5)", alpha, "e.g. 0.05")
    sample = _differences(a, b)
    mean, (low, high) = sample.mean, _student_interval(sample, 1 - 2 * alpha)
    tost = max(_student_tail(sample, margin + mean), _student_tail(sample, margin - mean))
    # At either margin, how often is |mean| as large as this? (Hodges & Lehmann 1954)
    outside = [_student_tail(sample, abs(mean) + bound) for bound in (-margin, margin)]
    verdict = _place(low, high, -margin, margin)
    return Equivalence(mean, low, high, tost, len(sample.values), verdict, min(1.0, sum(outside)))


def holm(p_values: Values) -> np.ndarray:
    """Step-down adjusted p-values (Holm 1979): those under alpha are rejected, family-wise.

    With p sorted upwards, adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    p = np.asarray(p_values, dtype=np.float64)
    valid = p.ndim == 1 and np.all((p >= 0) & (p <= 1))
    _require(valid, "p_values: expected (m,) within [0, 1]", p_values, "use 1 for none")
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order)]


@dataclass(frozen=True)
class Claim:
    """A statement about two sets of runs, fixed before anyone looks at them.

    kind: "greater" (a > b + margin), "at_least" (a >= b - margin, non-inferiority), "equal"
    (|a - b| < margin). For "lower" swap a and b; for a ratio ("2.5 times sooner") use logarithms.
    """

    identifier: str
    document: str
    text: str
    published: str
    kind: Kind
    margin: float = 0.0  # in the unit of the values
    unit: str = "accuracy points"

    def __post_init__(self):
        kinds, m, where = get_args(Kind), self.margin, f"claim {self.identifier!r}: expected"
        _require(self.kind in kinds, f"{where} kind in {kinds}", repr(self.kind), "choose one")
        valid = 0 <= m < np.inf and (m > 0 or self.kind != "equal")
        _require(valid, f"{where} margin >= 0, > 0 if 'equal'", m, "say what difference is none")


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


def judge(claim: Claim, a: Values, b: Values, **options) -> Verdict:
    """`judge_all` of one claim, where Holm changes nothing. b may be a constant."""
    return judge_all([(claim, a, b)], **options)[0]


def judge_all(
    pairs: Sequence[tuple[Claim, Values, Values]], *, alpha: float = 0.05, **options
) -> list[Verdict]:
    """Verdicts of a family of claims, (claim, a, b) each, by interval and Holm-adjusted p.

    greater, at_least: supported where the 1 - alpha interval of a - b lies above the threshold
    (margin, -margin), contradicted where below; p is two-sided, of a - b being at the threshold.
    equal: as in `equivalence`; p is TOST's, or the opposite test's where |estimate| > margin.
    Either verdict needs adjusted p < alpha as well, otherwise it is inconclusive. Intervals are
    each claim's own, not simultaneous. options are `paired_difference`'s resamples, seed, method.
    """
    known = options.keys() <= {"resamples", "seed", "method"}
    _require(known, "options: expected resamples, seed, method", [*options], "mind the spelling")
    alone = [_judge_alone(*pair, alpha, options) for pair in pairs]
    verdicts = []
    for v, p in zip(alone, holm([v.p_value for v in alone]).tolist(), strict=True):
        if v.verdict != "inconclusive" and p >= alpha:
            note = f"{v.verdict} alone, not among {len(alone)} claims"
            v = v._replace(verdict="inconclusive", note=f"{v.note}; {note}".removeprefix("; "))
        verdicts.append(v._replace(adjusted_p=p))
    return verdicts


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


def holds_if(claim: Claim) -> str:
    """Where a - b has to lie for the claim to hold: ``> 0``, ``≥ -0.1``, ``within ±0.1``."""
    if claim.kind == "equal":
        return f"within ±{claim.margin:g}"
    return f"> {claim.margin:g}" if claim.kind == "greater" else f"≥ {-claim.margin or 0:g}"


def labels(verdicts: Sequence[Verdict]) -> list[str]:
    """The claims' texts; where several share one, the identifier's last part tells them apart."""
    often = Counter(verdict.claim.text for verdict in verdicts)

    def label(claim: Claim) -> str:
        return claim.text if often[claim.text] == 1 else f"{claim.text} ({claim.identifier.split(':')[-1]})"

    return [label(verdict.claim) for verdict in verdicts]


def markdown_table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table, a row a verdict; pipes, backslashes and newlines in cells are escaped."""
    header = ["claim", "published", "a - b", "holds if", "p (Holm)", "n", "verdict", "note"]
    rows = [header, ["---"] * len(header)]
    for v, label in zip(verdicts, labels(verdicts), strict=True):
        measured = f"{v.estimate:+.3g} [{v.low:+.3g}, {v.high:+.3g}] {v.claim.unit}"
        p = "< 0.001" if v.adjusted_p < 0.001 else f"{v.adjusted_p:.3f}"
        cells = [label, v.claim.published, measured, holds_if(v.claim), p, str(v.n), v.verdict, v.note]
        one_line = [" ".join(cell.split()) for cell in cells]
        rows.append([cell.replace("\\", r"\\").replace("|", r"\|") for cell in one_line])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


class _Sample(NamedTuple):
    values: np.ndarray  # finite differences, float64
    noise: float  # what the rounding of the inputs can add to a difference
    mean: float  # NaN where n = 0
    error: float  # standard error: NaN where n < 2, 0 where the values differ by noise only


def _differences(a: Values, b: Values) -> _Sample:
    arrays = a, b = np.asarray(a), np.asarray(b)
    matched, found = a.ndim == 1 and b.shape in ((), a.shape), f"{a.shape} and {b.shape}"
    _require(matched, "expected a, b of one shape (seeds,)", found, "keep the seeds both have")
    _require(b.ndim or np.isfinite(b), "expected a finite constant", b, "drop the claim")
    eps = max(float(np.finfo(x.dtype if x.dtype.kind == "f" else float).eps) for x in arrays)
    a, b = np.broadcast_arrays(a.astype(np.float64), b.astype(np.float64))
    keep = np.isfinite(a) & np.isfinite(b)
    d, n = a[keep] - b[keep], int(keep.sum())
    noise = 8 * eps * float(np.abs([a[keep], b[keep]]).max(initial=0))
    mean, error = float(d.mean()) if n else np.nan, np.nan
    if n > 1:
        error = float(d.std(ddof=1) / np.sqrt(n)) if np.ptp(d) > noise else 0.0
    return _Sample(d, noise, mean, error)


def _student_tail(sample: _Sample, distance: float) -> float:
    """One-sided p of the t test for a mean this far on the right side of its null."""
    if sample.error > 0:
        return float(scipy.stats.t.sf(distance / sample.error, len(sample.values) - 1))
    return float(np.isnan(sample.error) or distance <= sample.noise)


def _student_interval(sample: _Sample, confidence: float) -> tuple[float, float]:
    half = sample.error * scipy.stats.t.ppf((1 + confidence) / 2, max(len(sample.values) - 1, 1))
    return float(sample.mean - half), float(sample.mean + half)


def _bootstrap_interval(sample: _Sample, confidence, resamples, seed) -> tuple[float, float]:
    def mean_error(d, axis):  # BCa counts resamples below the mean; rounding must not break ties
        error = d.mean(axis)
        return np.where(np.abs(error) > sample.noise, error, 0)

    centred, n = sample.values - sample.mean, len(sample.values)
    options = {"n_resamples": resamples, "batch": max(1, 4_000_000 // n), "rng": seed}
    options |= {"confidence_level": confidence, "method": "BCa" if n > 2 else "percentile"}
    low, high = scipy.stats.bootstrap((centred,), mean_error, **options).confidence_interval
    return float(sample.mean + low), float(sample.mean + high)


def _sign_flip_p(sample: _Sample, null: float, draws: int, seed: int) -> float:
    """Two-sided p of "symmetric about null"; patterns that tie up to rounding count as hits."""
    d, n = sample.values - null, len(sample.values)
    if n <= 16:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng((seed, 1)).choice(np.array([-1, 1], np.int8), (draws, n))
        signs = np.concatenate([np.ones((1, n), np.int8), signs])  # the pattern that happened
    return float(np.mean(np.abs(signs @ d) >= abs(d.sum()) - n * sample.noise))


def _place(low: float, high: float, lower: float, upper: float) -> Conclusion:
    """Where an interval lies against the open region that a claim allows."""
    if lower < low and high < upper:
        return "supported"
    return "contradicted" if high < lower or low > upper else "inconclusive"


def _judge_alone(claim: Claim, a, b, alpha: float, options: dict) -> Verdict:
    """The verdict of a claim that has no family."""
    flips = claim.kind != "equal" and options.get("method") != "student"
    if claim.kind == "equal":
        mean, low, high, p, n, verdict, outside = equivalence(a, b, claim.margin, alpha=alpha)
        p = outside if abs(mean) > claim.margin else p
    else:
        null = claim.margin if claim.kind == "greater" else -claim.margin
        found = paired_difference(a, b, null=null, confidence=1 - alpha, **options)
        mean, low, high, p, n = found
        verdict = _place(low, high, null, np.inf)
    remarks = {
        f"{np.size(a) - n} of {np.size(a)} pairs dropped, not finite": n < np.size(a),
        "fewer than two pairs": n < 2,
        f"{n} pairs never reach p < {alpha:g} by sign flips": flips and n > 1 and 2 / 2**n >= alpha,
        "all differences equal": low == high,
    }
    note = "; ".join(remark for remark, applies in remarks.items() if applies)
    verdict = verdict if p < alpha else "inconclusive"
    return Verdict(claim, mean, low, high, p, n, verdict, p, note)


def _require(condition, expected: str, found, advice: str) -> None:
    if not condition:
        raise ValueError(f"{expected}, found {found}; {advice}")
