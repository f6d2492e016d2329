"""A folder that PEFT has saved is a target by itself: its base is found, its LoRA matrices move, nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import landscape
from landscape.base.errors import DataError, LandscapeError, UsageError
from landscape.models.adapters import base_model

# What PEFT still calls transformers' attribute.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

DATA = """
import torch
def data():
    tokens = torch.randint(0, 23, (6, 5), generator=torch.Generator().manual_seed(0))
    return {"train": (tokens, torch.arange(6) % 3)}
def loss(output, target):
    return torch.nn.functional.cross_entropy(output.logits, target, reduction="none")
"""
EVIL = "import pathlib\npathlib.Path('canary').touch()\n"


@pytest.fixture
def adapter(libraries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``base``: a tiny BERT; ``adapter``: LoRA over it, with a head of its own; code lies about in both folders."""
    import peft
    from transformers import BertConfig, BertForSequenceClassification

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=12, max_position_embeddings=8, num_labels=3)
    BertForSequenceClassification(config).save_pretrained("base")
    base = BertForSequenceClassification.from_pretrained(str(tmp_path / "base"), attn_implementation="eager")
    lora = peft.LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"], lora_dropout=0.1)
    model = peft.get_peft_model(base, lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # B is zero at first, and then half of the Hessian is
                parameter.normal_(std=0.5)
    model.save_pretrained("adapter")
    for folder in ("base", "adapter"):
        for name in ("modeling.py", "modeling_bert.py", "__init__.py", "configuration.py"):
            (tmp_path / folder / name).write_text(EVIL)
    (tmp_path / "task.py").write_text(DATA)
    return model


def opened(target: str = "adapter", **options: Any) -> Any:
    return landscape.open(target, **{"data": "task.py:data", "loss": "task.py:loss", "dtype": "float64", **options})


@pytest.mark.slow
def test_the_hessian_over_lora_matrices_is_the_dense_one(adapter: Any, tmp_path: Path) -> None:
    model = adapter.double().eval()
    moving = {k: p for k, p in model.named_parameters() if "lora_" in k}
    names, flat = list(moving), torch.cat([p.detach().reshape(-1) for p in moving.values()])
    tokens = torch.randint(0, 23, (6, 5), generator=torch.Generator().manual_seed(0))

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([moving[n].numel() for n in names])
        state = {n: part.view(moving[n].shape) for n, part in zip(names, parts, strict=True)}
        logits = torch.func.functional_call(model, state, (tokens,)).logits
        return torch.nn.functional.cross_entropy(logits, torch.arange(6) % 3)

    dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).flip(0)
    problem = opened(params="lora")
    assert problem.space.size == flat.numel() == 4 * 16
    assert all("lora_" in name for name in problem.space.names)
    found = landscape.hessian(problem, top=3, bottom=2, tol=1e-8)
    assert float(found.record["loss"]) == pytest.approx(float(loss(flat).detach()), rel=1e-12)
    assert torch.tensor(found.record["eigenvalues"]) == pytest.approx(dense[:3], rel=1e-6)
    assert torch.tensor(found.record["smallest"]) == pytest.approx(dense[-2:].flip(0), rel=1e-6)
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_all_that_moves_is_the_adapters(adapter: Any, tmp_path: Path) -> None:
    names = opened().space.names
    assert all("lora_" in n or "modules_to_save" in n for n in names)
    assert sum("modules_to_save" in n for n in names) == 2
    # Another base under the same adapter, asked for, is another network.
    base = load_file("base/model.safetensors")
    (tmp_path / "other").mkdir()
    save_file({k: v + 0.1 for k, v in base.items()}, "other/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "other" / "config.json").write_text(Path("base/config.json").read_text())
    assert opened(model="hf:other").weights_hash != opened(model="hf:base").weights_hash == opened().weights_hash


def edited(path: str, **changes: Any) -> None:
    content = json.loads(Path(path).read_text()) | changes
    Path(path).write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, r"of type 'PREFIX_TUNING'; LoRA is known"),
        ({"base_model_name_or_path": "google/bert"}, r"'google/bert' is no folder .*`model='hf:FOLDER'`"),
        ({"base_model_name_or_path": None}, r"'None' is no folder"),
        ({"target_modules": ["no_such_module"]}, r"PEFT cannot put it into the network"),
        ({"r": 3}, r"has shape \(2, 8\), the model expects \(3, 8\)"),
        ({"target_modules": ["query"]}, r"unexpected key"),
        ({"target_modules": ["query", "value", "key"]}, r"2 missing key\(s\): .*lora_A"),
        ({"layer_replication": [[0, 1]]}, r"uses layer_replication, not known here"),
        ({"target_modules": r"(.|.)*!"}, r"regular expression .*does not come to an end"),
        ({"exclude_modules": r"(.*.*.*)*!"}, r"regular expression .*does not come to an end"),
        ({"rank_pattern": {r"(.|.)*!": 2}}, r"regular expression .*does not come to an end"),
        ({"alpha_pattern": {r"(\w+\.?)+!": 2}}, r"regular expression .*does not come to an end"),
        ({"modules_to_save": ["classifier", r"(.|.)*!"]}, r"regular expression .*does not come to an end"),
        ({"layers_to_transform": [0], "layers_pattern": r"(.|.)*!"}, r"regular expression .*does not come to an end"),
        ({"target_modules": r".*(query|value"}, r"is no regular expression"),
        ({"target_modules": r".*\.(query|value)"}, None),
        ({"r": 10**8}, r"it claims rank 100,000,000, and the largest in its file is 2"),
        ({"rank_pattern": {"query": 10**8}}, r"it claims rank 100,000,000"),
        ({"r": "2"}, r"a rank that is no positive number"),
        ({"r": -1}, r"a rank that is no positive number"),
        ({"bias": "all"}, r"missing key\(s\): .*bias"),
        ({"bias": "lora_only"}, r"2 missing key\(s\): .*base_layer\.bias"),
        ({"auto_mapping": {"base_model_class": "x", "parent_library": "antigravity"}}, None),
    ],
)
def test_configurations_that_do_not_fit_are_told(adapter: Any, changes: dict[str, Any], message: str | None) -> None:
    edited("adapter/adapter_config.json", **changes)
    if message is None:
        opened()
        assert "antigravity" not in sys.modules
        return
    with pytest.raises(LandscapeError, match=message):
        opened()


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_an_adapter_are_its_own(adapter: Any, bias: str, tmp_path: Path) -> None:
    """They are read from its file, not left as the base has them, and they move."""
    import peft
    from transformers import BertForSequenceClassification

    base = BertForSequenceClassification.from_pretrained("base", attn_implementation="eager")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query", "value"], bias=bias))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
    model.save_pretrained("biased")
    (tmp_path / "canary").unlink(missing_ok=True)
    problem = opened("biased")
    expected = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert set(problem.space.names) == set(expected)
    assert any(k.endswith("bias") for k in expected)
    flat = torch.cat([expected[name].detach().double().reshape(-1) for name in problem.space.names])
    assert torch.equal(problem.weights, flat)


def test_peft_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"base_model.model.lora_A.weight": torch.zeros(1)}, "a/adapter_model.safetensors")
    (tmp_path / "net.py").write_text(
        "import torch\ndef net(): return torch.nn.Linear(1, 1)\ndef data(): raise RuntimeError"
    )
    with pytest.raises(UsageError, match=r"PEFT, which is not installed .*pip install peft"):
        landscape.open("a", model="net.py:net", data="net.py:data")


def test_a_base_is_a_folder_here_or_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "sub").mkdir(parents=True)
    config = folder / "adapter_config.json"
    for said in ("sub", str(folder / "sub")):
        config.write_text(json.dumps({"base_model_name_or_path": said}))
        with pytest.raises(UsageError, match="is no folder with a config"):
            base_model(folder)
    (folder / "sub" / "config.json").write_text("{}")
    assert base_model(folder) == f"hf:{folder}/sub"
    config.write_text("[]")
    with pytest.raises(DataError, match="describes no adapter"):
        base_model(folder)
