"""How many fault cases, kills and operations are tried, and how they end.

    python tests/faults/tally.py             runs the fault suite and counts
    python tests/faults/tally.py --collect   counts the tests of each case without running them
    python tests/faults/tally.py -n 2 ...    further words are for pytest

Nothing is written down here: cases are the ``case`` marks of the tests, kills and operations what the tests recorded
while they ran.
"""

from __future__ import annotations

import io
import sys
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from pathlib import Path

import pytest

CASES = (*range(1, 95), *range(98, 133))  # of the lists that the suite follows; see README.md


class Tally:
    """A pytest plug-in that counts."""

    def __init__(self) -> None:
        self.tests: dict[int, list[str]] = defaultdict(list)
        self.cases_of: dict[str, tuple[int, ...]] = {}
        self.outcomes: dict[str, str] = {}
        self.numbers: Counter[str] = Counter()
        self.operations: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which cases a test is."""
        for item in session.items:
            self.cases_of[item.nodeid] = tuple(n for mark in item.iter_markers("case") for n in mark.args)
        self.tests.clear()
        for test, numbers in self.cases_of.items():
            for number in numbers:
                self.tests[number].append(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended and what it recorded."""
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = "passed" if report.passed else "skipped" if report.skipped else "failed"
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "operation":
                    operation, _, found = str(value).rpartition(": ")
                    self.operations[operation] = found if report.passed else "silently wrong"
                elif isinstance(value, int):
                    self.numbers[name] += value

    def lines(self, *, ran: bool) -> list[str]:
        """The table."""
        covered = [n for n in CASES if self.tests.get(n)]
        missing = [n for n in CASES if n not in covered]
        lines = [
            f"fault cases      {len(covered)} of {len(CASES)}, by {sum(map(bool, self.cases_of.values()))} tests"
        ]
        if missing:
            lines.append(f"  without a test: {', '.join(map(str, missing))}")
        if not ran:
            return lines + [f"  {n:>3}  {len(self.tests[n])} test(s)" for n in covered]
        ends = {n: {self.outcomes.get(t, "not run") for t in self.tests[n]} for n in covered}
        for what, found in (
            ("as expected", [n for n in covered if ends[n] == {"passed"}]),
            ("otherwise", [n for n in covered if ends[n] & {"failed", "skipped"}]),
            ("not (all) run", [n for n in covered if "not run" in ends[n] and not ends[n] & {"failed", "skipped"}]),
        ):
            named = ": " + ", ".join(map(str, found)) if found and what != "as expected" else ""
            lines.append(f"  {what:<15}{len(found)}{named}")
        for name, what in {
            "kills": "processes killed",
            "strikes": "analyses struck inside",
            "inputs": "inputs by fuzzers",
        }.items():
            lines.append(f"{what:<24} {self.numbers[name]}")
        outcomes = Counter(self.operations.values())
        lines.append(f"{'operations tried':<24} {len(self.operations)}")
        lines += [f"  {outcome:<22} {count}" for outcome, count in sorted(outcomes.items())]
        refused = sorted(o for o, f in self.operations.items() if f == "refused")
        lines += [f"    {o}" for o in refused]
        tests = Counter(self.outcomes.values())
        lines.append(f"{'tests':<24} " + ", ".join(f"{count} {end}" for end, count in sorted(tests.items())))
        return lines


def main(words: list[str]) -> int:
    """Run or collect, print the table, and return pytest's exit code."""
    only_collect = "--collect" in words
    more = [w for w in words if w != "--collect"]
    tally = Tally()
    options = ["-m", "slow or not slow", str(Path(__file__).parent)]
    with redirect_stdout(io.StringIO()):  # collected here, and perhaps run in other processes
        code = pytest.main([*options, "--collect-only", "-p", "no:xdist"], plugins=[tally])
    if not only_collect and code == pytest.ExitCode.OK:
        code = pytest.main([*options, *more], plugins=[tally])
    print("\n".join(["", *tally.lines(ran=not only_collect)]))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
