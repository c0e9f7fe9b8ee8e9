import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.records.store import read_records

ISOLATED = ["latency", "--lens", "256", "--shape", "2/1/64", "--rounds", "1", "--samples", "1"]
TINY = [*ISOLATED, "--no-isolate"]
"""Quicker by the seconds that a worker takes to start."""


def fpbench(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def in_process(*words, **more):
    command = [sys.executable, "-m", "fp_bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def test_help_imports_nothing_heavy():
    code = "import sys, fp_bench.cli as c; sys.argv = ['fpbench', '--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'transformers') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    assert "latency" in said


@pytest.mark.draws
def test_latency_end_to_end(tmp_path):
    done = fpbench(*ISOLATED, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "plan: dense, flashprefill at 256" in done.stderr
    assert "No GPU here" in done.stderr
    assert "flashprefill" in done.stdout
    assert (tmp_path / "report.md").is_file()
    assert done.stderr.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert "data:image/png;base64,iVBOR" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "plots" / "latency.pdf").stat().st_size > 1000
    records = read_records(tmp_path).records
    again = fpbench(*TINY, "--out", tmp_path)
    assert again.exit_code == 0
    assert read_records(tmp_path).records == records


def test_json_is_all_that_stdout_gets(tmp_path):
    rows = json.loads(fpbench(*TINY, "--out", tmp_path, "--json").stdout)
    assert {row["label"] for row in rows} == {"dense", "flashprefill"}
    assert json.loads(fpbench("report", tmp_path, "--json").stdout) == rows
    both = json.loads(fpbench("report", tmp_path, tmp_path, "--json", "--out", tmp_path / "both.html").stdout)
    assert both == [*rows, *rows]
    assert {row["run"] for row in both} == {tmp_path.name}


def test_quiet_leaves_results_and_where_they_are(tmp_path):
    done = fpbench(*TINY, "--out", tmp_path, "--quiet")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [f"report: {tmp_path / 'report.html'}"]
    assert "flashprefill" in done.stdout
    assert "plan: " in fpbench(*TINY, "--out", tmp_path, "-q", "--dry-run").stderr


def test_no_report_leaves_the_page_to_later(tmp_path):
    assert fpbench(*TINY, "--out", tmp_path, "--no-report").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env.json", "maps", "records.jsonl"]


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    done = fpbench(*TINY, "--out", tmp_path / "run", "--dry-run")
    assert done.exit_code == 0
    assert "plan: " in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_short_budget_means_one_launch(tmp_path):
    asked = ["latency", "--lens", "256", "--methods", "dense", "--out", tmp_path / "run", "--dry-run"]
    said = [fpbench(*asked, *budget).stderr for budget in ((), ("--budget", "1s"))]
    assert ["processes started anew 2 times" in plan for plan in said] == [True, False]


def test_exit_codes(odd_methods, tmp_path):
    assert fpbench(*TINY, "--methods", "window,raises", "--out", tmp_path / "a").exit_code == 3
    assert fpbench(*TINY, "--methods", "dense:impl=fa3", "--out", tmp_path / "b").exit_code == 3
    assert fpbench("report", tmp_path / "none").exit_code == 2


def test_a_default_method_that_is_not_here_is_a_row(tmp_path, monkeypatch):
    from fp_bench.jobs.latency import plan
    from fp_bench.methods.registry import Spec

    monkeypatch.setattr(plan, "CPU_METHODS", (Spec("dense"), Spec("dense", {"impl": "fa2"})))
    done = fpbench(*TINY, "--out", tmp_path / "a")
    assert done.exit_code == 0
    assert "dense:impl=fa2 runs on cuda, not on cpu" in done.stdout
    monkeypatch.setattr(plan, "CPU_METHODS", (Spec("dense", {"impl": "fa2"}),))
    assert fpbench(*TINY, "--out", tmp_path / "b").exit_code == 4


def test_the_listings(odd_methods):
    methods = fpbench("methods")
    assert methods.exit_code == 0
    (warning,) = methods.stderr.splitlines()
    assert warning.startswith("fpbench: warning: method 'broken' cannot be loaded: ModuleNotFoundError")
    for word in ("dense", "flashprefill", "window", "broken", "not here"):
        assert word in methods.stdout
    doctor = fpbench("doctor")
    assert doctor.exit_code == 0
    for word in ("python", "packages torch", "dense:impl=cudnn", "torch", "flashprefill"):
        assert word in doctor.stdout


def test_version():
    assert in_process("--version").stdout.startswith("fpbench ")


def test_ctrl_c_keeps_what_is_done_and_the_same_command_resumes(odd_methods, tmp_path):
    words = ["latency", "--lens", "256", "--shape", "2/1/64", "--methods", "slow", "--samples", "1", "--out"]
    words += [tmp_path, "--rounds", "12"]
    environment = os.environ | {"PYTHONPATH": str(odd_methods)}
    command = [sys.executable, "-m", "fp_bench", *map(str, words)]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and their children too.
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not (tmp_path / "records.jsonl").exists() or len(read_records(tmp_path).records) < 3:
        time.sleep(0.02)
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "the same command resumes" in said
    assert "Traceback" not in said
    kept = read_records(tmp_path).records
    assert 3 <= len(kept) < 12
    assert fpbench(*words).exit_code == 0
    whole = read_records(tmp_path).records
    assert whole[: len(kept)] == kept
    assert len({(record.cell_key, record.round) for record in whole}) == len(whole) == 12


def test_a_full_disk_is_one_line_and_the_rest_is_measured_later(tmp_path):
    words = [*TINY, "--rounds", "4", "--out", tmp_path]
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({4000}, {4000})); "
    limit += "from fp_bench.cli import app; app()"
    command = [sys.executable, "-c", limit, *map(str, words)]
    full = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert full.returncode == 3
    complaint = full.stderr.splitlines()[-1]
    assert complaint.startswith(f"fpbench: cannot write to {tmp_path}: File too large; ")
    kept = read_records(tmp_path)
    assert f"{len(kept.records)} records are kept" in complaint
    assert 0 < len(kept.records) < 8
    assert not kept.torn
    assert fpbench(*words).exit_code == 0
    whole = read_records(tmp_path).records
    assert whole[: len(kept.records)] == kept.records
    assert len({(record.cell_key, record.round) for record in whole}) == len(whole) == 8


def test_a_spent_budget_is_said_and_counted_and_no_failure(tmp_path, monkeypatch):
    ticking = itertools.count()
    monkeypatch.setattr("fp_bench.jobs.schedule.monotonic", lambda: next(ticking))
    words = [*TINY, "--rounds", "4", "--out", tmp_path]
    done = fpbench(*words, "--budget", "6")
    assert done.exit_code == 0
    left = 8 - len(read_records(tmp_path).records)
    assert f"the budget of 6 s is spent: {left} records left; the same command continues" in done.stderr
    assert fpbench(*words, "--budget", "0.5").exit_code == 0
    assert fpbench(*TINY, "--out", tmp_path / "new", "--budget", "0.5").exit_code == 4


def test_a_run_from_a_file_and_the_command_line_wins(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "lens: [256, 300]\nshape: 2/1/64\nrounds: 3\nsamples: 1\nmethods:\n  - dense\n"
        f"retry_failed: true\nisolate: false\nout: {tmp_path / 'run'}\n"
    )
    assert fpbench("latency", "--config", config, "--rounds", "2").exit_code == 0
    records = read_records(tmp_path / "run").records
    assert sorted((r.method, r.seq_len, r.round) for r in records) == [
        ("dense", length, number) for length in (256, 300) for number in (0, 1)
    ]


def test_noise_on_stdout_does_not_reach_the_json(tmp_path):
    done = in_process(*ISOLATED, "--methods", "prints", "--json", "--out", tmp_path, env=plugin_path("plugin_fatal"))
    assert [row["label"] for row in json.loads(done.stdout)] == ["prints"]
    assert "noise from a plug-in" in done.stderr


def plugin_path(name):
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / name)}
