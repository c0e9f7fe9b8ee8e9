"""Findings in words: the paper's statement and our values."""

from collections.abc import Sequence

from fp_bench.reports.papers.figure import Bound, Close, Falls, Form, Grows, Order, PaperFigure
from fp_bench.reports.papers.judge import Finding, holds_at, lengths, our_values, published_values
from fp_bench.reports.papers.measured import Measured
from fp_bench.reports.papers.quantities import kind_of, show
from fp_bench.reports.papers.tolerance import tolerance
from fp_bench.sizes import format_length, format_lengths


def theirs(figure: PaperFigure, form: Form) -> str:
    """Return the paper's values or claim."""
    match form:
        case Close():
            values = listed(figure, form, published_values(figure, form))
            return f"{values}; within {tolerance(kind_of(form.quantity))}"
        case Bound(above=None):
            return f"below {show(form.quantity, form.below or 0.0)}"
        case Bound():
            return f"above {show(form.quantity, form.above or 0.0)}"
        case Order():
            return " < ".join(form.methods)
        case Falls():
            return "falls"
        case Grows():
            return "grows"


def ours(figure: PaperFigure, finding: Finding) -> str:
    """Return the measured values, and why others are missing."""
    form, source = finding.form, finding.source
    if source is None:
        return finding.reason
    match form:
        case Close():
            return listed(figure, form, our_values(figure, form, source)) + _left_out(finding)
        case Order():
            shown = [_row(form, source, length) for length in form.lens]
        case _:
            shown = [_value(form, source, length) for length in form.lens]
    held = holds_at(form, source)
    broken = [length for length, holds in held.items() if holds is False]
    unsure = [length for length, holds in held.items() if holds is None]
    said = f"; not at {format_lengths(broken)}" if broken else ""
    said += f"; within the noise at {format_lengths(unsure)}" if unsure else ""
    return ", ".join(shown) + said + _left_out(finding)


def _left_out(finding: Finding) -> str:
    return f"; not judged: {finding.reason}" if finding.reason else ""


def where(finding: Finding) -> str:
    """Return the machine of a finding, and the verdicts on others."""
    if finding.source is None:
        return ""
    others = [f"{machine}: {verdict}" for machine, verdict in finding.elsewhere.items()]
    return "; ".join([finding.source.machine, *others])


def listed(figure: PaperFigure, form: Close, values: Sequence[float]) -> str:
    """Return values at the lengths of a statement; relative ones as a factor."""
    at = zip(lengths(figure, form), values, strict=True)
    return ", ".join(f"{format_length(length)} {_shown(form, value)}" for length, value in at)


def _shown(form: Close, value: float) -> str:
    return f"{value:.3g}x" if form.over else show(form.quantity, value)


def _value(form: Bound | Grows, source: Measured, length: int) -> str:
    return f"{format_length(length)} {show(form.quantity, source.value(form.quantity, form.method, length))}"


def _row(form: Order, source: Measured, length: int) -> str:
    values = (show(form.quantity, source.value(form.quantity, method, length)) for method in form.methods)
    return f"{format_length(length)} {' / '.join(values)}"
