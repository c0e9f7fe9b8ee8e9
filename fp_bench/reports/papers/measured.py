"""Values of quantities from the records of one run and setting, by method and length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, hypot, log, pi, sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from fp_bench.records.store import Run, read_run, run_folders
from fp_bench.reports.accuracy import tables as accuracy_tables
from fp_bench.reports.latency import tables as latency_tables
from fp_bench.reports.papers.quantities import ACCURACY, LATENCY, TIMES, Made
from fp_bench.reports.scores import NORMAL_QUANTILE
from fp_bench.reports.verdict import Rule

ONE_ROUND = 0.04
"""Standard deviation of the log of one round's time where there is one alone: the largest of the cells that were
measured twice on one H200 (docs/noise.md)."""


class MissingError(LookupError):
    """A missing value; the message says why."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The values of one run and one setting in it.

    Args:
        folder: of the run.
        machine: its machine.
        setting: in words.
        table: one row per method and length, one column per quantity.
    """

    folder: Path
    machine: str
    setting: str
    table: pd.DataFrame

    @cached_property
    def _rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        rows = self.table.to_dict("records")
        return {(str(row["label"]), int(row["seq_len"])): {str(key): row[key] for key in row} for row in rows}

    def fits(self, setting: Mapping[str, Any]) -> bool:
        """Return whether the setting has these fields."""
        first = self.table.iloc[0]
        return all(name in first and first[name] == wanted for name, wanted in setting.items())

    def value(self, quantity: str, method: str, length: int) -> float:
        """Return a measured value.

        Raises:
            MissingError: no such record, one that failed, or one that fell back to dense.
        """
        row = self._rows.get((method, length))
        if row is None:
            raise MissingError("no record")
        if row.get("status", "ok") != "ok":
            raise MissingError(f"{row['status']}: {row['reason']}")
        if row["fallback"]:
            raise MissingError("it fell back to dense")
        value = row.get(quantity)
        if value is None or pd.isna(value):
            raise MissingError(f"its records have no {quantity}")
        return float(value)

    def interval(self, quantity: str, method: str, length: int) -> tuple[float, float]:
        """Return the 95 % interval of a measured value.

        For times and their ratios it follows from the spread of rounds and of launches. The range of
        n rounds is about the root of n of their standard deviations, for 3 to 12 of them; one round has no range.

        Raises:
            MissingError: as `value`.
        """
        value, row = self.value(quantity, method, length), self._rows[method, length]
        if quantity in ACCURACY:
            return 100 * float(row["difference_low"]), 100 * float(row["difference_high"])
        if quantity == "density":
            return value, value
        rounds = int(row["rounds"])
        of_rounds = sqrt(pi / 2) * log(row["high_ms"] / row["low_ms"]) / rounds if rounds > 1 else ONE_ROUND
        sides = 1 if quantity in TIMES else 2
        factor = exp(NORMAL_QUANTILE * sqrt(sides) * hypot(of_rounds, Rule().restart))
        return value / factor, value * factor


def read_measured(folders: Sequence[Path]) -> list[Measured]:
    """Read the given run folders and those below them, in order.

    Raises:
        UsageError: a folder without any run.
    """
    found = dict.fromkeys(run for folder in folders for run in run_folders(folder))
    return [values for run in found for values in _settings(read_run(run))]


def _settings(run: Run) -> Iterator[Measured]:
    """Yield the values of each setting of a run."""
    if run.latency:
        table = _with(LATENCY, latency_tables.comparison(run.latency))
        for _, rows in table.groupby([*latency_tables.SETTING], sort=False):
            yield Measured(run.folder, run.machine, latency_tables.setting_title(rows.iloc[0]), rows)
    if run.accuracy:
        table = _with(ACCURACY, accuracy_tables.summary(run.accuracy))
        for _, rows in table.groupby([*accuracy_tables.SETTING], sort=False, dropna=False):
            yield Measured(run.folder, run.machine, accuracy_tables.setting_title(rows.iloc[0]), rows)


def _with(quantities: Mapping[str, Made], table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: make(table) for name, make in quantities.items()})
