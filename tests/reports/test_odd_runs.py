"""Runs of which hardly anything is left are reported and drawn like any other."""

import pytest

from fp_bench.records.store import read_run
from fp_bench.reports.html import render, write_html
from fp_bench.reports.report import Part, write_markdown
from tests.records.records import answers, dense, failed, scored, timed, write

LONG = {"seq_len": 65536, "q_len": 65536}
FELL = {"fallback": True, "backend": "cudnn", "density": 1.0, "recall": 1.0}
NAMES = ["$x_{", "a$b$c", "<script>", r"\frac", "[red]", "=1+1", "\x1b[31m", "`x`", "漢字", "a\nb"]


def of_dense(scores, **more):
    return answers(scores, method="dense", label="dense", method_hash="d", density=1.0, recall=1.0, **more)


ODD = {
    "only fallbacks": [dense(), timed(**FELL), timed(round=1, **FELL)],
    "only a fallback, without dense": [timed(**FELL)],
    "only failures of one kind": [failed(), failed(label="other", method="other")],
    "only failures of several kinds": [failed(), failed("error", "x", label="b"), failed("timeout", "y", label="c")],
    "dense failed": [failed(method="dense", label="dense", method_hash="d"), timed()],
    "one round": [dense(), timed()],
    "only dense": [dense(), dense(8.0, **LONG)],
    "only sparse": [timed(), timed(**LONG)],
    "dense at one length, sparse at another": [dense(), timed(**LONG)],
    "a fallback at one length": [dense(), dense(**LONG), timed(**FELL), timed(**LONG)],
    "nothing but a time": [timed(density=None, recall=None, attend_ms=None, backend=None, timer=None, samples_ms=None)],
    "nothing is kept": [dense(), timed(density=0.0, recall=0.0, density_by_head=[0.0] * 32)],
    "attention takes no time": [dense(attention_ms=1.0), timed(attention_ms=0.0)],
    "times far apart": [dense(1e12), timed(1e-6)],
    "odd names": [dense(dtype="a$b$c{"), *(timed(label=name, method=name, dtype="a$b$c{") for name in NAMES)],
    "one answer": [scored()],
    "only dense answers": of_dense([1.0, 0.0]),
    "only failed answers": [scored(None, status="error", reason="x", prediction=None)],
    "answers that fell back": [*of_dense([1.0]), *answers([1.0], fallback=True)],
    "dense answers at one length": [*of_dense([1.0]), *answers([1.0], seq_len=8192)],
    "no answer right": [*of_dense([0.0, 0.0]), *answers([0.0, 0.0])],
    "answers without density": [*of_dense([1.0, 1.0]), *answers([1.0, 0.0], density=None, recall=None)],
    "one depth": [*of_dense([1.0], depth=0.5), *answers([1.0], depth=0.5)],
    "odd names of answers": [
        a for name in NAMES for a in answers([1.0], label=name, task=name, model="$m{", groups=[name])
    ],
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_run_is_reported_and_drawn(name, tmp_path, sketched):
    folder = write(tmp_path / "run", ODD[name])
    part = Part(read_run(folder))
    text = write_markdown(part).read_text()
    page = write_html([part], tmp_path / "page.html").read_text()
    shown = {path.name for path in (folder / "plots").glob("*.png")}
    assert {part.split(")")[0] for part in text.split("](plots/")[1:]} == shown
    assert "<script>" not in text
    assert page.count("<script>") == 1
    assert "\x1b" not in text
    assert "=1+1" not in {cell for path in folder.rglob("*.csv") for cell in path.read_text().split(",")}


def test_odd_runs_together_are_one_page(tmp_path, sketched):
    chosen = ("only fallbacks", "only failures of one kind", "one answer", "dense answers at one length", "one round")
    parts = [Part(read_run(write(tmp_path / str(number), ODD[name]))) for number, name in enumerate(chosen)]
    page = render(parts)
    assert [page.count(f"<h3>{number}</h3>") for number in range(len(chosen))] == [3] * len(chosen)


@pytest.mark.draws
def test_odd_names_are_painted(tmp_path):
    folder = write(tmp_path, ODD["odd names"])
    write_markdown(Part(read_run(folder)))
    assert (folder / "plots" / "latency.png").stat().st_size > 1000
    assert (folder / "plots" / "latency.pdf").read_bytes().startswith(b"%PDF")
