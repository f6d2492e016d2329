"""A network of timm in a plain loop: autocast to bfloat16, a loader with a generator of its own, a schedule."""

import sys

import timm
import torch
from torch import nn

import landscape
from landscape.optim import DISAM, SAM, BatchLoss


def data():
    random, y = torch.Generator().manual_seed(0), torch.arange(24) % 3
    bars = torch.eye(3).repeat_interleave(11, 1)[y, None, :32].unsqueeze(-1).expand(-1, 3, -1, 32)
    noise = {name: s * torch.randn(24, 3, 32, 32, generator=random) for name, s in (("photo", 0.5), ("sketch", 1.0))}
    return {"train": {k: (bars + e, y) for k, e in noise.items()}}


if __name__ == "__main__":
    folder, method = sys.argv[1], {"sam": SAM, "disam": DISAM}[sys.argv[2]]
    torch.manual_seed(0)
    x, y = (torch.cat(both) for both in zip(*data()["train"].values(), strict=True))
    rows, order = torch.utils.data.TensorDataset(x, y, torch.arange(48) // 24), torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True, generator=order)
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = method(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), rho=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    told = {"model_name": "timm:test_resnet", "model_arg": ["num_classes=3"], "data": f"{__file__}:data"}
    with landscape.record(
        model, optimizer, folder, every=3, loss="cross_entropy", restore=[schedule, order], **told
    ) as recorder:
        for _ in recorder.until(epochs=4):
            for x, y, domain in loader:

                def closure(x=x, y=y, domain=domain):
                    with torch.autocast("cpu", torch.bfloat16):
                        each = nn.functional.cross_entropy(model(x), y, reduction="none")
                    return BatchLoss.of_examples(each, domain)

                loss = optimizer.step(closure)
                recorder.step(loss)
                schedule.step()
