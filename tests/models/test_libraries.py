"""Names of other libraries' networks: what is said where a library is missing or a name is unknown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import landscape
from landscape.base.errors import UsageError
from landscape.base.plugins import library, resolve
from landscape.models.build import build_model
from landscape.registry import DATA, MODELS


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("torchvision:resnet18", "torchvision", "vision"),
        ("timm:vit", "timm", "vision"),
        ("hf:x", "transformers", "hf"),
    ],
)
def test_a_missing_library_names_the_pip_line(name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UsageError, match=rf"{module} is not installed \({module}\): pip install 'flatminima\[{extra}\]'"
    ):
        build_model(resolve(name, MODELS), {}, {})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'flatminima\[hf\]'"):
        resolve("hf:x", DATA).call()


def test_a_library_for_another_torch_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "unfit_vision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UsageError, match=r"nms does not exist \(unfit_vision\): install the build that belongs to your torch"
    ):
        library("unfit_vision", "vision")
    (tmp_path / "needy_vision.py").write_text("import no_such_module_at_all")
    with pytest.raises(UsageError, match=r"needs no_such_module_at_all \(needy_vision\): pip install"):
        library("needy_vision", "vision")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A torchvision of one network, and what it was asked for."""
    asked: dict = {}

    def get_model(name: str, **options) -> torch.nn.Module:
        asked.update(name=name, **options)
        if options.get("depth") == "deep":
            raise TypeError("unexpected keyword 'depth'")
        return torch.nn.Linear(2, options.get("num_classes", 1000))

    module, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.list_models, models.get_model = lambda: ["resnet18", "resnet34"], get_model
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return asked


def test_the_number_of_classes_comes_from_the_data_unless_it_is_given(fake: dict):
    plugin = resolve("torchvision:resnet18", MODELS)
    assert plugin.record == {"name": "torchvision:resnet18"}
    assert build_model(plugin, {}, {"classes": 7, "input_shape": [3, 8, 8]}).out_features == 7
    assert build_model(plugin, {"num_classes": 5}, {"classes": 7}).out_features == 5
    assert build_model(plugin, {"weights": "DEFAULT"}, {"classes": 7}).out_features == 1000
    assert fake["weights"] == "DEFAULT"


def test_unknown_names_and_options_are_said(fake: dict):
    with pytest.raises(UsageError, match=r"unknown model 'resnet81' \(torchvision\): did you mean 'resnet18'"):
        build_model(resolve("torchvision:resnet81", MODELS), {}, {})
    with pytest.raises(UsageError, match=r"raised TypeError: unexpected keyword 'depth' \(torchvision:resnet18\)"):
        build_model(resolve("torchvision:resnet18", MODELS), {"depth": "deep"}, {})
    with pytest.raises(UsageError, match="there is no module 'torchvison'"):
        resolve("torchvison:resnet18", MODELS)


def test_hugging_face_folders_are_checked_before_anything_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    plugin = resolve("hf:folder", MODELS)
    assert plugin.record == {"name": f"hf:{tmp_path}/folder"}
    with pytest.raises(UsageError, match=r"the folder has no config\.json"):
        build_model(plugin, {}, {})
    with pytest.raises(UsageError, match="task='poetry'"):
        build_model(plugin, {"task": "poetry"}, {})


def test_a_folder_that_says_what_it_is_needs_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As `save_pretrained` and the Trainer write it; the library is asked for by the name of the folder."""
    folder = tmp_path / "out/checkpoint-5"
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(2, 3)}, folder / "model.safetensors")
    data = {"data": "gaussian-domains"}
    with pytest.raises(UsageError, match="does not say its model"):
        landscape.open(folder, **data)
    (folder / "config.json").write_text('{"architectures": ["timm"]}')  # of another library
    with pytest.raises(UsageError, match="does not say its model"):
        landscape.open(folder, **data)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"transformers is not installed.*flatminima\[hf\]"):
        landscape.open(folder, **data)


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_timm_is_never_given_files_to_unpickle(option: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(list_models=lambda: ["vit"]))
    with pytest.raises(UsageError, match=f"{option} is not for here.*TARGET"):
        build_model(resolve("timm:vit", MODELS), {option: "evil.pth"}, {})
