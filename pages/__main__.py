"""Generates the marked parts of README and docs: ``python -m pages``; ``--check`` only names stale files.

A part stands between ``<!-- made: NAME -->`` and ``<!-- end -->``; `PARTS` names its function.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fp_bench.methods.registry import BUILTIN_METHODS
from fp_bench.records.record import AccuracyRecord, BenchmarkRecord, LatencyRecord, Record
from pages.equal_density import RBS, RBS_SMALL, WINDOW
from pages.leases import front_page_again
from pages.real_model import BESIDE, LONG, OTHER_LENGTHS, PROSE, REAL, RETRIEVAL, RIVALS_2026, equal_loss_table
from pages.reference import method_parameters, record_fields, record_schema, suite_parameters
from pages.scores import SCORES
from pages.tables import ACCURACY, LOAD, RIVALS, SPEED, VERSION_1
from pages.tuned import TUNED, TUNED_LOOSE, TUNED_NATIVE, TUNED_NATIVE_LOOSE, front_page
from pages.vllm import FIRST_TOKEN

ROOT = Path(__file__).parents[1]
PARTS: dict[str, Callable[[], str]] = {
    "speed": SPEED.markdown,
    "rivals": RIVALS.markdown,
    "real model": partial(REAL.markdown, (0.01, 0.02, 0.05)),
    "real settings": REAL.all_settings,
    "real settings 128k": LONG.all_settings,
    "real settings 2026": RIVALS_2026.all_settings,
    "retrieval": RETRIEVAL.all_settings,
    **{f"real settings {length}": found.all_settings for length, found in OTHER_LENGTHS.items()},
    **{f"equal loss {kl}": partial(equal_loss_table, kl) for kl in (0.01, 0.02, 0.05)},
    "real settings prose": PROSE.all_settings,
    "real inputs": partial(PROSE.beside_structured, VERSION_1, ("8k", "32k"), BESIDE),
    "accuracy": ACCURACY.markdown,
    "scores": partial(SCORES.markdown, 0.05),
    "vllm load": LOAD.markdown,
    "two leases": front_page_again,
    "vllm first token": FIRST_TOKEN.markdown,
    "tuned": partial(front_page, (TUNED_NATIVE, TUNED)),
    "tuned 32k 0.02": TUNED_NATIVE.markdown,
    "tuned 32k 0.05": TUNED_NATIVE_LOOSE.markdown,
    "tuned 128k 0.02": TUNED.markdown,
    "tuned 128k 0.05": TUNED_LOOSE.markdown,
    "equal density": partial(RBS.markdown, (0.08, 0.1, 0.12, 0.15, 0.2, 0.25)),
    "equal density small": partial(RBS_SMALL.markdown, (0.05, 0.06, 0.08, 0.1, 0.13)),
    "forced set": partial(WINDOW.markdown, (0.08, 0.1, 0.13, 0.15, 0.19)),
    **{f"parameters {name}": partial(method_parameters, name) for name in BUILTIN_METHODS},
    "parameters of suites": suite_parameters,
    "record": partial(record_fields, Record),
    "latency record": partial(record_fields, LatencyRecord),
    "accuracy record": partial(record_fields, AccuracyRecord),
    "benchmark record": partial(record_fields, BenchmarkRecord),
}
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/findings.md",
    "docs/inputs.md",
    "docs/methods.md",
    "docs/serving.md",
    "docs/suites.md",
    "docs/noise.md",
    "docs/record.md",
)
SCHEMA = "docs/record.schema.json"
MARKED = re.compile(r"(?<=<!-- made: )(.+?)( -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)


def made() -> dict[str, str]:
    """Return every page with marked parts, and the schema, with current content."""
    pages = {page: MARKED.sub(_part, (ROOT / page).read_text()) for page in PAGES}
    return pages | {SCHEMA: record_schema()}


def _part(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}\n{PARTS[found[1]]()}\n\n"


def stale() -> list[str]:
    """Return the stale files."""
    return [name for name, text in made().items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]


def main() -> None:
    """Write the files, or with ``--check`` name stale ones and exit with 1."""
    if sys.argv[1:] == ["--check"]:
        differing = stale()
        print(
            *(f"{name} differs from records and code; make it again: python -m pages" for name in differing), sep="\n"
        )
        sys.exit(bool(differing))
    for name, text in made().items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
