"""What is looked at when a problem is made: one function of the weights, the mean over its examples, or a refusal."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import dense, domain_data, problem_of, small_mlp
from torch import Tensor, nn

import landscape
from landscape.base.errors import LandscapeError, NumericalError, UsageError
from landscape.problem.problem import Problem


def sorted_data(n: int = 1200) -> tuple[Tensor, Tensor]:
    """Half of the examples, in front, of one class."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)
    y[: n // 2] = 0
    return x, y


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 3).double()


WEIGHT = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)


def weighted(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o, t, weight=WEIGHT)


def weighted_float32(o: Tensor, t: Tensor) -> Tensor:
    """Holds numbers of another type than float64."""
    return F.cross_entropy(o.float(), t, weight=WEIGHT.float())


def summed(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o, t, reduction="sum")


def infonce(o: Tensor, t: Tensor) -> Tensor:
    z = F.normalize(o, dim=1)
    s = (z @ z.t() / 0.5).fill_diagonal_(-1e9)
    return F.cross_entropy(s, (torch.arange(len(s)) + 1) % len(s))


def infonce_each(o: Tensor, t: Tensor) -> Tensor:
    """One loss per example, each of which looks at all the others."""
    z = F.normalize(o, dim=1)
    s = (z @ z.t() / 0.5).fill_diagonal_(-1e9)
    return F.cross_entropy(s, (torch.arange(len(s)) + 1) % len(s), reduction="none")


def dice(o: Tensor, t: Tensor) -> Tensor:
    p, hot = o.softmax(1), F.one_hot(t, 3).to(o)
    return 1 - (2 * (p * hot).sum() + 1) / (p.sum() + hot.sum() + 1)


def root(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o, t).sqrt()


def centred(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o - o.mean(0), t, reduction="none")


def token_mean(o: Tensor, t: Tensor) -> Tensor:
    """The mean over what counts in a batch, which is not that over examples."""
    return (F.cross_entropy(o, t, reduction="none") * (t > 0)).sum() / (t > 0).sum().clamp(min=1)


COUPLED = [weighted, weighted_float32, summed, infonce, infonce_each, dice, root, centred, token_mean]


@pytest.mark.parametrize("loss", COUPLED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("batch_size", [2000, None, 100, 10])
def test_a_loss_that_is_no_mean_is_refused_whatever_the_micro_batches(loss: Callable[..., Tensor], batch_size: Any):
    with pytest.raises(UsageError, match=r"is no mean over examples.*one loss per example.*`loss_over='batch'`"):
        problem_of(linear(), sorted_data(), loss, batch_size=batch_size)


def test_a_coupled_loss_is_found_at_a_minimum_where_all_losses_are_next_to_nothing():
    x = torch.eye(3, dtype=torch.float64).repeat(10, 1)
    model = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(40 * torch.eye(3))
    assert float(weighted(model(x), x.argmax(1)).detach()) < 1e-15
    with pytest.raises(UsageError, match="no mean over examples"):
        problem_of(model, (x, x.argmax(1)), weighted)


MEANS: dict[str, tuple[Any, Any]] = {
    "mean only": (F.cross_entropy, None),
    "each": (lambda o, t: F.cross_entropy(o, t, reduction="none"), None),
    "class weights of torch's own": (nn.CrossEntropyLoss(weight=WEIGHT), None),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), None),
    "negative": (lambda o, t: -o.gather(1, t[:, None])[:, 0], None),
    "huge": (lambda o, t: 1e6 * F.cross_entropy(o, t), None),
    "tiny": (lambda o, t: 1e-12 * F.cross_entropy(o, t), None),
    "cancelling": (lambda o, t: (o.sum(1) - o.sum(1).detach()) + 0 * t, None),
    "not finite": (lambda o, t: F.cross_entropy(o, t, reduction="none") * float("nan"), None),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_means_are_let_through(name: str, dtype: str):
    loss = MEANS[name][0]
    if name.startswith("class weights"):
        loss = nn.CrossEntropyLoss(weight=WEIGHT.to(getattr(torch, dtype)))
    problem = problem_of(linear(), sorted_data(60), loss, dtype=dtype)
    assert isinstance(problem.loss(), float)


# -- over batches ----------------------------------------------------------------------------------------------------


def over_batches(loss: Callable[..., Tensor], size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean over consecutive batches in plain torch."""

    def mean(o: Tensor, t: Tensor) -> Tensor:
        return torch.stack([loss(a, b) for a, b in zip(o.split(size), t.split(size), strict=True)]).mean()

    return mean


@pytest.mark.parametrize("loss", [weighted, summed, infonce, dice], ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [40, 16, 7])
def test_over_batches_everything_is_that_of_the_mean_over_these_batches(loss: Callable[..., Tensor], size: int):
    """40 examples in batches of 40, 16 (the last has 8) and 7 (the last has 5)."""
    x, y = sorted_data(40)
    problem = problem_of(linear(), (x, y), loss, loss_over="batch", batch_size=size)
    value, gradient, hessian = dense(linear(), x, y, over_batches(loss, size))
    assert problem.loss() == pytest.approx(value, rel=1e-12)
    assert torch.allclose(problem.gradient(), gradient, rtol=1e-10, atol=1e-14)
    v = torch.sin(torch.arange(15.0, dtype=torch.float64))
    assert torch.allclose(problem.hvp(v), hessian @ v, rtol=1e-9, atol=1e-12)
    expected = torch.linalg.eigvalsh(hessian)
    largest = float(expected[expected.abs().argmax()])
    if largest > 0:
        found = landscape.hessian(problem, top=1, tol=1e-6)
        assert found["eigenvalues"] == pytest.approx([largest], rel=1e-6)
    surface = landscape.surface(problem, dim=1, points=3, range=0.5, direction=("unit",))
    assert surface["loss_over"] == "batch"
    moved = linear()
    flat = torch.cat([p.detach().reshape(-1) for p in moved.parameters()])
    step = torch.cat([0.5 * surface.vectors[f"d1.{k}"].reshape(-1) for k, _ in moved.named_parameters()])
    torch.nn.utils.vector_to_parameters(flat + step, moved.parameters())
    there = float(over_batches(loss, size)(moved(x), y).detach())
    assert surface.data["loss"].values.ravel()[1:] == pytest.approx([value, there], rel=1e-12)


def test_sharpness_over_batches_climbs_batch_by_batch():
    x, y = sorted_data(40)
    problem = problem_of(linear(), (x, y), infonce, loss_over="batch", batch_size=16)
    rises = []
    for part in range(0, 40, 16):
        rows = slice(part, part + 16)
        model = linear()
        before = infonce(model(x[rows]), y[rows])
        gradients = torch.autograd.grad(before, list(model.parameters()))
        norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.add_(g, alpha=0.05 / float(norm))
            rises.append(float(infonce(model(x[rows]), y[rows]) - before))
    found = landscape.sharpness(problem)
    (row,) = found["measures"]
    assert (row["m"], row["n_blocks"]) == (16, 3)
    assert found["partition"]["rule"].startswith("the recorded batches")
    assert found["partition"]["seed"] is None
    assert row["value"] == pytest.approx(np.mean(rises), rel=1e-9)
    with pytest.raises(UsageError, match="m=4 is not the 16 examples of a batch"):
        landscape.sharpness(problem, m=(4,))


def test_no_batch_over_domains_and_domains_have_their_own():
    data = {k: (x, y) for k, (x, y) in zip("ab", ((sorted_data(20)), (sorted_data(13))), strict=True)}
    problem = problem_of(linear(), data, infonce, loss_over="batch", batch_size=8)
    parts = {k: over_batches(infonce, 8)(linear()(x), y).detach() for k, (x, y) in data.items()}
    found = landscape.domains(problem)["domains"]
    for name, part in parts.items():
        assert found[name]["loss"] == pytest.approx(float(part), rel=1e-12)
        assert problem.restrict_to_domain(name).loss() == pytest.approx(float(part), rel=1e-12)
    assert problem.loss() == pytest.approx(float(3 * parts["a"] + 2 * parts["b"]) / 5, rel=1e-12)


def test_generalised_gauss_newton_over_batches():
    x, y = sorted_data(20)
    problem = problem_of(linear(), (x, y), dice, loss_over="batch", batch_size=8)
    model = linear()
    names = [k for k, _ in model.named_parameters()]

    def outputs(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (x,))

    weights = tuple(p.detach() for p in model.parameters())
    jacobian = torch.cat([j.flatten(2) for j in torch.autograd.functional.jacobian(outputs, weights)], 2).flatten(
        0, 1
    )
    curvature = torch.autograd.functional.hessian(lambda o: over_batches(dice, 8)(o, y), outputs(*weights))
    expected = jacobian.T @ curvature.reshape(60, 60) @ jacobian
    v = torch.sin(torch.arange(15.0, dtype=torch.float64))
    from landscape.curvature.operators import operator_of

    assert torch.allclose(operator_of(problem, "ggn")(v), expected @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("operator", ["empirical-fisher", "gradient-covariance"])
def test_what_is_made_of_single_examples_is_refused_over_batches(operator: str):
    problem = problem_of(linear(), sorted_data(20), infonce, loss_over="batch", batch_size=8)
    with pytest.raises(UsageError, match=r"is made of single examples.*`loss_over='batch'`"):
        landscape.hessian(problem, top=1, operator=operator)
    for measure in ("fisher-rao", "input-sharpness"):
        with pytest.raises(UsageError, match="is made of single examples"):
            landscape.sharpness(problem, measure=(measure,))


def test_batches_are_not_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of(linear(), sorted_data(20), infonce, loss_over="batch", batch_size=8)

    def failing(batch: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(problem, "batch_loss", failing)
    with pytest.raises(LandscapeError, match=r"out of memory with micro-batches of 8.*not halved unasked"):
        problem.gradient()


# -- networks that couple examples -----------------------------------------------------------------------------------


class Coupled(nn.Module):
    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.way = small_mlp(), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.net(x))


COUPLINGS = {
    "centring": lambda h: h - h.mean(0),
    "normalising": lambda h: (h - h.mean(0)) / (h.std(0, correction=0) + 1e-5),
    "attention over the batch": lambda h: (h @ h.T).softmax(1) @ h,
    "a neighbour": lambda h: h + 0.1 * h.roll(1, 0),
    "the size of the batch": lambda h: h / len(h),
    "sorting": lambda h: h.sort(0).values,
}


@pytest.mark.parametrize("way", COUPLINGS)
def test_a_network_that_couples_examples_is_refused(way: str):
    with pytest.raises(UsageError, match=r"depends on the others in its batch.*`loss_over='batch'`"):
        problem_of(Coupled(COUPLINGS[way]), domain_data())
    over = problem_of(Coupled(COUPLINGS[way]), domain_data(), loss_over="batch", batch_size=9)
    assert np.isfinite(over.loss())


# -- random forwards, and forwards that keep state -------------------------------------------------------------------


class Random(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.draw = small_mlp(), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.draw(x))


GENERATOR = torch.Generator()
DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "torch": lambda x: x + 1e-2 * torch.randn_like(x),
    "NumPy": lambda x: x * float(np.random.rand()),  # noqa: NPY002
    "Python": lambda x: x * random.random(),
    "a generator of its own": lambda x: x + 0.1 * torch.rand(x.shape, generator=GENERATOR).double(),
    "hardly ever": lambda x: x if torch.rand(()) < 0.5 else 2 * x,
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_random_forward_is_refused_before_anything_is_asked(draw: str):
    with pytest.raises(NumericalError, match=r"two passes over the same examples (differ|give)"):
        problem_of(Random(DRAWS[draw]), domain_data())


def test_random_numbers_that_make_no_difference_are_let_through():
    assert np.isfinite(problem_of(Random(lambda x: x + 0 * torch.rand_like(x)), domain_data()).loss())


class Stateful(nn.Module):
    def __init__(self, change: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.net, self.change = small_mlp(), change
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.calls, self.log, self.cache = 0, [], {}

    def forward(self, x: Tensor) -> Tensor:
        self.change(self)
        return self.net(x) * (2 if self.calls % 100 == 99 else 1)


def _append(m: nn.Module) -> None:
    m.log.append(1)


def _count(m: nn.Module) -> None:
    m.calls += 1


def _buffer(m: nn.Module) -> None:
    m.seen += 1


def _write_weight(m: nn.Module) -> None:
    with torch.no_grad():
        m.net[0].weight.mul_(1.0)


def _fill_cache(m: nn.Module) -> None:
    m.cache.setdefault("table", torch.ones(3))


@pytest.mark.parametrize("change", [_append, _count, _buffer])
def test_a_forward_that_leaves_another_state_behind_is_refused(change: Callable[[nn.Module], None]):
    with pytest.raises(UsageError, match="every forward pass leaves another state behind"):
        problem_of(Stateful(change), domain_data())


def test_a_forward_that_writes_weights_is_refused():
    with pytest.raises(UsageError, match=r"writes into the weights net\.0\.weight"):
        problem_of(Stateful(_write_weight), domain_data())


def test_a_cache_that_is_filled_once_is_none_of_that():
    assert np.isfinite(problem_of(Stateful(_fill_cache), domain_data()).loss())


# -- losses that the network computes --------------------------------------------------------------------------------


class Own(nn.Module):
    """Returns its own mean loss, as those of transformers do."""

    def __init__(self, kind: str = "dictionary") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 3).double()
        self.kind = kind

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        z = self.linear(x)
        loss = F.cross_entropy(z, labels)
        return {"dictionary": {"loss": loss, "logits": z}, "tuple": (loss, z), "scalar": loss}[self.kind]


READ = {"dictionary": lambda o, t: o["loss"], "tuple": lambda o, t: o[0], "scalar": lambda o, t: o}


def own_data() -> tuple[dict[str, Any], dict[str, float]]:
    data, truth = {}, {}
    for i, (name, n) in enumerate((("easy", 40), ("hard", 60), ("one", 1))):
        g = torch.Generator().manual_seed(i)
        x, y = torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)
        data[name] = ((x, y), y)
        truth[name] = float(F.cross_entropy(Own().linear(x), y).detach())
    return data, truth


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("batch_size", [512, 30])
def test_every_domain_has_its_own_loss_where_the_network_computes_it(kind: str, batch_size: int):
    data, truth = own_data()
    problem = problem_of(Own(kind), data, READ[kind], batch_size=batch_size)
    found = landscape.domains(problem)
    assert {k: v["loss"] for k, v in found["domains"].items()} == pytest.approx(truth, rel=1e-12)
    assert found["loss_variance"] == pytest.approx(np.var(list(truth.values())), rel=1e-12)
    whole = sum(truth[k] * n for k, n in (("easy", 40), ("hard", 60), ("one", 1))) / 101
    assert problem.loss() == pytest.approx(whole, rel=1e-12)
    values = landscape.surface(problem, dim=1, points=3).data["domain_loss"].values.reshape(3, -1)
    assert not np.allclose(values[0], values[1])
    assert values[:, 1] == pytest.approx(list(truth.values()), rel=1e-12)


def test_an_own_loss_that_is_no_mean_over_examples_is_refused():
    class Summed(Own):
        def forward(self, x: Tensor, labels: Tensor) -> Any:
            return F.cross_entropy(self.linear(x), labels, reduction="sum")

    with pytest.raises(UsageError, match="the loss that Summed computes is no mean over examples"):
        problem_of(Summed(), own_data()[0], READ["scalar"])


def test_disam_sees_the_domains_of_a_network_that_computes_its_loss():
    """Its first pass differentiates L + Σ c_i L_i: by hand from the domains' own losses."""
    from landscape.data.examples import Batch
    from landscape.training.augment import MixupBatch
    from landscape.training.steps import BatchLosses

    data, truth = own_data()
    parts = [data[k] for k in ("easy", "hard")]
    inputs = tuple(torch.cat([p[0][i] for p in parts]) for i in (0, 1))
    batch = Batch(inputs, inputs[1], torch.tensor([0] * 40 + [1] * 60))
    made = BatchLosses(Own(), READ["dictionary"], MixupBatch(batch))()
    assert made.domains.tolist() == pytest.approx([truth["easy"], truth["hard"]], rel=1e-12)
    assert float(made.mean.detach()) == pytest.approx(0.4 * truth["easy"] + 0.6 * truth["hard"], rel=1e-12)


def test_what_a_command_built_is_not_copied(tmp_path, monkeypatch):
    """A network of a plug-in that reads itself by a global name needs no copy, and gets none."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "NET = {}\n"
        "class Elsewhere(torch.nn.Linear):\n"
        "    def forward(self, x): return torch.nn.functional.linear(x, NET['net'].weight, self.bias)\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    NET['net'] = Elsewhere(4, 3)\n"
        "    return NET['net']\n"
        "def data():\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    return {'train': (torch.randn(30, 4, generator=g), torch.randint(0, 3, (30,), generator=g))}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    import importlib.util

    spec = importlib.util.spec_from_file_location("mine_for_weights", tmp_path / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(module.net().state_dict(), tmp_path / "w.pt")
    problem = landscape.open("w.pt", model="mine.py:net", data="mine.py:data")
    plain = nn.Linear(4, 3)
    plain.load_state_dict(module.net().state_dict())
    x, y = module.data()["train"]
    assert torch.allclose(problem.gradient(), Problem(plain, (x, y), device="cpu").gradient(), rtol=1e-5)
