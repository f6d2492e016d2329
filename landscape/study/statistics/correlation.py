"""Does a measure predict a gap? All that can be said of one measure and one outcome, and of all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...base.arrays import Floats
from ...base.progress import report
from ...specs.study import StudyReportSpec
from ..repeatability import icc
from ..table import Table
from ..values import flatter_is_larger
from ..verdicts import judge
from .design import Ints, design_of
from .granulated import granulated
from .information import Conditioned
from .paired import holm
from .ranks import (
    interval,
    kendall,
    null_band,
    pair_signs,
    partial_kendall,
    partial_rank,
    taus,
)
from .sign_error import EFFECTIVE_PAIRS, detectable_gap, environments, summary

HELD = ("learning rate", "batch size", "training loss")  # what partial correlations hold
_CHUNK = 100  # permutations at once
_PER_TEST = 40  # permutations for every test made: the smallest corrected p-value is then 0.025
_INFORMATION_DRAWS = 50  # permutations of the information, which is dearer
_ALARM_DRAWS = 20  # the negative control of the intervals

Row = dict[str, Any]


def correlations(table: Table, spec: StudyReportSpec) -> tuple[list[Row], list[Row]]:
    """Every predictor against every outcome.

    Args:
        table: The models.
        spec: Outcomes, numbers of resamples and permutations.

    Returns:
        A row per pair with statistics and verdict, and a row per outcome with what was asked of it.
    """
    rows: list[Row] = []
    asked: list[Row] = []
    for name in spec.outcomes:
        gap = table.column(name)
        known = np.isfinite(gap)
        if not known.any():
            asked.append({"outcome": name, "n": 0, "note": "the data does not have it"})
            continue
        outcome = _Outcome(table, name, known, spec)
        predictors = [*table.measures, *table.courses, *table.baselines]
        for i, predictor in enumerate(predictors):
            report(f"statistics of {name}", i, len(predictors), predictor)
            rows.append(outcome.row(predictor))
        report(f"statistics of {name}", len(predictors), len(predictors))
        asked.append(outcome.facts())
    tested = [r for r in rows if r["p_permutation"] is not None]
    adjusted = holm([r["p_permutation"] for r in tested])
    for row in rows:
        row["p_holm"], row["tests"] = None, len(tested)
    for row, p in zip(tested, adjusted, strict=True):
        row["p_holm"] = p
    repeats, configurations = table.repetitions, len({m.configuration for m in table.models})
    for row in rows:
        row.update(judge(row, repetitions=repeats, configurations=configurations))
    return rows, asked


class _Outcome:
    """One outcome over the models that have it, with everything that is shared by all predictors."""

    def __init__(self, table: Table, name: str, known: Any, spec: StudyReportSpec) -> None:
        self.table, self.name, self.spec = table, name, spec
        self.places = np.flatnonzero(known)
        self.gap = table.column(name)[self.places]
        self.signs = pair_signs(self.gap)
        self.clusters = [str(table.models[i].configuration) for i in self.places]
        # A p-value of a few permutations could not survive the correction for all tests, whatever there is.
        with_seed, without = table.factors(seed=True), table.factors(seed=False)
        self.factors = {k: [v[i] for i in self.places] for k, v in with_seed.items()}
        self.settings = {k: [v[i] for i in self.places] for k, v in without.items()}
        self.design = design_of(self.settings, [table.models[i].repetition for i in self.places])
        self.counts, self.left_out = self.design.resamples(spec.bootstrap, spec.seed)
        tests = len([*table.measures, *table.courses, *table.baselines]) * len(spec.outcomes)
        self.orders = self.design.permutations(max(spec.permutations, _PER_TEST * tests), spec.seed)
        self.controls = self.design.permutations(_ALARM_DRAWS, spec.seed + 1)
        self.pairs = Conditioned(self.settings, len(self.gap))
        self.lr = self._rate()
        self.alarms = 0
        self.alarm_trials = 0

    def _rate(self) -> tuple[float, Floats, Floats] | None:
        """Tau of the learning rate, and its resamples; None where it was not varied."""
        lr = self.table.column("learning rate")[self.places]
        tau = kendall(lr, self.gap)
        if tau is None:
            return None
        signs = pair_signs(lr)
        return tau, taus(signs, self.signs, self.counts), taus(signs, self.signs, self.left_out)

    def row(self, predictor: str) -> Row:
        """All statistics of one predictor."""
        values = self.table.column(predictor)[self.places]
        kind = (
            "baseline"
            if predictor in self.table.baselines
            else "course"
            if predictor in self.table.courses
            else "measure"
        )
        row: Row = {
            "measure": predictor,
            "kind": kind,
            "outcome": self.name,
            "n": int(np.isfinite(values).sum()),
            "flatter_is_larger": flatter_is_larger(predictor),
            "icc": self.table.repeatability(predictor),
        }
        if not np.isfinite(values).all():
            return row | self._nothing("it is missing for some models, and the others would be another comparison")
        tau = kendall(values, self.gap)
        if tau is None:
            return row | self._nothing("it has the same value for all models")
        signs = pair_signs(values)
        resampled, left_out = taus(signs, self.signs, self.counts), taus(signs, self.signs, self.left_out)
        permuted = self._permuted(signs, self.orders)
        band = float(np.percentile(np.abs(permuted), 95))
        information, given = self.pairs.smallest(values, self.gap)
        granules, psi = granulated(values, self.gap, self.factors)
        if kind == "measure":
            self._false_alarms(signs, band)
        return row | {
            "note": None,
            "tau": tau,
            # As far to either side as tau reaches by chance in this design: it excludes 0 where the exchange of
            # levels does at 5 %. Resampled levels, of which there are few, exclude it in up to 22 % of null studies.
            "tau_low": max(-1.0, tau - band),
            "tau_high": min(1.0, tau + band),
            "interval": "permuted",
            "null_band": null_band(len(self.gap)),
            "permuted_band": band,
            "exchanges": self.design.exchanges,
            "p_permutation": (1 + int((np.abs(permuted) >= abs(tau) - 1e-12).sum())) / (1 + len(permuted)),
            "psi": psi,
            "granulated": [asdict(g) for g in granules],
            "held": self._held(signs),
            "information": information,
            "information_given": list(given),
            "information_permuted": self._permuted_information(values),
            **self._partial(values, tau),
            **self._against_rate(tau, resampled, left_out, predictor),
            "sign_error": self._sign_error(values),
        }

    def _nothing(self, note: str) -> Row:
        empty = (
            "tau tau_low tau_high interval null_band permuted_band p_permutation psi information "
            "information_permuted partial_rank partial_rank_low partial_rank_high beats_learning_rate "
            "gain gain_low gain_high sign_error"
        )
        return {
            **dict.fromkeys(empty.split()),
            "note": note,
            "granulated": [],
            "held": [],
            "information_given": [],
            "partial_kendall": {},
        }

    def _permuted(self, signs: Floats, every: Ints) -> Floats:
        """Tau with the gaps of other levels; of the models for which there is one."""
        found = []
        for first in range(0, len(every), _CHUNK):
            orders = every[first : first + _CHUNK]
            gaps = np.where(orders < 0, np.nan, self.gap[orders])
            pairs = np.nan_to_num(np.sign(gaps[:, :, None] - gaps[:, None, :]))
            there = (orders >= 0).astype(float)
            own = np.einsum("di,ij,dj->d", there, np.abs(signs), there)
            scale = np.sqrt(own * np.abs(pairs).sum((1, 2)))
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(scale > 0, np.tensordot(pairs, signs, 2) / scale, 0.0))
        return np.concatenate(found)

    def _permuted_information(self, values: Floats) -> float | None:
        drawn = []
        for order in self.orders[:_INFORMATION_DRAWS]:
            gap = np.where(order < 0, self.gap, self.gap[order])  # a model without a partner keeps its own
            drawn.append(self.pairs.smallest(values, gap)[0])
        known = [d for d in drawn if d is not None]
        return float(np.percentile(known, 95)) if known else None

    def _false_alarms(self, signs: Floats, band: float) -> None:
        """How often an interval excludes 0 with the gaps of other levels: the negative control of the intervals."""
        found = self._permuted(signs, self.controls)
        self.alarm_trials += len(found)
        self.alarms += int((np.abs(found) > band).sum())

    def _held(self, signs: Floats) -> list[Row]:
        """Tau among models that share a level of a factor: what is left when it is held."""
        found: list[Row] = []
        for name, own in self.design.levels.items():
            if name in ("seed", "configuration"):
                continue
            same = (own[:, None] == own[None, :]).astype(float)
            mine, its = signs * same, self.signs * same
            tau = float(taus(mine, its, np.ones((1, len(own))))[0])
            known = math.isfinite(tau)
            bounds = interval(tau if known else None, taus(mine, its, self.counts), taus(mine, its, self.left_out))
            found.append({"held": name, "tau": tau if known else None, "low": bounds.low, "high": bounds.high})
        return found

    def _partial(self, values: Floats, tau: float) -> Row:
        held = {k: self.table.column(k)[self.places] for k in HELD if k in self.table.baselines}
        alone = {}
        for name, z in held.items():
            with_measure, with_gap = kendall(values, z), kendall(self.gap, z)
            alone[name] = (
                None if with_measure is None or with_gap is None else partial_kendall(tau, with_measure, with_gap)
            )
        controls = list(held.values())
        observed = float(partial_rank(values, self.gap, controls, np.ones((1, len(self.gap))))[0])
        if not math.isfinite(observed):
            return {
                "partial_kendall": alone,
                "partial_rank": None,
                "partial_rank_low": None,
                "partial_rank_high": None,
            }
        bounds = interval(
            observed,
            partial_rank(values, self.gap, controls, self.counts),
            partial_rank(values, self.gap, controls, self.left_out),
        )
        return {
            "partial_kendall": alone,
            "partial_rank": observed,
            "partial_rank_low": bounds.low,
            "partial_rank_high": bounds.high,
        }

    def _against_rate(self, tau: float, resampled: Floats, left_out: Floats, predictor: str) -> Row:
        """|tau| of the measure minus |tau| of the learning rate, on the same resamples."""
        if self.lr is None or predictor == "learning rate":
            return {"beats_learning_rate": None, "gain": None, "gain_low": None, "gain_high": None}
        rate, drawn, without = self.lr
        gain = abs(tau) - abs(rate)
        bounds = interval(gain, np.abs(resampled) - np.abs(drawn), np.abs(left_out) - np.abs(without))
        return {
            "beats_learning_rate": bounds.low is not None and bounds.low > 0,
            "gain": gain,
            "gain_low": bounds.low,
            "gain_high": bounds.high,
        }

    def gain_over(self, mine: str, other: str) -> tuple[float, float | None, float | None] | None:
        """How much nearer one measure's ranking is to "sharper is worse" than another's, on the same resamples."""
        values = [self.table.column(name)[self.places] for name in (mine, other)]
        if not all(np.isfinite(v).all() for v in values):
            return None
        found = []
        for name, column in zip((mine, other), values, strict=True):
            tau, signs = kendall(column, self.gap), pair_signs(column)
            if tau is None:
                return None
            sign = -1.0 if flatter_is_larger(name) else 1.0
            drawn, without = (taus(signs, self.signs, counts) for counts in (self.counts, self.left_out))
            found.append((sign * tau, sign * drawn, sign * without))
        (tau, drawn, without), (its, its_drawn, its_without) = found
        bounds = interval(tau - its, drawn - its_drawn, without - its_without)
        return tau - its, bounds.low, bounds.high

    def _sign_error(self, values: Floats) -> Row | None:
        n = self._test_size()
        if n is None:
            return None
        kept, there = environments(values, self.gap, self.settings, n)
        return {
            "environments": there,
            "kept": len(kept),
            "n_test": n,
            "losses": sorted(e.loss for e in kept),
            **summary(kept),
        }

    def _test_size(self) -> int | None:
        """Examples behind a gap of error rates; Hoeffding's inequality does not hold for cross-entropies."""
        if not self.name.endswith("gap_error"):
            return None
        split = self.name.removesuffix("gap_error").rstrip("_") or "test"
        sizes = {m.record["training"]["sizes"].get(split) for m in self.table.models}
        known = [s for s in sizes if s]
        return min(known) if known else None

    def _reliability(self) -> float | None:
        """Share of the gap's variance that is between configurations; the rest is of seeds and test examples."""
        by: dict[str, list[float]] = {}
        for name, gap in zip(self.clusters, self.gap.tolist(), strict=True):
            by.setdefault(name, []).append(gap)
        return icc(list(by.values()))

    def facts(self) -> Row:
        """What was asked of this outcome, and what its data allow to see."""
        n = self._test_size()
        return {
            "outcome": self.name,
            "n": len(self.gap),
            "configurations": len(set(self.clusters)),
            "note": None,
            "null_band": null_band(len(self.gap)),
            "reliability": self._reliability(),
            "n_test": n,
            "detectable_gap": detectable_gap(n) if n else None,
            "effective_pairs": EFFECTIVE_PAIRS,
            "alarms": self.alarms,
            "alarm_trials": self.alarm_trials,
            "spread": float(self.gap.std(ddof=1)) if len(self.gap) > 1 else None,
        }


def gain_over(
    table: Table, spec: StudyReportSpec, outcome: str, measure: str, other: str
) -> tuple[float, float | None, float | None] | None:
    """Whether a measure predicts an outcome better than another does: the difference of their taus.

    Both are counted as "sharper is worse" and correlated with the same gaps; levels of the design are resampled for
    both at once, so that what they share cancels.

    Args:
        table: The models.
        spec: Number of resamples and their seed.
        outcome: What is predicted.
        measure: The one.
        other: The other.

    Returns:
        Difference, and its 95 % interval (None: too few levels to resample); None if one of them has no tau.
    """
    known = np.isfinite(table.column(outcome))
    return _Outcome(table, outcome, known, spec).gain_over(measure, other) if known.any() else None


def radii(table: Table) -> list[Row]:
    """Whether a measure ranks models alike at all its radii (control C11): tau between any two radii."""
    families: dict[str, list[str]] = {}
    for name in table.measures:
        words = [w for w in name.split() if not w.startswith("rho=")]
        if len(words) < len(name.split()):
            families.setdefault(" ".join(words), []).append(name)
    found = []
    for family, names in families.items():
        columns = {n: table.column(n) for n in names}
        if len(names) < 2 or not all(np.isfinite(c).all() for c in columns.values()):
            continue
        pairs = _pairs(list(columns.values()))
        values = [_rho(n) for n in names]
        found.append(
            {"measure": family, "radii": values, "lowest_tau": min(pairs, default=None), "decade": _decade(values)}
        )
    return found


def _pairs(columns: Sequence[object]) -> list[float]:
    every = [kendall(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    return [t for t in every if t is not None]


def _rho(name: str) -> float:
    return next(float(w.removeprefix("rho=")) for w in name.split() if w.startswith("rho="))


def _decade(values: Sequence[float]) -> bool:
    """At least four radii over at least one decade, as the comparison asks."""
    return len(values) >= 4 and min(values) > 0 and max(values) / min(values) >= 10 * (1 - 1e-9)
