"""A loop with Accelerate: shuffled batches, accumulation, clipping, a schedule."""

import sys

import accelerate
import torch
from torch import nn

import landscape
from landscape.integrations.huggingface import Backward
from landscape.optim import DISAM, SAM, BatchLoss


def network():
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def data():
    random, y = torch.Generator().manual_seed(0), torch.arange(48) % 3
    angles = {"plain": y * 2.1, "turned": y * 2.1 + 0.7}
    noise = 0.3 * torch.randn(48, 2, generator=random)
    return {"train": {k: (torch.stack([a.cos(), a.sin()], 1) + noise, y) for k, a in angles.items()}}


if __name__ == "__main__":
    folder, method = sys.argv[1], {"sam": SAM, "disam": DISAM}[sys.argv[2]]
    accelerate.utils.set_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    x, y = (torch.cat(both) for both in zip(*data()["train"].values(), strict=True))
    rows = torch.utils.data.TensorDataset(x, y, torch.arange(96) // 48)
    loader, model = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True), network()
    optimizer = method(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    backward = Backward(accelerator, optimizer)

    def loss_of(x, y, domain):
        each = nn.functional.cross_entropy(model(x), y, reduction="none")
        return BatchLoss.of_examples(each, domain, domains=2)

    told = {"loss": "cross_entropy", "model_name": f"{__file__}:network", "data": f"{__file__}:data"}
    with landscape.record(
        model, optimizer, folder, every="1epochs", steps_per_epoch=3, restore=[schedule], **told
    ) as recorder:
        for _ in recorder.until(epochs=4):
            for batch in loader:
                with accelerator.accumulate(model):
                    loss = backward(loss_of, *batch)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    recorder.step(loss)
