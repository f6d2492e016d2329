"""What each analysis is told, beyond the problem it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from ..base.errors import UsageError, argument
from ..registry import MEASURES
from .base import Spec, check_choice, check_distinct, check_number

OPERATORS = ("hessian", "ggn", "fisher", "fisher-mc", "empirical-fisher", "gradient-covariance")
OF_GRADIENTS = ("empirical-fisher", "gradient-covariance")
UNITS = ("example", "prediction")
TRACE_METHODS = ("hutchinson", "hutch++", "xtrace")
CROSS_CHECKS = ("pyhessian", "curvlinops")
GROUPINGS = ("block", "module", "kind")


@dataclass(frozen=True, kw_only=True)
class HessianSpec(Spec):
    """Eigenvalues, trace and density of a curvature matrix of the mean loss."""

    _not_in_key: ClassVar[Mapping[str, str]] = {"memory": "where graphs and the basis are kept while computing"}
    _later: ClassVar[frozenset[str]] = frozenset({"unit", "group_by", "vectors"})

    top: int = 5
    """How many of the algebraically largest eigenvalues."""
    bottom: int = 0
    """How many of the algebraically smallest eigenvalues (negative curvature)."""
    tol: float = 1e-3
    """Largest accepted residual ||Hv - lambda v|| / |lambda_max|."""
    operator: Literal["hessian", "ggn", "fisher", "fisher-mc", "empirical-fisher", "gradient-covariance"] = "hessian"
    """The matrix: Hessian, generalised Gauss-Newton, Fisher (labels in expectation, or drawn), or second moment or
    covariance of the per-example gradients."""
    unit: Literal["example", "prediction"] | None = None
    """What a gradient of empirical-fisher and gradient-covariance is of: an example (default), or each prediction of
    an example that has several, as the tokens of a text."""
    label_samples: int = 1
    """Label sets that fisher-mc draws."""
    trace: bool = False
    """Estimate the trace and the Frobenius norm, with confidence intervals."""
    trace_rtol: float = 0.05
    """Relative standard error of the trace at which sampling stops."""
    trace_method: Literal["hutchinson", "hutch++", "xtrace"] = "hutchinson"
    """hutchinson takes the computed eigenpairs out first, and shares its probes with the density."""
    density: bool = False
    """Spectral density from 4 probes of 30 Lanczos steps, with an error band."""
    diagonal: bool = False
    """Estimate the diagonal, stored beside the eigenvectors."""
    per_layer: bool = False
    """Repeat for the parameters of each layer alone (the diagonal blocks)."""
    group_by: Literal["block", "module", "kind"] | None = None
    """Which parameters make a layer: each repeated block (of a transformer, or a stage of a ResNet), each module (as
    --per-layer alone), or all of a kind (attention, MLP, embedding, norm, ...). It implies --per-layer."""
    subsamples: int | None = None
    """Repeat on K disjoint subsets of the examples and show the spread (at least 2)."""
    warm_start: str | None = None
    """Stored hessian result of a nearby checkpoint, to start from its eigenvectors."""
    cross_check: tuple[Literal["pyhessian", "curvlinops"], ...] = ()
    """Other tools to compute the same eigenvalues, shown with their true residuals."""
    block: int = 2
    """Start vectors of the eigenvalue run, which finds as many copies of an eigenvalue. Where it finds all of
    them, or with one, further copies are looked for until the rest is known to hold none, for more products."""
    max_products: int | None = None
    """Budget of products, checks not counted (default: 20 per wanted pair, at least 200; 1000 for the trace)."""
    memory: float | None = None
    """GB for kept gradient graphs and the Krylov basis (default: half of what is free)."""
    vectors: bool = True
    """Whether eigenvectors are stored beside the result (in the type that they were computed in)."""
    allow_partial: bool = False
    """Accept pairs above --tol when the budget ends (they are marked)."""

    def __post_init__(self) -> None:
        check_number("top", self.top, least=1)
        check_number("bottom", self.bottom, least=0)
        check_number("tol", self.tol, above=0, most=1)
        check_choice("operator", self.operator, OPERATORS)
        if self.unit is not None:
            check_choice("unit", self.unit, UNITS)
        if self.unit and self.operator not in OF_GRADIENTS:
            raise UsageError(
                f"{self.operator} has no gradients of single examples", "`unit=`", f"use {' or '.join(OF_GRADIENTS)}"
            )
        check_number("label_samples", self.label_samples, least=1)
        check_number("trace_rtol", self.trace_rtol, above=0, most=1)
        check_choice("trace_method", self.trace_method, TRACE_METHODS)
        check_number("subsamples", self.subsamples, least=2)
        if self.group_by is not None:
            check_choice("group_by", self.group_by, GROUPINGS)
        for name in self.cross_check:
            check_choice("cross_check", name, CROSS_CHECKS)
        if self.cross_check and self.operator != "hessian":
            raise UsageError(
                "other tools are asked for the Hessian alone", "`cross_check=`", "use `operator='hessian'`"
            )
        check_number("block", self.block, least=1)
        check_number("max_products", self.max_products, least=1)
        check_number("memory", self.memory, above=0)

    @property
    def grouping(self) -> str | None:
        """How parameters are grouped, or None where groups are not asked for."""
        return self.group_by or ("module" if self.per_layer else None)


@dataclass(frozen=True, kw_only=True)
class SharpnessSpec(Spec):
    """How much the loss rises in a small neighbourhood, by any of the measures of the field."""

    measure: tuple[str, ...] = ("m-sharpness",)
    """Measures; see `landscape list measures`."""
    m: tuple[int, ...] = ()
    """Examples per block; each block gets its own ascent (default: those of 1 4 16 64 256 that fit)."""
    blocks: Literal["random", "stratified"] = "random"
    """How examples are dealt to blocks: at random as in the papers, or each block with its share of every class and
    domain, which comes out lower."""
    rho: tuple[float, ...] = ()
    """Radius, not rescaled with m (default: the measure's own, 0.05 for m-sharpness)."""
    p: Literal["1", "2", "inf"] = "2"
    """Norm of the ball."""
    adaptive: bool = False
    """Measure the step in units of |w| elementwise (invariant under rescaling)."""
    inner_steps: int | None = None
    """Ascent steps inside the ball (default: 1, or 20 with apgd)."""
    maximizer: Literal["ascent", "apgd"] | None = None
    """How the maximum is sought: steepest ascent (default, projected from step 2 on) or Auto-PGD."""
    eta: float | None = None
    """What ASAM adds to |w| (asam-sharpness; default: 0.01)."""
    draws: int | None = None
    """Random directions, noises or probes (default: the measure's own, 100 or 10)."""
    start: str | None = None
    """Checkpoint that the training started from (distance-from-start; default: the run's step 0)."""
    normalize_logits: bool = False
    """Subtract their mean from the logits of each example and divide by their norm."""
    subsets: int = 1
    """Measure on so many disjoint stratified subsets of the examples; the standard error is over them."""
    control: Literal["rescale", "logits"] | None = None
    """Also measure networks that predict the same: layers rescaled, or logits multiplied."""

    def __post_init__(self) -> None:
        check_distinct("measure", self.measure)
        for name in self.measure:
            check_choice("measure", name, MEASURES)
        for name in ("m", "rho"):
            if getattr(self, name):
                check_distinct(name, getattr(self, name))
        for m in self.m:
            check_number("m", m, least=1)
        for rho in self.rho:
            check_number("rho", rho, least=0)
        for name in ("inner_steps", "draws", "subsets"):
            check_number(name, getattr(self, name), least=1)
        check_number("eta", self.eta, least=0)
        self._check_used()

    def _check_used(self) -> None:
        """Refuse a flag that none of the chosen measures uses."""
        unused = {f.name: f.default for f in fields(self)}
        for name in ("m", "blocks", "rho", "p", "adaptive", "inner_steps", "maximizer", "eta", "draws", "start"):
            users = [n for n in MEASURES if name in MEASURES[n].options]
            if getattr(self, name) != unused[name] and not set(users) & set(self.measure):
                raise UsageError(
                    f"{argument(name)} is used by none of the chosen measures",
                    argument("measure", self.measure),
                    f"it belongs to {', '.join(users)}; drop it or choose one of them",
                )


@dataclass(frozen=True, kw_only=True)
class DomainsSpec(Spec):
    """Per-domain loss and accuracy, their spread, and how the domains' gradients agree."""

    curves: bool = False
    """At every checkpoint of the run, as curves over training."""
    curvature: bool = False
    """Also each domain's largest Hessian eigenvalue, and its trace to 20 %."""
    sharpness: bool = False
    """Also each domain's m-sharpness and gradient variance, and how much each domain's ascent hurts the others."""
    m: int | None = None
    """Examples per block of --sharpness (default: 16, or half of the smallest domain)."""
    rho: float = 0.05
    """Radius of --sharpness."""
    lam: float = 0.1
    """DISAM's lambda, for its weights of the domains at the point."""

    def __post_init__(self) -> None:
        check_number("m", self.m, least=1)
        check_number("rho", self.rho, above=0)
        check_number("lam", self.lam, least=0)
        if self.m is not None and not self.sharpness:
            raise UsageError("`m=` belongs to `sharpness=True`", "`m=`", "add `sharpness=True`")
