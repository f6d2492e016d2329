"""What the numbers say about each method against plain training, in sentences that claim no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.digits import ratio, signed
from ..results.result import Result
from .course.measured import FIELDS, Field, Seeds, measurements
from .draw.method_styles import is_plain, name
from .draw.series import runs_apart

_FLATNESS = ("lambda_max", "m_sharpness", "domain_loss_variance")
_ACCURACY = ("unseen_accuracy", "test_accuracy")
_FEW = 5  # with so few pairs the smallest possible p-value is above 0.05
_EXACT = 16  # all sign patterns of so many pairs are tried


def comparison(
    rows: Sequence[Mapping[str, object]],
    results: Sequence[Result],
    *,
    quantities: Sequence[str] = (*_FLATNESS, *_ACCURACY),
) -> list[str]:
    """Compare every method with its ERM baseline, seed by seed.

    Args:
        rows: From `landscape.figures.summary.summarize`; says which methods there are.
        results: The same results.
        quantities: Which to speak of: lambda_max, m_sharpness, domain_loss_variance, unseen_accuracy,
            test_accuracy.

    Returns:
        Sentences: per method the flatness measures as ratios and the accuracies as differences, each with the
        number of seeds that agree; then what the number of seeds allows to conclude.
    """
    results = runs_apart(results)
    found = measurements(results)
    labels = [str(row["label"]) for row in rows]
    baselines = [label for label in labels if is_plain(label)]
    others = [label for label in labels if not is_plain(label)]
    if not others:
        return ["There is nothing to compare: no method other than plain training (ERM) among the results."]
    if not baselines:
        missing = "There is no ERM baseline (sgd, adam or adamw) among the results"
        return [f"{missing}: cannot tell what the other methods change."]
    sentences, counts = [], set()
    fields = {f.name: f for f in FIELDS}
    for label in others:
        baseline = _base(label, results, baselines)
        if baseline is None:
            sentences.append(f"{name(label)}: cannot tell, there is no ERM baseline of its network and data.")
            continue
        for key in quantities:
            mine, its = found[key].get(label, {}), found[key].get(baseline, {})
            if not mine or not its:
                continue
            pair = _pair(mine, its)
            if isinstance(pair, str):
                sentences.append(f"{name(label)} against {name(baseline)}, {fields[key].title}: cannot tell, {pair}.")
                continue
            counts.add(len(pair.differences))
            write = _ratio if key in _FLATNESS else _difference
            sentences.append(write(label, baseline, fields[key], pair))
    return [*sentences, *_caveats(counts)]


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """In one sentence: do the flattest minima generalize best here, and how much does that prove?"""
    measured = [r for r in rows if r["lambda_max_mean"] is not None and r["unseen_accuracy_mean"] is not None]
    if len(measured) < 2:
        what = "fewer than two methods have both eigenvalues and accuracy on unseen domains"
        return f"Whether the flatter network generalizes better: cannot tell, {what}."
    flattest = min(measured, key=lambda r: float(r["lambda_max_mean"]))
    if len({r["lambda_max_mean"] for r in measured}) == 1:
        return "All methods have the same mean λ_max: cannot tell whether flatter networks generalize better."
    best = max(measured, key=lambda r: float(r["unseen_accuracy_mean"]))
    if flattest is best:
        told = f"{best['name']} has both the lowest mean λ_max and the highest mean unseen-domain accuracy"
    else:
        told = f"The lowest mean λ_max ({flattest['name']}) does not go with the highest mean unseen-domain accuracy"
        told += f" ({best['name']})"
    return f"{told}; {len(measured)} methods are too few to say whether flatness predicts generalization."


@dataclass(frozen=True)
class _Pair:
    mine: Any
    its: Any
    residual: float

    @property
    def differences(self) -> Any:
        return self.mine - self.its


def _base(label: str, results: Sequence[Result], baselines: Sequence[str]) -> str | None:
    """The ERM method that ``label`` steps with, else the first one there is; of the same network and data."""
    apart = label.partition(" (")[1:]
    alike = [b for b in baselines if b.partition(" (")[1:] == apart]
    for result in results:
        if result.label == label:
            base = (result.record.get("run") or {}).get("base") or (result.record.get("spec") or {}).get("base")
            if f"{base}{''.join(apart)}" in alike:
                return f"{base}{''.join(apart)}"
    return alike[0] if alike else None


def _pair(mine: Seeds, its: Seeds) -> _Pair | str:
    """Values of the seeds that both have, or why they do not compare."""
    shared = sorted(set(mine) & set(its), key=str)
    if not shared:
        return "they share no training seed"
    if len({m.basis for seeds in (mine, its) for m in (seeds[s] for s in shared)}) > 1:
        return "they were measured on different examples or by different definitions"
    values = np.array([[mine[s].value, its[s].value] for s in shared])
    if not np.isfinite(values).all():
        return "a value is not finite"
    return _Pair(values[:, 0], values[:, 1], max(m.residual or 0.0 for seeds in (mine, its) for m in seeds.values()))


def _ratio(label: str, baseline: str, field: Field, pair: _Pair) -> str:
    n = len(pair.mine)
    lower = int((pair.differences < 0).sum())
    who = f"{_whose(label)} {field.title}"
    if (np.concatenate([pair.mine, pair.its]) <= 0).any():
        told = f"{who} differs from {_whose(baseline)} by {pair.differences.mean():+.3g} on average"
    else:
        told = f"{who} is {ratio(pair.mine.mean() / pair.its.mean())} times {_whose(baseline)}"
    verdict = "" if lower in (0, n) else "; the seeds disagree: cannot tell which is lower"
    if n == 1:
        verdict = "; one pair has no spread: cannot tell whether another seed would agree"
    if (np.abs(pair.differences) <= pair.residual * np.maximum(np.abs(pair.mine), np.abs(pair.its))).any():
        verdict += "; some differences are no larger than the eigenvalues' residuals"
    return f"{told} ({lower} of {n} seed{'s' if n > 1 else ''} lower{_p_text(pair.differences)}){verdict}."


def _whose(label: str) -> str:
    """The possessive of a name: SAM's, SGD, 2× epochs'."""
    return f"{name(label)}'" if name(label).endswith("s") else f"{name(label)}'s"


def _difference(label: str, baseline: str, field: Field, pair: _Pair) -> str:
    points = 100 * pair.differences
    n = len(points)
    higher = int((points > 0).sum())
    told = f"{_whose(label)} {field.title} differs from {_whose(baseline)} by {signed(points.mean(), 1)}"
    if n == 1:
        return f"{told} percentage points in the one shared seed: there is no spread, cannot tell."
    spread = float(points.std(ddof=1))
    inside = abs(points.mean()) <= spread
    verdict = "within the spread over seeds: cannot tell" if inside else "larger than the spread over seeds"
    agree = f"{higher} of {n} seeds higher{_p_text(points)}"
    return f"{told} ± {spread:.1f} percentage points ({agree}), {verdict}."


def _p_text(differences: Any) -> str:
    return "" if len(differences) <= _FEW else f", sign-flip p = {sign_flip_p(differences):.2g}"


def sign_flip_p(differences: object) -> float:
    """Two-sided p-value of the mean of paired differences under random signs.

    Exact for up to 16 pairs; for more, 65,536 sign patterns of a fixed generator, counting the observed one.
    It cannot fall below ``2^(1-n)``.
    """
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    if n <= _EXACT:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        patterns = np.random.default_rng(0).integers(0, 2, (2**_EXACT, n))
        patterns[0] = 1
    sums = np.abs((2 * patterns - 1) @ differences)
    observed = abs(differences.sum())
    return float((sums >= observed * (1 - 1e-12)).mean())


def _caveats(counts: set[int]) -> list[str]:
    told = (
        ["± is the standard deviation (ddof = 1) of the paired differences over seeds."]
        if max(counts, default=0) > 1
        else []
    )
    for n in sorted(c for c in counts if c <= _FEW):
        told.append(
            f"With {n} paired seed{'s' if n > 1 else ''} no significance can be claimed: an exact sign-flip "
            f"permutation test of n = {n} pairs cannot give a p-value below 2^(1-{n}) = {2.0 ** (1 - n):.3g}."
        )
    if any(c > _FEW for c in counts):
        told.append("The p-values are not corrected for the number of methods and quantities compared.")
    return told
