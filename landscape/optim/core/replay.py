"""Micro-batches of somebody else's loop that can be gone through again: the one notion behind all integrations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ...base.errors import UsageError
from .engine import ERM
from .leftovers import Leftovers
from .passes import RandomState, forget_casts, frozen_running_statistics

T = TypeVar("T")


class Replay:
    """A step that knows all its micro-batches and can replay them.

    The loop goes through its micro-batches as it always does, forward and backward, and that is the first pass of
    the method. After the last one `complete` makes the other passes by going through them again, each with its own
    random numbers and without moving running statistics. Then ``.grad`` holds the update gradient, as large as the
    loop's scaler has made the loss: what comes next in the loop (unscaling, clipping, ``step()``) need not know.

    Args:
        optimizer: What makes the step.
        scale: By what the loop's scaler multiplies the loss, now.

    Raises:
        UsageError: If the optimizer has an option that only a loop of one's own can serve.

    Example:
        >>> import torch
        >>> from landscape.optim import SAM
        >>> from landscape.optim.core.replay import Replay
        >>> x, model = torch.randn(8, 2), torch.nn.Linear(2, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> replay = Replay(optimizer)
        >>> for part in (x[:4], x[4:]):
        ...     def micro_batch(part=part):
        ...         (model(part).square().mean() / 2).backward()
        ...     replay.run(micro_batch, last=part is not x[:4])
        >>> optimizer.step()
    """

    def __init__(self, optimizer: ERM, scale: Callable[[], float] = lambda: 1.0) -> None:
        self.optimizer, self._scale = optimizer, scale
        self._again: list[tuple[RandomState, Callable[[], Any]]] = []
        self._leftovers: Leftovers | None = None
        self.replaying = False
        """Whether a micro-batch that runs now has run before."""
        for has, option, way in (
            (optimizer.scaler is not None, "scaler=", "leave it out, the loop scales its losses itself"),
            (optimizer.micro_batches, "micro_batches=True", "leave it out; the loop's micro-batches are one batch"),
            (optimizer.ddp is not None and optimizer.per_replica, 'perturbation="per-replica"', "leave it out"),
            (
                getattr(optimizer, "order", 1) != 1,
                "order=2",
                "give order=1, or call step(closure) in a loop of your own",
            ),
            (
                type(optimizer).update_gradient is not ERM.update_gradient,
                "update_gradient",
                "override passes() instead",
            ),
        ):
            if has:
                raise UsageError(f"{option} works in loops of your own only", type(optimizer).__name__, way)

    def run(self, micro_batch: Callable[[], T], *, last: bool) -> T:
        """Go through a micro-batch, and after the last one of the step through all of them again.

        Args:
            micro_batch: Its forward and backward pass; called again at other weights, it must do the same.
            last: Whether the step comes next.
        """
        self.expect(micro_batch, last=last)
        try:
            made = micro_batch()
            if last:
                self.complete()
        except BaseException:
            self.clear()
            raise
        return made

    def expect(self, micro_batch: Callable[[], object], *, last: bool) -> None:
        """Note a micro-batch that the loop is about to go through itself."""
        hand = self.optimizer.by_hand
        hand.require_closed(self.optimizer, "another step")
        if not self._again:
            hand.ready = False  # of a step that the loop's scaler has skipped
            hand.domains.forget()
            hand.domains.alone = last
            if not self.optimizer.one_pass:
                self._leftovers = Leftovers(self.optimizer.parameters(), watch=True)
                self._leftovers.__enter__()
        self._again.append((RandomState.now(), micro_batch))

    def forget_last(self) -> None:
        """The loop has skipped it after all."""
        self._again.pop()
        self.optimizer.by_hand.domains.forget_last(len(self._again))

    def complete(self) -> None:
        """Make the other passes; the step is ready then.

        Raises:
            UsageError: If the loop has added onto gradients of an earlier step, or domains are needed and unknown.
        """
        optimizer, hand = self.optimizer, self.optimizer.by_hand
        try:
            self._end_watch()
            hand.domains.require(optimizer, len(self._again))
            scale, after = float(self._scale()), RandomState.now()
            self.replaying = True
            try:
                if hand.domains.again(optimizer):
                    self._go_through(frozen=True, replayed=True)
                with torch.no_grad():
                    hand.begin(optimizer)
                    more = hand.take(optimizer, scale)
                while more:
                    self._go_through(frozen=optimizer.freeze_statistics, replayed=optimizer.replay)
                    with torch.no_grad():
                        more = hand.take(optimizer, scale)
                with torch.no_grad():
                    hand.make_ready(optimizer, scale)
            finally:
                self.replaying = False
                if optimizer.replay:
                    after.restore()
        except BaseException:
            hand.undo()
            raise
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget the micro-batches, and let go of their data."""
        self._again = []
        if self._leftovers is not None:
            self._leftovers.__exit__()
            self._leftovers = None

    def _end_watch(self) -> None:
        leftovers, self._leftovers = self._leftovers, None
        if leftovers is not None:
            leftovers.__exit__()
            leftovers.require_zeroed(type(self.optimizer).__name__)

    def _go_through(self, *, frozen: bool, replayed: bool) -> None:
        self.optimizer.zero_grad()
        forget_casts()
        with torch.enable_grad(), frozen_running_statistics() if frozen else contextlib.nullcontext():
            for random, micro_batch in self._again:
                if replayed:
                    random.restore()
                micro_batch()
