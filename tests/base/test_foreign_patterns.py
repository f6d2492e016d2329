"""Expressions of strangers are tried elsewhere: those that never end are refused, all others pass."""

from __future__ import annotations

import pytest

from landscape.base.errors import DataError
from landscape.base.foreign_patterns import require_harmless

NAMES = [f"model.encoder.layer.{i}.attention.self.{kind}" for i in range(12) for kind in ("query", "value")]


@pytest.mark.parametrize("pattern", [r".*\.(query|value)", r"(?:^|.*?\.)layer\.(?P<idx>\d+)\.", "[qv].*"])
def test_what_ends_is_let_pass(pattern: str) -> None:
    require_harmless([pattern], NAMES, "a")


@pytest.mark.parametrize("pattern", [r"(.|.)*!", r"(\w+\.?)+!"])
def test_what_does_not_end_is_refused(pattern: str) -> None:
    with pytest.raises(DataError, match=r"does not come to an end|is no regular expression"):
        require_harmless(["fine", pattern], NAMES, "a")


def test_plain_names_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    require_harmless(["query", "encoder.layer-1"], NAMES, "a")


def test_what_does_not_compile_is_named() -> None:
    with pytest.raises(DataError, match=r"\(query\|' is no regular expression \(missing \)"):
        require_harmless(["fine.", "(query|"], NAMES, "a")
