"""The statements of a figure, judged on measured values."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from fp_bench.reports.papers.figure import Bound, Close, Form, Grows, Order, PaperFigure, Statement
from fp_bench.reports.papers.measured import Measured, MissingError
from fp_bench.reports.papers.quantities import GAINS, kind_of
from fp_bench.reports.papers.tolerance import tolerance
from fp_bench.sizes import format_lengths


class Judgement(StrEnum):
    """See docs/reproduce.md."""

    REPRODUCED = "reproduced"
    EXCEEDED = "exceeded"
    NOT_REPRODUCED = "not reproduced"
    NOT_MEASURED = "not measured"


class Finding(NamedTuple):
    """What became of one statement.

    Args:
        statement: as its figure has it.
        verdict: on the first run that measured all of it.
        source: that run; None where there is none.
        reason: why it was not measured.
        elsewhere: the verdicts on other machines.
    """

    statement: Statement
    verdict: Judgement
    source: Measured | None = None
    reason: str = ""
    elsewhere: Mapping[str, Judgement] = MappingProxyType({})

    @property
    def counts(self) -> bool:
        """Whether it is a reproduction: what the inputs were calibrated to is none."""
        return self.verdict is Judgement.REPRODUCED and not self.statement.calibrated


class Point(NamedTuple):
    """One value that a statement needs."""

    quantity: str
    method: str
    length: int


def judge(figure: PaperFigure, measured: Sequence[Measured]) -> list[Finding]:
    """Return the finding of every statement of a figure, on the first of ``measured`` that has all of it."""
    candidates = [values for values in measured if values.fits(figure.setting)]
    return [_judge(figure, statement, candidates) for statement in figure.statements]


def points(figure: PaperFigure, form: Form) -> list[Point]:
    """Return every value that a statement needs."""
    match form:
        case Close():
            methods = [form.method, *([form.over] if form.over else [])]
            return [Point(form.quantity, method, n) for method in methods for n in lengths(figure, form)]
        case Order():
            return [Point(form.quantity, method, n) for method in form.methods for n in form.lens]
        case _:
            return [Point(form.quantity, form.method, n) for n in form.lens]


def lengths(figure: PaperFigure, form: Form) -> list[int]:
    """Return the lengths at which a statement holds or not."""
    if not isinstance(form, Close):
        return form.lens
    published = figure.published[form.quantity]
    return sorted(set(published[form.method]) & set(published[form.over or form.method]))


def published_values(figure: PaperFigure, form: Close) -> list[float]:
    """Return the paper's values at `lengths`, divided by the other method's where the statement is relative to one."""
    published = figure.published[form.quantity]
    divisors = published[form.over] if form.over else dict.fromkeys(lengths(figure, form), 1.0)
    return [published[form.method][n] / divisors[n] for n in lengths(figure, form)]


def our_values(figure: PaperFigure, form: Close, source: Measured) -> list[float]:
    """Return ours, likewise."""
    divisors = [source.value(form.quantity, form.over, n) if form.over else 1.0 for n in lengths(figure, form)]
    values = [source.value(form.quantity, form.method, n) for n in lengths(figure, form)]
    return [value / divisor for value, divisor in zip(values, divisors, strict=True)]


def _judge(figure: PaperFigure, statement: Statement, candidates: Sequence[Measured]) -> Finding:
    needed = points(figure, statement.form)
    by_machine: dict[str, Measured] = {}
    for candidate in candidates:
        if not _gaps(needed, candidate):
            by_machine.setdefault(candidate.machine, candidate)
    if not by_machine:
        reason = _reason(figure, needed, candidates)
        return Finding(statement, Judgement.NOT_MEASURED, reason=reason)
    verdicts = {machine: _verdict(figure, statement.form, source) for machine, source in by_machine.items()}
    first = next(iter(by_machine))
    verdict = verdicts.pop(first)
    return Finding(statement, verdict, by_machine[first], elsewhere=verdicts)


def _verdict(figure: PaperFigure, form: Form, source: Measured) -> Judgement:
    if isinstance(form, Close):
        return _near(form.quantity, published_values(figure, form), our_values(figure, form, source))
    return Judgement.REPRODUCED if all(holds_at(form, source).values()) else Judgement.NOT_REPRODUCED


def _near(quantity: str, theirs: Sequence[float], ours: Sequence[float]) -> Judgement:
    allowed = tolerance(kind_of(quantity))
    limits = [allowed.limits(value) for value in theirs]
    if any(value < low for value, (low, _) in zip(ours, limits, strict=True)):
        return Judgement.NOT_REPRODUCED
    if any(value > high for value, (_, high) in zip(ours, limits, strict=True)):
        return Judgement.EXCEEDED if quantity in GAINS else Judgement.NOT_REPRODUCED
    return Judgement.REPRODUCED


def holds_at(form: Bound | Order | Grows, source: Measured) -> dict[int, bool]:
    """Return at which lengths a claim holds; a trend holds at a length when the step to it does."""
    match form:
        case Bound():
            return {n: _within(form, source.value(form.quantity, form.method, n)) for n in form.lens}
        case Order():
            rows = {n: [source.value(form.quantity, method, n) for method in form.methods] for n in form.lens}
            return {n: _rises(row) for n, row in rows.items()}
        case _:
            values = [source.value(form.quantity, form.method, n) for n in form.lens]
            steps = [form.is_kept(one, other) for one, other in pairwise(values)]
            return dict(zip(form.lens[1:], steps, strict=True))


def _within(bound: Bound, value: float) -> bool:
    return (bound.above is None or value > bound.above) and (bound.below is None or value < bound.below)


def _rises(values: Sequence[float]) -> bool:
    return all(one < other for one, other in pairwise(values))


def _gaps(needed: Sequence[Point], candidate: Measured) -> list[tuple[Point, str]]:
    """Return the values that a run lacks, and why."""
    gaps = []
    for point in needed:
        try:
            candidate.value(*point)
        except MissingError as missing:
            gaps.append((point, str(missing)))
    return gaps


def _reason(figure: PaperFigure, needed: Sequence[Point], candidates: Sequence[Measured]) -> str:
    """Say what the run that has most of a statement lacks."""
    if not candidates:
        return f"no records with {', '.join(f'{name} {value}' for name, value in figure.setting.items())}"
    gaps = min((_gaps(needed, candidate) for candidate in candidates), key=len)
    at: dict[tuple[str, str], list[int]] = {}
    for point, why in gaps:
        at.setdefault((point.method, why), []).append(point.length)
    return "; ".join(f"{method} at {format_lengths(found)}: {why}" for (method, why), found in at.items())
