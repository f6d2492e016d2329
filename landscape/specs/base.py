"""The base of all specs: strict reading, validation helpers, a stable hash."""

from __future__ import annotations

import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from ..base.errors import UsageError, argument
from ..base.files import stable_hash
from ..base.names import enumerated, unknown_name


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class. Subclasses check their values in ``__post_init__`` and raise `UsageError`."""

    # Fields that change how fast or where something is computed, never what, each with the reason.
    _not_in_key: ClassVar[Mapping[str, str]] = {}

    # Fields that came later, which stored keys know only where they are not at their default.
    _later: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Specs that are made of parts let each part check its own values."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    def not_in_key(self) -> frozenset[str]:
        """Names of the fields that do not decide the result."""
        return frozenset(self._not_in_key)

    def in_key(self) -> dict[str, object]:
        """The fields that decide the result."""
        later = {f.name: f.default for f in fields(self) if f.name in self._later}
        return {
            k: v
            for k, v in self.to_dict().items()
            if k not in self.not_in_key() and not (k in later and v == later[k])
        }

    def digest(self) -> str:
        """SHA-256 of the fields that decide the result."""
        return stable_hash(self.in_key())

    def lasting_key(self) -> str:
        """As `digest`, of the fields that are not at their default: it stays when a release adds a field."""
        defaults = {f.name: f.default for f in fields(self)}
        differs = {k: v for k, v in self.to_dict().items() if k not in self.not_in_key() and v != defaults[k]}
        return stable_hash(differs)

    def with_(self, **changes: object) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def from_options(cls, **options: object) -> Self:
        """Build a spec from keyword arguments; one value may stand for a list of one.

        Raises:
            UsageError: If an option is unknown; names its neighbours.
        """
        hints, known = get_type_hints(cls, include_extras=False), [f.name for f in fields(cls)]
        values = {}
        for name, value in options.items():
            if name not in known:
                raise unknown_name("option", name, known, cls.__name__)
            one = get_origin(hints[name]) is tuple and not isinstance(value, tuple)
            values[name] = value if not one else tuple(value) if isinstance(value, list) else (value,)
        return cls(**values)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], where: str = "") -> Self:
        """Build a spec from a mapping (a configuration file, a ``run.json``).

        Args:
            mapping: Field names (with ``_`` or ``-``) to values; lists are taken for tuples.
            where: What is being read, for messages.

        Raises:
            UsageError: If a key is unknown, missing or has a value of the wrong type; names the key.
        """
        hints = get_type_hints(cls, include_extras=False)
        known = [f.name for f in fields(cls)]
        values = {}
        for raw, value in mapping.items():
            name = str(raw).replace("-", "_")
            if name not in known:
                raise unknown_name("key", str(raw), known, where)
            taken = tuple(value) if isinstance(value, list) else value
            if isinstance(taken, int) and not isinstance(taken, bool) and not _fits(taken, hints[name]):
                taken = float(taken)
            if not _fits(taken, hints[name]):
                raise UsageError(f"{raw} = {value!r} has the wrong type", where, f"expected {_describe(hints[name])}")
            values[name] = taken
        asked = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        if missing := [name for name in asked if name not in values]:
            raise UsageError(f"{enumerated(missing)} not given", where, f"write {enumerated(asked)}")
        return cls(**values)


def _fits(value: object, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
    if hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in args if a is not type(None))
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is tuple:
        return f"a list of {_describe(args[0])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def key_values(pairs: Iterable[str], name: str) -> dict[str, Any]:
    """Read ``k=v`` arguments: the value as TOML where it is TOML, else as text.

    Raises:
        UsageError: If an argument has no ``=`` or a key comes twice.
    """
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"{pair!r} is not of the form k=v", argument(name), f"write {argument(name, 'width=32')}"
            )
        if key in values:
            raise UsageError(f"{key!r} is given twice", argument(name), "give it once")
        try:
            values[key] = text if "\n" in text else tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values


def check_number(
    name: str,
    value: float | None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Refuse NaN, infinities, and values outside ``[least, most]`` or not ``> above``; None passes.

    Raises:
        UsageError: Naming the field, what came and what is allowed.
    """
    if value is None:
        return
    if not (math.isfinite(value) and least <= value <= most and value > above):
        allowed = f"> {above:g}" if above > -math.inf else f">= {least:g}" if least > -math.inf else "finite"
        if most < math.inf:
            allowed += f" and <= {most:g}"
        raise UsageError(f"{name}={value!r}", argument(name), f"expected a number {allowed}")


def check_choice(name: str, value: str | None, known: Iterable[str]) -> None:
    """Refuse a value that is not among ``known``; None passes."""
    known = list(known)
    if value is not None and value not in known:
        raise unknown_name(name.replace("_", " "), value, known, argument(name))


def check_distinct(name: str, values: Iterable[object]) -> None:
    """Refuse empty lists and repeated values."""
    values = list(values)
    if not values:
        raise UsageError(f"{name} is empty", argument(name), "give at least one value")
    if len(set(values)) != len(values):
        raise UsageError(f"{name} has repeated values: {values}", argument(name), "give each value once")
