"""A small network in Lightning's Trainer: shuffled batches, clipping, a schedule per epoch, dropout."""

import sys

import lightning.pytorch as pl
import torch
from torch import nn

from landscape.integrations.lightning import Landscape, SharpnessAware
from landscape.optim import DISAM, SAM, BatchLoss


def network():
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3))


def data():
    random, y = torch.Generator().manual_seed(0), torch.arange(48) % 3
    angles = {"plain": y * 2.1, "turned": y * 2.1 + 0.7}
    noise = 0.3 * torch.randn(48, 2, generator=random)
    return {"train": {k: (torch.stack([a.cos(), a.sin()], 1) + noise, y) for k, a in angles.items()}}


class Module(pl.LightningModule):
    def __init__(self, method):
        super().__init__()
        self.method, self.network = method, network()

    def training_step(self, batch, batch_idx):
        x, y, domain = batch
        each = nn.functional.cross_entropy(self.network(x), y, reduction="none")
        return self.optimizers().objective(BatchLoss.of_examples(each, domain, domains=2))

    def configure_optimizers(self):
        optimizer = self.method(torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9), rho=0.05)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)]


if __name__ == "__main__":
    folder, method = sys.argv[1], {"sam": SAM, "disam": DISAM}[sys.argv[2]]
    pl.seed_everything(0)
    x, y = (torch.cat(both) for both in zip(*data()["train"].values(), strict=True))
    rows = torch.utils.data.TensorDataset(x, y, torch.arange(96) // 48)
    recorder = Landscape(
        folder,
        every="1epochs",
        probe="surrogate-gap@every=3",
        loss="cross_entropy",
        model_name=f"{__file__}:network",
        data=f"{__file__}:data",
    )
    trainer = pl.Trainer(
        max_epochs=4, accumulate_grad_batches=2, gradient_clip_val=1.0, callbacks=[SharpnessAware(), recorder]
    )
    loader = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True)
    trainer.fit(Module(method), loader, ckpt_path=recorder.ckpt_path)
