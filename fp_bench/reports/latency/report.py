"""The report's chapter of latency records."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fp_bench.errors import first_of
from fp_bench.records.record import LatencyRecord
from fp_bench.reports.chapter import Chapter
from fp_bench.reports.drawing import Plot
from fp_bench.reports.latency.load import load_plots, load_tables, served
from fp_bench.reports.latency.plots import latency_plots
from fp_bench.reports.latency.selection_plots import selection_plots
from fp_bench.reports.latency.tables import (
    SETTING,
    beyond_ideal,
    cells,
    comparison,
    failures,
    is_prefill,
    latency_tables,
)
from fp_bench.reports.verdict import Rule
from fp_bench.sizes import format_length, format_ms

MOST_NAMED = 6
"""Cells in a sentence."""
METHOD_NOTE = """\
Before any timing, every output was compared with the float32 definition on sampled query rows. A failed cell has a
reason and no time. Methods take turns in rounds of shuffled order. A time is the median of the rounds' medians; the
spread is how much longer the slowest round took than the fastest. Density is the computed share of the causal
query-key pairs (in older records, of block pairs for methods that keep blocks). Recall is the share of the dense
attention mass that the selection covers. It does not include rounding (FP8); the error does: the relative norm of the
difference to exact dense attention. The share of ideal is the speed-up over the fastest dense kernel times the
density.\
"""
PREFILL_NOTE = """\
Time to first token is wall-clock time from token ids on the device to the first new token on the host, with a KV
cache for decoding. With vLLM the ids start on the host and scheduling is included. Attention is the time of all
attention calls of a prefill, selection included, from a separate prefill per round. Methods take turns in rounds of
shuffled order. A time is the median of the rounds' medians. Density is the computed share of the causal query-key
pairs, mean over all layers, dense ones included; next to it is that of the sparse layers (in older records, of block
pairs and sparse layers only). Recall is the share of the dense attention mass that the selection covers; it does not
include rounding.\
"""

LOAD_NOTE = """\
Servers, asked by streaming. Time to first token (TTFT) is from sending a request to its first piece of text, with the
network and the server's queue in it; inter-token latency (ITL) is between pieces of text; time per output token (TPOT)
is an answer's time after its first token over the number of those tokens: as vLLM's bench defines them. Percentiles are
over the requests of all rounds; rounds of the servers take turns in a shuffled order. What a server's attention
computes is not seen, so there is no density and no check of outputs. The machine named here is the one that asked.\
"""


def latency_chapter(records: Sequence[LatencyRecord], machine: str, folder: Path) -> Chapter:
    """Return the chapter of latency records.

    Args:
        records: of one run.
        machine: the machine.
        folder: the run folder, which holds maps of kept blocks.
    """
    table, by_cell = comparison(records), cells(records)
    loaded = served(records)
    calls = [record for record in records if not record.load] if len(loaded) else records
    return Chapter(
        title="Time to first token of servers" if len(loaded) else "Latency of sparse-prefill attention",
        name="latency",
        headlines=headlines(table) or ["No sparse method was measured together with dense attention."],
        tables=[*(latency_tables(calls) if calls else ()), *load_tables(loaded)],
        draw=lambda: [*_plots_of_calls(calls, machine, folder), *load_plots(loaded, machine)],
        failures=failures(records),
        note=LOAD_NOTE if len(loaded) else PREFILL_NOTE if is_prefill(table) else METHOD_NOTE,
        circumstances=[*_circumstances(records), *_launches(by_cell), *_unexplained(table)],
        data={"latency": table, "cells": by_cell} | ({"load": loaded} if len(loaded) else {}),
    )


def _plots_of_calls(calls: Sequence[LatencyRecord], machine: str, folder: Path) -> list[Plot]:
    return [*latency_plots(calls, machine), *selection_plots(calls, machine, folder)] if calls else []


def headlines(table: pd.DataFrame) -> list[str]:
    """Return one sentence for the fastest sparse method at the greatest length of each setting.

    Args:
        table: result of `latency_tables.comparison`.
    """
    sparse = table[(table["method"] != "dense") & table["speedup_dense"].notna()]
    lines = []
    for _, rows in sparse.groupby([*SETTING], sort=False):
        longest = rows[rows["seq_len"] == rows["seq_len"].max()]
        best = longest.loc[longest["ms"].idxmin()]
        if is_prefill(rows):
            lines.append(_prefill_headline(best))
            continue
        ms, dense_ms = format_ms(best["ms"]), format_ms(best["dense_ms"])
        fa2 = f" and {best['speedup_fa2']:.2f}x that of FlashAttention-2" if pd.notna(best["speedup_fa2"]) else ""
        lines.append(
            f"At {format_length(int(best['seq_len']))}, `{best['label']}` takes {ms} ms on {best['input']} "
            f"inputs: {best['speedup_dense']:.2f}x the speed of the fastest dense kernel ({best['dense']}, "
            f"{dense_ms} ms){fa2}, {best['ideal_share']:.0%} of the ideal. It keeps {best['density']:.1%} "
            f"of the {_pairs(best)}, which hold {best['recall']:.1%} of the attention mass."
        )
    return lines


def _prefill_headline(best: pd.Series) -> str:
    ms, dense_ms = format_ms(best["ms"]), format_ms(best["dense_ms"])
    if best["load"]:
        return (
            f"At {format_length(int(best['seq_len']))} and {best['load']}, a first token of `{best['label']}` takes "
            f"{ms} ms: {best['speedup_dense']:.2f}x the speed of `dense` ({dense_ms} ms)."
        )
    return (
        f"At {format_length(int(best['seq_len']))}, a first token with `{best['label']}` takes {ms} ms: "
        f"{best['speedup_dense']:.2f}x the speed with dense attention ({best['dense']}, {dense_ms} ms), "
        f"{best['speedup_attention']:.2f}x in the attention alone. It keeps {best['density']:.1%} of the "
        f"{_pairs(best)}."
    )


def _pairs(row: pd.Series) -> str:
    return "block pairs" if pd.isna(row["density_of"]) else str(row["density_of"])


def _circumstances(records: Sequence[LatencyRecord]) -> Iterator[str]:
    timed = [record for record in records if record.status == "ok"]
    for clock in sorted({record.timer or "unknown clock" for record in timed}):
        mine = [record for record in timed if (record.timer or "unknown clock") == clock]
        cold = all(record.cache == "cold" for record in mine)
        yield (
            f"{len(mine)} rounds timed with the {clock.replace('_', ' ')}, "
            f"{min(len(r.samples_ms or ()) for r in mine)} to {max(len(r.samples_ms or ()) for r in mine)} samples "
            f"each; the cache before a sample: {'flushed' if cold else 'as the previous call left it'}."
        )
    yield from _disturbances(timed)
    fallbacks = sorted({record.label for record in timed if record.fallback})
    if fallbacks:
        yield f"Fell back to dense attention, so these have no speed-up: {', '.join(fallbacks)}."


def _launches(by_cell: pd.DataFrame) -> Iterator[str]:
    """Say of how many launches the times are, and what one alone cannot tell; see docs/noise.md."""
    launches = by_cell["launches"].dropna()
    if not len(launches):
        return
    few, most = launches.min(), launches.max()
    if most > 1:
        number = f"{few}" if few == most else f"{few} to {most}"
        yield f"Processes were started anew between rounds: {number} launches a cell, whose medians are averaged."
    if few == 1:
        yield (
            f"One launch{'' if most == 1 else ' of some cells'}: a difference under {Rule().told_from_a_restart:.1%} "
            "cannot be told from a restart."
        )


def _unexplained(table: pd.DataFrame) -> Iterator[str]:
    rows = table[beyond_ideal(table)]
    if len(rows):
        named = [f"{row['label']} at {format_length(int(row['seq_len']))}" for _, row in rows.iterrows()]
        yield (
            f"(!) Faster than the ideal by more than the spread of rounds: {first_of(named, MOST_NAMED)}. No declared "
            "lower precision and no faster attention explains it. Find the cause before you trust it."
        )


def _disturbances(timed: Sequence[LatencyRecord]) -> Iterator[str]:
    """Report disturbances; see docs/noise.md."""
    throttled = [record for record in timed if record.throttled]
    if throttled:
        reasons = sorted({reason for record in throttled for reason in (record.gpu or {}).get("throttle") or ()})
        cells_of = sorted({f"{record.label} at {format_length(record.seq_len)}" for record in throttled})
        yield (
            f"In {len(throttled)} of {len(timed)} rounds the GPU's clocks were held down ({', '.join(reasons)}): "
            f"{first_of(cells_of, MOST_NAMED)}. The records mark them `throttled`; they count like the others."
        )
    elif any(record.throttled is False for record in timed):
        yield "The GPU's clocks were never held down."
    clocks = [(record.gpu or {}).get("sm_mhz") for record in timed]
    medians = [clock["median"] for clock in clocks if isinstance(clock, Mapping)]
    if medians:
        yield f"SM clock, median of a round: {min(medians):.0f} to {max(medians):.0f} MHz."
    shared = sum(bool((record.gpu or {}).get("other_processes")) for record in timed)
    if shared:
        yield f"In {shared} of {len(timed)} rounds the driver listed another process on the GPU."
    blind = sorted({str(record.gpu["reason"]) for record in timed if record.gpu and "reason" in record.gpu})
    if blind:
        yield f"The GPU's clocks and throttling are unknown: {'; '.join(blind)}."
    loads = [record.load_average for record in timed if record.load_average is not None]
    if loads:
        yield f"Load average of the host: {min(loads):g} to {max(loads):g}, this run included."
