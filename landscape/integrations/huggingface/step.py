"""All passes of a step in the Trainer's loop, and in one's own loop with Accelerate."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...base.errors import UsageError
from ...optim.core.closures import BatchLoss
from ...optim.core.engine import ERM
from ...optim.core.replay import Replay

_SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


class SharpnessAware:
    """Mix-in for ``transformers.Trainer``, which then trains with any optimizer of `landscape.optim`.

    The Trainer's own pass over the micro-batches of a step (``gradient_accumulation_steps``) is the first pass; then
    each ``training_step`` is run again, with its inputs, its random numbers and its ``num_items_in_batch``, at the
    weights of every other pass. After that the Trainer unscales, clips (``max_grad_norm``) and steps once, with the
    update gradient. Losses that it logs are those of the first pass.

    A method of domains needs a ``compute_loss`` that returns
    ``optimizer.objective(BatchLoss(mean, domains, counts))``, with the optimizer that was given to the Trainer and
    means over the micro-batch (the Trainer divides by their number).

    Raises:
        UsageError: In training, if DeepSpeed, FSDP or XLA make the step.

    Example:
        >>> import torch
        >>> from transformers import Trainer, TrainingArguments
        >>> from landscape.integrations.huggingface import SharpnessAware
        >>> from landscape.optim import SAM
        >>> class FlatTrainer(SharpnessAware, Trainer):
        ...     pass
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return {"loss": super().forward(x).square().mean()}
        >>> model = Network(2, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> data = [{"x": torch.randn(2)} for _ in range(8)]
        >>> arguments = TrainingArguments("out", gradient_accumulation_steps=2, max_steps=3, report_to=[])
        >>> FlatTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train().global_step
        {...}
        3
    """

    accelerator: Any
    optimizer: Any
    _replay: Replay | None = None

    def training_step(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
        """The Trainer's, and after the last micro-batch of a step all other passes."""
        theirs = super().training_step  # type: ignore[misc]
        optimizer = _unwrapped(self.optimizer)
        if not isinstance(optimizer, ERM):
            return theirs(model, inputs, *others, **named)
        if self._replay is None or self._replay.optimizer is not optimizer:
            self._replay = _replay(self.accelerator, optimizer)
        again = functools.partial(theirs, model, inputs, *others, **named)
        return self._replay.run(again, last=self.accelerator.sync_gradients)


class Backward:
    """``accelerator.backward`` for a loop with Accelerate and any optimizer of `landscape.optim`.

        backward = Backward(accelerator, optimizer)
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = backward(loss_of, inputs, targets)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    Where ``accelerator.backward(loss_of(inputs, targets))`` stood, the function and its arguments are handed over, so
    that the micro-batches of a step can be gone through again. Everything else of the loop stays.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        optimizer: The optimizer, before or after ``accelerator.prepare``.

    Raises:
        UsageError: If DeepSpeed, FSDP or XLA make the step.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from landscape.integrations.huggingface import Backward
        >>> from landscape.optim import SAM
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> backward = Backward(Accelerator(), optimizer)
        >>> def loss_of(x):
        ...     return model(x).square().mean()
        >>> for x in torch.randn(3, 4, 2):
        ...     loss = backward(loss_of, x)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
    """

    def __init__(self, accelerator: Any, optimizer: Any) -> None:
        self._accelerator, self._optimizer = accelerator, _unwrapped(optimizer)
        self._replay = _replay(accelerator, self._optimizer)
        self._read: list[tuple[Callable[..., Any], dict[str, Any]]] = []
        self._given: list[tuple[Tensor, int]] = []  # of the micro-batches of a step, with their versions

    def __call__(self, loss_of: Callable[..., Tensor | BatchLoss], *arguments: Any, **named: Any) -> Tensor:
        """Compute the loss and differentiate it; after the last micro-batch, make the step ready.

        Args:
            loss_of: Gives the mean loss of a micro-batch, shape ``()``, or its `BatchLoss`.
            *arguments: For it.
            **named: For it.

        Returns:
            The loss at the weights of the step, shape ``()``, without graph.

        Raises:
            UsageError: If ``loss_of`` reads a variable that has another value by the end of the step, or a tensor
                that it was given was written to: going through this micro-batch again would take another for it.
        """
        last = self._accelerator.sync_gradients
        (read, self._read), (given, self._given) = (self._read, []), (self._given, [])
        if last:
            for function, then in read:
                _require_unchanged(function, then)
            if any(tensor._version != version for tensor, version in given):
                fix = "give each micro-batch tensors of its own, as clone() makes them"
                raise UsageError("a tensor of an earlier micro-batch was written to since", "Backward", fix)
        made = self._replay.run(functools.partial(self._pass, loss_of, arguments, named), last=last)
        if not last:
            self._read = [*read, (loss_of, _outside(loss_of))]
            tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
            self._given = [*given, *((t, t._version) for t in tensors)]
        return made

    def _pass(self, loss_of: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        made = loss_of(*arguments, **named)
        loss: Tensor = self._optimizer.objective(made) if isinstance(made, BatchLoss) else made
        self._accelerator.backward(loss)
        return loss.detach()


def _outside(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function reads besides its arguments: variables around it, by name."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isfunction(function):
        return {}
    read = inspect.getclosurevars(function)
    return {**read.globals, **read.nonlocals}


def _require_unchanged(function: Callable[..., Any], then: dict[str, Any]) -> None:
    now = _outside(function)
    changed = [name for name, value in then.items() if now.get(name, now) is not value]
    if changed:
        raise UsageError(
            f"the loss reads {changed[0]!r}, which has changed since its micro-batch",
            "Backward",
            f"pass it as an argument, backward(loss_of, {changed[0]})",
        )


def _unwrapped(optimizer: Any) -> Any:
    while not isinstance(optimizer, ERM) and hasattr(optimizer, "optimizer"):  # Accelerate wraps it
        optimizer = optimizer.optimizer
    return optimizer


def _replay(accelerator: Any, optimizer: Any) -> Replay:
    kind = accelerator.distributed_type.name
    if kind in _SHARDED:
        raise UsageError(f"{kind} makes the step itself", type(optimizer).__name__, "use DDP or one device")
    if not isinstance(optimizer, ERM):
        raise UsageError(f"{type(optimizer).__name__} makes one pass", "Backward", "call accelerator.backward(loss)")

    def scale() -> float:
        return 1.0 if accelerator.scaler is None else float(accelerator.scaler.get_scale())

    return Replay(optimizer, scale)
