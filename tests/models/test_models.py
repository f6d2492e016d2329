from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import problem_of
from torch import nn

from landscape.base.errors import UsageError
from landscape.base.plugins import Plugin
from landscape.data.examples import Examples
from landscape.data.splits import Splits
from landscape.models.build import build_model, default_model, facts_of
from landscape.models.convnet import convnet
from landscape.models.mlp import mlp
from landscape.models.resnet import resnet20, resnet32
from landscape.models.vit import Block, vit
from landscape.weights.checkpoint import read_weights
from landscape.weights.load_state_dict import load_into

MATERIAL = Path(os.environ.get("LANDSCAPE_TEST_DATA", "/nowhere"))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(not MATERIAL.is_dir(), reason="LANDSCAPE_TEST_DATA names no folder with published checkpoints")
@pytest.mark.parametrize(
    ("build", "file", "count", "loss", "accuracy"),
    [
        (resnet20, "resnet20-12fca82f.th", 269_722, 0.00724, 0.999),
        (resnet32, "resnet32-d509ac18.th", 464_154, 0.00243, 0.9995),
    ],
)
def test_published_networks_load_and_know_their_images(build, file: str, count: int, loss: float, accuracy: float):
    """Somebody else's checkpoints, and the loss and accuracy known for them on 2,000 original CIFAR-10 images."""
    checkpoint = MATERIAL / "checkpoints" / file
    model = build()
    assert size(model) == count
    weights = read_weights(checkpoint)
    assert weights.container == "state_dict"
    load_into(model, weights, checkpoint)
    given = {k.removeprefix("module."): v for k, v in weights.tensors.items()}
    loaded = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(v, given[k]) for k, v in loaded.items())  # the files are older than that counter
    images = np.load(MATERIAL / "cifar10-lossless-6102.npz")
    mean, std = np.array([0.485, 0.456, 0.406], dtype=np.float32), np.array([0.229, 0.224, 0.225], dtype=np.float32)
    x = torch.from_numpy((images["x_train"][:2000] / np.float32(255) - mean) / std).permute(0, 3, 1, 2).contiguous()
    found = problem_of(
        model, (x, torch.from_numpy(images["y_train"][:2000].astype(np.int64))), batch_size=100
    ).evaluate()
    assert found.accuracy == accuracy
    assert found.loss == pytest.approx(loss, abs=5e-6)


def test_shortcuts_subsample_and_pad_on_both_sides():
    model = resnet20().eval()
    block = model.layer2[0]
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        x = torch.rand(2, 16, 8, 8)
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert float(y[:, :8].abs().sum() + y[:, 24:].abs().sum()) == 0


def test_vit_is_its_formula():
    torch.manual_seed(0)
    model = vit((3, 8, 6), 5, patch=2, width=8, depth=1, heads=2).double()
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 12, 12)
    tokens = patches @ model.patches.weight.reshape(8, 12).T + model.patches.bias + model.places
    block = model.blocks[0]
    query, key, value = block.mix(F.layer_norm(tokens, (8,))).chunk(3, -1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = query[..., h] @ key[..., h].transpose(1, 2) / 2.0
        heads.append(scores.softmax(-1) @ value[..., h])
    tokens = tokens + block.out(torch.cat(heads, -1))
    tokens = tokens + block.down(F.gelu(block.up(F.layer_norm(tokens, (8,)))))
    expected = model.linear(F.layer_norm(tokens, (8,)).mean(1))
    assert torch.allclose(model(x), expected, atol=1e-12)


def test_a_causal_block_does_not_look_ahead():
    torch.manual_seed(0)
    block, x = Block(8, 2, causal=True), torch.randn(1, 5, 8)
    changed = x.clone()
    changed[:, 3:] += 1.0
    assert torch.equal(block(x)[:, :3], block(changed)[:, :3])


@pytest.mark.parametrize(
    ("arguments", "words"), [({"patch": 3}, "does not divide"), ({"width": 10, "heads": 4}, "heads dividing")]
)
def test_vit_says_what_does_not_fit(arguments: dict[str, int], words: str):
    with pytest.raises(UsageError, match=words):
        vit((1, 8, 8), 3, **arguments)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_convnet(batchnorm: bool):
    model = convnet((1, 8, 8), 10, channels=(4, 6), batchnorm=batchnorm)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.bias is None) for c in convs] == [(1, 4, batchnorm), (4, 6, batchnorm)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 2 * batchnorm
    assert model.linear.in_features == 6 * 16  # halved once, to 4 x 4
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    expected = 36 + 216 + (2 * 4 + 2 * 6 if batchnorm else 4 + 6) + 96 * 10 + 10
    assert size(model) == expected


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9), (2, 1, 1), (3, 32, 32)])
def test_convnet_takes_any_image(shape: tuple[int, int, int]):
    assert convnet(shape, 5)(torch.rand(2, *shape)).shape == (2, 5)


def test_mlp_is_what_it_says():
    model = mlp((1, 2, 3), 4, hidden=(5,), activation="tanh").double()
    x = torch.rand(3, 1, 2, 3).double()
    a, b = model.layers
    expected = F.linear(torch.tanh(F.linear(x.flatten(1), a.weight, a.bias)), b.weight, b.bias)
    assert torch.equal(model(x), expected)
    assert size(mlp((6,), 4, hidden=7)) == 6 * 7 + 7 + 7 * 4 + 4
    assert size(mlp((6,), 4, hidden=())) == 28


def test_arguments_are_checked():
    with pytest.raises(UsageError, match=r"unknown activation 'rel'.*did you mean 'relu'"):
        mlp((6,), 2, activation="rel")
    with pytest.raises(UsageError, match=r"hidden=\[0\].*positive"):
        mlp((6,), 2, hidden=0)
    with pytest.raises(UsageError, match=r"needs images, one example has shape \(6,\).*use mlp"):
        convnet((6,), 2)
    with pytest.raises(UsageError, match=r"channels=\[\]"):
        convnet((1, 8, 8), 2, channels=())


def test_facts_come_from_the_data():
    images = Splits({"train": (torch.zeros(5, 3, 8, 8), torch.tensor([0, 4, 1, 1, 2]))})["train"]
    assert facts_of(images) == {"input_shape": [3, 8, 8], "in_channels": 3, "classes": 5}
    assert default_model(images) == "convnet"
    vectors = Examples.of((torch.zeros(5, 7), torch.zeros(5, 2)))
    assert facts_of(vectors) == {"input_shape": [7], "classes": 2}
    assert default_model(vectors) == "mlp"
    assert facts_of(Examples.of((torch.zeros(5, 7), torch.zeros(5)))) == {"input_shape": [7], "classes": 1}


def test_builders_get_the_facts_and_the_users_word_wins():
    registered = Plugin(mlp, "mlp", {"name": "mlp"})
    model = build_model(
        registered, {"classes": 9, "hidden": [3]}, {"input_shape": [4], "classes": 2, "in_channels": 1}
    )
    assert [tuple(layer.weight.shape) for layer in model.layers] == [(3, 4), (9, 3)]
    with pytest.raises(UsageError, match=r"unknown argument 'hiden'.*did you mean 'hidden'"):
        build_model(registered, {"hiden": 3}, {"input_shape": [4], "classes": 2})
    with pytest.raises(UsageError, match=r"it returned a int \(mine\): return a torch.nn.Module"):
        build_model(Plugin(lambda: 3, "mine", {"name": "mine", "path": "mine.py"}), {}, {})
