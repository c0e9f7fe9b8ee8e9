import csv

import pytest
from matplotlib.image import imread

from fp_bench.errors import UsageError
from fp_bench.results.plots import latency_plots
from fp_bench.results.report import commands, headlines, write_report
from fp_bench.results.store import RecordStore
from fp_bench.results.tables import comparison
from tests.results.records import dense, failed, timed

LENGTHS = (4096, 65536, 262144)


def command(label, length):
    return f"fpbench latency --methods {label} --lens {length} --inputs structured --seed 0 --layers 0"


@pytest.fixture
def run(tmp_path):
    with RecordStore(tmp_path) as store:
        env = store.add_environment({"cpu": "a CPU", "cpu_cores": 2, "gpu": {"name": "NVIDIA H200"}})
        for n in LENGTHS:
            where = {"seq_len": n, "q_len": n, "env": env}
            store.append(dense(n / 1000, "cudnn", command=command("dense", n), **where))
            store.append(dense(n / 600, "fa2", command=command("dense:impl=fa2", n), **where))
            store.append(timed(n / 4000, density=0.2, command=command("flashprefill", n), **where))
        store.append(failed("oom", "needs 1 PiB", label="greedy", method="greedy", env=env))
    return tmp_path


def test_the_report_says_what_matters(run):
    text = write_report(run).read_text()
    for part in (
        "NVIDIA H200",
        "At 256K, `flashprefill`",
        "4.00x the speed of the fastest dense kernel (cudnn",
        "6.67x that of FlashAttention-2",
        "80% of the ideal",
        "| greedy | oom | 4K | needs 1 PiB |",
    ):
        assert part in text


def test_everything_the_report_links_to_exists(run):
    text = write_report(run).read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) == 3
    for link in links:
        picture = run / link
        assert imread(picture).std() > 0.05  # something is drawn
        with picture.with_suffix(".csv").open() as file:
            assert {int(row["seq_len"]) for row in csv.DictReader(file)} == set(LENGTHS)


def test_reports_are_made_again_to_the_byte(run):
    write_report(run)
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
        assert commands(store.records) == [
            "fpbench latency --methods dense,dense:impl=fa2,flashprefill --lens 4096,65536,262144 --layers 0 "
            "--inputs structured --seed 0"
        ]


def test_a_headline_never_comes_from_a_fallback():
    assert headlines(comparison([timed(1.0, fallback=True), dense(4.0)])) == []


def test_colours_depend_on_the_name_alone():
    few = latency_plots([timed(), dense()], "m")[0].figure.axes[0].get_lines()
    more = latency_plots([timed(method="other", label="other"), timed(), dense()], "m")[0].figure.axes[0].get_lines()
    assert {line.get_color() for line in few} < {line.get_color() for line in more}
