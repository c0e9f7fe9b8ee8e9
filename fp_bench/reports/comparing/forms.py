"""Output formats of comparisons for machines and pages."""

from collections.abc import Callable, Mapping, Sequence

from fp_bench.reports.comparing.compare import Comparison
from fp_bench.reports.comparing.junit import junit
from fp_bench.reports.comparing.text import as_json, csv, markdown, smaller_is_better

FORMATS: Mapping[str, Callable[[Sequence[Comparison]], str]] = {
    "md": lambda comparisons: "\n\n".join(map(markdown, comparisons)),
    "csv": csv,
    "json": as_json,
    "junit": junit,
    "customSmallerIsBetter": lambda comparisons: smaller_is_better([comparison.new for comparison in comparisons]),
}
"""The command line adds ``rich``, for terminals."""
