"""The engine under every method: an optimizer around an optimizer, with a closure that is called once per pass.

``step(closure)`` calls the closure at the weights of each pass. The closure may follow torch's convention (zero
the gradients, compute the loss, call ``backward``, return the loss), or return a `BatchLoss` or `MicroBatches`
*without* calling ``backward``; then the optimizer differentiates what its method needs.

A step is made of the gradients of its own passes. What is in ``.grad`` before it (left by the last step, or by a
``backward`` of one's own) does not count if the closure zeroes it, and is refused if the closure adds onto it, since
the passes at other weights would lack it; with ``ERM``, which has one pass, it is added as in torch. So clipping
between a ``backward`` and ``step(closure)`` has no effect (use ``clip``), and a batch is accumulated by returning
`MicroBatches`, or by going through its micro-batches inside the closure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from ...base.errors import NumericalError, UsageError
from ...numerics.ascent import global_norm, real_view
from ...runtime.distributed import all_reduce_sum_
from .by_hand import ByHand, behind
from .closures import BatchLoss, Closure, ClosurePasses
from .foreign_loops import (
    belongs_to_lightning,
    in_lightning,
    scaled_from_outside,
    watched_scaling,
    without_closure,
)
from .leftovers import Leftovers, leave, no_gradient
from .passes import forget_casts, frozen_running_statistics
from .perturbation import ParamWithGrad
from .shared_options import CHOICES, SharedOptions, require_one_of
from .sparse import SparseGradients
from .wrapper import Wrapper

__all__ = ["ERM", "BatchLoss", "Closure", "ParamWithGrad", "SharedOptions"]


class ERM(Wrapper):
    """Empirical risk minimization: one pass, then the base optimizer's step; the base of all methods.

    Args:
        base: The optimizer that makes the step. Parameter groups and state are shared with it, so a learning-rate
            scheduler may be attached to either.
        common: What every method understands; see `SharedOptions`.
        **settings: Method parameters; each parameter group may override them.

    Raises:
        UsageError: If the base cannot be wrapped: it calls the closure itself (LBFGS), is differentiable, maximizes
            under a method that seeks flat minima, or has a setting of the same name.

    Example:
        >>> import torch
        >>> from landscape.optim import ERM
        >>> x, model = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]), torch.nn.Linear(2, 1)
        >>> optimizer = ERM(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(x).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> first, *_, last = [float(optimizer.step(closure)) for _ in range(30)]
        >>> last < first
        True
    """

    one_pass = True
    sums_gradients = False
    """Whether the update is made of the sum of all gradients, which then may add up in ``.grad``; see `summed`."""
    summed = False
    """Whether they do in this step."""
    found_inf: Tensor
    grad_scale: Tensor | None

    def __init__(self, base: torch.optim.Optimizer, common: SharedOptions | None = None, **settings: float) -> None:
        common = common or {}
        unknown = set(common) - set(SharedOptions.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {min(unknown)!r}")
        for key, choices in CHOICES.items():
            require_one_of(key, common.get(key, choices[0]), choices)
        super().__init__(base, settings, common.get("weight_decay_in_perturbation", False))
        self.clip: float | None = common.get("clip")
        self.scaler: Any = common.get("scaler")
        self.replay = common.get("replay", True)
        self.check_finite = common.get("check_finite", True)
        self.freeze_statistics = common.get("bn_second_pass", "freeze") == "freeze"
        self.micro_batches = common.get("micro_batches", False)
        self.ddp: Any = common.get("ddp")
        self.per_replica = common.get("perturbation", "synchronised") == "per-replica"
        self.gradient_evaluations = 0
        """Gradients of the batch in the last step."""
        self.step_was_skipped = False
        """Whether the last step was skipped because of an overflow (with a scaler)."""
        self._sparse = SparseGradients()
        self._watch = True
        self._work: ClosurePasses | None = None
        self.by_hand = ByHand()
        """The step whose gradients others compute; see `ByHand`."""

    # -- one step ------------------------------------------------------------------------------------------------

    @overload  # type: ignore[override]
    def step(self, closure: Closure) -> Tensor: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:
        """Make one step and return the loss at the weights before it, shape ``()``.

        Without a closure it ends a step whose gradients others have computed: `landscape.integrations` for a method
        of several passes, anybody's ``backward`` for one of a single pass.

        Raises:
            UsageError: If a closure is needed, it returns no loss, leaves no gradient, or adds onto gradients that
                were there before; no weight has changed then.
            NumericalError: If a gradient is not finite (without a scaler, and with ``check_finite``); no weight has
                changed then.
        """
        hand = self.by_hand
        hand.require_closed(self, "step()")
        forget_casts()
        hand.ready &= closure is None
        alone = self.one_pass and not self.needs_domains and self.scaler is None
        if "found_inf" in self.__dict__ and (closure is not None or not alone):  # see `_step_supports_amp_scaling`
            del self.found_inf, self.grad_scale
            raise scaled_from_outside(self)
        if closure is not None:
            self._begin()
            with self._locally():
                work = self._called(closure)
        elif not hand.ready and not alone:
            raise without_closure(self)
        try:
            if hand.ready:  # also after a closure of Lightning's, which goes through all the passes
                hand.end(self)
            elif closure is not None:
                return self._step(work)
            else:
                hand.take_single_pass(self)
        finally:
            leave(self.parameters())
            forget_casts()
        return work.loss if closure is not None else None

    def _step(self, work: ClosurePasses) -> Tensor:
        with self._locally():
            loss = self._whole_update(work)
        self._finish()
        return loss

    def _begin(self) -> None:
        for group in self.param_groups:  # one may have come to the base meanwhile
            self.adopt(group)
        self._sparse = SparseGradients()
        self._gradient_scale = float(self.scaler.get_scale()) if self.scaler is not None else 1.0
        self._checked = torch.zeros(())
        self.gradient_evaluations = 0

    def _finish(self) -> None:
        if self.ddp is not None and self.per_replica:
            self._average_over_replicas()
        norm = self._seen(self._norm())
        if not self._proceed():
            return
        if self.clip is not None:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            for gradient in self.update_parts():
                gradient.mul_(factor.to(gradient.device, gradient.dtype))
        self.base_step()

    def passes(self) -> Generator[None, None, None]:
        """Go to where the method wants a gradient, and yield there; whoever iterates leaves it in ``.grad``.

        The first yield is at the weights of the step. At the end the weights are there again, and ``.grad`` holds
        the gradient that the base optimizer shall receive.
        """
        yield

    def update_gradient(self, work: ClosurePasses) -> Tensor:
        """Leave the gradient that the base optimizer shall receive in ``.grad``; return the loss, shape ``()``."""
        self._work, self.summed = work, self.sums_gradients and not work.fills_gradients and self.scaler is None
        try:
            with contextlib.closing(self.passes()) as passes:  # so that the weights come back if a pass fails
                losses = [
                    self.differentiate(work, first=k == 0, onto=k > 0 and self.summed) for k, _ in enumerate(passes)
                ]
        finally:
            self._work, self.summed = None, False
        return losses[0]

    def update_parts(self) -> list[Tensor]:
        """The tensors of this step's update, which clipping scales and replicas average."""
        return [m.gradient for m in self.moved()]

    def base_step(self) -> None:
        """Move the weights with the update gradient, and keep what the method remembers."""
        self._sparse.to_sparse()
        self.base.step()

    def domain_weights(self, losses: Tensor, counts: Tensor | None) -> Tensor | None:
        """Weights c_i of the domain losses in the first pass, which differentiates L + sum_i c_i L_i."""
        raise NotImplementedError

    # -- what methods are made of --------------------------------------------------------------------------------

    def differentiate(self, work: ClosurePasses, *, first: bool = True, onto: bool = False) -> Tensor:
        """One pass: the gradient at the present weights goes to ``.grad``, unscaled; returns the loss, ``()``.

        Args:
            work: The batch.
            first: Whether this is the first pass of the step, with its domain weights and statistics; the
                others see the same random numbers.
            onto: Add the gradient to what ``.grad`` holds.
        """
        forget_casts()
        if not first and self.replay:
            work.replay()
        frozen = contextlib.nullcontext() if first or not self.freeze_statistics else frozen_running_statistics()
        earlier = [(m, m.gradient) for m in self.moved()] if onto and work.shared else []
        if work.shared or not (onto or work.fills_gradients):
            self.zero_grad(set_to_none=True)
        total: Tensor | None = None
        with torch.enable_grad(), frozen:
            for loss, objective in work.next(self.domain_weights if first and self.needs_domains else None):
                if objective is not None:
                    (objective if self.scaler is None else self.scaler.scale(objective)).backward()
                total = loss if total is None else total + loss
        assert total is not None
        if work.fills_gradients and not self.moved() and any(p.requires_grad for p in self.parameters()):
            raise no_gradient(type(self).__name__)
        self._sparse.to_dense(self.parameters())
        if work.shared:
            total = self.sum_over_processes(total)
            for m, gradient in earlier:
                m.gradient = gradient if m.parameter.grad is None else gradient.add_(m.gradient)
        self._take(self._gradient_scale)
        return total

    def _take(self, scale: float) -> None:
        """Make of what a pass has left in ``.grad`` the gradient of the method's loss, unscaled."""
        self.gradient_evaluations += 1
        for m in self.moved():
            if scale != 1:
                m.gradient.mul_(1 / scale)
            if m.group.get("perturbed_weight_decay"):
                m.gradient.add_(m.weights, alpha=m.group["perturbed_weight_decay"])

    def objective(self, batch: BatchLoss) -> Tensor:
        """The loss of a batch (or micro-batch) with its domains, for loops that differentiate it themselves.

        Return it from Lightning's ``training_step``, the Trainer's ``compute_loss`` or the function given to
        ``Backward``, or call ``backward`` on it before `first_step` and `second_step`. Its value is the mean loss;
        its gradient in the first pass is that of the method's objective.

        Args:
            batch: Mean over the (micro-)batch and over each of its domains.

        Returns:
            The loss, shape ``()``.
        """
        optimizer: ERM = behind(self)
        return optimizer.by_hand.domains.objective(optimizer, batch)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """So that a scaler's ``step()`` can be told from the user's, by what it sets; what is ready is any step."""
        return not self.by_hand.ready

    def moved(self) -> list[ParamWithGrad]:
        """The parameters that have a gradient, in order."""
        found = []
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            found += [
                ParamWithGrad(p, group, n) for p, n in zip(group["params"], names, strict=True) if p.grad is not None
            ]
        return found

    def newcomers(self, moved: list[ParamWithGrad]) -> list[ParamWithGrad]:
        """Parameters that this pass has reached and no earlier one: their gradient there was zero."""
        known = {m.parameter for m in moved}
        return [m for m in self.moved() if m.parameter not in known]

    @contextlib.contextmanager
    def away(self, moved: list[ParamWithGrad]) -> Iterator[list[Tensor]]:
        """Move the weights in the block; they return into the same storage, bit for bit, whatever happens.

        Yields:
            The weights before it, one per parameter; both lists may be lengthened alike inside.
        """
        home = [m.weights.clone() for m in moved]
        try:
            yield home
        finally:
            with torch.no_grad():  # also where a step in two calls is dropped half-way
                for m, w in zip(moved, home, strict=True):
                    m.weights.copy_(w)
            forget_casts()

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """L2 norm over all parameters of all groups, shape ``()``; remembered for the check before the step."""
        return self._seen(global_norm(gradients) if gradients else torch.zeros(()))

    # -- inside --------------------------------------------------------------------------------------------------

    def _called(self, closure: Closure) -> ClosurePasses:
        """The closure after its first call, and after a look at what it made of the gradients before it."""
        watch, self._watch = self._watch, True
        with (
            Leftovers(self.parameters(), watch) as leftovers,
            watched_scaling(self.scaler) as scaled,
            torch.enable_grad(),
        ):
            work = ClosurePasses(closure, replayed=not self.one_pass)
        if self.by_hand.ready:
            return work
        work.require_loss()
        if work.fills_gradients and self.scaler is not None and self.scaler.is_enabled() and not scaled:
            fix = "differentiate scaler.scale(loss) in it, or return BatchLoss(loss) and differentiate nothing"
            raise UsageError("the closure's loss was not scaled by the optimizer's scaler", "closure", fix)
        name = type(self).__name__
        if (not self.one_pass or self.needs_domains) and belongs_to_lightning(closure):
            raise in_lightning(self)
        if not work.fills_gradients:
            leftovers.require_own(name)
        elif not self.needs_domains:  # which such a closure cannot give, as the first pass says
            leftovers.require_differentiated(name)
            if not self.one_pass:
                leftovers.require_zeroed(name)
        # A closure that replaces gradients, or leaves them to the optimizer, will do so again.
        self._watch = work.fills_gradients and (not leftovers.replaced if leftovers.any else watch)
        return work

    def _whole_update(self, work: ClosurePasses) -> Tensor:
        if work.pieces is None or not self.micro_batches:
            with work.as_one_pass():
                return self.update_gradient(work)
        loss, sums = torch.tensor(0.0), dict[nn.Parameter, tuple[ParamWithGrad, Tensor]]()
        for call, share in zip(work.pieces, work.pieces.shares, strict=True):
            evaluations, self.gradient_evaluations = self.gradient_evaluations, 0
            with torch.enable_grad():
                piece = ClosurePasses(call, replayed=not self.one_pass).require_loss()
            with piece.as_one_pass():
                loss = loss + share * self.update_gradient(piece)
            self.gradient_evaluations = max(evaluations, self.gradient_evaluations)
            for m in self.moved():
                if m.parameter in sums:
                    sums[m.parameter][1].add_(m.gradient, alpha=share)
                else:
                    sums[m.parameter] = m, m.gradient.mul_(share)
            self.zero_grad(set_to_none=True)
        for m, gradient in sums.values():
            m.gradient = gradient
        return self.sum_over_processes(loss) if work.shared else loss

    def sum_over_processes(self, loss: Tensor) -> Tensor:
        """Add up what the processes have left in ``.grad``, and their shares of the loss, which is returned.

        A parameter that no process has reached stays without a gradient, as it would with one process.
        """
        parameters = self.parameters()
        reached = torch.tensor([float(p.grad is not None) for p in parameters])  # on the CPU: no GPU is waited for
        all_reduce_sum_([reached])
        loss = loss.detach().clone()
        sums = [loss]
        for parameter, anywhere in zip(parameters, reached.tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                sums.append(real_view(parameter.grad))
        all_reduce_sum_(sums)
        return loss

    def _norm(self) -> Tensor:
        gradients = [m.gradient for m in self.moved()]
        return global_norm(gradients) if gradients else torch.zeros(())

    def _seen(self, norm: Tensor) -> Tensor:
        # One check per step instead of one per pass: on a GPU each would wait for the device.
        kept = self._checked
        if kept.device.type != "cpu":  # a number of the host's meets any device without being waited for
            kept = kept.to(norm.device)
        self._checked = kept + norm * 0
        return norm

    def _proceed(self) -> bool:
        """Whether every norm of this step was finite; tells the scaler."""
        if self.scaler is not None:
            # A stand-in whose gradient is finite exactly when all passes were: the scaler's own public way to
            # learn of an overflow, once per step however many passes there were.
            stand_in = nn.Parameter(torch.zeros((), device=self._checked.device))
            stand_in.grad = self._checked.float()
            self.scaler.unscale_(torch.optim.SGD([stand_in]))
            self.scaler.update()
        if self.scaler is None and not self.check_finite:
            return True
        finite = bool(torch.isfinite(self._checked))
        self.step_was_skipped = not finite
        if not finite and self.scaler is None:
            raise NumericalError(
                "the gradient is not finite", type(self).__name__, "lower the learning rate; no weight was changed"
            )
        return finite

    def _locally(self) -> Any:
        return self.ddp.no_sync() if self.ddp is not None and self.per_replica else contextlib.nullcontext()

    def _average_over_replicas(self) -> None:
        import torch.distributed as dist

        replicas = dist.get_world_size(self.ddp.process_group)
        for gradient in self.update_parts():
            dist.all_reduce(gradient, group=self.ddp.process_group)
            gradient.div_(replicas)

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All of the state: the base optimizer's, the method's own, and the scaler's."""
        self.require_no_open_step("state_dict()")
        state = super().state_dict()
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, or a plain base optimizer's state; see `Wrapper.load_state_dict`."""
        self.require_no_open_step("load_state_dict()")
        super().load_state_dict(state_dict)
        if self.scaler is not None and "scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["scaler"])

    def require_no_open_step(self, call: str) -> None:
        """Refuse what cannot be done between `first_step` and `second_step`."""
        self.by_hand.require_closed(self, call)

    def no_micro_batches(self) -> UsageError:
        """The error of a method that remembers its gradients from step to step."""
        name = type(self).__name__
        return UsageError(f"{name} has no perturbation per micro-batch", "micro_batches", "accumulate instead")
