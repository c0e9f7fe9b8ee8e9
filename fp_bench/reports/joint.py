"""Speed beside accuracy: configurations of latency and accuracy runs joined by their `method_hash`."""

from collections.abc import Iterable, Iterator, Sequence

import matplotlib
import pandas as pd

from fp_bench.records.record import Record
from fp_bench.records.store import Run, newest
from fp_bench.reports.accuracy import tables as accuracy_tables
from fp_bench.reports.accuracy.tables import points, signed
from fp_bench.reports.drawing import STYLE, Plot
from fp_bench.reports.latency import tables as latency_tables
from fp_bench.reports.latency.tables import COLUMNS, is_prefill
from fp_bench.reports.pareto import pareto
from fp_bench.reports.table import Table
from fp_bench.sizes import format_length

PROMPT = "prompt:"
"""What the input of a model's prefill begins with; the model's name follows."""


def accuracies(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Return, for each setting of the accuracy records, its rows of `accuracy_tables.summary` with `method_hash`."""
    found: dict[str, pd.DataFrame] = {}
    for run in runs:
        if run.accuracy:
            totals = _with_hash(accuracy_tables.summary(run.accuracy), run.accuracy)
            for _, rows in totals.groupby([*accuracy_tables.SETTING], sort=False, dropna=False):
                found[accuracy_tables.setting_title(rows.iloc[0])] = rows
    return found


def settings(run: Run) -> Iterator[pd.DataFrame]:
    """Yield the measured rows of each setting of a latency run, with `method_hash`."""
    if run.latency:
        table = _with_hash(latency_tables.comparison(run.latency), run.latency)
        for _, rows in table[table["status"] == "ok"].groupby([*latency_tables.SETTING], sort=False):
            yield rows


def _with_hash(table: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    # Dense attention is exact whatever computes it: the scores of one implementation stand for all.
    hashes = {r.label: r.method if r.method == "dense" else r.method_hash for r in newest(records)}
    return table.assign(method_hash=table["label"].map(hashes))


def headline_tables(runs: Sequence[Run]) -> list[Table]:
    """Return, for each setting of the latency runs, the speed of the sparse methods beside their accuracy."""
    scores = accuracies(runs)
    return [
        _headline_table(rows, run.machine, scores)
        for run in runs
        for rows in settings(run)
        if (rows["method"] != "dense").any()
    ]


def _headline_table(rows: pd.DataFrame, machine: str, scores: dict[str, pd.DataFrame]) -> Table:
    sparse = rows[rows["method"] != "dense"]
    names = ["ms", "speedup_fa2", "speedup_dense", "density", "recall", "ideal_share"]
    names = [name for name in names if sparse[name].notna().any()]
    heads = [COLUMNS[name][0] for name in names]
    heads[0] = "TTFT ms" if is_prefill(rows) else "ms"
    joined = joined_scores(rows, scores)
    lines = []
    for _, row in sparse.iterrows():
        cells = ["" if pd.isna(row[name]) else COLUMNS[name][1](row[name]) for name in names]
        for of in joined.values():
            mine = of[(of["method_hash"] == row["method_hash"]) & (of["seq_len"] == row["seq_len"])]
            cells.append(_score(mine.iloc[0]) if len(mine) else "")
        fell_back = " (fell back to dense)" if row["fallback"] else ""
        lines.append([format_length(int(row["seq_len"])), f"{row['label']}{fell_back}", *cells])
    dense = ", ".join(dict.fromkeys(rows["dense"].dropna()))
    title = f"{latency_tables.setting_title(rows.iloc[0])}; fastest dense: {dense or 'none'}; {machine}"
    headings = ["length", "method", *heads, *(f"score on {name}" for name in joined)]
    return Table(title, headings, lines, numbers=2)


def joined_scores(rows: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the settings of scores that a sparse configuration of ``rows`` was scored in at a length it was timed at.

    The time to first token of one model says nothing beside the scores of another.
    """
    sparse = rows[rows["method"] != "dense"]
    timed = set(zip(sparse["method_hash"], sparse["seq_len"], strict=True))
    model = str(rows["input"].iloc[0]).removeprefix(PROMPT) if is_prefill(rows) else None
    return {
        title: of
        for title, of in scores.items()
        if (model is None or (of["model"] == model).all())
        and timed & set(zip(of["method_hash"], of["seq_len"], strict=True))
    }


def _score(row: pd.Series) -> str:
    change = "" if pd.isna(row["difference"]) else f" ({signed(row['difference'])})"
    return points(row["score"]) + change


def pareto_plots(runs: Sequence[Run]) -> list[Plot]:
    """Draw accuracy against latency, one point a configuration."""
    scores = accuracies(runs)
    plots: list[Plot] = []
    with matplotlib.rc_context(STYLE):
        for run in runs:
            for rows in settings(run):
                if (rows["method"] == "dense").all():
                    continue
                caption = f"{latency_tables.setting_title(rows.iloc[0])} · {run.machine}"
                for title, of in joined_scores(rows, scores).items():
                    columns = ["method_hash", "seq_len", "score"]
                    both = rows.merge(of[columns].drop_duplicates(columns[:2]), on=columns[:2])
                    name = f"speed-score-{len(plots) + 1}"
                    plots.append(pareto(both, "score", f"Score on {title}; upper left is better", name, caption))
    return plots
