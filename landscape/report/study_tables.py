"""The tables of a study: correlations, settings one at a time, methods; for people, as CSV and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.digits import with_spread
from ..figures.study.study_parts import interval_words
from ..study.verdicts import OUTCOME_WORDS, quantity_words

Row = Mapping[str, Any]
_SHOWN = ("test_accuracy", "unseen_accuracy", "gap_loss", "unseen_gap_loss", "train_loss")
_MOST = 4  # measures beside the outcomes in the table of methods


@dataclass(frozen=True)
class HtmlTable:
    """One table.

    Attributes:
        stem: File name without suffix, and id on the page.
        title: Heading.
        caption: What the columns and every ± are.
        headers: Of the shown cells.
        cells: Text.
        rows: All numbers with every digit, for the CSV.
    """

    stem: str
    title: str
    caption: str
    headers: list[str]
    cells: list[list[str]]
    rows: list[dict[str, Any]]


def tables(record: Row) -> Iterator[HtmlTable]:
    """All tables that the study allows."""
    if record.get("claims"):
        yield _claims(record["claims"])
    for outcome in record["outcomes"]:
        rows = [r for r in record["correlations"] if r["outcome"] == outcome["outcome"]]
        if not outcome["note"]:
            yield _correlations(outcome, rows)
    if any(r["granulated"] for r in record["correlations"]):
        yield _settings(record)
    if any(r["sign_error"] for r in record["correlations"]):
        yield _sign_errors(record)
    yield _methods(record)
    if record["comparison"]["pairs"]:
        yield _pairs(record)


def _claims(rows: Sequence[Row]) -> HtmlTable:
    cells = []
    for r in rows:
        scale = 100 if r["quantity"].endswith("accuracy") and r["expects"] != "predicts" else 1
        low, high = r["low"], r["high"]
        margin = r["margin_size"]
        cells.append(
            [
                r["says"],
                r["at"] or "–",
                r["answer"],
                "–" if r["difference"] is None else f"{scale * r['difference']:+.3g}",
                "–" if low is None or high is None else f"{scale * low:+.3g} to {scale * high:+.3g}",
                "–" if margin is None else f"{scale * margin:.2g}",
                "–" if r["p"] is None else f"{r['p']:.2g}",
                r["source"],
            ]
        )
    caption = (
        "One rule: a difference shows if its corrected p is below 0.05 and its 95 % interval excludes 0; it is "
        "refuted (no difference that matters) if the whole interval lies within the margin, which was written down "
        "before the run; everything else is cannot tell, also an interval that covers 0. Accuracies in percentage "
        "points; of predictions the difference is tau, or of two taus."
    )
    head = ["claim", "at", "answer", "difference", "95 % interval", "margin", "p", "source"]
    return HtmlTable("claims", "What was asked, and the answer", caption, head, cells, [dict(r) for r in rows])


def _correlations(outcome: Row, rows: Sequence[Row]) -> HtmlTable:
    name = OUTCOME_WORDS.get(outcome["outcome"], outcome["outcome"])
    cells = [
        [
            r["measure"],
            _number(r["tau"]),
            _interval(r["tau_low"], r["tau_high"]),
            _number(r["permuted_band"]),
            _number(r["psi"]),
            _number(r["partial_rank"]),
            _interval(r["partial_rank_low"], r["partial_rank_high"]),
            _number(r["information"]),
            _number(r["information_permuted"]),
            "–" if r["beats_learning_rate"] is None else "yes" if r["beats_learning_rate"] else "no",
            _number(r["icc"]),
            "–" if r["p_holm"] is None else f"{r['p_holm']:.2g}",
            r["verdict"] if r["kind"] == "measure" else f"{r['kind']}: {r['verdict']}",
        ]
        for r in rows
    ]
    head = [
        "measure",
        "τ",
        "95 % interval",
        "band",
        "Ψ",
        "partial",
        "of partial",
        "K",
        "K band",
        "beats lr",
        "ICC",
        "p",
        "verdict",
    ]
    caption = (
        f"Rank correlations with {name}, n = {outcome['n']} models{_reliability(outcome)}. "
        f"τ: Kendall's tau-b with its {interval_words(rows)}; band: |τ| that 95 % of permuted gaps stay below; "
        "Ψ: mean of the coefficients within one hyper-parameter at a time; partial: rank correlation with learning "
        "rate, batch size and training loss held, with its interval; K: smallest normalised conditional mutual "
        "information over sets "
        "of at most two hyper-parameters, and what 95 % of permuted gaps stay below; beats lr: |τ| above that of the "
        "learning rate by more than the uncertainty of resampled levels; ICC: repeatability over measurement seeds; "
        "p: permutation test, corrected by Holm over all measures and outcomes."
    )
    flat = [{k: v for k, v in r.items() if not isinstance(v, (list, dict))} for r in rows]
    return HtmlTable(f"correlations-{outcome['outcome']}", f"What predicts {name}", caption, head, cells, flat)


def _reliability(outcome: Row) -> str:
    found = outcome.get("reliability")
    return "" if found is None else f", of whose variance {100 * max(found, 0):.0f} % lies between configurations"


def _settings(record: Row) -> HtmlTable:
    rows = [
        {"outcome": r["outcome"], "measure": r["measure"], "tau": r["tau"], **g, "inner": " ".join(g["inner"])}
        for r in record["correlations"]
        if r["kind"] == "measure"
        for g in r["granulated"]
    ]
    factors = list(dict.fromkeys(r["factor"] for r in rows))
    cells = []
    for r in record["correlations"]:
        if r["kind"] == "measure" and r["granulated"]:
            by = {g["factor"]: g for g in r["granulated"]}
            own = [_psi(by.get(f)) for f in factors]
            cells.append([_both(r), _number(r["tau"]), *own, _number(r["psi"])])
    caption = (
        "Kendall's tau within groups of models that differ in one hyper-parameter alone: mean ± standard error over "
        "groups (number of groups). The column of seeds compares models of one configuration; Ψ is the mean over "
        "hyper-parameters without it."
    )
    head = ["measure, outcome", "τ of all", *("seeds" if f == "seed" else f for f in factors), "Ψ"]
    return HtmlTable("settings", "One hyper-parameter at a time", caption, head, cells, rows)


def _sign_errors(record: Row) -> HtmlTable:
    rows, cells = [], []
    for r in record["correlations"]:
        found = r["sign_error"]
        if not found:
            continue
        worst = found["worst"]
        where = "–" if worst is None else f"{worst['factor']}: {worst['values'][0]} or {worst['values'][1]}"
        numbers = {k: found[k] for k in ("environments", "kept", "n_test", "max", "percentile_90", "mean")}
        rows.append({"outcome": r["outcome"], "measure": r["measure"], "where": where} | numbers)
        cells.append(
            [
                _both(r),
                f"{found['kept']} of {found['environments']}",
                _number(found["max"]),
                _number(found["percentile_90"]),
                _number(found["mean"]),
                where,
            ]
        )
    caption = (
        "Sign error over environments, pairs of configurations that differ in one hyper-parameter: 0 orders all "
        "pairs rightly, 0.5 is chance, 1 orders all wrongly. Pairs are weighted by Hoeffding's inequality for the "
        "size of the test set; environments with fewer than 12 effective pairs are left out, which with few seeds "
        "or small test sets may be all of them."
    )
    head = ["measure, outcome", "environments", "worst", "90th percentile", "mean", "the worst one"]
    return HtmlTable("sign-errors", "Where measures order wrongly", caption, head, cells, rows)


def _methods(record: Row) -> HtmlTable:
    competitors = record["comparison"]["competitors"]
    there = [q for q in competitors[0]["values"] if any(c["values"][q]["n"] for c in competitors)]
    measures = [r["measure"] for r in record["correlations"] if r["kind"] == "measure"]
    shown = [q for q in _SHOWN if q in there] + [q for q in dict.fromkeys(measures) if q in there][:_MOST]
    cells = [
        [
            c["name"],
            str(c["n"]),
            *(_mean(q, c["values"][q]) for q in shown),
            f"{c['gradient_evaluations']:.0f}",
            f"{c['seconds']:.1f}",
        ]
        for c in competitors
    ]
    rows = [
        {"name": c["name"], "quantity": q, **v, "gradient_evaluations": c["gradient_evaluations"]}
        for c in competitors
        for q, v in c["values"].items()
    ]
    heads = [q.replace("_", " ") + (" (%)" if q.endswith("accuracy") else "") for q in shown]
    caption = "Mean ± sample standard deviation (ddof = 1) over n models, all configurations and seeds together."
    head = ["method", "n", *heads, "gradient evaluations", "seconds"]
    return HtmlTable("methods", "Methods", caption, head, cells, rows)


def _pairs(record: Row) -> HtmlTable:
    comparison = record["comparison"]
    rows, cells = [], []
    for p in comparison["pairs"]:
        effect = p["effect"] or {}
        low, high, scale = effect.get("low"), effect.get("high"), 100 if p["quantity"].endswith("accuracy") else 1
        points = [None if v is None else scale * v for v in (effect.get("mean"), low, high)]
        rows.append({k: p[k] for k in ("name", "baseline", "quantity", "n", "higher", "p_holm", "verdict")} | effect)
        cells.append(
            [
                f"{p['name']}, {quantity_words(p['quantity'])}" + (" (points)" if scale == 100 else ""),
                str(p["n"]),
                str(p["higher"]),
                "–" if points[0] is None else f"{points[0]:+.3g}",
                "–" if points[1] is None else f"{points[1]:+.3g} to {points[2]:+.3g}",
                _number(effect.get("size")),
                _interval(effect.get("size_low"), effect.get("size_high")),
                "–" if p["p_holm"] is None else f"{p['p_holm']:.2g}",
                p["verdict"],
            ]
        )
    caption = (
        f"Differences from {comparison['baseline']}, paired by configuration, seed and split; Student's 95 % "
        "interval of the mean; d: mean over standard deviation of the differences (ddof = 1), with its 95 % "
        "interval; p: exact sign-flip permutation of the mean, corrected by Holm over all rows."
    )
    head = ["method, quantity", "pairs", "higher", "difference", "95 % interval", "d", "of d", "p", "verdict"]
    return HtmlTable("pairs", "Methods, pair by pair", caption, head, cells, rows)


def _both(row: Row) -> str:
    return f"{row['measure']}, {row['outcome'].replace('_', ' ')}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def _psi(granule: Row | None) -> str:
    if granule is None or granule["psi"] is None:
        return "–"
    spread = "" if granule["stderr"] is None else f" ± {granule['stderr']:.2f}"
    return f"{granule['psi']:+.2f}{spread} ({granule['groups']})"


def _mean(quantity: str, found: Row) -> str:
    if found["mean"] is None:
        return "–"
    if not quantity.endswith("accuracy"):
        return with_spread(found["mean"], found["std"])
    return f"{100 * found['mean']:.1f}" + ("" if found["std"] is None else f" ± {100 * found['std']:.1f}")
