"""One method of a run beside another: each as a run of its own whose cells match the other's."""

from typing import Any

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.methods.registry import Spec
from fp_bench.records.record import Record
from fp_bench.records.store import Run


def methods_as_runs(base: Run, base_method: str, new: Run, new_method: str) -> tuple[Run, Run]:
    """Return the records of one method in each run, under a common name, so that `compare` matches their cells.

    Args:
        base: the run of the method that is compared with.
        base_method: that method, as the command line takes it.
        new: the run of the method that is judged; it may be the same run.
        new_method: that method.

    Raises:
        UsageError: a run without the method, or with several settings that fit.
    """
    labels = _label(base, base_method), _label(new, new_method)
    name = labels[1] if labels[0] == labels[1] else f"{labels[1]} against {labels[0]}"
    one, other = (_renamed(run, label, name) for run, label in zip((base, new), labels, strict=True))
    return one, other


def _label(run: Run, asked: str) -> str:
    """Return the label of the one method of a run that was asked for."""
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
    """Tell whether a method has the parameters that were given; a default need not stand in its label."""
    return all(key in record.params and _same(record.params[key], value) for key, value in spec.options.items())


def _same(value: Any, text: str) -> bool:
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value).lower() == text.lower()


def _renamed(run: Run, label: str, name: str) -> Run:
    # What tells methods apart is taken out; that the kernels differ is no news.
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
