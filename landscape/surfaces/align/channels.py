"""Which hidden units of a network may be permuted together without changing what it computes.

The network is traced (torch.fx) and run once on a real input, and every tensor carries a label per channel.
Layers with weights give new labels; elementwise operations keep them; sums make labels of both sides one;
flattening repeats each; padding adds channels that are nobody's. A label remembers every place of a weight where
it is an index. Labels at the same places are exchangeable: they form one group of units. Whatever passes an
operation that is not understood here is held in place, so that a permutation is never wrong, at worst too small.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_KEEP_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_POOLING_MODULES: dict[type[nn.Module], int] = {
    nn.MaxPool1d: 1, nn.AvgPool1d: 1, nn.AdaptiveAvgPool1d: 1,
    nn.MaxPool2d: 2, nn.AvgPool2d: 2, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveMaxPool2d: 2,
}  # fmt: skip
_LIFTING_MODULES = (nn.Sigmoid, nn.Softplus)  # what was zero is not zero afterwards
_KEEP_FUNCTIONS = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.dropout, F.tanh, torch.relu, torch.tanh,
}  # fmt: skip
_POOLING_FUNCTIONS: dict[Any, int] = {
    F.max_pool1d: 1, F.max_pool2d: 2, F.avg_pool2d: 2, F.adaptive_avg_pool2d: 2, F.adaptive_max_pool2d: 2,
}  # fmt: skip
_KEEP_METHODS = {"relu", "relu_", "tanh", "contiguous", "clone"}
_ADD = {operator.add, operator.iadd, torch.add, operator.mul, operator.imul, torch.mul}
_NOBODY = -1  # a channel that always holds zeros


@dataclass(frozen=True)
class Place:
    """One dimension of one stored tensor; ``channel`` counts its entries."""

    tensor: str
    dimension: int


@dataclass(frozen=True)
class Units:
    """A group of exchangeable units.

    Attributes:
        places: By place, the indices that belong to each unit, ``(units, indices per unit)``.
    """

    places: dict[Place, Tensor]

    @property
    def count(self) -> int:
        """Number of units."""
        return len(next(iter(self.places.values())))


def exchangeable_units(model: nn.Module, example: Any) -> list[Units]:
    """The groups of hidden units of ``model`` that may be permuted, each of two or more units.

    Args:
        model: In eval mode; not changed.
        example: A batch of inputs, as `landscape.problem.forward.forward` takes it.
    """
    try:
        graph = fx.symbolic_trace(model)
    except Exception:  # control flow that depends on data: nothing is known about it
        return []
    tracer = _Tracer(graph)
    with torch.no_grad():
        arguments = example if isinstance(example, tuple) else (example,)
        try:
            tracer.run(*arguments)
        except Exception:
            return []
    return tracer.groups()


class _Labelled:
    """A value on its way through the network, with a label per channel (None: held in place)."""

    def __init__(self, value: Any, labels: list[int] | None = None) -> None:
        self.value, self.labels = value, labels


class _Tracer(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.parent: list[int] = []
        self.held: set[int] = set()
        self.marks: list[tuple[Place, list[int]]] = []
        self.calls: dict[str, int] = defaultdict(int)

    # -- labels -------------------------------------------------------------------------------------------------

    def new(self, count: int) -> list[int]:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return list(range(start, start + count))

    def find(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def same(self, a: list[int] | None, b: list[int] | None) -> list[int] | None:
        if a is None or b is None or len(a) != len(b):
            self.hold(a)
            self.hold(b)
            return None
        for x, y in zip(a, b, strict=True):
            if _NOBODY not in (x, y):
                self.parent[self.find(x)] = self.find(y)
        return [y if x == _NOBODY else x for x, y in zip(a, b, strict=True)]

    def hold(self, labels: Sequence[int] | None) -> None:
        self.held.update(x for x in labels or () if x != _NOBODY)

    def mark(self, tensor: str, dimension: int, labels: list[int]) -> None:
        self.marks.append((Place(tensor, dimension), labels))

    # -- the graph ------------------------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> object:
        if n.op == "placeholder":
            return _Labelled(super().run_node(n))
        if n.op == "get_attr":
            return _Labelled(super().run_node(n))
        arguments, keywords = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            self._hold_all((arguments, keywords))
            return arguments[0]
        plain, named = _plain(arguments), _plain(keywords)
        value = getattr(self, n.op)(n.target, plain, named)
        labels = self._labels(n, arguments, keywords, value)
        return _Labelled(value, labels)

    def _labels(self, n: fx.Node, arguments: Any, keywords: Any, value: Any) -> list[int] | None:
        inputs = [a for a in _leaves((arguments, keywords)) if isinstance(a, _Labelled)]
        first = inputs[0] if inputs else None
        handler: Callable[..., list[int] | None] | None = None
        if n.op == "call_module" and first is not None:
            module = self.module.get_submodule(str(n.target))
            self.calls[str(n.target)] += 1
            once = self.calls[str(n.target)] == 1 or not list(module.parameters())
            if once and len(inputs) == 1:
                handler = self._module(module, str(n.target), first, value)
        elif n.op in ("call_function", "call_method"):
            handler = self._operation(n, arguments, keywords, inputs, value)
        if handler is None:
            for one in inputs:
                self.hold(one.labels)
            return None
        return handler()

    def _module(self, module: nn.Module, name: str, x: _Labelled, value: Tensor) -> Any:
        pooled = next((d for kind, d in _POOLING_MODULES.items() if isinstance(module, kind)), None)
        if pooled is not None:
            return (lambda: x.labels) if _behind_channels(x.value, value, pooled) else None
        if isinstance(module, _KEEP_MODULES) or (isinstance(module, _LIFTING_MODULES) and not _has_zeros(x)):
            return lambda: x.labels
        if isinstance(module, nn.Flatten) and module.start_dim == 1:
            return lambda: _repeated(x, value)
        batched = x.value.ndim == len(getattr(module, "kernel_size", ())) + 2  # else the examples are its channels
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1 and batched:
            return lambda: self._weights(name, x.labels, module, module.out_channels)
        if isinstance(module, nn.Linear) and x.value.ndim == 2:
            return lambda: self._weights(name, x.labels, module, module.out_features)
        scale = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        if scale or (isinstance(module, nn.LayerNorm) and x.value.ndim == 2):
            return lambda: self._scales(name, x.labels, module)
        return None

    def _weights(self, name: str, labels: list[int] | None, module: nn.Module, outputs: int) -> list[int]:
        if labels is not None:
            self.mark(f"{name}.weight", 1, labels)
        made = self.new(outputs)
        self.mark(f"{name}.weight", 0, made)
        if getattr(module, "bias", None) is not None:
            self.mark(f"{name}.bias", 0, made)
        return made

    def _scales(self, name: str, labels: list[int] | None, module: nn.Module) -> list[int] | None:
        if labels is not None and _NOBODY in labels:  # zeros become the shift, which belongs to a channel
            self.hold(labels)
            return None
        if labels is not None:
            for kind, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.ndim == 1:
                    self.mark(f"{name}.{kind}", 0, labels)
        return labels

    def _operation(self, n: fx.Node, arguments: Any, keywords: Any, inputs: list[_Labelled], value: object) -> Any:
        if not inputs or not isinstance(value, Tensor):
            return None
        x = inputs[0]
        rows = value.ndim >= 2 and isinstance(x.value, Tensor) and x.value.ndim >= 2
        if not rows:
            return None
        same_channels = value.shape[1] == x.value.shape[1]
        if n.target in _POOLING_FUNCTIONS:
            kept = _behind_channels(x.value, value, _POOLING_FUNCTIONS[n.target])
            return (lambda: x.labels) if kept else None
        if n.target in _KEEP_FUNCTIONS or n.target in _KEEP_METHODS:
            return (lambda: x.labels) if same_channels else None
        if n.target in _ADD and len(inputs) == 2 and inputs[1].value.shape == x.value.shape:
            return lambda: self.same(x.labels, inputs[1].labels)
        if n.target in ("mean", "sum", torch.mean, torch.sum) and _spatial(arguments, keywords, x.value.ndim):
            return (lambda: x.labels) if same_channels else None
        if n.target is operator.getitem and _whole_channels(arguments[1]):
            return lambda: x.labels
        if n.target in (torch.flatten, "flatten", "view", "reshape") and value.ndim == 2:
            whole = value.shape[0] == x.value.shape[0]
            return (lambda: _repeated(x, value)) if whole else None
        if n.target is F.pad and _constant_padding(arguments, keywords):
            return lambda: _padded(x, arguments[1] if len(arguments) > 1 else keywords["pad"])
        if n.target is torch.cat and keywords.get("dim", arguments[1] if len(arguments) > 1 else 0) == 1:
            if any(i.labels is None for i in inputs):
                return None
            return lambda: [label for i in inputs for label in i.labels or ()]
        return None

    def _hold_all(self, tree: Any) -> None:
        for one in _leaves(tree):
            if isinstance(one, _Labelled):
                self.hold(one.labels)

    # -- what follows ---------------------------------------------------------------------------------------------

    def groups(self) -> list[Units]:
        shared = _shared_weights(self.module)
        held = {self.find(x) for x in self.held}
        where: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, labels in self.marks:
            for index, label in enumerate(labels):
                if label != _NOBODY:
                    where[self.find(label)][place].append(index)
                    if place.tensor in shared or self.calls[place.tensor.rpartition(".")[0]] > 1:
                        held.add(self.find(label))
        alike: dict[Any, list[dict[Place, list[int]]]] = defaultdict(list)
        for label, places in where.items():
            if label not in held:
                key = tuple(sorted((p.tensor, p.dimension, len(i)) for p, i in places.items()))
                alike[key].append(places)
        return [
            Units({place: torch.tensor([one[place] for one in members]) for place in members[0]})
            for members in alike.values()
            if len(members) > 1
        ]


def _plain(tree: Any) -> object:
    return fx.node.map_aggregate(tree, lambda v: v.value if isinstance(v, _Labelled) else v)


def _leaves(tree: Any) -> list[object]:
    found: list[Any] = []
    fx.node.map_aggregate(tree, found.append)
    return found


def _behind_channels(x: Any, value: Any, pooled: int) -> bool:
    """Whether the last ``pooled`` dimensions, over which is pooled, lie behind examples and channels.

    Torch takes a tensor without its first dimension, too: ``(n, features)`` is then pooled over the features.
    """
    alike = isinstance(x, Tensor) and isinstance(value, Tensor) and x.ndim == value.ndim == pooled + 2
    return alike and x.shape[:2] == value.shape[:2]


def _has_zeros(x: _Labelled) -> bool:
    return x.labels is not None and _NOBODY in x.labels


def _repeated(x: _Labelled, value: Tensor) -> list[int] | None:
    """Labels after flattening: every channel becomes as many columns as it has pixels."""
    if x.labels is None or value.shape[1] % len(x.labels):
        return None
    return [label for label in x.labels for _ in range(value.shape[1] // len(x.labels))]


def _padded(x: _Labelled, pad: Sequence[int]) -> list[int] | None:
    """Labels after zero padding; the pad counts from the last dimension, channels are dimension 1."""
    if x.labels is None:
        return None
    place = 2 * (x.value.ndim - 2)
    before, after = (pad[place], pad[place + 1]) if len(pad) > place else (0, 0)
    return [_NOBODY] * before + x.labels + [_NOBODY] * after if min(before, after) >= 0 else None


def _constant_padding(arguments: Any, keywords: Any) -> bool:
    mode = keywords.get("mode", arguments[2] if len(arguments) > 2 else "constant")
    fill = keywords.get("value", arguments[3] if len(arguments) > 3 else 0)
    return mode == "constant" and not fill


def _spatial(arguments: Any, keywords: Any, ndim: int) -> bool:
    """Whether a reduction goes over dimensions behind the channels only."""
    dims = keywords.get("dim", arguments[1] if len(arguments) > 1 else None)
    dims = [dims] if isinstance(dims, int) else list(dims or [])
    return bool(dims) and all((d + ndim if d < 0 else d) >= 2 for d in dims)


def _whole_channels(index: Any) -> bool:
    return isinstance(index, tuple) and len(index) >= 2 and all(i == slice(None) for i in index[:2])


def _shared_weights(model: nn.Module) -> set[str]:
    """Names of parameters that share memory with another one."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter.data_ptr()].append(name)
    return {n for group in names.values() if len(group) > 1 for n in group}
