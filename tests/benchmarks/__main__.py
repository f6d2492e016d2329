"""All benchmarks, or those that are named, each in a process of its own, then the summary.

    python tests/benchmarks [NAME...] [--short [--check]] [--out gallery/benchmarks]

`--short` measures small work that needs nothing beside the repository; with `--check` it fails where `bounds` are not
held. Flags of a single benchmark (`--repeat`, `--only`) are given to its own file.
LANDSCAPE_TEST_DATA names the folder with published checkpoints that the full measurements need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bounds import beyond
from summary import summary

HERE = Path(__file__).parent
SHORT = ("products", "eigenvalues", "spectra", "surface_peers", "domains", "optimizers", "sharpness")
ALL = (
    *SHORT,
    "checks",
    "curvature",
    "surface",
    "small_surfaces",
    "growth",
    "memory",
    "scaling",
    "startup",
    "large_transformer",
    "language_model",
)


def main() -> int:
    """Run them one after the other; the exit code says whether all ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--check", action="store_true", help="with --short: exit 1 where a bound is not held")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(ALL))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there is: {', '.join(ALL)}")
    if asked.check and (asked.names or not asked.short):
        parser.error("--check is of all short benchmarks: give --short and no names")
    failed: list[str] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch)
        for name in asked.names or (SHORT if asked.short else ALL):
            words = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out)]
            words += ["--short"] if asked.short and name in SHORT else []
            started = time.perf_counter()
            print(f"\n## {name}\n", flush=True)
            threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            code = subprocess.run(words, env={**os.environ, **threads}, check=False).returncode
            print(f"\n{name}: {time.perf_counter() - started:.0f} s{f', exit {code}' if code else ''}", flush=True)
            failed += [name] if code else []
        print("\n" + summary(out), flush=True)
        if asked.check:
            stored = [json.loads((out / f"{name}.json").read_text()) for name in SHORT if name not in failed]
            counts = {name: count for facts in stored for name, count in facts.get("counts", {}).items()}
            lines = [line for facts in stored for line in (*facts["headline"], *facts.get("more", []))]
            broken = beyond(lines, counts)
            print("\n".join(f"beyond its bound: {line}" for line in broken) or "all bounds are held", flush=True)
    if failed:
        print(f"did not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
