"""Several processes as one: who writes, which examples are whose, and sums over all of them.

Under ``torchrun`` every process runs the same program on the same data. Inside `processes` each takes its stretch
of whatever is summed, and one all-reduce makes the sums whole, so that everything computed from them is the same
everywhere: Krylov bases, decisions, results. The first process writes. What shall not be summed over processes (the
rows of a surface, the blocks of a sharpness measure, which are shared out whole) is computed inside `alone`.

Outside `processes` there is one process, whatever the environment says, and nothing here communicates: a script of
one's own under ``DistributedDataParallel`` may analyse on one of its processes alone.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..base import errors
from ..base.errors import Interrupted, LandscapeError, ResourceError, UsageError
from ..base.files import jsonable
from .accelerators import accelerator, choose, collectives, device_count, shown_one

T = TypeVar("T")

_BUCKET_BYTES = 2**25  # of tensors that are sent in one go
_SECONDS = 1800.0  # that a process waits for the others, unless LANDSCAPE_PROCESS_TIMEOUT says otherwise
_SECONDS_FOR_LAST_WORDS = 3.0


class OtherProcessFailed(ResourceError):
    """A process of the job is gone, so that the sums cannot be made whole; its own error says why."""


@dataclass(frozen=True)
class _Job:
    """The processes that compute together, and which of them this is."""

    rank: int
    world: int
    group: Any


_job: ContextVar[_Job | None] = ContextVar("landscape_job", default=None)
_separate: ContextVar[bool] = ContextVar("landscape_separate", default=False)


def launched() -> bool:
    """Whether a launcher has started several processes and says how they find each other."""
    named = all(os.environ.get(k) for k in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return named and os.environ.get("WORLD_SIZE", "1") not in ("", "1")


@contextmanager
def processes() -> Iterator[None]:
    """Compute together inside the block with the other processes that ``torchrun`` started; alone, do nothing.

    All processes must run the block, on the same network and the same examples (all of them: no
    ``DistributedSampler``). Uses gloo between CPUs and NCCL between GPUs, ``cuda`` meaning the GPU of ``LOCAL_RANK``;
    between accelerators that torch has no such backend for, sums go over the host.

    Raises:
        ResourceError: If the others cannot be reached.
        OtherProcessFailed: If one of them ends.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> with landscape.processes():  # under torchrun the examples are shared out; alone nothing changes
        ...     found = landscape.hessian(problem, top=1)
    """
    running = dist.is_available() and dist.is_initialized()
    if _job.get() is not None or not (launched() or running):
        yield
        return
    if not dist.is_available():
        raise UsageError("this build of torch has no torch.distributed", _self(), "start one process")
    own = not running
    kind = accelerator()
    spoken = collectives(kind) if kind else None
    backend = f"cpu:gloo,{kind}:{spoken}" if spoken else "gloo"
    patience = datetime.timedelta(seconds=float(os.environ.get("LANDSCAPE_PROCESS_TIMEOUT") or _SECONDS))
    with talking():
        if own:
            dist.init_process_group(backend, timeout=patience)
        group = dist.group.WORLD if own else dist.new_group(backend=backend, timeout=patience)
    token = _job.set(_Job(dist.get_rank(), dist.get_world_size(), group))
    try:
        yield
        barrier()  # nobody leaves while another still talks to it
    finally:
        _job.reset(token)
        # After an error the group is left as it is: to take it down would wait for processes that may be gone.
        if sys.exc_info()[0] is None:
            dist.destroy_process_group(None if own else group)


@contextmanager
def no_sharding() -> Iterator[None]:
    """Let sums inside the block be those of this process, over all examples."""
    token = _separate.set(True)
    try:
        yield
    finally:
        _separate.reset(token)


@contextmanager
def sharding() -> Iterator[None]:
    """Within `alone`, share sums again."""
    token = _separate.set(False)
    try:
        yield
    finally:
        _separate.reset(token)


# -- who does what ---------------------------------------------------------------------------------------------------


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this process and number of processes that compute together."""
    job = _job.get()
    return (0, 1) if job is None else (job.rank, job.world)


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return rank_and_world_size()[0] == 0


def is_distributed() -> bool:
    """Whether sums are shared with other processes here."""
    return rank_and_world_size()[1] > 1 and not _separate.get()


def shard(n: int, unit: int = 1) -> slice:
    """This process's stretch of ``n`` things in order, in whole ``unit`` s; the first processes' are the longer ones.

    Everything where sums are not shared. Nothing is taken twice and nothing is left out, so shards may be uneven,
    and empty where there are fewer things than processes.
    """
    rank, world = rank_and_world_size() if is_distributed() else (0, 1)
    units = -(-n // unit)
    each, more = divmod(units, world)
    start = rank * each + min(rank, more)
    return slice(min(start * unit, n), min((start + each + (rank < more)) * unit, n))


def local_processes() -> int:
    """How many processes share the memory of this machine."""
    return 1 if _job.get() is None else max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def own_device(kind: str, named: int | None) -> int | None:
    """Which accelerator is this process's, where the user named the ``named``-th one or none; None: the current one.

    Backends like NCCL want one for each process. Where sums go over the host processes may share one.

    Raises:
        UsageError: If several processes of this machine would have to share one and cannot.
    """
    count, here = device_count(kind), local_processes()
    if here == 1:
        return named
    index = int(os.environ.get("LOCAL_RANK") or 0)
    if not collectives(kind):
        index = index % count if named is None else named
    elif named is not None:
        fix = f"use {errors.argument('device', kind)}: each process takes the device of its LOCAL_RANK"
        raise UsageError(f"{here} processes cannot share one device", f"`device='{kind}:{named}'`", fix)
    elif count == 1 and shown_one(kind):
        index = 0  # a launcher that shows each process its own
    if index >= count:
        fix = f"start {count} processes per machine, or use `device='cpu'`"
        raise UsageError(f"{here} processes and {count} {kind} device(s) on this machine", "`device=`", fix)
    choose(index)
    return index


# -- sums ------------------------------------------------------------------------------------------------------------


def all_reduce_sum_(tensors: Sequence[Tensor]) -> None:
    """Add the tensors of all processes to each other, in place; shapes and types are the same everywhere.

    Tensors of one type and device travel together, in buckets.
    """
    if not is_distributed():
        return
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > _BUCKET_BYTES
        if bucket and (full or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            _send(bucket)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _send(bucket)


def reduce_everywhere_(tensor: Tensor, operation: str = "SUM") -> None:
    """Reduce a contiguous tensor over all processes, in place, also where each sums over all examples by itself.

    For what is spread over processes whoever sums over examples.
    """
    if rank_and_world_size()[1] > 1:
        _all_reduce(tensor, operation)


def _send(bucket: Sequence[Tensor]) -> None:
    with torch.no_grad():
        if len(bucket) == 1 and bucket[0].is_contiguous():
            _all_reduce(bucket[0])
            return
        flat = torch.cat([t.reshape(-1) for t in bucket])
        _all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def all_reduce_parts(parts: Sequence[Tensor], of: int, device: torch.device) -> list[Tensor]:
    """Sums over processes of what each has summed over its stretch of ``of`` units; the arguments are left alone.

    A process whose stretch is empty passes no parts and learns their shapes from the first.
    """
    if not is_distributed():
        return list(parts)
    whole = [p.detach().clone(memory_format=torch.contiguous_format) for p in _filled(parts, of, device)]
    all_reduce_sum_(whole)
    return whole


def _filled(parts: Sequence[Tensor], of: int, device: torch.device) -> Sequence[Tensor]:
    """The parts, or zeros in their place where this process has none."""
    if of >= rank_and_world_size()[1]:
        return parts
    said: Any = broadcast([[list(p.shape), str(p.dtype).removeprefix("torch.")] for p in parts])
    return parts or [torch.zeros(shape, dtype=getattr(torch, str(dtype)), device=device) for shape, dtype in said]


def all_gather_rows(part: Tensor | None, of: int, device: torch.device, unit: int = 1) -> Tensor:
    """Rows for ``of`` things from each process's rows for its stretch of them, ``(of, ...)``, bit for bit."""
    if not is_distributed():
        assert part is not None
        return part
    (own,) = _filled([] if part is None else [part], -(-of // unit), device)
    # Zeros but for one's own rows: their sum over processes is exact, whatever the lengths of the stretches.
    kind = torch.uint8 if own.dtype == torch.bool else own.dtype
    whole = torch.zeros((of, *own.shape[1:]), dtype=kind, device=device)
    if part is not None:
        whole[shard(of, unit)] = part.to(kind)
    all_reduce_sum_([whole])
    return whole.to(own.dtype)


# -- words -----------------------------------------------------------------------------------------------------------


def broadcast(value: T) -> T:
    """What the first process passes here, as JSON; the others' arguments do not matter."""
    return value if rank_and_world_size()[1] == 1 else json.loads(_sent(json.dumps(jsonable(value)).encode(), 0))


def run_on_main(function: Callable[[], T]) -> T:
    """Let the first process decide: its answer (anything JSON can say), or its error, everywhere.

    What is read from a folder that the first process writes into is asked in this way.
    """
    if rank_and_world_size()[1] == 1:
        return function()
    answer: Any = None
    error: LandscapeError | None = None
    if is_main_process():
        try:
            answer = [function(), None]
        except LandscapeError as raised:
            error = raised
            answer = [None, [type(raised).__name__, raised.what, raised.where, raised.fix]]
    value, failure = broadcast(answer)
    if error is not None:
        raise error
    if failure is not None:
        name, *words = failure
        raise getattr(errors, str(name), LandscapeError)(*words)
    return value  # type: ignore[no-any-return]


def all_gather_bytes(own: bytes) -> list[bytes]:
    """The bytes of every process, in the order of their ranks."""
    rank, world = rank_and_world_size()
    return [own] if world == 1 else [_sent(own if rank == r else b"", r) for r in range(world)]


def any_process(flag: bool) -> bool:
    """Whether the flag is raised in any process; each must ask."""
    if rank_and_world_size()[1] == 1:
        return flag
    raised = torch.tensor([float(flag)])
    _all_reduce(raised)
    return bool(raised.item() > 0)


def all_reduce_min(value: int) -> int:
    """The smallest value of all processes."""
    if rank_and_world_size()[1] == 1:
        return value
    found = torch.tensor([value])
    _all_reduce(found, "MIN")
    return int(found.item())


def require_equal(what: str, value: Any, fix: str) -> None:
    """Refuse to sum over processes that do not hold the same; asked by all of them, where sums are shared.

    Raises:
        UsageError: In every process, if the value of one differs from the first one's.
    """
    if is_distributed():
        digest = hashlib.sha256(json.dumps(jsonable(value), sort_keys=True).encode()).hexdigest()
        if any_process(broadcast(digest) != digest):
            raise UsageError(
                f"the processes do not have the same {what}", f"{rank_and_world_size()[1]} processes", fix
            )


def barrier() -> None:
    """Wait for all processes, and for what the first has written."""
    any_process(False)


def _sent(content: bytes, source: int) -> bytes:
    job = _job.get()
    assert job is not None
    with talking():
        root = dist.get_global_rank(job.group, source)
        size = torch.tensor([len(content)])
        dist.broadcast(size, root, group=job.group)
        buffer = torch.zeros(int(size.item()), dtype=torch.uint8)
        if job.rank == source and content:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if len(buffer):
            dist.broadcast(buffer, root, group=job.group)
    return buffer.numpy().tobytes()


def _all_reduce(tensor: Tensor, operation: str = "SUM") -> None:
    job = _job.get()
    assert job is not None
    kind = tensor.device.type
    spoken = tensor if kind == "cpu" or collectives(kind) else tensor.cpu()  # else over the host
    with talking():
        dist.all_reduce(spoken, getattr(dist.ReduceOp, operation), group=job.group)
    if spoken is not tensor:
        tensor.copy_(spoken)


# -- failures --------------------------------------------------------------------------------------------------------


@contextmanager
def talking() -> Iterator[None]:
    """Turn the backends' errors, which are of many kinds, into one."""
    try:
        yield
    except Exception as error:  # gloo and NCCL raise what they like
        text = " ".join(str(error).split())[:200]
        fix = "look for the error of another process above; without one it was killed, or waited for too long"
        raise OtherProcessFailed(f"the processes lost each other: {text}", _self(), fix) from error


def _self() -> str:
    return f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}"


def last_words(line: str, error: BaseException, code: int) -> tuple[bool, int]:
    """Whether this process shall say the line that it ends with, and with which exit code it ends.

    Every error is said once, by the process that meets it first: an error that all processes meet by the first of
    them. A process that fails because another is gone, or that is stopped, says nothing if an error was said, and
    else only if no other of these has.
    """
    if not launched():
        return True, code
    try:
        wait = datetime.timedelta(seconds=_SECONDS_FOR_LAST_WORDS)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=wait
        )
        job = f"landscape/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if isinstance(error, (OtherProcessFailed, Interrupted, KeyboardInterrupt)):
            return _unless_said(store, job, code, wait=isinstance(error, OtherProcessFailed))
        said = hashlib.sha256(line.encode()).hexdigest()
        store.set(f"{job}/failure", str(code))
        return store.add(f"{job}/{said}", 1) == 1, code
    except Exception:  # nobody is there to ask: the launcher keeps no store, or is gone
        return True, code


def _unless_said(store: Any, job: str, code: int, *, wait: bool) -> tuple[bool, int]:
    """For what follows from something else: the death of another process, a signal to all of them."""
    key = f"{job}/failure"
    if not wait and not store.check([key]):
        store.set(key, str(code))
        return store.add(f"{job}/stopped", 1) == 1, code
    try:
        store.wait([key])
    except Exception:  # it was killed without a word
        store.set(key, str(code))
        return store.add(f"{job}/stopped", 1) == 1, code
    return False, int(store.get(key))
