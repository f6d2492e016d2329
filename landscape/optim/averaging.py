"""Weight averaging on top of any optimizer: SWA (arXiv 1803.05407) and SWAD (arXiv 2102.08604)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .core.passes import RandomState


class SWA:
    """The running mean of the weights: avg ← avg + (w − avg)/(n + 1).

    Args:
        parameters: The weights that are averaged.

    Example:
        >>> import torch
        >>> from landscape.optim import SWA
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> average = SWA([w])
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = w.data.fill_(value)  # a training step
        ...     average.update()
        >>> average.write(), w.item()
        (True, 3.0)
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.mean: list[Tensor] | None = None
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        self.count += 1
        if self.mean is None:
            self.mean = [p.detach().clone() for p in self.parameters]
            return
        for m, p in zip(self.mean, self.parameters, strict=True):
            m.add_((p - m) / self.count)

    @torch.no_grad()
    def write(self) -> bool:
        """Put the mean in the place of the weights; False if there is none yet."""
        if self.mean is None:
            return False
        for m, p in zip(self.mean, self.parameters, strict=True):
            p.copy_(m)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Mean and count."""
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.count = state["count"]
        self.mean = _placed(state["mean"], self.parameters)


class SWAD:
    """Dense averaging between two moments chosen by the validation loss.

    The weights of every step between two evaluations are averaged into a segment, which gets the validation loss
    at its end. The valley begins where the oldest of the last ``n_converge`` losses is the lowest; the threshold
    is their mean times ``1 + tolerance``. Segments just before the beginning, within the tolerance window, belong
    to it as long as they stay under the threshold. A later segment is taken in unless the lowest loss of the
    ``n_tolerance`` segments that start with it exceeds the threshold, which ends the valley. Segments weigh
    equally. If the beginning is never reached, the last segment is the result.

    The released code (khanrc/swad) overwrites its first copy and leaves out one back-filled segment; both are
    mended here.

    Args:
        parameters: The weights that are averaged.
        n_converge: Window of the beginning (released configuration: 3).
        n_tolerance: Window of the end (6).
        tolerance: Ratio above the mean loss (0.3).

    Example:
        >>> import torch
        >>> from landscape.optim import SWAD
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> average = SWAD([w], n_converge=1, n_tolerance=1)
        >>> for value, validation_loss in ((1.0, 0.5), (3.0, 0.4), (9.0, 5.0)):
        ...     _ = w.data.fill_(value)  # the steps between two evaluations
        ...     average.update()
        ...     average.evaluated(validation_loss)
        >>> average.write(), w.item()
        (True, 2.0)
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        n_converge: int = 3,
        n_tolerance: int = 6,
        tolerance: float = 0.3,
    ) -> None:
        self.parameters = list(parameters)
        self.n_converge, self.n_tolerance, self.tolerance = n_converge, n_tolerance, tolerance
        self.segment = SWA(self.parameters)
        self.losses: list[float] = []
        self.waiting: dict[int, list[Tensor]] = {}  # segments that may still be wanted, by number
        self.threshold: float | None = None
        self.first: int | None = None  # the valley's first segment
        self.next = 0  # the next segment to decide on, once the valley has begun
        self.ended = False
        self.mean: list[Tensor] | None = None
        self.count = 0

    def update(self) -> None:
        """Take the present weights into the segment; call it after every step."""
        self.segment.update()

    @torch.no_grad()
    def evaluated(self, loss: float) -> None:
        """End the segment with the validation loss at this point."""
        if self.ended or self.segment.mean is None:
            return
        number = len(self.losses)
        self.losses.append(loss)
        self.waiting[number] = self.segment.mean
        self.segment = SWA(self.parameters)
        if self.first is None:
            self._begin()
        else:
            while not self.ended and number - self.next + 1 >= self.n_tolerance:
                self._decide()
        keep = self.next if self.first is not None else number + 1 - max(self.n_tolerance, self.n_converge)
        self.waiting = {k: v for k, v in self.waiting.items() if k >= keep}

    def _begin(self) -> None:
        window = self.losses[-self.n_converge :]
        if len(window) < self.n_converge or min(window) < window[0]:
            return
        oldest = len(self.losses) - self.n_converge
        self.threshold = sum(window) / len(window) * (1 + self.tolerance)
        first = oldest
        while first - 1 in self.waiting and self.losses[first - 1] <= self.threshold:
            if oldest - first >= self.n_tolerance - self.n_converge:
                break
            first -= 1
        self.first = first
        for number in range(first, oldest + 1):
            self._take(number)
        self.next = oldest + 1

    def _decide(self) -> None:
        assert self.threshold is not None
        if min(self.losses[self.next : self.next + self.n_tolerance]) > self.threshold:
            self.ended = True
        else:
            self._take(self.next)
            self.next += 1

    def _take(self, number: int) -> None:
        segment = self.waiting[number]
        self.count += 1
        if self.mean is None:
            self.mean = [t.clone() for t in segment]
        else:
            for m, t in zip(self.mean, segment, strict=True):
                m.add_((t - m) / self.count)

    @torch.no_grad()
    def write(self) -> bool:
        """Put the average in the place of the weights; False if nothing was averaged."""
        if not self.losses:
            return self.segment.write()
        if self.first is None:
            mean: Sequence[Tensor] = self.waiting[len(self.losses) - 1]
        else:
            while not self.ended and self.next < len(self.losses):
                self._decide()
            assert self.mean is not None
            mean = self.mean
        for m, p in zip(mean, self.parameters, strict=True):
            p.copy_(m)
        return True

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        names = ("losses", "waiting", "threshold", "first", "next", "ended", "mean", "count")
        return {**{n: getattr(self, n) for n in names}, "segment": self.segment.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name in ("losses", "threshold", "first", "next", "ended", "count"):
            setattr(self, name, state[name])
        self.mean = _placed(state["mean"], self.parameters)
        self.waiting = {k: _placed(v, self.parameters) or [] for k, v in state["waiting"].items()}
        self.segment.load_state_dict(state["segment"])


def recalibrate_statistics(model: nn.Module, forward_all: Callable[[], None]) -> bool:
    """Recompute the running statistics of BatchNorm layers as plain averages over a pass of the training data.

    Args:
        model: The network with averaged weights; its layers are put into training mode for the pass and back.
        forward_all: Runs the network over all training examples.

    Returns:
        Whether there was anything to recompute.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return False
    modes, momenta = {m: m.training for m in model.modules()}, {m: m.momentum for m in layers}
    random = RandomState.now()
    model.eval()
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        with torch.no_grad():
            forward_all()
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        random.restore()
    return True


def _placed(tensors: Sequence[Tensor] | None, like: Sequence[Tensor]) -> list[Tensor] | None:
    return None if tensors is None else [t.to(p).clone() for t, p in zip(tensors, like, strict=True)]
