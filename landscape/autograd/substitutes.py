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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..base.process_state import Shared
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
        stack.enter_context(_PLAIN_ATTENTION)
        stack.enter_context(_NO_REENTRANT)
        stack.enter_context(_NO_SECOND_RUN)
        if "torch._dynamo" in sys.modules:  # nothing is compiled without it, and importing it takes a second
            stack.enter_context(_NO_COMPILER)
        stack.enter_context(_Substitute(used, only))
        yield


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Let reentrant activation checkpointing be a plain call: ``autograd.grad`` refuses to go through it.

    Calls of other threads go on as they are.
    """
    with _NO_REENTRANT:
        yield


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


def _replaced(module: Any, name: str, by: Any, before: Any) -> Callable[[], None]:
    """Replace a name of a module; what is returned gives it back, unless somebody else replaced it meanwhile."""
    setattr(module, name, by)

    def give_back() -> None:
        if getattr(module, name) is by:
            setattr(module, name, before)

    return give_back


def _no_reentrant() -> Callable[[], None]:
    module: Any = torch.utils.checkpoint
    before = module.CheckpointFunction

    class PlainCall:
        @staticmethod
        def apply(function: Callable[..., Any], preserve_random_state: bool, *arguments: Any) -> Any:
            if not _NO_REENTRANT.here:
                return before.apply(function, preserve_random_state, *arguments)
            return function(*arguments)

    return _replaced(module, "CheckpointFunction", PlainCall, before)


def _no_second_run() -> Callable[[], None]:
    """Let non-reentrant activation checkpointing be a plain call, too."""
    module: Any = torch.utils.checkpoint
    name = "_checkpoint_without_reentrant_generator"  # torch asks it what to do before and after the call
    before = getattr(module, name, None)
    if before is None:
        return lambda: None

    def around(
        function: Any, preserve: Any, context_fn: Callable[[], Any], *more: Any, **others: Any
    ) -> Iterator[None]:
        if not _NO_SECOND_RUN.here:
            yield from before(function, preserve, context_fn, *more, **others)
            return
        forward_context, _second = context_fn()  # the caller's own, which may change what the call computes
        with forward_context:
            yield

    return _replaced(module, name, around, before)


def _while_open(make: Callable[[], AbstractContextManager[Any]]) -> Shared:
    """What a context manager of torch sets for the whole process."""

    def change() -> Callable[[], object]:
        stack = ExitStack()
        stack.enter_context(make())
        return stack.close

    return Shared(change)


_NO_REENTRANT, _NO_SECOND_RUN = Shared(_no_reentrant), Shared(_no_second_run)
_PLAIN_ATTENTION = _while_open(lambda: sdpa_kernel(SDPBackend.MATH))
_NO_COMPILER = _while_open(lambda: torch.compiler.set_stance("force_eager"))
_NO_CUDNN = _while_open(lambda: torch.backends.cudnn.flags(enabled=False))


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
            with _NO_CUDNN:
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


def apply_embedding_max_norm(model: nn.Module) -> list[str]:
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
