"""How a command ends where something is not as it should be: one line, a code that says what, never a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fp_bench.cli import app, recording
from fp_bench.cli.front import FrontDoor
from fp_bench.records.reading import RECORDS, read_records
from tests.records.records import dense, timed, write
from tests.soak.kill_resume import hear

RUN = ["latency", "--lens", "256", "--shape", "2/1/64", "--samples", "1"]


def broken_app():
    made = typer.Typer(cls=FrontDoor)

    @made.command()
    def verb(wrong: int = 0) -> None:
        raise TypeError(f"wrong {wrong}\nsecond line \x1b[31m")

    @made.command()
    def other() -> None:
        pass

    return made


def test_a_mistake_of_ours_is_70_and_a_line_that_says_where_its_traceback_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = CliRunner().invoke(broken_app(), ["verb"])
    assert done.exit_code == 70
    (line,) = done.stderr.splitlines()
    (kept,) = tmp_path.iterdir()
    assert line == f"fpbench: internal error: TypeError: wrong 0; please report it with the traceback in {kept}"
    assert "Traceback (most recent call last)" in kept.read_text()


def test_a_traceback_that_cannot_be_kept_is_no_traceback_either(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    done = CliRunner().invoke(broken_app(), ["verb"])
    assert done.exit_code == 70
    assert "its traceback could not be written" in done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("run"), [dense(), timed()])


def fpbench(*words, **more):
    return subprocess.run([sys.executable, "-m", "fp_bench", *map(str, words)], check=False, timeout=120, **more)


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_standard_output_that_cannot_be_written_is_no_regression(run):
    words = ("compare", run, run, "--format", "csv")
    for stdout, reason in (
        (closed_pipe(), "Broken pipe"),
        (os.open("/dev/full", os.O_WRONLY), "No space left on device"),
    ):
        done = fpbench(*words, stdout=stdout, stderr=subprocess.PIPE, text=True)
        os.close(stdout)
        assert (done.returncode, done.stderr) == (3, f"fpbench: cannot write: {reason}\n")


@pytest.mark.slow
def test_a_closed_stderr_does_not_end_a_run(tmp_path):
    shell = f"{sys.executable} -m fp_bench {' '.join(RUN)} --no-isolate --rounds 2 --out {tmp_path} 2>&-"
    done = subprocess.run(shell, shell=True, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert "flashprefill" in done.stdout
    reading = read_records(tmp_path)
    assert (len(reading.records), reading.bad_lines) == (4, 0)


def test_a_stderr_that_nobody_reads_changes_no_exit_code(tmp_path):
    pipe = closed_pipe()
    assert fpbench("report", tmp_path / "none", stderr=pipe).returncode == 2
    os.close(pipe)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_keeps_what_is_done_and_says_it(odd_methods, tmp_path, number):
    words = [*RUN, "--methods", "slow", "--rounds", "40", "--out", str(tmp_path / "run")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{odd_methods}:{Path.cwd()}", "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "fp_bench", *words]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear)
    file = tmp_path / "run" / RECORDS
    while not file.exists() or file.read_bytes().count(b"\n") < 2:
        time.sleep(0.02)
        assert running.poll() is None
    running.send_signal(number)
    said = running.communicate(timeout=60)[1]
    kept = len(read_records(tmp_path / "run").records)
    assert running.returncode == 128 + number
    assert f"ended by {number.name}: {kept} records are kept in" in said
    assert "Traceback" not in said
    assert not list(temporary.iterdir())


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with recording._ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_left_to_measure_is_said(tmp_path):
    words = [*RUN, "--no-isolate", "--rounds", "1", "--methods", "dense", "--out", str(tmp_path)]
    assert "nothing left" not in CliRunner().invoke(app, words).stderr
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert f"note: nothing left to measure: {tmp_path} is complete" in again.stderr


def test_a_folder_with_a_broken_env_json_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "env.json").write_text("[]")
    done = CliRunner().invoke(app, [*RUN, "--no-isolate", "--rounds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "env.json holds no environments" in done.stderr.splitlines()[-1]
    assert (tmp_path / RECORDS).read_bytes() == b""
