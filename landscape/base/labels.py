"""Names that users and strangers gave, made harmless: as file names, in a terminal, in a spreadsheet.

A domain, a run or a method may be called anything. What is written to a path, shown or opened elsewhere goes through
one of these functions; inside, and in JSON, names stay what they are.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)  # of Windows, in every folder
_METRIC = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_. -]{0,98}[A-Za-z0-9_-])?")
_MOST = 100  # letters, for prefixes and suffixes to fit into what file systems allow
_KEPT = 40
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # also in their full width, which spreadsheets take for the same


def file_name(label: object) -> str:
    """A label as the name of a file or folder, without a suffix.

    Letters, digits and ``_.+=-`` stay as they are. Anything else becomes ``_``, and eight digits of a hash of the
    label tell apart what would be alike; so the name is the same on every machine, and never leads elsewhere.
    """
    text = str(label)
    if _PLAIN.fullmatch(text) and len(text) <= _MOST and text[-1] != "." and not _DEVICES.fullmatch(text):
        return text
    return _hashed(text)


def file_names(labels: Iterable[object]) -> dict[str, str]:
    """Labels with their file names, which differ also where a file system ignores case."""
    texts = list(dict.fromkeys(map(str, labels)))
    alike = Counter(file_name(t).casefold() for t in texts)
    return {t: file_name(t) if alike[file_name(t).casefold()] == 1 else _hashed(t) for t in texts}


def metric_name(label: object) -> str:
    """A label as a part of the name of a number in TensorBoard, Weights & Biases and MLflow, in each the same.

    Letters, digits, spaces and ``_.-`` stay as they are, which is what all of them take. Anything else becomes ``_``,
    and eight digits of a hash of the label tell apart what would be alike.

    Example:
        >>> metric_name("sketch"), metric_name("rot 15°")
        ('sketch', 'rot 15_-eb4d7b1a')
    """
    text = str(label)
    if _METRIC.fullmatch(text):
        return text
    digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_. -]', '_', text)[:_KEPT].strip(' .')}-{digits}"


def _hashed(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_+=-]+", "_", plain)[:_KEPT].strip("_-") or "name"
    return f"{words}~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def shown(text: object) -> str:
    r"""A text for a terminal: what is no letter, sign or space is written as ``\x1b``, ``\u202e``, ``\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def defused(text: str) -> str:
    r"""A text for a cell of a table: an apostrophe stands before what a spreadsheet would execute, numbers aside.

    Numbers are written without a plus: ``+1`` is a name. A carriage return is written as ``\r``: readers would begin
    a line there.
    """
    start, text = text.lstrip()[:1], text.replace("\r", "\\r")
    if text[:1] not in ("\t", "\n") and not text.startswith("\\r") and not (start and start in _FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return "'" + text if start == "+" else text
