"""All benchmarks, or those that are named, each in a process of its own, then the summary.

    python tests/benchmarks [NAME...] [--short] [--out gallery/benchmarks]

`--short` measures small work that needs nothing beside the repository.
LANDSCAPE_TEST_DATA names the folder with published checkpoints that the full measurements need.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from summary import summary

HERE = Path(__file__).parent
SHORT = ("products", "eigenvalues", "spectra", "surface_peers", "domains")
ALL = (*SHORT, "curvature", "optimizers", "sharpness", "surface", "growth", "scaling", "startup", "large_transformer")


def main() -> int:
    """Run them one after the other; the exit code says whether all ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(ALL))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there is: {', '.join(ALL)}")
    failed = []
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
    if failed:
        print(f"did not run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
