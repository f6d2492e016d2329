"""The fields of stored records and their types, by the kind of the result.

A field that stands here may be missing or null unless it is `Required`; fields that do not stand here are nobody's
concern.
"""

from __future__ import annotations

from typing import Annotated, Any, Required, TypedDict

import msgspec

Number = float | None  # NaN and infinities are null in JSON
Numbers = list[Number] | None
Texts = list[str] | None
Facts = dict[str, Any] | None


class RunRecord(TypedDict, total=False):
    """The training that a checkpoint comes from, at its step."""

    path: str | None
    optimizer: str | None
    base: str | None
    seed: int | None
    step: int | None
    epoch: Number
    batch_size: int | str | None
    lr: Number
    lr_at_step: Number
    momentum: Number
    rho: Number
    alpha: Number
    lam: Number
    gamma: Number
    weight_decay: Number
    average: str | None
    adaptive: bool | None
    p: str | Number
    m: Number
    ascent_steps: Number
    order: Number
    weight_decay_in_perturbation: bool | None
    network: str | None
    data: str | None


class OriginsRecord(TypedDict, total=False):
    """Where code, weights and data lay, and what they were."""

    code: dict[str, list[tuple[str, str | None]]]
    libraries: dict[str, str | None]
    weights: list[tuple[str, str | None]]
    data: dict[str, str | int | None]


class CommonRecord(TypedDict, total=False):
    """What every record may have."""

    target: str | None
    targets: Texts
    label: str | None
    run: RunRecord | None
    spec: Facts
    problem_spec: Facts
    identity: Facts
    origins: OriginsRecord | None
    weights_hash: str | None
    data_hash: str | None
    network_hash: str | None
    loss_hash: str | None
    loss_function: str | None
    loss_over: str | None
    operator: str | None
    mode: str | None
    replay_seed: int | None
    params: str | None
    dtype: str | None
    device: str | None
    torch: str | None
    model: str | None
    split: str | None
    seed: int | None
    n_examples: int | None
    n_counted: Number
    objective: str | None
    weight_decay: Number
    n_parameters: int | None
    accuracy: Number | list[Number]
    gradient_norm: Number
    symmetry_error: Number
    loss_variance: Number
    seconds: Number
    domain_counts: dict[str, int] | None
    batchnorm_layers: int | None
    bn_policy: str | None
    notes: Texts
    cautions: Texts
    replaced: Texts


class TraceRecord(TypedDict, total=False):
    """A stochastic trace."""

    estimate: Number
    stderr: Number


class DensityRecord(TypedDict, total=False):
    """A spectral density as quadrature: nodes and weights of all probes."""

    nodes: Required[Numbers]
    weights: Required[Numbers]
    sigma: Number
    probes: int | None


class SpectrumRecord(TypedDict, total=False):
    """The spectrum of one domain or layer."""

    n_parameters: int | None
    eigenvalues: Numbers
    residuals: Numbers
    converged: list[bool | None] | None
    smallest: Numbers
    trace: TraceRecord | None
    density: DensityRecord | None


class HessianRecord(CommonRecord, total=False):
    """A spectrum of the whole."""

    loss: Number
    eigenvalues: Numbers
    residuals: Numbers
    converged: list[bool] | None
    smallest: Numbers
    smallest_residuals: Numbers
    smallest_converged: list[bool] | None
    lambda_ratio: Number
    edges_of_stability: dict[str, Number] | None
    trace: TraceRecord | None
    density: DensityRecord | None
    domains: dict[str, SpectrumRecord] | None
    layers: dict[str, SpectrumRecord] | None
    group_by: str | None


class MeasureRecord(TypedDict, total=False):
    """One measured sharpness."""

    measure: Required[str]
    m: int | None
    rho: Number
    p: float | str | None
    adaptive: bool | None
    value: Required[Number]
    stderr: Number
    n_blocks: int | None
    gamma: Number


class ControlRecord(TypedDict, total=False):
    """Sharpness of networks that compute the same function."""

    kind: str | None
    measures: list[dict[str, Any]] | None
    networks: list[dict[str, Any]] | None
    layers: list[dict[str, Any]] | None


class SharpnessRecord(CommonRecord, total=False):
    """Measures of sharpness."""

    loss: Number
    measures: list[MeasureRecord] | None
    control: ControlRecord | None
    domains: Facts
    subsets: list[Any] | dict[str, Any] | None


class AxisRecord(TypedDict, total=False):
    """A direction of a surface."""

    direction: Required[str]
    norm: Number
    seed: int | None
    axis: int | None
    eigenvalue: Number
    residual: Number
    rho: Number
    explained_variance: Number
    one_dimensional: str | None


class SurfaceRecord(CommonRecord, total=False):
    """Losses over a line or a plane through one checkpoint."""

    kind: str | None
    shape: list[int] | None
    axes: list[AxisRecord] | None
    directions: str | None
    cosine: Number
    expected_cosine: Number
    plain_loss: Number
    center_loss: Number
    nan_cells: int | None
    minimum: Number
    minimum_at: dict[str, Number] | None
    metrics: Texts
    fixed_parameters: int | None
    range: Numbers
    domains: Texts
    topology: Facts


class CheckpointRecord(TypedDict, total=False):
    """A point on a plane."""

    label: Required[str]
    run: RunRecord | None
    step: int | None
    target: str | None
    weights_hash: str | None


class PlaneRecord(SurfaceRecord, total=False):
    """Losses over the plane of several checkpoints."""

    checkpoints: Required[list[CheckpointRecord]]
    plane: str | None
    same_start: bool | None


class PathRecord(CommonRecord, total=False):
    """Losses between two checkpoints."""

    a: str | None
    b: str | None
    b_run: RunRecord | None
    kind: str | None
    barrier: Number
    t: Numbers
    loss: Numbers


class MatrixRecord(TypedDict, total=False):
    """Numbers between domains."""

    names: Texts
    sources: Texts
    matrix: list[list[Number]] | None
    rho: Number


class DomainsRecord(CommonRecord, total=False):
    """Losses of domains, at one checkpoint or along a training."""

    domains: Facts
    loss: Number
    loss_mean: Number
    loss_range: Number
    gradient_cosine: MatrixRecord | None
    cross_sharpness: MatrixRecord | None
    worst_domain: Facts
    curves: Facts


class FinalRecord(TypedDict, total=False):
    """What a training ended with."""

    train_loss: Number
    train_accuracy: Number
    val_loss: Number
    val_accuracy: Number
    test_loss: Number
    test_accuracy: Number
    unseen_loss: Number
    unseen_accuracy: Number
    domain_loss_variance: Number
    domains: dict[str, dict[str, Any]] | None


class TrainingRecord(CommonRecord, total=False):
    """The course of a training."""

    status: str | None
    final: FinalRecord | None
    holdout: Texts
    unseen: Texts


class CorrelationRecord(TypedDict, total=False):
    """A measure against an outcome."""

    measure: Required[str]
    outcome: Required[str]
    kind: Required[str]
    verdict: Required[str]
    tau: Required[Number]
    tau_low: Number
    tau_high: Number
    psi: Number
    p_holm: Number
    p_permutation: Number
    permuted_band: Number
    partial_rank: Number
    partial_rank_low: Number
    partial_rank_high: Number
    information: Number
    information_permuted: Number
    icc: Number
    granulated: list[dict[str, Any]] | None
    warnings: Texts


class ComparisonRecord(TypedDict, total=False):
    """Methods against a baseline, in pairs."""

    baseline: str | None
    axes: Texts
    competitors: list[dict[str, Any]] | None
    pairs: list[dict[str, Any]] | None
    notes: Texts


class ClaimRecord(TypedDict, total=False):
    """A claim and the answer to it."""

    says: Required[str]
    source: str | None
    at: str | None
    answer: Required[str]
    expects: Required[str]
    quantity: Required[str]
    than: str | None
    grows_with: str | None
    n: int | None
    difference: Required[Number]
    low: Required[Number]
    high: Required[Number]
    margin_size: Required[Number]
    p: Number
    note: str | None


class StudyRecord(CommonRecord, total=False):
    """A study and its statistics."""

    study: str | None
    title: str | None
    claim: str | None
    correlations: Required[list[CorrelationRecord]]
    outcomes: Required[list[dict[str, Any]]]
    models: Required[list[dict[str, Any]]]
    comparison: ComparisonRecord | None
    claims: list[ClaimRecord] | None
    controls: list[dict[str, Any]] | None
    radii: list[dict[str, Any]] | None
    uniform: list[dict[str, Any]] | None
    dropped: list[Any] | None
    experiment: Facts
    seeds: Facts
    report: Facts


Whole = int | None


class ShareRecord(TypedDict, total=False):
    """What an evaluation says of one domain."""

    seen: bool | None
    train_loss: Number
    train_accuracy: Number


class SettingsRecord(TypedDict, total=False):
    """What a run.json says that its training was asked for."""

    optimizer: Annotated[list[str], msgspec.Meta(min_length=1)]
    seed: Annotated[list[int], msgspec.Meta(min_length=1)]
    data: str | None
    model: str | None
    loss: str | None
    model_arg: Texts
    data_arg: Texts
    holdout: Texts
    augment: Texts
    domain_label_noise: Texts
    probe: Texts
    init: str | None
    base: str | None
    label_noise: str | None
    domain_ratio: str | None
    save_every: str | None
    select: str | None
    average: str | None
    device: str | None
    dtype: str | None
    lr: Number
    momentum: Number
    weight_decay: Number
    label_shift: Number
    rho: Number
    alpha: Number
    lam: Number
    batch_size: int | str | None
    epochs: Whole
    steps: Whole
    order_seed: Whole


class IngredientsRecord(TypedDict, total=False):
    """What a training was made of."""

    data: Facts
    model: Facts
    loss: Facts
    facts: Facts
    data_hash: dict[str, Any] | str | None


class RecorderRecord(TypedDict, total=False):
    """What a recorded loop says of itself."""

    network: str | None
    parameters: Whole


class FolderRecord(TypedDict, total=False):
    """A run.json."""

    spec: Required[SettingsRecord]
    status: str | None
    steps: Whole
    final: FinalRecord | None
    ingredients: IngredientsRecord | None
    recorder: RecorderRecord | None
    weights_hash: str | None
    versions: dict[str, str | None] | None
    origins: OriginsRecord | None


class EvaluationRecord(TypedDict, total=False):
    """Losses of one evaluation during training."""

    train_loss: Number
    train_accuracy: Number
    domains: dict[str, ShareRecord] | None


class LoggedRecord(TypedDict, total=False):
    """One line of a log."""

    step: Required[int]
    epoch: Number
    loss: Number
    lr: Number
    probes: dict[str, dict[str, Number]] | None
    evaluation: EvaluationRecord | None


RECORDS: dict[str, Any] = {
    "hessian": HessianRecord,
    "sharpness": SharpnessRecord,
    "surface": SurfaceRecord,
    "plane": PlaneRecord,
    "path": PathRecord,
    "domains": DomainsRecord,
    "domain-curves": DomainsRecord,
    "training": TrainingRecord,
    "study": StudyRecord,
}
