from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape import losses
from landscape.errors import DataError
from landscape.losses import correct, domain_means, example_losses, mean_loss

G = torch.Generator().manual_seed(0)
OUTPUT = torch.randn(7, 3, generator=G, dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2, 2])
REALS = torch.rand(7, 3, generator=G, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "reference", "target"),
    [
        ("cross_entropy", F.cross_entropy, CLASSES),
        ("nll", F.nll_loss, CLASSES),
        ("mse", F.mse_loss, REALS),
        ("l1", F.l1_loss, REALS),
        ("huber", F.huber_loss, REALS),
        ("bce_with_logits", F.binary_cross_entropy_with_logits, REALS),
    ],
)
def test_each_example_alone(name: str, reference, target: Tensor):
    found = getattr(losses, name)(OUTPUT, target)
    alone = [reference(OUTPUT[i : i + 1], target[i : i + 1]).item() for i in range(7)]
    assert found.tolist() == pytest.approx(alone, rel=1e-13)
    assert found.mean().item() == pytest.approx(reference(OUTPUT, target).item(), rel=1e-13)


def test_dense_predictions_are_averaged_per_example():
    output, target = torch.randn(4, 3, 5, 6, generator=G), torch.randint(0, 3, (4, 5, 6), generator=G)
    found = losses.cross_entropy(output, target)
    assert found.tolist() == pytest.approx(
        [F.cross_entropy(output[i : i + 1], target[i : i + 1]).item() for i in range(4)], rel=1e-5
    )
    share = [(output[i].argmax(0) == target[i]).double().mean().item() for i in range(4)]
    assert correct(output, target).tolist() == pytest.approx(share)


def test_a_column_beside_a_row_does_not_broadcast():
    output, target = torch.arange(4.0)[:, None], torch.ones(4)
    assert losses.mse(output, target).tolist() == [1, 0, 1, 4]
    assert losses.bce_with_logits(output, torch.ones(4, dtype=torch.long)).shape == (4,)
    with pytest.raises(DataError, match=r"outputs have shape \(4, 1\), targets \(4, 3\)"):
        losses.mse(output, torch.ones(4, 3))


def test_a_label_that_is_out_of_range():
    with pytest.raises(DataError, match=r"a label is outside 0\.\.2") as caught:
        example_losses(losses.cross_entropy, OUTPUT, CLASSES + 1)
    assert caught.value.exit_code == 3


def test_per_example_and_mean_losses():
    assert example_losses(F.cross_entropy, OUTPUT, CLASSES) is None
    assert mean_loss(F.cross_entropy, OUTPUT, CLASSES).item() == F.cross_entropy(OUTPUT, CLASSES).item()
    assert mean_loss(losses.cross_entropy, OUTPUT, CLASSES).item() == pytest.approx(
        F.cross_entropy(OUTPUT, CLASSES).item()
    )
    wide = example_losses(lambda o, t: (o - t).square(), OUTPUT, REALS)
    assert wide.tolist() == pytest.approx((OUTPUT - REALS).square().mean(1).tolist())


@pytest.mark.parametrize("mean_only", [False, True])
def test_domain_means_with_their_gradient(mean_only: bool):
    domain = torch.tensor([0, 3, 0, 3, 3, 0, 3])
    output = OUTPUT.clone().requires_grad_()
    loss = F.cross_entropy if mean_only else losses.cross_entropy
    found = domain_means(loss, output, CLASSES, domain, example_losses(loss, output, CLASSES), [0, 3])
    expected = torch.stack([F.cross_entropy(output[domain == i], CLASSES[domain == i]) for i in (0, 3)])
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-13)
    weights = torch.tensor([2.0, -1.0], dtype=torch.float64)
    a, b = (torch.autograd.grad(v @ weights, output)[0] for v in (found, expected))
    assert torch.allclose(a, b, atol=1e-15)


def test_accuracy_is_for_classes_only():
    assert correct(OUTPUT, OUTPUT.argmax(1)).tolist() == [1] * 7
    assert correct(OUTPUT, REALS) is None
    assert correct(OUTPUT[:, 0], CLASSES) is None
    assert correct(OUTPUT, CLASSES[:, None]) is None
