"""Strangers with their own libraries: an environment of their own, a file of at most 20 lines, three commands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from environments import environment

RUN = "import sys; from landscape_cli.app import main; sys.exit(main())"

PICTURES = """
import torch
from pathlib import Path
from PIL import Image
for name in ("cat", "dog"):
    for k in range(6):
        file = Path("pictures") / name / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((torch.rand(32, 32, 3) * 255).byte().numpy()).save(file)
"""

SETUPS: dict[str, tuple[list[str], str, str]] = {
    "torchvision ResNet-18 on an image folder": (
        ["torchvision"],
        PICTURES
        + """
import torchvision
torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), "resnet18.pth")
""",
        "resnet18.pth --model torchvision:resnet18 --data images:pictures",
    ),
    "timm ViT": (
        ["timm"],
        PICTURES
        + """
import timm
vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=2)
torch.save({"model": vit.state_dict(), "epoch": 3}, "vit.pth")
""",
        "vit.pth --model timm:vit_tiny_patch16_224 --model-arg img_size=32 depth=2 --data images:pictures",
    ),
    "Hugging Face text classifier from a folder": (
        ["transformers", "datasets"],
        """
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
config = BertConfig(vocab_size=50, max_position_embeddings=32, num_labels=3, **sizes)
BertForSequenceClassification(config).save_pretrained("classifier", max_shard_size="10KB")
ids, lengths = torch.randint(0, 50, (24, 12)), torch.randint(4, 13, (24, 1))
mask, labels = (torch.arange(12) < lengths).long(), torch.randint(0, 3, (24,))
columns = {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "label": labels.tolist()}
Dataset.from_dict({"text": ["words"] * 24} | columns).save_to_disk("reviews")
""",
        "classifier --model hf:classifier --data hf:reviews",
    ),
    "Lightning checkpoint": (
        ["lightning"],
        """
import lightning, torch

class Classifier(lightning.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 3))
    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
def network(): return Classifier().net
def data():
    x = torch.linspace(-1, 1, 240).reshape(60, 4).sin()
    return {"train": torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 0).long())}
if __name__ == "__main__":
    trainer = lightning.Trainer(max_epochs=2, logger=False, default_root_dir="lit", enable_progress_bar=False)
    trainer.fit(Classifier(), torch.utils.data.DataLoader(data()["train"], batch_size=16))
""",
        "lit --model stranger.py:network --data stranger.py:data",
    ),
    "plain regression with two inputs": (
        [],
        """
import torch

class Product(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(3, 8), torch.nn.Linear(2, 8)
    def forward(self, a, b):
        return (torch.tanh(self.left(a)) * torch.tanh(self.right(b))).sum(1)

def data():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 3, generator=g), torch.randn(50, 2, generator=g)
    return {"train": ((a, b), a[:, 0] * b[:, 1])}

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(Product().state_dict(), "product.pt")
""",
        "product.pt --model stranger.py:Product --data stranger.py:data --loss mse",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_a_stranger_gets_eigenvalues_sharpness_and_a_surface(name: str, tmp_path: Path):
    packages, file, words = SETUPS[name]
    assert len([line for line in file.splitlines() if line.strip()]) <= 20
    python = environment(tmp_path / "venv", packages)
    (tmp_path / "stranger.py").write_text(file)
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def call(*command: str) -> str:
        done = subprocess.run([python, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    call("stranger.py")

    def landscape(*command: str) -> dict:
        return json.loads(call("-c", RUN, command[0], *words.split(), *command[1:], "--json"))

    found = landscape("hessian", "--top", "1", "--tol", "0.01")
    assert found["converged"] == [True]
    assert found["eigenvalues"][0] > 0
    assert found["symmetry_error"] < 1e-3
    rise = landscape("sharpness", "--m", "4", "--rho", "0.05")["measures"][0]
    assert rise["value"] > 0
    assert rise["n_blocks"] == -(-found["n_examples"] // 4)
    grid = landscape("surface", "--points", "3")
    assert grid["shape"] == [3, 3]
    assert grid["restored"]
    assert grid["nan_cells"] == 0
    assert grid["center_loss"] == pytest.approx(found["loss"], rel=1e-5)
