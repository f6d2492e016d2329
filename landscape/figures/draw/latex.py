"""A figure for a paper as LaTeX: the file, a caption that explains it, and what the reader must know."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .style import VENUES, Style
from .tables import latex_text

# Notes that say what a mark is, for readers who have no caption; the captions of all kinds say it in full.
_MARK = re.compile(r"(line|bar|marker|dot|curve|band): ")


def figure_tex(
    stem: str, form: str, style: Style, caption: str, notes: Sequence[str], remarks: Sequence[str] = ()
) -> str:
    r"""A ``figure`` environment that includes a file at its own size, so that its letters keep theirs.

    Args:
        stem: Name of the file without suffix.
        form: Its suffix.
        style: What the figure was drawn for; ``figure*`` where it spans two columns of a page that has two.
        caption: What every mark, band and colour means.
        notes: What was left out and what cannot be seen.
        remarks: For the author alone: what has changed since the results were made.
    """
    widths = VENUES[style.venue].widths
    place = "figure*" if style.columns == 2 and widths[1] > widths[0] else "figure"
    told = " ".join(
        part for part in (caption, *map(_sentence, [n for n in notes if not (caption and _MARK.match(n))])) if part
    )
    label = "".join(c if c.isalnum() and c.isascii() else "-" for c in stem)
    return "\n".join(
        [
            f"% {_plain(stem)}.{form}: {style.width:g} in wide, for {style.venue}",
            *(f"% {' '.join(remark.split())}" for remark in remarks),
            rf"\begin{{{place}}}[t]",
            r"  \centering",
            rf"  \includegraphics{{{_plain(stem)}.{form}}}",
            rf"  \caption{{{latex_text(told)}}}",
            rf"  \label{{fig:{label}}}",
            rf"\end{{{place}}}",
            "",
        ]
    )


def _sentence(note: str) -> str:
    note = " ".join(note.split())
    return note[:1].upper() + note[1:].rstrip(".") + "." if note else ""


def _plain(stem: str) -> str:
    """A file name as LaTeX reads it."""
    return "".join(c for c in stem if c.isprintable() and c not in "{}%#\\~^")
