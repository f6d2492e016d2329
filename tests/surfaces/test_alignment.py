from __future__ import annotations

import copy

import pytest
import torch
from cases import problem_of, relu_study_net, small_mlp
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.models.convnet import convnet
from landscape.models.resnet import CifarResNet
from landscape.surfaces.align.alignment import align
from landscape.surfaces.align.channels import Units, exchangeable_units
from landscape.surfaces.directions.snapshots import Snapshot
from landscape.surfaces.path import path


def images(channels: int = 3, n: int = 12, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, size, size, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def resnet() -> CifarResNet:
    """All kinds of channels: a residual stream, zero-padded shortcuts, BatchNorm with statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CifarResNet(1, 3).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


class Concatenating(nn.Module):
    """Channels of two branches side by side, flattened, in a 2-layer head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(9 * 16, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([torch.tanh(self.a(x)), self.b(x).relu()], dim=1)
        return self.head(torch.flatten(nn.functional.max_pool2d(h, 2), 1))


def permuted(model: nn.Module, groups: list[Units], seed: int = 0) -> nn.Module:
    """A twin of the model with every group of units in another order, written out independently of `align`."""
    twin = copy.deepcopy(model)
    state = twin.state_dict()
    generator = torch.Generator().manual_seed(seed)
    for group in groups:
        order = torch.randperm(group.count, generator=generator)
        for place, indices in group.places.items():
            source = model.state_dict()[place.tensor].movedim(place.dimension, 0).clone()
            moved = state[place.tensor].movedim(place.dimension, 0).clone()
            for to, of in enumerate(order):
                moved[indices[to]] = source[indices[of]] if place.tensor in seen_once(group) else moved[indices[of]]
            state[place.tensor].copy_(moved.movedim(0, place.dimension))
        model = copy.deepcopy(twin)
    return twin


def seen_once(group: Units) -> set[str]:
    return {place.tensor for place in group.places}


MODELS = {
    "mlp": lambda: small_mlp(inputs=3 * 64, hidden=6),
    "convnet": lambda: convnet((3, 8, 8), 3, (4, 6, 5), batchnorm=True).double(),
    "resnet": resnet,
    "concatenating": lambda: Concatenating().double(),
}


def problem(name: str):
    torch.manual_seed(1)
    x, y = images()
    model = MODELS[name]().eval()
    return problem_of(model, (x.flatten(1) if name == "mlp" else x, y)), model


@pytest.mark.parametrize(("name", "units"), [("mlp", 6), ("convnet", 15), ("concatenating", 16)])
def test_all_hidden_units_are_found(name: str, units: int):
    p, model = problem(name)
    assert sum(g.count for g in exchangeable_units(model, next(iter(p.batches())).inputs)) == units


def test_the_residual_stream_of_a_resnet_with_zero_padded_shortcuts():
    """Stages of 16, 32 and 64: a wider stage inherits its middle from the one before; the padded rest is free."""
    groups = exchangeable_units(resnet(), images()[0])
    inner, stream, padded = [16, 32, 64], [16], [16, 32]
    assert sorted(g.count for g in groups) == sorted(inner + stream + padded)
    (inherited,) = (g for g in groups if any(p.tensor == "bn1.weight" for p in g.places))
    indices = {p.tensor: i.reshape(-1).tolist() for p, i in inherited.places.items()}
    assert indices["layer2.0.bn2.bias"] == list(range(8, 24))
    assert indices["linear.weight"] == list(range(24, 40))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_permuted_twin_computes_the_same_and_is_brought_back(name: str):
    p, model = problem(name)
    inputs = next(iter(p.batches())).inputs
    twin = permuted(model, exchangeable_units(model, inputs))
    assert torch.allclose(twin(inputs), model(inputs), atol=1e-10)
    other = Snapshot.of(problem_of(twin, p.examples))
    weights, statistics, facts = align(p, *other.load())
    assert facts["distance_before"] > 0.1
    assert facts["distance_after"] < 1e-10
    assert facts["relative_change_of_loss"] < 1e-9
    for found, own in zip(weights, p.space.tensors, strict=True):
        assert torch.allclose(found, own, atol=1e-12)
    for key, value in statistics.items():
        assert torch.allclose(value, p.model.state_dict()[key], atol=1e-12)


def test_a_line_to_the_twin_has_a_barrier_until_it_is_aligned():
    model, inputs, targets = relu_study_net()
    p = problem_of(model, (inputs, targets))
    twin = permuted(model, exchangeable_units(model, inputs))
    straight = path(p, Snapshot.of(problem_of(twin, (inputs, targets))), points=5)
    assert straight["loss"][0] == pytest.approx(straight["loss"][-1], rel=1e-12)
    assert straight["barrier"] > 0.1
    with torch.no_grad():
        twin[0].bias += 1e-3  # otherwise nothing is left of the way
    matched = path(p, Snapshot.of(problem_of(twin, (inputs, targets))), points=5, align=True)
    assert matched["barrier"] < 1e-4
    assert matched["aligned"]["moved_units"] > 10


class Strange(nn.Module):
    """Sorts its units: what a permutation before that does is not known to the tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.a(x).sort(1).values)))


class Tied(nn.Module):
    """One layer used twice: its inputs and outputs are the same units, which is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.relu(self.b(self.a(x)))))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.a(-x)


@pytest.mark.parametrize(("model", "expected"), [(Strange(), [6]), (Tied(), []), (Branching(), [])])
def test_what_is_not_understood_is_held_in_place(model: nn.Module, expected: list[int]):
    assert [g.count for g in exchangeable_units(model, torch.randn(3, 4))] == expected


def test_nothing_to_permute_is_said():
    p = problem_of(nn.Linear(4, 3).double(), (torch.randn(5, 4).double(), torch.arange(5) % 3))
    with pytest.raises(UsageError, match="no hidden units are known to be exchangeable"):
        align(p, *Snapshot.of(p).load())


class Called(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between, features: int) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Linear(4, 8), between, nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.tanh(self.a(x))))


OVER_FEATURES = {
    "max pooling": (nn.MaxPool1d(2), 4),
    "average pooling": (nn.AvgPool1d(2), 4),
    "adaptive pooling": (nn.AdaptiveAvgPool1d(3), 3),
    "pooling that keeps the size": (nn.MaxPool1d(3, stride=1, padding=1), 8),
    "function": (lambda h: nn.functional.max_pool1d(h, 2), 4),
    "function that keeps the size": (lambda h: nn.functional.avg_pool2d(h[None], 3, 1, 1)[0], 8),
}


@pytest.mark.parametrize("kind", list(OVER_FEATURES))
def test_pooling_over_features_holds_them_in_place(kind: str):
    """Of ``(n, features)`` torch pools the features: exchanging them would change what is computed."""
    between, features = OVER_FEATURES[kind]
    torch.manual_seed(0)
    model = Called(between, features).double()
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    assert exchangeable_units(model, x) == []
    p = problem_of(model, (x, y), loss_over="batch")  # one of them pools over examples
    with pytest.raises(UsageError, match="no hidden units are known to be exchangeable"):
        align(p, *Snapshot.of(p).load())


def test_pooling_of_2d_inputs_leaves_the_other_layers_free():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.MaxPool1d(2), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    (group,) = exchangeable_units(model, x)
    assert group.count == 5
    p = problem_of(model, (x, y))
    twin = permuted(model, [group], seed=2)
    facts = align(p, *Snapshot.of(problem_of(twin, (x, y))).load())[2]
    assert facts["distance_after"] < 1e-12 < facts["distance_before"]


def test_a_convolution_over_unbatched_inputs_is_held():
    """``(channels, length)`` without examples: what looks like examples are its channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.Tanh(), nn.Linear(5, 3)).double()
    assert exchangeable_units(model, torch.randn(6, 5).double()) == []


def test_pooling_behind_channels_keeps_them_free():
    torch.manual_seed(0)
    layers = (nn.Conv1d(2, 7, 3), nn.MaxPool1d(2), nn.Conv1d(7, 4, 2), nn.Flatten(), nn.Linear(8, 3))
    model = nn.Sequential(*layers).double()
    assert sorted(g.count for g in exchangeable_units(model, torch.randn(5, 2, 8).double())) == [4, 7]
