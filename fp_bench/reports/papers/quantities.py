"""The quantities of figures: how to compute each from records, judge it and show it."""

from collections.abc import Callable, Mapping

import pandas as pd

from fp_bench.reports.papers.tolerance import Kind

Made = Callable[[pd.DataFrame], pd.Series]


def _column(name: str) -> Made:
    return lambda table: table[name]


LATENCY: Mapping[str, Made] = {
    "ms": _column("ms"),
    "select_ms": _column("select_ms"),
    "attend_ms": _column("attend_ms"),
    "density": _column("density"),
    "speedup_fa2": _column("speedup_fa2"),
    "speedup_dense": _column("speedup_dense"),
    "select_share": lambda table: table["select_ms"] / table["ms"],
    "fa2_share": lambda table: table["speedup_fa2"] * table["density"],
    "dense_gain": lambda table: table["fa2_ms"] / table["dense_ms"],
}
"""Made of `latency_tables.comparison`; times in milliseconds, densities as shares."""
ACCURACY: Mapping[str, Made] = {"score_change": lambda table: 100 * table["difference"].astype(float)}
"""Made of `accuracy_tables.summary`, in points."""
TIMES = ("ms", "select_ms", "attend_ms")
SPEEDUPS = ("speedup_fa2", "speedup_dense")
"""Which grow as less is kept."""
GAINS = ("speedup_fa2", "speedup_dense", "fa2_share", "dense_gain")
"""More than published is better."""
SHARES = ("density", "select_share")
"""Shown in percent."""


def kind_of(quantity: str) -> Kind:
    """Return the kind of tolerance of a quantity."""
    if quantity in ACCURACY:
        return "score difference"
    return "density" if quantity == "density" else "time ratio"


def show(quantity: str, value: float) -> str:
    """Return a value as people read it."""
    if quantity in SHARES:
        return f"{value:.1%}"
    if quantity in ACCURACY:
        return f"{value:+.3g}"
    digits = max(0, 2 - len(str(int(abs(value)))) + (value < 1))
    return f"{value:.{digits}f}{_unit(quantity)}"


def tick(quantity: str, value: float) -> str:
    """Return a round value for an axis."""
    if quantity in SHARES:
        return f"{100 * value:g}%"
    return f"{value:g}" if quantity.endswith("ms") else f"{value:g}x"


def _unit(quantity: str) -> str:
    return " ms" if quantity.endswith("ms") else "x"
