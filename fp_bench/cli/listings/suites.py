"""The suites, their tasks and what each needs, as tables."""

from collections.abc import Iterable, Iterator

from fp_bench.cli.listings.parameters import parameter_table, summary
from fp_bench.errors import UnavailableError
from fp_bench.reports.table import Table
from fp_bench.suites.registry import suites
from fp_bench.suites.suite import Suite


def suite_table() -> Table:
    """Return one row per suite; a plug-in that cannot be imported is a row with the reason."""
    return Table(
        "Suites", ["suite", "tasks", "needs", "what it asks"], [*map(_row, sorted(suites.targets()))], numbers=4
    )


def _row(name: str) -> list[str]:
    try:
        suite: type[Suite] = suites.load(name)
    except UnavailableError as error:
        return [name, "", "not here", str(error)]
    return [name, str(len(suite.tasks)), suite.needs or "nothing", summary(suite)]


def task_table(names: Iterable[str]) -> Table:
    """Return one row per task of these suites.

    Raises:
        UsageError: an unknown suite.
        UnavailableError: a suite that cannot be imported.
    """
    rows = [row for name in names for row in _tasks(suites.load(name))]
    return Table("Tasks", ["suite", "task", "runs"], rows, numbers=3)


def _tasks(suite: type[Suite]) -> Iterator[list[str]]:
    for task in suite.tasks:
        yield [suite.full_name(), task, "only when named" if task in suite.left_out else "by default"]


def suite_tables(name: str) -> list[Table]:
    """Return the tables of one suite in full.

    Raises:
        UsageError: an unknown suite.
        UnavailableError: it cannot be imported.
    """
    suite: type[Suite] = suites.load(name)
    facts = [["asks", summary(suite)], ["needs", suite.needs or "nothing"]]
    return [
        Table(f"Suite {name}", ["what", "value"], facts, numbers=2),
        task_table([name]),
        parameter_table(suite.Params),
    ]
