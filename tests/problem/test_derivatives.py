"""Whether autograd's derivatives are the loss's is asked of every network, and answered rightly both ways."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import assert_untouched, dense, problem_of, snapshot
from torch import Tensor, nn

from landscape import domains, hessian, sharpness, surface
from landscape.base.errors import NumericalError
from landscape.problem.checks.derivatives import Compared, derivatives
from landscape.problem.problem import Problem

LABELS = torch.arange(12) % 3


class Net(nn.Module):
    """Three layers, put together by a function."""

    def __init__(self, way: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))


def of(way: Callable[[Net, Tensor], Tensor], dtype: str = "float64") -> Problem:
    over = "batch" if way is first_order_inner_step else "example"  # one step on all examples couples them
    return problem_of(Net(way), (inputs(), LABELS), dtype=dtype, loss_over=over)


def plain(net: Net, x: Tensor) -> Tensor:
    return net.last(torch.tanh(net.second(torch.tanh(net.first(x)))))


# -- networks whose gradient is not the slope of the loss ----------------------------------------------------------


def detached(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    return net.last(z * z.detach())


def without_graph(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        z = torch.tanh(net.first(x))
    return net.last(z * torch.tanh(net.first(x)))


def through_data(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    return net.last(z * z.data)


def through_numpy(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    return net.last(z * torch.from_numpy(z.detach().numpy() ** 2))


def through_a_number(net: Net, x: Tensor) -> Tensor:
    return plain(net, x) * float(net.first.weight.detach().norm())


def straight_through(net: Net, x: Tensor) -> Tensor:
    w = net.second.weight
    rounded = w + (torch.round(8 * w) / 8 - w).detach()
    return net.last(torch.tanh(F.linear(torch.tanh(net.first(x)), rounded, net.second.bias)))


def hooked(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    if z.requires_grad:
        z.register_hook(lambda g: 0.5 * g)
    return net.last(torch.tanh(net.second(z)))


def reversed_by_a_hook(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    if z.requires_grad:
        z.register_hook(torch.neg)
    return net.last(torch.tanh(net.second(z)))


def clipped_by_a_hook(net: Net, x: Tensor) -> Tensor:
    z = torch.tanh(net.first(x))
    if z.requires_grad:
        z.register_hook(lambda g: g.clamp(-1e-2, 1e-2))
    return net.last(torch.tanh(net.second(z)))


def detached_statistics(net: Net, x: Tensor) -> Tensor:
    z = net.first(x)
    centred = z - z.mean(1, keepdim=True).detach()
    return net.last(torch.tanh(centred / z.std(1, keepdim=True).detach()))


def first_order_inner_step(net: Net, x: Tensor) -> Tensor:
    with torch.enable_grad():
        inner = plain(net, x).square().mean()
        (g,) = torch.autograd.grad(inner, net.first.weight, retain_graph=True)
    return net.last(torch.tanh(F.linear(x, net.first.weight - 0.5 * g, net.first.bias)))


def force_without_graph(net: Net, x: Tensor) -> Tensor:
    x = x.requires_grad_()
    u = plain(net, x)
    return u + torch.autograd.grad(u.sum(), x, retain_graph=True)[0][:, :3]


def argmax_gate(net: Net, x: Tensor) -> Tensor:
    """A hard choice with the slope of a soft one, as Gumbel-softmax has it."""
    soft = net.last(torch.tanh(net.first(x))).softmax(1)
    hard = F.one_hot(soft.argmax(1), 3).to(soft)
    return plain(net, x) * (hard + soft - soft.detach())


STOPPED = {
    "detach": (detached, "first.weight"),
    "no_grad": (without_graph, "first.weight"),
    ".data": (through_data, "first.weight"),
    "NumPy": (through_numpy, "first.weight"),
    "a Python number": (through_a_number, "first.weight"),
    "straight-through": (straight_through, "second.weight"),
    "hook": (hooked, "first.weight"),
    "reversal": (reversed_by_a_hook, "first.weight"),
    "clipping": (clipped_by_a_hook, "first.weight"),
    "detached statistics": (detached_statistics, "first.weight"),
    "first-order inner step": (first_order_inner_step, "last.weight"),
    "force without create_graph": (force_without_graph, "last.weight"),
    "hard choice": (argmax_gate, "last.weight"),
}


def true_error(problem: Problem) -> float:
    """By how much autograd's gradient is off, from the difference quotients of each weight in plain torch."""
    chosen = [0, 3, 7, 11]  # the examples that the comparison takes
    model, x, labels, step = copy.deepcopy(problem.model), inputs().double()[chosen], LABELS[chosen], 1e-6
    parameters = list(model.parameters())

    def value() -> float:
        with torch.enable_grad():
            return float(F.cross_entropy(model(x.clone()), labels).detach())

    loss = F.cross_entropy(model(x.clone()), labels)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gaps, sizes = 0.0, 0.0
    for p, g in zip(parameters, found, strict=True):
        quotient = torch.zeros_like(p)
        for i in range(p.numel()):
            flat, ends = p.detach().view(-1), []
            start = float(flat[i])
            for sign in (1, -1):
                flat[i] = start + sign * step
                ends.append(value())
            flat[i] = start
            quotient.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
        gaps += float((quotient - (0 if g is None else g)).square().sum())
        sizes += float(quotient.square().sum())
    return (gaps / sizes) ** 0.5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", STOPPED)
def test_a_gradient_that_is_not_the_slope_is_found(name: str, dtype: str):
    way, where = STOPPED[name]
    problem = of(way, dtype)
    found = derivatives(problem, product=True)
    assert found.gradient is not None
    assert found.gradient.wrong
    assert where in found.parameters
    assert "not the slope of the loss" in str(found.note("hessian"))
    # Beside the weights, along a few directions, weighed by the sizes of parameters: no more than alike.
    assert found.gradient.error == pytest.approx(true_error(of(way)), rel=2.0, abs=0.02)


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
    "ReLU": lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)),
    "hard functions": lambda: nn.Sequential(
        nn.Linear(4, 32), nn.Hardswish(), nn.Linear(32, 32), nn.Hardtanh(), nn.Softshrink(), nn.Linear(32, 3)
    ),
    "convolutions and pools": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    ),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "spectral_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "orthogonal": lambda: nn.Sequential(
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)
    ),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)),
        nn.Linear(2, 8),
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "LSTM": lambda: Recurrent(nn.LSTM(2, 6, 2, batch_first=True)),
    "GRU": lambda: Recurrent(nn.GRU(2, 6, batch_first=True)),
    "experts": lambda: Experts(),  # noqa: PLW0108 - the class stands below
    "zeros": lambda: scaled(SMOOTH["ReLU"](), 0.0),
    "huge weights": lambda: scaled(SMOOTH["ReLU"](), 100.0),
    "tiny weights": lambda: scaled(SMOOTH["tanh"](), 1e-5),
    "float32 inside": lambda: nn.Sequential(nn.Linear(4, 16), InFloat32(), nn.SiLU(), nn.Linear(16, 3)),
    "linear": lambda: nn.Linear(4, 3),
}
LOSSES = {
    "cross_entropy": ("cross_entropy", LABELS),
    "mse": ("mse", torch.randn(12, 3, generator=torch.Generator().manual_seed(5))),
    "huber": ("huber", 3 * torch.randn(12, 3, generator=torch.Generator().manual_seed(5))),
    "hinge": (lambda o, t: (1 - o.gather(1, t[:, None]) + o).clamp(min=0).sum(1), LABELS),
    "tiny": (lambda o, t: 1e-12 * F.cross_entropy(o, t, reduction="none"), LABELS),
}


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.last = cell, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(x.reshape(len(x), 2, 2))[0][:, -1])


class Experts(nn.Module):
    """Each example goes to the two that its gate likes best."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).topk(2, 1)
        answers = torch.stack([e(x) for e in self.experts], 1).gather(1, chosen[:, :, None].expand(-1, -1, 3))
        return (answers * weight.softmax(1)[:, :, None]).sum(1)


class InFloat32(nn.Module):
    """Normalises in float32, whatever comes, as language models do."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


@pytest.mark.parametrize("name", SMOOTH)
def test_no_network_with_right_derivatives_is_suspected(name: str):
    for loss, targets in LOSSES.values():
        for seed in range(2):
            torch.manual_seed(seed)
            found = derivatives(problem_of(SMOOTH[name](), (inputs(seed), targets), loss), product=True)
            assert found.note("hessian") is None
            assert found.gradient is not None
            assert found.product is not None


@pytest.mark.parametrize("name", ["tanh", "ReLU", "convolutions and pools", "LSTM"])
def test_at_a_minimum_nothing_is_suspected(name: str):
    torch.manual_seed(0)
    model, x = SMOOTH[name](), inputs()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(x), LABELS).backward()
        optimizer.step()
    assert derivatives(problem_of(model, (x, LABELS)), product=True).note("hessian") is None


def test_smooth_networks_agree_to_a_millionth():
    found = derivatives(of(plain, "float32"), product=True)
    assert found.dtype == torch.float64
    assert found.gradient is not None
    assert found.product is not None
    assert max(found.gradient.error or 0, found.product.error or 0) < 1e-6


def test_kinks_exactly_at_the_weights_are_no_contradiction():
    """Biases of zero under black pixels: ReLU's slope there is a convention."""
    torch.manual_seed(0)
    model = SMOOTH["ReLU"]()
    for name, p in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
    found = derivatives(problem_of(model, (torch.zeros(12, 4), LABELS)), product=True)
    assert found.note("hessian") is None


def test_rows_that_torch_never_trains_are_left_alone():
    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (12, 4))
    tokens[:, 0] = 0
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 3))
    nn.init.normal_(model[0].weight)
    assert derivatives(problem_of(model, (tokens, LABELS)), product=True).note("hessian") is None


# -- what is said ----------------------------------------------------------------------------------------------------


class SimSiam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.p = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.f(x))
        return torch.cat([self.p(z), z.detach()], 1)


def similarity(output: Tensor, target: Tensor) -> Tensor:
    prediction, stopped = output.chunk(2, 1)
    return -F.cosine_similarity(prediction, stopped, dim=1)


def test_curvature_of_a_stop_gradient_is_said_to_be_something_else():
    """2.7547 with a small residual, where the loss bends by 1.782 along the same direction."""
    torch.manual_seed(0)
    model = SimSiam()
    torch.manual_seed(5)
    problem = problem_of(model, (torch.randn(10, 3).double(), torch.zeros(10)), similarity, dtype="float64")
    found = hessian(problem, top=1)
    assert found["eigenvalues"][0] == pytest.approx(2.7547, abs=1e-3)
    v = surface(problem, dim=1, points=3, range=0.01, direction=("eigvec:1",))
    loss = v.data["loss"].values.ravel()
    assert (loss[0] - 2 * loss[1] + loss[2]) / 1e-4 == pytest.approx(1.782, abs=1e-3)
    (said,) = (n for n in found["notes"] if "not the slope of the loss" in n)
    assert "f.weight" in said
    assert "neither the second derivative of the loss nor" in said
    record = found["derivatives"]
    assert record["parameters"][0] == "f.weight"
    assert record["gradient_error"] > 0.05
    assert record["product_error"] > 0.05
    assert record["note"] == said
    assert said in v.record["notes"]


def test_every_analysis_that_uses_the_gradient_says_so():
    problem = of(detached)
    said = "is not of the loss"
    assert said in sharpness(problem)["derivatives"]["note"]
    assert said in surface(problem, dim=1, points=3, range=0.1, direction=("grad",))["derivatives"]["note"]
    assert any(said in n for n in domains(problem)["notes"])
    for operator in ("ggn", "empirical-fisher"):
        found = hessian(problem, top=1, operator=operator)["derivatives"]
        assert f"{operator} is made of the derivatives that autograd gives" in found["note"]
        assert found["product_error"] is None


def test_what_uses_no_gradient_says_nothing_of_it():
    problem = of(detached)
    assert sharpness(problem, measure=("average-case", "weight-norm"), draws=4)["derivatives"] is None
    assert surface(problem, dim=1, points=3, range=0.1)["derivatives"] is None


def test_a_right_gradient_with_a_wrong_product_is_told_apart():
    """A tensor that is detached in the gradient only: its slope is right, its curvature is not."""

    def way(net: Net, x: Tensor) -> Tensor:
        z = net.first(x)
        if z.requires_grad:
            z.register_hook(lambda g: g.detach() + 0 * g)
        return net.last(torch.tanh(net.second(torch.tanh(z))))

    found = derivatives(of(way), product=True)
    assert isinstance(found.gradient, Compared)
    assert not found.gradient.wrong
    assert found.product is not None
    assert found.product.wrong
    assert "not the derivative of the gradient" in str(found.note("hessian"))
    assert found.note() is None


def test_an_asymmetric_product_is_refused_with_the_reason():
    with pytest.raises(NumericalError, match=r"not symmetric .* the gradient is not the slope of the loss"):
        hessian(of(clipped_by_a_hook), top=1)


def test_products_of_saturated_probabilities_are_said_to_be_rounded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(40, 6)
    with torch.no_grad():
        best = model(x).topk(2).values
        x = x[best[:, 0] - best[:, 1] > 0.1]
        labels = model(x).argmax(1)
        # At 100 the largest eigenvalue is off by 3e-4, which the tolerance allows; here by a third.
        model[2].weight.mul_(200)
        model[2].bias.mul_(200)
    with pytest.raises(NumericalError, match=r"they are rounded: .* use `dtype='float64'`"):
        hessian(Problem(model, (x, labels), device="cpu"), top=1)
    assert hessian(Problem(model, (x, labels), device="cpu", dtype="float64"), top=1)["symmetry_error"] < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_of_saturated_probabilities_raise_no_false_alarm(dtype: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(40, 6)
    with torch.no_grad():
        best = model(x).topk(2).values
        x = x[best[:, 0] - best[:, 1] > 0.1]
        labels = model(x).argmax(1)
        model[2].weight.mul_(400)
        model[2].bias.mul_(400)
    found = derivatives(Problem(model, (x, labels), device="cpu", dtype=dtype), product=True)
    assert found.note() is None
    assert found.note("hessian") is None


def test_a_hook_of_a_module_is_said_and_not_taken_for_a_custom_function():
    def build(hook: Callable[..., object]) -> Problem:
        net = Net(plain)
        net.second.register_full_backward_hook(hook)
        return problem_of(net, (inputs(), LABELS), dtype="float64")

    scaling = hessian(build(lambda module, into, out: tuple(0.3 * g for g in into)), top=1)
    assert scaling["derivatives"]["gradient_error"] > 0.02
    watching = hessian(build(lambda module, into, out: None), top=1)
    assert watching["derivatives"]["note"] is None
    _, _, matrix = dense(Net(plain).double(), inputs().double(), LABELS)
    assert watching["eigenvalues"][0] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)


# -- the network is left as it was -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_comparison_leaves_no_trace(dtype: str):
    torch.manual_seed(0)
    problem = problem_of(SMOOTH["convolutions and pools"](), (inputs(), LABELS), dtype=dtype)
    before = snapshot(problem.model)
    v = torch.ones(problem.n_parameters)
    with problem_products(problem) as products:
        first = products(v)  # its graphs are kept
        derivatives(problem, product=True)
        assert_untouched(problem.model, before)
        assert torch.equal(products(v), first)


def problem_products(problem: Problem):
    from landscape.problem.products import Products

    return Products(problem)


def test_the_comparison_gives_back_weights_after_an_exception():
    calls: list[int] = []

    def failing(net: Net, x: Tensor) -> Tensor:
        if net.first.weight.dtype == torch.float64:
            calls.append(1)
            if len(calls) > 2:
                raise KeyboardInterrupt
        return plain(net, x)

    problem = of(failing, "float32")
    before = snapshot(problem.model)
    with pytest.raises(KeyboardInterrupt):
        derivatives(problem)
    assert_untouched(problem.model, before)


def test_a_network_that_runs_in_its_own_type_only_is_compared_in_it():
    def float32_only(net: Net, x: Tensor) -> Tensor:
        return plain(net, x + torch.zeros(4, dtype=torch.float32) @ torch.zeros(4, 4, dtype=net.first.weight.dtype))

    found = derivatives(of(float32_only, "float32"), product=True)
    assert found.dtype == torch.float32
    assert found.note("hessian") is None

    def stopped(net: Net, x: Tensor) -> Tensor:
        return float32_only(net, x) * net.first(x).detach()[:, :3]

    wrong = derivatives(of(stopped, "float32"))
    assert wrong.gradient is not None
    assert wrong.gradient.wrong


def test_it_is_asked_once():
    calls: list[int] = []

    def counting(net: Net, x: Tensor) -> Tensor:
        calls.append(len(x))
        return plain(net, x)

    problem = of(counting, "float32")
    calls.clear()
    derivatives(problem, product=True)
    first = len(calls)
    derivatives(problem)
    derivatives(problem, product=True)
    assert len(calls) == first
    assert first <= 9  # a gradient, two losses, a loss, a product, two gradients; and what the problem itself asked
    assert set(calls[-7:]) == {4}


def test_jumps_are_said_and_blamed_on_nobody():
    """A loss that is as rough as rounding to hundredths has difference quotients of all sizes."""

    def coarse(output: Tensor, target: Tensor) -> Tensor:
        values = F.cross_entropy(output, target, reduction="none")
        noise = torch.sin(1e9 * values.detach())
        return values + 0.01 * noise

    found = derivatives(problem_of(Net(plain), (inputs(), LABELS), coarse))
    assert found.gradient is not None
    assert not found.gradient.wrong
    assert "jumps or is rounded coarsely" in str(found.note())
