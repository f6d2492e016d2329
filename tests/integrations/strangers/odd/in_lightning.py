"""A module whose Trainer is told on the command line what it accumulates, and on how many devices."""

import sys

import lightning.pytorch as pl
import torch
from torch import nn

from landscape.integrations.lightning import Landscape, SharpnessAware
from landscape.optim import SAM

how = dict(word.split("=") for word in sys.argv[2].split(","))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = SAM(torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9), rho=0.05)
        if how.get("plateau"):
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=9.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


if __name__ == "__main__":
    pl.seed_everything(0)
    x, y = torch.randn(40, 2), torch.arange(40) % 3
    rows = torch.utils.data.TensorDataset(x, y)
    loaders = (torch.utils.data.DataLoader(rows, n, shuffle=n < 8) for n in (int(how["batch"]), 8))
    recorder = Landscape(sys.argv[1], every="1epochs")
    devices = int(how.get("devices", 1))
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        accumulate_grad_batches=int(how["k"]),
        callbacks=[SharpnessAware(), recorder],
        logger=False,
    )
    trainer.fit(Module(), *loaders, ckpt_path=recorder.ckpt_path)
