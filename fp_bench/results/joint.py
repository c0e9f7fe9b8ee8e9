"""Speed beside accuracy: configurations of latency and accuracy runs joined by their `method_hash`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from fp_bench.results import accuracy_tables, latency_tables
from fp_bench.results.accuracy_tables import points, signed
from fp_bench.results.drawing import MUTED, STYLE, Plot, method_lines
from fp_bench.results.latency_tables import COLUMNS, is_prefill
from fp_bench.results.record import Record
from fp_bench.results.store import Run, newest
from fp_bench.results.table import Table
from fp_bench.sizes import format_length

PROMPT = "prompt:"
"""What the input of a model's prefill begins with; the model's name follows."""
ACROSS = 3
"""Panels of lengths in a row."""
MOST_LENGTHS = 9
"""Panels of a Pareto plot: the greatest lengths."""


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
    joined = _joined(rows, scores)
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


def _joined(rows: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
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
    """Draw accuracy against latency, one point a configuration; recall where no accuracy of the same was measured."""
    scores = accuracies(runs)
    plots: list[Plot] = []
    with matplotlib.rc_context(STYLE):
        for run in runs:
            for rows in settings(run):
                if (rows["method"] == "dense").all():
                    continue
                caption = f"{latency_tables.setting_title(rows.iloc[0])} · {run.machine}"
                joined = _joined(rows, scores)
                for title, of in joined.items():
                    columns = ["method_hash", "seq_len", "score"]
                    both = rows.merge(of[columns].drop_duplicates(columns[:2]), on=columns[:2])
                    plots.append(_pareto(both, "score", f"Score on {title}", caption, len(plots)))
                if not joined and rows["recall"].notna().any():
                    what = "Recall: share of the dense attention mass that is kept"
                    plots.append(_pareto(rows[rows["recall"].notna()], "recall", what, caption, len(plots)))
    return plots


def _pareto(rows: pd.DataFrame, quality: str, what: str, caption: str, number: int) -> Plot:
    with_sparse = sorted(set(rows.loc[rows["method"] != "dense", "seq_len"]))
    lengths = with_sparse[-MOST_LENGTHS:]
    across = min(ACROSS, len(lengths))
    down = -(-len(lengths) // across)
    width, height = 3.4 + 3.0 * across, 1.2 + 2.6 * down
    room = ConstrainedLayoutEngine(rect=(0.0, 0.35 / height, 1.0, 1 - 1.0 / height))
    figure = Figure(figsize=(width, height), layout=room)
    subject = "time to first token" if is_prefill(rows) else "latency"
    title = f"{'Accuracy' if quality == 'score' else 'Recall'} against {subject}"
    figure.text(0.12 / width, 1 - 0.12 / height, title, fontsize=14, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.45 / height, f"{what}; upper left is better", fontsize=9.5, color=MUTED, va="top")
    figure.text(0.12 / width, 0.1 / height, caption, fontsize=8.5, color=MUTED, va="bottom")
    panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for axes in panels[len(lengths) :]:
        axes.set_visible(False)
    looks = {label: look for label, _, look in method_lines(rows)}
    for axes, length in zip(panels, lengths, strict=False):
        here = rows[rows["seq_len"] == length].sort_values("ms")
        front = here[here[quality] > here[quality].cummax().shift(fill_value=-1.0)]
        axes.step(front["ms"], front[quality], where="post", color=MUTED, linewidth=1, alpha=0.6, zorder=1)
        for _, row in here.iterrows():
            axes.plot(row["ms"], row[quality], linestyle="", **looks[row["label"]] | {"markersize": 8})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(here["ms"].min() / 1.5, here["ms"].max() * 1.5)
        axes.set_title(format_length(length), loc="left", fontsize=11)
        axes.set_xlabel("milliseconds")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="" if quality == "score" else "%"))
    handles = [panels[0].plot([], [], linestyle="", label=label, **look)[0] for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize=9.5)
    columns: list[Any] = ["seq_len", "label", "method_hash", "ms", "density", quality]
    return Plot(f"speed-{quality}-{number + 1}", title, figure, rows[columns])
