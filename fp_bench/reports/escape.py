"""Texts of records, written for where they are shown: they may come from strangers. HTML is jinja's own to escape."""

import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Control characters but for tab and end of line, and those that turn the direction of writing or are not seen.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]|$~]")
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: "\\" + character for character in "&%$#_{}"
}
FORMULA = tuple("=+-@\t\r")
"""What a cell of a spreadsheet begins with that is computed."""


def printable(text: str) -> str:
    r"""Return a text for a terminal: what would steer it is shown, e.g. as ``\x1b``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return a text as one line for a terminal."""
    return printable(" ".join(text.split()))


def prose(text: str) -> str:
    """Return a sentence for Markdown, in which code stands between backticks and HTML is text."""
    return html.escape(one_line(text), quote=False)


def markdown(text: str) -> str:
    """Return a text for a cell or a title in Markdown: nothing in it is HTML, a link, code or a formula."""
    return _MARKDOWN.sub(r"\\\g<0>", prose(text))


def fenced(text: str) -> str:
    """Return lines as a block of code in Markdown, whose fence is longer than any in them."""
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}\n{printable(text)}\n{fence}"


def latex(text: str) -> str:
    """Return a text for LaTeX, in which nothing is a command."""
    return "".join(_TEX.get(character, character) for character in one_line(text))


def csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV, in which no text is a formula: such a one begins with ``'``."""
    words = {str(name): table[name].map(_inert) for name in table if table[name].dtype.kind not in "iufb"}
    text: str = table.assign(**words).to_csv(index=False)
    return text


def _inert(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value
