"""Escapes texts of records, which may come from strangers, for each output format. jinja escapes HTML."""

import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Control characters except tab and line end, and characters that are invisible or change the writing direction.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]|$~]")
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: "\\" + character for character in "&%$#_{}"
}
FORMULA = tuple("=+-@\t\r")
"""First characters of a spreadsheet formula."""


def printable(text: str) -> str:
    r"""Return a text for a terminal, with control characters visible, e.g. as ``\x1b``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return a text as one line for a terminal."""
    return printable(" ".join(text.split()))


def prose(text: str) -> str:
    """Return a sentence for Markdown, with code in backticks and HTML as text."""
    return html.escape(one_line(text), quote=False)


def markdown(text: str) -> str:
    """Return a text for a cell or a title in Markdown, without HTML, links, code or formulas."""
    return _MARKDOWN.sub(r"\\\g<0>", prose(text))


def fenced(text: str) -> str:
    """Return lines as a Markdown code block, with a fence longer than any inside."""
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}\n{printable(text)}\n{fence}"


def latex(text: str) -> str:
    """Return a text for LaTeX without commands."""
    return "".join(_TEX.get(character, character) for character in one_line(text))


def csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV without formulas: such texts get a leading ``'``."""
    words = {str(name): table[name].map(_inert) for name in table if table[name].dtype.kind not in "iufb"}
    text: str = table.assign(**words).to_csv(index=False)
    return text


def _inert(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value
