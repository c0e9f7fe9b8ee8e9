"""What a report says of one kind of records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fp_bench.reports.drawing import Plot
from fp_bench.reports.table import Table


@dataclass(frozen=True)
class Chapter:
    """One kind's part of a report, ready to be written in any form."""

    title: str
    name: str
    """Of its files."""
    headlines: Sequence[str]
    """What a reader should take home, a sentence each."""
    tables: Sequence[Table]
    draw: Callable[[], Sequence[Plot]]
    """Makes its plots, which takes seconds."""
    failures: Table
    """What was not measured; it may have no row."""
    note: str
    """How it was measured, always."""
    circumstances: Sequence[str]
    """How it was measured this time, a sentence each."""
    data: Mapping[str, pd.DataFrame]
    """Everything behind it, by the names of the CSV files."""

    @cached_property
    def plots(self) -> Sequence[Plot]:
        """Its plots, made when they are first asked for."""
        return self.draw()
