"""Blocks whose activations are computed again: the same loss, gradient and products, from less memory."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from cases import OUT_OF_MEMORY, domain_data, problem_of, small_mlp
from torch import Tensor, nn

from landscape.autograd.recompute import recompute_blocks
from landscape.base.errors import ResourceError, UsageError
from landscape.data.losses import cross_entropy


class Attention(nn.Module):
    """A block with keyword arguments, a mask without gradient, and a structured output."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor, *, mask: Tensor, note: str = "") -> dict[str, Any]:
        q, k, v = self.mix(x).chunk(3, -1)
        return {"x": x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)), "note": note}


class Deep(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(blocks))
        self.blocks[1].out.weight = self.blocks[0].out.weight  # shared between blocks
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(3, 3, dtype=torch.bool).tril()
        for i, block in enumerate(self.blocks):
            x = block(x, mask=mask, note=str(i))["x"]
        return self.head(x)


def networks() -> dict[str, tuple[nn.Module, Tensor, int]]:
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        return {
            "attention": (Deep().double().eval(), torch.randn(7, 3, 4, generator=g, dtype=torch.float64), 3),
            "norm": (normed.double().eval(), torch.randn(7, 1, 4, 4, generator=g, dtype=torch.float64), 3),
            "plain": (nn.Linear(3, 3).double(), torch.randn(7, 3, generator=g, dtype=torch.float64), 0),
        }


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = torch.arange(len(x)) % 3
    parameters = list(model.parameters())
    g = torch.Generator().manual_seed(1)
    v = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = cross_entropy(model(x), y).mean()
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    inner = sum((a * b).sum() for a, b in zip(first, v, strict=True))
    second = torch.autograd.grad(inner, parameters, retain_graph=True)
    again = torch.autograd.grad(inner, parameters)
    assert all(torch.equal(a, b) for a, b in zip(second, again, strict=True))
    return [loss, *first, *second]


@pytest.mark.parametrize("name", list(networks()))
def test_recomputing_changes_nothing(name: str):
    model, x, blocks = networks()[name]
    expected = answers(model, x)
    state = list(model.state_dict())
    assert recompute_blocks(model) == blocks
    found = answers(model, x)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    assert list(model.state_dict()) == state
    with torch.no_grad():
        assert torch.equal(model(x), networks()[name][0](x))


def test_parameters_that_do_not_move_need_no_gradient():
    model, x, _ = networks()["attention"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("blocks.1" in name)
    other = copy.deepcopy(model)
    recompute_blocks(other)
    for network in (model, other):
        moving = [p for p in network.parameters() if p.requires_grad]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = cross_entropy(network(x), torch.arange(7) % 3).mean()
        first = torch.autograd.grad(loss, moving, create_graph=True)
        network.second = torch.autograd.grad(sum(f.square().sum() for f in first), moving)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(model.second, other.second, strict=True))


def test_a_product_keeps_less_between_the_passes():
    """Bytes that autograd saves in a product of a deep network: far fewer with blocks that compute again."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 64), nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(torch.tanh(self.a(x)))

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    kept = []
    for recompute in (False, True):
        model, held = nn.Sequential(*(Block() for _ in range(12))), weakref.WeakSet()
        if recompute:
            assert recompute_blocks(model) == 12

        def hold(tensor: Tensor, held: weakref.WeakSet = held) -> Held:
            held.add(found := Held(tensor))
            return found

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda found: found.tensor):
            loss = model(torch.randn(500, 4)).square().mean()
            first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        assert first[0].requires_grad
        storages = {h.tensor.untyped_storage().data_ptr(): h.tensor.untyped_storage().nbytes() for h in held}
        kept.append(sum(storages.values()))
    assert kept[1] < 0.2 * kept[0]


class Tight(nn.Module):
    """Runs out of memory, in torch's words, as long as its blocks keep their activations."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and "forward" not in vars(self.inner[0]):
            raise RuntimeError(OUT_OF_MEMORY)
        return self.inner(x)


@pytest.mark.parametrize("first", ["gradient", "product"])
def test_a_problem_recomputes_when_one_example_is_too_much(first: str, caplog: pytest.LogCaptureFixture):
    data, v = domain_data(), torch.ones(57, dtype=torch.float64)
    whole, tight = problem_of(small_mlp(), data), problem_of(Tight(small_mlp()), data, batch_size=8)
    for ask in ("gradient", "product") if first == "gradient" else ("product", "gradient"):
        a, b = (p.gradient() if ask == "gradient" else p.hvp(v) for p in (whole, tight))
        assert torch.allclose(a, b, rtol=1e-12)
    assert tight.batch_size == 1
    assert caplog.text.count("activations of 2 blocks are computed again, same result") == 1
    assert tight.weights_hash == problem_of(Tight(small_mlp()), data).weights_hash
    alone = problem_of(Tight(nn.Sequential(nn.Linear(5, 3).double())), data)
    with pytest.raises(ResourceError, match="one example at a time"):
        alone.gradient()


# -- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_with_in_float32(half: torch.dtype):
    data = {k: (x.float(), y) for k, (x, y) in domain_data().items()}
    model = small_mlp().to(half)
    problem, same = problem_of(model, data), problem_of(copy.deepcopy(model).float(), data)
    assert problem.dtype == torch.float32
    v = torch.ones(57)
    assert torch.equal(problem.hvp(v), same.hvp(v))
    for dtype in (half, str(half).removeprefix("torch."), "int8", "float31"):
        with pytest.raises(UsageError, match=r"cannot compute in .*use float32 or float64"):
            problem_of(model, data, dtype=dtype)


def test_nothing_is_computed_under_autocast():
    problem = problem_of(small_mlp().float(), {k: (x.float(), y) for k, (x, y) in domain_data().items()})
    for ask in (problem.evaluate, problem.gradient, problem.loss_tensor, lambda: problem.hvp(torch.ones(57))):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(UsageError, match="outside the autocast block"):
            ask()
        ask()


class Aliased(nn.Module):
    """A block that calls its layer by a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.again = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.again(x))


def test_blocks_that_name_a_layer_twice_are_recomputed():
    torch.manual_seed(0)
    model = nn.Sequential(Aliased(), Aliased(), nn.Linear(5, 3)).double()
    plain, (x, y) = copy.deepcopy(model), domain_data((6,))["art"]
    own = model[0].layer.weight
    assert recompute_blocks(model) == 3
    v = [torch.ones_like(p) for p in model.parameters()]
    found = []
    for network in (plain, model):
        loss = nn.functional.cross_entropy(network(x), y)
        slopes = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        found.append(torch.autograd.grad(slopes, list(network.parameters()), v))
    torch.testing.assert_close(found[0], found[1])
    assert model[0].layer.weight is own
