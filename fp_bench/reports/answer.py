"""The answer of a report in three sentences: which method, how fast, at what quality."""

from collections.abc import Sequence

import pandas as pd

from fp_bench.records.store import Run
from fp_bench.reports.accuracy.tables import points, setting_title, signed
from fp_bench.reports.joint import accuracies, joined_scores, settings
from fp_bench.reports.latency.tables import is_prefill
from fp_bench.reports.latency.tables import setting_title as timed_title
from fp_bench.sizes import format_length


def answer(runs: Sequence[Run]) -> list[str]:
    """Return three sentences, of the longest prompts that were measured.

    Among methods whose scores are known, those count that are not significantly below dense attention (the interval of
    the paired difference reaches 0); of these the fastest is named, or the sparsest where nothing was timed. Where no
    method is left, the sentences say so and are about the fastest of all.
    """
    scores = accuracies(runs)
    timed = [rows for run in runs for rows in settings(run) if (rows["method"] != "dense").any()]
    if timed:
        return _of_times(max(timed, key=lambda rows: int(rows["seq_len"].max())), scores)
    if scores:
        return _of_scores(max(scores.values(), key=lambda rows: int(rows["seq_len"].max())))
    return ["No sparse method was measured beside dense attention."]


def _of_times(rows: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> list[str]:
    sparse = rows[(rows["method"] != "dense") & rows["speedup_dense"].notna()]
    if sparse.empty:
        return ["No sparse method ran beside dense attention: they fell back to it, or there is no dense time."]
    here = sparse[sparse["seq_len"] == sparse["seq_len"].max()]
    length = format_length(int(here["seq_len"].iloc[0]))
    found = _scored(here, joined_scores(rows, scores))
    kept = here[[_keeps(found.get(name)) for name in here["method_hash"]]]
    best = (kept if len(kept) else here).sort_values("ms").iloc[0]
    score = found.get(best["method_hash"])
    among = f"the fastest of {len(here)} sparse methods" if len(here) > 1 else "the one sparse method measured"
    if found and len(here) > 1:
        among += " that is not significantly below dense attention" if len(kept) else ", but all score below dense"
    what = "a first token" if is_prefill(rows) else "one attention call"
    over = "with dense attention" if is_prefill(rows) else "of the fastest dense kernel"
    return [
        f"Which method: `{best['label']}` is {among}, at {length} ({timed_title(best)}).",
        f"How fast: {what} takes {best['ms']:.4g} ms, {best['speedup_dense']:.2f}x the speed {over} "
        f"({best['dense']}, {best['dense_ms']:.4g} ms).",
        f"At what quality: it computes {best['density']:.1%} of the causal block pairs{_mass(best)}; "
        f"{_quality(score)}.",
    ]


def _of_scores(rows: pd.DataFrame) -> list[str]:
    sparse = rows[(rows["method"] != "dense") & rows["difference"].notna()]
    if sparse.empty:
        return ["No sparse method was scored beside dense attention."]
    here = sparse[sparse["seq_len"] == sparse["seq_len"].max()]
    kept = here[[_keeps(row) for _, row in here.iterrows()]]
    best = (kept if len(kept) else here).sort_values("density").iloc[0]
    length = format_length(int(best["seq_len"]))
    among = f"the sparsest of {len(here)} methods" if len(here) > 1 else "the one sparse method scored"
    if len(here) > 1:
        among += " that is not significantly below dense attention" if len(kept) else ", but all score below dense"
    return [
        f"Which method: `{best['label']}` is {among}, at {length} ({setting_title(best)}).",
        f"How fast: not timed in these runs; it computes {best['density']:.1%} of the causal block pairs, so attention "
        f"can be at most {1 / best['density']:.3g} times as fast as the same kernel run densely.",
        f"At what quality: {_quality(best)}.",
    ]


def _scored(here: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Return, by the hash of a method, its scores in the first setting that has any at this length."""
    length = here["seq_len"].iloc[0]
    found: dict[str, pd.Series] = {}
    for of in scores.values():
        for _, row in of[of["seq_len"] == length].iterrows():
            found.setdefault(str(row["method_hash"]), row)
    return {name: row for name, row in found.items() if name in set(here["method_hash"])}


def _keeps(score: pd.Series | None) -> bool:
    return score is not None and pd.notna(score["difference_high"]) and bool(score["difference_high"] >= 0)


def _mass(row: pd.Series) -> str:
    return f", which hold {row['recall']:.1%} of the attention mass" if pd.notna(row["recall"]) else ""


def _quality(score: pd.Series | None) -> str:
    if score is None or pd.isna(score["difference"]):
        return "answers of a model were not scored with it at this length"
    return (
        f"it scores {points(score['score'])} on {setting_title(score)}, {signed(score['difference'])} points to dense "
        f"attention (95 %: {signed(score['difference_low'])} to {signed(score['difference_high'])})"
    )
