"""The parts of the page: figures with captions, the table, provenance."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import UsageError
from ..figures.course.measured import FIELDS
from ..figures.draw.comparable import comparable
from ..figures.draw.drawing import Drawing
from ..figures.draw.method_styles import ordered
from ..figures.draw.style import Style
from ..figures.render import fitting, image, wants
from ..figures.summary import cell_text, summary_csv, summary_latex
from ..registry import FIGURES
from ..results.result import Result
from ..results.staleness import since
from ..specs import TrainSpec
from ..specs.by_analysis import ANALYSIS_SPECS

# Titles, and what each figure shows and does not show. surface3d has its own section.
CAPTIONS = {
    "contour": (
        "Loss around each network",
        "The logarithm of the loss in one plane of random directions through each network (the cross), on one colour "
        "scale: equal colours are equal losses. Not shown: every other direction; the sharpest ones are hardly "
        "ever met by a random plane, see the eigenvalues.",
    ),
    "domain-surfaces": (
        "Loss of each domain around each network",
        "The same plane for every domain (rows) and optimizer (columns), on one colour scale. Not shown: other "
        "directions, along which domains may agree more or less.",
    ),
    "plane": (
        "Trajectories",
        "Where trainings went, projected onto one plane over the loss in that plane. Not shown: what lies off the "
        "plane (larger markers), where a checkpoint's own loss is another one.",
    ),
    "path": (
        "Paths between checkpoints",
        "Loss and accuracy from one checkpoint to another; the arrow is the barrier. Not shown: other paths, which "
        "may go around it.",
    ),
    "eigenvalues": (
        "Top Hessian eigenvalues",
        "Curvature of the training loss along the sharpest directions. Not shown: the rest of the spectrum, and that "
        "rescaling the weights of a ReLU network changes these numbers without changing what it computes.",
    ),
    "spectra": (
        "Spectral densities",
        "How the eigenvalues of the Hessian are distributed; rows are optimizers, columns checkpoints. Not shown: "
        "single eigenvalues within the width of the smoothing.",
    ),
    "group-spectra": (
        "Spectra of groups of parameters",
        "Largest eigenvalues, and the mean of all, of each group's own part of the Hessian; columns are checkpoints. "
        "Not shown: curvature that couples groups.",
    ),
    "curvature-course": (
        "Curvature over training",
        "The largest and fifth eigenvalue and their ratio at the checkpoints. Not shown: what happened in between.",
    ),
    "m-sharpness": (
        "m-sharpness",
        "Mean rise of the loss when every block of m examples takes its own ascent step of length ρ. Not shown: "
        "other radii than those measured, and the exact worst case within the ball (one step is a lower estimate).",
    ),
    "sharpness-radius": (
        "m-sharpness over the radius",
        "The same over the radius ρ: where lines cross, the order of two methods depends on the radius. Not shown: "
        "other block sizes.",
    ),
    "domain-sharpness": (
        "Sharpness of single domains",
        "m-sharpness of the pooled loss (grey ground) and of each domain alone. Not shown: sharpness of one domain "
        "along the ascent step of another.",
    ),
    "local-flatness": (
        "Local flatness",
        "Mean rise of the loss at distance γ in random directions. Not shown: the sharpest directions, which a "
        "random one hardly meets.",
    ),
    "controls": (
        "What moves under rescaling",
        "Each measure on networks that predict the same. Not shown: other changes that leave predictions alone.",
    ),
    "slice": (
        "Slices",
        "Loss and accuracy along single random directions. Not shown: how rare directions look that are sharper than "
        "a random one.",
    ),
    "training": (
        "Training",
        "Losses over training on the training split. Not shown: the batches in between the evaluations.",
    ),
    "probes": (
        "Recorded during training",
        "Surrogate gap, angles between gradients, domain variance and eigenvalues of the batch of a step. Not shown: "
        "what other batches of the same moment would give.",
    ),
    "gradient-angle": (
        "Angle between the gradients",
        "The angle between the gradient at the weights and at the ascent point. Not shown: their lengths.",
    ),
    "unseen": (
        "Held-out domains",
        "Accuracy on domains that were not trained on. Not shown: how it moved during training.",
    ),
    "accuracy-radius": (
        "Accuracy and radius",
        "Accuracy at the end over the radius ρ, beside plain training. Not shown: other settings tuned with it.",
    ),
    "error-reduction": (
        "Error reduction",
        "By how many per cent each method lowers the error of plain training with the same seed. Not shown: the "
        "errors themselves, see the table.",
    ),
    "domains": (
        "Domains",
        "Loss and accuracy of each domain at the end. Not shown: which examples inside a domain are hard.",
    ),
    "domain-curves": (
        "Domains over training",
        "Losses of each domain at the checkpoints, as they are and scaled to [0, 1], their variance, and the share "
        "of pairs of domains whose gradients conflict. Not shown: what happened between the checkpoints.",
    ),
    "domain-matrix": (
        "Domains against each other",
        "Cosines of the domains' gradients, and how much each domain's loss rises at another one's ascent step. Not "
        "shown: curvature along any other direction.",
    ),
}

# The folded parts of the page: a title, and the kinds of figures in it.
GROUPS = {
    "Curvature and sharpness": (
        "eigenvalues",
        "spectra",
        "group-spectra",
        "curvature-course",
        "m-sharpness",
        "sharpness-radius",
        "local-flatness",
        "controls",
    ),
    "Loss surfaces and paths": ("contour", "slice", "path", "plane"),
    "Domains": (
        "unseen",
        "error-reduction",
        "domains",
        "domain-curves",
        "domain-sharpness",
        "domain-matrix",
        "domain-surfaces",
    ),
    "Training": ("training", "probes", "gradient-angle", "accuracy-radius"),
}


def grouped(drawn: Sequence[Plot]) -> dict[str, list[Plot]]:
    """The figures in the parts of the page, in order; what no part names stands in the last one."""
    named = {kind: title for title, kinds in GROUPS.items() for kind in kinds}
    last = [*GROUPS][-1]
    parts: dict[str, list[Plot]] = {title: [] for title in GROUPS}
    for plot in drawn:
        parts[named.get(plot.kind, last)].append(plot)
    return {title: sorted(plots, key=lambda p: _place(p.kind)) for title, plots in parts.items()}


def _place(kind: str) -> int:
    kinds = [k for listed in GROUPS.values() for k in listed]
    return kinds.index(kind) if kind in kinds else len(kinds)


@dataclass(frozen=True)
class Plot:
    """A still figure on the page.

    Attributes:
        kind: Its kind, and the id of its section.
        title: Heading.
        source: The image as a data address.
        pdf: The same for paper.
        caption: What is shown, and what is not.
        notes: What cannot be seen in it.
        changed: What has changed since its results were made; shown above it.
    """

    kind: str
    title: str
    source: str
    pdf: str
    caption: str
    notes: tuple[str, ...]
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """Where one result comes from.

    Attributes:
        title: Kind, optimizer and seed.
        facts: Names and values, as text.
    """

    title: str
    facts: list[tuple[str, str]]


def plots(results: Sequence[Result], style: Style, captions: Mapping[str, tuple[str, str]]) -> Iterator[Plot]:
    """Every still figure of ``captions`` (kind to title and caption) that the results allow."""
    for kind, (title, caption) in captions.items():
        try:
            fit = fitting(kind, results)
        except UsageError:
            continue
        if not wants(kind).tells(comparable(fit)[0]):  # one radius gives no curve over the radius
            continue
        drawing: Drawing = FIGURES.load(kind)(fit, style)
        svg, pdf = (image(drawing, form, style, kind, fit) for form in ("svg", "pdf"))
        addresses = data_address("image/svg+xml", svg), data_address("application/pdf", pdf)
        notes = tuple(n for n in drawing.notes if n not in drawing.changed)
        yield Plot(kind, title, *addresses, caption, notes, drawing.changed)


def downloads(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The table as files: name to data address."""
    return {
        "table.csv": data_address("text/csv;charset=utf-8", summary_csv(rows).encode("utf-8", "backslashreplace")),
        "table.tex": data_address(
            "text/plain;charset=utf-8", summary_latex(rows).encode("utf-8", "backslashreplace")
        ),
    }


def data_address(kind: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table_head(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column titles of the summary, with what is measured and in which unit."""
    heads = ["method", "n seeds"]
    for field in FIELDS:
        title = field.title + (" (%)" if field.percent else "")
        cells = {(r["m_sharpness_m"], r["m_sharpness_rho"]) for r in rows if r["m_sharpness_m"] is not None}
        if field.name == "m_sharpness" and cells:
            m, rho = min(cells)
            title += f" (m = {m}, ρ = {rho:g})"
        heads.append(title)
    return [*heads, "largest residual of λ_max"]


def table_cells(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The cells of a row: text for people, and the value that sorting goes by."""
    cells = [(str(row["name"]), str(row["name"])), (str(row["n_seeds"]), str(row["n_seeds"]))]
    for field in FIELDS:
        value = row[f"{field.name}_mean"]
        cells.append((cell_text(row, field), "" if value is None else repr(value)))
    residual = row["lambda_max_residual"]
    return [*cells, ("–", "") if residual is None else (f"{residual:.1g}", repr(residual))]


def provenance(results: Sequence[Result]) -> tuple[list[tuple[str, str]], list[Provenance]]:
    """What all results have in common, and of each the rest, in legend order, then by seed, kind and file."""
    place = {label: i for i, label in enumerate(ordered(r.label for r in results))}

    def order(result: Result) -> tuple[Any, ...]:
        return place[result.label], str(result.seed), result.kind, str(result.path), str(result.record.get("target"))

    every = [_provenance(r) for r in sorted(results, key=order)]
    common = [f for f in every[0].facts if all(f in one.facts for one in every)] if len(every) > 1 else []
    return common, [Provenance(one.title, [f for f in one.facts if f not in common]) for one in every]


def _provenance(result: Result) -> Provenance:
    record = result.record
    title = f"{result.kind}: {result.label}" + (f", seed {result.seed}" if result.seed is not None else "")
    facts = {
        "target": record.get("target"),
        "file": str(result.path) if result.path else None,
        "weights (SHA-256)": record.get("weights_hash"),
        "examples (SHA-256)": record.get("data_hash"),
        "number of examples": record.get("n_examples"),
        "split": record.get("split"),
        "parameters": record.get("n_parameters"),
        "loss at the point": record.get("loss"),
        "gradient norm": record.get("gradient_norm"),
        "BatchNorm": record.get("bn_policy") if record.get("batchnorm_layers") else None,
        "asked for": _settings(record.get("spec"), _DEFAULTS.get(result.kind, {})),
        "run": _settings(record.get("run"), {}),
        "torch": record.get("torch"),
        "device": record.get("device"),
        "precision": record.get("dtype"),
        "seconds": record.get("seconds"),
        "since it was made": since(result).told or None,
    }
    return Provenance(title, [(k, _text(v)) for k, v in facts.items() if v is not None])


# What a record need not repeat: what everybody gets who asks for nothing else.
_DEFAULTS = {kind: spec().to_dict() for kind, spec in ANALYSIS_SPECS.items()} | {"training": TrainSpec().to_dict()}


def _settings(found: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> str | None:
    """Those that are not the default, in one line; None where nothing was recorded."""
    if found is None:
        return None
    default = {name: _text(value) for name, value in defaults.items()}
    told = {name: _text(value) for name, value in found.items() if value not in (None, [], (), {})}
    return ", ".join(f"{k} = {v}" for k, v in told.items() if v != default.get(k)) or "the defaults"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
