"""Parameters put into groups: each module's own, each repeated block's, or all of one kind.

A group is the set of rows and columns of one diagonal block of the matrix. Groups come from names, and for kinds from
the classes of modules, so that nothing has to be known of a network: GPT-2's ``h.0``, LLaMA's ``layers.0``, BERT's
``encoder.layer.0``, torchvision's ``encoder_layer_0`` and a stage ``layer1`` of a ResNet are the same thing, a number
at the end of a name, at the outermost place where siblings that differ in it hold parameters of the same names.
A tensor that is tied belongs where it is first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

from ..base.errors import UsageError

KINDS = ("embedding", "attention", "mlp", "convolution", "recurrent", "linear", "norm", "head", "other")
_NUMBERED = re.compile(r"(.*?)(\d+)")
_NORM = re.compile(r"(^|_)(ln|layer_?norm|rms_?norm|batch_?norm|group_?norm|norm|bn)(_|\d|$)|norm$", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^pos_|(^|_)(cls|class|dist|mask|reg)_token$", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|expert|(^|_)moe|^intermediate$", re.IGNORECASE)
_LAYER = re.compile(r"^(fc|lin|linear|dense)_?\d$", re.IGNORECASE)
_HEAD = re.compile(r"head|classifier|pooler|predictions|^(cls|fc|score|logits|output|out)$", re.IGNORECASE)
_SCALE = re.compile(r"layer_?scale|^(gamma|lambda|ls)_?\d*$", re.IGNORECASE)


def parameter_groups(model: nn.Module, names: Sequence[str], by: str) -> dict[str, list[str]]:
    """The parameters ``names`` of ``model``, by group.

    Args:
        model: The network.
        names: Full names of the parameters to group, in the network's order.
        by: ``module``: each by the module that holds it. ``block``: by the outermost repeated unit that holds it (a
            layer of a transformer, a stage of a ResNet), or, outside of all, by the outermost module without one.
            ``kind``: attention, MLP, embedding, norm, head, ... (`KINDS`), each over the whole depth.

    Returns:
        Names by group, groups in the order of the network (kinds in that of `KINDS`); every name is in one.

    Raises:
        UsageError: If ``by="block"`` and nothing is repeated.
    """
    if by == "module":
        return _gathered((_module(n) or n, n) for n in names)
    every = [_plain(n) for n, _ in model.named_parameters()]
    units = _units(every)
    if by == "block":
        if not units:
            what = "no block is repeated in this network"
            raise UsageError(what, "`group_by='block'`", "use `group_by='module'` or `group_by='kind'`")
        return _gathered((_block(_plain(n), units), n) for n in names)
    kinds = _Kinds(model, every, units)
    found = _gathered((kinds.of(_plain(n)), n) for n in names)
    return {k: found[k] for k in KINDS if k in found}


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group, name in pairs:
        found.setdefault(group, []).append(name)
    return found


def _plain(name: str) -> str:
    """``0.parametrizations.weight.original1`` is the parameter ``0.weight``."""
    module, parametrized, rest = name.partition(".parametrizations.")
    return f"{module}.{rest.partition('.')[0]}" if parametrized else name


def _module(name: str) -> str:
    return _plain(name).rpartition(".")[0]


def _prefixes(name: str) -> list[str]:
    """The modules around a parameter, outermost first."""
    pieces = name.split(".")[:-1]
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]


def _within(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")


# -- repeated blocks -------------------------------------------------------------------------------------------------


def _units(names: Sequence[str]) -> set[str]:
    """The outermost repeated modules that hold modules; where there are none, those that hold parameters."""
    for deep in (True, False):
        families: dict[tuple[str, str], dict[str, set[str]]] = {}
        for name in names:
            for module in _prefixes(name):
                parent, _, last = module.rpartition(".")
                if found := _NUMBERED.fullmatch(last):
                    inner = re.sub(r"\d+", "#", name[len(module) + 1 :])
                    families.setdefault((parent, found[1]), {}).setdefault(module, set()).add(inner)
        alike = {
            module
            for members in families.values()
            for module, inner in members.items()
            if any("." in n for n in inner) == deep
            and any(other != module and inner & theirs for other, theirs in members.items())
        }
        if alike:
            return {m for m in alike if not any(_within(m, other) for other in alike)}
    return set()


def _block(name: str, units: set[str]) -> str:
    around = _prefixes(name)
    holds = {p for u in units for p in _prefixes(u)}  # the modules around the units themselves
    return next((m for m in around if m in units), next((m for m in around if m not in holds), name))


# -- kinds -----------------------------------------------------------------------------------------------------------


class _Kinds:
    """What each parameter is for, by names and classes."""

    def __init__(self, model: nn.Module, names: Sequence[str], units: set[str]) -> None:
        self.modules, self.units = dict(model.named_modules()), units
        attentive = [found for n in names if (found := self._attention(n))]
        # What stands beside attention, in its block, is a transformer's.
        self.transformers = {next((u for u in units if _within(a, u)), a.rpartition(".")[0]) for a in attentive}
        self.wide = {_module(n) for n, p in model.named_parameters() if p.ndim > 1}

    def of(self, name: str) -> str:
        module, _, last = name.rpartition(".")
        owner, pieces = self.modules.get(module, nn.Module()), name.split(".")
        holder = pieces[-2] if len(pieces) > 1 else ""
        if "Norm" in type(owner).__name__ or _NORM.search(holder):
            return "norm"
        if self._attention(name):
            return "attention"
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or any(_EMBEDDING.search(p) for p in pieces):
            return "embedding"
        if isinstance(owner, nn.RNNBase):
            return "recurrent"
        inside = any(t and _within(name, t) for t in self.transformers)
        if _SCALE.search(last) or _SCALE.search(holder):
            return "other"
        named = any(_MLP.search(p) or (self.transformers and _LAYER.search(p)) for p in pieces[:-1])
        if named or (inside and module in self.wide):
            return "mlp"
        if "Conv" in type(owner).__name__:  # of an image's patches, where the rest is a transformer
            return "embedding" if self.transformers else "convolution"
        if any(_HEAD.search(p) for p in pieces[:-1]):
            return "head"
        if module in self.wide and last in ("weight", "bias"):
            return "head" if self.transformers else "linear"
        return "other"

    def _attention(self, name: str) -> str | None:
        """The outermost module of attention around a parameter."""
        for module in _prefixes(name):
            kind = type(self.modules.get(module)).__name__
            if _ATTENTION.search(module.rpartition(".")[2]) or kind.endswith("Attention"):
                return module
        return None
