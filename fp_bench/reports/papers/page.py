"""Output of reproduced figures: tables, one page, plots."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from fp_bench.reports.drawing import Plot
from fp_bench.reports.escape import csv, prose
from fp_bench.reports.output import write, writing
from fp_bench.reports.papers.figure import PaperFigure
from fp_bench.reports.papers.judge import Finding, Judgement, judge
from fp_bench.reports.papers.measured import Measured
from fp_bench.reports.papers.plots import draw
from fp_bench.reports.papers.wording import ours, theirs, where
from fp_bench.reports.table import Table

PAGE = "reproduce.md"
MARK = "Made by `fpbench reproduce`."
"""In every page."""


@dataclass(frozen=True)
class Again:
    """A figure made again from records."""

    figure: PaperFigure
    measured: Sequence[Measured]

    @cached_property
    def findings(self) -> Sequence[Finding]:
        """Of its statements."""
        return judge(self.figure, self.measured)

    @cached_property
    def plot(self) -> Plot | None:
        """Ours over theirs; None if nothing was measured."""
        return draw(self.figure, self.measured)

    def table(self) -> Table:
        """Return one row a statement."""
        rows = [
            [
                finding.statement.says + (" (calibrated)" if finding.statement.calibrated else ""),
                str(finding.verdict),
                theirs(self.figure, finding.statement.form),
                ours(self.figure, finding),
                where(finding),
            ]
            for finding in self.findings
        ]
        return Table(
            f"{self.figure.name}: {self.figure.title}", ["statement", "verdict", "published", "ours", "on"], rows, 5
        )


def list_table(figures: Sequence[PaperFigure]) -> Table:
    """Return one row per figure."""
    rows = [[figure.name, figure.title, figure.paper, figure.place, str(len(figure.statements))] for figure in figures]
    return Table("Figures and tables", ["name", "what", "paper", "where", "statements"], rows, numbers=4)


def overview_table(made: Sequence[Again]) -> Table:
    """Return the number of statements of each figure that hold, without calibrated ones."""
    rows = [[again.figure.name, again.figure.title, *_counts(again.findings)] for again in made]
    every = [finding for again in made for finding in again.findings]
    rows.append(["all", "", *_counts(every)])
    return Table("Statements reproduced", ["figure", "what", *map(str, Judgement), "calibrated"], rows, numbers=2)


def _counts(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["not compared" if verdict is Judgement.NOT_MEASURED else "" for verdict in Judgement] + [""]
    counted = Counter(finding.verdict for finding in findings if not finding.statement.calibrated)
    calibrated = sum(finding.statement.calibrated for finding in findings)
    return [str(counted[verdict] or "") for verdict in Judgement] + [str(calibrated or "")]


def rows(made: Sequence[Again]) -> list[Mapping[str, object]]:
    """Return every finding as plain data."""
    return [
        {
            "figure": again.figure.name,
            "statement": finding.statement.says,
            "verdict": str(finding.verdict),
            "calibrated": finding.statement.calibrated,
            "published": theirs(again.figure, finding.statement.form),
            "ours": ours(again.figure, finding),
            "machine": finding.source.machine if finding.source else None,
            "records": finding.source.folder.as_posix() if finding.source else None,
            "elsewhere": {machine: str(verdict) for machine, verdict in finding.elsewhere.items()},
        }
        for again in made
        for finding in again.findings
    ]


def write_page(made: Sequence[Again], folder: Path) -> Path:
    """Write ``reproduce.md``, ``findings.csv`` and ``plots/``; return the path of the page.

    Raises:
        UsageError: the folder cannot be written, or has something else under these names.
        UnavailableError: the disk is full.
    """
    page = folder / PAGE
    with writing(page, MARK, ("plots",)):
        write(page, "\n\n".join(_sections(made)) + "\n")
        write(folder / "findings.csv", csv(pd.DataFrame(rows(made))))
        for again in made:
            if again.plot:
                again.plot.save(folder / "plots")
    return page


def _sections(made: Sequence[Again]) -> Iterator[str]:
    yield "# The papers' figures, again"
    yield f"How a verdict is reached: docs/reproduce.md. {MARK}"
    yield overview_table(made).markdown()
    for again in made:
        figure = again.figure
        yield f"## {figure.name}: {figure.title}"
        yield f"{figure.paper}, {figure.place}. Theirs: {figure.theirs}."
        if figure.differs:
            yield f"Different here: {figure.differs}."
        yield again.table().markdown() if again.findings else f"Not measured: {figure.unmeasured}."
        if again.plot:
            yield f"![{figure.title}](plots/{again.plot.name}.png)"
        sources = sorted({finding.source.folder.as_posix() for finding in again.findings if finding.source})
        if sources:
            yield prose(f"Records: {', '.join(sources)}.")
        if figure.commands:
            yield "```\n" + "\n".join(f"fpbench {command}" for command in figure.commands) + "\n```"
