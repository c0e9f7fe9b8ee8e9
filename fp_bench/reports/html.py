"""The report of one or more runs as one self-contained HTML page: images, style and script are inside."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from fp_bench.reports.answer import answer
from fp_bench.reports.chapter import Chapter
from fp_bench.reports.drawing import Plot
from fp_bench.reports.joint import headline_tables, pareto_plots
from fp_bench.reports.latency.selection_plots import head_maps
from fp_bench.reports.output import write, writing
from fp_bench.reports.report import Part, environment_table
from fp_bench.reports.table import Table

MARK = "Made by fpbench from "
"""In every page."""


@dataclass(frozen=True)
class Lead:
    """The first thing on a page."""

    title: str
    answer: Sequence[str]
    """Sentences."""
    tables: Sequence[Table]
    plots: Sequence[Plot]


def write_html(parts: Sequence[Part], path: Path, lead: Lead | None = None) -> Path:
    """Write the page and return its path.

    Args:
        parts: the runs; latency and accuracy of the same configuration are joined across them.
        path: of the page.
        lead: what it starts with; None: which method is fastest, at what quality.

    Raises:
        UsageError: it cannot be written, or something else is there.
        UnavailableError: the disk is full.
    """
    with writing(path, MARK):
        write(path, render(parts, lead))
    return path


def render(parts: Sequence[Part], lead: Lead | None = None) -> str:
    """Return the page; the same records give the same page."""
    templates = files("fp_bench.reports") / "templates"
    script = (templates / "report.js").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"prose": _prose, "image": _image}
    runs = [part.run for part in parts]
    return environment.from_string((templates / "report.html.jinja").read_text()).render(
        lead=lead or _joined(parts),
        machines=list(dict.fromkeys(run.machine for run in runs)),
        findings=[line for part in parts for chapter in part.chapters for line in chapter.headlines],
        runs=[_section(part) for part in parts],
        style=Markup((templates / "report.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _joined(parts: Sequence[Part]) -> Lead:
    """Return speed and quality of all runs together."""
    runs = [part.run for part in parts]
    kinds = dict.fromkeys(chapter.name for part in parts for chapter in part.chapters)
    title = f"Sparse-prefill attention: {' and '.join(kinds)}"
    return Lead(title, answer(runs), headline_tables(runs), pareto_plots(runs))


def _section(part: Part) -> dict[str, object]:
    """Return what the page says of one run."""
    run = part.run
    times = sorted(record.time for record in run.records if record.time)
    return {
        "name": run.folder.resolve().name,
        "machine": run.machine,
        "when": " to ".join(dict.fromkeys((times[0][:16], times[-1][:16]))).replace("T", " ") + " UTC" if times else "",
        "code": ", ".join(dict.fromkeys(record.code_version for record in run.records)),
        "chapters": [(chapter, _plots(part, chapter)) for chapter in part.chapters],
        "commands": part.commands,
        "environment": environment_table(run.environment),
    }


def _plots(part: Part, chapter: Chapter) -> list[Plot]:
    more = head_maps(part.run.latency, part.run.machine) if chapter.name == "latency" else []
    return [*chapter.plots, *more]


def _prose(text: str) -> Markup:
    """Return a sentence as HTML, with backticks as code."""
    parts = str(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def _image(plot: Plot) -> str:
    return f"data:image/png;base64,{base64.b64encode(plot.png).decode()}"
