"""From a finished training and its analyses to named numbers: outcomes, baselines and measures of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..results.result import Result
from ..results.run import Run
from ..specs.study import Analysis

Numbers = dict[str, float | None]

# Measures that grow with flatness; of all others more is sharper.
FLATTER_IS_LARGER = ("pac-bayes-sigma", "pac-bayes-sigma-magnitude", "margin")


def outcomes(run: Run) -> Numbers:
    """How a training ended: losses, accuracies and gaps, all in eval mode on clean data.

    ``gap_loss`` is L_test − L_train over the seen domains, ``gap_error`` the same of error rates;
    ``unseen_gap_...`` has the held-out domains in place of the test split, ``SPLIT_gap_...`` any further split.
    """
    final = run.record["final"]
    found: Numbers = {k: v for k, v in final.items() if isinstance(v, float) or v is None}
    splits = [k.removesuffix("_loss") for k in final if k.endswith("_loss")]
    for split in splits:
        if split in ("train", "train_clean"):
            continue
        prefix = "" if split == "test" else f"{split}_"
        found[f"{prefix}gap_loss"] = _minus(final.get(f"{split}_loss"), final.get("train_loss"))
        found[f"{prefix}gap_error"] = _minus(final.get("train_accuracy"), final.get(f"{split}_accuracy"))
    unseen = [
        d[f"{s}_accuracy"]
        for d in (final.get("domains") or {}).values()
        if not d["seen"]
        for s in ("train", "test")
        if d[f"{s}_accuracy"] is not None
    ]
    found["worst_unseen_accuracy"] = min(unseen, default=None)
    return found


def course(run: Run) -> Numbers:
    """What was recorded during training, as the mean over the training and as the last value."""
    series: dict[str, list[float]] = {}
    for line in run.metrics():
        evaluation = line.get("evaluation") or {}
        if line.get("step") and evaluation.get("domain_loss_variance") is not None:
            series.setdefault("domain-loss variance", []).append(evaluation["domain_loss_variance"])
        for probe, quantities in (line.get("probes") or {}).items():
            for quantity, value in quantities.items():
                if isinstance(value, (int, float)):
                    series.setdefault(f"{probe} {quantity}", []).append(float(value))
    found: Numbers = {}
    for name, values in series.items():
        found[f"{name} (training mean)"] = float(np.mean(values))
        found[f"{name} (last)"] = values[-1]
    return found


def baselines(run: Run, sizes: Mapping[str, int]) -> Numbers:
    """Predictors of the gap that look at no landscape; a measure that does not beat them is no finding."""
    record, spec = run.record, run.spec
    batch = sizes["train"] if spec["batch_size"] == "full" else spec["batch_size"]
    return {
        "learning rate": float(spec["lr"]),
        "batch size": float(batch),
        "training loss": record["final"]["train_loss"],
        "steps": float(record["steps"]),
    }


def measures(result: Result, analysis: Analysis) -> Numbers:
    """The numbers of one result, each under a name that holds its whole definition within the study.

    An analysis with a control has none: it says which measures move, see `controls`.
    """
    record = result.record
    if record.get("control"):
        return {}
    where = "" if analysis.problem.split == "train" else f" on {analysis.problem.split}"
    where += f" {' '.join(analysis.problem.domain)}" if analysis.problem.domain else ""
    step = "" if analysis.checkpoint == "last" else f" @{analysis.checkpoint}"
    if analysis.checkpoint == "all":
        step = f" @step={(record.get('run') or {}).get('step')}"
    label = f" ({analysis.label})" if analysis.label else ""
    return {f"{name}{where}{step}{label}": value for name, value in _READERS[result.kind](record)}


def controls(result: Result) -> dict[str, Any] | None:
    """What a control that leaves the predictions alone found: which measures move all the same."""
    control = result.record.get("control")
    if not control:
        return None
    moves = [
        {"name": sharpness_name(row), "moves": row["moves"], "largest_change": row["largest_change"]}
        for row in control["measures"]
    ]
    return {"kind": control["kind"], "measures": moves, "output_change": _largest_change(control)}


def sharpness_name(row: Mapping[str, object]) -> str:
    """``m-sharpness m=16 rho=0.05``: the measure and everything that defines it."""
    words = [str(row["measure"])]
    words += [f"{k}={row[k]:g}" for k in ("m", "rho") if row.get(k) is not None]
    if row.get("rho") is not None and row.get("p") not in (None, "2"):
        words.append(f"p={row['p']}")
    if row.get("adaptive") and "adaptive" not in str(row["measure"]):
        words.append("adaptive")
    if row.get("layer"):
        words.append(str(row["layer"]))
    return " ".join(words)


def flatter_is_larger(name: str) -> bool:
    """Whether a larger value of this measure means a flatter minimum."""
    return name.split(maxsplit=1)[0] in FLATTER_IS_LARGER


def _largest_change(control: Mapping[str, Any]) -> float | None:
    changes = [p["output_change"] for p in control["networks"] if p["output_change"] is not None]
    return max(changes) if control["kind"] == "rescale" and changes else None


def _of_sharpness(record: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for row in record["measures"]:
        yield sharpness_name(row), row["value"]
    domains = record.get("domains") or {}
    rows = {n: {sharpness_name(r): r["value"] for r in d["measures"]} for n, d in domains.items()}
    yield from _by_domain(rows)


def _of_hessian(record: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    of = "" if record["operator"] == "hessian" else f"{record['operator']} "
    for name, value in _spectrum(record).items():
        yield of + name, value
    edges = record.get("edges_of_stability") or {}
    if edges.get("own") and not of:  # of this very optimizer; another's would compare learning rates
        yield "lambda_1/edge", record["eigenvalues"][0] / edges["own"]
    rows = {n: {of + k: v for k, v in _spectrum(d).items()} for n, d in (record.get("domains") or {}).items()}
    yield from _by_domain(rows)
    tops = [v for row in rows.values() if (v := row.get(of + "lambda_1")) is not None]
    if tops and len(tops) == len(rows) and record["eigenvalues"] and record["eigenvalues"][0] > 0:
        yield f"{of}lambda_1 [worst domain / pooled]", max(tops) / record["eigenvalues"][0]


def _spectrum(record: Mapping[str, Any]) -> Numbers:
    values, found = record["eigenvalues"], Numbers()
    found["lambda_1"] = values[0] if values else None
    if len(values) >= 5 and values[4] > 0:
        found["lambda_1/lambda_5"] = values[0] / values[4]
    if record.get("smallest"):
        found["lambda_min"] = record["smallest"][0]
    if record.get("trace"):
        found["trace"] = record["trace"]["estimate"]
    return found


def _of_domains(record: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield "domain-loss variance", record["loss_variance"]
    yield "domain-loss range", record["loss_range"]
    matrix = np.array(record["gradient_cosine"]["matrix"], dtype=float)
    seen = np.array([d["seen"] for d in record["domains"].values()])
    inside = matrix[np.ix_(seen, seen)]
    pairs = inside[np.triu_indices(len(inside), 1)]
    pairs = pairs[np.isfinite(pairs)]
    yield "gradient cosine of domains", float(pairs.mean()) if len(pairs) else None
    fields = ("lambda_1", "trace", "m_sharpness", "gradient_variance")
    rows = {n: {f: d[f] for f in fields if f in d} for n, d in record["domains"].items() if d["seen"]}
    for name, value in _by_domain(rows):
        yield name.replace("_sharpness", "-sharpness").replace("_variance", "-variance"), value


def _by_domain(rows: Mapping[str, Mapping[str, float | None]]) -> Iterator[tuple[str, float | None]]:
    """Values of each domain, and of the worst and the mean domain."""
    for domain, row in rows.items():
        for name, value in row.items():
            yield f"{name} [{domain}]", value
    for name in dict.fromkeys(k for row in rows.values() for k in row):
        values = [row[name] for row in rows.values() if row.get(name) is not None]
        known = [v for v in values if v is not None]
        if len(known) == len(rows):
            yield f"{name} [worst domain]", max(known)
            yield f"{name} [mean over domains]", float(np.mean(known))


def _of_surface(record: Mapping[str, object]) -> Iterator[tuple[str, float | None]]:
    del record  # surfaces are kept for figures; they have no number of their own
    return iter(())


_READERS = {"sharpness": _of_sharpness, "hessian": _of_hessian, "domains": _of_domains, "surface": _of_surface}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
