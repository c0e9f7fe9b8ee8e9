"""The statements of a figure, judged on measured values."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from fp_bench.reports.papers.figure import Bound, Close, Falls, Form, Grows, Order, PaperFigure, Statement
from fp_bench.reports.papers.measured import Measured, MissingError
from fp_bench.reports.papers.quantities import GAINS, SPEEDUPS, kind_of
from fp_bench.reports.papers.tolerance import tolerance
from fp_bench.sizes import format_lengths

FIXED = ("dense", "minference", "streaming")
"""Methods that keep the same amount on any inputs."""


class Judgement(StrEnum):
    """See docs/reproduce.md."""

    REPRODUCED = "reproduced"
    EXCEEDED = "exceeded"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "within the noise"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured"


class Finding(NamedTuple):
    """The result of one statement.

    Args:
        statement: from its figure.
        verdict: of the first run that measured most of it.
        form: the judged form, at the lengths that could be judged.
        source: that run; None if there is none.
        reason: why the other lengths, or all of them, could not be judged.
        elsewhere: the verdicts on other machines.
    """

    statement: Statement
    verdict: Judgement
    form: Form
    source: Measured | None = None
    reason: str = ""
    elsewhere: Mapping[str, Judgement] = MappingProxyType({})

    @property
    def counts(self) -> bool:
        """Whether it counts as reproduced; statements to which inputs were calibrated do not."""
        return self.verdict is Judgement.REPRODUCED and not self.statement.calibrated


class Point(NamedTuple):
    """One value that a statement needs."""

    quantity: str
    method: str
    length: int


def judge(figure: PaperFigure, measured: Sequence[Measured]) -> list[Finding]:
    """Return the finding of every statement of a figure, on the first of ``measured`` that has most of it."""
    candidates = [values for values in measured if values.fits(figure.setting)]
    return [_judge(figure, statement, candidates) for statement in figure.statements]


def points(figure: PaperFigure, form: Form) -> list[Point]:
    """Return all values that a statement needs."""
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
    both = set(published[form.method]) & set(published[form.over or form.method])
    return sorted(both if form.lens is None else both & set(form.lens))


def published_values(figure: PaperFigure, form: Close) -> list[float]:
    """Return the paper's values at `lengths`, divided by the other method's if the statement is relative."""
    published = figure.published[form.quantity]
    divisors = published[form.over] if form.over else dict.fromkeys(lengths(figure, form), 1.0)
    return [published[form.method][n] / divisors[n] for n in lengths(figure, form)]


def our_values(figure: PaperFigure, form: Close, source: Measured) -> list[float]:
    """Return ours, likewise."""
    divisors = [source.value(form.quantity, form.over, n) if form.over else 1.0 for n in lengths(figure, form)]
    values = [source.value(form.quantity, form.method, n) for n in lengths(figure, form)]
    return [value / divisor for value, divisor in zip(values, divisors, strict=True)]


def _judge(figure: PaperFigure, statement: Statement, candidates: Sequence[Measured]) -> Finding:
    form = statement.form
    if not candidates:
        wanted = ", ".join(f"{name} {value}" for name, value in figure.setting.items())
        return Finding(statement, Judgement.NOT_MEASURED, form, reason=f"no records with {wanted}")
    by_machine: dict[str, tuple[Measured, list[_Gap]]] = {}
    for candidate in candidates:
        gaps = _gaps(figure, form, candidate)
        known = by_machine.get(candidate.machine)
        if known is None or _lost(gaps) < _lost(known[1]):
            by_machine[candidate.machine] = candidate, gaps
    # The run with most lengths decides; the first of equal ones.
    best = min(by_machine, key=lambda machine: _lost(by_machine[machine][1]))
    found = {machine: _on(figure, statement, *one) for machine, one in by_machine.items()}
    first = found.pop(best)
    judged = {machine: other.verdict for machine, other in found.items() if other.source}
    return first._replace(elsewhere=judged)


def _on(figure: PaperFigure, statement: Statement, source: Measured, gaps: "Sequence[_Gap]") -> Finding:
    """Judge a statement on one run, at the lengths that it has."""
    form, lost = statement.form, {gap.length for gap in gaps}
    left = [length for length in lengths(figure, form) if length not in lost]
    if len(left) < (2 if isinstance(form, Grows) else 1):
        missing = any(gap.missing for gap in gaps) or not gaps
        verdict = Judgement.NOT_MEASURED if missing else Judgement.NOT_COMPARABLE
        return Finding(statement, verdict, form, reason=_said(gaps))
    judged = form.model_copy(update={"lens": left})
    return Finding(statement, _verdict(figure, judged, source), judged, source, _said(gaps))


def _verdict(figure: PaperFigure, form: Form, source: Measured) -> Judgement:
    if isinstance(form, Close):
        return _near(figure, form, source)
    held = holds_at(form, source).values()
    if all(held):
        return Judgement.REPRODUCED
    return Judgement.NOT_REPRODUCED if False in held else Judgement.UNDECIDED


def _near(figure: PaperFigure, form: Close, source: Measured) -> Judgement:
    allowed = tolerance(kind_of(form.quantity))
    ends = zip(our_values(figure, form, source), _our_intervals(figure, form, source), strict=True)
    below, above, unsure = False, False, False
    for (value, (low, high)), published in zip(ends, published_values(figure, form), strict=True):
        least, most = allowed.limits(published)
        below |= high < least
        above |= low > most
        unsure |= not least <= value <= most and low <= most and high >= least
    if below:
        return Judgement.NOT_REPRODUCED
    if above:
        return Judgement.EXCEEDED if form.quantity in GAINS else Judgement.NOT_REPRODUCED
    return Judgement.UNDECIDED if unsure else Judgement.REPRODUCED


def _our_intervals(figure: PaperFigure, form: Close, source: Measured) -> list[tuple[float, float]]:
    """Return the ends of `our_values`."""
    found = []
    for length in lengths(figure, form):
        low, high = source.interval(form.quantity, form.method, length)
        over = source.interval(form.quantity, form.over, length) if form.over else (1.0, 1.0)
        found.append((low / over[1], high / over[0]))
    return found


def holds_at(form: Bound | Order | Grows, source: Measured) -> dict[int, bool | None]:
    """Return the lengths at which a claim holds; a trend holds at a length if the step to it does.

    None: it fails, but within the noise.
    """

    def value(method: str, length: int) -> _Value:
        ends = source.interval(form.quantity, method, length)
        return _Value(source.value(form.quantity, method, length), *ends)

    match form:
        case Bound():
            return {n: _within(form, value(form.method, n)) for n in form.lens}
        case Order():
            rows = {n: [value(method, n) for method in form.methods] for n in form.lens}
            return {n: _all(_less(one, other) for one, other in pairwise(row)) for n, row in rows.items()}
        case _:
            values = [value(form.method, n) for n in form.lens]
            falls = isinstance(form, Falls)
            steps = [_less(*((other, one) if falls else (one, other))) for one, other in pairwise(values)]
            return dict(zip(form.lens[1:], steps, strict=True))


class _Value(NamedTuple):
    """A measured value and the ends of its interval."""

    value: float
    low: float
    high: float


def _less(one: _Value, other: _Value) -> bool | None:
    return True if one.value < other.value else None if one.low < other.high else False


def _within(bound: Bound, found: _Value) -> bool | None:
    end = bound.above if bound.above is not None else bound.below or 0.0
    there = _Value(end, end, end)
    return _less(there, found) if bound.above is not None else _less(found, there)


def _all(held: Iterable[bool | None]) -> bool | None:
    found = list(held)
    return False if False in found else None if None in found else True


class _Gap(NamedTuple):
    """A length at which a statement cannot be judged on a run, with the reason."""

    method: str
    length: int
    why: str
    missing: bool
    """Whether a value is missing; otherwise it is not comparable."""


def _lost(gaps: Sequence[_Gap]) -> int:
    return len({gap.length for gap in gaps})


def _gaps(figure: PaperFigure, form: Form, candidate: Measured) -> list[_Gap]:
    gaps = []
    for point in points(figure, form):
        try:
            candidate.value(*point)
        except MissingError as missing:
            gaps.append(_Gap(point.method, point.length, str(missing), missing=True))
            continue
        if why := _incomparable(figure, form, point, candidate):
            gaps.append(_Gap(point.method, point.length, why, missing=False))
    return gaps


def _incomparable(figure: PaperFigure, form: Form, point: Point, candidate: Measured) -> str:
    """Return why a value is not comparable with the paper's; empty if it is.

    On other inputs than its paper's, a method keeps other blocks. A speed-up is compared at equal density, for methods
    that adapt to the inputs.
    """
    name = point.method.partition(":")[0]
    if name in figure.other_inputs:
        return "its inputs are not its paper's"
    if not isinstance(form, Close) or form.quantity not in SPEEDUPS or name in FIXED:
        return ""
    theirs = figure.published.get("density", {}).get(point.method, {}).get(point.length)
    if theirs is None:
        return "the paper gives no density at which to compare"
    density = candidate.value("density", point.method, point.length)
    low, high = tolerance("density").limits(theirs)
    return "" if low <= density <= high else f"it keeps {density:.1%}, in the paper {theirs:.1%}"


def _said(gaps: Sequence[_Gap]) -> str:
    """Return the lengths that could not be judged and why."""
    at: dict[tuple[str, str], list[int]] = {}
    for gap in gaps:
        at.setdefault((gap.method, gap.why), []).append(gap.length)
    return "; ".join(f"{method} at {format_lengths(found)}: {why}" for (method, why), found in at.items())
