"""A comparison as tables, Markdown, CSV, JSON, GitHub annotations, and github-action-benchmark's JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from fp_bench.records.record import AccuracyRecord, LatencyRecord
from fp_bench.records.store import Run, newest
from fp_bench.reports import escape
from fp_bench.reports.accuracy.tables import points, signed
from fp_bench.reports.comparing.compare import Comparison, code_of, side_name
from fp_bench.reports.comparing.rows import IDENTICAL, geometric_mean
from fp_bench.reports.latency.tables import SETTING, setting_title
from fp_bench.reports.scores import changed_answers
from fp_bench.reports.table import Table, or_blank
from fp_bench.reports.verdict import Verdict
from fp_bench.sizes import format_length, format_ms

MOST_ROWS = 40
"""Largest number of rows in a table; CSV and JSON have all."""
MOST_ANNOTATIONS = 10
"""GitHub's limit of annotations of one kind per step."""
GRAVITY = {verdict.value: number for number, verdict in enumerate(Verdict)}


def summary(comparison: Comparison) -> list[str]:
    """Return the counts of verdicts, the geometric mean of the ratios, the tests, and notes."""
    rule = comparison.rule
    counts = [f"{n} {verdict}" for verdict in Verdict if (n := comparison.count(verdict))]
    lines = [f"{', '.join(counts)}."]
    if comparison.count(Verdict.INCONCLUSIVE):
        lines.append("Inconclusive cells are too noisy to judge and pass; with --strict they fail.")
    mean, cells = geometric_mean(comparison.latency)
    if cells:
        lines.append(f"New times are {mean:.3f} of base (geometric mean over the {cells} decided sparse cells).")
    by = set(comparison.latency["by"].dropna())
    if by:
        tests = {"launches": "Student's t on the launches' medians", "rounds": "Welch's t on the medians of rounds"}
        test = "paired t (rounds alternated)" if comparison.paired else " and ".join(tests[of] for of in sorted(by))
        lines.append(
            f"Times: {test}, on logs; Benjamini-Hochberg at {rule.alpha:g} over the tested cells; smallest "
            f"effect {rule.min_effect:.3g}; {1 - 2 * rule.alpha:.0%} intervals."
        )
    if "rounds" in by:
        lines.append(
            f"One launch per side: a difference under {rule.told_from_a_restart:.1%} cannot be told from a restart."
        )
    if len(comparison.accuracy):
        lines.append(
            f"Scores: sign test (McNemar's) on paired samples, Benjamini-Hochberg at {rule.alpha:g}, Bonett and "
            f"Price's interval of 95 %, greatest drop {100 * rule.max_drop:g} points."
        )
    if comparison.accuracy.get("base_kl", pd.Series(dtype=float)).notna().any():
        lines.append(
            f"Distributions are judged by their KL to dense attention: Student's t on blocks of positions, greatest "
            f"rise {rule.max_kl:g} nats; their scores are how often the likeliest token agrees."
        )
    return [*lines, *(f"{note[0].upper()}{note[1:]}." for note in comparison.notes)]


def tables(comparison: Comparison) -> list[Table]:
    """Return the most important rows, worst first; unchanged ones only if there is room."""
    found = [_latency_table(rows) for _, rows in comparison.latency.groupby([*SETTING], sort=False)]
    return found + ([_accuracy_table(comparison.accuracy)] if len(comparison.accuracy) else [])


def _gravest(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows to show and, for the title, the number of omitted ones."""
    order = rows.assign(_gravity=rows["verdict"].map(GRAVITY)).sort_values(
        ["_gravity", "seq_len", "label"], kind="stable"
    )
    left_out = len(order) - MOST_ROWS
    return order.head(MOST_ROWS), f"; {left_out} more rows in --format csv" if left_out > 0 else ""


def _latency_table(rows: pd.DataFrame) -> Table:
    shown, left_out = _gravest(rows)
    layers = rows["layer"].nunique() > 1
    headings = ["verdict", "length", "method", *(["layer"] if layers else []), "note", "base ms", "new ms", "ratio"]
    lines = []
    for _, row in shown.iterrows():
        where = [str(row["verdict"]), format_length(int(row["seq_len"])), str(row["label"])]
        where += [str(row["layer"])] if layers else []
        note = [_more(row["more"], str(row["by"]))] if row["verdict"] == Verdict.INCONCLUSIVE else []
        note += [str(row["note"])] if row["note"] else []
        numbers = [
            *("" if pd.isna(ms) else format_ms(ms) for ms in (row["base_ms"], row["new_ms"])),
            or_blank(row["ratio"], ".3f"),
        ]
        interval = "" if pd.isna(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        rounds = " + ".join(
            map(_rounds, (row["base_rounds"], row["new_rounds"]), (row["base_launches"], row["new_launches"]))
        )
        lines.append([*where, "; ".join(note), *numbers, interval, or_blank(row["p"], ".2g"), rounds])
    title = f"{setting_title(rows.iloc[0])}{left_out}"
    return Table(title, [*headings, "interval", "corrected p", "rounds"], lines, numbers=len(headings) - 3)


def _rounds(rounds: float, launches: float) -> str:
    """Return the number of rounds, and of launches if there are several."""
    if pd.isna(rounds):
        return "0"
    return f"{rounds:.0f}" if launches == 1 else f"{rounds:.0f} in {launches:.0f} launches"


def _accuracy_table(rows: pd.DataFrame) -> Table:
    shown, left_out = _gravest(rows)
    lines = []
    for _, row in shown.iterrows():
        suite = f"{row['suite']}@{row['variant']}" if row["variant"] else str(row["suite"])
        where = [str(row["verdict"]), format_length(int(row["seq_len"])), str(row["label"]), f"{suite} {row['task']}"]
        note = [] if pd.isna(row["base_kl"]) else [_divergence(row)]
        note += [_more(row["more_samples"], "samples")] if row["verdict"] == Verdict.INCONCLUSIVE else []
        note += [str(row["note"])] if row["note"] else []
        if pd.isna(row["difference"]):
            lines.append([*where, "; ".join(note), *[""] * 5, "0 of 0"])
            continue
        numbers = [points(row["base_score"]), points(row["new_score"]), signed(row["difference"])]
        # Identical answers leave no doubt on these samples.
        same = row["note"] == IDENTICAL
        interval = "" if same else f"{signed(row['low'])} to {signed(row['high'])}"
        lines.append([*where, "; ".join(note), *numbers, interval, or_blank(row["p"], ".2g")])
        lines[-1].append(changed_answers(int(row["worse"] + row["better"]), int(row["n"])))
    headings = [
        "verdict",
        "length",
        "method",
        "task",
        "note",
        "base",
        "new",
        "change",
        "95 %",
        "corrected p",
        "changed",
    ]
    model = ", ".join(dict.fromkeys(map(str, rows["model"])))
    return Table(f"Scores in points, model {model}{left_out}", headings, lines, numbers=5)


def _divergence(row: pd.Series) -> str:
    """Describe the change of the KL to dense attention."""
    ends = "" if pd.isna(row["kl_low"]) else f" ({row['kl_low']:+.2g} to {row['kl_high']:+.2g})"
    return f"KL {row['base_kl']:.3g} became {row['new_kl']:.3g} nats{ends}"


def _more(number: float, of_what: str) -> str:
    """Say how much more would decide an inconclusive row."""
    if pd.isna(number):
        return ""
    if number == float("inf"):
        more = "; use several launches" if of_what == "rounds" else ""
        return f"no number of {of_what} is likely to decide{more}"
    return f"about {number:.0f} more {of_what if number > 1 else of_what.removesuffix('s')} would decide"


def markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub Markdown, the verdict first."""
    parts = [f"## {headline(comparison)}", "\n".join(f"- {escape.prose(line)}" for line in summary(comparison))]
    for table in tables(comparison):
        parts += [f"**{escape.markdown(table.title)}**", table.markdown()]
    return "\n\n".join(parts)


def headline(comparison: Comparison) -> str:
    """Return the worst verdict in words."""
    for verdict in (Verdict.REGRESSED, Verdict.NEW_FAILURE, Verdict.IMPROVED, Verdict.INCONCLUSIVE):
        if n := comparison.count(verdict):
            return f"fpbench compare: {n} {verdict}"
    return "fpbench compare: no change"


def csv(comparisons: Sequence[Comparison]) -> str:
    """Return every row as CSV, latency first."""
    table = pd.concat([_all_rows(comparison) for comparison in comparisons], ignore_index=True)
    return escape.csv(table)


def _all_rows(comparison: Comparison) -> pd.DataFrame:
    parts = [("latency", comparison.latency), ("accuracy", comparison.accuracy)]
    rows = [part.assign(kind=kind).dropna(axis="columns", how="all") for kind, part in parts if len(part)]
    sides = {name: getattr(comparison, name) for name in ("base", "new")}
    named = {name: str(run.folder) for name, run in sides.items()}
    named |= {f"{name}_code": code_of(run) for name, run in sides.items()}
    table = pd.concat(rows, ignore_index=True).assign(**named)
    return table[["kind", *table.columns.drop("kind")]]


def as_json(comparisons: Sequence[Comparison]) -> str:
    """Return every row and the counts as JSON, a list for several comparisons; unknown values are null."""
    found = [_facts(comparison) for comparison in comparisons]
    return json.dumps(found if len(found) > 1 else found[0], indent=1)


def _facts(comparison: Comparison) -> dict[str, Any]:
    mean, cells = geometric_mean(comparison.latency)
    rule = comparison.rule
    return {
        "base": str(comparison.base.folder),
        "new": str(comparison.new.folder),
        "base_code": code_of(comparison.base),
        "new_code": code_of(comparison.new),
        "counts": {verdict.value: comparison.count(verdict) for verdict in Verdict},
        "geometric_mean_ratio": mean if cells else None,
        "paired": comparison.paired,
        "rule": {"min_effect": rule.min_effect, "alpha": rule.alpha, "max_drop": rule.max_drop, "max_kl": rule.max_kl},
        "notes": list(comparison.notes),
        "latency": json.loads(comparison.latency.to_json(orient="records", double_precision=15)),
        "accuracy": json.loads(comparison.accuracy.to_json(orient="records", double_precision=15)),
    }


def annotations(comparison: Comparison) -> Iterator[str]:
    """Yield GitHub's workflow commands: an error for each regression and new failure, a warning if inconclusive."""
    kinds = {Verdict.REGRESSED: "error", Verdict.NEW_FAILURE: "error", Verdict.INCONCLUSIVE: "warning"}
    told = dict.fromkeys(("error", "warning"), 0)
    for rows, describe in ((comparison.latency, describe_time), (comparison.accuracy, describe_score)):
        for verdict, kind in kinds.items():
            for _, row in rows[rows["verdict"] == verdict.value].iterrows():
                told[kind] += 1
                if told[kind] <= MOST_ANNOTATIONS:
                    yield f"::{kind} title=fpbench {verdict}::{_escaped(describe(row))}"


def describe_time(row: pd.Series) -> str:
    """Return one cell and the change of its time in one line."""
    where = f"{row['label']} at {format_length(int(row['seq_len']))}"
    if pd.isna(row["ratio"]):
        return f"{where}: {row['note']}"
    interval = f"{row['low']:.3f} to {row['high']:.3f}"
    return (
        f"{where}: {format_ms(row['base_ms'])} to {format_ms(row['new_ms'])} ms, ratio {row['ratio']:.3f} ({interval})"
    )


def describe_score(row: pd.Series) -> str:
    """Return one row of scores and its change in one line."""
    where = f"{row['label']} on {row['task']} at {format_length(int(row['seq_len']))}"
    return f"{where}: {row['note']}" if pd.isna(row["difference"]) else f"{where}: {signed(row['difference'])} points"


def _escaped(text: str) -> str:
    """Escape characters that end a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def smaller_is_better(runs: Sequence[Run]) -> str:
    """Return runs as the JSON that github-action-benchmark reads as ``customSmallerIsBetter``.

    Times are medians of the rounds' medians with their range; scores become errors, 100 minus the points, because
    smaller is better there. Failed cells are omitted. ``extra`` names the folder and the code.
    """
    rows = [row for run in runs for row in _rows(run)]
    return json.dumps(rows, indent=1)


def _rows(run: Run) -> list[dict[str, Any]]:
    times: dict[str, list[LatencyRecord]] = {}
    scores: dict[str, list[AccuracyRecord]] = {}
    failed = set()
    for record in newest(run.records):
        if isinstance(record, LatencyRecord):
            heads = f"{record.q_heads}/{record.kv_heads}/{record.head_dim}"
            name = f"{record.label} at {format_length(record.seq_len)}, {heads}, {record.dtype}, {record.input}"
            name += (f", batch {record.batch}" if record.batch > 1 else "") + (
                f", layer {record.layer}" if record.layer else ""
            )
            times.setdefault(name, []).append(record)
        elif isinstance(record, AccuracyRecord):
            suite = f"{record.suite}@{record.variant}" if record.variant else record.suite
            name = f"error of {record.label} at {format_length(record.seq_len)}, {suite} {record.task}, {record.model}"
            scores.setdefault(name, []).append(record)
        if record.status != "ok":
            failed.add(name)
    rows = [
        _row(name, [r.median_ms or 0.0 for r in of], side_name(run)) for name, of in times.items() if name not in failed
    ]
    for name, answers in scores.items():
        if name not in failed:
            mean = sum(answer.score or 0.0 for answer in answers) / len(answers)
            extra = f"{len(answers)} samples; {side_name(run)}"
            rows.append({"name": name, "unit": "points", "value": 100 * (1 - mean), "extra": extra})
    return rows


def _row(name: str, values: Sequence[float], where: str) -> dict[str, Any]:
    series = pd.Series(values)
    spread = f"{series.min():.4g} to {series.max():.4g}"
    return {
        "name": name,
        "unit": "ms",
        "value": float(series.median()),
        "range": spread,
        "extra": f"{len(values)} rounds; {where}",
    }


def overview(comparisons: Sequence[Comparison]) -> Table:
    """Return one row per comparison: counts of verdicts, and the geometric mean of its ratios."""
    shown = [verdict for verdict in Verdict if any(comparison.count(verdict) for comparison in comparisons)]
    rows = []
    for comparison in comparisons:
        mean, cells = geometric_mean(comparison.latency)
        counts = [str(comparison.count(verdict)) for verdict in shown]
        rows.append([title(comparison), *counts, f"{mean:.3f}" if cells else ""])
    return Table("Comparisons", ["new against base", *map(str, shown), "mean ratio"], rows, numbers=1)


def title(comparison: Comparison) -> str:
    """Return the names of both sides: methods of one run, or run folders."""
    base, new = comparison.base.folder, comparison.new.folder
    labels = {record.label for record in comparison.new.records}
    return next(iter(labels)) if base == new and len(labels) == 1 else f"{new} against {base}"
