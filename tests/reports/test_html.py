import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.methods.registry import BUILTIN_METHODS
from fp_bench.records.record import DENSITY_OF
from fp_bench.records.store import read_run
from fp_bench.reports.answer import answer
from fp_bench.reports.drawing import COLOURS, method_lines
from fp_bench.reports.html import render
from fp_bench.reports.joint import headline_tables, pareto_plots
from fp_bench.reports.report import Part
from tests.records.records import answers, dense, failed, timed, write

PUBLISHED = Path(__file__).parents[2] / "results" / "h200"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and collects what the page holds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.texts, self.links = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.seen.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def fpbench(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Make the page of real runs on an H200."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    done = fpbench("report", PUBLISHED / "latency-32-8-128", PUBLISHED / "probe", "--out", path)
    assert done.exit_code == 0, done.output
    return path


def test_a_real_run_is_one_small_page_that_loads_nothing(published):
    text = published.read_text()
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert len([link for link in page.links if link.startswith("data:image/png;base64,")]) >= 9
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]*", "", text))
    for part in ("NVIDIA H200", "26.7x", "44.0x", "89.22%", "share of ideal", "flashprefill:alpha=0.33", "cudnn"):
        assert part in text
    assert "".join(page.texts).count("fpbench latency --") == 1


def test_a_name_is_never_markup(tmp_path):
    one = dense(4.0, label=f"dense {EVIL}")
    broken = failed(label=f"b{EVIL}", method_hash="b", reason=EVIL)
    records = [one, timed(2.0, label=EVIL), timed(1.0, label="ok", method_hash="a"), broken]
    part = Part(read_run(write(tmp_path / EVIL.replace("/", ""), records, cpu=EVIL)))
    page = Page(render([part]))
    assert page.seen.count("script") == 1
    assert sum(EVIL in text for text in page.texts) >= 4


def test_the_same_records_make_the_same_page(tmp_path):
    run = write(tmp_path, [dense(), timed()])
    assert render([Part(read_run(run))]) == render([Part(read_run(run))])


def test_one_run_gets_its_page_beside_its_other_reports(tmp_path):
    done = fpbench("report", write(tmp_path, [dense(), timed()]))
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.md").is_file()
    assert Page((tmp_path / "report.html").read_text()).seen.count("table") >= 3


def test_failed_cells_have_their_reasons_and_no_sparse_method_is_no_problem(tmp_path):
    page = Page(render([Part(read_run(write(tmp_path, [dense(), failed(reason="needs 1 PiB")])))]))
    assert "needs 1 PiB" in page.texts


def test_the_answer_comes_first_then_plots_tables_and_how_it_was_measured(published):
    text = published.read_text()
    places = [text.index(f'<section id="{name}">') for name in ("answer", "plots", "tables", "measured")]
    assert places == sorted(places)
    assert text.index("Which method:") < places[1]
    assert 'href="#tables"' in text
    assert text.count('type="search"') >= 3


def test_three_sentences_say_which_method_how_fast_and_at_what_quality(published):
    runs = [read_run(PUBLISHED / name) for name in ("latency-32-8-128", "probe")]
    which, fast, quality = answer(runs)
    assert which.startswith("Which method: `flashprefill` is the fastest of the 2 sparse methods timed, at 256K")
    assert "38.92 ms, 26.7" in fast
    assert "3.3% of the causal block pairs, which hold 89.2% of the attention mass" in quality
    assert "its effect on a model's answers was not measured on these inputs" in quality
    which, fast, quality = answer(runs[1:])
    assert "`flashprefill:alpha=0.33`" in which
    assert "not timed" in fast
    assert "points to dense attention (95 %:" in quality


def test_a_method_below_dense_attention_is_not_the_answer(tmp_path):
    fast = {"label": "flashprefill:alpha=9", "method_hash": "fast"}
    of = {"input": "prompt:embedded"}
    times = read_run(write(tmp_path / "times", [dense(8.0, **of), timed(2.0, **of), timed(1.0, **fast, **of)]))
    exact = {"method": "dense", "label": "dense", "method_hash": "d"}
    right, wrong = answers([1.0] * 40), answers([0.0] * 40, **fast)
    both = read_run(write(tmp_path / "scores", answers([1.0] * 40, **exact) + right + wrong))
    which, speed, _ = answer([times, both])
    assert "`flashprefill` is the only one of the 2 sparse methods timed and scored that is not significantly" in which
    assert "takes 2 ms, 4.00x" in speed
    bad = read_run(write(tmp_path / "bad", answers([1.0] * 40, **exact) + answers([0.0] * 40) + wrong))
    which, *_, quality = answer([times, bad])
    assert "`flashprefill:alpha=9` is the fastest of the 2 sparse methods timed and scored, but all of them" in which
    assert "-100.0 points" in quality


def test_a_loss_that_few_samples_cannot_prove_is_no_answer_either(tmp_path):
    exact = {"method": "dense", "label": "dense", "method_hash": "d", "density": 1.0}
    lost = answers([1.0, 1.0, 0.0, 1.0, 0.0], label="sparser", method_hash="s", density=0.1)
    records = [*answers([1.0] * 5, **exact), *answers([1.0] * 5, density=0.4), *lost]
    which, _, quality = answer([read_run(write(tmp_path / "few", records))])
    assert "`flashprefill` is the only one of the 2 sparse methods scored that is not significantly below" in which
    assert "loses at most 5 points" in which
    assert "it scores 100.0" in quality


@pytest.mark.parametrize(
    ("masses", "said"),
    [
        ((0.3, 0.9, 0.95), "`b` is the fastest of the 2 (of 3 timed) that keep at least 80% of the attention mass"),
        ((0.3, 0.4, 0.95), "`c` is the only one of the 3 sparse methods timed that keeps at least 80% of"),
        ((0.3, 0.4, 0.5), "`a` is the fastest of the 3 sparse methods timed, but none keeps 80% of the attention mass"),
        ((0.8, 0.9, 0.95), "`a` is the fastest of the 3 sparse methods timed, at"),
        ((None, None, None), "`a` is the fastest of the 3 sparse methods timed, at"),
    ],
)
def test_without_scores_a_method_that_keeps_little_of_the_attention_is_no_answer(tmp_path, masses, said):
    sparse = [
        timed(ms, label=label, method_hash=label, recall=mass)
        for ms, label, mass in zip((1.0, 2.0, 3.0), "abc", masses, strict=True)
    ]
    assert said in answer([read_run(write(tmp_path, [dense(8.0), *sparse]))])[0]


def test_the_answer_is_of_a_length_at_which_quality_is_known(tmp_path):
    both = [{"input": "prompt:embedded", "seq_len": length} for length in (4096, 8192)]
    times = [record for of in both for record in (dense(8.0, **of), timed(of["seq_len"] / 4096, **of))]
    exact = {"method": "dense", "label": "dense", "method_hash": "d"}
    scores = read_run(write(tmp_path / "scores", answers([1.0] * 9, **exact) + answers([1.0] * 9)))
    which, speed, quality = answer([read_run(write(tmp_path / "times", times)), scores])
    assert "the only sparse method timed and scored, at 4K" in which
    assert "takes 1 ms" in speed
    assert "it scores 100.0 on probe" in quality


def test_of_a_text_kl_is_said_and_the_closest_is_named(tmp_path):
    near, far = answers([0.9] * 4, kl=0.01), answers([0.5] * 4, kl=0.4, label="far", method_hash="f", density=0.1)
    which, _, quality = answer([read_run(write(tmp_path / "text", near + far))])
    assert "`flashprefill` is the closest to dense attention of the 2 sparse methods scored" in which
    assert "a KL of 0.01 nats" in quality


def test_nothing_sparse_is_said_so(tmp_path):
    assert answer([read_run(write(tmp_path / "a", [dense()]))]) == [
        "No sparse method was measured together with dense attention."
    ]
    (line,) = answer([read_run(write(tmp_path / "b", [dense(), timed(fallback=True)]))])
    assert "fell back" in line


def test_a_colour_depends_on_the_name_of_a_method_alone():
    rows = pd.DataFrame({"method": ["zeta", "alpha", "dense"], "label": ["zeta", "alpha", "dense"], "seq_len": 1})
    looks = {label: look for label, _, look in method_lines(rows)}
    assert list(looks) == ["dense", "alpha", "zeta"]
    assert {label: look for label, _, look in method_lines(rows[:1])} == {"zeta": looks["zeta"]}


def test_every_method_of_ours_has_a_colour_of_its_own():
    assert set(BUILTIN_METHODS) <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_accuracy_is_joined_by_the_hash_of_the_method(tmp_path):
    fast = {"label": "flashprefill:alpha=9", "method_hash": "fast"}
    of = {"input": "prompt:embedded"}
    times = write(tmp_path / "times", [dense(8.0, **of), timed(2.0, **of), timed(1.0, **fast, **of)])
    scores = write(
        tmp_path / "scores",
        answers([1.0] * 10, method="dense", label="dense", method_hash="d")
        + answers([1.0] * 9 + [0.0], label="renamed", method_hash="h")
        + answers([0.0] * 10, label="longer", method_hash="fast", seq_len=8192),
    )
    runs = [read_run(times), read_run(scores)]
    (table,) = headline_tables(runs)
    by_label = {row[1]: row[-1] for row in table.rows}
    assert by_label == {"flashprefill": "90.0 (-10.0)", "flashprefill:alpha=9": ""}
    (plot,) = pareto_plots(runs)
    shown = dict(zip(plot.data["label"], plot.data["score"], strict=True))
    assert shown == {"dense:impl=cudnn": 1.0, "flashprefill": 0.9}
    assert any("not shown, without a result: flashprefill:alpha=9" in text.get_text() for text in plot.figure.texts)
    assert pareto_plots(runs[:1]) == []


def test_a_models_time_is_not_joined_with_another_models_scores(tmp_path):
    prefill = {"engine": "hf", "attention_ms": 1.0}
    for model, joined in (("embedded", True), ("other", False)):
        times = [dense(8.0, input=f"prompt:{model}", **prefill), timed(2.0, input=f"prompt:{model}", **prefill)]
        runs = [write(tmp_path / f"{model}-times", times), write(tmp_path / f"{model}-scores", answers([1.0] * 4))]
        tables = headline_tables([read_run(run) for run in runs])
        assert (tables[0].rows[0][-1] == "100.0") == joined
        assert len(tables) == 1 + (not joined)


@pytest.mark.parametrize("other", [{"dtype": "fp16"}, {"dense_layers": 4}])
def test_a_time_is_not_joined_with_scores_of_another_dtype_or_with_dense_layers(tmp_path, other):
    of = {"input": "prompt:embedded"}
    times = write(tmp_path / "times", [dense(8.0, **of), timed(2.0, **of)])
    runs = [read_run(times), read_run(write(tmp_path / "scores", answers([1.0] * 4, **other)))]
    speed, _ = headline_tables(runs)
    assert not any("score" in heading for heading in speed.columns)
    assert pareto_plots(runs) == []


def test_the_answer_is_of_no_other_models_scores(tmp_path):
    runs = [write(tmp_path / "times", [dense(8.0), timed(2.0)]), write(tmp_path / "scores", answers([1.0] * 4))]
    assert "was not measured on these inputs" in answer([read_run(run) for run in runs])[-1]


def test_the_joined_header_and_the_answer_say_what_density_is_a_share_of(tmp_path):
    times = [read_run(write(tmp_path / "times", [dense(), timed(density_of=DENSITY_OF)]))]
    assert "density of causal query-key pairs" in headline_tables(times)[0].columns
    exact = {"method": "dense", "label": "dense", "method_hash": "d"}
    scores = write(tmp_path / "scores", answers([1.0] * 4, **exact) + answers([1.0] * 4, density_of=DENSITY_OF))
    assert "it computes 50.0% of the causal query-key pairs" in answer(times)[-1]
    assert "it computes 50.0% of the causal query-key pairs" in answer([read_run(scores)])[1]


def test_times_of_inputs_of_no_model_have_no_scores_in_their_rows(tmp_path):
    times = write(tmp_path / "times", [dense(8.0), timed(2.0)])
    scores = write(tmp_path / "scores", answers([1.0] * 4))
    runs = [read_run(times), read_run(scores)]
    speed, quality = headline_tables(runs)
    assert not any("score" in heading for heading in speed.columns)
    assert quality.title.endswith("apart from the times, which are of other inputs")
    assert pareto_plots(runs) == []


def test_two_runs_of_one_setting_stand_beside_each_other(tmp_path):
    of = {"input": "prompt:embedded"}
    times = write(tmp_path / "times", [dense(8.0, **of), timed(2.0, **of)])
    scores = [write(tmp_path / name, answers([score] * 4)) for name, score in (("one", 1.0), ("other", 0.5))]
    (table,) = headline_tables([read_run(run) for run in (times, *scores)])
    assert table.rows[0][-2:] == ["100.0", "50.0"]
    assert table.columns[-1].endswith(f"run {scores[1]}")


def test_kl_is_the_first_measure_of_quality(tmp_path):
    of = {"input": "prompt:embedded"}
    times = write(tmp_path / "times", [dense(8.0, **of), timed(2.0, **of)])
    fidelity = [record.model_copy(update={"kl": 0.02}) for record in answers([0.9] * 3, suite="fidelity", task="text")]
    runs = [read_run(times), read_run(write(tmp_path / "scores", [*answers([1.0] * 4), *fidelity]))]
    (table,) = headline_tables(runs)
    assert table.rows[0][-3:] == ["0.02", "90.0", "100.0"]
    assert [plot.name for plot in pareto_plots(runs)] == ["speed-kl-1", "speed-score-2"]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    run = write(tmp_path / "run", [dense(), timed()])
    done = fpbench("report", run, "--out", tmp_path / "run" / "records.jsonl" / "page.html")
    assert done.exit_code == 2
    assert "cannot write the report" in done.stderr.splitlines()[-1]


def in_chromium(path, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    return subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_browser_opens_it_without_complaint_and_sorts_its_tables(published, tmp_path):
    done = in_chromium(published, "--host-resolver-rules=MAP * ~NOTFOUND")
    assert "CONSOLE" not in done.stderr
    clicked = tmp_path / "clicked.html"
    click = "<script>document.querySelectorAll('th button')[2].click();"
    click += "const field = document.querySelector('input'); field.value = '64k triton';"
    click += "field.dispatchEvent(new Event('input'))</script></body>"
    # Its own policy would refuse the script of this test, as it should.
    clicked.write_text(published.read_text().replace("Content-Security-Policy", "x-policy").replace("</body>", click))
    first_table = in_chromium(clicked).stdout.split("</table>")[0]
    assert 'aria-sort="ascending"' in first_table
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.split("<tr[^>]*>", first_table)]
    times = [float(cells[2]) for cells in rows if cells]
    assert len(times) == 14
    assert times == sorted(times)
    assert first_table.count("<tr hidden") == 13
    assert "1 of 14 rows" in first_table


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_policy_of_the_page_refuses_other_scripts(published, tmp_path):
    odd = tmp_path / "odd.html"
    odd.write_text(published.read_text().replace("</body>", "<script>document.title = 'run'</script></body>"))
    done = in_chromium(odd)
    assert "<title>run</title>" not in done.stdout
    assert "Content Security Policy" in done.stderr
