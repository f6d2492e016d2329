"""The table of networks: name, family, how each is built small, what it sees."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import own

EXAMPLES = 3


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        name: Of the test.
        family: What it stands for.
        build: Its constructor.
        inputs: Of three examples.
        loss: Name of the loss; the targets follow from it.
        single: It computes parts in float32 whatever its weights are; here they are in float64, too.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Any]
    loss: str = "cross_entropy"
    single: bool = False

    def made(self) -> tuple[nn.Module, Any, Any]:
        """The network in float64 and eval mode, inputs and targets; the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.build().double().eval()
            awaken(model)
            model = InDouble(model) if self.single else model
        generator = torch.Generator().manual_seed(11)
        inputs = self.inputs(generator)
        targets = inputs["input_ids"] if self.loss == "causal_lm" else torch.tensor([0, 2, 1])
        return model, inputs, targets


class InDouble(nn.Module):
    """A network whose requests for float32 are for float64: differences see rounding otherwise, and nothing else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The inner network's output."""
        with _Double():
            return self.inner(*inputs, **named)


class _Double(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def double(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is Tensor.float:
            return args[0].double()
        return func(*map(double, args), **{k: double(v) for k, v in (kwargs or {}).items()})


def awaken(model: nn.Module) -> None:
    """Move everything that starts at a constant: gates at 0, scales at 1 and statistics at 0 and 1 hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or parameter.numel() < 2 or parameter.std() < 1e-3:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean += 0.2 * torch.randn_like(module.running_mean)
                module.running_var *= 0.5 + torch.rand_like(module.running_var)


def images(size: int) -> Callable[[torch.Generator], Tensor]:
    """Pictures of ``size`` by ``size``."""
    return lambda g: torch.randn(EXAMPLES, 3, size, size, generator=g, dtype=torch.float64)


def steps(g: torch.Generator) -> Tensor:
    """Sequences of three numbers at seven times."""
    return torch.randn(EXAMPLES, 7, 3, generator=g, dtype=torch.float64)


def texts(g: torch.Generator) -> dict[str, Tensor]:
    """Nine tokens each, of which the last text has six; the last one ends it."""
    mask = torch.ones(EXAMPLES, 9, dtype=torch.long)
    mask[-1, 6:] = 0
    ids = torch.randint(3, 30, (EXAMPLES, 9), generator=g)
    ids[:-1, -1] = ids[-1, 5] = 1
    return {"input_ids": ids, "attention_mask": mask}


def graphs(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Six nodes with three features, and a symmetric adjacency."""
    upper = (torch.rand(EXAMPLES, 6, 6, generator=g) < 0.4).double().triu(1)
    return torch.randn(EXAMPLES, 6, 3, generator=g, dtype=torch.float64), upper + upper.mT


def edges(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Six nodes with three features, and eight edges as pairs of nodes."""
    nodes = torch.randn(EXAMPLES, 6, 3, generator=g, dtype=torch.float64)
    return nodes, torch.randint(0, 6, (EXAMPLES, 2, 8), generator=g)


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of timm by its registered name, with five classes."""
    return lambda: importlib.import_module("timm").create_model(name, num_classes=5, **options)


def vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of torchvision by name, with five classes."""
    return lambda: importlib.import_module("torchvision").models.get_model(name, num_classes=5, **options)


def part(path: str, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    """A class of a library, ``module:name``; options that are such paths themselves are looked up."""

    def look(value: Any) -> Any:
        if isinstance(value, str) and ":" in value:
            module, _, name = value.partition(":")
            return getattr(importlib.import_module(module), name)
        return value

    return lambda: look(path)(*(look(a) for a in arguments), **{k: look(v) for k, v in options.items()})


def hugging(name: str, head: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of transformers from a small configuration."""

    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{name}Config")(
            **{"vocab_size": 30, "num_labels": 4, "pad_token_id": 0, **options}
        )
        kind = getattr(library, f"{name}For{head}", None) or getattr(library, name + head)
        return kind(config)

    return build


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
WINDOWS = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2)}
MIXER = {"num_classes": 5, "img_size": 32, "patch_size": 8, "embed_dim": 16, "num_blocks": 2}
MIXED = {**MIXER, "mlp_ratio": 2}
TEXT: Mapping[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
META, MIX, ACTS = "timm.models.metaformer:", "timm.models.mlp_mixer:", "timm.layers:"

Row = tuple[str, Callable[[], nn.Module], Any]

CONVOLUTION: list[Row] = [
    ("ResNet", timm("test_resnet"), 32),
    ("ResNetV2", timm("resnetv2_50", layers=(1, 1), channels=(16, 32), stem_chs=8), 32),
    ("SE-RepVGG blocks", timm("test_byobnet"), 32),
    ("ResNeSt", timm("resnest14d", layers=(1,) * 4, channels=(8, 16, 16, 24), stem_width=8), 32),
    ("SKNet", timm("skresnet18", layers=(1,) * 4, channels=(16, 16, 24, 32)), 32),
    ("DenseNet", timm("densenet121", growth_rate=4, block_config=(2, 2, 2)), 32),
    ("RegNetY", timm("regnety_002"), 32),
    ("EfficientNet", timm("test_efficientnet"), 32),
    ("EvoNorm", timm("test_efficientnet_evos"), 32),
    ("NFNet", timm("test_nfnet"), 32),
    ("MobileNetV3", timm("mobilenetv3_small_050"), 32),
    ("GhostNet", timm("ghostnet_050"), 32),
    ("FasterNet", timm("fasternet_t0"), 32),
    ("StarNet", timm("starnet_s050"), 32),
    ("ConvNeXt", timm("test_convnext"), 32),
    ("ConvNeXtV2", timm("test_convnext3"), 32),
    ("MambaOut", timm("test_mambaout"), 32),
    ("FocalNet", part("timm.models.focalnet:FocalNet", num_classes=5, depths=(1, 1), embed_dim=16), 32),
    ("SqueezeNet", vision("squeezenet1_1"), 64),
    ("ShuffleNet", vision("shufflenet_v2_x0_5"), 32),
    ("Inception and auxiliary heads", vision("googlenet", init_weights=False), 32),
    ("MobileNetV2", vision("mobilenet_v2", width_mult=0.25), 32),
    ("MNASNet", part("torchvision.models.mnasnet:MNASNet", 0.2, num_classes=5), 32),
    (
        "VGG",
        part("timm.models.vgg:VGG", cfg=[8, "M", 16, "M"], num_classes=5, mlp_ratio=0.01),
        32,
    ),
]

ATTENTION: list[Row] = [
    ("ViT", timm("test_vit", img_size=32, patch_size=8), 32),
    ("ViT with relative positions", timm("vit_relpos_base_patch16_224", **VIT), 32),
    ("ViT with rotary positions", timm("vit_base_patch16_rope_reg1_gap_256", **VIT), 32),
    ("DeiT", timm("deit_tiny_distilled_patch16_224", **VIT), 32),
    ("BEiT", timm("beit_base_patch16_224", **VIT), 32),
    ("EVA-02", timm("eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=2, num_heads=2), 28),
    ("CaiT", timm("cait_xxs24_224", **VIT), 32),
    ("ConViT", timm("convit_tiny", **{**VIT, "depth": 3, "local_up_to_layer": 2}), 32),
    ("XCiT", timm("xcit_nano_12_p16_224", img_size=32, embed_dim=16, depth=2), 32),
    ("Swin", timm("swin_tiny_patch4_window7_224", **WINDOWS), 32),
    ("SwinV2", timm("swinv2_tiny_window8_256", **WINDOWS), 32),
    (
        "Twins",
        timm("twins_svt_small", img_size=64, embed_dims=(8, 16, 32, 32), depths=(1,) * 4, num_heads=(1, 2, 2, 2)),
        64,
    ),
    (
        "PVTv2",
        timm(
            "pvt_v2_b0", depths=(1,) * 4, embed_dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), sr_ratios=(4, 2, 2, 1)
        ),
        64,
    ),
    ("Hiera", timm("hiera_tiny_224", img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 2, 1)), 64),
    ("CoAtNet", timm("test_coatnet", img_size=64), 64),
    ("MaxViT", timm("test_maxvit", img_size=64), 64),
    (
        "DaViT",
        timm("davit_tiny", depths=(1, 1), embed_dims=(16, 32), num_heads=(1, 2)),
        32,
    ),
    (
        "NesT",
        part(
            "timm.models.nest:Nest",
            num_classes=5,
            img_size=32,
            embed_dims=(8, 16, 32),
            num_heads=(1, 2, 2),
            depths=(1, 1, 1),
        ),
        32,
    ),
    (
        "VOLO",
        part(
            "timm.models.volo:VOLO",
            (1, 1),
            num_classes=5,
            img_size=32,
            embed_dims=(16, 16),
            num_heads=(2, 2),
            downsamples=(True, False),
            outlook_attention=(True, False),
            mlp_ratio=(2.0, 2.0),
            stem_hidden_dim=8,
        ),
        32,
    ),
    (
        "LeViT",
        timm("levit_128s", img_size=64, embed_dim=(16, 24, 32), key_dim=8, num_heads=(1, 2, 2), depth=(1, 1, 1)),
        64,
    ),
    (
        "TinyViT",
        timm("tiny_vit_5m_224", embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), window_sizes=(4, 4)),
        32,
    ),
    (
        "EfficientViT (MSRA)",
        timm("efficientvit_m0", img_size=64, embed_dim=(16, 32, 32), key_dim=(8, 8, 8), num_heads=(2, 2, 2)),
        64,
    ),
    ("SAM's encoder", timm("samvit_base_patch16", **VIT, window_size=2, global_attn_indexes=(1,)), 32),
    ("EdgeNeXt", timm("edgenext_xx_small", dims=(8, 16, 24, 32), depths=(1, 2, 2, 2), heads=(2, 2, 2, 2)), 64),
    (
        "FastViT",
        timm(
            "fastvit_t8", layers=(1,) * 4, embed_dims=(8, 16, 16, 32), token_mixers=("repmixer",) * 3 + ("attention",)
        ),
        64,
    ),
    ("MobileViT", timm("mobilevit_xxs"), 32),
]

MIXERS: list[Row] = [
    ("MLP-Mixer", part(MIX + "MlpMixer", **MIXER), 32),
    (
        "ResMLP",
        part(MIX + "MlpMixer", **MIXER, mlp_ratio=2, block_layer=MIX + "ResBlock", norm_layer=MIX + "Affine"),
        32,
    ),
    (
        "gMLP",
        part(
            MIX + "MlpMixer",
            **MIXER,
            mlp_ratio=2,
            block_layer=MIX + "SpatialGatingBlock",
            mlp_layer=ACTS + "GatedMlp",
        ),
        32,
    ),
    ("PoolFormer", part(META + "MetaFormer", num_classes=5, depths=(1,) * 4, dims=(8, 16, 16, 24)), 64),
    ("ConvMixer", part("timm.models.convmixer:ConvMixer", 16, 2, kernel_size=3, patch_size=4, num_classes=5), 32),
]

SEQUENCES: list[tuple[str, str, Callable[[], nn.Module], Any]] = [
    ("recurrent", "LSTM", partial(own.Recurrent, "LSTM", num_layers=2), steps),
    ("recurrent", "GRU both ways", partial(own.Recurrent, "GRU", bidirectional=True), steps),
    ("recurrent", "LSTM with a projection", partial(own.Recurrent, "LSTM", width=4), steps),
    ("recurrent", "Elman", partial(own.Recurrent, "RNN", nonlinearity="relu"), steps),
    ("recurrent", "GRU cells", partial(own.Cells, "GRUCell"), steps),
    ("recurrent", "LSTM cells", partial(own.Cells, "LSTMCell"), steps),
    (
        "recurrent",
        "Sequencer",
        timm(
            "sequencer2d_s",
            img_size=32,
            layers=(1, 1, 1, 1),
            patch_sizes=(8, 1, 1, 1),
            embed_dims=(8,) * 4,
            hidden_sizes=(2,) * 4,
        ),
        images(32),
    ),
    ("convolution", "TCN with weight normalisation", own.Convolved, steps),
    ("state space", "S4D", own.StateSpace, steps),
    ("state space", "selective scan", own.Selective, steps),
    ("MoE", "top-2 of four experts", own.Experts, steps),
    ("graph", "GCN", own.GraphConvolutions, graphs),
    ("graph", "GAT", own.GraphAttention, graphs),
    ("graph", "message passing", own.Messages, edges),
    ("complex", "Fourier layer", own.Spectral, images(8)),
    ("complex", "phases", own.Phases, steps),
    ("other", "KAN", own.Splines, steps),
    ("other", "deep equilibrium", own.Equilibrium, steps),
    ("attention", "BERT", hugging("Bert", "SequenceClassification", **TEXT), texts),
    (
        "attention",
        "DeBERTa",
        hugging(
            "DebertaV2",
            "SequenceClassification",
            **TEXT,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
        ),
        texts,
    ),
    (
        "attention",
        "T5",
        hugging(
            "T5",
            "SequenceClassification",
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            eos_token_id=1,
            decoder_start_token_id=0,
        ),
        texts,
    ),
    ("mixer", "FNet", hugging("FNet", "SequenceClassification", **TEXT), texts),
]

LANGUAGE: list[tuple[str, str, Callable[[], nn.Module], Any]] = [
    (
        "attention",
        "GPT-2",
        hugging(
            "GPT2", "LMHeadModel", n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
        ),
        texts,
    ),
    ("attention", "Llama", hugging("Llama", "CausalLM", **TEXT, num_key_value_heads=1), texts),
    (
        "MoE",
        "Mixtral",
        hugging(
            "Mixtral", "CausalLM", **TEXT, num_key_value_heads=1, num_local_experts=3, experts_implementation="eager"
        ),
        texts,
    ),
    (
        "MoE",
        "Qwen2-MoE",
        hugging(
            "Qwen2Moe",
            "CausalLM",
            **TEXT,
            num_key_value_heads=1,
            num_experts=3,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            num_experts_per_tok=2,
            experts_implementation="eager",
        ),
        texts,
    ),
    (
        "state space",
        "Mamba",
        hugging("Mamba", "CausalLM", hidden_size=8, state_size=4, num_hidden_layers=2, time_step_rank=2),
        texts,
    ),
    (
        "state space",
        "Mamba-2",
        hugging(
            "Mamba2",
            "CausalLM",
            hidden_size=8,
            state_size=4,
            num_hidden_layers=1,
            num_heads=4,
            head_dim=4,
            n_groups=1,
            chunk_size=4,
        ),
        texts,
    ),
    (
        "recurrent",
        "RecurrentGemma",
        hugging(
            "RecurrentGemma",
            "CausalLM",
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            lru_width=16,
            attention_window_size=8,
        ),
        texts,
    ),
]

SINGLE = frozenset({"EvoNorm", "XCiT", "Llama", "Mixtral", "Qwen2-MoE", "Mamba", "Mamba-2", "RecurrentGemma", "T5"})

_ROWS = [
    *(Network(n, "convolution", b, images(s)) for n, b, s in CONVOLUTION),
    *(Network(n, "attention", b, images(s)) for n, b, s in ATTENTION),
    *(Network(n, "mixer", b, images(s)) for n, b, s in MIXERS),
    *(Network(n, f, b, i) for f, n, b, i in SEQUENCES),
    *(Network(n, f, b, i, "causal_lm") for f, n, b, i in LANGUAGE),
]
NETWORKS = [replace(row, single=row.name in SINGLE) for row in _ROWS]
