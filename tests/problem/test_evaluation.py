"""Accuracy counts predictions, whatever they weigh in the loss; a mean over nothing is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from scipy.stats import binomtest
from torch import Tensor, nn

from landscape.base.errors import DataError
from landscape.curvature.hessian import hessian
from landscape.data.examples import Examples
from landscape.data.splits import Splits
from landscape.domainwise.domains import domains
from landscape.measures.sharpness import sharpness
from landscape.surfaces.directions.snapshots import Snapshot
from landscape.surfaces.path import path
from landscape.surfaces.surface import surface
from landscape.training.evaluation import Scorer

WEIGHTS = torch.tensor([0.01, 3.0, 0.5], dtype=torch.float64)


def pooled() -> tuple[Tensor, Tensor]:
    data = domain_data().values()
    return torch.cat([d[0] for d in data]), torch.cat([d[1] for d in data])


def weighted(scale: float = 1.0) -> nn.CrossEntropyLoss:
    return nn.CrossEntropyLoss(weight=scale * WEIGHTS)


def counted(share: float, n: int) -> tuple[float, float]:
    interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return interval.low, interval.high


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_accuracy_and_its_interval_count_examples_whatever_classes_weigh(scale: float):
    x, y = pooled()
    right = small_mlp()(x).argmax(1) == y
    problem = problem_of(small_mlp(), domain_data(), weighted(scale), batch_size=8)
    found = problem.evaluate()
    assert found.accuracy == pytest.approx(float(right.double().mean()), rel=1e-14)
    assert found.loss == pytest.approx(F.cross_entropy(small_mlp()(x), y, WEIGHTS).item(), rel=1e-12)
    table = domains(problem)["domains"]
    for name, (a, b) in domain_data().items():
        share = float((small_mlp()(a).argmax(1) == b).double().mean())
        row = table[name]
        assert (row["n"], row["accuracy"]) == (len(b), pytest.approx(share, rel=1e-14))
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(counted(share, len(b)), rel=1e-9)


def test_every_reader_of_accuracy_has_the_same_share():
    """Surfaces, paths, sharpness, the Hessian's record and the trainer's scores."""
    x, y = pooled()
    share = float((small_mlp()(x).argmax(1) == y).double().mean())
    problem = problem_of(small_mlp(), domain_data(), weighted())
    flat = surface(
        problem,
        dim=1,
        points=3,
        test=problem.with_examples(problem.examples),
        metrics=("loss", "accuracy", "test-accuracy"),
    )
    assert float(flat.data["accuracy"].sel(x=0.0)) == pytest.approx(share)
    assert float(flat.data["test_accuracy"].sel(x=0.0)) == pytest.approx(share)
    assert flat["accuracy"] == hessian(problem, top=1)["accuracy"] == pytest.approx(share)
    assert sharpness(problem, m=(42,))["accuracy"] == pytest.approx(share)
    other = Snapshot.of(problem_of(small_mlp(seed=1), domain_data(), weighted()))
    assert path(problem, other, points=3)["accuracy"][0] == pytest.approx(share)
    examples = Examples.of(domain_data())
    scorer = Scorer(
        Splits({"train": examples}), ("cartoon",), problem.loss_function,
        device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip
    scores = scorer.score(small_mlp())
    a, b = (torch.cat([domain_data()[d][i] for d in ("photo", "art")]) for i in (0, 1))
    assert scores["train_accuracy"] == pytest.approx(float((small_mlp()(a).argmax(1) == b).double().mean()))
    assert scores["train_loss"] == pytest.approx(F.cross_entropy(small_mlp()(a), b, WEIGHTS).item())


@pytest.mark.parametrize(
    ("loss", "ignored"), [(nn.CrossEntropyLoss(ignore_index=1), 1), (nn.NLLLoss(ignore_index=2), 2)]
)
def test_ignored_labels_are_neither_right_nor_wrong(loss: nn.Module, ignored: int):
    x, y = pooled()
    kept = y != ignored
    found = problem_of(small_mlp(), (x, y), loss, batch_size=8).evaluate()
    assert found.accuracy == pytest.approx(float((small_mlp()(x[kept]).argmax(1) == y[kept]).double().mean()))
    assert (found.n, found.domains["all"].trials) == (42, int(kept.sum()))


def test_pixels_count_once_each_whatever_their_class_weighs():
    """A mask with an ignored class of its own: the share is of the pixels that count."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (6, 3, 3), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(2, 3, 1).double()
    loss = nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=0)
    found = problem_of(model, (x, y), loss, batch_size=4).evaluate()
    kept = y != 0
    assert found.accuracy == pytest.approx(float((model(x).argmax(1) == y)[kept].double().mean()))
    reference = nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=0)(model(x), y)
    assert found.loss == pytest.approx(reference.item(), rel=1e-12)


def test_a_loss_of_the_users_with_weights():
    """Weights are what the loss is averaged with; accuracy counts the examples that weigh anything."""

    class Own:
        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output, target, reduction="none")

        def weights(self, target: Tensor) -> Tensor:
            return WEIGHTS[target] * (target != 2)

    x, y = pooled()
    found = problem_of(small_mlp(), (x, y), Own(), batch_size=8).evaluate()
    kept = y != 2
    assert found.accuracy == pytest.approx(float((small_mlp()(x).argmax(1) == y)[kept].double().mean()))


# -- nothing to average ----------------------------------------------------------------------------------------------


def unlabelled(*names: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The domains, of which some have no target that counts."""
    return {k: (x, torch.full_like(y, -100) if k in names else y) for k, (x, y) in domain_data().items()}


NOTHING = r"no target of any example counts \(the data set\): some must differ from the ignored label"


@pytest.mark.parametrize("ask", ["evaluate", "gradient", "hvp", "hessian", "sharpness", "surface", "domains", "path"])
def test_targets_that_are_all_ignored_are_one_clear_error(ask: str):
    def asked() -> None:
        problem = problem_of(small_mlp(), unlabelled("art", "cartoon", "photo"), nn.CrossEntropyLoss())
        other = Snapshot.of(problem_of(small_mlp(seed=1), domain_data()))
        {
            "evaluate": problem.evaluate,
            "gradient": problem.gradient,
            "hvp": lambda: problem.hvp(torch.ones(problem.n_parameters, dtype=torch.float64)),
            "hessian": lambda: hessian(problem, top=1),
            "sharpness": lambda: sharpness(problem, m=(42,)),
            "surface": lambda: surface(problem, points=3),
            "domains": lambda: domains(problem),
            "path": lambda: path(problem, other, points=3),
        }[ask]()

    with pytest.raises(DataError, match=NOTHING):
        asked()


def test_one_domain_without_targets_is_named():
    problem = problem_of(small_mlp(), unlabelled("cartoon"), nn.CrossEntropyLoss(), batch_size=4)
    for ask in (problem.evaluate, lambda: surface(problem, points=3), lambda: domains(problem)):
        with pytest.raises(DataError, match=r"no target of domain cartoon counts.*or leave it out"):
            ask()
    with pytest.raises(DataError, match=NOTHING):
        hessian(problem.restrict_to_domain("cartoon"), top=1)
    # What is left without it is what it always was.
    left = {k: v for k, v in domain_data().items() if k != "cartoon"}
    expected = problem_of(small_mlp(), left).evaluate()
    weight = sum(len(y) for _, y in left.values())
    assert problem.total_weight == weight
    assert float(problem.loss_tensor()) == pytest.approx(expected.loss, rel=1e-12)


def test_a_batch_without_targets_weighs_nothing():
    x, y = pooled()
    y = y.clone()
    y[8:16] = -100  # one whole micro-batch
    problem = problem_of(small_mlp(), (x, y), nn.CrossEntropyLoss(), batch_size=8)
    whole = problem_of(small_mlp(), (x[y != -100], y[y != -100]))
    assert problem.evaluate().loss == pytest.approx(whole.evaluate().loss, rel=1e-13)
    assert problem.evaluate().accuracy == pytest.approx(whole.evaluate().accuracy, rel=1e-13)
    assert torch.allclose(problem.gradient(), whole.gradient(), atol=1e-14)


def test_a_split_without_targets():
    """`domains` leaves it out and says so, a surface's test metrics refuse it, the trainer names it."""
    problem = problem_of(small_mlp(), domain_data(), nn.CrossEntropyLoss())
    empty = Examples.of(unlabelled("art", "cartoon", "photo"))
    found = domains(problem, splits={"test": empty, "val": problem.examples})
    assert list(found["splits"]) == ["val"]
    assert found["notes"] == ["split test is left out: no target of any example counts"]
    with pytest.raises(DataError, match=NOTHING):
        surface(problem, points=3, test=problem.with_examples(empty), metrics=("loss", "test-loss"))
    splits = Splits({"train": domain_data(), "test": unlabelled("art", "cartoon", "photo")})
    scorer = Scorer(splits, (), problem.loss_function, torch.device("cpu"), torch.float64)
    with pytest.raises(DataError, match=r"no target of any example counts \(the test split\)"):
        scorer.score(small_mlp())
