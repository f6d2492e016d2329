"""The engine under every method: an optimizer around an optimizer, with a closure that is called once per pass.

``step(closure)`` calls the closure at the weights of each pass. The closure may follow torch's convention (zero
the gradients, compute the loss, call ``backward``, return the loss), or return a `BatchLoss` or `Pieces` *without*
calling ``backward``; then the optimizer differentiates what its method needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ..ascent import global_norm
from ..distributed import add_up
from ..errors import NumericalError, UsageError
from .closures import BatchLoss, Closure, Pieces, Work
from .passes import frozen_running_statistics

__all__ = ["ERM", "BatchLoss", "Closure", "Common", "Moved", "Pieces"]


class Common(TypedDict, total=False):
    """Keyword arguments that every method understands.

    Attributes:
        clip: Largest L2 norm of the update gradient; it is scaled down to it before the base step.
        scaler: A ``torch.amp.GradScaler``. Give `BatchLoss` (scaled here) or scale in your own ``backward``. If a
            pass overflows, the weights stay, the step is skipped and the scale lowered.
        replay: Let all passes of a step draw the same random numbers (dropout masks); default True.
        bn_second_pass: ``"freeze"`` (default): running statistics move in the first pass only. ``"update"``: in
            every pass, as in the released code of ASAM and DISAM.
        weight_decay_in_perturbation: Differentiate wd/2·‖w‖² in every pass, at its own weights, instead of in the
            base step (the official SAM code in JAX).
        micro_batches: Give each of the closure's `Pieces` its own perturbation (m-SAM); default False: the
            pieces are one batch, its gradient accumulated.
        ddp: The ``DistributedDataParallel`` module, if the weights live in one.
        perturbation: With ``ddp``: ``"synchronised"`` (default) averages the gradient of every pass over the
            replicas; ``"per-replica"`` lets each replica climb by its own gradient and averages the update
            gradient, one synchronisation per step (the official meaning of data-parallel SAM).
    """

    clip: float | None
    scaler: Any
    replay: bool
    bn_second_pass: Literal["freeze", "update"]
    weight_decay_in_perturbation: bool
    micro_batches: bool
    ddp: Any
    perturbation: Literal["synchronised", "per-replica"]


@dataclass
class Moved:
    """A parameter that takes part in this step, with its group and (where the base knows it) its name."""

    parameter: nn.Parameter
    group: dict[str, Any]
    name: str | None

    @property
    def gradient(self) -> Tensor:
        """Its gradient, as the last pass left it."""
        assert self.parameter.grad is not None
        return self.parameter.grad


class ERM(torch.optim.Optimizer):
    """Empirical risk minimization: one pass, then the base optimizer's step; the base of all methods.

    Args:
        base: The optimizer that makes the step. Parameter groups are shared with it, so a learning-rate
            scheduler may be attached to either.
        common: What every method understands; see `Common`.
        **settings: Method parameters; each parameter group may override them.
    """

    def __init__(self, base: torch.optim.Optimizer, common: Common | None = None, **settings: float) -> None:
        common = common or {}
        unknown = set(common) - set(Common.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {min(unknown)!r}")
        self.base = base
        self.clip: float | None = common.get("clip")
        self.scaler: Any = common.get("scaler")
        self.replay = common.get("replay", True)
        self.freeze_statistics = common.get("bn_second_pass", "freeze") == "freeze"
        self.micro_batches = common.get("micro_batches", False)
        self.ddp: Any = common.get("ddp")
        self.per_replica = common.get("perturbation", "synchronised") == "per-replica"
        self.gradient_evaluations = 0
        """Gradients of the batch in the last step."""
        self.step_was_skipped = False
        """Whether the last step was skipped because of an overflow (with a scaler)."""
        super().__init__(base.param_groups, settings)
        # Shared dictionaries: what a scheduler writes into one is what the other reads.
        self.param_groups = base.param_groups
        if common.get("weight_decay_in_perturbation"):
            for group in self.param_groups:
                group["perturbed_weight_decay"] = group["weight_decay"]
                group["weight_decay"] = 0.0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer, with its defaults and the method's."""
        if self.param_groups is not self.base.param_groups:  # the constructor is still collecting
            super().add_param_group(param_group)
            return
        self.base.add_param_group(param_group)
        for name, value in self.defaults.items():
            self.param_groups[-1].setdefault(name, value)

    # -- one step ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Make one step and return the loss at the weights before it, shape ``()``.

        Raises:
            UsageError: If there is no closure, or it returns no loss.
            NumericalError: If a gradient is not finite (without a scaler); no weight has changed then.
        """
        if closure is None:
            raise UsageError("step() needs a closure", type(self).__name__, "pass a function that computes the loss")
        self._gradient_scale = float(self.scaler.get_scale()) if self.scaler is not None else 1.0
        self._checked = torch.zeros(())
        self.gradient_evaluations = 0
        with self._locally():
            loss = self._whole_update(closure)
        if self.ddp is not None and self.per_replica:
            self._average_over_replicas()
        norm = self._seen(self._norm())
        if not self._proceed():
            return loss
        if self.clip is not None:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            for gradient in self.update_parts():
                gradient.mul_(factor.to(gradient.device, gradient.dtype))
        self.base_step()
        return loss

    def update_gradient(self, work: Work) -> Tensor:
        """Leave the gradient that the base optimizer shall receive in ``.grad``; return the loss, shape ``()``."""
        return self.differentiate(work)

    def update_parts(self) -> list[Tensor]:
        """The tensors of this step's update, which clipping scales and replicas average."""
        return [m.gradient for m in self.moved()]

    def base_step(self) -> None:
        """Move the weights with the update gradient, and keep what the method remembers."""
        self.base.step()

    def domain_weights(self, losses: Tensor, counts: Tensor | None) -> Tensor | None:
        """Weights c_i of the domain losses in the first pass, which differentiates L + sum_i c_i L_i."""
        raise NotImplementedError

    needs_domains = False  # whether the first pass uses `domain_weights`

    # -- what methods are made of --------------------------------------------------------------------------------

    def differentiate(self, work: Work, *, first: bool = True, onto: bool = False) -> Tensor:
        """One pass: the gradient at the present weights goes to ``.grad``, unscaled; returns the loss, ``()``.

        Args:
            work: The batch.
            first: Whether this is the first pass of the step, with its domain weights and statistics; the
                others see the same random numbers.
            onto: Add the gradient to what ``.grad`` holds.
        """
        if not first and self.replay:
            work.random.restore()
        frozen = contextlib.nullcontext() if first or not self.freeze_statistics else frozen_running_statistics()
        earlier = {m.parameter: m.gradient for m in self.moved()} if onto and work.shared else {}
        if work.shared or not (onto or work.fills_gradients):
            self.zero_grad(set_to_none=True)
        total: Tensor | None = None
        with torch.enable_grad(), frozen:
            for loss, objective in work.next(self.domain_weights if first and self.needs_domains else None):
                if objective is not None:
                    (objective if self.scaler is None else self.scaler.scale(objective)).backward()
                total = loss if total is None else total + loss
        assert total is not None
        if work.shared:
            total = self.sum_over_processes(total)
            for parameter, gradient in earlier.items():
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        self.gradient_evaluations += 1
        for m in self.moved():
            if self.scaler is not None:
                m.gradient.mul_(1 / self._gradient_scale)
            if m.group.get("perturbed_weight_decay"):
                m.gradient.add_(m.parameter, alpha=m.group["perturbed_weight_decay"])
        return total

    def moved(self) -> list[Moved]:
        """The parameters that have a gradient, in order."""
        found = []
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            found += [Moved(p, group, n) for p, n in zip(group["params"], names, strict=True) if p.grad is not None]
        return found

    @contextlib.contextmanager
    def away(self, moved: list[Moved]) -> Iterator[list[Tensor]]:
        """Move the weights in the block; they return into the same storage, bit for bit, whatever happens.

        Yields:
            The weights before it, one per parameter.
        """
        home = [m.parameter.clone() for m in moved]
        try:
            yield home
        finally:
            for m, w in zip(moved, home, strict=True):
                m.parameter.copy_(w)

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """L2 norm over all parameters of all groups, shape ``()``; remembered for the check before the step."""
        return self._seen(global_norm(gradients) if gradients else torch.zeros(()))

    # -- inside --------------------------------------------------------------------------------------------------

    def _whole_update(self, closure: Closure) -> Tensor:
        with torch.enable_grad():
            work = Work(closure)
        if work.pieces is None or not self.micro_batches:
            return self.update_gradient(work)
        loss, sums = torch.tensor(0.0), dict[nn.Parameter, Tensor]()
        for call, share in zip(work.pieces, work.pieces.shares, strict=True):
            evaluations, self.gradient_evaluations = self.gradient_evaluations, 0
            with torch.enable_grad():
                piece = Work(call)
            loss = loss + share * self.update_gradient(piece)
            self.gradient_evaluations = max(evaluations, self.gradient_evaluations)
            for m in self.moved():
                if m.parameter in sums:
                    sums[m.parameter].add_(m.gradient, alpha=share)
                else:
                    sums[m.parameter] = m.gradient.mul_(share)
            self.zero_grad(set_to_none=True)
        for parameter, gradient in sums.items():
            parameter.grad = gradient
        return self.sum_over_processes(loss) if work.shared else loss

    def sum_over_processes(self, loss: Tensor) -> Tensor:
        """Add up what the processes have left in ``.grad``, and their shares of the loss, which is returned.

        A parameter that no process has reached stays without a gradient, as it would with one process.
        """
        parameters = self.parameters()
        reached = torch.tensor([float(p.grad is not None) for p in parameters])  # on the CPU: no GPU is waited for
        add_up([reached])
        loss = loss.detach().clone()
        sums = [loss]
        for parameter, anywhere in zip(parameters, reached.tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                sums.append(parameter.grad)
        add_up(sums)
        return loss

    def _norm(self) -> Tensor:
        gradients = [m.gradient for m in self.moved()]
        return global_norm(gradients) if gradients else torch.zeros(())

    def _seen(self, norm: Tensor) -> Tensor:
        # One check per step instead of one per pass: on a GPU each would wait for the device.
        self._checked = self._checked.to(norm.device) + norm * 0
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
        state = {"base": self.base.state_dict(), "method": self.method_state()}
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups
        self.load_method_state(state_dict["method"])
        if self.scaler is not None and "scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["scaler"])

    def method_state(self) -> dict[str, Any]:
        """State of the method that outlives a step; most methods have none."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restore what `method_state` gave."""

    def no_micro_batches(self) -> UsageError:
        """The error of a method that remembers its gradients from step to step."""
        name = type(self).__name__
        return UsageError(f"{name} has no perturbation per micro-batch", "micro_batches", "accumulate instead")

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of all groups, in order."""
        return [p for group in self.param_groups for p in group["params"]]
