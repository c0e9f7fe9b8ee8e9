"""Broken record files, made at random: a line for each, the rest used, never a traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.records.reading import RECORDS
from fp_bench.records.record import AccuracyRecord, LatencyRecord
from tests.records.records import answers, failed, rounds, write

WHOLE = [
    *rounds([4.0, 4.1], method="dense", label="dense:impl=cudnn", method_hash="d", backend="cudnn", density=1.0),
    *rounds([2.0, 2.1], density_by_head=[0.5] * 32, select_ms=0.5, params={"alpha": 0.12}, command="fpbench latency"),
    failed(label="greedy", method="greedy"),
    *answers([1.0, 0.0], method="dense", label="dense", method_hash="d", density=1.0, command="fpbench accuracy"),
    *answers([1.0, 1.0], depth=0.5, groups=["a"], suite_params={"a": 1}),
]
LINES = [record.model_dump_json(exclude_none=True) for record in WHOLE]
NAMES = sorted(set(LatencyRecord.model_fields) | set(AccuracyRecord.model_fields))
ODD_NUMBERS = [0, -1, -0.0, 1e-320, 1e308, 2**31, 2**53 + 1, 2**64, 10**40, 1.5, True]
RAW = ["1e400", "-1e400", "NaN", "Infinity", '"\\ud800"', "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "", "'", "\x00"]
ODD_TEXTS = [
    "",
    "\x1b[31m",
    "$x_{",
    "<script>",
    "=1+1",
    "../../../x",
    "a\nb",
    "fpbench latency 'open",
    "x" * 5000,
    "[/]",
]
VALUES = st.one_of(
    st.none(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=20),
    st.floats(),
    st.recursive(
        st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    st.sampled_from([{"throttle": 3}, {"throttle": {"a": "b"}}, {"sm_mhz": "x"}, {"sm_mhz": {}}, [], [[]], {}]),
)


@st.composite
def broken_files(draw):
    """Return a file of records in which fields, whole lines or bytes were changed."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["field", "raw", "bytes", "cut", "line", "drop"]))
        if how == "field":
            fields = json.loads(LINES[where]) | {draw(st.sampled_from(NAMES)): draw(VALUES)}
            lines[where] = json.dumps(fields)
        elif how == "raw":
            name = draw(st.sampled_from(sorted(json.loads(LINES[where]))))
            fields = json.loads(LINES[where]) | {name: "@@"}
            lines[where] = json.dumps(fields).replace('"@@"', draw(st.sampled_from(RAW)))
        elif how == "cut":
            lines[where] = lines[where][: draw(st.integers(0, 200))]
        elif how == "line":
            lines[where] = draw(st.sampled_from(["", "null", "[]", "3", "{}", "{", '"x"', "x", "\x00", "{" * 1000]))
        elif how == "drop":
            fields = json.loads(LINES[where])
            fields.pop(draw(st.sampled_from(sorted(fields))))
            lines[where] = json.dumps(fields)
        else:
            data = bytearray(lines[where].encode(errors="surrogateescape"))
            for _ in range(draw(st.integers(1, 4))):
                if data:
                    data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            lines[where] = data.decode(errors="surrogateescape")
    return ("\n".join(lines) + draw(st.sampled_from(["\n", ""]))).encode(errors="surrogateescape")


def check(data, folder, plain, verbs):
    folder.mkdir(exist_ok=True)
    (folder / RECORDS).write_bytes(data)
    for words in verbs:
        words = [word.format(broken=folder, plain=plain) for word in words]
        done = CliRunner().invoke(app, words)
        assert done.exit_code in (0, 1, 2, 3, 4), (words, done.output)
        assert "internal error" not in done.output, (words, done.output)
        assert "Traceback" not in done.output
        said = done.stderr.splitlines()
        assert all(line.startswith(("fpbench: ", "report: ")) for line in said), said
        assert done.exit_code != 2 or said, words
        assert done.exit_code != 1 or "regressed" in done.stdout
        assert not set("\x1b\x00") & set(done.output)
    assert {path.name for path in folder.iterdir()} <= {RECORDS}
    for path in folder.parent.rglob("*"):
        assert path.parent in (folder.parent, folder, plain) or "out" in path.parts, path


COMPARED = [["compare", "{plain}", "{broken}"], ["compare", "{broken}", "{plain}", "--format", "md"]]
REPORTED = [["report", "{broken}", "--out", "{plain}/../out"]]
common = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "plain", WHOLE)


@settings(common, max_examples=60)
@given(data=broken_files())
def test_a_broken_file_is_a_line_for_each_broken_part(data, tmp_path, plain):
    check(data, tmp_path / "broken", plain, COMPARED)


@settings(common, max_examples=5)
@given(data=broken_files())
def test_a_broken_file_is_reported(data, tmp_path, plain, sketched):
    check(data, tmp_path / "broken", plain, REPORTED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(common, max_examples=300)
@given(data=broken_files())
def test_three_hundred_broken_files(data, tmp_path, plain):
    check(data, tmp_path / "broken", plain, [*COMPARED, ["report", "{broken}", "--format", "customSmallerIsBetter"]])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(common, max_examples=30)
@given(data=broken_files())
def test_thirty_broken_files_are_reported(data, tmp_path, plain, sketched):
    check(data, tmp_path / "broken", plain, REPORTED)
