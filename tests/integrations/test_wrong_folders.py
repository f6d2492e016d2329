"""A folder is gone on with by the loop that began it: what differs is refused by its name, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import landscape
from landscape.base.errors import UsageError

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
# What is changed, and how the refusal calls it.
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"lr": 0.2}, r"another lr \(0\.1, here 0\.2\)"),
    "rho": ({"rho": 0.1}, r"another rho \(0\.05, here 0\.1\)"),
    "weight decay": ({"weight_decay": 0.1}, r"another weight_decay \(0, here 0\.1\)"),
    "lam": (
        {"method": landscape.DISAM, "lam": 0.2},
        r"another optimizer \(sam, here disam\), another lam \(none, here",
    ),
    "method": ({"method": landscape.ASAM}, r"another optimizer \(sam, here asam\)"),
    "base": ({"base": torch.optim.Adam}, r"another base \(sgd, here adam\)"),
    "network": ({"hidden": 5}, r"another network \(\w+ of 35 parameters, here \w+ of 43 parameters\)"),
    "data": ({"data": "two-digits"}, r"another data \(digits-rotated, here two-digits\)"),
    "batch": ({"batch": 2}, r"another (steps_per_epoch \(4, here 8\)|batch_size \(4, here 2\))"),
    "seed": ({"seed": 1}, r"another seed \(0, here 1\)"),
}


class Network(nn.Sequential):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        output = super().forward(x)
        return output if labels is None else {"loss": nn.functional.cross_entropy(output, labels)}


def made(hidden: int = 4, method: Any = landscape.SAM, base: Any = torch.optim.SGD, **options: Any) -> Any:
    torch.manual_seed(0)
    network = Network(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)) if hidden else None
    assert network is not None
    lr, decay = options.pop("lr", 0.1), options.pop("weight_decay", 0.0)
    optimizer = method(base(network.named_parameters(), lr=lr, weight_decay=decay), **options)
    # As a warm-up does it: the present learning rate is not the one that was chosen.
    return network, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 2))


def plainly(
    folder: Path, steps: int, batch: int = 4, seed: int = 0, data: str = "digits-rotated", **changes: Any
) -> None:
    network, optimizer, schedule = made(**{"rho": 0.05, **changes})
    told = {"data": data, "seed": seed, "steps_per_epoch": len(X) // batch}
    with landscape.record(network, optimizer, folder, restore=[schedule], **told) as recorder:
        for step in recorder.until(steps=steps):
            rows = slice(step % 4 * batch, (step % 4 + 1) * batch)
            loss = optimizer.step(lambda rows=rows: landscape.BatchLoss.of_examples(*_losses(network, rows)))
            schedule.step()
            recorder.step(loss)


def _losses(network: nn.Module, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    return nn.functional.cross_entropy(network(X[rows]), Y[rows], reduction="none"), torch.arange(16)[rows] % 2


def in_lightning(
    folder: Path, steps: int, batch: int = 4, seed: int = 0, data: str = "digits-rotated", **changes: Any
) -> None:
    import lightning.pytorch as pl

    from landscape.integrations.lightning import Landscape, SharpnessAware

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.optimizer, self.schedule = made(**{"rho": 0.05, **changes})

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            each = nn.functional.cross_entropy(self.network(batch[0]), batch[1], reduction="none")
            return self.optimizers().objective(landscape.BatchLoss.of_examples(each, torch.arange(len(each)) % 2))

        def configure_optimizers(self) -> Any:
            return [self.optimizer], [{"scheduler": self.schedule, "interval": "step"}]

    recorder = Landscape(folder, data=data, seed=seed)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, callbacks=[SharpnessAware(), recorder], **quiet
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch)
    trainer.fit(Module(), loader, ckpt_path=recorder.ckpt_path)


def in_transformers(
    folder: Path, steps: int, batch: int = 4, seed: int = 0, data: str = "digits-rotated", **changes: Any
) -> None:
    import transformers
    from transformers.trainer_utils import get_last_checkpoint

    from landscape.integrations.huggingface import LandscapeCallback, SharpnessAware

    class Trainer(SharpnessAware, transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            each = nn.functional.cross_entropy(model(inputs["x"]), inputs["labels"], reduction="none")
            return optimizer.objective(landscape.BatchLoss.of_examples(each, torch.arange(len(each)) % 2))

    network, optimizer, schedule = made(**{"rho": 0.05, **changes})
    theirs = f"{folder}-theirs"
    arguments = transformers.TrainingArguments(
        theirs,
        max_steps=steps,
        per_device_train_batch_size=batch,
        save_steps=1,
        seed=seed,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows = [{"x": x, "labels": int(y)} for x, y in zip(X, Y, strict=True)]
    recorder = LandscapeCallback(folder, data=data)
    trainer = Trainer(network, arguments, train_dataset=rows, optimizers=(optimizer, schedule), callbacks=[recorder])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(theirs) if Path(theirs).is_dir() else None)


def refused(loop: Callable[..., None], folder: Path) -> None:
    """Every change is refused, and the loop as it was goes on."""
    loop(folder, 2)
    run = landscape.Run(folder)
    assert run.spec["lr"] == 0.1
    before = (run.record, run.metrics(), sorted(run.checkpoints()))
    wrong = []
    for name, (change, words) in CHANGES.items():
        with pytest.raises(UsageError, match=words):
            loop(folder, 3, **change)
        wrong += [name] if (run.record, run.metrics(), sorted(run.checkpoints())) != before else []
    assert not wrong
    loop(folder, 3)
    assert run.record["steps"] == 3


def test_in_a_loop_of_ones_own(tmp_path: Path):
    refused(plainly, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", [in_lightning, in_transformers])
def test_in_the_loops_of_others(tmp_path: Path, loop: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    refused(loop, tmp_path / "run")
