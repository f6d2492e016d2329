"""Families of losses over ready-made batches, each a small network, its batches and its objective.

They are written as their users write them; the references beside them are dense float64 matrices of the plain total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


@dataclass
class Family:
    """One family: what its user has."""

    network: nn.Module
    batches: list[Any]
    objective: Any
    extra: dict[str, Any] = field(default_factory=dict)


# -- coupled: every example of a batch looks at all others -----------------------------------------------------------


def contrastive() -> Family:
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    batches = [(randn(n, 3, seed=n), randn(n, 3, seed=10 + n)) for n in (4, 6, 3)]

    def infonce(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        a, b = (F.normalize(model(view), dim=1) for view in batch)
        scores = a @ b.T / 0.5
        return F.cross_entropy(scores, torch.arange(len(scores)), reduction="sum"), len(scores)

    return Family(net, batches, infonce)


# -- graphs ----------------------------------------------------------------------------------------------------------


class Graphs:
    """As PyG's ``Batch``: attributes, ``to`` and nothing else; the adjacency is sparse."""

    def __init__(self, x: Tensor, adjacency: Tensor, graph: Tensor, y: Tensor) -> None:
        self.x, self.adjacency, self.graph, self.y = x, adjacency, graph, y

    def to(self, device: Any) -> Graphs:
        return Graphs(*(t.to(device) for t in (self.x, self.adjacency, self.graph, self.y)))


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, batch: Graphs) -> Tensor:
        h = torch.tanh(torch.sparse.mm(batch.adjacency, self.first(batch.x)))
        count = len(batch.y)
        pooled = torch.zeros(count, 4, dtype=h.dtype).index_add_(0, batch.graph, h)
        out: Tensor = self.second(pooled)
        return out


def graphs() -> Family:
    batches = []
    for nodes, count in ((7, 2), (5, 1), (9, 3)):
        edges = torch.randint(0, nodes, (2, 2 * nodes), generator=torch.Generator().manual_seed(nodes))
        values = torch.full((2 * nodes,), 0.5, dtype=F64)
        adjacency = torch.sparse_coo_tensor(edges, values, (nodes, nodes), check_invariants=True)
        batches.append(Graphs(randn(nodes, 3, seed=nodes), adjacency, torch.arange(nodes) % count, labels(count, 2)))

    def objective(model: nn.Module, batch: Graphs) -> Tensor:
        return F.cross_entropy(model(batch), batch.y, reduction="none")

    return Family(seeded(GraphNet), batches, objective)


class NodeNet(nn.Module):
    """A graph convolution whose adjacency is a sparse buffer, for all nodes at once."""

    def __init__(self) -> None:
        super().__init__()
        edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
        adjacency = torch.sparse_coo_tensor(edges, torch.full((6,), 0.7), (5, 5), check_invariants=True)
        self.register_buffer("adjacency", adjacency.coalesce(), persistent=False)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.sparse.mm(self.adjacency, self.layer(x)))


def nodes() -> Family:
    batches = [{"x": randn(5, 3), "y": labels(5, 2), "mask": torch.tensor([1, 1, 0, 1, 0]).bool()}]

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        values = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        return values[batch["mask"]].sum(), batch["mask"].sum()

    return Family(seeded(NodeNet), batches, objective)


# -- ragged texts, padded batch by batch -----------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(6, 3), nn.GRU(3, 3, batch_first=True), nn.Linear(3, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden, _ = self.rnn(self.embedding(tokens) * mask[..., None])
        out: Tensor = self.head(hidden)
        return out


def ragged() -> Family:
    batches = []
    for lengths in ((2, 4), (3, 1, 5)):
        rows = [labels(n, 6, seed=n) for n in lengths]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(n) for n in lengths], batch_first=True)
        batches.append({"tokens": tokens, "mask": mask, "labels": tokens % 4})

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tags = batch.pop("labels")  # as people do, whose loader makes a new dictionary each time
        values = F.cross_entropy(model(**batch).transpose(1, 2), tags, reduction="none")
        return (values * batch["mask"]).sum(), batch["mask"].sum()

    return Family(seeded(Tagger), batches, objective)


# -- detection: lists of images and of targets -----------------------------------------------------------------------


class Detector(nn.Module):
    """As torchvision's detectors: takes lists, returns a dictionary of losses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.box, self.score = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        assert isinstance(images, list)
        assert isinstance(targets, list)
        box, score = [], []
        for image, target in zip(images, targets, strict=True):
            feature = torch.tanh(self.body(image.flatten(1).mean(1, keepdim=True).expand(-1, 4)).mean(0))
            box.append((self.box(feature) - target["boxes"]).square().mean())
            score.append(F.cross_entropy(self.score(feature).expand(len(target["labels"]), 3), target["labels"]))
        return {"box": torch.stack(box).mean(), "score": torch.stack(score).mean()}


class InTrainingAlone(Detector):
    """As torchvision's detectors: in eval mode it returns what it has found, a list."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if self.training:
            return super().forward(images, targets)
        return [{"boxes": self.box(self.body(torch.zeros(1, 4, dtype=image.dtype)))} for image in images]


def detection() -> Family:
    def one(side: int, boxes: int) -> tuple[Tensor, dict[str, Tensor]]:
        return randn(3, side, side, seed=side), {"boxes": randn(boxes, 4, seed=boxes), "labels": labels(boxes, 3)}

    batches = [[list(part) for part in zip(*pairs, strict=True)] for pairs in ([one(4, 2), one(6, 1)], [one(5, 3)])]

    def objective(model: nn.Module, batch: list[Any]) -> tuple[Tensor, int]:
        images, targets = batch
        losses = model(images, targets)
        return (losses["box"] + 0.5 * losses["score"]) * len(images), len(images)

    return Family(seeded(Detector), batches, objective)


# -- a network that computes its loss --------------------------------------------------------------------------------


@dataclass
class Returned:
    loss: Tensor
    logits: Tensor


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target, self.out = nn.Embedding(5, 3), nn.Embedding(6, 3), nn.Linear(3, 6)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, labels: Tensor) -> Returned:
        memory = self.source(input_ids).mean(1, keepdim=True)
        logits = self.out(torch.tanh(self.target(decoder_input_ids) + memory))
        return Returned(F.cross_entropy(logits.transpose(1, 2), labels), logits)  # mean over those not -100


def encoder_decoder() -> Family:
    batches = []
    for n, length in ((2, 4), (3, 3)):
        target = torch.randint(0, 6, (n, length), generator=torch.Generator().manual_seed(n))
        answer = target.roll(-1, 1).masked_fill(torch.arange(length) == length - 1, -100)
        batches.append({"input_ids": target % 5, "decoder_input_ids": target, "labels": answer})
    batches[0]["labels"][0] = -100

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        count = (batch["labels"] != -100).sum()
        return model(**batch).loss * count, count

    return Family(seeded(EncoderDecoder), batches, objective)


# -- several outputs, targets in a dictionary, in two halves ---------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.body(x))
        return {"kind": self.kind(h), "size": self.size(h)}


class TwoTasks:
    """An objective in two halves, so that Gauss-Newton's matrix can be had."""

    def output(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        return model(batch["x"])

    def loss(self, output: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
        y = batch["y"]
        kind = F.cross_entropy(output["kind"], y["kind"], reduction="none")
        return kind + 0.3 * (output["size"] - y["size"]).square().sum(1)


def two_tasks() -> Family:
    batches = [
        {"x": randn(n, 3, seed=n), "y": {"kind": labels(n, 3, n), "size": randn(n, 2, seed=n + 20)}} for n in (4, 2)
    ]
    return Family(seeded(TwoHeads), batches, TwoTasks())


# -- losses with parameters of their own -----------------------------------------------------------------------------


class Prototypes(nn.Module):
    """A metric loss: classes are points beside the network's features, with a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.temperature = nn.Parameter(randn(3, 2)), nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        x, y = batch
        scores = -(model(x)[:, None] - self.points).square().sum(2) * self.temperature.exp()
        return F.cross_entropy(scores, y, reduction="sum"), len(y)


def prototypes() -> Family:
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)))
    return Family(net, [(randn(n, 3, seed=n), labels(n, 3, n)) for n in (5, 3)], Prototypes())


# -- physics ---------------------------------------------------------------------------------------------------------


def physics() -> Family:
    """u'' + u = 0 with two boundary values, by derivatives inside the forward."""
    net = seeded(lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)))
    batches = [{"t": randn(n, 1, seed=n)} for n in (4, 6)]

    def objective(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        t = batch["t"].requires_grad_()
        u = model(t)
        (first,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), t, create_graph=True)
        ends = (model(torch.zeros(1, 1, dtype=t.dtype)) - 1).square().sum()
        return (second + u).square().sum() + len(t) * ends, len(t)

    return Family(net, batches, objective)


# -- (x, y, metadata) ------------------------------------------------------------------------------------------------


def metadata() -> Family:
    net = seeded(lambda: nn.Linear(3, 3))
    batches = [(randn(n, 3, seed=n), labels(n, 3, n), {"hospital": n, "path": f"{n}.png"}) for n in (4, 5)]

    def objective(model: nn.Module, batch: Any) -> Tensor:
        x, y, where = batch
        return F.cross_entropy(model(x), y, reduction="none") * (1 + where["hospital"])

    return Family(net, batches, objective)


FAMILIES: dict[str, Callable[[], Family]] = {
    f.__name__: f
    for f in (
        contrastive,
        graphs,
        nodes,
        ragged,
        detection,
        encoder_decoder,
        two_tasks,
        prototypes,
        physics,
        metadata,
    )
}
