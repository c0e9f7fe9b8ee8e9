"""The front page's ratios, measured on machines of two leases, as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fp_bench.sizes import format_length, parse_length, parse_lengths
from pages.markdown import table
from pages.tables import SPEED, measured
from pages.tuned import TEXT, TUNED, TUNED_NATIVE


@dataclass(frozen=True)
class Ratio:
    """How much faster than dense attention something was, in each of two leases."""

    length: int
    what: str
    label: str
    one: float
    another: float

    @property
    def apart(self) -> float:
        """Difference of the two, as a share of the smaller one."""
        return max(self.one, self.another) / min(self.one, self.another) - 1


@dataclass(frozen=True)
class TwoLeases:
    """Ratios of methods to a dense kernel in two runs of the same cells.

    Args:
        runs: folders of the two, below ``results``.
        cells: label of each method, as in the records, with its length in tokens.
        what: column of `pages.tables.measured` -> what it compares.
    """

    runs: tuple[str, str]
    cells: Sequence[tuple[int, str]]
    what: dict[str, str]

    def ratios(self) -> Iterator[Ratio]:
        """Return a ratio for each cell and column."""
        one, another = map(measured, self.runs)
        for cell in self.cells:
            for column, what in self.what.items():
                yield Ratio(cell[0], what, cell[1], float(one.loc[cell][column]), float(another.loc[cell][column]))


def front_page_ratios() -> list[Ratio]:
    """Return every ratio of the README's two tables."""
    operator = TwoLeases(
        (SPEED.run, f"{SPEED.run}-earlier"),
        [(length, SPEED.method) for length in parse_lengths(SPEED.lengths)],
        {"speedup_dense": "operator, to cuDNN", "speedup_fa2": "operator, to FlashAttention-2"},
    )
    first_token = TwoLeases(
        (TEXT, f"{TEXT}-again"),
        [(parse_length(run.length), f"{each.label}") for run in (TUNED_NATIVE, TUNED) for each in run.found()],
        {"speedup_dense": "first token, to cuDNN"},
    )
    return [*operator.ratios(), *first_token.ratios()]


def front_page_again() -> str:
    """Return a row per ratio of the README's two tables."""
    rows = [
        [
            ratio.what,
            format_length(ratio.length),
            f"`{ratio.label}`",
            f"{ratio.one:.2f}x",
            f"{ratio.another:.2f}x",
            f"{100 * ratio.apart:.1f} %",
        ]
        for ratio in front_page_ratios()
    ]
    return table(["", "length", "method", "one lease", "another", "apart"], rows, left=3)
