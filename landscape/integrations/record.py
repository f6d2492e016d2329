"""`record`: a run folder of ours from any training loop, with probes, that leaves the training as it is.

The loop says when a step is made; the recorder writes the log and checkpoints, takes probes on a copy of the network,
and keeps what the loop needs to go on after a kill. Nothing that the loop computes depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .recorder import Recorder


def record(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Path | str,
    *,
    batch: Any = None,
    loss: Any = None,
    every: str | int | None = None,
    probe: Sequence[str] | str = (),
    steps_per_epoch: int | None = None,
    restore: Sequence[Any] = (),
    start: int | None = None,
    model_name: str | None = None,
    model_arg: Sequence[str] = (),
    data: str | None = None,
    data_arg: Sequence[str] = (),
    seed: int | None = None,
    log: Callable[[dict[str, Any]], object] | None = None,
    force: bool = False,
) -> Recorder:
    """Record a training loop into a run folder that every command takes like one of ours.

    Use it in a ``with`` block, go through ``until(epochs=N)`` or ``until(steps=N)`` of it, and call ``step`` after
    each step of the optimizer. A checkpoint is written before the first step, ``every`` so often, and after the last;
    probes are taken on a copy of the network. The loop computes the same bits as without it.

    A loop that was killed is started again by the same call: network, optimizer, what ``restore`` lists and the
    global random states are brought to the last saved state (of the last checkpoint, or some 20 seconds ago), which
    is always that of the beginning of a turn of ``until``. What the log had beyond that is cut off.

    A loop of one's own, ``range(recorder.epochs, N)``, does not tell where its turns begin: the step of a schedule
    and the update of a scaler may come before ``recorder.step()`` or after it, and are in the state either way, but
    random numbers that are drawn between the two, as by a validation, are not.

    Args:
        model: The network, also inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``.
        optimizer: Ours or torch's.
        run: The folder; created if missing.
        batch: What probes look at: ``(inputs, targets)``, ``(inputs, targets, domains)``, a mapping from domains to
            pairs, or a mapping with ``labels``; None: the first one that ``step`` is given.
        loss: Name or callable ``(output, target)``, for probes and for the record.
        every: Checkpoints: ``100``, ``"100steps"`` or ``"2epochs"``.
        probe: Names as of ``landscape train --probe``: ``"eigenvalues@every=100"``. A row has the values at the
            weights before its step.
        steps_per_epoch: Steps of the optimizer in an epoch.
        restore: What else the loop goes on with: schedulers, a ``GradScaler`` and other objects with a
            ``state_dict``, and each ``torch.Generator`` of its own, as that of a ``DataLoader``.
        start: The loop has restored everything itself and stands after this many steps; nothing is restored.
        model_name: Where commands find the network: a registered name, ``file.py:callable``, ``pkg.module:callable``.
        model_arg: ``k=v`` arguments of it.
        data: Where commands find the data, likewise.
        data_arg: ``k=v`` arguments of it.
        seed: What the loop was seeded with; None: what ``torch.manual_seed`` was given last.
        log: Called with every row of ``metrics.jsonl``.
        force: Start anew where a run exists.

    Raises:
        UsageError: If the folder holds something else or is in use, or probes have no loss.

    Example:
        >>> import tempfile, torch, landscape
        >>> model, (x, y) = torch.nn.Linear(4, 3), (torch.randn(20, 4), torch.arange(20) % 3)
        >>> optimizer, loss_of = torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.functional.cross_entropy
        >>> options = {"batch": (x, y), "loss": loss_of, "every": 5, "probe": "surrogate-gap@every=5"}
        >>> with landscape.record(model, optimizer, tempfile.mkdtemp(), **options) as recorder:
        ...     for step in recorder.until(steps=10):
        ...         optimizer.zero_grad()
        ...         loss = loss_of(model(x), y)
        ...         loss.backward()
        ...         optimizer.step()
        ...         recorder.step(loss)
        >>> sorted(recorder.run.checkpoints()), recorder.run.record["status"]
        ([0, 5, 10], 'finished')
    """
    return Recorder(
        model,
        optimizer,
        run,
        batch=batch,
        loss=loss,
        every=every,
        probe=probe,
        steps_per_epoch=steps_per_epoch,
        restore=restore,
        start=start,
        model_name=model_name,
        model_arg=model_arg,
        data=data,
        data_arg=data_arg,
        seed=seed,
        log=log,
        force=force,
    )
