"""What is the GPU's own: which one is taken, memory that runs out, a basis that moves to the host."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.base.errors import UsageError
from landscape.problem.problem import Problem
from landscape.runtime.devices import pick_device
from landscape.runtime.memory import free_memory

from .agreement import images, network


def test_auto_takes_the_gpu():
    assert pick_device("auto").type == "cuda"
    assert Problem(network(), images()).weights.is_cuda


def test_a_gpu_that_is_not_there():
    with pytest.raises(UsageError, match="CUDA device"):
        pick_device(f"cuda:{torch.cuda.device_count()}")


class Hungry(nn.Module):
    """Real memory that runs out above four examples: an allocation larger than the card."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            card = torch.cuda.get_device_properties(x.device).total_memory
            torch.empty(2 * card, dtype=torch.uint8, device=x.device)
        return self.inner(x)


def test_micro_batches_halve_when_memory_runs_out():
    plain = Problem(network(), images(), device="cuda", dtype="float64")
    hungry = Problem(Hungry(), images(), device="cuda", dtype="float64", batch_size=16)
    assert hungry.loss() == pytest.approx(plain.loss(), rel=1e-12)
    assert hungry.batch_size == 4


def test_a_basis_that_does_not_fit_moves_to_the_host(monkeypatch: pytest.MonkeyPatch):
    from landscape.curvature import spectrum as module

    problem = Problem(network(), images(), device="cuda", dtype="float64")
    expected = landscape.hessian(problem, top=2)
    row = 8 * problem.n_parameters
    free = module.free_memory
    monkeypatch.setattr(module, "free_memory", lambda d: 40 * row if d.type == "cuda" else free(d))
    found = landscape.hessian(problem, top=2)
    assert found["products"]["basis_on"] == "cpu"
    assert expected["products"]["basis_on"].startswith("cuda")
    assert found["eigenvalues"] == pytest.approx(expected["eigenvalues"], rel=1e-6)


def test_float32_is_float32_whatever_the_process_allows():
    """A convolution in TensorFloat-32 is right to 1e-3; a user who trains so gets exact analyses all the same."""
    exact = Problem(network(), images(), device="cuda", dtype="float64").gradient()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        found = Problem(network(), images(), device="cuda", dtype="float32").gradient().double()
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)) < 1e-5


def test_the_model_of_the_user_stays_where_it_is():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    landscape.hessian(Problem(model, images(), device="cuda"), top=1)
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


def test_memory_that_torch_keeps_is_free():
    """Else the second analysis of a process would take the basis of its eigenvectors to host memory."""
    device = torch.device("cuda")
    before = free_memory(device)
    held = torch.empty(2**30, dtype=torch.uint8, device=device)
    taken = free_memory(device)
    del held
    assert before - taken == pytest.approx(2**30, rel=0.05)
    assert free_memory(device) == pytest.approx(before, rel=0.01)
