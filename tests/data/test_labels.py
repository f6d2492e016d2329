"""Class labels of every integer type and as columns: the numbers of int64 labels, or one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import problem_of
from torch import Tensor, nn

import landscape
from landscape.base.errors import DataError
from landscape.data import loss_values, losses
from landscape.data.examples import Examples
from landscape.specs import SharpnessSpec

G = torch.Generator().manual_seed(0)
OUTPUT = torch.randn(7, 3, generator=G, dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2, 2])
WEIGHT = torch.tensor([0.1, 2.0, 0.7], dtype=torch.float64)
KINDS = (torch.int32, torch.int16, torch.int8, torch.uint8, torch.int64)


def log_probabilities() -> Tensor:
    return OUTPUT.log_softmax(1)


def mean_of_weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, WEIGHT, reduction="none").mean()


LOSSES = {
    "cross_entropy": ("cross_entropy", F.cross_entropy),
    "nll": ("nll", F.nll_loss),
    "F.cross_entropy": (F.cross_entropy, F.cross_entropy),
    "F.nll_loss": (F.nll_loss, F.nll_loss),
    "F.multi_margin_loss": (F.multi_margin_loss, F.multi_margin_loss),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), F.cross_entropy),
    "weighted": (nn.CrossEntropyLoss(WEIGHT), nn.CrossEntropyLoss(WEIGHT)),
    "without reduction": (nn.CrossEntropyLoss(WEIGHT, reduction="none"), mean_of_weighted),
    "ignoring": (nn.CrossEntropyLoss(ignore_index=2), nn.CrossEntropyLoss(ignore_index=2)),
    "NLLLoss": (nn.NLLLoss(WEIGHT), nn.NLLLoss(WEIGHT)),
    "MultiMarginLoss": (nn.MultiMarginLoss(p=2), nn.MultiMarginLoss(p=2)),
}  # fmt: skip


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_any_type_give_torchs_loss(name: str, kind: torch.dtype, column: bool):
    given, reference = LOSSES[name]
    loss, target = losses.as_loss(given), CLASSES.to(kind)
    target = target[:, None] if column else target
    assert loss_values.mean_loss(loss, OUTPUT, target).item() == pytest.approx(
        reference(OUTPUT, CLASSES).item(), rel=1e-13
    )
    hits = loss_values.correct(loss, OUTPUT, target)
    assert hits.tolist() == (OUTPUT.argmax(1) == CLASSES).double().tolist()


def test_boolean_labels_are_two_classes():
    target = CLASSES > 0
    for given in (target, target[:, None]):
        found = loss_values.mean_loss(losses.cross_entropy, OUTPUT[:, :2], given)
        assert found.item() == pytest.approx(F.cross_entropy(OUTPUT[:, :2], target.long()).item(), rel=1e-13)
        assert Examples.of((OUTPUT, given)).classes().tolist() == target.long().tolist()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16])
def test_masks_may_have_one_channel_and_a_byte_for_nothing(kind: torch.dtype):
    """Segmentation as files hold it: bytes, a channel of one, 255 where nothing counts."""
    output = torch.randn(4, 3, 5, 6, generator=G, dtype=torch.float64)
    mask = torch.randint(0, 3, (4, 5, 6), generator=G)
    mask[1:3, :3] = 255
    loss = losses.as_loss(nn.CrossEntropyLoss(WEIGHT, ignore_index=255))
    expected = F.cross_entropy(output, mask, WEIGHT, ignore_index=255).item()
    for given in (mask.to(kind), mask.to(kind)[:, None]):
        assert loss_values.mean_loss(loss, output, given).item() == pytest.approx(expected, rel=1e-12)


def test_a_byte_of_156_is_no_ignored_position():
    target = torch.full((4, 5), 156, dtype=torch.uint8)
    assert losses.cross_entropy.weights(target).tolist() == [5] * 4


def test_tokens_of_32_bits():
    logits, tokens = torch.randn(4, 6, 5, generator=G), torch.randint(0, 5, (4, 6), generator=G)
    tokens[0, 3:] = -100
    for loss in (losses.token_cross_entropy, losses.causal_lm):
        found, expected = (loss_values.mean_loss(loss, logits, t) for t in (tokens.int(), tokens))
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (CLASSES.float(), r"floating targets \(n,\) beside scores \(n, 3\).*astype\('int64'\).*mse"),
        (CLASSES.double()[:, None], r"floating targets \(n, 1\) beside scores \(n, 3\)"),
        (F.one_hot(CLASSES, 3), r"integer targets \(n, 3\) have one number for each class.*argmax"),
        ((CLASSES, CLASSES), r"the targets are a tuple of 2, where \w+ wants one tensor"),
        ({"label": CLASSES}, r"the targets are a dict of 1, where \w+ wants one tensor"),
    ],
)
@pytest.mark.parametrize("loss", ["cross_entropy", F.nll_loss, nn.CrossEntropyLoss(), nn.MultiMarginLoss()])
def test_targets_that_are_no_labels_are_said_at_once(target, message: str, loss):
    with pytest.raises(DataError, match=message):
        problem_of(nn.Linear(3, 3).double(), (OUTPUT, target), loss)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
def test_one_score_has_no_probabilities(loss):
    """Torch takes a column beside a column for the probability of the only class: the loss is 0 whatever happens."""
    target = (CLASSES > 0).double()[:, None]
    assert F.cross_entropy(OUTPUT[:, :1], target).item() == 0
    with pytest.raises(DataError, match=r"one output, over which a softmax is always 1.*bce_with_logits"):
        problem_of(nn.Linear(3, 1).double(), (OUTPUT, target), loss)


def test_trees_of_targets_are_said_by_other_losses_too():
    with pytest.raises(DataError, match="the targets are a dict of 1, where mse wants one tensor"):
        problem_of(nn.Linear(3, 3).double(), (OUTPUT, {"a": OUTPUT}), "mse")


def test_a_loss_of_ones_own_that_wants_int64_is_said():
    def smoothed(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=0.1)

    with pytest.raises(DataError, match=r"the loss does not take the labels.*astype\('int64'\)"):
        problem_of(nn.Linear(3, 3).double(), (OUTPUT, CLASSES.int()), smoothed).loss()


def test_probabilities_stay_probabilities():
    target = torch.rand(7, 3, generator=G, dtype=torch.float64).softmax(1)
    for given in ("cross_entropy", nn.CrossEntropyLoss()):
        found = loss_values.mean_loss(losses.as_loss(given), OUTPUT, target).item()
        assert found == pytest.approx(F.cross_entropy(OUTPUT, target).item(), rel=1e-13)


@pytest.mark.parametrize("function", [F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss])
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int16])
def test_a_regression_takes_integers_and_booleans(function, kind: torch.dtype):
    output, target = OUTPUT[:, 0].clone().requires_grad_(), CLASSES.to(kind)
    found = loss_values.mean_loss(losses.as_loss(function), output, target)
    expected = function(output, target.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-13)
    slopes = (torch.autograd.grad(value, output)[0] for value in (found, expected))
    assert torch.allclose(*slopes, rtol=1e-12)


def test_a_model_that_squeezes_a_single_example_still_fits():
    class Squeezed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    torch.manual_seed(0)
    model = Squeezed(3, 3).double()
    with torch.no_grad():
        expected = F.cross_entropy(model(OUTPUT), CLASSES).item()
    assert problem_of(model, (OUTPUT, CLASSES)).loss() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "target", "loss", "message"),
    [
        (nn.Flatten(0), CLASSES[:1], "cross_entropy", r"outputs \(n,\) are no scores of classes.*bce_with_logits"),
        (
            nn.Sigmoid(),
            OUTPUT.sign(),
            nn.BCELoss(),
            r"the loss does not take the targets: .*between 0 and 1.*BCELoss",
        ),
        (nn.Identity(), CLASSES.to(torch.complex64), "cross_entropy", "neither class numbers nor a probability"),
    ],
)
def test_what_the_loss_does_not_take_is_said_at_once(model, target, loss, message: str):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(1, dtype=torch.float64)), model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.scale * x)

    inputs = OUTPUT[:1, :1] if isinstance(model, nn.Flatten) else OUTPUT
    with pytest.raises(DataError, match=message):
        problem_of(Wrapped(), (inputs, target), loss)


@pytest.mark.parametrize("function", [F.smooth_l1_loss, F.poisson_nll_loss, F.soft_margin_loss])
def test_a_column_of_outputs_beside_a_row_of_targets_does_not_broadcast(function):
    output, target = OUTPUT[:, :1], (CLASSES > 0).double() * 2 - 1
    found = loss_values.mean_loss(losses.as_loss(function), output, target)
    assert found.item() == pytest.approx(function(output[:, 0], target).item(), rel=1e-12)


# -- whole analyses ------------------------------------------------------------------------------------------------

X = torch.randn(30, 4, generator=G)
Y = torch.arange(30) % 3


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize("labels", [Y.int(), Y.to(torch.uint8)[:, None]])
@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher", "empirical-fisher"])
def test_curvature_is_that_of_int64_labels(operator: str, labels: Tensor):
    for loss, model in (("cross_entropy", linear()), ("nll", nn.Sequential(linear(), nn.LogSoftmax(1)))):
        strange, plain = (
            landscape.hessian(problem_of(model, (X, y), loss), top=2, operator=operator).record["eigenvalues"]
            for y in (labels, Y)
        )
        assert strange == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("labels", [Y.short(), Y[:, None], Y.to(torch.int8)[:, None].numpy()])
def test_measures_and_surfaces_are_those_of_int64_labels(labels):
    spec = SharpnessSpec(measure=("m-sharpness", "margin", "fisher-rao"), m=(5,))
    strange, plain = (problem_of(linear(), (X, y)) for y in (labels, Y))
    assert strange.evaluate() == plain.evaluate()
    rows = [landscape.sharpness(p, spec).record["measures"] for p in (strange, plain)]
    assert [r["value"] for r in rows[0]] == pytest.approx([r["value"] for r in rows[1]], rel=1e-6)
    grids = [landscape.surface(p, dim=1, points=5).data for p in (strange, plain)]
    for name in ("loss", "accuracy"):
        assert np.allclose(grids[0][name], grids[1][name], rtol=1e-6)


def test_classes_are_stratified_whatever_their_type():
    orders = [Examples.of((X, y)).stratified_order(3) for y in (Y, Y.to(torch.int8), Y.int()[:, None])]
    assert all(np.array_equal(orders[0], order) for order in orders)
    rows = [(x, torch.tensor([int(y)])) for x, y in zip(X, Y, strict=True)]
    assert np.array_equal(Examples.of(rows).stratified_order(3), orders[0])
