"""The answer of a report in three sentences: which method, how fast, at what quality."""

from collections.abc import Sequence

import pandas as pd

from fp_bench.records.store import Run
from fp_bench.reports.accuracy.tables import points, setting_title, signed
from fp_bench.reports.joint import accuracies, joined_scores, settings
from fp_bench.reports.latency.tables import is_prefill
from fp_bench.reports.latency.tables import setting_title as timed_title
from fp_bench.sizes import format_length, format_ms

MOST_LOST = 0.05
"""Score that a method may lose to dense attention to be an answer: few samples make no loss significant."""
LEAST_MASS = 0.8
"""Share of the attention mass that a method must keep to be an answer without scores."""


def answer(runs: Sequence[Run]) -> list[str]:
    """Return three sentences about the longest prompts that were both timed and scored, else timed or scored.

    Of methods with scores, those count that are not significantly below dense attention (the interval of
    the paired difference reaches 0) and lose at most `MOST_LOST`. The fastest of these is named, or the sparsest
    without times. Without scores, methods count that keep `LEAST_MASS` of the attention. If no method is left, the
    sentences say so and describe the fastest one.
    """
    scores = accuracies(runs)
    timed = [rows for run in runs for rows in settings(run) if (rows["method"] != "dense").any()]
    if timed:
        return _of_times(max(timed, key=lambda rows: int(rows["seq_len"].max())), scores)
    if scores:
        return _of_scores(max(scores.values(), key=lambda rows: int(rows["seq_len"].max())))
    return ["No sparse method was measured together with dense attention."]


def _of_times(rows: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> list[str]:
    sparse = rows[(rows["method"] != "dense") & rows["speedup_dense"].notna()]
    if sparse.empty:
        return ["No sparse method has a speed-up: all fell back to dense attention, or there is no dense time."]
    joined = joined_scores(rows, scores)
    found = {length: _scored(sparse, joined, length) for length in sorted(set(sparse["seq_len"]))}
    longest = max((length for length, of in found.items() if of), default=max(found))
    here, scored = sparse[sparse["seq_len"] == longest], found[longest]
    # A text has no right or wrong answers: KL is shown, but does not decide.
    tested = any(pd.isna(row["kl"]) for row in scored.values())
    kept = here[[_keeps(scored.get(name)) for name in here["method_hash"]]] if tested else here[:0]
    known = here[here["method_hash"].isin(scored)] if scored else here
    if not scored:
        kept = here[here["recall"] >= LEAST_MASS]
    best = (kept if len(kept) else known).sort_values("ms").iloc[0]
    length, score = format_length(int(longest)), scored.get(best["method_hash"])
    if scored:
        among = _among("fastest", "timed and scored", len(known), len(kept) if tested else None)
    else:
        among = (
            _by_mass(len(here), len(kept)) if here["recall"].notna().any() else _among("fastest", "timed", len(here))
        )
    what = "a first token" if is_prefill(rows) else "one attention call"
    over = "with dense attention" if is_prefill(rows) else "of the fastest dense kernel"
    return [
        f"Which method: `{best['label']}` is {among}, at {length} ({timed_title(best)}).",
        f"How fast: {what} takes {format_ms(best['ms'])} ms, {best['speedup_dense']:.2f}x the speed {over} "
        f"({best['dense']}, {format_ms(best['dense_ms'])} ms).",
        f"At what quality: {_computed(best)}{_mass(best)}; {_quality(score)}.",
    ]


def _of_scores(rows: pd.DataFrame) -> list[str]:
    sparse = rows[(rows["method"] != "dense") & (rows["difference"].notna() | rows["kl"].notna())]
    if sparse.empty:
        return ["No sparse method was scored together with dense attention."]
    here = sparse[sparse["seq_len"] == sparse["seq_len"].max()]
    tested = bool(here["kl"].isna().any())
    kept = here[[_keeps(row) for _, row in here.iterrows()]] if tested else here[:0]
    best = (kept if len(kept) else here).sort_values("density" if tested else "kl").iloc[0]
    length = format_length(int(best["seq_len"]))
    word = "sparsest" if tested else "closest to dense attention"
    among = _among(word, "scored", len(here), len(kept) if tested else None)
    limit = ""
    if pd.notna(best["density"]):
        limit = f", so attention can be at most {1 / best['density']:.3g} times as fast as the same kernel run densely"
    return [
        f"Which method: `{best['label']}` is {among}, at {length} ({setting_title(best)}).",
        f"How fast: not timed in these runs; {_computed(best)}{limit}.",
        f"At what quality: {_quality(best)}.",
    ]


def _among(best: str, how: str, methods: int, kept: int | None = None) -> str:
    """Say among which methods one is best; ``kept`` of them are close to dense attention, None if unknown."""
    points = f"{100 * MOST_LOST:g} points"
    if methods == 1:
        far = f", and is significantly below dense attention or loses more than {points}"
        return f"the only sparse method {how}" + (far if kept == 0 else "")
    if kept is None:
        return f"the {best} of the {methods} sparse methods {how}"
    if kept == 0:
        far = f"all of them are significantly below dense attention or lose more than {points}"
        return f"the {best} of the {methods} sparse methods {how}, but {far}"
    if kept == 1:
        close = f"that is not significantly below dense attention and loses at most {points}"
        return f"the only one of the {methods} sparse methods {how} {close}"
    close = f"that are not significantly below dense attention and lose at most {points}"
    return f"the {best} of the {kept} (of {methods} {how}) {close}"


def _by_mass(methods: int, kept: int) -> str:
    """Say among which methods one is the fastest; ``kept`` of them keep enough of the attention mass."""
    mass = f"{LEAST_MASS:.0%} of the attention mass"
    if kept == 0 and methods > 1:
        return f"the fastest of the {methods} sparse methods timed, but none keeps {mass}"
    if kept in (0, methods):
        return _among("fastest", "timed", methods)
    if kept == 1:
        return f"the only one of the {methods} sparse methods timed that keeps at least {mass}"
    return f"the fastest of the {kept} (of {methods} timed) that keep at least {mass}"


def _scored(sparse: pd.DataFrame, scores: dict[str, pd.DataFrame], length: int) -> dict[str, pd.Series]:
    """Return the scores of timed methods at a length in the first setting, by hash; answers before distributions."""
    timed = set(sparse.loc[sparse["seq_len"] == length, "method_hash"])
    found: dict[str, pd.Series] = {}
    for of in sorted(scores.values(), key=lambda of: bool(of["kl"].notna().all())):
        for _, row in of[(of["seq_len"] == length) & of["method_hash"].isin(timed)].iterrows():
            found.setdefault(str(row["method_hash"]), row)
    return found


def _keeps(score: pd.Series | None) -> bool:
    if score is None or pd.isna(score["difference_high"]):
        return False
    return bool(score["difference_high"] >= 0 and score["difference"] >= -MOST_LOST)


def _computed(row: pd.Series) -> str:
    if pd.isna(row["density"]):
        return "what its server computes is not seen"
    of = "causal block pairs" if pd.isna(row["density_of"]) else row["density_of"]
    return f"it computes {row['density']:.1%} of the {of}"


def _mass(row: pd.Series) -> str:
    return f", which hold {row['recall']:.1%} of the attention mass" if pd.notna(row["recall"]) else ""


def _quality(score: pd.Series | None) -> str:
    if score is None:
        return "its effect on a model's answers was not measured on these inputs"
    if pd.notna(score["kl"]):
        return f"its next-token distributions have a KL of {score['kl']:.3g} nats to dense attention's"
    change = ""
    if pd.notna(score["difference"]):
        interval = f"{signed(score['difference_low'])} to {signed(score['difference_high'])}"
        change = f", {signed(score['difference'])} points to dense attention (95 %: {interval})"
    return f"it scores {points(score['score'])} on {setting_title(score)}{change}"
