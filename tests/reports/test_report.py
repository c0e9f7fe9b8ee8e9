import csv

import numpy as np
import pytest
from matplotlib.image import imread

from fp_bench.errors import UsageError
from fp_bench.jobs.request import join_commands
from fp_bench.records.kept_maps import KeptMap
from fp_bench.records.store import RecordStore, read_run
from fp_bench.reports.latency.plots import latency_plots
from fp_bench.reports.latency.report import headlines, latency_chapter
from fp_bench.reports.latency.selection_plots import selection_plots
from fp_bench.reports.latency.tables import comparison
from fp_bench.reports.report import Part, write_markdown
from tests.records.records import dense, failed, timed


def write_report(folder):
    return write_markdown(Part(read_run(folder)))


LENGTHS = (4096, 65536, 262144)


def command(label, length):
    return f"fpbench latency --methods {label} --lens {length} --inputs structured --seed 0 --layers 0"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with RecordStore(folder) as store:
        env = store.add_environment({"cpu": "a CPU", "cpu_cores": 2, "gpu": {"name": "NVIDIA H200"}})
        for n in LENGTHS:
            where = {"seq_len": n, "q_len": n, "env": env}
            store.append(dense(n / 1000, "cudnn", command=command("dense", n), **where))
            store.append(dense(n / 600, "fa2", command=command("dense:impl=fa2", n), **where))
            found = {"density": 0.2, "density_by_head": [0.1, 0.3], "select_ms": n / 9000}
            store.append(timed(n / 4000, **found, command=command("flashprefill", n), **where))
        last = store.records[-1]
        maps = [KeptMap(head, 0.1, np.tril(np.full((64, 64), 255, np.uint8))) for head in (0, 1)]
        store.add_maps(last.cell_key, last.code_version, maps)
        store.append(failed("oom", "needs 1 PiB", label="greedy", method="greedy", env=env))
    return folder


@pytest.fixture(scope="module")
def report(run):
    """The report of the run, written once: its plots take seconds."""
    return write_report(run)


def test_the_report_says_what_matters(report):
    text = report.read_text()
    for part in (
        "NVIDIA H200",
        "At 256K, `flashprefill`",
        "4.00x the speed of the fastest dense kernel (cudnn",
        "6.67x that of FlashAttention-2",
        "80% of the ideal",
        "| greedy | oom | 4K | needs 1 PiB |",
    ):
        assert part in text


def test_everything_the_report_links_to_exists(run, report):
    text = report.read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    names = ["latency", "speedup", "recall", "stages", "density", "density-by-head", "kept-blocks"]
    assert links == [f"plots/{name}.png" for name in names]
    for link in links:
        picture = run / link
        assert imread(picture).std() > 0.05  # something is drawn
        assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        with picture.with_suffix(".csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["label"] for row in rows} >= {"flashprefill"}
        assert "seq_len" not in rows[0] or {int(row["seq_len"]) for row in rows} == set(LENGTHS)


def test_reports_are_made_again_to_the_byte(run, report):
    first = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_report(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == first


def test_a_run_without_a_sparse_method_or_with_failures_alone_is_reported(tmp_path):
    with RecordStore(tmp_path) as store:
        store.append(failed())
    assert "oom" in write_report(tmp_path).read_text()
    with RecordStore(tmp_path) as store:
        store.append(dense())
    assert "No sparse method" in write_report(tmp_path).read_text()


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"holds no records\.jsonl"):
        write_report(tmp_path)


def test_the_commands_cover_every_cell(run):
    with RecordStore(run) as store:
        assert join_commands(record.command for record in store.records if record.command) == [
            "fpbench latency --lens 4096,65536,262144 --methods dense,dense:impl=fa2,flashprefill --layers 0"
        ]


def test_a_flag_stays_in_the_command_that_measures_again():
    line = "fpbench latency --methods {} --lens {} --ttft --model m --engine hf"
    commands = [line.format(method, length) for method in ("dense", "flashprefill") for length in (1, 2)]
    assert join_commands(commands) == ["fpbench latency --lens 1,2 --methods dense,flashprefill --ttft --model m"]


def test_commands_of_other_versions_stand_as_they_are():
    odd = ["fpbench latency --lens 1 --gone 3", "fpbench fly", "fpbench latency 'open", ""]
    assert join_commands([*odd, "fpbench accuracy --samples 3", "fpbench accuracy --samples 12"]) == [
        *odd,
        "fpbench accuracy --samples 12",
    ]


def test_a_headline_never_comes_from_a_fallback():
    assert headlines(comparison([timed(1.0, fallback=True), dense(4.0)])) == []


def test_colours_depend_on_the_name_alone():
    few = latency_plots([timed(), dense()], "m")[0].figure.axes[0].get_lines()
    more = latency_plots([timed(method="other", label="other"), timed(), dense()], "m")[0].figure.axes[0].get_lines()
    assert {line.get_color() for line in few} < {line.get_color() for line in more}


def test_what_disturbed_the_rounds_is_said(tmp_path):
    clocks = {"sm_mhz": {"min": 1400, "median": 1500, "max": 1980}, "other_processes": 1}
    with RecordStore(tmp_path) as store:
        store.append(dense(throttled=False, gpu=clocks | {"throttle": {}, "other_processes": 0}))
        store.append(timed(throttled=True, gpu=clocks | {"throttle": {"power_cap": 0.5}}, load_average=3.5))
    text = write_report(tmp_path).read_text()
    assert "In 1 of 2 rounds the GPU's clocks were held down (power_cap): flashprefill at 4K" in text
    assert "SM clock, median of a round: 1500 to 1500 MHz" in text
    assert "In 1 of 2 rounds the driver listed another process" in text
    assert "Load average of the host: 3.5 to 3.5" in text


def test_recall_says_that_it_does_not_see_rounding(tmp_path):
    note = " ".join(latency_chapter([timed(1.0)], "GPU", tmp_path).note.split())
    assert "does not include rounding (FP8); the error does" in note


def test_how_many_launches_the_times_are_of_is_said(tmp_path):
    def said(*launches):
        records = [timed(1.0, round=n, launch=name) for n, name in enumerate(launches)]
        lines = " ".join(latency_chapter(records, "GPU", tmp_path).circumstances)
        return (
            "3 launches a cell" in lines,
            "One launch: a difference under 1.5% cannot be told from a restart" in lines,
        )

    assert said("a", "a", "b", "b", "c", "c") == (True, False)
    assert said("a", "a", "a") == said(None, None) == (False, True)


def test_a_plot_of_densities_says_whom_it_leaves_out(tmp_path):
    (plot,) = selection_plots([timed(), dense(), failed(label="broken", method_hash="b")], "m", tmp_path)
    assert any("not shown, without a result: broken" in text.get_text() for text in plot.figure.texts)


def test_published_densities_are_marked_on_structured_inputs_alone(tmp_path):
    for source, marks in (("structured", 1), ("random", 0)):
        (plot,) = selection_plots([timed(input=source), dense(input=source)], "m", tmp_path)
        assert len(plot.figure.axes[0].get_lines()) == 1 + marks
        assert ("published" in plot.data) == bool(marks)


def test_a_table_as_latex(report):
    text = report.parent.joinpath("tables", "latency.tex").read_text()
    assert r"\toprule" in text
    assert r"20.0\%" in text
    assert text.count(r" \\") == 1 + 3 * 3 + 1


def test_more_than_the_ideal_is_named_beside_the_tables(tmp_path):
    slow = [timed(2.0, density=0.4), dense(4.0)]
    assert not any("(!)" in line for line in latency_chapter(slow, "a machine", tmp_path).circumstances)
    fast = [timed(2.0, density=0.7), dense(4.0)]
    (line,) = (line for line in latency_chapter(fast, "a machine", tmp_path).circumstances if "(!)" in line)
    assert "Faster than the ideal by more than the spread of rounds: flashprefill at 4K." in line
