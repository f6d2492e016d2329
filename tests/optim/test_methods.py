"""SAM, SAGM and DISAM against re-derivations in plain autograd: own ascent, own base step, own BatchNorm care."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.optim.disam import DISAM
from landscape.optim.engine import ERM, BatchLoss
from landscape.optim.sagm import SAGM
from landscape.optim.sam import SAM

STEPS = 5
SETTINGS = {
    "erm": {},
    "sam": {"rho": 0.3},
    "sagm": {"rho": 0.3, "alpha": 0.2},
    "disam": {"rho": 0.3, "lam": 0.7},
}
CLASSES = {"erm": ERM, "sam": SAM, "sagm": SAGM, "disam": DISAM}
BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.01),
}


def network(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    layer = {"none": nn.Identity, "batch": lambda: nn.BatchNorm1d(7)}[norm]()
    return nn.Sequential(nn.Linear(4, 7), layer, nn.Tanh(), nn.Linear(7, 3)).double()


def data() -> tuple[Tensor, Tensor, Tensor]:
    """24 examples of three domains with counts 13, 7, 4; the domains differ much in their losses."""
    g = torch.Generator().manual_seed(1)
    domain = torch.tensor([0] * 13 + [1] * 7 + [2] * 4)
    x = torch.randn(24, 4, generator=g, dtype=torch.float64) * (1 + domain[:, None])
    return x, torch.randint(0, 3, (24,), generator=g), domain


# -- the re-derivation ---------------------------------------------------------------------------------------------


def derived(method: str, base: str, norm: str, settings: dict[str, float]) -> dict[str, Tensor]:
    """Weights and buffers after five full-batch steps, written from the formulas of the papers."""
    model = network(norm).train()
    x, y, domain = data()
    params = list(model.parameters())
    memory: list[dict[str, Tensor]] = [{} for _ in params]

    def losses() -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")

    def gradient(scalar: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(scalar, params))

    def norm_of(g: list[Tensor]) -> Tensor:
        return sum(t.pow(2).sum() for t in g).sqrt()

    for t in range(1, STEPS + 1):
        each = losses()
        g = gradient(each.mean())
        if method != "erm":
            buffers = {k: b.clone() for k, b in model.named_buffers()}
            if method == "disam":
                with torch.no_grad():
                    means = torch.stack([each[domain == i].mean() for i in range(3)])
                    beta = torch.bincount(domain).double() / 24 - 2 * settings["lam"] / 3 * (means - means.mean())
                    assert float(beta.sum()) == pytest.approx(1)
                frozen = copy.deepcopy(model)  # the losses of the domains again, without counting batches twice
                fresh = F.cross_entropy(frozen(x), y, reduction="none")
                d = [
                    sum(
                        b * torch.autograd.grad(fresh[domain == i].mean(), p, retain_graph=True)[0]
                        for i, b in enumerate(beta)
                    )
                    for p in frozen.parameters()
                ]
                e = [settings["rho"] * v / (norm_of(d) + 1e-12) for v in d]
            elif method == "sagm":
                e = [(settings["rho"] / (norm_of(g) + 1e-12) - settings["alpha"]) * v for v in g]
            else:
                e = [settings["rho"] * v / (norm_of(g) + 1e-12) for v in g]
            here = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p, move in zip(params, e, strict=True):
                    p.add_(move)
            after = gradient(losses().mean())
            with torch.no_grad():
                for p, w in zip(params, here, strict=True):
                    p.copy_(w)
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
            g = [0.5 * (a + b) for a, b in zip(g, after, strict=True)] if method == "sagm" else after
        with torch.no_grad():
            for p, v, m in zip(params, g, memory, strict=True):
                decayed = v + 0.01 * p
                if base == "sgd":
                    m["buffer"] = decayed.clone() if t == 1 else 0.9 * m["buffer"] + decayed
                    p.sub_(0.2 * m["buffer"])
                else:
                    m["m"] = 0.9 * m.get("m", torch.zeros_like(v)) + 0.1 * decayed
                    m["v"] = 0.999 * m.get("v", torch.zeros_like(v)) + 0.001 * decayed**2
                    p.sub_(0.02 * (m["m"] / (1 - 0.9**t)) / ((m["v"] / (1 - 0.999**t)).sqrt() + 1e-8))
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def trained(
    method: str, base: str, norm: str, settings: dict[str, float], *, style: str = "batch loss"
) -> dict[str, Tensor]:
    model = network(norm).train()
    x, y, domain = data()
    optimizer = CLASSES[method](BASES[base](model.parameters()), **settings)

    def closure() -> Any:
        each = F.cross_entropy(model(x), y, reduction="none")
        if style == "batch loss":
            return BatchLoss(each.mean(), torch.stack([each[domain == i].mean() for i in range(3)]))
        optimizer.zero_grad()
        each.mean().backward()
        return each.mean()

    for _ in range(STEPS):
        optimizer.step(closure)
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize("method", list(CLASSES))
def test_five_steps_equal_the_formulas(method: str, base: str, norm: str):
    """Weights, running statistics and the count of batches."""
    assert (
        distance(trained(method, base, norm, SETTINGS[method]), derived(method, base, norm, SETTINGS[method])) < 1e-10
    )


@pytest.mark.parametrize(("method", "setting"), [(m, s) for m, settings in SETTINGS.items() for s in settings])
@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_the_agreement_would_notice_one_percent(method: str, setting: str, base: str):
    changed = {**SETTINGS[method], setting: SETTINGS[method][setting] * 1.01}
    assert distance(trained(method, base, "batch", changed), derived(method, base, "batch", SETTINGS[method])) > 1e-8


@pytest.mark.parametrize("method", ["erm", "sam", "sagm"])
@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_closures_of_torchs_convention_give_the_same_bits(method: str, base: str):
    a, b = (trained(method, base, "batch", SETTINGS[method], style=style) for style in ("batch loss", "torch"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_mutual_differences_are_visible():
    """The four methods end in four places; no agreement above is an accident of a small step."""
    ends = [trained(m, "sgd", "none", SETTINGS[m]) for m in CLASSES]
    for i, a in enumerate(ends):
        for b in ends[:i]:
            assert distance(a, b) > 1e-4
