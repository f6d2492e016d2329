"""Checkpoints as the libraries themselves write them, read as they are."""

from __future__ import annotations

import argparse
import pathlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.base.errors import DataError, UsageError
from landscape.weights.checkpoint import facts_of, read_weights
from landscape.weights.load_state_dict import load_into

DATA = """
import torch
def data():
    return {{"train": (torch.tensor({}), torch.tensor({}))}}
"""


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def same(path: Path, expected: nn.Module, key: str | None = None) -> bool:
    model = network(7) if isinstance(expected, nn.Sequential) else type(expected)(expected.config)
    load_into(model, read_weights(path, key), path)
    return all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the Trainer, on loaders and devices
@pytest.mark.parametrize("averaged", [False, True])
def test_lightnings_trainer(averaged: bool, libraries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    class Module(lightning.LightningModule):
        def __init__(self, args: argparse.Namespace, root: pathlib.Path, lr: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    monkeypatch.chdir(tmp_path)
    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.arange(16) % 3)
    module = Module(argparse.Namespace(out=pathlib.Path("x")), pathlib.Path("/data"), np.float64(0.05))
    saver = ModelCheckpoint(dirpath=tmp_path / "checkpoints", save_last=True, filename="{epoch}")
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[saver, *([EMAWeightAveraging(decay=0.5)] if averaged else [])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
    path = tmp_path / "checkpoints" / "last.ckpt"
    facts = facts_of(path)
    assert "argparse.Namespace" in facts["placeholders"]
    assert any("pathlib" in name for name in facts["placeholders"])
    assert facts["container"] == "state_dict"
    content = torch.load(path, weights_only=False)
    expected = network()
    for key in ["state_dict", *(["current_model_state"] if averaged else [])]:
        expected.load_state_dict({k.removeprefix("net."): v for k, v in content[key].items()})
        assert same(path, expected, key)
        assert same(tmp_path, expected) or key != "state_dict"  # the folder means its last checkpoint
    assert facts["networks"] == ["state_dict", *(["current_model_state"] if averaged else [])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_output_folders_of_hugging_faces_trainer(libraries: None, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=8, max_position_embeddings=8, num_labels=2)
    model = transformers.BertForSequenceClassification(config)
    rows = [{"input_ids": torch.randint(0, 11, (4,)), "labels": torch.tensor(i % 2)} for i in range(10)]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), max_steps=5, save_steps=5, use_cpu=True, report_to=[], disable_tqdm=True
    )
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    folder = tmp_path / "out" / "checkpoint-5"
    assert {"optimizer.pt", "trainer_state.json", "training_args.bin"} <= {p.name for p in folder.iterdir()}
    assert same(folder, model)
    tokens, targets = torch.stack([r["input_ids"] for r in rows]), torch.stack([r["labels"] for r in rows])
    (tmp_path / "data.py").write_text(DATA.format(tokens.tolist(), targets.tolist()))
    problem = landscape.open(folder, data=f"{tmp_path}/data.py:data")  # its config.json says what it is
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(tokens).logits, targets)
    assert problem.loss() == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(UsageError, match=r"1 checkpoint folder.*name one: checkpoint-5"):
        read_weights(tmp_path / "out")
    with pytest.raises(DataError, match=r"training_args\.bin"):
        read_weights(folder / "training_args.bin")
    with pytest.raises(DataError, match=r"no weights found.*state, param_groups"):
        read_weights(folder / "optimizer.pt")


def wrapped(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    model = network(1)
    if kind == "compiled":
        return model, torch.compile(model, backend="eager").state_dict()
    if kind == "parallel":
        return model, nn.DataParallel(model).state_dict()
    if kind == "averaged":
        average = torch.optim.swa_utils.AveragedModel(network(0))
        average.update_parameters(model)  # the first update copies parameters, but no buffers
        average.module.load_state_dict(model.state_dict())
        return model, average.state_dict()
    return model, {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["compiled", "parallel", "averaged", "both"])
def test_torchs_own_wrappers(kind: str, tmp_path: Path) -> None:
    model, state = wrapped(kind)
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "c.pt")
    assert same(tmp_path / "c.pt", model)
    torch.save(state, tmp_path / "d.pt")
    assert same(tmp_path / "d.pt", model)


@pytest.mark.slow
def test_timms_saver_and_its_averaged_weights(libraries: None, tmp_path: Path) -> None:
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = network(1)
    average = ModelEmaV3(network(2))
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="own", root=pathlib.Path("/data")),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saver.save_checkpoint(0, 0.5)
    path = tmp_path / "last.pth.tar"
    assert facts_of(path)["networks"] == ["state_dict", "state_dict_ema"]
    assert "argparse.Namespace" in facts_of(path)["placeholders"]
    assert same(path, model)
    assert same(path, average.module, "ema")


def domainbed(path: Path) -> nn.Module:
    """As DomainBed's training script saves: an algorithm that holds its network twice, and drawn hyperparameters."""
    inner = network(1)
    algorithm = nn.Module()
    algorithm.featurizer, algorithm.classifier = inner[:3], inner[3]
    algorithm.network = nn.Sequential(algorithm.featurizer, algorithm.classifier)
    torch.save(
        {
            "args": {"algorithm": "ERM", "test_envs": [0], "data_dir": "/data", "holdout_fraction": 0.2},
            "model_input_shape": torch.Size([4]),
            "model_num_classes": 3,
            "model_num_domains": 3,
            "model_hparams": {"lr": np.float64(1e-3), "batch_size": 32, "resnet18": np.bool_(True)},
            "model_dict": algorithm.state_dict(),
        },
        path,
    )
    return algorithm.network


def test_domainbeds_model_is_read_and_fits_its_network(tmp_path: Path) -> None:
    expected = domainbed(tmp_path / "model.pkl")
    facts = facts_of(tmp_path / "model.pkl")
    assert facts["container"] == "model_dict"
    assert all("numpy" in name for name in facts["placeholders"])
    weights = read_weights(tmp_path / "model.pkl")
    model = nn.Sequential(network(5)[:3], network(5)[3])
    load_into(model, weights, "model.pkl")
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())
    part = network(5)[:3]
    load_into(part, read_weights(tmp_path / "model.pkl", "featurizer"), "model.pkl")
    assert torch.equal(part[0].weight, expected[0][0].weight)


def test_a_raw_pickle_says_how_to_convert_it(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"args": argparse.Namespace(), "model": network()}))
    with pytest.raises(DataError, match=r"pickled objects \(argparse.Namespace.*save model.state_dict\(\) alone"):
        read_weights(tmp_path / "model.pkl")
    (tmp_path / "state.pkl").write_bytes(pickle.dumps(network().state_dict()))
    with pytest.raises(DataError, match=r"bare pickle.*by torch\.save\(state, FILE\), not by pickle"):
        read_weights(tmp_path / "state.pkl")
