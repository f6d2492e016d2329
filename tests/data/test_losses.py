from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.base.errors import DataError, UsageError
from landscape.data import loss_values, losses
from landscape.data.loss_values import correct, domain_means, example_losses, mean_loss

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
    assert correct(losses.cross_entropy, output, target).tolist() == pytest.approx(share)


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


def test_structures_hold_their_prediction_and_others_are_refused():
    class Named:
        logits = OUTPUT

    expected = losses.cross_entropy(OUTPUT, CLASSES)
    for output in ({"logits": OUTPUT, "hidden": 0}, {"out": OUTPUT}, Named(), (OUTPUT,)):
        assert torch.equal(losses.cross_entropy(output, CLASSES), expected)
    for output in ((OUTPUT, OUTPUT), {"a": OUTPUT}, 3):
        with pytest.raises(DataError, match=rf"the model returned a {type(output).__name__}"):
            losses.cross_entropy(output, CLASSES)


TOKENS = torch.randint(0, 5, (4, 6), generator=G)
TOKENS[1, 3:] = TOKENS[2, :5] = -100
TOKENS[3] = -100
LOGITS = torch.randn(4, 6, 5, generator=G, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "output", "reference", "target"),
    [
        (losses.token_cross_entropy, LOGITS, LOGITS.transpose(1, 2), TOKENS),
        (losses.causal_lm, LOGITS, LOGITS[:, :-1].transpose(1, 2), TOKENS[:, 1:]),
        (losses.cross_entropy, LOGITS.transpose(1, 2), LOGITS.transpose(1, 2), TOKENS),
        (losses.nll, LOGITS.transpose(1, 2), LOGITS.transpose(1, 2), TOKENS),
    ],
)
def test_predictions_that_count_weigh_the_same_whatever_the_batch(loss, output, reference, target):
    """Torch's own mean over all positions that are not ignored, from batches of any size."""
    expected = (F.nll_loss if loss is losses.nll else F.cross_entropy)(reference, target)
    assert mean_loss(loss, output, TOKENS).item() == pytest.approx(expected.item(), rel=1e-14)
    values, weights = loss_values.example_losses(loss, output, TOKENS), loss_values.example_weights(loss, TOKENS)
    assert weights.tolist() == (target != -100).sum(1).tolist()
    assert values[3] == 0
    assert (values @ weights.double() / weights.sum()).item() == pytest.approx(expected.item(), rel=1e-14)
    right = (reference.argmax(1) == target).sum() / (target != -100).sum()
    hits = correct(loss, output, TOKENS)
    assert (hits @ weights.double() / weights.sum()).item() == pytest.approx(right.item())
    domain = torch.tensor([0, 1, 0, 1])
    found = domain_means(loss, output, TOKENS, domain, values, [0, 1])
    alone = [mean_loss(loss, output[domain == i], TOKENS[domain == i]).item() for i in (0, 1)]
    assert found.tolist() == pytest.approx(alone, rel=1e-14)


def test_a_loss_for_other_shapes_says_which_it_wants():
    with pytest.raises(DataError, match=r"outputs have shape \(4, 6, 5\), targets \(4, 6\).*causal_lm"):
        mean_loss(losses.cross_entropy, LOGITS, TOKENS)
    with pytest.raises(DataError, match=r"wants logits \(n, tokens, classes\)"):
        mean_loss(losses.causal_lm, OUTPUT, CLASSES)


def test_several_labels_are_right_or_wrong_one_by_one():
    target = torch.tensor([[1, 0, 1], [0, 0, 1]])
    output = torch.tensor([[2.0, -1.0, -3.0], [-1.0, -1.0, 4.0]])
    assert correct(losses.bce_with_logits, output, target).tolist() == pytest.approx([2 / 3, 1])
    assert correct(losses.bce_with_logits, torch.tensor([[2.0], [-2.0]]), torch.tensor([1, 1])).tolist() == [1, 0]


def test_accuracy_is_for_classes_only():
    assert correct(losses.cross_entropy, OUTPUT, OUTPUT.argmax(1)).tolist() == [1] * 7
    assert correct(losses.cross_entropy, OUTPUT, REALS) is None
    assert correct(losses.cross_entropy, OUTPUT[:, 0], CLASSES) is None
    assert correct(losses.cross_entropy, OUTPUT, CLASSES[:, None].expand(7, 2)) is None


CLASS_WEIGHTS = torch.tensor([0.1, 2.0, 0.7])


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        (torch.nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1), OUTPUT, CLASSES),
        (torch.nn.CrossEntropyLoss(ignore_index=2), OUTPUT, CLASSES),
        (torch.nn.CrossEntropyLoss(), OUTPUT, REALS / REALS.sum(1, keepdim=True)),
        (torch.nn.CrossEntropyLoss(weight=torch.rand(5, generator=G)), LOGITS.transpose(1, 2), TOKENS),
        (torch.nn.NLLLoss(weight=CLASS_WEIGHTS), OUTPUT, CLASSES),
        (torch.nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS), OUTPUT, REALS.round()),
        (torch.nn.SmoothL1Loss(beta=0.3), OUTPUT, REALS),
        (torch.nn.MSELoss(), OUTPUT, REALS),
        (F.cross_entropy, OUTPUT, CLASSES),
        (F.binary_cross_entropy_with_logits, OUTPUT, REALS),
    ],
)
def test_losses_of_torch_are_the_same_mean_over_any_batches(loss, output: Tensor, target: Tensor):
    """Batches of 3 and the rest, each weighted by what counts in it, against torch's mean over all at once."""
    reference = loss.double()(output, target) if isinstance(loss, torch.nn.Module) else loss(output, target)
    taken = losses.as_loss(loss)
    total = weight = 0.0
    for part in (slice(0, 3), slice(3, None)):
        assert example_losses(taken, output[part], target[part]) is not None
        w = float(loss_values.batch_weight(taken, target[part]))
        total, weight = total + float(mean_loss(taken, output[part], target[part])) * w, weight + w
    assert total / weight == pytest.approx(reference.item(), rel=1e-13)


def test_other_losses_stay_what_they_are_and_sums_are_refused():
    own = torch.nn.KLDivLoss(reduction="batchmean")
    assert losses.as_loss(own) is own
    assert losses.as_loss("mse") is losses.mse
    with pytest.raises(UsageError, match=r"sum over the batch \(CrossEntropyLoss\)"):
        losses.as_loss(torch.nn.CrossEntropyLoss(reduction="sum"))
