"""A table of text, shown on a terminal, in Markdown or in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from fp_bench.reports.escape import latex, markdown, printable


@dataclass(frozen=True)
class Table:
    """A table of text, ready to be shown in any form.

    Args:
        title: one line above it.
        columns: headings.
        rows: as wide as ``columns``.
        numbers: columns from here on are numbers, aligned to the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
        table = RichTable(title=Text(printable(self.title)), title_justify="left", title_style="bold", **look)
        for number, (column, width) in enumerate(zip(self.columns, self._longest_words(), strict=True)):
            # rich would rather cut a word than wrap a heading, so columns of single words get theirs wrapped here.
            single = not any(" " in row[number] for row in self.rows)
            heading = Text(printable("\n".join(wrap(column, width)) if single else column))
            table.add_column(heading, justify="right" if number >= self.numbers else "left", no_wrap=single)
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    @property
    def narrowest(self) -> int:
        """Terminal columns it needs when cells break between words only: a number cut off is another number."""
        return sum(width + 2 for width in self._longest_words())

    def _longest_words(self) -> list[int]:
        cells = zip(self.columns, *self.rows, strict=True)
        return [max(map(len, " ".join(column).split()), default=1) for column in cells]

    def markdown(self) -> str:
        """Return the table as GitHub Markdown, without its title."""
        align = ["--:" if number >= self.numbers else ":--" for number in range(len(self.columns))]
        lines = [list(map(markdown, self.columns)), align, *(list(map(markdown, row)) for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def latex(self) -> str:
        """Return the table as LaTeX with booktabs' rules, its title as the caption."""
        align = "".join("r" if number >= self.numbers else "l" for number in range(len(self.columns)))
        lines = [r"\begin{table}", rf"\caption{{{latex(self.title)}}}", rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines.append(" & ".join(map(latex, self.columns)) + r" \\")
        lines.append(r"\midrule")
        for before, row in zip([None, *self.rows], self.rows, strict=False):
            if before is not None and before[0] != row[0]:
                lines.append(r"\addlinespace")
            lines.append(" & ".join(map(latex, row)) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])
