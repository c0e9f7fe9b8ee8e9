"""Joins speed and quality: configurations of latency and accuracy runs with equal `method_hash`.

Only for the same model: the density of a method, and thus its speed and quality, depends on its inputs.
Other scores have their own tables.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import matplotlib
import pandas as pd

from fp_bench.records.record import PROMPT, TEXT, Record
from fp_bench.records.store import Run, newest
from fp_bench.reports.accuracy import tables as accuracy_tables
from fp_bench.reports.accuracy.tables import points, signed
from fp_bench.reports.drawing import STYLE, Plot
from fp_bench.reports.latency import tables as latency_tables
from fp_bench.reports.latency.tables import COLUMNS, density_heading, is_prefill
from fp_bench.reports.pareto import pareto
from fp_bench.reports.table import Table
from fp_bench.sizes import format_length

QUALITIES = ("kl", "score")
"""Measures of quality, first choice first."""


def accuracies(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Return, for each setting of the accuracy records, its rows of `accuracy_tables.summary` with `method_hash`."""
    found: dict[str, pd.DataFrame] = {}
    for run in runs:
        if run.accuracy:
            totals = _with_hash(accuracy_tables.summary(run.accuracy), run.accuracy)
            for _, rows in totals.groupby([*accuracy_tables.SETTING], sort=False, dropna=False):
                title = accuracy_tables.setting_title(rows.iloc[0])
                # Two runs of one setting are separate rows: neither replaces the other.
                found[f"{title}, run {run.folder}" if title in found else title] = rows
    return found


def settings(run: Run) -> Iterator[pd.DataFrame]:
    """Yield the measured rows of each setting of a latency run, with `method_hash`."""
    if run.latency:
        table = _with_hash(latency_tables.comparison(run.latency), run.latency)
        for _, rows in table[table["status"] == "ok"].groupby([*latency_tables.SETTING], sort=False):
            yield rows


def _with_hash(table: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    # Dense attention is exact, so the scores of one implementation hold for all.
    hashes = {r.label: r.method if r.method == "dense" else r.method_hash for r in newest(records)}
    return table.assign(method_hash=table["label"].map(hashes))


def headline_tables(runs: Sequence[Run]) -> list[Table]:
    """Return the speed of the sparse methods of each setting, with their quality if it is of the same model.

    Quality of other models follows in separate tables.
    """
    scores = accuracies(runs)
    timed = [(run, rows) for run in runs for rows in settings(run) if (rows["method"] != "dense").any()]
    tables = [_headline_table(rows, run.machine, scores) for run, rows in timed]
    if not tables:
        return []
    joined = {title for _, rows in timed for title in joined_scores(rows, scores)}
    apart = [accuracy_tables.summary_table(of) for title, of in scores.items() if title not in joined]
    said = "; apart from the times, which are of other inputs"
    return tables + [replace(table, title=table.title + said) for table in apart]


def _headline_table(rows: pd.DataFrame, machine: str, scores: dict[str, pd.DataFrame]) -> Table:
    sparse = rows[rows["method"] != "dense"]
    names = ["ms", "speedup_fa2", "speedup_dense", "density", "recall", "ideal_share"]
    names = [name for name in names if sparse[name].notna().any()]
    heads = [density_heading(sparse) if name == "density" else COLUMNS[name][0] for name in names]
    heads[0] = "TTFT ms" if is_prefill(rows) else "ms"
    joined = joined_scores(rows, scores)
    lines = []
    for _, row in sparse.iterrows():
        cells = ["" if pd.isna(row[name]) else COLUMNS[name][1](row[name]) for name in names]
        for of in joined.values():
            mine = of[(of["method_hash"] == row["method_hash"]) & (of["seq_len"] == row["seq_len"])]
            cells += [_quality(name, mine) for name in _qualities(of)]
        fell_back = " (fell back to dense)" if row["fallback"] else ""
        lines.append([format_length(int(row["seq_len"])), f"{row['label']}{fell_back}", *cells])
    dense = ", ".join(dict.fromkeys(rows["dense"].dropna()))
    title = f"{latency_tables.setting_title(rows.iloc[0])}; fastest dense: {dense or 'none'}; {machine}"
    measures = [f"{MEASURES[name]} on {setting}" for setting, of in joined.items() for name in _qualities(of)]
    headings = ["length", "method", *heads, *measures]
    return Table(title, headings, lines, numbers=2)


def joined_scores(rows: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the settings in which a sparse configuration of ``rows`` was scored at a timed length.

    Times on other inputs or other models are not joined.
    """
    sparse = rows[rows["method"] != "dense"]
    timed = set(zip(sparse["method_hash"], sparse["seq_len"], strict=True))
    inputs, dtype = str(rows["input"].iloc[0]), rows["dtype"].iloc[0]
    model = inputs.removeprefix(PROMPT).partition(TEXT)[0].removesuffix("@vllm") if inputs.startswith(PROMPT) else None
    first = {title: of.iloc[0] for title, of in scores.items()}
    return {
        title: of
        for title, of in sorted(scores.items(), key=lambda found: found[1]["kl"].isna().all())
        if (first[title]["model"], first[title]["dtype"]) == (model, dtype)
        and not first[title]["dense_layers"]
        and timed & set(zip(of["method_hash"], of["seq_len"], strict=True))
    }


MEASURES = {"kl": "KL, nats,", "score": "score"}


def _qualities(of: pd.DataFrame) -> list[str]:
    """Return the measures of quality of a setting; for fidelity the score is the agreement."""
    return [name for name in QUALITIES if of[name].notna().any()]


def _quality(name: str, rows: pd.DataFrame) -> str:
    if not len(rows) or pd.isna(value := rows.iloc[0][name]):
        return ""
    if name == "kl":
        return f"{value:.3g}"
    difference = rows.iloc[0]["difference"]
    return points(value) + ("" if pd.isna(difference) else f" ({signed(difference)})")


def pareto_plots(runs: Sequence[Run]) -> list[Plot]:
    """Draw quality against time, one point per configuration, for the same model."""
    scores = accuracies(runs)
    plots: list[Plot] = []
    with matplotlib.rc_context(STYLE):
        for run in runs:
            for rows in settings(run):
                if (rows["method"] == "dense").all():
                    continue
                caption = f"{latency_tables.setting_title(rows.iloc[0])} · {run.machine}"
                for title, of in joined_scores(rows, scores).items():
                    quality = _qualities(of)[0]
                    columns = ["method_hash", "seq_len", quality]
                    both = rows.merge(of[columns].drop_duplicates(columns[:2]), on=columns[:2], how="left")
                    what = f"KL on {title}, nats; lower" if quality == "kl" else f"Score on {title}; upper"
                    name = f"speed-{quality}-{len(plots) + 1}"
                    plots.append(pareto(both, quality, f"{what} left is better", name, caption))
    return plots
