"""Complex tensors on their way: types, memory, hashes, files, losses and training; and real pairs at any place."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from complex_twins import Classifier, Convolution, classifier_data, complex_data
from safetensors import safe_open
from torch import Tensor, nn

from landscape.base.errors import DataError, NumericalError, UsageError
from landscape.data.examples import Batch, Examples
from landscape.measures.sharpness import sharpness
from landscape.problem.parameters import ParameterSpace
from landscape.problem.problem import Problem
from landscape.training.augment import augment
from landscape.weights.checkpoint import facts_of, read_weights
from landscape.weights.load_state_dict import load_into
from landscape.weights.weights import save_weights, tensors_hash, weights_hash


def problem_of(model: nn.Module, data: Any, loss: Any = "mse", **options: Any) -> Problem:
    return Problem(model, data, loss, device="cpu", **options)


class Spy(nn.Module):
    """Notes the types that meet in its forward."""

    def __init__(self, weight: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex64).to(weight))
        self.register_buffer("mask", torch.ones(3, dtype=torch.complex64))
        self.register_buffer("shift", torch.ones(3, dtype=torch.float32))
        self.register_buffer("count", torch.ones(1, dtype=torch.int64))
        self.seen: set[Any] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((self.weight.dtype, self.mask.dtype, self.shift.dtype, self.count.dtype, x.dtype))
        return (x * self.weight * self.mask + self.shift).sum(1)


# -- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("asked", [None, "float32", "float64"])
def test_everything_complex_follows_the_precision(asked: str | None, inputs: torch.dtype):
    problem = problem_of(Spy(), (torch.randn(6, 3, dtype=inputs), torch.randn(6, dtype=inputs)), dtype=asked)
    problem.model.seen.clear()  # the copy was compared with the original in the original's types
    problem.gradient()
    kind = torch.float64 if asked == "float64" else torch.float32
    whole = torch.complex128 if asked == "float64" else torch.complex64
    assert problem.dtype == kind == problem.weights.dtype
    assert problem.model.seen == {(whole, whole, kind, torch.int64, whole)}


def test_a_network_of_complex128_alone_is_computed_in_float64_and_of_complex32_in_float32():
    data = torch.randn(6, 3), torch.randn(6)
    assert problem_of(Spy(torch.complex128), data).dtype == torch.float64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = Spy(torch.complex32)
        values = half.weight.detach().to(torch.complex64)
        problem = problem_of(half, data)
    assert problem.dtype == torch.float32
    assert torch.equal(problem.model.weight.detach(), values)


def test_flat_vectors_of_complex_parameters_are_real():
    model = Classifier(False)
    space = ParameterSpace(model)
    assert space.size == sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    vector = torch.randn(space.size, dtype=torch.float64)
    assert torch.equal(space.flatten(space.split(vector)), vector)
    assert torch.equal(space.flatten(space.own(vector)), vector)
    assert [p.dtype for p in space.own(vector)] == [p.dtype for p in space.tensors]
    version = model.first.weight._version
    space.write(vector)
    assert model.first.weight._version > version  # kept graphs are dropped
    assert torch.equal(torch.view_as_real(model.first.weight.detach()), space.named(vector)["first.weight"])
    assert torch.equal(space.current(), vector)
    assert torch.equal(space.flatten([None] * len(space.names)), torch.zeros_like(vector))


def test_gradient_is_that_of_differences_of_real_and_imaginary_parts():
    model, data = Convolution(False), complex_data(2, 7, outputs=(3,))
    gradient = problem_of(model, data).gradient()
    place = 0
    for parameter in model.parameters():
        for i in np.ndindex(*parameter.shape):
            for step in (1e-6, 1e-6j):
                ends = []
                for sign in (1, -1):
                    with torch.no_grad():
                        before = parameter[i].clone()
                        parameter[i] = before + sign * step
                        ends.append(float((model(data[0]) - data[1]).abs().square().mean()))
                        parameter[i] = before
                assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[place]), rel=1e-7, abs=1e-7)
                place += 1
    assert place == len(gradient)


def test_the_callers_complex_model_is_left_alone_and_the_problem_finds_home():
    model = Classifier(False)
    before = copy.deepcopy(model.state_dict())
    problem = problem_of(model, classifier_data(), "cross_entropy")
    home = problem.weights.clone()
    with problem.temporary_weights() as tensors:
        torch._foreach_mul_(tensors, 2.0)
        assert torch.equal(problem.space.current(), 2 * home)
    assert torch.equal(problem.space.current(), home)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# -- memory ----------------------------------------------------------------------------------------------------------


def test_lazily_conjugated_tensors_are_what_they_say():
    x = torch.randn(6, 3, dtype=torch.complex64)
    plain, lazy = Spy(), Spy()
    lazy.load_state_dict(plain.state_dict())
    plain.mask, lazy.mask = plain.mask.mul(1j).conj().resolve_conj(), lazy.mask.mul(1j).conj()
    lazy.shift, plain.shift = x[0].conj().imag, x[0].conj().imag.resolve_neg()  # a negative view
    assert lazy.mask.is_conj()
    assert lazy.shift.is_neg()
    assert weights_hash(plain) == weights_hash(lazy)
    y = torch.randn(6)
    ours, theirs = problem_of(plain, (x.conj().resolve_conj(), y)), problem_of(lazy, (x.conj(), y))
    assert ours.data_hash == theirs.data_hash
    assert ours.loss() == theirs.loss()
    assert torch.equal(ours.gradient(), theirs.gradient())


@pytest.mark.parametrize("view", [Tensor.conj, torch.view_as_real, lambda w: w.imag, lambda w: w])
def test_parameters_in_one_memory_that_are_not_tied_are_refused(view: Any):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, dtype=torch.complex64))
            self.v = nn.Parameter(view(self.w.detach()))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.w).real.sum(1)

    with pytest.raises(UsageError, match=r"lies in the memory of|conjugate or negative view"):
        problem_of(Net(), (torch.randn(6, 3), torch.randn(6)))


def test_a_shared_parameter_under_two_names_and_parts_of_one_buffer_are_fine():
    flat = torch.randn(11)
    model = nn.ParameterDict({"a": nn.Parameter(flat[:5]), "b": nn.Parameter(flat[5:])})
    model["c"] = model["a"]
    assert ParameterSpace(model).size == 11


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
def test_complex_weights_go_through_our_files_bit_for_bit(kind: torch.dtype, tmp_path: Path):
    model = Spy(kind)
    file = tmp_path / "w.safetensors"
    assert save_weights(file, model) == weights_hash(model)
    read = read_weights(file).tensors
    assert {k: v.dtype for k, v in read.items()} == {k: v.dtype for k, v in model.state_dict().items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in read.items())
    with safe_open(file, framework="pt") as handle:
        assert '"complex": ["mask", "weight"]' in handle.metadata()["landscape"]
        assert handle.get_tensor("weight").shape == (3, 2)
    assert facts_of(file)["weights_hash"] == tensors_hash(read)
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="SHA-256"):
        read_weights(file)


def saved(tmp_path: Path, **tensors: Tensor) -> Path:
    torch.save(tensors, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def put(model: nn.Module, file: Path) -> None:
    load_into(model, read_weights(file), file)


def test_checkpoints_of_strangers(tmp_path: Path):
    state = Spy().state_dict()
    w = state["weight"]
    for given in (w, w.to(torch.complex128), w.conj().resolve_conj().conj()):
        model = Spy()
        put(model, saved(tmp_path, **{**state, "weight": given}))
        assert torch.equal(model.weight.detach(), w)
    for bad, message in {
        torch.tensor([1j, complex(1, float("nan")), 0]): "weight holds 1 NaN",
        torch.tensor([complex(0, float("inf"))] * 3): "weight holds 3 NaN or infinite",
    }.items():
        file = saved(tmp_path, **{**state, "weight": bad})
        with pytest.raises(NumericalError, match=message):
            put(Spy(), file)
        with pytest.raises(NumericalError, match=message):
            facts_of(file)
    with pytest.raises(DataError, match="does not fit into complex64"):
        put(Spy(), saved(tmp_path, **{**state, "weight": torch.full((3,), 1e200j, dtype=torch.complex128)}))
    with pytest.raises(DataError, match=r"holds float32, the model expects complex64.*save complex weights"):
        put(Spy(), saved(tmp_path, **{**state, "weight": w.real.clone()}))
    with pytest.raises(DataError, match=r"holds complex64, the model expects float32.*save real weights"):
        put(Spy(), saved(tmp_path, **{**state, "shift": state["shift"] + 1j}))
    with pytest.raises(DataError, match=r"has shape \(3, 2\), the model expects \(3,\)"):
        put(Spy(), saved(tmp_path, **{**state, "weight": torch.view_as_real(w)}))


def test_complex32_checkpoints_are_cast_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = Spy().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on making one
        half = state["weight"].to(torch.complex32)
        file = saved(tmp_path, **{**state, "weight": half})
        expected = half.to(torch.complex64)
    model = Spy()
    put(model, file)
    assert torch.equal(model.weight.detach(), expected)
    assert "weights in complex32 are cast" in caplog.text


# -- losses and examples ---------------------------------------------------------------------------------------------


def test_squared_and_absolute_errors_of_complex_outputs():
    model, (x, y) = Convolution(False), complex_data(2, 7, outputs=(3,))
    with torch.no_grad():
        difference = (model(x) - y).abs()
    assert problem_of(model, (x, y)).loss() == pytest.approx(float(difference.square().mean()), rel=1e-12)
    assert problem_of(model, (x, y), "l1").loss() == pytest.approx(float(difference.mean()), rel=1e-12)
    real = problem_of(nn.Linear(2, 3).double(), (x[:, :, 0].real.clone(), y))  # real outputs, complex targets
    with torch.no_grad():
        own = (real.model(x[:, :, 0].real) - y).abs().square().mean()
    assert real.loss() == pytest.approx(float(own), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, t: (o - t).square().mean(), "the loss is complex"),
        (lambda o, t: (o - t).sum(1), "the loss is complex"),
        ("huber", "takes no complex numbers"),
        ("bce_with_logits", "takes no complex numbers"),
        (nn.MSELoss(), "takes no complex numbers"),
    ],
    ids=["complex mean", "complex each", "huber", "bce", "torch's mse"],
)
def test_losses_that_are_not_for_complex_outputs_say_so(loss: Any, message: str):
    with pytest.raises(DataError, match=message):
        problem_of(Convolution(False), complex_data(2, 7, outputs=(3,)), loss).loss()


@pytest.mark.parametrize("loss", ["bce_with_logits", nn.SmoothL1Loss()])
def test_complex_targets_do_not_lose_their_imaginary_part(loss: Any):
    data = torch.randn(6, 2), torch.randn(6, 3, dtype=torch.complex64)
    with pytest.raises(DataError, match="targets are complex and the outputs are real"):
        problem_of(nn.Linear(2, 3), data, loss).loss()


def test_complex_examples_have_hashes_and_no_classes():
    x, y = complex_data(4)
    examples = Examples.of((x.numpy(), y.numpy()))
    assert examples.classes() is None
    assert examples.fingerprint() != Examples.of((x, y.conj())).fingerprint()
    assert examples.fingerprint() == Examples.of((x, y)).fingerprint()


def test_input_sharpness_of_complex_inputs_is_refused_by_name():
    with pytest.raises(UsageError, match="no single floating tensor"):
        sharpness(problem_of(Convolution(False), complex_data(2, 7, outputs=(3,))), measure=("input-sharpness",))


def test_the_margin_of_complex_outputs_is_refused_by_name():
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.abs(), target, reduction="none")

    x, _ = complex_data(2, 7)
    problem = problem_of(Convolution(False), (x, torch.arange(20) % 3), loss)
    assert problem.evaluate().accuracy is None
    with pytest.raises(UsageError, match="a margin needs real outputs"):
        sharpness(problem, measure=("margin",))


def test_complex_inputs_are_mixed_up():
    x, y = complex_data(4)
    mixed = augment(Batch(x, y, torch.zeros(20, dtype=torch.int64)), ("mixup",), 0)
    generator = torch.Generator().manual_seed(0)
    share = float(torch.rand((), generator=generator))
    partner = torch.randperm(20, generator=generator)
    torch.testing.assert_close(mixed.batch.inputs, share * x + (1 - share) * x[partner])
