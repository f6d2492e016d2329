"""Groups of parameters: found by names, and their spectra are those of the blocks of the dense matrix."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from landscape.base.errors import UsageError
from landscape.curvature.hessian import _outside, hessian
from landscape.curvature.parameter_groups import parameter_groups
from landscape.models.resnet import resnet20
from landscape.problem.problem import Problem
from landscape.results.identity import key
from landscape.specs import HessianSpec

WIDTH, TOKENS = 4, 6


class Named(nn.Module):
    """Parameters of given names; ``weight`` has two dimensions outside of norms."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            module: nn.Module = self
            for piece in path:
                if piece not in module._modules:
                    module.add_module(piece, nn.Module())
                module = module.get_submodule(piece)
            module.register_parameter(last, nn.Parameter(torch.zeros(2, 2) if "weight" in last else torch.zeros(2)))


def repeated(stem: str, *inner: str, times: int = 2) -> Iterator[str]:
    return (f"{stem}{i}.{name}" for i in range(times) for name in inner)


GPT2 = Named(
    "transformer.wte.weight", "transformer.wpe.weight",
    *repeated("transformer.h.", "ln_1.weight", "attn.c_attn.weight", "attn.c_proj.bias", "mlp.c_fc.weight", times=12),
    "transformer.ln_f.weight", "lm_head.weight",
)  # fmt: skip
LLAMA = Named(
    "model.embed_tokens.weight",
    *repeated("model.layers.", "self_attn.q_proj.weight", "self_attn.q_norm.weight", "mlp.gate_proj.weight",
              "input_layernorm.weight"),
    "model.norm.weight", "lm_head.weight",
)  # fmt: skip
BERT = Named(
    "bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight",
    *repeated("bert.encoder.layer.", "attention.self.query.weight", "attention.output.dense.weight",
              "attention.output.LayerNorm.bias", "intermediate.dense.weight", "output.dense.weight"),
    "bert.pooler.dense.weight", "classifier.weight",
)  # fmt: skip
VIT = Named(
    "vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight",
    *repeated("vit.encoder.layer.", "attention.attention.key.weight", "layernorm_before.weight",
              "output.dense.weight", "layer_scale1.lambda1"),
    "vit.layernorm.weight", "classifier.weight",
)  # fmt: skip
TORCHVISION = Named(
    "class_token", *repeated("encoder.layers.encoder_layer_", "ln_1.bias", "self_attention.in_proj_weight",
                             "mlp.0.weight"), "encoder.pos_embedding", "encoder.ln.weight", "heads.head.weight",
)  # fmt: skip
T5 = Named(
    *(f"{stack}.{name}" for stack in ("encoder", "decoder") for name in repeated(
        "block.", "layer.0.SelfAttention.q.weight", "layer.0.layer_norm.weight", "layer.1.DenseReluDense.wi.weight")),
    "lm_head.weight",
)  # fmt: skip


def grouped(model: nn.Module, by: str) -> dict[str, list[str]]:
    return parameter_groups(model, [n for n, _ in model.named_parameters()], by)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (GPT2, ["transformer.wte", "transformer.wpe", *(f"transformer.h.{i}" for i in range(12)), "transformer.ln_f",
                "lm_head"]),
        (LLAMA, ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]),
        (BERT, ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier"]),
        (VIT, ["vit.embeddings", "vit.encoder.layer.0", "vit.encoder.layer.1", "vit.layernorm", "classifier"]),
        (TORCHVISION, ["class_token", "encoder.pos_embedding", "encoder.layers.encoder_layer_0",
                       "encoder.layers.encoder_layer_1", "encoder.ln", "heads"]),
        (T5, [f"{s}.block.{i}" for s in ("encoder", "decoder") for i in (0, 1)] + ["lm_head"]),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, enable_nested_tensor=False),
         ["layers.0", "layers.1"]),
        (resnet20(), ["conv1", "bn1", "layer1", "layer2", "layer3", "linear"]),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), weight_norm(nn.Linear(3, 2))), ["0", "2"]),
    ],
    ids=["gpt-2", "llama", "bert", "vit", "torchvision", "t5", "torch", "resnet", "perceptron"],
)  # fmt: skip
def test_blocks_are_what_is_repeated(model: nn.Module, blocks: list[str]) -> None:
    found = grouped(model, "block")
    assert set(found) == set(blocks)
    assert sorted(n for g in found.values() for n in g) == sorted(n for n, _ in model.named_parameters())
    for group, names in found.items():
        assert all(n == group or n.startswith(f"{group}.") for n in names)


def test_kinds_run_over_the_depth() -> None:
    sizes = {name: {k: len(v) for k, v in grouped(model, "kind").items()} for name, model in [
        ("gpt-2", GPT2), ("llama", LLAMA), ("bert", BERT), ("vit", VIT), ("torchvision", TORCHVISION), ("t5", T5),
        ("torch", nn.TransformerEncoderLayer(4, 2, 8)), ("resnet", resnet20()), ("rnn", nn.LSTM(2, 3)),
    ]}  # fmt: skip
    assert sizes == {
        "gpt-2": {"embedding": 2, "attention": 24, "mlp": 12, "norm": 13, "head": 1},
        "llama": {"embedding": 1, "attention": 2, "mlp": 2, "norm": 5, "head": 1},
        "bert": {"embedding": 1, "attention": 4, "mlp": 4, "norm": 3, "head": 2},
        "vit": {"embedding": 2, "attention": 2, "mlp": 2, "norm": 3, "head": 1, "other": 2},
        "torchvision": {"embedding": 2, "attention": 2, "mlp": 2, "norm": 3, "head": 1},
        "t5": {"attention": 4, "mlp": 4, "norm": 4, "head": 1},
        "torch": {"attention": 4, "mlp": 4, "norm": 4},
        "resnet": {"convolution": 19, "linear": 2, "norm": 38},
        "rnn": {"recurrent": 4},
    }


def test_what_repeats_nothing_is_told() -> None:
    with pytest.raises(UsageError, match="no block is repeated"):
        hessian(Problem(nn.Linear(2, 2), (torch.ones(3, 2), torch.zeros(3, 2)), "mse"), top=1, group_by="block")
    with pytest.raises(UsageError, match="group_by"):
        HessianSpec(group_by="colour")  # type: ignore[arg-type]


class Tiny(nn.Module):
    """Two blocks of a transformer over six tokens, head and embedding tied."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, WIDTH), nn.Embedding(5, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 4, 0.0, "gelu", batch_first=True, norm_first=True)
        self.h = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.lm_head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]).to(self.wte.weight)
        hidden = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return self.lm_head(self.h(hidden, mask=mask, is_causal=True))


@pytest.mark.parametrize("by", ["block", "kind"])
def test_spectra_of_groups_are_those_of_the_dense_blocks(by: str) -> None:
    torch.manual_seed(0)
    model = Tiny().double()
    tokens = torch.randint(0, TOKENS, (3, 5), generator=torch.Generator().manual_seed(1))
    names, values = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in values]

    def loss(flat: Tensor) -> Tensor:
        pieces = [f.view_as(p) for f, p in zip(flat.split(sizes), values, strict=True)]
        weights = dict(zip(names, pieces, strict=True)) | {"lm_head.weight": pieces[0]}
        logits = torch.func.functional_call(model, weights, (tokens,))
        return nn.functional.cross_entropy(logits[:, :-1].reshape(-1, TOKENS), tokens[:, 1:].reshape(-1))

    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        matrix = torch.autograd.functional.hessian(loss, torch.cat([p.detach().reshape(-1) for p in values]))
    owner = [n for n, size in zip(names, sizes, strict=True) for _ in range(size)]
    problem = Problem(model, (tokens, tokens), "causal_lm", dtype="float64")
    found = hessian(problem, top=2, bottom=1, tol=1e-7, trace=True, trace_rtol=0.2, group_by=by)
    groups = parameter_groups(model, names, by)
    assert found["group_by"] == by
    assert list(found["layers"]) == list(groups)
    assert {"block": "h.layers.1", "kind": "attention"}[by] in groups
    for name, members in groups.items():
        at = torch.tensor([n in members for n in owner])
        exact = torch.linalg.eigvalsh(matrix[at][:, at])
        layer = found["layers"][name]
        assert layer["n_parameters"] == int(at.sum())
        scale = float(exact.abs().max())
        assert layer["eigenvalues"] == pytest.approx(exact.flip(0)[:2].tolist(), abs=1e-6 * scale)
        assert layer["smallest"] == pytest.approx(exact[:1].tolist(), abs=1e-6 * scale)
        trace = layer["trace"]
        assert abs(trace["estimate"] - float(exact.sum())) <= 4 * trace["stderr"] + 1e-9


def test_an_end_that_the_whole_has_not_seen_is_told() -> None:
    """A diagonal block's eigenvalues lie between the matrix's: where one does not, the matrix's run stopped early."""
    whole = {"eigenvalues": [2.0, 1.0], "smallest": [-3.0]}
    inside = {"eigenvalues": [2.0], "smallest": [-3.0]}
    assert _outside(whole, {"a": inside}) == []
    assert _outside(whole | {"smallest": []}, {"a": {"eigenvalues": [1.0], "smallest": []}}) == []
    (note,) = _outside(whole, {"a": inside, "b": {"eigenvalues": [15.0], "smallest": [-1.0]}})
    assert "largest eigenvalue of b alone, 15, lies beyond that of the whole, 2" in note
    (note,) = _outside(whole, {"a": {"eigenvalues": [0.0], "smallest": [-3.5]}})
    assert "smallest eigenvalue of a alone, -3.5" in note


def test_results_of_before_are_found() -> None:
    """A grouping that is not asked for stands in no key, and each layer alone is what it was."""
    assert "group_by" not in HessianSpec(per_layer=True).in_key()
    assert key("hessian", HessianSpec(group_by="kind").in_key()) != key("hessian", HessianSpec().in_key())
    names = [n for n, _ in resnet20().named_parameters()]
    modules = {k: list(v) for k, v in groupby(names, lambda n: n.rpartition(".")[0])}
    assert parameter_groups(resnet20(), names, "module") == modules
