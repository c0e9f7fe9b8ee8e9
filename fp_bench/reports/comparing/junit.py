"""Comparisons as JUnit XML, which CI servers show as tests: one test per cell or row of scores."""

from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pandas as pd

from fp_bench.reports.comparing.compare import Comparison, code_of
from fp_bench.reports.comparing.text import describe_score, describe_time
from fp_bench.reports.verdict import Verdict

FAILURES = (Verdict.REGRESSED, Verdict.NEW_FAILURE)
SKIPPED = (Verdict.INCONCLUSIVE, Verdict.REMOVED, Verdict.FAILED)
"""Nothing was decided about these."""


def junit(comparisons: Sequence[Comparison]) -> str:
    """Return a test suite for each comparison: a regression or new failure fails, an inconclusive cell is skipped."""
    whole = ElementTree.Element("testsuites")
    for comparison in comparisons:
        suite = ElementTree.SubElement(whole, "testsuite")
        properties = ElementTree.SubElement(suite, "properties")
        for name, run in (("base", comparison.base), ("new", comparison.new)):
            ElementTree.SubElement(properties, "property", name=f"{name}_code", value=code_of(run))
        for kind, rows, describe in (
            ("latency", comparison.latency, describe_time),
            ("accuracy", comparison.accuracy, describe_score),
        ):
            for _, row in rows.iterrows():
                _add_test(suite, kind, row, describe)
        tests = suite.findall("testcase")
        suite.set("name", f"{comparison.new.folder} against {comparison.base.folder}")
        suite.set("tests", str(len(tests)))
        suite.set("failures", str(sum(test.find("failure") is not None for test in tests)))
        suite.set("skipped", str(sum(test.find("skipped") is not None for test in tests)))
    ElementTree.indent(whole)
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True)


def _add_test(suite: ElementTree.Element, kind: str, row: pd.Series, describe: Callable[[pd.Series], str]) -> None:
    said = describe(row)
    setting = str(row["input"] if kind == "latency" else row["model"])
    layer = f", layer {row['layer']}" if kind == "latency" and row["layer"] else ""
    test = ElementTree.SubElement(
        suite, "testcase", classname=f"{kind}.{setting}", name=said.partition(": ")[0] + layer
    )
    if row["verdict"] in FAILURES:
        ElementTree.SubElement(test, "failure", message=f"{row['verdict']}: {said}")
    elif row["verdict"] in SKIPPED:
        ElementTree.SubElement(test, "skipped", message=f"{row['verdict']}: {said}")
    else:
        ElementTree.SubElement(test, "system-out").text = f"{row['verdict']}: {said}"
