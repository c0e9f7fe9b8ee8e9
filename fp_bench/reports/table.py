"""A table of text, shown on a terminal, in Markdown or in LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from fp_bench.reports.escape import latex, markdown, printable

READABLE = 28
"""Smallest width of a column of sentences on a terminal."""
GAP = 2
"""Spaces between two columns."""


def or_blank(value: float | None, form: str) -> str:
    """Return a number in a format; an empty text for None and NaN."""
    return "" if value is None or isnan(value) else format(value, form)


@dataclass(frozen=True)
class Table:
    """A table of text, ready to be shown in any form.

    Args:
        title: one line above it.
        columns: headings.
        rows: one text per column.
        numbers: columns from here on are numbers, aligned to the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
        title = Text(printable(self.title)) if self.title else None
        table = RichTable(title=title, title_justify="left", title_style="bold", **look)
        for number, (column, width) in enumerate(zip(self.columns, self._longest_words(), strict=True)):
            # rich truncates a word rather than wrap a heading, so headings of single-word columns are wrapped here.
            single = self._single(number)
            heading = Text(printable("\n".join(wrap(column, width)) if single else column))
            table.add_column(heading, justify="right" if number >= self.numbers else "left", no_wrap=single)
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    def blocks(self, width: int) -> list["Table"]:
        """Return the table as tables of a terminal's width: columns without room go below, without empty columns.

        Each repeats the fewest leading columns that identify its rows, and has at least one further column.
        """
        table = self._without_empty_columns()
        needed = table._readable_widths()
        first = list(range(table._keys()))
        again = table._fewest(first)
        whole = width - sum(needed[number] for number in again)
        blocks, room = [first], width - sum(needed[: len(first)])
        for number in range(len(first), len(needed)):
            if needed[number] > room and (room < whole or len(blocks[-1]) > len(again)):
                blocks.append(list(again))
                room = whole
            blocks[-1].append(number)
            room -= needed[number]
        top, *more = (table._only(numbers) for numbers in blocks)
        return [top, *(replace(block, title="") for block in more)]

    @property
    def narrowest(self) -> int:
        """Width on a terminal if cells break only between words, because a truncated number would be wrong."""
        return sum(width + GAP for width in self._longest_words())

    def _without_empty_columns(self) -> "Table":
        filled = [number for number in range(len(self.columns)) if any(row[number] for row in self.rows)]
        return self._only(filled) if filled else self

    def _only(self, numbers: Sequence[int]) -> "Table":
        """Return the table with some of its columns."""
        rows = [[row[number] for number in numbers] for row in self.rows]
        words = sum(number < self.numbers for number in numbers)
        return Table(self.title, [self.columns[number] for number in numbers], rows, words)

    def _keys(self) -> int:
        """Return the number of leading columns that identify all rows; 1 if none do."""
        found = (n for n in range(1, len(self.columns)) if len({tuple(row[:n]) for row in self.rows}) == len(self.rows))
        return next(found, 1)

    def _fewest(self, keys: Sequence[int]) -> list[int]:
        """Return those columns of the given ones without which some rows could not be told apart, at least one."""
        kept = list(keys)
        for key in keys:
            rest = [number for number in kept if number != key]
            if rest and len({tuple(row[number] for number in rest) for row in self.rows}) == len(self.rows):
                kept = rest
        return kept

    def _single(self, number: int) -> bool:
        return not any(" " in row[number] for row in self.rows)

    def _readable_widths(self) -> list[int]:
        """Return the width of each column with its gap: whole words, and sentences in readable lines."""
        longest = (max((len(row[number]) for row in self.rows), default=0) for number in range(len(self.columns)))
        words = self._longest_words()
        return [max(word, min(READABLE, cell)) + GAP for word, cell in zip(words, longest, strict=True)]

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
