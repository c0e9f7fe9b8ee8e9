"""The report's chapter of one kind of records."""

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
    """Main results, one sentence each."""
    tables: Sequence[Table]
    draw: Callable[[], Sequence[Plot]]
    """Makes its plots, which takes seconds."""
    failures: Table
    """Failures; it may be empty."""
    note: str
    """How it was measured, always."""
    circumstances: Sequence[str]
    """How this run was measured, one sentence each."""
    data: Mapping[str, pd.DataFrame]
    """The data behind it, by names of the CSV files."""

    @cached_property
    def plots(self) -> Sequence[Plot]:
        """Its plots, drawn on first use."""
        return self.draw()
