"""Servers under load: percentiles of time to first token and between tokens, by what came at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fp_bench.records.record import LatencyRecord
from fp_bench.records.store import newest
from fp_bench.reports.drawing import (
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    left_out,
    log_axis,
    method_lines,
    new_figure,
)
from fp_bench.reports.latency.tables import SETTING, setting_title
from fp_bench.reports.table import Table, or_blank
from fp_bench.sizes import format_length

ALIKE = SETTING[:-1]
"""All but the load."""
PERCENTILES = (50, 90, 99)
TIMES = {"ttft_ms": "samples_ms", "itl_ms": "itl_ms", "tpot_ms": "tpot_ms"}
"""Time, as vLLM's bench calls it -> the field that holds it, of every request."""
MEASURES = [f"p{percent}_{name}" for name in TIMES for percent in PERCENTILES]


def served(records: Sequence[LatencyRecord]) -> pd.DataFrame:
    """Return one row a server, length and load: percentiles over the requests of all rounds.

    Columns are named as in the results of vLLM's bench, e.g. ``p99_ttft_ms``. ``requests`` is how many there were,
    ``vs_dense`` the median time to first token of ``dense`` over this one's. What failed in a round has no number.
    """
    cells: dict[str, list[LatencyRecord]] = {}
    for record in newest([record for record in records if record.load]):
        cells.setdefault(record.cell_key, []).append(record)
    asked = [*SETTING, "seq_len", "concurrency", "rate", "method", "label", "status"]
    rows = []
    for rounds in cells.values():
        shown = next((record for record in rounds if record.status != "ok"), rounds[0])
        row: dict[str, Any] = {name: getattr(shown, name) for name in asked}
        rows.append(row | (_numbers(rounds) if shown.status == "ok" else {}))
    table = pd.DataFrame(rows, columns=[*asked, "requests", *MEASURES, "request_throughput"])
    comparable = [*SETTING, "seq_len"]
    dense = table[table["method"] == "dense"].groupby(comparable, sort=False)["p50_ttft_ms"].min().rename("dense_ms")
    table = table.join(dense, on=comparable)
    table["vs_dense"] = table["dense_ms"] / table["p50_ttft_ms"]
    table["_sparse"] = table["method"] != "dense"
    order = [*ALIKE, "seq_len", "concurrency", "rate", "_sparse", "label"]
    return table.sort_values(order, ignore_index=True).drop(columns=["_sparse", "dense_ms"])


def _numbers(rounds: Sequence[LatencyRecord]) -> dict[str, float]:
    found: dict[str, float] = {"requests": sum(len(record.samples_ms or ()) for record in rounds)}
    for name, field in TIMES.items():
        values = [value for record in rounds for value in getattr(record, field) or ()]
        for percent in PERCENTILES if values else ():
            found[f"p{percent}_{name}"] = float(np.percentile(values, percent))
    return found | {"request_throughput": float(np.mean([record.request_throughput or 0 for record in rounds]))}


def load_tables(table: pd.DataFrame) -> list[Table]:
    """Return one table for each setting but the load.

    Args:
        table: what `served` returns.
    """
    columns = [*MEASURES, "request_throughput"]
    headings = [f"{name.removesuffix('_ms').upper()} p{percent}" for name in TIMES for percent in PERCENTILES]
    headings = ["length", "load", "server", "requests", *headings, "requests/s", "vs dense"]
    tables = []
    for _, rows in table.groupby([*ALIKE], sort=False):
        lines = []
        for _, row in rows.iterrows():
            first = [format_length(int(row["seq_len"])), str(row["load"]), str(row["label"])]
            count = str(row["status"]) if row["status"] != "ok" else f"{row['requests']:.0f}"
            ratio = or_blank(row["vs_dense"], ".4g")
            lines.append([*first, count, *(or_blank(row[name], ".4g") for name in columns), ratio and f"{ratio}x"])
        title = f"{setting_title(rows.iloc[0].drop('load'))}; milliseconds"
        tables.append(Table(title, headings, lines, numbers=3))
    return tables


def load_plots(table: pd.DataFrame, machine: str) -> Iterator[Plot]:
    """Draw time to first token against requests at once, and against requests a second, a panel a length.

    Args:
        table: what `served` returns.
        machine: what asked, for the caption.
    """
    for column, what in (("concurrency", "requests at once"), ("rate", "requests a second")):
        groups = [rows for _, rows in table[table[column].notna()].groupby([*ALIKE], sort=False)]
        for number, rows in enumerate(groups, 1):
            if rows["p50_ttft_ms"].notna().any():
                name = f"ttft-{column}" + (f"-{number}" if len(groups) > 1 else "")
                with matplotlib.rc_context(STYLE):
                    yield _plot(rows, column, what, name, f"{setting_title(rows.iloc[0].drop('load'))} · {machine}")


def _plot(rows: pd.DataFrame, column: str, what: str, name: str, caption: str) -> Plot:
    lengths = sorted(set(rows["seq_len"]))
    title = f"Time to first token against {what}"
    figure, panels = new_figure(title, caption + left_out(rows, "p50_ttft_ms"), panels=len(lengths))
    ends = []
    for axes, length in zip(panels, lengths, strict=True):
        found = []
        for label, line, look in method_lines(rows[rows["seq_len"] == length]):
            line = line.sort_values(column)
            if line["p50_ttft_ms"].notna().any():
                axes.plot(line[column], line["p50_ttft_ms"], **look)
                axes.vlines(line[column], line["p50_ttft_ms"], line["p99_ttft_ms"], color=look["color"], linewidth=1)
                found.append((label, float(line["p50_ttft_ms"].dropna().iloc[-1]), look["color"]))
        ends.append(found)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(rows[column]))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel(what)
        log_axis(axes, lambda ms: f"{ms:g}")
        axes.set_title(f"{format_length(length)}: milliseconds, median; bars up to the 99th percentile", **PANEL_TITLE)
    for axes, found in zip(panels, ends, strict=True):  # once the shared limits are known
        label_ends(axes, found)
    return Plot(name, title, figure, rows[["seq_len", column, "label", "requests", *MEASURES, "request_throughput"]])
