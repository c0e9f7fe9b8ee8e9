import numpy as np
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.jobs.latency import aa
from fp_bench.jobs.latency.job import Conduct, run
from fp_bench.reports.verdict import Rule
from tests.records.records import failed, rounds


def table(noise, factor=1.0):
    times = np.exp(noise * np.random.default_rng(0).standard_normal(10))
    times[1::2] *= factor
    return aa.aa_table([*rounds(times), failed(label="greedy", method_hash="g")], Rule())


def test_quiet_machines_find_smaller_regressions():
    (quiet,), (noisy,) = table(0.002).rows, table(0.02).rows
    for few, more in zip(quiet[4:7], noisy[4:7], strict=True):
        assert float(few.rstrip("%")) < float(more.rstrip("%").replace("more than ", ""))
    assert quiet[-1] == "unchanged"


def test_a_difference_between_the_halves_is_a_false_alarm():
    assert table(0.002, 1.2).rows[0][-1] == "FALSE ALARM"


def test_nothing_measured_is_no_row():
    assert aa.aa_table([failed()], Rule()).rows == []


def test_doctor_measures_this_machine(monkeypatch):
    monkeypatch.setattr(aa, "LENGTHS_CPU", (256,))
    # Quicker by the seconds that workers take to start.
    monkeypatch.setattr(aa, "run", lambda plan, store: run(plan, store, Conduct(isolate=False)))
    done = CliRunner().invoke(app, ["doctor", "--aa", "--rounds", "6"])
    assert done.exit_code == 0, done.output
    for word in ("spread", "dense", "flashprefill", "A/A"):
        assert word in done.stdout
