"""Parts of the listings of methods and suites: the first sentence of a class, and its parameters."""

from fp_bench.params import Params
from fp_bench.reports.table import Table


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring as one line."""
    return " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].replace("``", "`").split())


def parameter_table(params: type[Params]) -> Table:
    """Return one row per parameter, with its default, limits or choices, and help."""
    rows = [
        [found.name, found.default or "none", ", ".join([*found.limits, *found.choices]), found.about]
        for found in params.described()
    ]
    return Table("Parameters", ["parameter", "default", "limits", "what it is"], rows, numbers=4)
