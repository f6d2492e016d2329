"""A network whose callable gives another one each time is refused; what the checkpoint holds may come out random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.base.errors import UsageError

HEAD = """
import random
import numpy as np
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(2, 4, bias=False), nn.Linear(4, 3, bias=False)
        BASE
    def forward(self, x):
        return FORWARD
def network():
    SEED
    return Net()
def data():
    return {"train": (torch.eye(2).repeat(4, 1), torch.tensor([0, 1]).repeat(4))}
"""
WITH_BASE = "self.lora_B(self.lora_A(x)) + self.base(x)"
ALONE = "self.lora_B(self.lora_A(x))"
RANDOM = {
    "a base": ("self.base = nn.Linear(2, 3)", WITH_BASE, "pass", "base.weight, base.bias"),
    "a base of numpy": (
        "self.base = nn.Linear(2, 3); self.base.weight.data = torch.tensor(np.random.randn(3, 2)).float(); "
        "nn.init.zeros_(self.base.bias)", WITH_BASE, "pass", "base.weight",
    ),
    "a base of the system's randomness": (
        "self.base = nn.Linear(2, 3, bias=False); self.base.weight.data.fill_(random.SystemRandom().random())",
        WITH_BASE, "torch.manual_seed(0)", "base.weight",
    ),
    "features that are not saved": (
        "self.register_buffer('features', torch.randn(2), persistent=False)",
        "self.lora_B(self.lora_A(x * self.features))", "pass", "features",
    ),
    "features in an attribute": (
        "self.features = torch.randn(2)", "self.lora_B(self.lora_A(x * self.features))", "pass", "features",
    ),
}  # fmt: skip
FIXED = {
    "a seeded base": ("self.base = nn.Linear(2, 3)", WITH_BASE, "torch.manual_seed(7)"),
    "a base of ones": (
        "self.base = nn.Linear(2, 3); [nn.init.ones_(p) for p in self.base.parameters()]", WITH_BASE, "0",
    ),
    "no base": ("pass", ALONE, "0"),
    "positions that are not saved": (
        "self.register_buffer('at', torch.arange(2.0), persistent=False)",
        "self.lora_B(self.lora_A(x + self.at))", "0",
    ),
    "scratch": ("self.scratch = torch.rand(3)", ALONE, "0"),
}  # fmt: skip


def target(folder: Path, base: str, forward: str, seed: str) -> tuple[Path, dict[str, str]]:
    plugin = folder / "mine.py"
    plugin.write_text(HEAD.replace("BASE", base).replace("FORWARD", forward).replace("SEED", seed))
    generator = torch.Generator().manual_seed(0)
    state = {"lora_A.weight": torch.randn(4, 2, generator=generator), "lora_B.weight": torch.ones(3, 4)}
    torch.save(state, folder / "adapter.pt")
    return folder / "adapter.pt", {"model": f"{plugin}:network", "data": f"{plugin}:data"}


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("kind", list(RANDOM))
def test_what_comes_out_random_is_refused(kind: str, tmp_path: Path):
    base, forward, seed, names = RANDOM[kind]
    file, options = target(tmp_path, base, forward, seed)
    words = rf"^THE MODEL IS ANOTHER ONE EACH TIME IT IS BUILT.*{names} \(.*mine.py:network\): load or seed them"
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(UsageError, match=words):
        landscape.open(file, params="lora_", **options)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


@pytest.mark.parametrize("kind", list(FIXED))
def test_what_is_the_same_each_time_is_opened(kind: str, tmp_path: Path):
    file, options = target(tmp_path, *FIXED[kind])
    problem = landscape.open(file, params="lora_", **options)
    assert torch.equal(problem.model.lora_B.weight, torch.ones(3, 4))
    assert problem.n_parameters == 20


def test_the_full_checkpoint_is_the_way_out(tmp_path: Path):
    base, forward, seed, _ = RANDOM["a base"]
    file, options = target(tmp_path, base, forward, seed)
    state = torch.load(file, weights_only=True)

    def loss(weight: Tensor) -> float:
        torch.save({**state, "base.weight": weight, "base.bias": torch.zeros(3)}, file)
        return landscape.open(file, params="lora_", **options).loss()

    x, y = torch.eye(2), torch.arange(2)
    for weight in (torch.zeros(3, 2), torch.eye(3)[:, :2]):
        logits = x @ state["lora_A.weight"].T @ state["lora_B.weight"].T + x @ weight.T
        assert loss(weight) == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-6)


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from landscape_cli.app import main

    base, forward, seed, _ = RANDOM["a base"]
    file, options = target(tmp_path, base, forward, seed)
    words = ["hessian", str(file), "--params", "lora_", "--model", options["model"], "--data", options["data"]]
    assert main([*words, "--out", str(tmp_path)]) == 2
    (line,) = (one for one in capsys.readouterr().err.splitlines() if one.startswith("error: "))
    assert line.startswith("error: THE MODEL IS ANOTHER ONE EACH TIME IT IS BUILT: 2 tensor(s)")
