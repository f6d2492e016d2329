"""A step whose gradients somebody else computes: the two-call form, and the training loops of other libraries."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch

from ...base.errors import UsageError
from .domain_objective import DomainObjective
from .foreign_loops import require_scaled
from .inner_product import inner
from .leftovers import leave, no_gradient, require_cleared
from .passes import forget_casts, frozen_running_statistics

if TYPE_CHECKING:
    from .engine import ERM


class ByHand:
    """Where such a step stands.

    It is closed; or open, between two of its passes, with the weights elsewhere; or ready: ``.grad`` holds the update
    gradient, which may still be clipped or looked at, and ``step()`` makes the step of it.

    One object for the life of an optimizer, never replaced: Lightning's disguise of an optimizer shares it.
    """

    def __init__(self) -> None:
        self.ready = False
        self.domains = DomainObjective()
        self.begins: Callable[[], None] | None = None
        """Called where a step is opened, at its weights and before anything of it is remembered."""
        self._passes: Generator[None, None, None] | None = None
        self._frozen = contextlib.ExitStack()
        self._dropped: weakref.finalize[Any, ERM] | None = None
        self._whole: list[torch.Tensor] = []

    @property
    def open(self) -> bool:
        """Whether the weights may be elsewhere."""
        return self._passes is not None

    def require_closed(self, optimizer: ERM, call: str) -> None:
        """Refuse what cannot be done between two passes.

        Raises:
            UsageError: If the step is open.
        """
        if self.open:
            raise UsageError(
                f"{call} between first_step() and second_step(), where the weights are perturbed",
                type(optimizer).__name__,
                "call second_step() before it, or undo_first_step()",
            )

    # -- the passes ----------------------------------------------------------------------------------------------

    def begin(self, optimizer: ERM) -> None:
        """Open a step at the present weights; an earlier one that was ready and never made is dropped."""
        self.ready, self._whole = False, []
        if self.begins is not None:
            self.begins()
        optimizer._begin()
        self._passes = optimizer.passes()
        next(self._passes)

    def take(self, optimizer: ERM, scale: float = 1.0) -> bool:
        """Take what is in ``.grad``, ``scale`` times too large, as the gradient of the present pass.

        Returns:
            Whether there is another pass, at whose weights the network is now. If not, ``.grad`` holds the update
            gradient.
        """
        assert self._passes is not None
        try:
            optimizer._sparse.to_dense(optimizer.parameters())
            optimizer._take(scale)
            next(self._passes)
        except StopIteration:
            self._passes = None
            return False
        except BaseException:
            self.undo()
            raise
        finally:
            forget_casts()
        self.domains.forget()
        return True

    def take_single_pass(self, optimizer: ERM) -> None:
        """What ``backward`` has left is all that a method of one pass needs; a scaler leaves its division to us."""
        own = optimizer.__dict__
        optimizer.step_was_skipped = "found_inf" in own and bool(own["found_inf"])
        if optimizer.step_was_skipped:
            return
        optimizer._begin()
        optimizer._sparse.to_dense(optimizer.parameters())
        optimizer._take(1.0 if own.get("grad_scale") is None else float(own["grad_scale"]))
        optimizer._finish()

    def make_ready(self, optimizer: ERM, scale: float = 1.0) -> None:
        """Hand the update gradient over, ``scale`` times as large; not finite if one of the passes was not."""
        moved, parts = optimizer.moved(), optimizer.update_parts()
        # What the loop will do to `.grad` has to be done to the method's other parts, too; so it must be known.
        self._whole = [m.gradient.clone() for m in moved] if len(parts) > len(moved) else []
        for m in moved:
            m.gradient.mul_(scale)
        for m in moved[:1]:  # for the loop's scaler, which looks at no other place; 0 where all were finite
            m.gradient.add_(optimizer._checked.to(m.gradient.device, m.gradient.dtype))
        self.ready = True

    def end(self, optimizer: ERM) -> None:
        """Make the step that is ready.

        Raises:
            UsageError: If the loop has changed the gradient in a way that the method's other parts cannot follow.
        """
        self.ready = False
        whole, self._whole = self._whole, []
        if whole:
            self._follow(optimizer, whole)
        optimizer._finish()

    def undo(self) -> None:
        """Go back to the weights of the step, bit for bit, and forget it."""
        passes, self._passes = self._passes, None
        self.ready, self._whole = False, []
        self.domains.forget()
        self._thaw()
        if passes is not None:
            passes.close()

    @staticmethod
    def _follow(optimizer: ERM, whole: list[torch.Tensor]) -> None:
        moved = optimizer.moved()
        if not moved:  # cleared before the step, as anybody may: nothing moves by it
            return
        now = [m.gradient for m in moved]
        squared = float(inner(whole, whole))
        factor = float(inner(whole, now)) / squared if squared else 1.0
        largest = max((float(n.abs().max()) for n in now), default=0.0)
        if any(float((n - factor * g).abs().max()) > 1e-4 * largest for g, n in zip(whole, now, strict=True)):
            raise UsageError(
                "the loop has changed the update gradient entry by entry, and this method moves by two gradients",
                type(optimizer).__name__,
                "clip by norm, or give decouple=False",
            )
        for part in optimizer.update_parts()[len(moved) :]:
            part.mul_(factor)

    def _thaw(self) -> None:
        self._frozen.close()
        if self._dropped is not None:
            self._dropped.detach()
            self._dropped = None

    # -- in two calls --------------------------------------------------------------------------------------------

    def first_step(self, optimizer: ERM) -> None:
        """Climb.

        Raises:
            UsageError: If there is no gradient, or the step is open already.
        """
        self.require_closed(optimizer, "first_step()")
        if not optimizer.moved():
            raise no_gradient(type(optimizer).__name__, "first_step()")
        require_scaled(optimizer, "first_step()")
        require_cleared(optimizer.parameters(), type(optimizer).__name__)
        self.domains.require(optimizer, 1)
        self.begin(optimizer)
        self.take(optimizer, optimizer._gradient_scale)
        if optimizer.freeze_statistics:
            self._frozen.enter_context(frozen_running_statistics())
            # If the optimizer is dropped here: the collector would clear the hook's handle before it is used.
            self._dropped = weakref.finalize(optimizer, self._frozen.close)
            self._dropped.atexit = False

    def second_step(self, optimizer: ERM) -> None:
        """Come back and step.

        Raises:
            UsageError: If there was no first step, or no gradient since.
        """
        if not self.open:
            raise UsageError(
                "second_step() without first_step()",
                type(optimizer).__name__,
                "call first_step() after the first backward",
            )
        if not optimizer.moved():
            raise no_gradient(type(optimizer).__name__, "second_step()")
        require_scaled(optimizer, "second_step()")
        self._thaw()
        self.take(optimizer, optimizer._gradient_scale)
        try:
            optimizer._finish()
        finally:
            self.undo()
            leave(optimizer.parameters())
            forget_casts()


def behind(optimizer: Any) -> Any:
    """The optimizer itself, behind Lightning's disguise, which has its class but not its attributes."""
    return optimizer if "by_hand" in optimizer.__dict__ else optimizer.optimizer
