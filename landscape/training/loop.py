"""The loop of one training: killed at any instant, continued to the same bits.

Every random choice is a function of (seed, step): the order of the examples, their augmentation, and the
global generators, which are seeded anew before each step. So a resumed run needs weights, buffers and the state
of the optimizer (and of the average), and nothing else, to end where an undisturbed one ends.

Several processes hold equal weights, each takes its stretch of every batch, and gradients are added up in every pass,
so that they train as one; the first process writes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..base.errors import Interrupted, NumericalError, ResourceError, UsageError, argument, is_out_of_memory
from ..base.files import stable_hash, write_json
from ..base.progress import report
from ..base.stop_signals import safe_point
from ..data.changes import changed
from ..data.examples import Batch
from ..numerics.norms import right_for_one_example
from ..numerics.trees import map_tensors
from ..optim.averaging import SWA, SWAD, recalibrate_statistics
from ..optim.core.build import build_optimizer
from ..optim.core.passes import RandomState
from ..problem.evaluation import check_fit
from ..problem.forward import forward
from ..problem.problem import Problem
from ..results.run import Run
from ..runtime.caller_context import in_pieces
from ..runtime.devices import check_precision, moved, pick_device, type_at
from ..runtime.distributed import any_process, is_main_process, rank_and_world_size, require_equal, run_on_main
from ..runtime.random_state import seed_everything
from ..specs import TrainSpec
from ..specs.training import interval, probe
from ..storage.event_files import EventFile
from ..weights.checkpoint import read_weights
from ..weights.load_state_dict import load_into
from ..weights.weights import save_weights, weights_hash
from .augment import MixupBatch, augment
from .batches import BalancedOrder, BatchOrder, RankShard, batches
from .evaluation import Scorer
from .events import FOLDER, scalars
from .probes import AscentPoint, sharpness_in_blocks, take, top_eigenvalues, with_domain_names
from .replicas import share_buffers
from .setup import TrainingInputs, batch_size, method_settings, piece_size, seen_positions, torch_dtype
from .signals import StopFlag
from .state import load_state, save_state
from .steps import BatchLosses

log = logging.getLogger(__name__)

_STATE_EVERY_SECONDS = 20.0
_EVALUATIONS = 50  # at most about this many passes over all data per run
_PROBE_EXAMPLES = 512  # of the training set, for the probes eigenvalues and m-sharpness
_SWA_START = 0.75  # share of the training before averaging (arXiv 1803.05407 averages the last quarter)


class Training:
    """The state of one training.

    Args:
        spec: A single run.
        ingredients: Data, model builder and loss.
        run: Its folder; nothing is written before `go`.
        stop: Set by a signal.

    Raises:
        UsageError: If the settings do not fit the data or the model.
    """

    def __init__(self, spec: TrainSpec, ingredients: TrainingInputs, run: Run, stop: StopFlag) -> None:
        self.spec, self.run, self.stop = spec, run, stop
        self.loss = ingredients.loss_function
        self.device, self.dtype = pick_device(spec.device), torch_dtype(spec.dtype)
        check_precision(self.device, self.dtype)
        self.seed = spec.seed[0]
        self.changes = changed(ingredients.splits, spec.to_dict(), spec.holdout, self.seed)
        splits = self.changes.splits
        self.examples = splits["train"].select(seen_positions(splits, "train", spec.holdout))
        self.order = self._order(batch_size(spec, len(self.examples)))
        self.part = RankShard(self.order, lambda n: spec.m or 1) if rank_and_world_size()[1] > 1 else None
        self.total = spec.steps or (spec.epochs or 1) * self.order.per_epoch
        self.model = moved(ingredients.new_model(self.seed), self.device, self.dtype)
        if spec.init is not None:
            load_into(self.model, read_weights(Path(spec.init)), spec.init)
        self._freeze()
        right_for_one_example(self.model)
        for name, examples in splits.items():
            check_fit(self.model, examples, self.loss, device=self.device, dtype=self.dtype, where=f"split {name!r}")
        self.settings = method_settings(spec)
        assert spec.lr is not None
        self.optimizer = build_optimizer(
            spec.optimizer[0],
            [(n, p) for n, p in self.model.named_parameters() if p.requires_grad],
            base=spec.base_of(spec.optimizer[0]),
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            settings=self.settings,
            common={"clip": spec.clip, "scaler": self._scaler()},
        )
        if self.settings.get("rho") == 0:
            log.warning("rho=0: %s does not climb, so that its first term is plain training", spec.optimizer[0])
        if self.optimizer.needs_domains and len(set(self.examples.domain.tolist())) == 1:
            log.warning("one training domain: %s has no variance of domain losses here", spec.optimizer[0])
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.average = {"none": None, "swa": SWA, "swad": SWAD}[spec.average]
        self.averaged: SWA | SWAD | None = self.average(trained) if self.average else None
        self.scorer = Scorer(splits, splits.unseen(spec.holdout), self.loss, self.device, self.dtype)
        every = interval(spec.save_every)
        self.save_steps = every and every[0] * (self.order.per_epoch if every[1] == "epochs" else 1)
        epochs = math.ceil(self.total / self.order.per_epoch)
        self.evaluate_steps = self.order.per_epoch * (
            1 if spec.stop_at is not None else math.ceil(epochs / _EVALUATIONS)
        )
        self.step, self.seconds, self.gradient_evaluations = 0, 0.0, 0
        self.skipped_steps, self.negative_weights, self.train_loss = 0, 0, math.inf
        self.reached = False
        self.events: EventFile | None = None

    def _order(self, size: int) -> BatchOrder | BalancedOrder:
        seed = self.seed if self.spec.order_seed is None else self.spec.order_seed
        if self.spec.sampler == "balanced":
            return BalancedOrder(self.examples.domain, size, seed)
        return BatchOrder(len(self.examples), size, seed)

    def _scaler(self) -> Any:
        return torch.amp.GradScaler(self.device.type) if self.spec.amp == "float16" else None

    def _freeze(self) -> None:
        if self.spec.train_only is None:
            return
        pattern = re.compile(self.spec.train_only)
        names = [n for n, _ in self.model.named_parameters()]
        if not any(pattern.search(n) for n in names):
            some = ", ".join(names[:5])
            raise UsageError(
                f"no parameter matches {self.spec.train_only!r}", "`train_only=`", f"there is: {some}, ..."
            )
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(bool(pattern.search(name)))

    def _train_mode(self) -> None:
        """Training mode, but for modules without a trained parameter: a frozen body keeps its statistics."""
        self.model.train()
        if self.spec.train_only is None:
            return
        for module in self.model.modules():
            if not any(p.requires_grad for p in module.parameters()) and list(module.buffers()):
                module.eval()

    # -- the loop ------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end, from the saved state if there is one.

        Raises:
            Interrupted: After saving, when a signal came.
            NumericalError: If the loss or a gradient is not finite.
        """
        if run_on_main(self.run.state_path.exists):
            load_state(self, self.run.state_path)
            self.run.keep_metrics_until(self.step)
            log.info("continuing %s at step %d of %d", self.run.path, self.step, self.total)
        else:
            self.run.keep_metrics_until(-1)
        self._require_equal_weights()
        self.run.update(status="running", weights_at_start=weights_hash(self.model))
        self._record_changes()
        started, saved_at = time.monotonic() - self.seconds, time.monotonic()
        self._train_mode()
        log_file = self.run.path / "metrics.jsonl" if is_main_process() else os.devnull
        # Augmentation mixes and draws for a batch as a whole, which then is cut.
        order = self.part if self.part and not self.spec.augment else self.order
        with open(log_file, "a", encoding="utf-8") as metrics, self._event_file():
            if self.step == 0:
                self._log(metrics, {"step": 0, "epoch": 0.0, "evaluation": self._evaluation()})
                if self.save_steps:
                    self._save_checkpoint()
            for batch in batches(self.examples, order, self.step, self.total, workers=self.spec.workers):
                line = self._one_step(batch)
                self.step += 1
                self.seconds = time.monotonic() - started
                self._average()
                if self._evaluates():
                    line["evaluation"] = self._evaluation()
                self.reached = self.spec.stop_at is not None and self.train_loss <= self.spec.stop_at
                done = self.step == self.total or self.reached
                if done and self._put_average():
                    line["evaluation"], line["averaged"] = self._evaluation(), True
                elif done and "evaluation" not in line:
                    line["evaluation"] = self._evaluation()
                self._log(metrics, {**line, "seconds": round(self.seconds, 4)})
                report(
                    self.spec.name,
                    self.step,
                    self.total,
                    f"loss {loss:.4f}" if (loss := line["loss"]) is not None else "overflow",
                )
                saves = self.save_steps and self.step % self.save_steps == 0
                if done or saves:
                    self._save_checkpoint()
                if done:
                    break
                stop = self._asked_to_stop()
                if is_main_process() and (saves or stop or time.monotonic() - saved_at > _STATE_EVERY_SECONDS):
                    save_state(self, self.run.state_path)
                    saved_at = time.monotonic()
                if stop:
                    self.run.update(status="interrupted")
                    raise Interrupted(
                        f"stopped by {self.stop.signal or 'a signal'}",
                        f"{self.run.path}, step {self.step}",
                        "continue with `resume=True`",
                    )
        self._finish()

    def _asked_to_stop(self) -> bool:
        asked = any_process(bool(self.stop))
        if asked:
            safe_point()
        return asked

    def _one_step(self, raw: Batch) -> dict[str, Any]:
        batch, shared = self._own(self._augmented(raw))
        # Each process's examples have a dropout mask of their own; the first draws what a single one would.
        seed_everything(self.seed, "step", self.step, *([] if is_main_process() else [rank_and_world_size()[0]]))
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        piece = piece_size(self.spec, len(batch.batch))
        losses = BatchLosses(self.model, self.loss, batch, piece=piece, amp=self.spec.amp, **shared)
        probes = self._probes(losses, lr)
        try:
            found = self.optimizer.step(losses)
        except NumericalError as error:
            raise self._diverged(error.what) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fix = f"take them in pieces with {argument('accumulate')}, or smaller ones with {argument('batch_size')}"
            where = f"{self.run.path}, step {self.step}, {len(batch.batch)} examples"
            raise ResourceError("out of memory", where, fix + in_pieces(self.device.type)) from error
        loss, by_domain = losses.read(found) if self.examples.domains else (float(found), {})
        share_buffers(self.model, len(batch.batch) if shared.get("counted", True) else 0)
        self.gradient_evaluations += self.optimizer.gradient_evaluations
        if self.optimizer.step_was_skipped:
            self.skipped_steps += 1
        elif not math.isfinite(loss):
            raise self._diverged(f"the training loss is {loss}")
        names = self.examples.domain_names
        line: dict[str, Any] = {
            "step": self.step + 1,
            "epoch": round((self.step + 1) / self.order.per_epoch, 6),
            "loss": _finite(loss),
            "lr": lr,
            "domains": {names[i]: _finite(v) for i, v in by_domain.items()} if self.examples.domains else None,
            "gradient_evaluations": self.gradient_evaluations,
        }
        if probes:
            line["probes"] = probes
        if self.optimizer.step_was_skipped:
            line["skipped"] = True
        self._note_negative_weights(line)
        return line

    def _own(self, batch: MixupBatch) -> tuple[MixupBatch, dict[str, Any]]:
        """What of a batch is this process's, and what its losses have to know of the whole."""
        whole = self.order.positions(self.step)
        present = sorted(set(self.examples.domain[whole].tolist()))
        if self.part is None:
            return batch, {"present": present}
        own = self.part.stretch(len(whole))
        counted = own.stop > own.start
        if self.spec.augment and counted:
            batch = batch.piece(own.start, own.stop)
        return batch, {"present": present, "shared": True, "counted": counted}

    def _require_equal_weights(self) -> None:
        if rank_and_world_size()[1] > 1:
            require_equal("weights", weights_hash(self.model), "use the same machine type and software everywhere")

    def _augmented(self, raw: Batch) -> MixupBatch:
        made = augment(raw, self.spec.augment, _seed(self.seed, self.step)) if self.spec.augment else MixupBatch(raw)
        partner = made.partner
        if partner is not None:
            partner = map_tensors(partner, lambda t: t.to(self.device, type_at(t, self.dtype)))
        return MixupBatch(made.batch.to(self.device, self.dtype), partner, made.share)

    def _probes(self, losses: BatchLosses, lr: float) -> dict[str, Any]:
        due = [name for name, every in map(probe, self.spec.probe) if self.step % every == 0]
        if not due:
            return {}
        rho = self.settings.get("rho") or 0.05
        point = AscentPoint(
            losses,
            [p for p in self.model.parameters() if p.requires_grad],
            rho=rho,
            lam=self.settings.get("lam") or 0.1,
            lr=lr,
            eigenvalues=lambda: top_eigenvalues(self._probed()),
            random=RandomState.now(),
            sharpness=lambda: sharpness_in_blocks(self._probed(), rho),
        )
        return with_domain_names(take(due, point), self.examples.domain_names)

    def _probed(self) -> Problem:
        examples = self.examples.subset(min(_PROBE_EXAMPLES, len(self.examples)), 0)
        return Problem(self.model, examples, self.loss, device=self.device, dtype=self.spec.dtype)

    def _note_negative_weights(self, line: dict[str, Any]) -> None:
        weights = getattr(self.optimizer, "climb_weights", None)
        if weights is None or not bool((weights < 0).any()):
            return
        line["negative_domain_weight"] = True
        self.negative_weights += 1
        if self.negative_weights == 1:
            log.warning(
                "step %d: a domain's weight in DISAM's climb is negative (its loss is far above the others'); "
                "the climb lowers that domain's loss; a smaller `lam=` avoids it",
                self.step + 1,
            )

    def _diverged(self, what: str) -> NumericalError:
        rows = self.examples.rows[self.order.positions(self.step)][:8].tolist()
        return NumericalError(
            what,
            f"{self.run.path}, step {self.step}, examples {rows}...",
            "lower `lr=`; the last saved checkpoint is kept",
        )

    def _learning_rate(self) -> float:
        assert self.spec.lr is not None
        done = self.step / self.total
        if self.spec.schedule == "cosine":
            return self.spec.lr * 0.5 * (1 + math.cos(math.pi * done))
        if self.spec.schedule == "linear":
            return self.spec.lr * (1 - done)
        return self.spec.lr

    # -- evaluation, averaging, stopping -------------------------------------------------------------------------

    def _evaluates(self) -> bool:
        every = self.evaluate_steps
        if self.spec.stop_at is not None and self.train_loss <= 5 * self.spec.stop_at:
            every = max(1, every // 4)  # near the target: look more often
        saves = self.save_steps and self.step % self.save_steps == 0
        return bool(saves) or self.step % every == 0

    def _evaluation(self) -> dict[str, Any]:
        found = self.scorer.score(self.model)
        self.train_loss = found["train_loss"] if found["train_loss"] is not None else math.inf
        if isinstance(self.averaged, SWAD) and self.step:
            self.averaged.evaluated(found["val_loss"])
        return found

    def _average(self) -> None:
        if isinstance(self.averaged, SWAD):
            self.averaged.update()
        elif self.averaged is not None:
            last = self.step == self.total
            if (self.step % self.order.per_epoch == 0 and self.step >= _SWA_START * self.total) or last:
                self.averaged.update()

    def _put_average(self) -> bool:
        """Replace the weights by their average, and running statistics by those of the averaged network."""
        if self.averaged is None or not self.averaged.write():
            return False

        def forward_all() -> None:
            for raw in self.examples.batches(max(self.order.size, 64)):
                forward(self.model, raw.to(self.device, self.dtype).inputs)

        recalibrate_statistics(self.model, forward_all)
        return True

    # -- files ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _event_file(self) -> Iterator[None]:
        """Where `_log` also writes, if the run wants event files."""
        if not self.spec.tensorboard or not is_main_process():
            yield
            return
        self.events = EventFile(self.run.path / FOLDER, self.step)
        try:
            yield
        finally:
            self.events.close()

    def _log(self, metrics: Any, line: dict[str, Any]) -> None:
        metrics.write(json.dumps(line, allow_nan=False) + "\n")
        metrics.flush()
        if self.events is not None:
            self.events.scalars(line["step"], scalars(line))

    def _record_changes(self) -> None:
        if not self.changes.record or not is_main_process():
            return
        write_json(self.run.path / "changes.json", self.changes.record)
        counts = {k: len(v["positions"]) for k, v in self.changes.record.items() if "positions" in v}
        sizes = self.changes.record.get("domain_sizes")
        self.run.update(changes={**counts, "domain_sizes": sizes, "hash": stable_hash(self.changes.record)})

    def _save_checkpoint(self) -> None:
        self._require_equal_weights()
        if is_main_process():
            save_weights(self.run.checkpoint_path(self.step), self.model, {"step": self.step})

    def _finish(self) -> None:
        final = self.scorer.score(self.model)
        facts: dict[str, Any] = {}
        if self.spec.stop_at is not None:
            facts["stopped"] = {"target": self.spec.stop_at, "reached": self.reached, "step": self.step}
        if self.averaged is not None:
            facts["average"] = {"kind": self.spec.average, "count": self.averaged.count}
        if self.spec.amp == "float16":
            facts["skipped_steps"] = self.skipped_steps
        if self.negative_weights:
            facts["steps_with_negative_domain_weight"] = self.negative_weights
        self.run.update(
            status="finished",
            steps=self.step,
            final=final,
            gradient_evaluations=self.gradient_evaluations,
            seconds=round(self.seconds, 3),
            weights_hash=weights_hash(self.model),
            **facts,
        )
        self.run.state_path.unlink(missing_ok=True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seed(seed: int, step: int) -> int:
    return int(stable_hash([seed, "augment", step])[:15], 16)
