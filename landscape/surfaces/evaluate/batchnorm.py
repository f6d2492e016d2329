"""What happens to BatchNorm's running statistics away from the checkpoint they belong to.

They are never moved at random. ``keep`` leaves those of the checkpoint; ``recalibrate`` estimates them anew at
every point; ``interpolate`` moves them like weights, which overstates barriers (in a permuted twin of a
ResNet-20 the barrier was 2.5 times too high) and is there to reproduce pictures made so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...base.errors import DataError
from ...data.examples import Examples
from ...problem.forward import forward
from ...problem.problem import Problem
from ...runtime.precision import full_precision

_RUNNING = ("running_mean", "running_var")


def batchnorm_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """BatchNorm layers by name that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances themselves, by buffer name (no copies; no counters of batches)."""
    return {
        f"{name}.{kind}" if name else kind: getattr(module, kind)
        for name, module in batchnorm_layers(model).items()
        for kind in _RUNNING
    }


@contextmanager
def preserved_statistics(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give all statistics back afterwards, bit for bit, also after an exception; yield copies of them."""
    layers = batchnorm_layers(model).values()
    live = running_statistics(model)
    counters = [m.num_batches_tracked for m in layers if m.num_batches_tracked is not None]
    saved, counted = {k: t.clone() for k, t in live.items()}, [c.clone() for c in counters]
    momenta = [(m, m.momentum, m.training) for m in layers]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(saved[name])
            for counter, value in zip(counters, counted, strict=True):
                counter.copy_(value)
        for module, momentum, training in momenta:
            module.momentum, module.training = momentum, training


def calibration_problem(problem: Problem, examples: Examples) -> Problem:
    """The same network with examples to estimate statistics from, in at least ten batches of two or more.

    Raises:
        DataError: If there are fewer than two examples.
    """
    n = len(examples)
    if examples.ready_made:
        return problem.with_examples(examples)
    if n < 2:
        what = "BatchNorm statistics cannot be estimated from one example"
        raise DataError(what, "`bn='recalibrate'`", "use more examples, or `bn='keep'`")
    size = max(2, min(problem.batch_size, -(-n // 10)))
    while n % size == 1:
        size += 1
    training = problem.with_examples(examples)
    training.batch_size = size
    return training


def calibrating(problem: Problem, policy: str, training: Problem | None) -> tuple[Problem | None, list[str]]:
    """What statistics are estimated from: the training examples given, else the problem's own, which a note says.

    Args:
        problem: What is measured.
        policy: As `landscape.surfaces.evaluate.evaluator.statistics_policy` gives it.
        training: `calibration_problem`, where there is one.
    """
    if policy != "recalibrate" or training is not None:
        return training, []
    note = "BatchNorm statistics are estimated from the examples that are measured; training= gives others"
    return calibration_problem(problem, problem.examples), [note]


def recalibrate(training: Problem) -> None:
    """Estimate the statistics of ``training.model`` at its present weights from the problem's examples.

    Batches are weighted by their size, so means are exact over all examples and variances are the mean of the
    unbiased variances within batches. Dropout stays off. Call it inside `preserved_statistics`.
    """
    layers = batchnorm_layers(training.model).values()
    seen, ready = 0.0, training.examples.ready_made
    for module in layers:
        module.train()
    try:
        with torch.no_grad(), full_precision(training.device):
            for batch in training.batches():
                size = float(batch.targets.sum()) if ready else len(batch)  # what a ready-made one counts
                seen += size
                for module in layers:
                    module.momentum = (
                        size / seen if seen else 0.0
                    )  # a number of Python: reading a counter would wait for the GPU
                forward(training.model, batch.inputs)
    finally:
        for module in layers:
            module.eval()
