"""What the commands say where the gradient is not the slope of the loss."""

from __future__ import annotations

from pathlib import Path

import torch

PLUGIN = """
import torch
from torch import nn

class Stopped(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        z = torch.tanh(self.first(x))
        return self.last(z * z.detach())

def data():
    return {"train": (torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3)}
"""
SAID = "the gradient is not the slope of the loss"


def test_tables_and_json_say_it(landscape, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(PLUGIN, namespace)
    torch.save(namespace["Stopped"]().state_dict(), tmp_path / "net.pt")
    words = ("net.pt", "--model", "plugin.py:Stopped", "--data", "plugin.py:data")
    for command, options in (
        ("hessian", ("--top", 1)),
        ("sharpness", ("--measure", "gradient-norm")),
    ):
        shown = landscape(command, *words, *options)
        assert shown.code == 0, shown.err
        flat = " ".join(shown.out.split())
        assert SAID in flat, command
        assert "first.weight" in flat, command
        record = landscape(command, *words, *options, "--json").json["derivatives"]
        assert SAID in record["note"], command
        assert record["gradient_error"] > 0.05, command
        assert record["parameters"][0] == "first.weight", command


def test_a_network_without_surprises_is_told_nothing(landscape, tmp_path: Path) -> None:
    plain = PLUGIN.replace("z * z.detach()", "z * z")
    (tmp_path / "plugin.py").write_text(plain)
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(plain, namespace)
    torch.save(namespace["Stopped"]().state_dict(), tmp_path / "net.pt")
    words = ("hessian", "net.pt", "--model", "plugin.py:Stopped", "--data", "plugin.py:data", "--top", 1)
    assert "slope" not in landscape(*words).out
    record = landscape(*words, "--json").json["derivatives"]
    assert record["note"] is None
    assert record["parameters"] == []
    assert 0 <= record["gradient_error"] < 1e-6
    assert 0 <= record["product_error"] < 1e-6
