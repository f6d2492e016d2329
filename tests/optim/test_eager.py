"""The base optimizers of our trainings are torch's, to the bit, and leave torch's compiler alone."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch import nn

from landscape.optim.core import eager

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "foreach": False}),
]


def trained(
    kind: Any, settings: dict[str, Any], *, copied: bool = False
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Weights and state after steps with a schedule, hooks, a second group, and a state that is loaded midway."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(8, 4)
    optimizer = kind(model[0].parameters(), **settings)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.02})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    for i in range(6):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        if i % 2:
            optimizer.step()
        else:
            assert optimizer.step(lambda loss=loss: loss) is loss
        schedule.step()
        if i == 3:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert len(seen) == 6
    return [p.detach() for p in model.parameters()], optimizer.state_dict()


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_they_are_those_of_torch_to_the_bit(name: str, settings: dict[str, Any]) -> None:
    ours, state = trained(getattr(eager, name), settings)
    theirs, expected = trained(getattr(torch.optim, name), settings)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert state["param_groups"] == expected["param_groups"]
    for key, entries in expected["state"].items():
        for field, value in entries.items():
            assert torch.equal(torch.as_tensor(state["state"][key][field]), torch.as_tensor(value))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_they_can_be_copied_and_stored(name: str) -> None:
    optimizer = getattr(eager, name)([nn.Parameter(torch.ones(3))], lr=0.1)
    assert isinstance(optimizer, getattr(torch.optim, name))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is type(optimizer)
        assert other.param_groups[0]["lr"] == 0.1


def test_a_training_does_not_import_the_compiler() -> None:
    program = """
        import sys, torch, landscape
        from landscape.optim.core.build import build_optimizer
        model = torch.nn.Linear(3, 2)
        for name in ("sgd", "sam", "asam", "gsam", "sagm"):
            made = build_optimizer(name, model.named_parameters(), base="sgd", lr=0.1, momentum=0.9, weight_decay=0,
                                   settings={})
            def closure():
                made.zero_grad()
                loss = model(torch.ones(4, 3)).square().mean()
                loss.backward()
                return loss
            made.step(closure)
            made.load_state_dict(made.state_dict())
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
