"""What records say of a quantity: the measured values of one run and setting, by method and length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fp_bench.errors import UsageError
from fp_bench.reproduce.quantities import ACCURACY, LATENCY
from fp_bench.results import accuracy_tables, latency_tables
from fp_bench.results.store import RECORDS, Run, read_run


class MissingError(LookupError):
    """A value that no record gives; the message says why."""


@dataclass(frozen=True)
class Measured:
    """The values of one run and one setting in it.

    Args:
        folder: of the run.
        machine: it ran on.
        setting: in words.
        table: one row a method and length.
    """

    folder: Path
    machine: str
    setting: str
    table: pd.DataFrame

    def value(self, quantity: str, method: str, length: int) -> float:
        """Return a measured value.

        Raises:
            MissingError: no such record, one that failed, or one that fell back to dense.
        """
        rows = self.table[(self.table["label"] == method) & (self.table["seq_len"] == length)]
        if not len(rows):
            raise MissingError("no record")
        row = rows.iloc[0]
        if row.get("status", "ok") != "ok":
            raise MissingError(f"{row['status']}: {row['reason']}")
        if row["fallback"]:
            raise MissingError("it fell back to dense")
        value = row.get(quantity)
        if value is None or pd.isna(value):
            raise MissingError(f"no {quantity} in the records")
        return float(value)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the run folders given, and those below them.

    Raises:
        UsageError: a folder without any run.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        found = sorted(path.parent for path in folder.rglob(RECORDS)) if folder.is_dir() else []
        if not found:
            raise UsageError(f"--records {folder} holds no {RECORDS}; give run folders, or a folder of them")
        runs |= {run: read_run(run) for run in found if run not in runs}
    return list(runs.values())


def measured(runs: Sequence[Run], setting: Mapping[str, Any]) -> Iterator[Measured]:
    """Yield the values of each run and setting in it that agrees with ``setting``, in the order of the runs."""
    for run in runs:
        for rows, words in _settings(run):
            first = rows.iloc[0]
            if all(name in rows and first[name] == wanted for name, wanted in setting.items()):
                yield Measured(run.folder, run.machine, words, rows)


def _settings(run: Run) -> Iterator[tuple[pd.DataFrame, str]]:
    """Yield the rows of each setting of a run with our quantities, and the setting in words."""
    if run.latency:
        table = _with(LATENCY, latency_tables.comparison(run.latency))
        for _, rows in table.groupby([*latency_tables.SETTING], sort=False):
            yield rows, latency_tables.setting_title(rows.iloc[0])
    if run.accuracy:
        table = _with(ACCURACY, accuracy_tables.summary(run.accuracy))
        for _, rows in table.groupby([*accuracy_tables.SETTING], sort=False, dropna=False):
            yield rows, accuracy_tables.setting_title(rows.iloc[0])


def _with(quantities: Mapping[str, Callable[[pd.DataFrame], pd.Series]], table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: make(table) for name, make in quantities.items()})
