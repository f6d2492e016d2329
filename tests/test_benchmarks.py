"""The benchmarks' own arithmetic, and that the documentation's table is what they stored. No limit is on time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from bounds import Bound, beyond
from harness import bar, interleaved, ratio
from summary import held, stamps, summary, written

sys.path.pop(0)

ROOT = Path(__file__).parent.parent
STORED = ROOT / "gallery" / "benchmarks"
SPEED = ROOT / "docs" / "explanation" / "speed.md"

# -- bounds: what CI's short form fails for

QUIET = [1.0, 1.1, 1.0, 1.0, 1.0, 1.1, 1.2, 1.0, 1.0]


def line(above: list[float], below: list[float] = QUIET, **more: Any) -> dict[str, Any]:
    return bar("a task", floor=ratio(above, below), **more)


def test_a_ratio_beyond_its_bound_is_found() -> None:
    slow = [1.4 * s for s in QUIET]
    assert beyond([line(slow)], {}, {"a task": Bound(floor=1.3)}, {}) == [
        "a task: 1.40, 1.40, 1.40 of the floor, bound 1.3"
    ]
    assert not beyond([line(slow)], {}, {"a task": Bound(floor=1.5)}, {})


def test_noise_alone_is_not() -> None:
    """Hiccups of either side move one third of the rounds at most, and that only where all of it was hit."""
    for place in range(9):
        hit = [s + (2.0 if i == place else 0.0) for i, s in enumerate(QUIET)]
        assert not beyond([line(hit)], {}, {"a task": Bound(floor=1.01)}, {})
        late = [s + (2.0 if i % 3 == place % 3 else 0.0) for i, s in enumerate(QUIET)]
        assert not beyond([line(late)], {}, {"a task": Bound(floor=1.01)}, {})
        # Nor does a hiccup of what it is compared with hide that all of it is slower.
        assert beyond([line([1.4 * s for s in QUIET], hit)], {}, {"a task": Bound(floor=1.2)}, {})


def test_a_peer_that_has_caught_up_is_found() -> None:
    lines = [bar("a task", peer="PyHessian", faster=ratio([0.9 * s for s in QUIET], QUIET))]
    assert beyond(lines, {}, {"a task": Bound(faster=1.0)}, {})
    assert not beyond(lines, {}, {"a task": Bound(faster=0.8)}, {})
    other = [bar("a task", peer="another", faster=ratio([2.0 * s for s in QUIET], QUIET))]
    assert "not compared with PyHessian" in beyond(other, {}, {"a task": Bound(faster=1.0)}, {})[0]


def test_counts_are_exact() -> None:
    assert beyond([], {"products": 14}, {}, {"products": 13}) == ["products: 14, bound 13"]
    assert not beyond([], {"products": 13}, {}, {"products": 13})


def test_what_was_not_measured_is_beyond() -> None:
    assert beyond([], {}, {"a task": Bound(floor=1.0)}, {"products": 13}) == [
        "a task: not measured",
        "products: not counted",
    ]
    assert beyond([bar("a task")], {}, {"a task": Bound(floor=1.0)}, {})


def test_a_slowed_call_is_measured_as_slower() -> None:
    """The clock sees work, without a limit on how long it takes: three times the work is more than once."""

    def work(times: int) -> None:
        sum(i * i for i in range(20_000 * times))

    seconds = interleaved({"once": lambda: work(1), "thrice": lambda: work(3)}, 6)
    assert max(ratio(seconds["once"], seconds["thrice"])["thirds"]) < 1


# -- the summary


def test_ratios_are_over_rounds() -> None:
    found = ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
    assert (found["least"], found["median"], found["most"]) == (2.0, 3.0, 4.0)
    assert found["thirds"] == [2.0, 3.0, 4.0]


def test_both_targets_of_a_line_count() -> None:
    one, two = ratio([1.0], [1.0]), ratio([2.0], [1.0])
    assert held(bar("a", floor=one, most=1.0)) is True
    assert held(bar("a", floor=two, most=1.0)) is False
    assert held(bar("a", floor=one, most=1.0, peer="p", faster=one, least=1.4)) is False
    assert held(bar("a", floor=one, most=1.0, peer="p", faster=two, least=1.4)) is True
    assert held(bar("a", floor=one)) is None
    assert held(bar("a", least=1.4)) is None


def test_the_documentation_has_the_table_of_the_stored_results() -> None:
    """`python tests/benchmarks/summary.py --write docs/explanation/speed.md` makes it so."""
    text = SPEED.read_text()
    assert written(text, STORED) == text


def test_an_edited_number_is_noticed() -> None:
    text = SPEED.read_text()
    median = json.loads((STORED / "products.json").read_text())["headline"][0]["floor"]["median"]
    shown = f"{median:.2f} ("
    table = summary(STORED)
    assert shown in table
    edited = text.replace(table, table.replace(shown, "0.01 (", 1))
    assert edited != text
    assert written(edited, STORED) == text


@pytest.mark.parametrize("file", sorted(STORED.glob("*.json")), ids=lambda file: file.stem)
def test_results_say_where_when_and_of_what_they_are(file: Path) -> None:
    facts = json.loads(file.read_text())
    if file.stem.startswith("gpu-"):  # a machine that had the tree and not its history
        assert all(facts[key] for key in ("device", "torch", "cuda", "date"))
        assert all(row["agrees"] for row in facts["agreement"])
        return
    assert all(facts[key] for key in ("machine", "python", "torch", "threads", "clock"))
    assert facts.get("headline") or file.stem == "scaling"  # which is on paper
    for at in stamps(facts):
        assert len(at["date"]) == len("2026-01-31")
        assert len(at["commit"]) == 12, "measured on a library with changes that no commit has"
    assert file.with_suffix(".md").is_file()
