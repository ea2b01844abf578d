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
* Other choices: a verdict keeps what it was judged from, and `rejudge` judges it again.
* Power: see `power`. What a claim and a verdict hold, and how they are worded: see `claims`.

Where a pair with NaN or inf (a diverged seed) is dropped the verdict says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lth_jax.analysis import power as powers
from lth_jax.analysis.claims import (
    COLUMNS,
    Claim,
    Comparison,
    Family,
    Kind,
    Side,
    Theirs,
    Verdict,
    holds_if,
    labels,
    markdown_table,
    measured,
    power_of,
    said,
    source,
    to_rows,
    write_csv,
)
from lth_jax.analysis.differences import (
    Conclusion,
    Difference,
    Equivalence,
    Method,
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
    "power_of", "published_difference", "rejudge", "said", "share_interval", "source", "summary",
    "to_rows", "under", "write_csv",
]  # fmt: skip

Pair = tuple[Claim, Side, Theirs]


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
    return _judge_together([Comparison(*pair, alpha, options) for pair in pairs])


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


def rejudge(
    verdict: Verdict,
    *,
    among: Sequence[Verdict] | None = None,
    margin: float = 1.0,
    method: Method | None = None,
) -> Verdict:
    """The verdict that the same samples get under other choices.

    Args:
      verdict: of `judge`, `judge_all` or `judge_families`.
      among: the verdicts corrected together, it among them: `[verdict]` for no correction. By default
        its own family.
      margin: a factor of every margin.
      method: of the tests; by default as it was.

    Raises:
      ValueError: the verdict is of arithmetic, or not among those named.
    """
    if verdict.family is None:
        raise ValueError(f"verdict: expected one of samples, found {verdict.claim.identifier!r}; leave it")
    comparisons, place = verdict.family.comparisons, verdict.family.own
    if among is not None:
        families = [v.family for v in among if v.family]
        same = [other.comparisons[other.own] is comparisons[place] for other in families]
        require(any(same), "among: expected the verdict too", verdict.claim.identifier, "add it")
        comparisons, place = [other.comparisons[other.own] for other in families], same.index(True)
    other = {} if method is None else {"method": method}
    again = [
        replace(c, claim=replace(c.claim, margin=margin * c.claim.margin), options={**c.options, **other})
        for c in comparisons
    ]
    return _judge_together(again)[place]._replace(protocol=verdict.protocol)


def fact(claim: Claim, difference: float) -> Verdict:
    """The verdict of a matter of arithmetic: a - b is a number, not a sample. kind "greater" only."""
    require(claim.kind == "greater", "kind: expected 'greater'", claim.kind, "judge a sample instead")
    verdict: Conclusion = "supported" if difference > claim.margin else "contradicted"
    note = "arithmetic, not a sample: no test"
    return Verdict(claim, difference, difference, difference, 0.0, 0, verdict, 0.0, note)


def under(verdicts: Sequence[Verdict], protocol: str) -> list[Verdict]:
    """The verdicts, of runs whose protocol is not the document's: what is said of each says so."""
    return [v._replace(protocol=protocol) for v in verdicts]


_Judged = tuple[Verdict, powers.Spread | None]


def _judge_together(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Verdicts of a family: each comparison's own, and what Holm's correction leaves of them."""
    alone = [_judge_alone(c.claim, c.a, c.b, c.alpha, dict(c.options)) for c in comparisons]
    tested = [v.p_value < 1 or v.low < v.high for v, _ in alone]
    adjusted = iter(holm([v.p_value for (v, _), test in zip(alone, tested, strict=True) if test]).tolist())
    family, verdicts = max(sum(tested), 1), []
    for i, ((v, spread), test) in enumerate(zip(alone, tested, strict=True)):
        p, alpha = next(adjusted) if test else 1.0, comparisons[i].alpha
        needs_p = v.verdict == "contradicted" or (v.verdict == "supported" and v.claim.kind != "one_of")
        v = _open(v, family) if needs_p and p >= alpha else v
        v = v._replace(adjusted_p=p, family=Family(tuple(comparisons), i))
        verdicts.append(_with_power(v, spread, alpha, family))
    return verdicts


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
