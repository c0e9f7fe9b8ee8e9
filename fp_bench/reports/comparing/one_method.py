"""Compares methods within runs: each method becomes a run whose cells match the other's."""

from typing import Any

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.methods.registry import Spec
from fp_bench.records.record import Record
from fp_bench.records.store import Run


def methods_as_runs(base: Run, base_method: str, new: Run, new_method: str) -> tuple[Run, Run]:
    """Return the records of one method in each run, under a common name, so that `compare` matches their cells.

    Args:
        base: the run of the base method.
        base_method: the base method, as on the command line.
        new: the run of the judged method; it may be the same run.
        new_method: the judged method.

    Raises:
        UsageError: a run without the method, or with several settings that fit.
    """
    labels = _label(base, base_method), _label(new, new_method)
    name = labels[1] if labels[0] == labels[1] else f"{labels[1]} against {labels[0]}"
    one, other = (_renamed(run, label, name) for run, label in zip((base, new), labels, strict=True))
    return one, other


def _label(run: Run, asked: str) -> str:
    """Return the label of the requested method of a run."""
    first = {record.label: record for record in run.records}
    if asked in first:
        return asked
    spec = Spec.parse(asked)
    found = [label for label, record in first.items() if record.method == spec.name and _has(record, spec)]
    if not found:
        raise UsageError(f"{run.folder} has no method {asked!r}{did_you_mean(asked, first)}")
    if len(found) > 1:
        raise UsageError(f"{asked!r} is one of several methods of {run.folder}; name one of {', '.join(found)}")
    return found[0]


def _has(record: Record, spec: Spec) -> bool:
    """Return whether a method has the given parameters; its label may omit defaults."""
    return all(key in record.params and _same(record.params[key], value) for key, value in spec.options.items())


def _same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value).lower() == text.lower()


def _renamed(run: Run, label: str, name: str) -> Run:
    # Remove the fields that distinguish methods; different kernels are expected.
    common: dict[str, Any] = {
        "label": name,
        "method": "",
        "method_hash": "",
        "params": {},
        "asked_backend": "auto",
        "backend": None,
    }
    records = [record.model_copy(update=common) for record in run.records if record.label == label]
    return Run(run.folder, records, run.environments)
