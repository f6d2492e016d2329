"""Passes of a network over fixed examples: in micro-batches, by several processes, within the memory there is."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..autograd.substitutes import plain_checkpoints
from ..base.errors import ResourceError, UsageError, is_out_of_memory
from ..base.progress import Inside
from ..data.examples import Batch, Examples
from ..runtime.caller_context import computing, in_pieces
from ..runtime.distributed import all_gather_rows, all_reduce_min, all_reduce_parts, is_distributed, shard
from ..runtime.precision import full_precision
from ..sharding.assembly import pieces_of
from ..sharding.vectors import Sharded
from .forward import forward

log = logging.getLogger(__name__)

T = TypeVar("T")
_CACHE_BYTES = 2 * 2**30  # of batches kept on the device


class Passes:
    """A network, examples, and how the one goes over the other. Nothing here knows of a loss.

    Sums are over the examples of all processes. When memory runs out the micro-batches are halved, and the pass is
    made again.

    Args:
        model: The network, on ``device`` and in ``dtype``.
        examples: What it sees.
        device: Where.
        dtype: Floating type of inputs.
        batch_size: Examples in a micro-batch.
        mode: ``eval`` or ``train``.
        fixed_batches: The numbers depend on the micro-batches, which are never divided then.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        mode: str,
        fixed_batches: bool,
    ) -> None:
        self.model, self.examples, self.device, self.dtype = model, examples, device, dtype
        self.batch_size, self.mode, self.fixed_batches = batch_size, mode, fixed_batches
        self.in_pieces = bool(pieces_of(model))
        self._batches: tuple[slice, list[Batch]] | None = None  # of which stretch, and these

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return len(self.examples)

    @property
    def stretch(self) -> slice:
        """The examples that this process sums over; where batches are fixed it takes whole ones."""
        return shard(self.n_examples, self._unit)

    @property
    def _unit(self) -> int:
        return self.batch_size if self.fixed_batches else 1

    @property
    def _within_domains(self) -> bool:
        """Whether a micro-batch ends where a domain does."""
        return False

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the examples from each process's sums over its `stretch`; no parts where that is empty.

        What is spread over processes is such a sum already.
        """
        if self.in_pieces:
            plain = [p for p in parts if not isinstance(p, Sharded)]
            found = iter(all_reduce_parts(plain, -(-self.n_examples // self._unit), self.device))
            return [p if isinstance(p, Sharded) else next(found) for p in parts]
        return all_reduce_parts(parts, -(-self.n_examples // self._unit), self.device)

    def batches(self) -> Iterator[Batch]:
        """All examples in order, in micro-batches on the device; each of several processes sees all of them."""
        yield from self._moved(slice(0, self.n_examples))

    def head(self, count: int) -> Batch:
        """The first ``count`` examples (or as many as there are) as one batch on the device, in every process."""
        return self.examples.batch(np.arange(min(count, self.n_examples))).to(self.device, self.dtype)

    @contextmanager
    def forward_only(self) -> Iterator[None]:
        """Set up once what each of many forward passes needs: no graph, full precision, plain checkpoints."""
        refuse_autocast(self.device)
        with computing(), torch.no_grad(), full_precision(self.device), plain_checkpoints():
            yield

    def output(self, batch: Batch) -> Any:
        """What the network returns for one batch at the current weights, with its graph."""
        try:
            with plain_checkpoints():
                return forward(self.model, batch.inputs)
        except ValueError as error:
            if self.mode == "train" and "more than 1 value per channel" in str(error):
                raise UsageError(
                    f"BatchNorm has no statistics of {len(batch)} example(s)",
                    "`mode='train'`",
                    "choose a `batch_size=` (or `m=`) that leaves no block of one, or use `mode='eval'`",
                ) from error
            raise

    def per_example(self, function: Callable[[Batch], Tensor]) -> Tensor:
        """What ``function`` gives for the examples of each micro-batch, laid end to end: ``(n_examples, ...)``."""
        own = self._own_sum(lambda batch: [[function(batch).detach()]])
        part = torch.cat(own[0]) if own else None
        return all_gather_rows(part, self.n_examples, self.device, self._unit)

    def _sum(self, contribution: Callable[[Batch], Sequence[Tensor]]) -> list[Tensor]:
        """What ``contribution`` gives, summed over the micro-batches of all processes."""
        return self.summed(self._own_sum(contribution))

    def _own_sum(self, contribution: Callable[[Batch], Sequence[T]]) -> list[T]:
        """Add up (``+``) what ``contribution`` gives over this process's micro-batches; halve them without memory.

        An empty list where this process has no example.
        """
        refuse_autocast(self.device)

        def whole() -> list[T]:
            total: list[T] = []
            done, inside = 0, Inside("examples of a pass", self.stretch.stop - self.stretch.start)
            for batch in self.micro_batches():
                parts = contribution(batch)
                if batch.idle:  # of what it gives only what the others gave counts
                    parts = [p if isinstance(p, Sharded) else _nothing(p) for p in parts]
                total = list(parts) if not total else [operator.add(t, p) for t, p in zip(total, parts, strict=True)]
                done += 0 if batch.idle else len(batch)
                inside.at(done)
            return total

        return self.retry_on_oom(whole)

    def retry_on_oom(self, work: Callable[[], T]) -> T:
        """Do ``work``; when memory runs out, do it again with smaller micro-batches."""
        with computing():
            while True:
                try:
                    with full_precision(self.device):
                        return work()
                except (RuntimeError, MemoryError) as error:
                    self.shrink_after(error)

    def shrink_after(self, error: Exception) -> None:
        """Get by with less if ``error`` means that memory ran out; raise it otherwise.

        First the micro-batches are halved; where one example is too much, repeated blocks compute their
        activations again instead of keeping them. Neither changes the result.
        """
        if not is_out_of_memory(error):
            raise error
        if self.in_pieces:
            what = f"out of memory with micro-batches of {self.batch_size}"
            fix = "processes that hold pieces of one model keep step: give all of them a smaller `batch_size=`"
            raise ResourceError(what, str(self.device), fix) from error
        if self.fixed_batches:
            raise ResourceError(
                f"out of memory with micro-batches of {self.batch_size}",
                "`mode='train'`" if self.mode == "train" else "`loss_over='batch'`",
                "the loss depends on them, so they are not halved unasked: give a smaller `batch_size=`",
            ) from error
        if self.batch_size == 1:
            from ..autograd.recompute import recompute_blocks  # hardly ever needed

            if blocks := recompute_blocks(self.model):
                log.warning("out of memory: activations of %d blocks are computed again, same result", blocks)
                return
            what, fix = out_of_memory_at_last(self)
            raise ResourceError(what, str(self.device), fix) from error
        self.batch_size = max(1, min(self.batch_size, self.n_examples) // 2)
        self._batches = None
        log.warning("out of memory: micro-batches of %d from here on, same result", self.batch_size)

    def micro_batches(self) -> Iterator[Batch]:
        """This process's examples in order, on the device, `batch_size` at a time; kept there if they fit.

        Processes that hold pieces of one network make as many passes as each other: idle ones where one has less.
        """
        yield from self._moved(self.stretch)
        if self.in_pieces and is_distributed():
            own = -(-(self.stretch.stop - self.stretch.start) // self.batch_size)
            for _ in range(-all_reduce_min(-own) - own):
                first = self.head(1 if self.mode == "eval" else 2)
                yield replace(first, idle=True)

    def _moved(self, part: slice) -> Iterator[Batch]:
        if self._batches is not None and self._batches[0] == part:
            yield from self._batches[1]
            return
        kept: list[Batch] = []
        size = 0
        for batch in self.examples.batches(self.batch_size, part, within_domains=self._within_domains):
            moved = batch.to(self.device, self.dtype)
            size += moved.nbytes
            kept.append(moved)
            yield moved
            if size > _CACHE_BYTES:
                kept = []
        if size <= _CACHE_BYTES:
            self._batches = part, kept


def _nothing(part: Any) -> Any:
    """What adds nothing to a part."""
    return [] if isinstance(part, list) else torch.zeros_like(part)


def out_of_memory_at_last(passes: Passes) -> tuple[str, str]:
    """What to say, and what to do, where nothing is left to be divided."""
    if passes.examples.ready_made:
        what = "out of memory with one ready-made batch, which is never divided"
        return what, "make smaller batches, or use a smaller model or a larger device"
    fix = "use a smaller model or a larger device" + in_pieces(passes.device.type)
    return "out of memory with one example at a time", fix


def refuse_autocast(device: torch.device) -> None:
    """Refuse to compute inside ``torch.autocast``, whose half-precision products would pass for exact ones.

    Raises:
        UsageError: If autocast is on for this device.
    """
    if torch.is_autocast_enabled(device.type):
        raise UsageError(
            "analyses compute in float32 or float64, also of half-precision weights",
            "torch.autocast",
            "call them outside the autocast block",
        )
