"""Forward passes whose second derivatives exist and are right, although torch's own operations lack them.

`twice_differentiable` is wrapped around a forward pass of a `Problem`'s own copy. It answers calls of the operations
in `equal_forms`, and lets others go the way on which they can be differentiated twice:

- fused attention by the plain kernel, which only the forward pass chooses;
- recurrent layers on CUDA without cuDNN;
- ``view_as_complex`` with a step behind its derivative that moves vectors to an even place of memory;
- compiled functions and modules without their compiler;
- activation checkpointing not at all: its second run would be of other operations, and saves nothing in a product;
  what it means to save is saved by `recompute`, if need be.

What was replaced is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .convolution import CONVOLUTIONS, Convolution
from .equal_forms import FORMS

_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


@contextmanager
def twice_differentiable(used: set[str], only: Collection[str] | None = None) -> Iterator[None]:
    """Run forward passes inside with second derivatives that exist and are right.

    Args:
        used: Receives the names of the operations that were replaced.
        only: Names of operations to replace; None: all that have an equal form.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(plain_checkpoints())
        stack.enter_context(_no_second_run())
        if "torch._dynamo" in sys.modules:  # nothing is compiled without it, and importing it takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_Substitute(used, only))
        yield


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Let reentrant activation checkpointing be a plain call: ``autograd.grad`` refuses to go through it."""
    module = torch.utils.checkpoint
    reentrant = module.CheckpointFunction
    module.CheckpointFunction = _PlainCall  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        module.CheckpointFunction = reentrant  # type: ignore[misc]


@contextmanager
def _no_second_run() -> Iterator[None]:
    """Let non-reentrant activation checkpointing be a plain call, too."""
    module: Any = torch.utils.checkpoint
    name = "_checkpoint_without_reentrant_generator"  # torch asks it what to do before and after the call
    before = getattr(module, name, None)
    if before is None:
        yield
        return
    setattr(module, name, _around_plain_call)
    try:
        yield
    finally:
        setattr(module, name, before)


def _view_as_complex(input: Tensor) -> Tensor:
    """Torch's view, whose derivative can be differentiated again wherever the pairs of a vector begin in memory."""
    if not (torch.is_grad_enabled() and input.requires_grad):
        return torch.view_as_complex(input)
    own = input.view_as(input)  # a hook on a parameter would stay there
    own.register_hook(_Even.apply)
    return torch.view_as_complex(own)


class _Even(torch.autograd.Function):
    """The identity, behind which vectors begin at an even place: torch views them as pairs there."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor) -> Tensor:
        (vector,) = vectors
        even = vector.storage_offset() % 2 == 0 and vector.is_contiguous()
        return vector if even else vector.clone(memory_format=torch.contiguous_format)


def _around_plain_call(_: Any, __: Any, context_fn: Callable[[], Any], *___: Any, **____: Any) -> Iterator[None]:
    """What a call is in without its second run: the caller's own context, which may change what it computes."""
    forward_context, _second = context_fn()
    with forward_context:
        yield


class _PlainCall:
    @staticmethod
    def apply(function: Callable[..., Any], preserve_random_state: bool, *arguments: Any) -> Any:
        return function(*arguments)


class _Substitute(TorchFunctionMode):
    def __init__(self, used: set[str], only: Collection[str] | None) -> None:
        super().__init__()
        self.used, self.only = used, only
        self.last: Convolution | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            self.last = Convolution.call(func, args, kwargs)
            return func(*args, **kwargs) if self.last is None else self.last.output
        if func is torch.view_as_complex:
            return _view_as_complex(*args, **kwargs)
        if func in _RECURRENT:
            with torch.backends.cudnn.flags(enabled=False):
                return func(*args, **kwargs)
        form = FORMS.get(func)
        if form is None or (self.only is not None and form.name not in self.only):
            return func(*args, **kwargs)
        more: dict[str, Any] = {}
        if form.normalises and self.last is not None and args and self.last.made(args[0]):
            more["of"], self.last = self.last, None
        found = form(*args, **kwargs, **more)
        if found is NotImplemented:
            return func(*args, **kwargs)
        self.used.add(form.name)
        return found


def settle_embeddings(model: nn.Module) -> list[str]:
    """Renormalise all rows of embeddings with ``max_norm`` once, in place, and make their forward leave them alone.

    Otherwise every forward pass, also without gradients, changes the weights it is asked about. Rows that no
    example uses change too; no loss depends on them. Sparse gradients are made dense, and gradients that are
    scaled by how often a token occurs become those of the loss.

    Returns:
        The names of the modules that were renormalised.
    """
    settled = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        module.sparse = module.scale_grad_by_freq = False
        if module.max_norm is not None:
            with torch.no_grad():
                rows = torch.arange(module.num_embeddings, device=module.weight.device)
                torch.embedding_renorm_(module.weight.detach(), rows, module.max_norm, module.norm_type)
            module.max_norm = None
            settled.append(name)
    return settled
