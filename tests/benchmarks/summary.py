"""One table out of all stored benchmarks: cost over the floor, and against the best peer; the documentation has it.

    python tests/benchmarks/summary.py [gallery/benchmarks] [--write docs/explanation/speed.md]

`--write` puts the table between the file's two markers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import table

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
ORDER = (
    "products", "curvature", "eigenvalues", "spectra", "large_transformer", "growth", "memory", "optimizers",
    "sharpness", "domains", "surface_peers", "surface", "small_surfaces", "startup",
)  # fmt: skip


def headlines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The summary lines of every stored benchmark by its name."""
    found = {file.stem: json.loads(file.read_text()).get("headline", []) for file in folder.glob("*.json")}
    places = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: places.get(item[0], len(places))))


def held(line: Mapping[str, Any]) -> bool | None:
    """Whether the medians reach all targets of a line; None where it has none."""
    verdicts = []
    if line["floor"] and line["most"] is not None:
        verdicts.append(line["floor"]["median"] <= line["most"])
    if line["faster"] and line["least"] is not None:
        verdicts.append(line["faster"]["median"] >= line["least"])
    return all(verdicts) if verdicts else None


def summary(folder: Path) -> str:
    """The table, and below it what was measured when, where and with which commit."""
    lines = [line for several in headlines(folder).values() for line in several]
    rows = []
    for line in lines:
        most, least = line["most"], line["least"]
        rows.append(
            [
                line["task"],
                _cell(line["floor"], line["unit"]),
                "" if most is None else f"≤ {most:.3g}",
                line["peer"] or "none",
                _cell(line["faster"], ""),
                "" if least is None or not line["faster"] else f"≥ {least:g}",
                {True: "held", False: "**missed**", None: ""}[held(line)],
            ]
        )
    head = ["work", "our cost / floor", "target", "best right peer", "its time / ours", "target", ""]
    verdicts = [held(line) for line in lines]
    count = f"{verdicts.count(True)} targets are held, {verdicts.count(False)} are missed."
    return "\n\n".join([table(head, rows), count + " " + provenance(folder)])


def provenance(folder: Path) -> str:
    """Machines and versions of all results, and the commits and dates of each."""
    places: dict[str, list[str]] = {}
    for name in headlines(folder):
        facts = json.loads((folder / f"{name}.json").read_text())
        if "headline" not in facts:
            continue
        where = f"{facts['machine']}, {facts['threads']} thread(s), Python {facts['python']}, torch {facts['torch']}"
        when = sorted({f"{at['commit']} of {at['date']}" for at in stamps(facts)})
        places.setdefault(where, []).append(f"{name} at {', '.join(when)}")
    return " ".join(f"Measured on {where}: {'; '.join(names)}." for where, names in places.items())


def stamps(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Commit and date of each part of a stored result that has its own, else of all of it."""
    parts = facts.get("parts", {})
    own = [part for part in [*(facts.get("rows") or []), *parts.values()] if "commit" in part]
    return own or [dict(facts)]


def _cell(found: Mapping[str, Any] | None, unit: str) -> str:
    if not found:
        return ""
    least, median, most = (
        f"{found[key]:.3g}" if unit else f"{found[key]:.2f}" for key in ("least", "median", "most")
    )
    shown = median if least == most else f"{median} ({least} to {most})"
    return f"{shown} {unit}".rstrip()


def written(text: str, folder: Path) -> str:
    """A file's text with the table between its markers.

    Raises:
        SystemExit: If the markers are not there.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"no single pair of {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{summary(folder)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Print it, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gallery/benchmarks"))
    parser.add_argument("--write", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if asked.write:
        asked.write.write_text(written(asked.write.read_text(), asked.folder))
    else:
        print(summary(asked.folder))


if __name__ == "__main__":
    main()
