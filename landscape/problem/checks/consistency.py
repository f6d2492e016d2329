"""What is looked at once, when a `Problem` is made, and holds for everything that is asked of it.

A number about a loss means something if the loss is one function: two passes agree, no pass changes the next, and the
loss of a set of examples is the mean over them whatever the micro-batches. A few examples show whether that is so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import LandscapeError, NumericalError, UsageError, is_out_of_memory, is_the_machine
from ...data.examples import Batch, Indices
from ...data.loss_values import batch_weight, mean_loss
from ...data.ready import Ready, doubled
from ...numerics.trees import divisible, leaves, map_kept, row_count, take_rows
from ...runtime.devices import widest
from ...runtime.precision import full_precision
from ...runtime.random_state import preserved_random_state
from ..fingerprint import state_fingerprint
from ..forward import forward
from ..modes import random_state, same_state

if TYPE_CHECKING:
    from ..problem import Problem

FEW = 16
FEW_READY = 3  # ready-made batches, each of which may be large
_EQUAL = {torch.float32: 1e-5, torch.float64: 1e-10}
# How far the loss of parts may be off from that of the whole, relative to the sizes of what is added up.
_ADDS_UP = {torch.float32: 1e-4, torch.float64: 1e-8}
# How far outputs for an example may be off in a batch of another size, where other kernels add in another order; also
# in float64 some networks compute parts in float32.
_ROWS = {torch.float32: 1e-3, torch.float64: 1e-6}
_MORE = 30  # passes where random numbers are drawn that have made no difference
_WAYS_OUT = (
    "return one loss per example, (n,), that does not look at the others; or take the mean over recorded batches of "
    "`batch_size=` examples with `loss_over='batch'`"
)


def require_sound(problem: Problem) -> None:
    """Refuse a problem whose loss is not one function of the weights, or no mean over its examples.

    Raises:
        NumericalError: If two passes differ.
        UsageError: If a pass leaves another state behind, or the loss does not add up over examples.
    """
    few = FEW_READY if problem.by_objective else min(FEW, problem.batch_size)
    count = min(few, problem.n_examples)
    while True:
        try:
            _look(problem, count)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or count == 1:
                raise
            count //= 2


def _look(problem: Problem, count: int) -> None:
    batch = problem.examples.batch(spread(problem.n_examples, count)).to(problem.device, problem.dtype)
    with torch.no_grad(), preserved_random_state(), full_precision(problem.device):
        output = _require_equal_passes(problem, batch)
        _require_equal_losses(problem, output, batch.targets)
        if problem.by_objective:
            _require_sums(problem)
        elif problem.loss_over == "example" and len(batch) > 1:
            try:
                _require_mean(problem, batch, output)
            except (LandscapeError, MemoryError):
                raise
            except Exception as error:
                if is_the_machine(error):
                    raise
                what = f"{problem.loss_name} cannot be taken of a part of a batch: {type(error).__name__}: {error}"
                raise UsageError(what[:300], "the loss", _WAYS_OUT) from error


def spread(n: int, count: int) -> Indices:
    """``count`` positions spread evenly over ``n``: sorted data shows more than one class, and every domain."""
    return np.unique(np.linspace(0, n - 1, count).round().astype(np.int64))


# -- two passes ------------------------------------------------------------------------------------------------------


def _require_equal_passes(problem: Problem, batch: Batch) -> object:
    """Pass the batch twice; more often where random numbers are drawn that have made no difference yet."""
    model, name = problem.model, type(problem.network).__name__
    if problem.by_objective:
        name = f"{name} in objective {problem.loss_name}"
    versions = {k: p._version for k, p in model.named_parameters()}
    output = problem.output(batch)
    written = [k for k, p in model.named_parameters() if p._version != versions[k]]
    if written:
        raise UsageError(
            f"the forward pass writes into the weights {', '.join(written[:5])}",
            name,
            "renormalise or initialise them once, before the analysis",
        )
    expected, before = _tensors(output), state_fingerprint(model)
    for passed in range(1 + _MORE):
        drawn = random_state()
        worst, size = _difference(expected, _tensors(problem.output(batch)))
        if worst > _EQUAL[problem.dtype] * size:
            raise NumericalError(
                f"two passes over the same examples differ by {worst:.2g} in outputs of up to {size:.3g}",
                name,
                "the forward is random, keeps state or writes into its inputs: make it deterministic in "
                f"{problem.mode} mode",
            )
        if not passed and same_state(drawn, random_state()):
            break
    after = state_fingerprint(model)
    changed = [k or name for k in before if after.get(k) != before[k]]
    if changed:
        raise UsageError(
            f"every forward pass leaves another state behind in {', '.join(changed[:5])}",
            name,
            f"let attributes and buffers be the same after each pass in {problem.mode} mode: no counters, no lists "
            "that grow",
        )
    return output


def _require_equal_losses(problem: Problem, output: object, targets: object) -> None:
    """Take the loss of the same outputs twice; more often where random numbers are drawn that made no difference."""
    expected = mean_loss(problem.loss_function, output, targets)
    for passed in range(1 + _MORE):
        drawn = random_state()
        worst, size = _difference([expected], [mean_loss(problem.loss_function, output, targets)])
        if worst > _EQUAL[problem.dtype] * size + 1e-9:
            raise NumericalError(
                f"two calls of the loss with the same outputs differ by {worst:.2g}, of {float(expected):.3g}",
                problem.loss_name,
                "the loss is random or keeps state: let it be a function of outputs and targets alone",
            )
        if not passed and same_state(drawn, random_state()):
            break


def _tensors(output: object) -> list[Tensor]:
    plain = output if isinstance(output, (Tensor, tuple, list, Mapping)) else getattr(output, "__dict__", {})
    return [t.detach() for t in leaves(plain) if t.is_floating_point() or t.is_complex()]


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, float]:
    worst, size = 0.0, 0.0
    for a, b in zip(first, second, strict=False):
        if a.shape != b.shape:
            return float("inf"), 0.0
        if a.numel() and not torch.equal(a, b):
            both = torch.isfinite(a) & torch.isfinite(b)
            same = (a == b) | (a.isnan() & b.isnan()) | both
            worst = max(worst, float((a - b)[both].abs().max()) if bool(both.any()) else 0.0)
            if not bool(same.all()):
                return float("inf"), float("inf")
        if a.numel():
            size = max(size, float(a[torch.isfinite(a)].abs().max()) if bool(torch.isfinite(a).any()) else 0.0)
    return worst, size


# -- the mean over examples ------------------------------------------------------------------------------------------


def _require_mean(problem: Problem, batch: Batch, output: object) -> None:
    """Compare the loss of a batch with those of two parts of unequal size.

    First the loss alone: on the outputs as they are, and on outputs mixed with those of the next example, since at a
    minimum all losses may be next to nothing. Then the network, whose output for an example must not depend on the
    others.
    """
    n = len(batch)
    parts = [np.arange(max(1, n // 3)), np.arange(max(1, n // 3), n)]
    few = [batch.rows(p) for p in parts]
    if divisible(output, n) and row_count(batch.targets) == n:
        for outputs in (output, map_kept(output, _mixed)):
            _require_mean_of(problem.loss_name, *_losses(problem, outputs, batch.targets, parts))
        if problem.mode == "eval":  # in train mode batches are fixed, and BatchNorm couples them
            _require_rows(problem, output, few, parts)
    elif problem.mode == "eval":
        # Many small parts: what a batch couples shows most where batches are small.
        few = [batch.rows(p) for p in np.array_split(np.arange(n), [2, 4, 7, 11]) if len(p)]
        whole = problem.batch_loss(batch), _weight(problem, batch.targets)
        apart = [(problem.batch_loss(b), _weight(problem, b.targets)) for b in few]
        _require_mean_of(f"the loss that {type(problem.network).__name__} computes", *_numbers(whole, apart))


Weighed = tuple[float, float]
Found = tuple[Weighed, list[Weighed], float]


def _losses(problem: Problem, outputs: object, targets: object, parts: Sequence[Indices]) -> Found:
    """Loss and weight of the whole and of each part; in float64 where the loss can be had in it."""

    def of(cast: Callable[[Tensor], Tensor], part: Indices | None) -> tuple[Tensor, Tensor | float]:
        o, t = (outputs, targets) if part is None else (_rows(outputs, part), _rows(targets, part))
        o, t = map_kept(o, cast), map_kept(t, cast)
        return mean_loss(problem.loss_function, o, t), _weight(problem, t)

    def exact(tensor: Tensor) -> Tensor:
        return widest(tensor) if tensor.is_floating_point() else tensor

    try:
        found = [of(exact, p) for p in (None, *parts)]
    except Exception:  # it holds numbers of another type
        found = [of(lambda t: t, p) for p in (None, *parts)]
    return _numbers(found[0], found[1:])


def _numbers(whole: Any, apart: Any) -> Found:
    kind = whole[0].dtype
    limit = _ADDS_UP.get(kind, _ADDS_UP[torch.float32])
    return (float(whole[0]), float(whole[1])), [(float(a), float(b)) for a, b in apart], limit


def _require_mean_of(what: str, whole: Weighed, apart: Sequence[Weighed], limit: float) -> None:
    if not whole[1] or not all(np.isfinite(loss) for loss, _ in (whole, *apart)):
        return  # a loss that is not finite is refused where it is looked at
    mean = sum(loss * weight for loss, weight in apart) / whole[1]
    size = max(abs(whole[0]), sum(abs(loss) * weight for loss, weight in apart) / whole[1])
    if abs(whole[0] - mean) > limit * size + 1e-9:
        told = f"{whole[0]:.7g} for some examples together, {mean:.7g} in two parts"
        raise UsageError(f"{what} is no mean over examples: {told}", "the loss", _WAYS_OUT)


def _require_rows(problem: Problem, output: object, few: Sequence[Batch], parts: Sequence[Indices]) -> None:
    for batch, part in zip(few, parts, strict=True):
        rows, alone = _tensors(_rows(output, part)), _tensors(problem.output(batch))
        if len(part) == 1:  # a network that squeezes its outputs squeezes a single example with them
            alone = [a.reshape(r.shape) if a.numel() == r.numel() else a for r, a in zip(rows, alone, strict=False)]
        worst, size = _difference(rows, alone)
        if worst > _ROWS[problem.dtype] * max(size, 1e-30):
            raise UsageError(
                f"the output for an example depends on the others in its batch: by {worst:.2g} of up to {size:.3g}",
                type(problem.network).__name__,
                "let the network look at each example alone; or take the mean over recorded batches of `batch_size=` "
                "examples with `loss_over='batch'`",
            )


def _mixed(tensor: Tensor) -> Tensor:
    """Each row between itself and the next, another one at another place: within the range of the outputs."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    share = torch.linspace(0.1, 0.9, len(tensor), dtype=torch.float64)
    share = share.to(tensor.device, tensor.abs().dtype).view(-1, *[1] * (tensor.ndim - 1))
    return share * tensor + (1 - share) * tensor.roll(1, 0)


def _weight(problem: Problem, targets: object) -> Tensor | float:
    return batch_weight(problem.loss_function, targets)


def _require_sums(problem: Problem) -> None:
    """Refuse an objective that returns a mean for a sum: for a batch and the same batch again it is no larger.

    A batch is doubled where it is tensors of one length. What couples its examples may give anything for it, but
    hardly the same sum for twice the count.

    Raises:
        UsageError: If it does.
    """
    one = problem.head(1)
    ready = one.inputs
    twice = doubled(ready.batches[0])
    if twice is None:
        return
    double = Ready([twice], None, 2 * ready.nbytes)
    try:
        first = float(forward(problem.model, ready)[0]) * ready.counts[0]
        second = float(forward(problem.model, double)[0])
    except Exception as error:
        if is_the_machine(error):
            raise
        return  # it takes no other batches than the ready-made ones
    counts = ready.counts[0], (double.counts or [0])[0]
    second *= counts[1]
    if counts[1] == 2 * counts[0] > 0 and abs(first - second) <= _ADDS_UP[problem.dtype] * abs(first) != 0:
        raise UsageError(
            f"for {counts[0]:g} examples it returns {first:.6g}, and the same for these examples twice: no sum",
            f"objective {problem.loss_name}",
            "return (loss * n, n) where loss is a mean over n; (loss, 1) gives every batch the same weight",
        )


def _rows(tree: object, part: Indices) -> object:
    return take_rows(tree, torch.from_numpy(part))
