"""Regular expressions of strangers: a few characters of them can keep Python busy for years, or fill its memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from .errors import DataError

_SECONDS = 5  # of processor time; an expression that was meant well takes milliseconds
_PATIENCE = 120.0  # to start Python on a busy machine
_MEMORY = 2**30
_PROGRAM = f"""
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
except (ImportError, ValueError, OSError):
    pass
patterns, texts = json.load(sys.stdin)
for k, pattern in enumerate(patterns):
    try:
        compiled = re.compile(pattern)
    except Exception as error:
        print(k, error)
        sys.exit(3)
    for text in texts:
        compiled.match(text)
        compiled.fullmatch(text)
"""


def require_harmless(patterns: Sequence[str], texts: Sequence[str], where: str) -> None:
    """Refuse expressions that do not come to an end on these texts; another process tries them.

    Plain names, which most of them are, need no trial.

    Args:
        patterns: The expressions, as they are going to be used.
        texts: What they will be matched with.
        where: Where they stand, for messages.

    Raises:
        DataError: If one does not compile, or takes seconds or a gigabyte.

    Example:
        >>> require_harmless(["encoder", r".*(query|value)"], ["encoder.query"], "adapter_config.json")
    """
    tried = [p for p in patterns if not re.fullmatch(r"[\w.\-]*", p)]
    if not tried:
        return
    shown = ascii(tried[0])[:80] if len(tried) == 1 else f"one of {len(tried)}"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([tried, list(texts)]),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        code, said = -1, ""
    else:
        code, said = done.returncode, done.stdout
    if code == 3:
        k, _, reason = said.strip().partition(" ")
        raise DataError(
            f"{ascii(tried[int(k)])[:80]} is no regular expression ({reason[:100]})", where, "do not use it"
        )
    if code != 0:
        raise DataError(f"a regular expression ({shown}) does not come to an end", where, "do not use it")
