"""Runs recorded in Lightning's Trainer and in that of Hugging Face: the same bits, and going on after kills."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import landscape
from landscape.base.errors import UsageError
from landscape.training.probes import PROBES

from .test_record import examples, network, traces

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("libraries"),
    pytest.mark.filterwarnings("ignore"),
]
PROBED = tuple(f"{name}@every=2" for name in PROBES)


def in_lightning(folder: Path, recorded: bool, method: str = "sgd", accumulate: int = 1, forward: bool = True) -> Any:
    import lightning.pytorch as pl

    from landscape.integrations.lightning import Landscape, SharpnessAware

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y, domain = batch
            each = F.cross_entropy(self.net(x), y, reduction="none")
            self.log("train_loss", each.mean())
            return {"loss": each.mean(), "domains": {"art": each[domain == 0].mean().detach()}}

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return landscape.SAM(base, rho=0.05) if method == "sam" else base

    if forward:
        Module.forward = lambda self, x: self.net(x)
    module = Module()
    data = torch.utils.data.TensorDataset(*examples())
    loader = torch.utils.data.DataLoader(data, 6, shuffle=True)
    callbacks: list[Any] = [SharpnessAware()] if method == "sam" else []
    if recorded:
        callbacks.append(Landscape(folder / "run", every=2, probe=PROBED, loss="cross_entropy"))
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=pl.loggers.CSVLogger(folder / "csv", "", ""),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, torch.utils.data.DataLoader(data, 24))
    return traces(module, trainer.optimizers[0]), trainer


@pytest.mark.parametrize(("method", "accumulate", "forward"), [("sgd", 1, True), ("sgd", 2, False), ("sam", 2, True)])
def test_lightning_trains_as_without_it(tmp_path: Path, method: str, accumulate: int, forward: bool):
    expected, _ = in_lightning(tmp_path / "plain", False, method, accumulate, forward)
    found, trainer = in_lightning(tmp_path, True, method, accumulate, forward)
    assert found == expected
    run, steps = landscape.Run(tmp_path / "run"), 8 // accumulate
    lines = [r for r in run.metrics() if "loss" in r]
    assert [r["step"] for r in lines] == list(range(1, steps + 1))
    assert list(run.checkpoints()) == list(range(0, steps + 1, 2))
    assert (run.record["status"], run.record["steps"], run.spec["optimizer"]) == ("finished", steps, [method])
    assert set(next(r["probes"] for r in lines if r.get("probes"))) == set(PROBES)
    if accumulate == 1:
        logged = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
        assert {"batch/loss", "batch/domain/art", "probe/eigenvalues/lambda_1"} <= set(logged[0].split(","))
        assert lines[-1]["domains"].keys() == {"art"}
    # The loss of a step is the mean over its micro-batches.
    assert 0.5 < lines[0]["loss"] < 2.5
    final = run.record["final"]
    assert final == {"val_loss": pytest.approx(float(trainer.callback_metrics["val_loss"]))}
    assert landscape.training_result(run).data["batch_loss"].shape == (steps,)


def in_transformers(folder: Path, recorded: bool, **options: Any) -> Any:
    import transformers

    from landscape.integrations.huggingface import LandscapeCallback

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": torch.arange(i, i + 5) % 50, "labels": i % 2} for i in range(24)]
    arguments = transformers.TrainingArguments(
        str(folder / "theirs"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=6,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:8])
    if recorded:
        probe = ("surrogate-gap@every=2", "gradient-alignment@every=2", "eigenvalues@every=4")
        trainer.add_callback(LandscapeCallback(folder / "run", trainer=trainer, every=2, probe=probe))
    trainer.train()
    return traces(model, trainer.optimizer), trainer


@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["float32", "bf16"])
def test_transformers_trains_as_without_it(tmp_path: Path, options: dict[str, Any]):
    expected, plain = in_transformers(tmp_path / "plain", False, **options)
    found, trainer = in_transformers(tmp_path, True, **options)
    assert found == expected
    run = landscape.Run(tmp_path / "run")
    theirs = [(h["step"], h["loss"]) for h in plain.state.log_history if "loss" in h]
    ours = [(r["step"], r["loss"]) for r in run.metrics() if r.get("loss") is not None]
    assert ours == theirs
    assert list(run.checkpoints()) == [0, 2, 4, 6]
    assert [r["step"] for r in run.metrics() if r.get("probes")] == [1, 3, 5]  # at the weights before their step
    assert any("probe/surrogate-gap/h" in h for h in trainer.state.log_history)
    assert run.record["final"].keys() >= {"val_loss"}
    assert (run.record["status"], run.spec["optimizer"], run.spec["seed"]) == ("finished", ["adamw"], [42])


LOOPS = {
    "plain": """
import sys, time, torch, landscape
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
x, y = torch.arange(96.0).sin().reshape(24, 4), torch.arange(24) % 3
with landscape.record(model, optimizer, sys.argv[1], every=10, loss="cross_entropy",
                      probe="surrogate-gap@every=5") as recorder:
    for step in range(recorder.steps, 60):
        rows = torch.randperm(24)[:8]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        recorder.step(loss, batch=(x[rows], y[rows]))
        time.sleep(float(sys.argv[2]))
""",
    "lightning": """
import sys, time, torch, lightning.pytorch as pl
from landscape.integrations.lightning import Landscape
torch.manual_seed(0)
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        time.sleep(float(sys.argv[2]))
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
x, y = torch.arange(96.0).sin().reshape(24, 4), torch.arange(24) % 3
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 4)
recorder = Landscape(sys.argv[1], every="2epochs", loss="cross_entropy", probe="surrogate-gap@every=5")
trainer = pl.Trainer(accelerator="cpu", max_epochs=10, callbacks=[recorder], logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Module(), loader, ckpt_path=recorder.ckpt_path)
""",
    "transformers": """
import os, sys, time, torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from landscape.integrations.huggingface import LandscapeCallback
torch.manual_seed(0)
class Network(torch.nn.Linear):
    def forward(self, x, labels):
        time.sleep(float(sys.argv[2]))
        return {"loss": torch.nn.functional.cross_entropy(super().forward(x), labels)}
data = [{"x": torch.arange(i, i + 4.0).sin(), "labels": i % 3} for i in range(24)]
theirs = sys.argv[1] + "-theirs"
arguments = TrainingArguments(theirs, per_device_train_batch_size=4, max_steps=60, save_steps=15, logging_steps=1,
                              report_to=[], disable_tqdm=True, use_cpu=True)
recorder = LandscapeCallback(sys.argv[1], every=10, probe="surrogate-gap@every=5")
last = get_last_checkpoint(theirs) if os.path.isdir(theirs) else None
Trainer(Network(4, 3), arguments, train_dataset=data, callbacks=[recorder]).train(resume_from_checkpoint=last)
""",
}


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_killed_loop_goes_on_by_the_same_call(tmp_path: Path, loop: str):
    def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", f"import declared_operators\n{LOOPS[loop]}", str(folder), str(pause)]
        return subprocess.Popen(words, env={**__import__("os").environ, "PYTHONPATH": ":".join(sys.path)})

    assert start(tmp_path / "whole", 0).wait() == 0
    run = landscape.Run(tmp_path / "killed")
    for step in (23, 41):
        process = start(run.path, 0.05)
        while not (run.path / "metrics.jsonl").exists() or max([r["step"] for r in run.metrics()], default=0) < step:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert run.record["status"] == "running"
    assert start(run.path, 0).wait() == 0
    whole = landscape.Run(tmp_path / "whole")
    assert run.record["weights_hash"] == whole.record["weights_hash"]
    steps = [r["step"] for r in run.metrics() if r.get("loss") is not None]
    assert steps == list(range(1, 61))
    assert list(run.checkpoints()) == list(range(0, 61, 12 if loop == "lightning" else 10))

    def course(run: landscape.Run) -> list[Any]:
        return [(r["step"], r["loss"]) for r in run.metrics() if r.get("loss") is not None]

    assert course(run) == course(whole)


def test_what_lightning_cannot_record_is_said(tmp_path: Path):
    from landscape.integrations.lightning import Landscape

    with pytest.raises(TypeError, match="unexpected keyword argument 'probes'"):
        Landscape(tmp_path, probes="eigenvalues")
    with pytest.raises(UsageError, match="no training has begun"):
        _ = Landscape(tmp_path).run


@pytest.mark.parametrize("loop", ["lightning", "transformers"])
def test_a_stopped_training_is_not_thrown_away_unasked(tmp_path: Path, loop: str):
    """Started again without the checkpoint that there is, a script would cut its run off at nothing."""
    goes_on = {"lightning": ", ckpt_path=recorder.ckpt_path", "transformers": "resume_from_checkpoint=last"}[loop]
    environment = {**__import__("os").environ, "PYTHONPATH": ":".join(sys.path)}

    def call(text: str, pause: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", f"import declared_operators\n{text}", str(tmp_path / "run"), str(pause)]
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

    run = landscape.Run(tmp_path / "run")
    process = call(LOOPS[loop], 0.05)
    while not (run.path / "metrics.jsonl").exists() or max([r["step"] for r in run.metrics()], default=0) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made, before = run.metrics(), sorted(run.checkpoints())
    thoughtless = call(LOOPS[loop].replace(goes_on, ""), 0)
    said = thoughtless.communicate()[1]
    assert thoughtless.returncode != 0
    assert "steps of a training that was stopped, and the loop begins from nothing" in said
    assert (run.metrics(), sorted(run.checkpoints())) == (made, before)
    asked = LOOPS[loop].replace(goes_on, "").replace("argv[1], every=", "argv[1], force=True, every=")
    again = call(asked, 0)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert (run.record["status"], run.record["steps"]) == ("finished", 60)
