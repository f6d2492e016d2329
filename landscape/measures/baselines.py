"""What a measure of sharpness has to beat: sizes, norms and margins that look at no neighbourhood at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from ..data.examples import Batch
from ..data.loss_values import example_trials
from ..data.losses import class_numbers, prediction
from ..numerics.trees import leaves, map_tensors
from ..problem.forward import forward
from ..problem.problem import Problem
from ..runtime.devices import type_at, wide
from ..specs import SharpnessSpec
from ..weights.checkpoint import read_weights
from ..weights.load_state_dict import load_into
from .engine.measurement import Measurement


def parameter_count(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """How many parameters move."""
    del spec, seed
    yield Measurement(value=float(problem.n_parameters))


def weight_norm(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """‖w‖₂ over all moving parameters."""
    del spec, seed
    yield Measurement(value=float(torch.linalg.vector_norm(wide(problem.weights))), p="2")


def distance_from_start(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """‖w − w₀‖₂ from the weights w₀ that training started from: the run's checkpoint of step 0, or ``start``."""
    del seed
    start = Path(spec.start) if spec.start else problem.start
    if start is None:
        raise UsageError(
            "the weights at the start of training are not known",
            "`measure='distance-from-start'`",
            "name their checkpoint with `start=`, or train with `save_every=`",
        )
    model = problem.twin()
    load_into(model, read_weights(start), start)
    there = problem.with_model(model).weights
    distance = float(torch.linalg.vector_norm(wide(problem.weights - there)))
    yield Measurement(value=distance, p="2", facts={"start": str(start)})


def margin(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """The 10th percentile over examples of f_y(x) − max_{j≠y} f_j(x) (Jiang et al. 2020); ``mean`` beside it."""
    del spec, seed
    if problem.examples.classes() is None:
        raise UsageError("a margin needs classes", "`measure='margin'`", "choose another measure")

    def of(batch: Batch) -> Tensor:
        output = prediction(forward(problem.model, batch.inputs))
        if output.is_complex():
            raise UsageError("a margin needs real outputs", "`measure='margin'`", "choose another measure")
        label = class_numbers(output, batch.targets)
        trials = example_trials(problem.loss_function, batch.targets)
        counted = torch.ones_like(label, dtype=torch.bool) if trials is None else trials > 0
        label = label.where(counted, 0)[:, None]
        margins = output.gather(1, label)[:, 0] - output.scatter(1, label, -math.inf).amax(1)
        return margins.where(counted, torch.nan)

    with torch.no_grad():
        margins = wide(problem.per_example(of)).cpu().numpy()
    margins = margins[~np.isnan(margins)]
    facts = {"mean": float(margins.mean()), "negative_share": float((margins < 0).mean())}
    yield Measurement(value=float(np.percentile(margins, 10)), n_blocks=len(margins), facts=facts)


def log_spectral_norm(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Σ over layers of log ‖W‖₂, the logarithm of the product of spectral norms (filters flattened to rows).

    Of a complex layer it is the norm of the complex matrix.
    """
    del spec, seed
    layers = [w.flatten(1) for w in problem.space.own(problem.weights) if w.ndim >= 2]
    if not layers:
        raise UsageError("no layer has a weight matrix", "`measure='log-spectral-norm'`", "choose another measure")
    norms = [float(torch.linalg.matrix_norm(w.to(type_at(w, torch.float64)), 2)) for w in layers]
    if min(norms) == 0:
        yield Measurement(value=None, facts={"note": "a layer is zero"})
    else:
        yield Measurement(value=sum(math.log(n) for n in norms), facts={"layers": len(norms)})


_NORMALISING = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


def _require_homogeneous(model: nn.Module, inputs: object) -> None:
    """Refuse activations through which a path has no weight: f(2x) = 2 f(x) without biases, also for negative x.

    Raises:
        UsageError: If that does not hold.
    """
    biases: list[Tensor] = [p for p in model.parameters() if p.ndim < 2]
    kept = [p.clone() for p in biases]
    try:
        for bias in biases:
            bias.zero_()
        generator = torch.Generator().manual_seed(0)
        x = map_tensors(inputs, lambda t: torch.randn(t.shape, generator=generator).to(t))
        doubled = map_tensors(x, lambda t: 2 * t)
        once, twice = (wide(prediction(forward(model, given))) for given in (x, doubled))
    finally:
        for bias, value in zip(biases, kept, strict=True):
            bias.copy_(value)
    if not torch.allclose(twice, 2 * once, rtol=1e-3, atol=1e-5 * float(once.abs().max())):
        what = "the path norm is defined for ReLU-like activations; this network does not double where its input does"
        raise UsageError(what, "`measure='path-norm'`", "leave it out")


def path_norm(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """√ of the sum of squared weights along all paths (Neyshabur et al. 2015): squared weights, an input of ones.

    Defined for networks of linear layers, pooling and ReLU-like activations, which double where their input does; a
    layer that normalises is refused, and so is a network that does not double without its biases (tanh, attention).
    """
    del spec, seed
    found = [n for n, module in problem.model.named_modules() if isinstance(module, _NORMALISING)]
    if found:
        raise UsageError(
            f"the path norm is not defined through a normalising layer, there is {found[0]}",
            "`measure='path-norm'`",
            "leave it out",
        )
    if any(p.is_complex() for p in problem.model.parameters()):
        what = "the path norm is not defined for complex weights: their squares have no sign"
        raise UsageError(what, "`measure='path-norm'`", "leave it out")
    if problem.by_objective:
        what = "the path norm is of what the network makes of inputs of ones, and an objective hides its inputs"
        raise UsageError(what, "`measure='path-norm'`", "leave it out")
    model = problem.twin()
    first = problem.examples.batch(np.arange(1)).to(problem.device, problem.dtype)
    if not all(t.is_floating_point() for t in leaves(first.inputs)):
        raise UsageError("the path norm needs floating inputs", "`measure='path-norm'`", "leave it out")
    with torch.no_grad():
        _require_homogeneous(model, first.inputs)
        for parameter in model.parameters():
            parameter.square_()
        total = wide(prediction(forward(model, map_tensors(first.inputs, torch.ones_like)))).sum()
    yield Measurement(value=math.sqrt(max(float(total), 0.0)), p="2")
