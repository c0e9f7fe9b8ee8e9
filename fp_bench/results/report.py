"""The report of a run: ``report.md`` and what it shows, made from records alone."""

import errno
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.results.plots import latency_plots
from fp_bench.results.record import Record
from fp_bench.results.selection_plots import selection_plots
from fp_bench.results.store import read_environments, read_records
from fp_bench.results.tables import SETTING, Table, cells, comparison, failures, latency_tables
from fp_bench.sizes import format_length

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
METHOD_NOTE = """\
Every output was compared with the float32 definition on sampled query rows before any timing; a cell that failed has
a reason and no time. Rounds of the methods are interleaved in a shuffled order; a time is the median of the rounds'
medians. Density is the kept share of the causal block pairs, recall the share of dense attention mass that the kept
blocks cover, the error is the norm of the difference to exact dense attention over its norm. The share of ideal is the
speed-up over the fastest dense kernel times the density.\
"""


def write_report(folder: Path) -> Path:
    """Write ``report.md``, ``tables/`` and ``plots/`` of a run folder; return the path of the report.

    Raises:
        UsageError: no records there, or the folder cannot be written.
        UnavailableError: the disk is full.
    """
    records = read_records(folder).records
    if not records:
        raise UsageError(f"{folder} has no whole record yet; measure with: fpbench latency --out {folder}")
    environments = read_environments(folder)
    try:
        tables, plots = folder / "tables", folder / "plots"
        tables.mkdir(exist_ok=True)
        plots.mkdir(exist_ok=True)
        comparison(records).to_csv(tables / "latency.csv", index=False)
        cells(records).to_csv(tables / "cells.csv", index=False)
        (tables / "latency.tex").write_text("\n\n".join(table.latex() for table in latency_tables(records)) + "\n")
        machine = machine_name(_environment(records, environments))
        drawn = [*latency_plots(records, machine), *selection_plots(records, machine, folder)]
        pictures = [(plot.title, plot.save(plots).relative_to(folder)) for plot in drawn]
        path = folder / "report.md"
        path.write_text("\n\n".join(_sections(records, environments, pictures)) + "\n")
    except OSError as error:
        kind = UnavailableError if error.errno in FULL else UsageError
        raise kind(f"cannot write the report to {folder}: {error.strerror}; the records are kept") from None
    return path


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return the GPU of an environment, or its CPU."""
    gpu = environment.get("gpu") or {}
    cores = f", {environment['cpu_cores']} cores" if "cpu_cores" in environment else ""
    return str(gpu.get("name") or f"{environment.get('cpu') or 'unknown machine'}{cores}")


def _environment(records: Sequence[Record], environments: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the environment of the newest record that has one."""
    return next((environments[r.env] for r in reversed(records) if r.env and r.env in environments), {})


def _sections(
    records: Sequence[Record], environments: Mapping[str, dict[str, Any]], pictures: Sequence[tuple[str, Path]]
) -> Iterator[str]:
    environment = _environment(records, environments)
    table = comparison(records)
    yield "# Latency of sparse-prefill attention"
    yield f"On {machine_name(environment)}."
    yield "\n".join(f"- {line}" for line in headlines(table)) or "No sparse method was measured beside dense attention."
    for part in latency_tables(records):
        yield f"## {part.title}"
        yield part.markdown()
    for title, path in pictures:
        yield f"![{title}]({path.as_posix()})"
    if (missing := failures(records)).rows:
        yield f"## {missing.title}"
        yield missing.markdown()
    yield "## How it was measured"
    yield METHOD_NOTE
    yield "\n".join(f"- {line}" for line in _circumstances(records))
    yield "Again, all of it:"
    yield "```\n" + "\n".join(commands(records)) + "\n```"
    yield "One cell again: its `command` in `tables/cells.csv`."
    yield "## Environment"
    yield _environment_table(environment).markdown()


def headlines(table: pd.DataFrame) -> list[str]:
    """Return one sentence for the fastest sparse method at the greatest length of each setting.

    Args:
        table: what `tables.comparison` returns.
    """
    sparse = table[(table["method"] != "dense") & table["speedup_dense"].notna()]
    lines = []
    for _, rows in sparse.groupby([*SETTING], sort=False):
        longest = rows[rows["seq_len"] == rows["seq_len"].max()]
        best = longest.loc[longest["ms"].idxmin()]
        fa2 = f" and {best['speedup_fa2']:.2f}x that of FlashAttention-2" if pd.notna(best["speedup_fa2"]) else ""
        lines.append(
            f"At {format_length(int(best['seq_len']))}, `{best['label']}` takes {best['ms']:.4g} ms on {best['input']} "
            f"inputs: {best['speedup_dense']:.2f}x the speed of the fastest dense kernel ({best['dense']}, "
            f"{best['dense_ms']:.4g} ms){fa2}, {best['ideal_share']:.0%} of the ideal. It keeps {best['density']:.1%} "
            f"of the block pairs, which hold {best['recall']:.1%} of the attention mass."
        )
    return lines


def _circumstances(records: Sequence[Record]) -> Iterator[str]:
    timed = [record for record in records if record.status == "ok"]
    for clock in sorted({record.timer or "" for record in timed}):
        mine = [record for record in timed if record.timer == clock]
        cold = all(record.cache == "cold" for record in mine)
        yield (
            f"{len(mine)} rounds timed with the {clock.replace('_', ' ')}, "
            f"{min(len(r.samples_ms or ()) for r in mine)} to {max(len(r.samples_ms or ()) for r in mine)} samples "
            f"each; the cache before a sample: {'flushed' if cold else 'as the call before left it'}."
        )
    yield from _disturbances(timed)
    fallbacks = sorted({record.label for record in timed if record.fallback})
    if fallbacks:
        yield f"Fell back to dense attention, so without a speed-up of their own: {', '.join(fallbacks)}."


def _disturbances(timed: Sequence[Record]) -> Iterator[str]:
    """Say what the noise watch saw; see docs/noise.md."""
    throttled = [record for record in timed if record.throttled]
    if throttled:
        reasons = sorted({reason for record in throttled for reason in (record.gpu or {}).get("throttle") or ()})
        cells_of = sorted({f"{record.label} at {format_length(record.seq_len)}" for record in throttled})
        yield (
            f"In {len(throttled)} of {len(timed)} rounds the GPU's clocks were held down ({', '.join(reasons)}), in "
            f"those of {_some(cells_of)}; they are marked `throttled` in the records and counted like the others."
        )
    elif any(record.throttled is False for record in timed):
        yield "In no round were the GPU's clocks held down."
    clocks = [(record.gpu or {}).get("sm_mhz") for record in timed]
    medians = [clock["median"] for clock in clocks if isinstance(clock, Mapping)]
    if medians:
        yield f"SM clock, median of a round: {min(medians):.0f} to {max(medians):.0f} MHz."
    shared = sum(bool((record.gpu or {}).get("other_processes")) for record in timed)
    if shared:
        yield f"In {shared} of {len(timed)} rounds the driver listed another process on the GPU."
    blind = sorted({str(record.gpu["reason"]) for record in timed if record.gpu and "reason" in record.gpu})
    if blind:
        yield f"The GPU's clocks and throttling are not known: {'; '.join(blind)}."
    loads = [record.load_average for record in timed if record.load_average is not None]
    if loads:
        yield f"Load average of the host: {min(loads):g} to {max(loads):g}, this run included."


def _some(words: Sequence[str], most: int = 6) -> str:
    """Return a list of words, cut short when it is long."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def commands(records: Sequence[Record]) -> list[str]:
    """Return the fewest command lines that measure everything again: one for each setting."""
    by_rest: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for record in records:
        words = shlex.split(record.command or "")
        given = dict(zip(words[2::2], words[3::2], strict=False))
        varied = {option: given.pop(option, "") for option in ("--methods", "--lens", "--layers")}
        wanted = by_rest.setdefault(tuple(word for pair in given.items() for word in pair), {})
        for option, value in varied.items():
            if value and value not in wanted.setdefault(option, []):
                wanted[option].append(value)
    return [
        shlex.join(["fpbench", "latency", *(w for o, v in wanted.items() for w in (o, ",".join(v))), *rest])
        for rest, wanted in by_rest.items()
        if wanted
    ]


def _environment_table(environment: Mapping[str, Any]) -> Table:
    return Table("Environment", ["what", "value"], environment_rows(environment), numbers=2)


def environment_rows(environment: Mapping[str, Any]) -> list[list[str]]:
    """Return an environment as rows of name and value, nested facts one row each; unknown ones are left out."""
    rows: list[list[str]] = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows += [[f"{name} {inner}", text] for inner, text in environment_rows(value)]
        elif value not in (None, []):
            rows.append([name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)])
    return rows
