"""Trains in one kind of loop, with Weights & Biases, MLflow and TensorBoard beside, and prints what arrived in each.

A program of its own, since the three are in an environment of their own: ``python logged_by.py LOOP FOLDER``.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOOP, FOLDER = sys.argv[1], Path(sys.argv[2])
os.chdir(FOLDER)
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(FOLDER), "HF_HUB_OFFLINE": "1"}
os.environ |= {"MLFLOW_TRACKING_URI": f"file://{FOLDER}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
os.environ["TENSORBOARD_LOGGING_DIR"] = str(FOLDER / "tb")
warnings.simplefilter("ignore")

import declared_operators  # noqa: E402, F401 - before torchvision
import mlflow  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import wandb  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import landscape  # noqa: E402

PROBES = ("eigenvalues@every=2", "m-sharpness@every=2", "domain-losses@every=2", "domain-variance@every=2")
torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.arange(24) % 3
TOLD: dict[str, Any] = {
    "batch": (X, Y, ["rot 15\u00b0"] * 12 + ["art"] * 12),
    "loss": "cross_entropy",
    "probe": PROBES,
}


def sam(network: nn.Module) -> landscape.SAM:
    return landscape.SAM(torch.optim.SGD(network.named_parameters(), lr=0.1))


def plain() -> str:
    network = nn.Linear(4, 3)
    optimizer, run = sam(network), wandb.init(project="p")

    def log(row: dict[str, Any]) -> None:
        run.log(landscape.scalars(row), step=row["step"])
        mlflow.log_metrics(landscape.scalars(row), step=row["step"])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(X), Y)
        loss.backward()
        return loss

    with mlflow.start_run() as active, landscape.record(network, optimizer, "run", log=log, **TOLD) as recorder:
        for _ in recorder.until(steps=4):
            recorder.step(optimizer.step(closure), domains={"rot 15\u00b0": 0.25})
        recorder.evaluation(val_loss=0.5)
    run.finish()
    return str(active.info.run_id)


def lightning() -> str:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    from landscape.integrations.lightning import Landscape, SharpnessAware

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            return {"loss": loss, "domains": {"rot 15\u00b0": loss.detach()}}

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return sam(self)

    tracked = MLFlowLogger(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    loggers = [WandbLogger(project="p", offline=True), tracked, TensorBoardLogger(FOLDER / "tb")]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=8)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [SharpnessAware(), Landscape("run", **TOLD)]
    pl.Trainer(max_epochs=2, log_every_n_steps=1, logger=loggers, callbacks=callbacks, **quiet).fit(
        Module(), loader, loader
    )
    wandb.finish()
    return str(tracked.run_id)


def transformers() -> str:
    from transformers import Trainer, TrainingArguments

    from landscape.integrations.huggingface import LandscapeCallback, SharpnessAware

    class FlatTrainer(SharpnessAware, Trainer):
        pass

    class Network(nn.Linear):
        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = super().forward(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    network, rows = Network(4, 3), [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    report = {"report_to": ["wandb", "mlflow", "tensorboard"], "logging_steps": 2, "eval_strategy": "steps"}
    options = {"max_steps": 4, "eval_steps": 2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments("out", per_device_train_batch_size=8, **report, **options)
    trainer = FlatTrainer(network, arguments, train_dataset=rows, eval_dataset=rows, optimizers=(sam(network), None))
    told = {"probe": PROBES[:2]}  # the network gives its loss and shows no domains
    trainer.add_callback(LandscapeCallback("run", trainer=trainer, **told))
    trainer.train()
    wandb.finish()
    return str(mlflow.last_active_run().info.run_id)


# -- what arrived ----------------------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[bytes]:
    """The records of a ``.wandb`` file: LevelDB's log format in blocks of 32 KiB, behind seven bytes of its own."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left, size, kind = 32768 - at % 32768, int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        parts = (b"" if kind in (1, 2) else parts) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts


def in_wandb() -> dict[str, list[Any]]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[Any]] = {}
    (path,) = {p.resolve() for p in FOLDER.glob("**/*.wandb")}
    for raw in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        counted_by = ("trainer/global_step", "train/global_step", "_step")
        step = next((items[k] for k in counted_by if k in items), None)
        for name, value in items.items():
            found.setdefault(name, []).append([step, value])
    return found


def in_mlflow(run: str) -> dict[str, list[Any]]:
    client = mlflow.tracking.MlflowClient()
    names = client.get_run(run).data.metrics
    return {name: [[m.step, m.value] for m in client.get_metric_history(run, name)] for name in names}


def in_tensorboard() -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in {path.parent for path in (FOLDER / "tb").glob("**/events*")}:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        found |= {name: [[e.step, e.value] for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return found


def in_the_log() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in landscape.Run(FOLDER / "run").metrics():
        for name, value in landscape.scalars(row).items():
            found.setdefault(name, []).append([row["step"], value])
    return found


identity = {"plain": plain, "lightning": lightning, "transformers": transformers}[LOOP]()
print(json.dumps([in_the_log(), in_wandb(), in_mlflow(identity), in_tensorboard()]))
