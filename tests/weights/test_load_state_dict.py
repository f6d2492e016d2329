"""What wrappers put around the names of weights is taken off and said; everything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from landscape.base.errors import DataError, UsageError
from landscape.problem.parameters import ParameterSpace
from landscape.weights.checkpoint import Weights, read_weights
from landscape.weights.load_state_dict import load_into
from landscape.weights.weights import save_weights


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2)))


def renamed(prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in network(1).state_dict().items()}


def fit(tensors: dict[str, Tensor], caplog: pytest.LogCaptureFixture, container: str = "", **options) -> str:
    """Load into a fresh network, compare with the network they came from; return the notices."""
    model = network(0)
    load_into(model, Weights(tensors, "zip", container, {}), "c.pt", **options)
    for name, tensor in network(1).state_dict().items():
        if options.get("subset", "") in name:
            assert torch.equal(model.state_dict()[name], tensor)
    return caplog.text


@pytest.mark.parametrize("prefix", ["module.", "model.", "network.", "_orig_mod.", "backbone.encoder.", "a.b.c.d."])
def test_any_common_prefix_is_stripped_and_said(prefix: str, caplog: pytest.LogCaptureFixture):
    said = fit(renamed(prefix), caplog, "state_dict")
    assert prefix in said
    assert "weights under 'state_dict'" in said


def test_names_of_compiled_parts_are_taken_out(caplog: pytest.LogCaptureFixture):
    inner = {k.replace("2.0.", "2._orig_mod.0."): v for k, v in renamed("module.").items()}
    said = fit(inner, caplog)
    assert "took '_orig_mod.' out of its keys" in said
    assert "stripped the prefix 'module.'" in said


def test_keys_outside_the_prefix_are_left_out_and_named(caplog: pytest.LogCaptureFixture):
    others = {f"metric{i}.total": torch.zeros(1) for i in range(12)}
    said = fit({**renamed("net."), "criterion.weight": torch.ones(2), **others}, caplog)
    assert "left out 13 key(s) outside it: criterion.weight, metric0.total" in said
    assert "metric9" not in said


def test_domainbeds_algorithms_hold_the_network_twice(caplog: pytest.LogCaptureFixture):
    """ERM keeps ``network`` = Sequential(featurizer, classifier) and both parts beside it."""
    parts = {f"featurizer.{k}": v for k, v in network(1).state_dict().items() if k.startswith("0")}
    assert "stripped the prefix 'network.'" in fit({**parts, **renamed("network.")}, caplog)


def test_a_prefix_that_the_model_has_and_the_file_has_not(caplog: pytest.LogCaptureFixture):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network(0)

    model = Wrapped()
    load_into(model, Weights(renamed(""), "zip", "", {}), "c.pt")
    assert torch.equal(model.body[0].weight, network(1)[0].weight)
    assert "put the prefix 'body.' before its keys" in caplog.text


def refusal(tensors: dict[str, Tensor], **options) -> str:
    model = network(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_into(model, Weights(tensors, "zip", "", {}), "c.pt", **options)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)


def test_missing_and_unexpected_keys_at_most_ten_of_each():
    tensors = {f"model.{k}": v for k, v in network(1).state_dict().items() if not k.startswith("2")}
    tensors |= {f"model.extra{i}": torch.zeros(1) for i in range(15)}
    said = refusal(tensors)
    assert "2 missing key(s): 2.0.weight, 2.0.bias" in said
    assert "15 unexpected key(s): extra0" in said
    assert said.count("extra") == 10
    assert "2.0.weight has shape (5, 4), the model expects (2, 4)" in refusal(
        {**renamed(""), "2.0.weight": torch.zeros(5, 4)}
    )


def test_a_head_alone_needs_params_that_say_so(caplog: pytest.LogCaptureFixture):
    head = {k: v for k, v in renamed("").items() if k.startswith("2.")}
    assert "6 missing key(s)" in refusal(head)
    assert "6 missing key(s)" in refusal(head, subset="weight|bias|running")
    assert "6 tensors outside `params=` keep the values" in fit(head, caplog, subset="2.0.")
    assert "1 unexpected" in refusal({**head, "other": torch.zeros(1)}, subset="2.0.")


class Adapted(nn.Module):
    """Names as PEFT gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(3, 3)
        self.base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(3, 2, bias=False)})


def test_adapters_go_where_they_belong():
    model, new = Adapted(), torch.ones(2, 3)
    base = model.base.weight.clone()
    load_into(model, Weights({"lora_A.weight": new}, "safetensors", "", {}), "a", subset="lora_")
    assert torch.equal(model.lora_A["default"].weight, new)
    assert torch.equal(model.base.weight, base)
    assert ParameterSpace(model, "lora_").size == 6


def test_shared_parameters_count_once_and_answer_to_all_their_names():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    assert ParameterSpace(model).size == 15
    for pattern in ("head", "embed"):
        assert ParameterSpace(model, pattern).names == ("embed.weight",)
    load_into(model, Weights({"head.weight": torch.ones(5, 3)}, "zip", "", {}), "c")
    assert model["embed"].weight.sum() == 15


@pytest.mark.parametrize(
    ("wrap", "container"),
    [
        (lambda s: s, ""),
        (lambda s: {"state_dict": s, "epoch": 1}, "state_dict"),
        (lambda s: {"model": {"module": s}}, "model.module"),
        (lambda s: {"student": s, "args": {"lr": 0.1}, "step": 3}, "student"),
        (lambda s: {"run": {"final": s}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, "run.final"),
    ],
)
def test_weights_are_found_wherever_they_are_nested(wrap, container: str, tmp_path: Path):
    torch.save(wrap(renamed("")), tmp_path / "c.pt")
    weights = read_weights(tmp_path / "c.pt")
    assert weights.container == container
    assert set(weights.tensors) == set(renamed(""))


def test_several_networks_or_none_are_named(tmp_path: Path):
    torch.save({"actor": renamed(""), "critic": renamed("")}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"it holds 2 networks: actor, critic"):
        read_weights(tmp_path / "c.pt")
    torch.save({"state": {0: {"exp_avg": torch.zeros(2)}}, "step": 3}, tmp_path / "d.pt")
    with pytest.raises(DataError, match=r"no weights found in it; it holds: state, step"):
        read_weights(tmp_path / "d.pt")


# -- folders ---------------------------------------------------------------------------------------------------------


def shards(folder: Path) -> dict[str, Tensor]:
    state = {k: v for k, v in network(1).state_dict().items() if not k.endswith("tracked")}
    names = list(state)
    places = {k: f"model-0000{1 + (i > 2)}-of-00002.safetensors" for i, k in enumerate(names)}
    for file in set(places.values()):
        save_file({k: state[k] for k in names if places[k] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return state


def test_shards_are_one_checkpoint(tmp_path: Path):
    state = shards(tmp_path)
    weights = read_weights(tmp_path)
    assert weights.format == "safetensors, 2 shards"
    assert set(weights.tensors) == set(state)
    assert all(torch.equal(weights.tensors[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), r"1 shard\(s\) are missing: model-00002"),
        (
            lambda f: save_file({"x": torch.zeros(1)}, f / "model-00001-of-00002.safetensors"),
            r"3 tensor\(s\) that the index places here are missing: 0.bias, 0.weight, 1.weight",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}'),
            r"names a file elsewhere: '../../secret'",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": 3}'), "names no shards"),
    ],
)
def test_indices_that_lie_are_refused(change, message: str, tmp_path: Path):
    shards(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        read_weights(tmp_path)


def test_the_checkpoint_of_a_lightning_folder(tmp_path: Path):
    place = tmp_path / "version_0" / "checkpoints"
    place.mkdir(parents=True)
    with pytest.raises(UsageError, match="no run and no weights"):
        read_weights(tmp_path / "version_0")
    torch.save({"state_dict": renamed("net."), "epoch": 1}, place / "epoch=1-step=10.ckpt")
    assert read_weights(tmp_path / "version_0").container == "state_dict"
    torch.save({"state_dict": renamed("net."), "epoch": 2}, place / "epoch=2-step=20.ckpt")
    with pytest.raises(
        UsageError, match=r"2 checkpoints .*name one: checkpoints/epoch=1-step=10.ckpt, checkpoints/epoch=2"
    ):
        read_weights(tmp_path / "version_0")
    torch.save({"state_dict": {}, "other": {"net.x": torch.ones(1)}}, place / "last.ckpt")
    with pytest.raises(DataError, match=r"no weights found.*last.ckpt"):
        read_weights(tmp_path / "version_0")


def test_a_distributed_checkpoint_says_how_to_convert_it(tmp_path: Path):
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(DataError, match="dcp_to_torch"):
        read_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_buffer_is_dense_in_our_files(layout: torch.layout, tmp_path: Path):
    def network(value: float) -> nn.Module:
        module = nn.Linear(2, 2)
        module.register_buffer("adjacency", (value * torch.eye(3)).to_sparse(layout=layout))
        return module

    saved, model = network(2.0), network(1.0)
    save_weights(tmp_path / "c.safetensors", saved)
    load_into(model, read_weights(tmp_path / "c.safetensors"), "c")
    assert model.adjacency.layout == layout
    assert torch.equal(model.adjacency.to_dense(), 2 * torch.eye(3))
    if layout == torch.sparse_csr:
        other = nn.Linear(2, 2)
        other.register_buffer("adjacency", torch.ones(3, 3).to_sparse(layout=layout))
        with pytest.raises(DataError, match=r"adjacency has other places.*to_sparse\(\)"):
            load_into(other, read_weights(tmp_path / "c.safetensors"), "c")
    torch.save(saved.state_dict(), tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"'adjacency' is sparse.*state\.pop\('adjacency'\).*persistent=False"):
        read_weights(tmp_path / "c.pt")
