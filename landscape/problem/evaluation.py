"""One forward pass over examples: losses and accuracies, per domain, summed exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import DataError, LandscapeError, is_the_machine
from ..data.examples import Batch, Examples
from ..data.loss_values import (
    correct,
    domain_means,
    example_losses,
    example_trials,
    example_weights,
    mean_loss,
    no_target,
)
from ..data.losses import Loss, LossFunction, causal_lm, cross_entropy, nll, prediction, token_cross_entropy
from ..numerics.trees import divisible, leaves, row_count
from ..runtime.devices import sums_on, wide
from ..runtime.distributed import all_reduce_sum_, shard
from ..runtime.random_state import preserved_random_state
from .forward import forward
from .modes import evaluation_mode

_ASKED = 64  # examples with one kind of flaw whose loss is asked

QUANTITIES = 5
"""How many numbers per domain `batch_sums` gives."""


@dataclass(frozen=True)
class DomainEvaluation:
    """Loss and accuracy of one domain.

    Attributes:
        n: Number of examples.
        loss: Mean loss.
        accuracy: Share of correct predictions, or None if this is no classification.
        weight: What the domain weighs in a mean over domains' examples: ``n``, or what its predictions weigh.
        trials: How many predictions the accuracy is a share of: ``n``, or the predictions that count.
    """

    n: int
    loss: float
    accuracy: float | None
    weight: float
    trials: float


@dataclass(frozen=True)
class Evaluation:
    """One pass over the examples.

    Attributes:
        n: Number of examples.
        loss: Mean loss over the examples.
        accuracy: Share of correctly classified examples (or predictions that count), whatever a class weighs in the
            loss; None if this is no classification.
        domains: The same per domain that has examples.
    """

    n: int
    loss: float
    accuracy: float | None
    domains: dict[str, DomainEvaluation]

    def spread(self) -> tuple[float, float, float]:
        """Mean, variance (uniform over domains, ddof 0) and range of the domain losses."""
        losses = np.array([d.loss for d in self.domains.values()])
        return float(losses.mean()), float(losses.var()), float(np.ptp(losses))


def batch_sums(loss: LossFunction, output: object, batch: Batch, n_domains: int) -> Tensor:
    """Per domain, float64: loss sum, hits (NaN if no classification), weight, number of examples, trials.

    The loss is summed with the examples' weights, so that its mean is over ``weight``; that is the number of examples
    unless the loss counts several predictions per example, or classes weigh differently. Hits are counted, and
    their share is of ``trials``: examples, or predictions that count.

    Returns:
        Shape ``(5, n_domains)``.
    """
    counts = batch.counts(n_domains)
    domain = batch.domain.to(sums_on(batch.domain.device))
    sums = torch.zeros(QUANTITIES, n_domains, dtype=torch.float64, device=domain.device)
    values = example_losses(loss, output, batch.targets)
    weights = example_weights(loss, batch.targets)

    def weighted(numbers: Tensor, by: Tensor | None) -> Tensor:
        return wide(numbers) if by is None else wide(numbers) * wide(by)

    if values is None:
        present = batch.domain.unique().tolist()
        means = domain_means(loss, output, batch.targets, batch.domain, None, present)
        sums[0, present] = wide(means) * counts[present]
    else:
        sums[0].index_add_(0, domain, weighted(values, weights))
    sums[2:] = counts
    right = correct(loss, output, batch.targets)
    if right is None:
        sums[1] = torch.nan
    else:
        trials = example_trials(loss, batch.targets)
        sums[1].index_add_(0, domain, weighted(right, trials))
        if trials is not None:
            sums[4] = torch.zeros_like(sums[4]).index_add_(0, domain, wide(trials))
    if weights is not None:
        sums[2] = torch.zeros_like(sums[2]).index_add_(0, domain, wide(weights))
    return sums


def pass_sums(call: Callable[[Batch], object], loss: LossFunction, batch: Batch, n_domains: int) -> Tensor:
    """`batch_sums` of a pass; a network that computes its loss itself sees each domain of the batch alone.

    Args:
        call: The network's output for a batch.
        loss: The loss.
        batch: The examples.
        n_domains: Number of domains, of which ``n_domains > 1`` may be in the batch.
    """
    output = call(batch)
    if n_domains > 1 and not divisible(output, len(batch)):
        present = batch.domain.unique().tolist()
        if len(present) > 1:
            parts = [batch.rows(np.flatnonzero((batch.domain == i).cpu().numpy())) for i in present]
            return torch.stack([batch_sums(loss, call(p), p, n_domains) for p in parts]).sum(0)
    return batch_sums(loss, output, batch, n_domains)


def evaluation_from_sums(sums: Tensor, names: Sequence[str]) -> Evaluation:
    """Turn the summed `batch_sums` of a whole pass into an `Evaluation`.

    Raises:
        NoTarget: If no target of a domain counts: a mean over nothing is no number.
    """
    losses, right, weights, counts, trials = sums.tolist()
    empty = [name for name, weight, n in zip(names, weights, counts, strict=True) if n and weight == 0]
    if empty:
        raise no_target(empty if len(empty) < sum(n > 0 for n in counts) else [])

    def share(hits: float, tried: float) -> float | None:
        return None if np.isnan(hits) or not tried else hits / tried

    domains = {
        name: DomainEvaluation(int(n), loss / weight, share(hits, tried), weight, tried)
        for name, loss, hits, weight, n, tried in zip(names, losses, right, weights, counts, trials, strict=True)
        if n
    }
    accuracy = share(sum(right), sum(trials))
    return Evaluation(int(sum(counts)), sum(losses) / sum(weights), accuracy, domains)


def evaluate(
    model: nn.Module,
    examples: Examples,
    loss: LossFunction,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 1024,
) -> Evaluation:
    """Evaluate a model that is being trained: eval mode, no gradient, flags and random state given back.

    Several processes share the examples.
    """
    total = torch.zeros(QUANTITIES, len(examples.domain_names), dtype=torch.float64, device=sums_on(device))
    with torch.no_grad(), evaluation_mode(model), preserved_random_state():
        for raw in examples.batches(batch_size, shard(len(examples))):
            batch = raw.to(device, dtype)
            total += pass_sums(lambda b: forward(model, b.inputs), loss, batch, len(examples.domain_names))
    all_reduce_sum_([total])
    return evaluation_from_sums(total, examples.domain_names)


def check_fit(
    model: nn.Module,
    examples: Examples,
    loss: LossFunction,
    *,
    device: torch.device,
    dtype: torch.dtype,
    where: str = "the data set",
) -> None:
    """Pass one example through the model and compare every label with its outputs, before hours of work.

    Args:
        model: The network, on ``device`` and in ``dtype``.
        examples: What it is to see.
        loss: The loss, from `landscape.data.losses.as_loss`.
        device: Where.
        dtype: Floating type of inputs.
        where: What the examples are called in messages.

    Raises:
        DataError: If the model does not take the inputs, a label lies outside ``0..C-1`` or is none, a softmax is
            over one output, or NaN and infinite values make the loss of an example so.
    """
    if not len(examples):
        return
    with torch.no_grad(), _mode(model, examples), preserved_random_state():
        batch = examples.batch(np.arange(1)).to(device, dtype)
        try:
            output = forward(model, batch.inputs)
        except (LandscapeError, MemoryError):
            raise
        except Exception as error:
            if is_the_machine(error):
                raise
            if examples.ready_made:
                raise DataError(
                    f"the objective raised {type(error).__name__}: {str(error)[:300]}",
                    f"{getattr(loss, '__name__', 'objective')}, the first ready-made batch",
                    "it is called with the network and one batch as the loader gives it, floating tensors in the "
                    "analysis's type (where the network gives its losses in training alone: `mode='train'`); see the "
                    "traceback",
                ) from error
            shapes = ", ".join(
                f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in leaves(batch.inputs)
            )
            raise DataError(
                f"the model does not take the data: {type(error).__name__}: {str(error)[:300]}",
                f"{type(model).__name__} on one example, {shapes}",
                "check `model=`, `data=` and their arguments, or see the traceback",
            ) from error
    _require_outputs(loss, output)
    classes = examples.classes() if loss in (cross_entropy, nll) else None
    if classes is not None and (scores := prediction(output)).ndim == 2:
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= scores.shape[1]:
            raise DataError(
                f"label {low if low < 0 else high} is outside 0..{scores.shape[1] - 1}",
                where,
                f"the model has {scores.shape[1]} outputs; give it more, or mend the labels",
            )
    if isinstance(loss, Loss):  # ours say what they do not take; one of the user's may want more than one example
        _call_once(loss, output, batch.targets)
    _refuse_flaws(model, examples, loss, device, dtype, where)


def _mode(model: nn.Module, examples: Examples) -> AbstractContextManager[None]:
    """Eval mode, in which a single example has statistics; for ready-made batches the mode the network is in."""
    return nullcontext() if examples.ready_made else evaluation_mode(model)


def _call_once(loss: Loss, output: object, targets: object) -> None:
    scores = prediction(output)
    if scores.ndim and len(scores) != row_count(targets):
        return  # a model that squeezes its outputs, and with them a single example
    try:
        example_losses(loss, output, targets)
    except LandscapeError:
        raise
    except (RuntimeError, ValueError) as error:
        if is_the_machine(error):
            raise
        shapes = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in leaves(targets))
        raise DataError(
            f"the loss does not take the targets: {str(error)[:300]}",
            f"{loss.__name__} on one example, outputs {tuple(scores.shape)}, targets {shapes}",
            "check the targets, or name another `loss=`",
        ) from error


def _refuse_flaws(
    model: nn.Module, examples: Examples, loss: LossFunction, device: torch.device, dtype: torch.dtype, where: str
) -> None:
    """Refuse NaN and infinite values that reach the loss; a mask of -inf, or a NaN that is left out, does not.

    Where very many examples hold such values, the loss of the first ones is asked.

    Raises:
        DataError: Naming the first example whose loss is not finite.
    """
    for flaw, positions in examples.flaws().items():
        for position in positions[:_ASKED]:
            with torch.no_grad(), _mode(model, examples), preserved_random_state():
                batch = examples.batch(np.array([position])).to(device, dtype)
                try:
                    value = float(mean_loss(loss, forward(model, batch.inputs), batch.targets))
                except (LandscapeError, RuntimeError, ValueError, TypeError, IndexError) as error:
                    if is_the_machine(error):
                        raise
                    return  # a loss that does not take one example alone; what it gives is looked at later
            if not np.isfinite(value):
                raise DataError(
                    f"{len(positions)} of {len(examples)} examples hold {flaw}, and the loss there is {value}",
                    f"{where}, {examples.name_of(int(position))}",
                    "leave them out, or fill them in",
                )


def _require_outputs(loss: LossFunction, output: object) -> None:
    """Refuse a softmax over one output, which is 1 whatever the weights: the loss is 0 and flat everywhere."""
    module = loss.module if isinstance(loss, Loss) else loss
    last = loss in (token_cross_entropy, causal_lm)
    if not last and loss not in (cross_entropy, nll) and not isinstance(module, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return
    shape = prediction(output).shape
    if len(shape) > 1 and shape[-1 if last else 1] == 1:
        raise DataError(
            "the model has one output, over which a softmax is always 1 and the loss always 0",
            getattr(loss, "__name__", type(loss).__name__),
            "use `loss='bce_with_logits'` for two classes from one logit, or give the model an output per class",
        )
