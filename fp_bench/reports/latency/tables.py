"""Tables of latency records: one row per length and method, next to dense attention of the same run."""

from collections.abc import Callable, Sequence
from math import isfinite
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from fp_bench.records.record import PROMPT, LatencyRecord
from fp_bench.records.store import newest, remembered
from fp_bench.reports.table import Table
from fp_bench.sizes import format_length

SETTING = ("input", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "seed", "load")
"""Rows are compared only if these agree."""
COMPARABLE = (*SETTING, "seq_len")
BASELINE_MS = ("dense_ms", "dense_attention_ms", "fa2_ms")
FA2_BACKENDS = ("fa2", "flash_attn")
"""Implementations of FlashAttention-2, the papers' baseline."""
PER_CELL = ("cell_key", *SETTING, "seq_len", "layer", "method", "label", "asked_backend")
OF_MODEL = ("density_of", "sparse_layers", "model_layers")
FIRST = ("status", "reason", "backend", "fallback", "timer", "cache", "env", "command", *OF_MODEL)
MEANS = (
    "select_ms",
    "attend_ms",
    "attention_ms",
    "density",
    "density_sparse",
    "recall",
    "rel_err",
    "kernel_err",
    "tolerance",
    "tflops",
)

RATE_EXPLAINS = 0.95
"""Factor up to which a faster attention explains a share above the ideal."""


@remembered
def cells(records: Sequence[LatencyRecord]) -> pd.DataFrame:
    """Return one row per cell: merged rounds from the newest code that measured it.

    ``ms`` is the median of the rounds' medians, for several launches the geometric mean of these (see
    `verdict.time_of`); ``low_ms`` and ``high_ms`` are the fastest and the slowest round. A cell that failed in any
    round has its status and reason, and no number.
    """
    rounds: dict[str, list[LatencyRecord]] = {}
    for record in newest(records):
        rounds.setdefault(record.cell_key, []).append(record)
    table = pd.DataFrame([_asked(found) for found in rounds.values()], columns=[*PER_CELL, *FIRST])
    merged = _merged_rounds([record for found in rounds.values() for record in found])
    table = table.join(merged, on="cell_key")
    numbers = ["rounds", "launches", "ms", "low_ms", "high_ms", *MEANS, "peak_bytes"]
    table[numbers] = table[numbers].mask(table["status"] != "ok")
    table = table.astype({"rounds": "Int64", "launches": "Int64", "peak_bytes": "Int64"})
    columns = [*PER_CELL, "status", "reason", "backend", "fallback", "rounds", "launches", "ms", "low_ms", "high_ms"]
    columns += [*MEANS, *OF_MODEL, "peak_bytes", "timer", "cache", "env", "command"]
    return table[columns]


def _asked(rounds: Sequence[LatencyRecord]) -> dict[str, Any]:
    """Return the common fields of a cell's rounds; a failed round makes the cell failed."""
    first = rounds[0]
    row: dict[str, Any] = {name: getattr(first, name) for name in (*PER_CELL, "fallback", "env", "command")}
    failed = next((record for record in rounds if record.status != "ok"), None)
    if failed:
        return row | {"status": failed.status, "reason": failed.reason}
    return row | {"status": "ok"} | {name: getattr(first, name) for name in ("backend", "timer", "cache", *OF_MODEL)}


def _merged_rounds(records: Sequence[LatencyRecord]) -> pd.DataFrame:
    """Return the numbers of each cell, by its key."""
    numbers = ("median_ms", "peak_bytes", *MEANS)
    values = list(map(attrgetter(*numbers), records))
    keys = pd.Index([record.cell_key for record in records], name="cell_key")
    by_cell = pd.DataFrame(values, index=keys, columns=numbers, dtype=float).groupby("cell_key", sort=False)
    merged = by_cell[list(MEANS)].median()
    merged["rounds"] = by_cell.size()
    merged["peak_bytes"] = by_cell["peak_bytes"].max()
    launches = [record.launch or "" for record in records]
    of_launch = by_cell.obj["median_ms"].groupby([keys, launches], sort=False).median()
    by_launch = of_launch.groupby("cell_key", sort=False)
    merged["launches"] = by_launch.size()
    several = np.exp(np.log(of_launch).groupby("cell_key", sort=False).mean())
    merged["ms"] = by_launch.first().where(merged["launches"] == 1, several)
    for name, how in (("low_ms", "min"), ("high_ms", "max")):
        merged[name] = by_cell["median_ms"].agg(how)
    return merged


@remembered
def comparison(records: Sequence[LatencyRecord]) -> pd.DataFrame:
    """Return one row per setting, length and method: means over layers, and speed-ups over dense attention.

    ``speedup_fa2`` is over FlashAttention-2, ``speedup_dense`` over the fastest dense implementation of the same
    setting and length, named by ``dense``; ``ideal_share`` is that speed-up times the density. A method that fell
    back to dense has none of them. For a model's prefill, ``speedup_attention`` is that of its attention.
    """
    by_cell = cells(records)
    table = _over_layers(by_cell)
    baselines = pd.DataFrame([_baselines(group) for _, group in table.groupby([*COMPARABLE], sort=False)])
    table = table.merge(baselines, on=[*COMPARABLE]).astype(
        dict.fromkeys(("ms", "attention_ms", "density", *BASELINE_MS), float)
    )
    honest = table["ms"].where(~table["fallback"].astype(bool))
    table["speedup_fa2"] = table["fa2_ms"] / honest
    table["speedup_dense"] = table["dense_ms"] / honest
    whole_call = (table["method"] != "dense") & ~table["input"].str.startswith(PROMPT)
    table["ideal_share"] = (table["speedup_dense"] * table["density"]).where(whole_call)
    table["speedup_attention"] = table["dense_attention_ms"] / table["attention_ms"].where(honest.notna())
    table["attention_share"] = table["attention_ms"] / table["ms"]
    table["spread"] = (table["high_ms"] / table["low_ms"] - 1).where(table["rounds"] > 1)
    ran = table["sparse_layers"].notna()
    table["ran_sparse"] = [
        f"{row['sparse_layers']:.0f} of {row['model_layers']:.0f}" if known else None
        for known, (_, row) in zip(ran, table.iterrows(), strict=True)
    ]
    # Rounds are shuffled, so the order of records means nothing: dense first, then by name.
    table["_sparse"] = table["method"] != "dense"
    return table.sort_values([*COMPARABLE, "_sparse", "label"], ignore_index=True).drop(columns="_sparse")


def beyond_ideal(table: pd.DataFrame) -> pd.Series:
    """Return the rows that are faster than the ideal by more than the spread of rounds, without an explanation.

    An explanation is a declared lower precision, or attention whose rate, timed alone, exceeds that of dense
    attention enough.

    Args:
        table: result of `comparison`.
    """
    ran = table[(table["method"] == "dense") & (table["status"] == "ok")].sort_values("ms")
    dense = ran.drop_duplicates([*COMPARABLE]).set_index([*COMPARABLE])[["low_ms", "tflops"]]
    of_dense = table[[*COMPARABLE]].join(dense, on=[*COMPARABLE])[["low_ms", "tflops"]].astype(float)
    of_row = table[["high_ms", "tflops", "tolerance", "ideal_share", "density"]].astype(float)
    at_least = of_dense["low_ms"] / of_row["high_ms"] * of_row["density"]
    faster = of_row["tflops"] / of_dense["tflops"] > RATE_EXPLAINS * of_row["ideal_share"]
    return of_row["ideal_share"].notna() & (at_least > 1) & of_row["tolerance"].isna() & ~faster


def _baselines(comparable: pd.DataFrame) -> dict[str, Any]:
    """Return the dense times of one setting and length."""
    row: dict[str, Any] = {name: comparable.iloc[0][name] for name in COMPARABLE}
    ran = comparable[(comparable["method"] == "dense") & (comparable["status"] == "ok")].sort_values("ms")
    fa2 = ran[ran["backend"].isin(FA2_BACKENDS)]
    return row | {
        "dense": ran["backend"].iloc[0] if len(ran) else None,
        "dense_ms": ran["ms"].iloc[0] if len(ran) else None,
        "dense_attention_ms": ran["attention_ms"].iloc[0] if len(ran) else None,
        "fa2_ms": fa2["ms"].iloc[0] if len(fa2) else None,
    }


def _over_layers(by_cell: pd.DataFrame) -> pd.DataFrame:
    """Return one row per setting, length and method: means over layers; failed if a layer failed."""
    groups = by_cell.groupby([*COMPARABLE, "label"], sort=False)
    table = groups.head(1).set_index([*COMPARABLE, "label"])
    means = ["ms", "low_ms", "high_ms", *MEANS]
    table[means] = groups[means].mean()
    table["layers"] = groups.size()
    table["peak_bytes"] = groups["peak_bytes"].max()
    table["fallback"] = groups["fallback"].any()
    table["backend"] = groups["backend"].agg(lambda names: "+".join(sorted(set(names.dropna()))))
    failed = by_cell[by_cell["status"] != "ok"].drop_duplicates([*COMPARABLE, "label"])
    failed = failed.set_index([*COMPARABLE, "label"])
    # A mean over only the layers that worked would not be comparable.
    table.loc[failed.index, [*means, "peak_bytes"]] = None
    table.loc[failed.index, ["status", "reason"]] = failed[["status", "reason"]]
    return table.reset_index()[[*by_cell.columns, "layers"]]


def _number(digits: int, suffix: str = "") -> Callable[[float], str]:
    """Format a number to significant digits without an exponent."""

    def show(value: float) -> str:
        if not isfinite(value):
            return ""
        decimals = max(0, digits - len(str(int(abs(value)))) + (abs(value) < 1))
        return f"{value:.{decimals}f}{suffix}"

    return show


def density_heading(rows: pd.DataFrame) -> str:
    """Return the pairs that a column of densities counts; older records mixed block pairs and query-key pairs."""
    of = rows.loc[rows["density"].notna(), "density_of"]
    return f"density of {of.iloc[0]}" if len(of) and of.notna().all() else "density (of blocks or pairs)"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "ms": ("total ms", _number(4)),
    "spread": ("spread of rounds", lambda share: f"{share:.1%}"),
    "attention_ms": ("attention ms", _number(4)),
    "attention_share": ("attention's share", lambda share: f"{share:.0%}"),
    "select_ms": ("select ms", _number(3)),
    "attend_ms": ("attend ms", _number(4)),
    "density": ("density", lambda share: f"{share:.1%}"),
    "density_sparse": ("density of sparse layers", lambda share: f"{share:.1%}"),
    "ran_sparse": ("sparse layers", str),
    "recall": ("recall", lambda share: f"{share:.2%}"),
    "rel_err": ("error vs dense", lambda error: f"{error:.3g}"),
    "tolerance": ("declared error", lambda error: f"{error:.2g}"),
    "speedup_fa2": ("vs FA2", _number(3, "x")),
    "speedup_dense": ("vs fastest dense", _number(3, "x")),
    "speedup_attention": ("its attention", _number(3, "x")),
    "ideal_share": ("share of ideal", lambda share: f"{share:.0%}"),
    "peak_bytes": ("peak MiB", lambda size: f"{size / 2**20:.0f}"),
}
"""Column of `comparison` -> its heading and number format."""


def latency_tables(records: Sequence[LatencyRecord]) -> list[Table]:
    """Return one table for each setting in the records."""
    table = comparison(records)
    return [_table(group) for _, group in table.groupby([*SETTING], sort=False)]


def setting_title(row: pd.Series) -> str:
    """Return a description of one setting."""
    batch = f"batch {row['batch']}, " if row["batch"] != 1 else ""
    heads = f"{row['q_heads']} query / {row['kv_heads']} KV heads of {row['head_dim']}"
    load = f", {row['load']}" if row.get("load") else ""
    return f"{batch}{heads}, {row['dtype']}, {row['input']} inputs, seed {row['seed']}{load}"


def is_prefill(rows: pd.DataFrame) -> bool:
    """Return whether rows are whole prefills of a model instead of single attention calls."""
    return bool(rows["input"].str.startswith(PROMPT).any())


def _table(group: pd.DataFrame) -> Table:
    # Omit a column that no row fills (no FlashAttention-2 on a CPU).
    shown = [name for name in COLUMNS if group[name].notna().any()]
    names = {name: heading for name, (heading, _) in COLUMNS.items()}
    names["density"] = density_heading(group)
    if is_prefill(group):
        names |= {"ms": "TTFT ms"}
    headings = ["length", "method", "kernel", *(names[name] for name in shown)]
    rows = []
    for (_, row), unexplained in zip(group.iterrows(), beyond_ideal(group), strict=True):
        kernel = str(row["backend"] if row["status"] == "ok" else row["status"])
        fell_back = " (fell back to dense)" if row["fallback"] else ""
        numbers = ["" if pd.isna(row[name]) else COLUMNS[name][1](row[name]) for name in shown]
        if unexplained:
            numbers[shown.index("ideal_share")] += " (!)"
        rows.append([format_length(int(row["seq_len"])), str(row["label"]), kernel + fell_back, *numbers])
    dense = ", ".join(dict.fromkeys(group["dense"].dropna()))
    title = setting_title(group.iloc[0]) + (f"; fastest dense: {dense}" if dense else "")
    layers = int(group["layers"].max())
    return Table(title + (f"; mean of {layers} layers" if layers > 1 else ""), headings, rows, numbers=3)


def failures(records: Sequence[LatencyRecord]) -> Table:
    """Return failed cells with their reason, one row per reason; it may be empty."""
    table = comparison(records)
    failed = table[table["status"] != "ok"].fillna({"reason": ""})
    rows = [
        [str(label), str(status), ", ".join(map(format_length, sorted(set(group["seq_len"])))), str(reason)]
        for (label, status, reason), group in failed.groupby(["label", "status", "reason"], sort=False)
    ]
    return Table("Not measured", ["method", "status", "lengths", "reason"], rows, numbers=4)
