import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.results.store import read_records

TINY = ["latency", "--lens", "256", "--shape", "2/1/64", "--rounds", "1", "--samples", "1"]


def fpbench(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def in_process(*words, **more):
    command = [sys.executable, "-m", "fp_bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys, fp_bench.cli as c; sys.argv = ['fpbench', '--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'transformers') if m in sys.modules])"
    best = min(_timed(lambda: subprocess.run([sys.executable, "-c", code], capture_output=True)) for _ in range(3))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    assert "latency" in said
    assert best < 0.5


def _timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_latency_end_to_end(tmp_path):
    done = fpbench(*TINY, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "plan: dense, flashprefill at 256" in done.stderr
    assert "No GPU here" in done.stderr
    assert "flashprefill" in done.stdout
    assert (tmp_path / "report.md").is_file()
    records = read_records(tmp_path).records
    again = fpbench(*TINY, "--out", tmp_path)
    assert again.exit_code == 0
    assert read_records(tmp_path).records == records


def test_json_is_all_that_stdout_gets(tmp_path):
    rows = json.loads(fpbench(*TINY, "--out", tmp_path, "--json").stdout)
    assert {row["label"] for row in rows} == {"dense", "flashprefill"}
    assert json.loads(fpbench("report", tmp_path, "--json").stdout) == rows


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    done = fpbench(*TINY, "--out", tmp_path / "run", "--dry-run")
    assert done.exit_code == 0
    assert "plan: " in done.stderr
    assert not (tmp_path / "run").exists()


def test_exit_codes(odd_methods, tmp_path):
    assert fpbench(*TINY, "--methods", "window,raises", "--out", tmp_path / "a").exit_code == 3
    assert fpbench(*TINY, "--methods", "dense:impl=fa3", "--out", tmp_path / "b").exit_code == 3
    assert fpbench("report", tmp_path / "none").exit_code == 2


def test_a_default_method_that_is_not_here_is_a_row(tmp_path, monkeypatch):
    from fp_bench.latency import plan
    from fp_bench.registry import Spec

    monkeypatch.setattr(plan, "CPU_METHODS", (Spec("dense"), Spec("dense", {"impl": "fa2"})))
    done = fpbench(*TINY, "--out", tmp_path / "a")
    assert done.exit_code == 0
    assert "dense:impl=fa2 runs on cuda, not on cpu" in done.stdout
    monkeypatch.setattr(plan, "CPU_METHODS", (Spec("dense", {"impl": "fa2"}),))
    assert fpbench(*TINY, "--out", tmp_path / "b").exit_code == 4


BAD = [
    "latency --lens 4x",
    "latency --lens 8k-4k",
    "latency --lens 0",
    "latency --methods flashprefil",
    "latency --methods flashprefill:alpha",
    "latency --methods flashprefill:alpha=-1",
    "latency --methods flashprefill:preset=gpt",
    "latency --methods dense:impl=fa9",
    "latency --methods ,",
    "latency --shape 3/2/128",
    "latency --shape 32x8",
    "latency --dtype int8",
    "latency --inputs captured",
    "latency --inputs captured:/no/such/folder",
    "latency --inputs density:2",
    "latency --inputs density:x",
    "latency --batch 0",
    "latency --rounds 0",
    "latency --samples -1",
    "latency --seed -1",
    "latency --seed x",
    "latency --layers a",
    "latency --layers 5",
    "latency --backend cuda --lens 128",
    "latency --lens",
    "latency --no-such-option",
    "latency --lens 128 --out /proc/none/run",
    "report /no/such/run",
    "report",
    "capture --text /no/such/file",
    "capture --device tpu",
    "capture --dtype bf15",
    "capture --layers x",
    "nonsense",
]


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_on_stderr_and_exit_2(line):
    done = fpbench(*line.split())
    assert done.exit_code == 2, done.output
    complaint = [said for said in done.stderr.splitlines() if said.startswith("fpbench: ")]
    assert complaint == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.output


def test_the_listings(odd_methods):
    methods = fpbench("methods")
    assert methods.exit_code == 0
    (warning,) = methods.stderr.splitlines()
    assert warning.startswith("fpbench: warning: method 'broken' cannot be loaded: ModuleNotFoundError")
    for word in ("dense", "flashprefill", "alpha", "0.12", "preset=llama-3.1-8b", "window", "broken", "not here"):
        assert word in methods.stdout
    doctor = fpbench("doctor")
    assert doctor.exit_code == 0
    for word in ("python", "packages torch", "dense:impl=cudnn", "torch", "flashprefill"):
        assert word in doctor.stdout


def test_version():
    assert in_process("--version").stdout.startswith("fpbench ")


def test_ctrl_c_keeps_what_is_done_and_the_same_command_resumes(odd_methods, tmp_path):
    words = ["latency", "--lens", "256", "--shape", "2/1/64", "--methods", "slow,window", "--samples", "1", "--out"]
    words += [tmp_path, "--rounds", "8"]
    environment = os.environ | {"PYTHONPATH": str(odd_methods)}
    command = [sys.executable, "-m", "fp_bench", *map(str, words)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "records.jsonl").exists() or len(read_records(tmp_path).records) < 3:
        time.sleep(0.02)
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "the same command resumes" in said
    assert "Traceback" not in said
    kept = read_records(tmp_path).records
    assert 3 <= len(kept) < 16
    assert in_process(*words, env=environment).returncode == 0
    whole = read_records(tmp_path).records
    assert whole[: len(kept)] == kept
    assert len({(record.cell_key, record.round) for record in whole}) == len(whole) == 16
