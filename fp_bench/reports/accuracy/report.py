"""The report's chapter of accuracy records."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pandas as pd

from fp_bench.records.record import AccuracyRecord
from fp_bench.reports.accuracy.plots import accuracy_plots
from fp_bench.reports.accuracy.tables import (
    SETTING,
    accuracy_tables,
    answered,
    by_task,
    failures,
    points,
    samples,
    setting_title,
    signed,
    summary,
)
from fp_bench.reports.chapter import Chapter
from fp_bench.sizes import format_length
from fp_bench.suites.ruler.summary import EFFECTIVE, LENGTHS, effective_length, lm_eval_score, weighted_average
from fp_bench.suites.ruler.tasks import TASKS

METHOD_NOTE = """\
The method computes prefill; decoding is dense and greedy. All methods answered the same prompts, so the difference to
dense attention is paired by sample. Its 95 % interval is Bonett and Price's; that of a score is Wilson's. Tables
cover the samples that every method answered. KL is the divergence from dense attention's next-token distributions.
Its interval, and that of the agreement, treat blocks of positions and samples as independent, not positions. Density
and recall describe the prefill: density is the mean over heads and all layers, recall that of the sparse calls on
sampled query rows. Recall does not include rounding.\
"""


def accuracy_chapter(records: Sequence[AccuracyRecord], machine: str) -> Chapter:
    """Return the chapter of accuracy records.

    Args:
        records: of one run.
        machine: the machine.
    """
    totals = summary(records)
    return Chapter(
        title="Accuracy of sparse-prefill attention",
        name="accuracy",
        headlines=[*_headlines(totals), *_means_of_ruler(answered(records)), *_effective_lengths(totals)]
        or ["No sparse method was scored beside dense attention."],
        tables=accuracy_tables(records),
        draw=partial(accuracy_plots, records, machine),
        failures=failures(records),
        note=METHOD_NOTE,
        circumstances=list(_circumstances(samples(records), len(answered(records)))),
        data={"accuracy": totals, "tasks": by_task(records)},
    )


def _headlines(totals: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each sparse method at its greatest length."""
    sparse = totals[(totals["method"] != "dense") & totals["difference"].notna()]
    for _, row in sparse[sparse["seq_len"] == sparse["seq_len"].max()].iterrows():
        yield (
            f"At {format_length(int(row['seq_len']))}, `{row['label']}` scores {points(row['score'])} on "
            f"{setting_title(row)}: {signed(row['difference'])} points to dense attention (95 %: "
            f"{signed(row['difference_low'])} to {signed(row['difference_high'])}, {row['paired']:.0f} samples)"
            f"{_kept(row)}."
        )


def _kept(row: pd.Series) -> str:
    """Return what a method kept; nothing of a server, where it is not seen."""
    of = row["density_of"] or "block pairs"
    return "" if pd.isna(row["density"]) else f", keeping {row['density']:.1%} of the {of}"


def _means_of_ruler(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the mean of RULER's thirteen tasks for each setting and length, as NVIDIA and lm-eval define it."""
    rows = rows[(rows["suite"] == "ruler") & rows["prediction"].notna() & rows["answers"].notna()]
    pairs = zip(rows["prediction"], rows["answers"], strict=True)
    rows = rows.assign(lm_eval=[lm_eval_score(prediction, answers) for prediction, answers in pairs])
    for _, setting in rows.groupby([*SETTING, "seq_len"], sort=False, dropna=False):
        found = []
        for label, line in setting.groupby("label", sort=False):
            tasks = line.groupby("task")[["score", "lm_eval"]].mean()
            if len(tasks) == len(TASKS):
                found.append(f"{label} {points(tasks['score'].mean())} and {points(tasks['lm_eval'].mean())}")
        if found:
            first = setting.iloc[0]
            yield (
                f"Mean of RULER's thirteen tasks at {format_length(int(first['seq_len']))} on {setting_title(first)}, "
                "as NVIDIA scores qa (any reference answer) and as lm-evaluation-harness (the share of them): "
                f"{', '.join(found)}."
            )


def _effective_lengths(totals: pd.DataFrame) -> Iterator[str]:
    """Yield the effective length of each setting of all of RULER's tasks, by the paper's rule."""
    ruler = totals[(totals["suite"] == "ruler") & (totals["tasks"] == len(TASKS))]
    for _, rows in ruler.groupby([*SETTING], sort=False, dropna=False):
        found = []
        for label, line in rows.groupby("label", sort=False):
            averages = dict(zip(line["seq_len"], line["score"], strict=True))
            length = effective_length(averages)
            found.append(f"{label} {format_length(length) if length else 'none of these'}{_weighted(averages)}")
        yield (
            f"Effective length on {setting_title(rows.iloc[0])} (the longest with an average of at least "
            f"{100 * EFFECTIVE:.1f}): {', '.join(found)}."
        )


def _weighted(averages: Mapping[int, float]) -> str:
    """Return the paper's weighted averages, if all its lengths were measured."""
    if not set(LENGTHS) <= set(averages):
        return ""
    of_paper = {length: averages[length] for length in LENGTHS}
    inc, dec = (weighted_average(of_paper, longer_counts_more=longer) for longer in (True, False))
    return f" (wAvg inc {points(inc)}, dec {points(dec)})"


def _circumstances(rows: pd.DataFrame, common: int) -> Iterator[str]:
    ok = rows[rows["status"] == "ok"]
    if len(ok):
        yield (
            f"{len(ok)} answers scored; prompts of {ok['prompt_tokens'].min():.0f} to {ok['prompt_tokens'].max():.0f} "
            f"tokens, on average {(ok['prompt_tokens'] / ok['seq_len']).mean():.1%} of their length."
        )
    if cut := int((ok["cut_tokens"] > 0).sum()):
        lost = f"{ok['cut_tokens'].sum():.0f} tokens in all"
        yield f"{cut} prompts were cut in the middle to fit, by {lost}."
    if raw := sorted(set(ok.loc[ok["chat"] & (ok["templated"] == False), "task"])):  # noqa: E712
        yield f"Without the chat template, as their suite has it: {', '.join(raw)}."
    for method, part in ok[ok["thought_cut"].notna()].groupby("label", sort=False):
        yield (
            f"{method}: {part['thought_cut'].sum()} of {len(part)} thoughts have no end, and score 0; replies take "
            f"{part['new_tokens'].median():.0f} tokens in the median."
        )
    kinder = ok[ok["lenient_score"].notna()]
    for (task, _), part in kinder.groupby(["task", "seq_len"], sort=False):
        means = part.groupby("label", sort=False)["lenient_score"].mean()
        read = ", ".join(f"{label} {points(mean)}" for label, mean in means.items())
        length = format_length(int(part["seq_len"].iloc[0]))
        yield f"{task} at {length}, scored leniently (published scores are not): {read}."
    for _, setting in ok.groupby([*SETTING, "seq_len"], sort=False, dropna=False):
        tasks, length = setting["task"].nunique(), format_length(int(setting["seq_len"].iloc[0]))
        for label, some in setting.groupby("label", sort=False)["task"].nunique().items():
            if some < tasks:
                yield f"At {length}, {label} has answers in {some} of {tasks} tasks, so it has no average."
    if apart := len(ok) - common:
        yield f"{apart} answers are in no table, because some method did not answer the same sample."
    failed = len(rows) - len(ok)
    if failed:
        yield f"{failed} answers failed; they count in no average."
    fallbacks = sorted(set(ok.loc[ok["fallback"].astype(bool), "label"]))
    if fallbacks:
        yield f"Ran dense everywhere, so these have no result: {', '.join(fallbacks)}."
