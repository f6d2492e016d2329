"""Putting the weights of a file into a network: every key, shape and kind of number accounted for."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..base.errors import DataError
from ..base.labels import shown
from ..base.names import enumerated, name_matcher
from ..base.process_state import one_at_a_time
from ..numerics.tensors import continuous
from .checkpoint import Weights, require_finite
from .hugging_face import own_names
from .weights import ties

log = logging.getLogger(__name__)

_SHOWN = 10
_NAME_OF_ADAPTER = re.compile(
    r"(?<=lora_magnitude_vector)\.default\.weight$|(\.modules_to_save)?\.default(?=\.|$)",
)
_HALVES = (torch.float16, torch.bfloat16, torch.complex32)


def load_into(
    model: nn.Module,
    weights: Weights,
    where: Path | str,
    *,
    subset: str | None = None,
    expected: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """Copy ``weights`` into ``model``; what wrappers put around the names is taken off, with a notice.

    Args:
        model: Receives the values in its own memory and types.
        weights: From `read_weights`.
        where: Their place, for messages.
        subset: Regular expression; where the checkpoint holds only tensors whose names it matches (a head, LoRA
            matrices), the others keep the model's own values.
        expected: The model's state, where that is another view of its memory than ``state_dict`` gives.

    Returns:
        Names of the state that kept the model's own values.

    Raises:
        DataError: If keys are missing or unexpected, or a shape or kind of number does not fit.
        NumericalError: If a tensor holds NaN or infinities.
    """
    place = str(where)
    if weights.others and weights.key is None:
        others = enumerated([shown(name) for name in weights.others], _SHOWN)
        log.warning("%s: its %r is taken; `key=` chooses another: %s", place, weights.container, others)
    if weights.placeholders:
        log.warning("%s: never constructed: %s", place, enumerated([shown(n) for n in weights.placeholders], _SHOWN))
    if weights.left_out:
        log.warning("%s: objects in place of tensors were left out: %s", place, enumerated(weights.left_out, _SHOWN))
    expected = model.state_dict() if expected is None else expected
    given = _renamed(weights, expected, place)
    if set(given) - set(expected) and (converted := own_names(model, weights.tensors, place)) is not None:
        log.warning("%s: transformers renamed its keys to those of the model", place)
        given = converted
    kept = _match_keys(given, expected, place, subset)
    halves = {str(t.dtype).removeprefix("torch.") for t in given.values() if t.dtype in _HALVES}
    cast = {name: _cast(name, tensor, expected[name], place) for name, tensor in given.items() if name in expected}
    if halves:
        log.warning("%s: weights in %s are cast to the model's type", place, " and ".join(sorted(halves)))
    own = dict(model.named_buffers()) | dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in cast.items():
            if expected[name].layout == torch.strided:
                expected[name].copy_(tensor)
            else:
                # What state_dict gives of a sparse tensor has places of its own: written to, it leaves the network's.
                _make_sparse(name, tensor, own[name], place)
    return kept


def _renamed(weights: Weights, expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors by the model's own names, as far as a common prefix explains the difference."""
    # torch.compile puts its wrapper's name anywhere; PEFT leaves an adapter's name out of its files.
    adapters = {_NAME_OF_ADAPTER.sub("", e): e for e in expected if ".default" in e}
    given: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        plain = name.replace("_orig_mod.", "")
        given[adapters.get(plain, plain)] = tensor
    if len(given) < len(weights.tensors):
        given = dict(weights.tensors)
    own = sum(k in expected for k in given)
    notes = ["took '_orig_mod.' out of its keys"] if any("_orig_mod." in k for k in weights.tensors) else []
    stripped, added = (0, ""), (0, "")
    if not own == len(given) == len(expected):
        stripped = _best_prefix(given, lambda p: sum(k.startswith(p) and k[len(p) :] in expected for k in given))
        added = _best_prefix(expected, lambda p: sum(p + k in expected for k in given))
    if stripped[0] > max(own, added[0]):
        prefix = stripped[1]
        _require_one_meaning(given, expected, stripped, where)
        beside = {k: v for k, v in given.items() if not k.startswith(prefix) and k in expected}  # a loss's own
        outside = [k for k in given if not k.startswith(prefix) and k not in beside]
        given = {**{k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}, **beside}
        notes.append(f"stripped the prefix {prefix!r} from its keys")
        if outside:
            notes.append(f"left out {len(outside)} key(s) outside it: {_some(outside)}")
    elif added[0] > own:
        given = {added[1] + k: v for k, v in given.items()}
        notes.append(f"put the prefix {added[1]!r} before its keys")
    if notes:
        found = f"weights under {weights.container!r}, " if weights.container else ""
        log.warning("%s: %s%s", where, found, ", ".join(notes))
    elif weights.container:
        log.info("%s: weights under %r", where, weights.container)
    return given


def _best_prefix(names: Iterable[str], score: Callable[[str], int]) -> tuple[int, str]:
    """The beginning of dotted names, up to four parts, with the highest score; the shortest of equals."""
    prefixes = {".".join(name.split(".")[:n]) + "." for name in names for n in range(1, min(5, name.count(".") + 1))}
    scored = sorted(((score(p), p) for p in prefixes), key=lambda found: (-found[0], len(found[1])))
    return scored[0] if scored else (0, "")


def _require_one_meaning(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], best: tuple[int, str], where: str
) -> None:
    """Refuse keys that hold the network twice, with other numbers, under prefixes that fit equally well."""
    score, chosen = best

    def beneath(prefix: str) -> dict[str, Tensor]:
        under = {k[len(prefix) :]: v for k, v in given.items() if k.startswith(prefix)}
        return {k: v for k, v in under.items() if k in expected and v.shape == expected[k].shape}

    own = beneath(chosen)
    held = Counter(".".join(k.split(".")[:n]) + "." for k in given for n in range(1, min(5, k.count(".") + 1)))
    for prefix in (p for p, count in held.items() if count >= score):
        other = beneath(prefix) if prefix != chosen else {}
        if len(other) == len(own) == score and any(not torch.equal(own[k], v) for k, v in other.items() if k in own):
            names = " and ".join(sorted(repr(p.rstrip(".")) for p in (chosen, prefix)))
            raise DataError(f"its keys hold the network twice, beneath {names}", where, "choose one with `key=NAME`")


def _match_keys(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, subset: str | None
) -> list[str]:
    """Refuse what does not match; return the names outside ``subset`` that only the model has."""
    kept: list[str] = []
    tied = ties(expected)
    missing = [
        k
        for k in expected
        if k not in given and not any(t in given for t in tied.get(k, ())) and not k.endswith("num_batches_tracked")
    ]
    unexpected = [k for k in given if k not in expected]
    if subset is not None and not unexpected and given:
        wanted = name_matcher(subset)
        inside = [k for k in missing if any(wanted(name) for name in (k, *tied.get(k, ())))]
        if missing and not inside:
            log.warning("%s: %d tensors outside `params=` keep the values of the model callable", where, len(missing))
            kept = missing
        missing = inside
    if missing or unexpected:
        parts = [
            f"{len(keys)} {word} key(s): {_some(keys)}"
            for word, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise DataError("; ".join(parts), where, "is it another model, or `model_arg=`?")
    return kept


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _make_sparse(name: str, tensor: Tensor, target: Tensor, where: str) -> None:
    """Write a dense tensor, as files have it, into a sparse one of the network's."""
    try:
        target.copy_(tensor.to_sparse(layout=target.layout))
    except RuntimeError as error:  # compressed rows are written in place only where as many numbers stand in them
        fix = "let the network build it with these numbers, or keep it in coordinates (to_sparse())"
        raise DataError(f"{name} has other places than the network's: {error}", where, fix) from error


def _cast(name: str, tensor: Tensor, target: Tensor, where: str) -> Tensor:
    if tensor.shape != target.shape:
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}, the model expects {tuple(target.shape)}",
            where,
            "is it another model, or another number of classes?",
        )
    if tensor.is_floating_point() != target.is_floating_point() or tensor.is_complex() != target.is_complex():
        raise DataError(
            f"{name} holds {tensor.dtype}, the model expects {target.dtype}".replace("torch.", ""),
            where,
            "save complex weights" if target.is_complex() else "save real weights",
        )
    if not continuous(tensor):
        return tensor
    with one_at_a_time(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support")  # a cast is all that is asked of it
        require_finite(name, tensor, where)
        cast = tensor.to(target.dtype)
    if not torch.isfinite(cast).all():
        raise DataError(
            f"{name} does not fit into {target.dtype}".replace("torch.", ""), where, "use `dtype='float64'`"
        )
    return cast
