"""Which networks a checkpoint holds, what they are called in it, and which one is meant."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..base.errors import DataError, UsageError
from ..base.labels import shown
from ..base.names import enumerated, unknown_name
from .inert_pickle import Placeholder

# Names under which everybody keeps *the* network, the likelier one first.
_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_dict",
    "model",
    "network",
    "net",
    "weights",
    "last",
    "module",
)
_DEEPEST = 8
_MOST_LOOKED_AT = 100_000  # entries: dictionaries can hold each other many times over
_MOST_NETWORKS = 100
_SHOWN = 10


@dataclass(frozen=True)
class Network:
    """One network's tensors in a checkpoint.

    Attributes:
        tensors: By the names that stand in the file.
        place: Keys that lead to it (``"model.state_dict"``), or "" if the file holds nothing else.
        others: Places of the other networks in the file.
        left_out: What stands among its tensors and is an object that was not constructed, with its class.
    """

    tensors: dict[str, Tensor]
    place: str
    others: tuple[str, ...]
    left_out: tuple[str, ...]


def choose(content: Any, key: str | None, where: str) -> Network:
    """The network in a checkpoint, or the one that ``key`` means.

    ``key`` is a place as `Network.place` says it, its last part, a part of a name (``ema`` of ``state_dict_ema``),
    or, within the network found without it, a prefix of its tensors' names (``teacher`` of ``teacher.0.weight``).
    What is named more exactly wins.

    Args:
        content: Of the file.
        key: The network that is meant; None for the one under the name that most people give it.
        where: The file, for messages.

    Raises:
        DataError: If there is no network, or there are several and no key, and none has a usual name.
        UsageError: If there is no such network, or more than one answers to the key.

    Example:
        >>> w = {"weight": torch.ones(1)}
        >>> choose({"model": w, "model_ema": w, "epoch": 3}, "ema", "c.pt").place
        'model_ema'
    """
    found = dict(_networks(content))
    usual = _usual(content)
    if usual is not None and usual[0] not in found:
        found = {usual[0]: usual[1], **found}
    if key is None:
        if usual is None and len(found) == 1:
            usual = next(iter(found.items()))
        if usual is None:
            raise (
                _none(content, where)
                if not found
                else DataError(
                    f"it holds {len(found)} networks: {enumerated([shown(n) for n in found], _SHOWN)}",
                    where,
                    "choose one with `key=NAME`",
                )
            )
        return _network(*usual, found, where)
    if not found:
        raise _none(content, where)
    place = _meant(key, list(found))
    if place is not None:
        if isinstance(place, list):
            names = enumerated([shown(n) for n in place], _SHOWN)
            raise UsageError(f"{len(place)} networks answer to {key!r}: {names}", where, "write `key=` in full")
        return _network(place, found[place], found, where)
    inside = usual or (next(iter(found.items())) if len(found) == 1 else None)
    if inside is not None:
        prefix = f"{key}."
        parts = {
            k.removeprefix(prefix): v for k, v in inside[1].items() if isinstance(k, str) and k.startswith(prefix)
        }
        if any(isinstance(v, Tensor) for v in parts.values()):
            return _network(f"{inside[0]}.{key}".lstrip("."), parts, found, where)
    if (without_names := _nameless(content, key)) is not None:
        raise DataError(
            f"{key!r} holds tensors without names: {without_names}",
            where,
            "where it was made, copy them into the network (ema.copy_to(model.parameters())) and save its state_dict",
        )
    known = [shown(n or "(the whole file)") for n in found]
    if inside is not None:
        known += sorted({shown(_text(k).partition(".")[0]) for k, v in inside[1].items() if isinstance(v, Tensor)})
    raise unknown_name("network", key, known, f"`key=`, {where}")


def _network(place: str, mapping: Mapping[Any, Any], found: Mapping[str, object], where: str) -> Network:
    tensors = {_text(k): v for k, v in mapping.items() if isinstance(v, Tensor)}
    for k, v in mapping.items():
        if isinstance(v, Placeholder) and v.name.startswith("torch._utils._rebuild"):
            name = repr(shown(_text(k)))
            what = f"tensor {name} is sparse, quantized, conjugated or without data"
            fix = f"save it dense, or leave it out (state.pop({name})) and register it with persistent=False"
            raise DataError(what, where, fix)
    left = tuple(f"{shown(_text(k))} ({shown(v.name)})" for k, v in mapping.items() if isinstance(v, Placeholder))
    return Network(tensors, place, tuple(n for n in found if n != place and n), left)


def _nameless(content: object, key: str) -> str | None:
    """What under a key is a list of tensors, as averages of weights are often kept; None: nothing."""
    inside = content.get(key) if isinstance(content, Mapping) else None
    lists = inside.items() if isinstance(inside, Mapping) else [(key, inside)]
    for name, values in lists:
        if isinstance(values, (list, tuple)) and values and all(isinstance(v, Tensor) for v in values):
            return f"{len(values)} in a list ({shown(_text(name))})"
    return None


def _none(content: object, where: str) -> DataError:
    if isinstance(content, Placeholder):
        return objects_alone([content.name], where)
    entries = content if isinstance(content, Mapping) else {}
    objects = sorted({v.name for v in entries.values() if isinstance(v, Placeholder)})
    if objects:
        return objects_alone(objects, where)
    held = enumerated([shown(_text(k)) for k in entries], _SHOWN) if entries else _kind(content)
    return DataError(f"no weights found in it; it holds: {held}", where, "save the model's state_dict")


def _kind(content: object) -> str:
    return "nothing" if isinstance(content, (Mapping, Sequence)) and not content else type(content).__name__


def _text(key: object) -> str:
    return f"{key:#x}" if isinstance(key, int) and abs(key) >= 2**63 else str(key)  # of any length


def objects_alone(names: Sequence[str], where: str) -> DataError:
    """The error for a file whose weights, if any, are inside of objects."""
    if all(name.startswith("torch._utils._rebuild") for name in names):  # pickle.dump(model.state_dict(), file)
        what = "it is a bare pickle, whose tensors have no numbers that could be read without running code"
        return DataError(what, where, "where it was made, save it by torch.save(state, FILE), not by pickle")
    return DataError(
        f"it holds pickled objects ({enumerated([shown(n) for n in names], 5)}), which could run code",
        where,
        "where it was made, save model.state_dict() alone",
    )


def _meant(key: str, places: Sequence[str]) -> str | list[str] | None:
    """The place that a key means, those among which it does not decide, or None."""
    words = {p: [w for w in re.split(r"[._\-\s]+", p.lower()) if w] for p in places}
    rules = (
        lambda p: p == key,
        lambda p: p.rpartition(".")[2] == key or p.startswith(f"{key}."),
        lambda p: p.lower() == key.lower(),
        lambda p: key.lower() in words[p],
        lambda p: key.lower() in p.lower(),
    )
    for rule in rules:
        fitting = [p for p in places if p and rule(p)]
        if fitting:
            return fitting[0] if len(fitting) == 1 else fitting
    return None


def _usual(content: object) -> tuple[str, Mapping[object, object]] | None:
    """The network where most people put it: tensors at the top, or within containers of well-known names."""
    place: list[str] = []
    found = content
    while isinstance(found, Mapping) and len(place) < _DEEPEST:
        inner = next((k for k in _CONTAINERS if isinstance(found.get(k), Mapping) and found[k]), None)
        if inner is None:
            return (".".join(place), found) if any(isinstance(v, Tensor) for v in found.values()) else None
        place.append(inner)
        found = found[inner]
    return None


def _networks(content: object) -> Iterator[tuple[str, Mapping[object, object]]]:
    """What looks like a network's weights: tensors, some called weight or bias. An optimizer's state does not."""
    waiting = deque([("", content, 0)] if isinstance(content, Mapping) else [])
    looked_at = given = 0
    looks: dict[int, bool] = {}
    while waiting and given < _MOST_NETWORKS:
        place, mapping, depth = waiting.popleft()
        if id(mapping) not in looks:
            looks[id(mapping)] = _looks_like_one(mapping)
        if place and looks[id(mapping)]:
            given += 1
            yield place, mapping
        elif depth < 3:
            for name, inner in mapping.items():
                looked_at += 1
                if looked_at > _MOST_LOOKED_AT:
                    return
                if isinstance(inner, Mapping):
                    waiting.append((f"{place}.{_text(name)}" if place else _text(name), inner, depth + 1))


def _looks_like_one(mapping: Mapping[object, object]) -> bool:
    tensors = [_text(k) for k, v in mapping.items() if isinstance(v, Tensor)]
    others = [k for k, v in mapping.items() if not isinstance(v, (Tensor, Placeholder, type(None)))]
    return not others and any(k.endswith(("weight", "bias")) for k in tensors)
