"""Tables of accuracy records: scores by length, task and method, paired with dense attention's on the same samples."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import newest, remembered
from fp_bench.reports.clusters import Floats, divergence_interval, share_interval
from fp_bench.reports.latency.tables import density_heading
from fp_bench.reports.scores import changed_answers, paired_interval, wilson
from fp_bench.reports.table import Table, or_blank
from fp_bench.sizes import format_length

SETTING = ("suite", "variant", "suite_params", "model", "dtype", "dense_layers", "chat", "reasoning", "seed")
"""Scores are compared only if these agree."""


@remembered
def samples(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return one row per sample and method, from the newest code that scored it."""
    names = tuple(AccuracyRecord.model_fields)
    table = pd.DataFrame.from_records(list(map(attrgetter(*names), newest(records))), columns=names)
    return table.assign(
        suite_params=[_options(params) for params in table["suite_params"]], reasoning=table["reasoning"].fillna("")
    )


def _options(params: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in params.items())


@remembered
def answered(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return the rows of `samples` that every method of the setting and length answered; tables use these.

    A method without any answer in a task does not remove the others' answers.
    """
    scored = samples(records).query("status == 'ok'")
    if scored.empty:
        return scored
    keys = [*SETTING, "seq_len"]
    by_length = scored.groupby(keys, sort=False, dropna=False)
    tasks = by_length["task"].transform("nunique")
    whole = scored.groupby([*keys, "label"], sort=False, dropna=False)["task"].transform("nunique") == tasks
    methods = scored["label"].where(whole).groupby([scored[key] for key in keys], sort=False, dropna=False)
    labels = scored["label"].where(whole)
    per_sample = labels.groupby([scored[key] for key in (*keys, "sample_id")], sort=False, dropna=False)
    return scored[per_sample.transform("nunique") == methods.transform("nunique")]


@remembered
def by_task(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return one row per setting, length, method and task: ``n`` samples, mean score, density and recall."""
    scored = answered(records)
    keys = [*SETTING, "seq_len", "method", "label", "task_number", "task"]
    means = {name: (name, "mean") for name in ("score", "kl", "nll", "nll_difference", "density", "recall")}
    means |= {"density_of": ("density_of", "first")}
    table = scored.groupby(keys, sort=False, dropna=False).agg(n=("score", "size"), **means).reset_index()
    return _dense_first(table)


@remembered
def by_depth(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return one row per setting, length, method and depth: ``n`` samples, mean score and density.

    It covers samples with a chosen depth and may be empty.
    """
    scored = samples(records).query("status == 'ok' and depth.notna()")
    means = {name: (name, "mean") for name in ("score", "density")}
    keys = [*SETTING, "seq_len", "method", "label", "depth"]
    return scored.groupby(keys, sort=False, dropna=False).agg(n=("score", "size"), **means).reset_index()


@remembered
def by_group(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return one row per setting, length, method and group: the mean of its tasks' means, ``n`` samples in total.

    A sample counts in each of its groups; the result may be empty.
    """
    scored = answered(records).query("groups.notna()")
    each = scored.rename(columns={"groups": "group"}).explode("group").sort_values("group", kind="stable")
    keys = [*SETTING, "seq_len", "method", "label", "group"]
    means = {name: (name, "mean") for name in ("score", "density")}
    tasks = each.groupby([*keys, "task"], sort=False, dropna=False).agg(n=("score", "size"), **means)
    totals = tasks.groupby(keys, sort=False, dropna=False).agg(tasks=("n", "size"), n=("n", "sum"), **means)
    return _dense_first(totals.reset_index())


@remembered
def summary(records: Sequence[AccuracyRecord]) -> pd.DataFrame:
    """Return one row per setting, length and method: the average over tasks and its difference to dense attention.

    They cover the samples that every method answered (`answered`). ``score`` is the mean of the tasks' means, ``low``
    to ``high`` its 95 % interval by Wilson's formula over all samples; for positions of texts, by
    `clusters`, like that of ``kl``. ``difference`` is to dense attention (``paired`` samples), with an interval by
    `paired_interval`; ``changed`` of them differ. A method without an answer in a task that others
    answered at that length has no row, because its average would cover other tasks.
    """
    scored = answered(records)
    whole = samples(records).query("status == 'ok'").groupby([*SETTING, "seq_len"], sort=False, dropna=False)["task"]
    tasks = whole.nunique().to_dict()
    rows = []
    for key, setting in scored.groupby([*SETTING, "seq_len"], sort=False, dropna=False):
        dense = setting[setting["method"] == "dense"].drop_duplicates("sample_id").set_index("sample_id")["score"]
        for label, mine in setting.groupby("label", sort=False):
            if mine["task"].nunique() == tasks[key]:
                rows.append(_summary_row(str(label), mine, dense))
    columns = [*SETTING, "seq_len", "method", "label", "tasks", "n", "score", "low", "high", "difference"]
    columns += ["difference_low", "difference_high", "paired", "changed", "kl", "kl_low", "kl_high"]
    columns += ["nll", "nll_difference", "density", "density_of", "density_sparse", "recall", "fallback"]
    return _dense_first(pd.DataFrame(rows, columns=columns))


def _summary_row(label: str, mine: pd.DataFrame, dense: pd.Series) -> dict[str, Any]:
    first = mine.iloc[0]
    tasks = mine.groupby("task", sort=False)
    score = float(tasks["score"].mean().mean())
    row = {name: first[name] for name in (*SETTING, "seq_len", "method")}
    row |= {"label": label, "tasks": len(tasks), "n": len(mine), "score": score}
    row["low"], row["high"] = wilson(score, len(mine)) if mine["kl"].isna().all() else (None, None)
    if mine["kl_by_part"].notna().all():
        row["kl_low"], row["kl_high"] = divergence_interval(blocks(mine["kl_by_part"]))
        row["low"], row["high"] = share_interval(blocks(mine["agreement_by_part"]))
    for name in ("kl", "nll", "nll_difference", "density", "density_sparse", "recall"):
        row[name] = tasks[name].mean().mean()
    row["density_of"] = first["density_of"] if mine["density_of"].notna().all() else None
    row["fallback"] = bool(mine["fallback"].any())
    if first["method"] != "dense":
        by_sample = mine.set_index("sample_id")
        shared = by_sample[by_sample.index.isin(dense.index)]
        changes = {
            str(task): (part["score"] - dense[part.index]).to_numpy()
            for task, part in shared.groupby("task", sort=False)
        }
        row["paired"] = len(shared)
        row["changed"] = sum(int((change != 0).sum()) for change in changes.values())
        if changes:
            row["difference"], row["difference_low"], row["difference_high"] = paired_interval(list(changes.values()))
    return row


def blocks(column: pd.Series) -> Floats:
    """Return means over blocks of positions as ``[samples, blocks]``; short texts have fewer blocks."""
    fewest = min(map(len, column))
    return np.array([values[:fewest] for values in column], dtype=float)


def _dense_first(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by length, dense attention first, then from the densest selection to the sparsest."""
    order = table.assign(_setting=table.groupby([*SETTING], sort=False, dropna=False).ngroup())
    order["_sparse"] = order["method"] != "dense"
    by_task = ["task_number", "task"] if "task" in order else []
    keys = ["_setting", "seq_len", *by_task, "_sparse"]
    order["_kept"] = -order["density"].astype(float)
    order = order.sort_values([*keys, "_kept"], ignore_index=True, kind="stable")
    return order[list(table.columns)]


def accuracy_tables(records: Sequence[AccuracyRecord]) -> list[Table]:
    """Return, for each setting, the averages and then the scores by group and by task at each length."""
    totals, tasks, groups = summary(records), by_task(records), by_group(records)
    tables = []
    for setting, rows in totals.groupby([*SETTING], sort=False, dropna=False):
        tables.append(summary_table(rows))
        tables += [_part_table(part, "group") for _, part in of_setting(groups, setting).groupby("seq_len", sort=False)]
        mine = of_setting(tasks, setting)
        if mine["task"].nunique() > 1:
            tables += [_part_table(part, "task") for _, part in mine.groupby("seq_len", sort=False)]
    return tables


def of_setting(table: pd.DataFrame, setting: Sequence[Any]) -> pd.DataFrame:
    """Return the rows of one setting of a table; its values are in the order of `SETTING`."""
    for name, value in zip(SETTING, setting, strict=True):
        table = table[table[name] == value]
    return table


def setting_title(row: pd.Series) -> str:
    """Return a description of one setting."""
    suite = f"{row['suite']}@{row['variant']}" if row["variant"] else str(row["suite"])
    more = [str(row["suite_params"])] if row["suite_params"] else []
    dense = row["dense_layers"]
    more += [f"layers {dense} dense" if isinstance(dense, str) else f"first {dense} layers dense"] if dense else []
    more += ["chat template"] if row["chat"] else []
    more += [f"reasoning {row['reasoning']}"] if row["reasoning"] else []
    return ", ".join([suite, *more, f"model {row['model']}", str(row["dtype"]), f"seed {row['seed']}"])


def summary_table(rows: pd.DataFrame) -> Table:
    """Return the averages of one setting; for distributions, KL comes first."""
    compares, of_sparse = rows["kl"].notna().any(), rows["density_sparse"].notna().any()
    headings = ["length", "method", "samples", *(["KL, nats", "95 %"] if compares else [])]
    headings += ["agreement", "95 %", "NLL, nats", "vs dense"] if compares else ["score", "95 %", "vs dense", "95 %"]
    headings += [] if compares else ["changed"]
    shown = []
    for _, row in rows.iterrows():
        cells = [format_length(int(row["seq_len"])), _label(row), str(row["n"])]
        score = [points(row["score"]), _between(row["low"], row["high"], points)]
        if compares:
            cells += [or_blank(row["kl"], ".3g"), _between(row["kl_low"], row["kl_high"], lambda end: f"{end:.3g}")]
            cells += [*score, or_blank(row["nll"], ".4f"), or_blank(row["nll_difference"], "+.4f")]
        elif pd.isna(row["difference"]):
            cells += [*score, "", "", ""]
        else:
            changed = changed_answers(int(row["changed"]), int(row["paired"]))
            ends = _between(row["difference_low"], row["difference_high"], signed)
            cells += [*score, signed(row["difference"]), ends, changed]
        sparse = [or_blank(row["density_sparse"], ".1%")] if of_sparse else []
        shown.append([*cells, or_blank(row["density"], ".1%"), *sparse, or_blank(row["recall"], ".1%")])
    tasks = int(rows["tasks"].max())
    what = f"average of {tasks} task{'s' if tasks > 1 else ''}"
    if compares:
        what = "next-token agreement with dense attention"
    headings += [density_heading(rows), *(["density of sparse layers"] if of_sparse else []), "recall"]
    return Table(f"{setting_title(rows.iloc[0])}: {what}", headings, shown, numbers=2)


def _between(low: float, high: float, write: Callable[[float], str]) -> str:
    return "" if pd.isna(low) else f"{write(low)} to {write(high)}"


def _part_table(rows: pd.DataFrame, what: str) -> Table:
    """Return the scores of one length by task or group, a column for each method."""
    labels = list(dict.fromkeys(_label(row) for _, row in rows.iterrows()))
    lines = []
    for name, part in rows.groupby(what, sort=False):
        by_label = {_label(row): points(row["score"]) for _, row in part.iterrows()}
        lines.append([str(name), str(part["n"].max()), *(by_label.get(label, "") for label in labels)])
    title = f"{setting_title(rows.iloc[0])}: score by {what} at {format_length(int(rows['seq_len'].iloc[0]))}"
    return Table(title, [what, "samples", *labels], lines, numbers=1)


def failures(records: Sequence[AccuracyRecord]) -> Table:
    """Return failed samples with their reason, one row per reason; it may be empty."""
    failed = samples(records).query("status != 'ok'").fillna({"reason": ""})
    rows = [
        [
            str(label),
            str(status),
            ", ".join(map(format_length, sorted(set(part["seq_len"])))),
            str(len(part)),
            str(reason),
        ]
        for (label, status, reason), part in failed.groupby(["label", "status", "reason"], sort=False)
    ]
    return Table("Not scored", ["method", "status", "lengths", "samples", "reason"], rows, numbers=5)


def _label(row: pd.Series) -> str:
    return f"{row['label']} (fell back to dense)" if row.get("fallback") else str(row["label"])


def points(score: float) -> str:
    """Return a score of 0 to 1 in points, 0 to 100."""
    return f"{100 * score:.1f}"


def signed(difference: float) -> str:
    """Return a difference of scores in points, with its sign."""
    return f"{100 * difference:+.1f}"
