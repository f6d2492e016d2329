"""The gradient at the point: its norm, and how much it varies between batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError
from ..numerics.intervals import mean_and_stderr
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import SharpnessSpec
from .engine.blockwise import Group, over_groups
from .engine.measurement import Measurement
from .engine.partition import partition


def gradient_norm(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """‖∇L(w)‖₂ over all examples."""
    del spec, seed
    yield Measurement(value=float(torch.linalg.vector_norm(wide(problem.gradient()))), p="2")


def gradient_variance(problem: Problem, spec: SharpnessSpec, seed: int) -> Iterator[Measurement]:
    """Var{∇L(w; B)} over batches of m examples, what the figures of DISAM call sharpness (arXiv 2405.18861, C.3).

    The sample variance summed over the weights, Σ_k ‖g_k − ḡ‖²/(K − 1), over the K whole blocks of the partition; a
    last smaller block has another variance and is left out. Standard error from the K squared distances.
    """
    few = problem.batch_size if problem.loss_over == "batch" else min(16, max(1, problem.n_examples // 2))
    for m in spec.m or (few,):
        parts = [p for p in partition(problem, m, seed, spec.blocks) if len(p) == m]
        if len(parts) < 2:
            raise UsageError(f"m={m} leaves one block of {problem.n_examples} examples", "`m=`", "use a smaller m")
        centre = problem.weights[None]
        middle = problem.restrict_to_examples(np.concatenate(parts)).gradient()

        def distances(group: Group, centre: Tensor = centre, middle: Tensor = middle) -> Tensor:
            return wide(group.losses_and_gradients(centre)[1] - middle).square().sum(1)

        squares = torch.cat([v for _, v in over_groups(problem, parts, distances)]).cpu().numpy()
        correction = len(parts) / (len(parts) - 1)
        value, stderr = mean_and_stderr(squares * correction)
        yield Measurement(value=value, stderr=stderr, n_blocks=len(parts), m=m)
