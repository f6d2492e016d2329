"""Who does the jobs: this process, local workers, or any cluster of dask.distributed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..base.allocator import keep_freed_memory
from ..base.errors import Interrupted, UsageError
from ..base.plugins import library
from ..base.progress import report
from ..training.signals import StopFlag, stop_on_signals
from .folder import Record
from .job import Job, give_up, work

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


def do(jobs: Sequence[Job], *, workers: int | None = None, scheduler: str | None = None) -> None:
    """Do all jobs; what fails is in its record.

    Args:
        jobs: What is to do, in order.
        workers: So many local processes, each a job at a time, with the threads divided among them.
        scheduler: Address of a dask scheduler, ``tcp://HOST:PORT``; its workers see the same file system.

    Raises:
        Interrupted: On SIGINT, SIGTERM, SIGUSR1 or SIGHUP.
        UsageError: If dask is missing, or the scheduler does not answer.
        ResourceError: If the disk is full.
    """
    with stop_on_signals() as stop:
        if not jobs:
            return
        if workers is None and scheduler is None:
            _here(jobs, stop)
            return
        gpu = _asks_for_gpu(jobs, here=scheduler is None)
        with _client(workers, scheduler, gpu=gpu) as client, client.as_current():
            _there(jobs, client, stop, gpu=gpu)


def threads_per_worker(workers: int) -> int:
    """Threads of each of so many workers on this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        cores = os.cpu_count() or 1
    return max(1, cores // workers)


def _here(jobs: Sequence[Job], stop: StopFlag) -> None:
    for i, job in enumerate(jobs):
        report("models", i, len(jobs), job.cell.name)
        work(job, stop)
        if stop:
            raise _interrupted(stop, job)
    report("models", len(jobs), len(jobs))


def _there(jobs: Sequence[Job], client: Any, stop: StopFlag, *, gpu: bool) -> None:
    from distributed import wait
    from distributed.client import FIRST_COMPLETED
    from distributed.scheduler import KilledWorker

    resources = {"GPU": 1} if gpu else None
    # Priorities keep the order of the jobs: whole repetitions come first, so that a study can be looked at early.
    running = {
        client.submit(_in_worker, job, pure=False, resources=resources, priority=-i): job
        for i, job in enumerate(jobs)
    }
    finished = 0
    while running:
        report("models", finished, len(jobs))
        try:
            ended = wait(list(running), timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED).done
        except TimeoutError:
            ended = set()
        if stop:
            client.cancel(list(running))
            raise _interrupted(stop, jobs[0])
        for future in ended:
            job = running.pop(future)
            try:
                future.result()
            except KilledWorker:
                reason = "its workers died again and again, which is what running out of memory looks like"
                log.warning("%s is given up: %s", job.cell.name, reason)
                give_up(job, reason)
            finished += 1
    report("models", len(jobs), len(jobs))


def _in_worker(job: Job) -> Record:
    """The job, in a worker.

    There xarray would ask the scheduler for a lock before it writes a file, over a connection that is gone when the
    study is stopped. The files of a job are its own, and are locked on the disk. And dask has a worker give every
    freed byte back at once, which costs time (`keep_freed_memory`).
    """
    import dask

    keep_freed_memory()
    with dask.config.set(scheduler="synchronous"):
        return work(job)


def _interrupted(stop: StopFlag, job: Job) -> Interrupted:
    return Interrupted(f"stopped by {stop.signal}", job.study, "run the same command again")


def _asks_for_gpu(jobs: Sequence[Job], *, here: bool) -> bool:
    """Whether a job needs a worker that offers a GPU: it names one, or takes what there is and there is one here."""
    from ..runtime.accelerators import accelerator

    devices = {job.cell.spec.device for job in jobs}
    return any(d.startswith("cuda") for d in devices) or (here and "auto" in devices and accelerator() == "cuda")


@contextmanager
def _client(workers: int | None, scheduler: str | None, *, gpu: bool) -> Iterator[Any]:
    library("distributed", "cluster")
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a lost worker is no news: its job runs again
    quiet = {"distributed.worker.daemon": False, "distributed.admin.log-format": "%(message)s"}
    with dask.config.set(quiet):
        if scheduler is None:
            assert workers is not None
            with _local_cluster(workers, gpu=gpu) as cluster, Client(cluster, set_as_default=False) as client:
                yield client
            return
        try:
            client = Client(scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the scheduler does not answer: {error}", f"`scheduler={scheduler!r}`", "check address and port"
            ) from None
        with client:
            yield client


def _local_cluster(workers: int, *, gpu: bool) -> Any:
    """Worker processes on this machine alone; with GPUs, each worker is given one."""
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    threads = threads_per_worker(workers)
    places = _gpus() if gpu else []
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    specs = {}
    for i in range(workers):
        own = {**environment, **({"CUDA_VISIBLE_DEVICES": places[i % len(places)]} if places else {})}
        options = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "env": own}
        if gpu:
            options["resources"] = {"GPU": 1}
        specs[i] = {"cls": Nanny, "options": {**options, "silence_logs": logging.CRITICAL}}
    server = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    return SpecCluster(workers=specs, scheduler=server, asynchronous=False, silence_logs=logging.CRITICAL)


def _gpus() -> list[str]:
    """The GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    from ..runtime.accelerators import device_count

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(device_count("cuda"))]
