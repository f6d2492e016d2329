"""Comma-separated values that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from ...base.labels import defused


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV, a column per key in order of first appearance.

    Numbers keep every digit. None is an empty cell. Text that a spreadsheet would take for a formula gets an
    apostrophe in front.
    """
    names = list(dict.fromkeys(k for row in rows for k in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(n) for n in names])
    writer.writerows([_cell(row.get(n)) for n in names] for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return defused(value)
    return repr(value)


def to_latex(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Cells as a table with booktabs rules; the first column is left-aligned."""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
            r"\toprule",
            " & ".join(map(latex_text, headers)) + r" \\",
            r"\midrule",
            *(" & ".join(map(latex_text, row)) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    '"': r"\textquotedbl{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "²": "$^2$",
    "³": "$^3$",
    "‖": r"$\|$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "∇": r"$\nabla$",
    "…": r"\ldots{}",
}
_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau upsilon "
    "phi chi psi omega"
)
_GREEK = {chr(ord("α") + i): word for i, word in enumerate(_NAMES.split())}
_CAPITALS = {"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma"}
_GREEK |= _CAPITALS | {"Φ": "Phi", "Ψ": "Psi", "Ω": "Omega"}
_LOW = "₀₁₂₃₄₅₆₇₈₉"


def latex_text(text: str) -> str:
    """Any text as LaTeX that shows it, also in a document that knows no letters beyond Europe's."""
    return "".join(map(_latex_letter, text))


def _latex_letter(c: str) -> str:
    if c in _LATEX:
        return _LATEX[c]
    if c in "&%$#_{}":
        return "\\" + c
    if c in _GREEK:
        return rf"$\{_GREEK[c]}$"
    if c in _LOW:
        return f"$_{_LOW.index(c)}$"
    if ord(c) > 0x17F or not c.isprintable():
        return " " if c.isspace() else f"[U+{ord(c):04X}]"
    return c
