"""What is legal and hardly ever meant is pointed out in the record and the table, or refused with the fix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import domain_data, problem_of, small_mlp
from PIL import Image
from torch import Tensor, nn

from landscape.base.errors import DataError
from landscape.curvature.hessian import hessian
from landscape.data.images import NORMALIZATIONS
from landscape.domainwise.domains import domains
from landscape.measures.sharpness import sharpness
from landscape.problem.checks.cautions import expected_scale, image_scale
from landscape.surfaces.surface import surface

X = domain_data()["cartoon"][0]
LABELS = domain_data()["cartoon"][1]

# -- one logit -------------------------------------------------------------------------------------------------------

BINARY = {
    "labels": torch.zeros(20, dtype=torch.long),
    "both labels": LABELS % 2,
    "shares": (LABELS % 2).double()[:, None],
}


@pytest.mark.parametrize("targets", list(BINARY))
@pytest.mark.parametrize(
    "loss", ["cross_entropy", "nll", F.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")]
)
def test_a_softmax_over_one_output_is_refused_with_the_fix(targets: str, loss):
    with pytest.raises(DataError, match=r"one output.*always 1 and the loss always 0.*use `loss='bce_with_logits'`"):
        problem_of(small_mlp(classes=1), (X, BINARY[targets]), loss)


def test_a_softmax_over_one_class_of_every_token_is_refused():
    with pytest.raises(DataError, match="token_cross_entropy"):
        problem_of(
            nn.Linear(4, 1).double(), (torch.randn(6, 5, 4).double(), torch.zeros(6, 5).long()), "token_cross_entropy"
        )


@pytest.mark.parametrize("loss", ["bce_with_logits", "mse", nn.BCEWithLogitsLoss(), "l1"])
def test_one_output_is_fine_for_other_losses(loss):
    problem = problem_of(small_mlp(classes=1), (X, BINARY["shares"]), loss)
    assert problem.loss() > 0
    assert hessian(problem, top=1)["cautions"] == []


# -- below what a loss can be ----------------------------------------------------------------------------------------

MINUS = torch.where(LABELS[:, None] == torch.arange(3), 1.0, -1.0).double()
BELOW = "is LOSS, and cannot be below 0"
ODD = {
    "logits where log-probabilities belong": ("nll", LABELS, [f"nll {BELOW}: its inputs are no"]),
    "the same in torch": (nn.NLLLoss(), LABELS, [f"NLLLoss {BELOW}: its inputs are no"]),
    "labels of -1 and 1": (
        "bce_with_logits",
        -9 * (LABELS % 2 * 2 - 1).double()[:, None].expand(20, 3),
        [f"bce_with_logits {BELOW}", "bce_with_logits wants targets in 0..1, there are some in -9..9"],
    ),
    "scores instead of probabilities": (
        nn.CrossEntropyLoss(),
        -5 * MINUS.abs(),
        [f"CrossEntropyLoss {BELOW}", "CrossEntropyLoss wants labels or probabilities that sum to 1"],
    ),
    "targets of 0 and 255": (
        nn.BCEWithLogitsLoss(),
        255 * (MINUS + 1) / 2,
        [f"BCEWithLogitsLoss {BELOW}", "targets in 0..1, there are some in 0..255"],
    ),
}


def confident(classes: int = 3) -> nn.Module:
    """Large positive outputs: as log-probabilities impossible."""
    model = small_mlp(classes=classes)
    with torch.no_grad():
        model[2].bias.add_(6)
    return model


@pytest.mark.parametrize("kind", list(ODD))
def test_a_loss_below_its_range_is_pointed_out_in_every_record(kind: str):
    loss, targets, words = ODD[kind]
    problem = problem_of(confident(), (X, targets), loss)
    plain = loss if isinstance(loss, nn.Module) else {"nll": F.nll_loss}.get(loss, F.binary_cross_entropy_with_logits)
    expected = plain(confident()(X), targets).item()
    assert expected < 0
    records = [
        hessian(problem, top=1, allow_partial=True),
        surface(problem, points=3),
        domains(problem),
        sharpness(problem, m=(20,)),
    ]
    for record in records:
        assert len(record["cautions"]) == len(words)
        for said, wanted in zip(record["cautions"], words, strict=True):
            assert wanted.replace("LOSS", f"{expected:.4g}") in said


def test_what_is_meant_is_not_pointed_out():
    def likelihood(o: Tensor, t: Tensor) -> Tensor:
        return -5.0 + (o[:, 0] - t) ** 2  # a density may exceed 1

    soft = torch.softmax(torch.randn(20, 3).double(), 1)
    for loss, targets in (
        (likelihood, LABELS.double()),
        ("cross_entropy", soft),
        ("cross_entropy", LABELS),
        (nn.CrossEntropyLoss(label_smoothing=0.1), soft),
        ("bce_with_logits", soft),
        ("mse", 100 * soft),
    ):
        problem = problem_of(small_mlp(), (X, targets), loss)
        problem.require_finite()
        assert problem.describe()["cautions"] == []


# -- images ----------------------------------------------------------------------------------------------------------


class OfTimm(nn.Module):
    def __init__(self, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.pretrained_cfg = {"mean": mean, "std": std}

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class OfTorchvision(OfTimm):
    def __init__(self) -> None:
        super().__init__()
        del self.pretrained_cfg


OfTorchvision.__module__ = "torchvision.models.resnet"
IMAGENET = NORMALIZATIONS["imagenet"]


@pytest.mark.parametrize(
    ("model", "normalize", "said"),
    [
        (OfTimm(), "none", "timm says mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5)"),
        (OfTimm(), "imagenet", "they come with normalize=imagenet: normalise them in a data callable"),
        (OfTimm(*IMAGENET), "none", "they come with normalize=none: `data_arg='normalize=imagenet'`"),
        (OfTimm(*IMAGENET), "imagenet", None),
        (OfTimm((0.0,) * 3, (1.0,) * 3), "none", None),
        (OfTorchvision(), "none", "torchvision says mean (0.485, 0.456, 0.406)"),
        (OfTorchvision(), "imagenet", None),
        (small_mlp(), "none", None),
    ],
)
def test_the_scale_of_images_is_compared_with_what_the_library_says(model, normalize: str, said: str | None):
    found = image_scale(model, {"normalize": normalize}, NORMALIZATIONS[normalize], "mine.py:network")
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    assert image_scale(model, {}, None, "mine.py:network") == []  # of other data nothing is known


def test_a_folder_of_hugging_face_says_its_scale(tmp_path: Path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    assert expected_scale(small_mlp(), f"hf:{tmp_path}") == ("preprocessor_config.json", (0.5,) * 3, (0.25,) * 3)
    file.write_text(json.dumps({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    assert expected_scale(small_mlp(), f"hf:{tmp_path}") is None
    file.write_text("{")
    assert expected_scale(small_mlp(), f"hf:{tmp_path}") is None


def test_the_command_points_it_out_above_its_table(tmp_path: Path, monkeypatch, capsys):
    from landscape_cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    rng = np.random.default_rng(0)
    for label in "ab":
        for i in range(8):
            place = tmp_path / "images" / label / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(place)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.fc = torch.nn.Linear(3, 2)\n"
        "        self.pretrained_cfg = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}\n"
        "    def forward(self, x):\n        return self.fc(x.mean((2, 3)))\n"
    )
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "c.pt")
    state = {f"fc.{k}": v for k, v in torch.load(tmp_path / "c.pt").items()}
    torch.save(state, tmp_path / "c.pt")
    words = ["sharpness", "c.pt", "--model", "mine.py:Net", "--data", "images:images"]
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "CAUTION: timm says mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225)" in told
    assert main([*words, "--json"]) == 0
    (caution,) = json.loads(capsys.readouterr().out)["cautions"]
    assert "--data-arg normalize=imagenet" in caution
    assert main([*words, "--data-arg", "normalize=imagenet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cautions"] == []
