"""A Trainer that is told on the command line what it accumulates."""

import os
import sys

import torch
import transformers
from torch import nn
from transformers.trainer_utils import get_last_checkpoint

from landscape.integrations.huggingface import LandscapeCallback, SharpnessAware
from landscape.optim import SAM

how = dict(word.split("=") for word in sys.argv[2].split(","))


class FlatTrainer(SharpnessAware, transformers.Trainer):
    pass


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x, labels):
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


if __name__ == "__main__":
    transformers.set_seed(0)
    x = torch.randn(40, 2)
    rows = [{"x": x[i], "labels": i % 3} for i in range(40)]
    model = Network()
    arguments = transformers.TrainingArguments(
        f"{sys.argv[1]}-theirs",
        per_device_train_batch_size=int(how["batch"]),
        gradient_accumulation_steps=int(how["k"]),
        num_train_epochs=4,
        save_steps=2,
        logging_steps=1,
        warmup_steps=2,
        report_to=[],
        use_cpu=True,
    )
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho=0.05)
    recorder = LandscapeCallback(sys.argv[1], every=2)
    last = get_last_checkpoint(arguments.output_dir) if os.path.isdir(arguments.output_dir) else None
    trainer = FlatTrainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=[recorder])
    trainer.train(resume_from_checkpoint=last)
