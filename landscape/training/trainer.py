"""The trainer: one optimizer, one seed, one run folder - killed at any instant, continued to the same bits.

Every random choice is a function of (seed, step): the order of the examples, their augmentation, and the
global generators, which are seeded anew before each step. So a resumed run needs weights, buffers and the
optimizer's state, and nothing else, to end where an undisturbed one ends.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import read_weights
from ..errors import DataError, Interrupted, NumericalError, UsageError
from ..evaluation import check_labels
from ..examples import Batch, forward
from ..files import atomic_path, stable_hash
from ..fitting import load_into
from ..losses import domain_means, example_losses, example_weights, mean_loss, weighted_mean
from ..optim.build import build_optimizer
from ..optim.engine import BatchLoss
from ..parameters import preserved_random_state, seed_everything
from ..problem import pick_device
from ..progress import report
from ..run import Run
from ..specs import TrainSpec
from ..specs.train import interval
from ..weights import save_weights, weights_hash
from .batches import BatchOrder, batches
from .evaluation import Scorer
from .setup import (
    Ingredients,
    batch_size,
    check_examples,
    method_settings,
    open_ingredients,
    resolved_spec,
    seen_positions,
    torch_dtype,
)
from .signals import StopFlag, stop_on_signals

log = logging.getLogger(__name__)

_STATE_EVERY_SECONDS = 20.0
_EVALUATIONS = 50  # at most about this many passes over all data per run


def train(spec: TrainSpec, out: Path | str = "runs", *, resume: bool = False, force: bool = False) -> list[Run]:
    """Train every (optimizer, seed) of ``spec`` into ``out/OPTIMIZER-seedN``.

    Args:
        spec: What to train.
        out: Folder of the run folders; created if missing.
        resume: Continue unfinished runs.
        force: Start anew where a run exists.

    Returns:
        The finished runs. A run that is finished already, with the same spec, is returned as it is.

    Raises:
        Interrupted: On SIGINT, SIGTERM or SIGUSR1, after saving.
        NumericalError: If a loss is not finite; the last saved state is kept.
        UsageError: If a folder holds another run, or an unfinished one without ``resume`` or ``force``.
    """
    ingredients = open_ingredients(spec)
    single = list(spec.runs())
    for one in single:
        check_examples(one, ingredients.splits)
    runs = []
    with preserved_random_state(), stop_on_signals() as stop:
        for i, one in enumerate(single):
            report("runs", i, len(single), one.name)
            runs.append(train_one(one, ingredients, Path(out) / one.name, stop, resume=resume, force=force))
        report("runs", len(single), len(single))
    return runs


def train_one(
    spec: TrainSpec,
    ingredients: Ingredients,
    folder: Path,
    stop: StopFlag,
    *,
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Train a single (optimizer, seed) into ``folder``; arguments as in `train`."""
    run = Run(folder)
    training = _Training(spec, ingredients, run, stop)  # everything that can be refused is refused before writing
    resolved = resolved_spec(spec, ingredients)
    record = ingredients.record()
    config = stable_hash({**{k: v for k, v in resolved.items() if k not in spec._not_in_key}, **record})
    with run.writing():
        if not _goes_on(run, config, resume=resume, force=force):
            run.start(
                {
                    "version": 1,
                    "status": "running",
                    "spec": resolved,
                    "config_hash": config,
                    "ingredients": record,
                    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "versions": {
                        "landscape": _own_version(),
                        "torch": str(torch.__version__),
                        "python": platform.python_version(),
                    },
                }
            )
        elif run.record["status"] == "finished":
            log.info("%s is finished already", run.path)
            return run
        training.go()
    return run


def _goes_on(run: Run, config: str, *, resume: bool, force: bool) -> bool:
    """Whether an existing run is continued (True) or a new one started (False)."""
    if force or not Run.is_run(run.path):
        foreign = [p.name for p in run.path.iterdir() if not p.name.startswith(".")] if run.path.is_dir() else []
        if foreign and not force:
            raise UsageError("the folder holds other files", str(run.path), "choose another --out, or pass --force")
        return False
    record = run.record
    if record.get("config_hash") != config:
        raise UsageError(
            "the folder holds a run of another configuration",
            str(run.path),
            "choose another --out, or pass --force",
        )
    if record.get("status") != "finished" and not resume:
        raise UsageError(
            "the folder holds an unfinished run",
            str(run.path),
            "pass --resume to go on, or --force to start anew",
        )
    return True


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flatminima")
    except PackageNotFoundError:
        return "unknown"


class _Training:
    """The state of one training."""

    def __init__(self, spec: TrainSpec, ingredients: Ingredients, run: Run, stop: StopFlag) -> None:
        self.spec, self.run, self.stop = spec, run, stop
        self.loss = ingredients.loss_function
        self.device, self.dtype = pick_device(spec.device), torch_dtype(spec.dtype)
        self.seed = spec.seed[0]
        splits = ingredients.splits
        self.examples = splits["train"].select(seen_positions(splits, "train", spec.holdout))
        if spec.optimizer[0] == "disam" and len(set(self.examples.domain.tolist())) == 1:
            log.warning("one training domain: DISAM equals SAM here")
        self.order = BatchOrder(len(self.examples), batch_size(spec, len(self.examples)), self.seed)
        self.total = spec.steps or (spec.epochs or 1) * self.order.per_epoch
        self.model = ingredients.new_model(self.seed).to(self.device, self.dtype)
        if spec.init is not None:
            load_into(self.model, read_weights(Path(spec.init)), spec.init)
        for examples in splits.values():
            check_labels(self.model, examples, self.loss, device=self.device, dtype=self.dtype)
        assert spec.lr is not None
        self.optimizer = build_optimizer(
            spec.optimizer[0],
            [p for p in self.model.parameters() if p.requires_grad],
            base=spec.base_of(spec.optimizer[0]),
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            settings=method_settings(spec),
        )
        self.scorer = Scorer(splits, spec.holdout, self.loss, self.device, self.dtype)
        every = interval(spec.save_every)
        self.save_steps = every and every[0] * (self.order.per_epoch if every[1] == "epochs" else 1)
        epochs = math.ceil(self.total / self.order.per_epoch)
        self.evaluate_steps = self.order.per_epoch * math.ceil(epochs / _EVALUATIONS)
        self.step, self.seconds, self.gradient_evaluations = 0, 0.0, 0

    # -- the loop ------------------------------------------------------------------------------------------------

    def go(self) -> None:
        if self.run.state_path.exists():
            self._load_state()
        else:
            self.run.keep_metrics_until(-1)
        self.run.update(status="running", weights_at_start=weights_hash(self.model))
        started, saved_at = time.monotonic() - self.seconds, time.monotonic()
        self.model.train()
        with open(self.run.path / "metrics.jsonl", "a", encoding="utf-8") as metrics:
            if self.step == 0:
                self._log(metrics, {"step": 0, "epoch": 0.0, "evaluation": self.scorer.score(self.model)})
                if self.save_steps:
                    self._save_checkpoint()
            for batch in batches(self.examples, self.order, self.step, self.total, workers=self.spec.workers):
                line = self._one_step(batch.to(self.device, self.dtype))
                self.step += 1
                self.seconds = time.monotonic() - started
                checkpoint = self.step == self.total or (self.save_steps and self.step % self.save_steps == 0)
                if checkpoint or self.step % self.evaluate_steps == 0:
                    line["evaluation"] = self.scorer.score(self.model)
                self._log(metrics, {**line, "seconds": round(self.seconds, 4)})
                report(self.spec.name, self.step, self.total, f"loss {line['loss']:.4f}")
                if checkpoint:
                    self._save_checkpoint()
                if self.step == self.total:
                    break
                if checkpoint or self.stop or time.monotonic() - saved_at > _STATE_EVERY_SECONDS:
                    self._save_state()
                    saved_at = time.monotonic()
                if self.stop:
                    self.run.update(status="interrupted")
                    raise Interrupted(
                        f"stopped by {self.stop.signal}",
                        f"{self.run.path}, step {self.step}",
                        "continue with --resume",
                    )
        self._finish()

    def _one_step(self, batch: Batch) -> dict[str, Any]:
        seed_everything(self.seed, "step", self.step)
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = _BatchLosses(self.model, self.loss, batch)
        try:
            loss = float(self.optimizer.step(losses))
        except NumericalError as error:
            raise self._diverged(error.what) from error
        self.gradient_evaluations += self.optimizer.passes
        if not math.isfinite(loss):
            raise self._diverged(f"the training loss is {loss}")
        names = self.examples.domain_names
        return {
            "step": self.step + 1,
            "epoch": round((self.step + 1) / self.order.per_epoch, 6),
            "loss": loss,
            "lr": lr,
            "domains": {names[i]: v for i, v in losses.first.items()} if self.examples.domains else None,
            "gradient_evaluations": self.gradient_evaluations,
        }

    def _diverged(self, what: str) -> NumericalError:
        rows = self.examples.rows[self.order.positions(self.step)][:8].tolist()
        return NumericalError(
            what,
            f"{self.run.path}, step {self.step}, examples {rows}...",
            "lower --lr; the last saved checkpoint is kept",
        )

    def _learning_rate(self) -> float:
        assert self.spec.lr is not None
        done = self.step / self.total
        if self.spec.schedule == "cosine":
            return self.spec.lr * 0.5 * (1 + math.cos(math.pi * done))
        if self.spec.schedule == "linear":
            return self.spec.lr * (1 - done)
        return self.spec.lr

    # -- files ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _log(metrics: Any, line: dict[str, Any]) -> None:
        metrics.write(json.dumps(line, allow_nan=False) + "\n")
        metrics.flush()

    def _save_checkpoint(self) -> None:
        save_weights(self.run.checkpoint_path(self.step), self.model, {"step": self.step})

    def _save_state(self) -> None:
        state = {
            "version": 1,
            "step": self.step,
            "seconds": self.seconds,
            "gradient_evaluations": self.gradient_evaluations,
            "parameters": {k: p.detach() for k, p in self.model.named_parameters()},
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.run.state_path) as temporary:
            torch.save(state, temporary)

    def _load_state(self) -> None:
        path = self.run.state_path
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            with torch.no_grad():
                for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
                    kind = "parameters" if isinstance(tensor, nn.Parameter) else "buffers"
                    tensor.copy_(state[kind][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.gradient_evaluations = state["gradient_evaluations"]
        except Exception as error:
            raise DataError(
                f"the resume state is damaged ({type(error).__name__})", str(path), "start anew with --force"
            ) from error
        self.run.keep_metrics_until(self.step)
        log.info("continuing %s at step %d of %d", self.run.path, self.step, self.total)

    def _finish(self) -> None:
        final = self.scorer.score(self.model)
        self.run.update(
            status="finished",
            steps=self.step,
            final=final,
            gradient_evaluations=self.gradient_evaluations,
            seconds=round(self.seconds, 3),
            weights_hash=weights_hash(self.model),
        )
        self.run.state_path.unlink(missing_ok=True)


class _BatchLosses:
    """The closure of one step: called once per pass, it gives the batch mean and the mean of each domain present."""

    def __init__(self, model: nn.Module, loss: Any, batch: Batch) -> None:
        self.model, self.loss, self.batch = model, loss, batch
        self.present: Sequence[int] = sorted(set(batch.domain.tolist()))
        self.first: dict[int, float] = {}
        self.weights = example_weights(loss, batch.targets)
        members = torch.stack([batch.domain == i for i in self.present]).double()
        members = members if self.weights is None else members * self.weights
        self._averages = members / members.sum(1, keepdim=True).clamp(min=1)

    def __call__(self) -> BatchLoss:
        output = forward(self.model, self.batch.inputs)
        values = example_losses(self.loss, output, self.batch.targets)
        if values is None:
            mean = mean_loss(self.loss, output, self.batch.targets)
            domains = domain_means(self.loss, output, self.batch.targets, self.batch.domain, None, list(self.present))
        else:
            mean = weighted_mean(values, self.weights)
            # A product with a fixed matrix: one operation for all domains, deterministic also on a GPU.
            domains = self._averages.to(values.dtype) @ values
        if not self.first:
            self.first = dict(zip(self.present, domains.detach().tolist(), strict=True))
        return BatchLoss(mean, domains)


def training_json(run: Run) -> dict[str, Any]:
    """The object that ``landscape train --json`` prints for one run."""
    record = run.record
    spec = record["spec"]
    return {
        "path": str(run.path),
        "optimizer": spec["optimizer"][0],
        "seed": spec["seed"][0],
        "status": record["status"],
        "steps": record.get("steps"),
        "final": record.get("final"),
        "gradient_evaluations": record.get("gradient_evaluations"),
        "weights_hash": record.get("weights_hash"),
        "seconds": record.get("seconds"),
    }
