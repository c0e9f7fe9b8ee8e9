"""Two methods at equal density on a pretrained model: who loses less, as a table with p-values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fp_bench.calibration.trials import sample_number
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import read_run
from fp_bench.sizes import parse_length
from pages.markdown import table
from pages.real_model import METHODS, MIXED
from pages.tables import RESULTS, share

Points = dict[int, list[tuple[float, float]]]
"""Number of a piece -> logarithms of density and KL of each setting."""
Losses = dict[int, float]
"""Number of a piece -> logarithm of its KL."""


@dataclass(frozen=True)
class Side:
    """One of two families of settings, which differ in one parameter.

    Args:
        method: its name.
        name: of its column.
        fixed: what else its labels say.
    """

    method: str
    name: str
    fixed: frozenset[str] = frozenset()

    def holds(self, record: AccuracyRecord, knob: str) -> bool:
        """Return whether a record is of one of these settings."""
        said = frozenset(record.label.split(":")[1:])
        free = {part.partition("=")[0] for part in said - self.fixed}
        return record.method == self.method and self.fixed <= said and free <= {knob}


@dataclass(frozen=True)
class EqualDensity:
    """KL of two methods where both keep the same share of the blocks.

    Each piece of text gives one pair of losses: the KL of its settings of either method, on a straight line between
    them in logarithms. The pairs are compared with Student's t on logarithms.

    Args:
        runs: folders of records of the `fidelity` suite, below ``results``.
        length: as on the command line.
        sides: the two.
        knob: the parameter that differs between the settings of a side.
    """

    runs: Sequence[str]
    length: str
    sides: tuple[Side, Side]
    knob: str = "alpha"

    def markdown(self, shares: Sequence[float]) -> str:
        """Return a row per density.

        Args:
            shares: densities at which to compare.
        """
        ours, theirs = (side.name for side in self.sides)
        head = ["kept", f"{ours}: KL", f"{theirs}: KL", f"{theirs} / {ours}", "95 %", "p", "pieces"]
        measured = [self._points(side) for side in self.sides]
        return table(head, [self._row(at, *(_losses(points, at) for points in measured)) for at in shares], left=0)

    @staticmethod
    def _row(at: float, ours: Losses, theirs: Losses) -> list[str]:
        pieces = sorted(ours.keys() & theirs.keys())
        first, second = (np.array([losses[piece] for piece in pieces]) for losses in (ours, theirs))
        change = second - first
        middle = float(change.mean())
        half = float(stats.t.ppf(0.975, len(pieces) - 1) * stats.sem(change))
        p = float(stats.ttest_1samp(change, 0.0).pvalue)
        return [
            share(at),
            f"{np.exp(first.mean()):.4f}",
            f"{np.exp(second.mean()):.4f}",
            f"{np.exp(middle):.3f}",
            f"{np.exp(middle - half):.3f} to {np.exp(middle + half):.3f}",
            f"{p:.2g}",
            str(len(pieces)),
        ]

    def _points(self, side: Side) -> Points:
        points: Points = {}
        for run in self.runs:
            for record in read_run(RESULTS / run).records:
                if not isinstance(record, AccuracyRecord) or record.status != "ok":
                    continue
                if record.seq_len == parse_length(self.length) and side.holds(record, self.knob) and record.kl:
                    point = np.log(record.density or 1.0), np.log(record.kl)
                    points.setdefault(sample_number(record), []).append(point)
        return points


def _losses(points: Points, at: float) -> Losses:
    """Return log KL at a density by piece, where settings lie on both sides of it."""
    found = {}
    for piece, pairs in points.items():
        density, kl = np.array(sorted(pairs)).T
        if density[0] <= np.log(at) <= density[-1]:
            found[piece] = float(np.interp(np.log(at), density, kl))
    return found


SMALL = frozenset({"sink_blocks=1", "window_blocks=1"})
"""Options that keep only the first block and the diagonal, whatever their scores."""
FORCED = "real/qwen2.5-coder-1.5b-forced-set"
KNOWN = [MIXED, "real/qwen2.5-coder-1.5b-rbs", "real/qwen2.5-coder-1.5b-tune-32k-kl0.02"]
RBS = EqualDensity(
    KNOWN,
    "32k",
    (Side("flashprefill", METHODS["flashprefill"]), Side("rbs", METHODS["rbs"])),
)
RBS_SMALL = EqualDensity(
    [FORCED],
    "32k",
    (Side("flashprefill", METHODS["flashprefill"], SMALL), Side("rbs", METHODS["rbs"], SMALL)),
)
WINDOW = EqualDensity(
    [*KNOWN, FORCED],
    "32k",
    (
        Side("flashprefill", "window of 4, 2 sinks"),
        Side("flashprefill", "window of 1, 1 sink", SMALL),
    ),
)
