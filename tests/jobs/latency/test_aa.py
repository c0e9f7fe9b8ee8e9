import numpy as np
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.jobs.latency import aa
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


def launches(factors, noise=0.002):
    times = [
        factor * np.exp(noise * draw)
        for factor, draw in zip(factors, np.random.default_rng(0).standard_normal((4, 3)), strict=True)
    ]
    records = rounds([ms for of_launch in times for ms in of_launch])
    named = [record.model_copy(update={"launch": str(record.round // 3)}) for record in records]
    return aa.aa_table(named, Rule())


def test_launches_are_compared_and_their_spread_is_shown():
    steady, restless = launches((1, 1, 1, 1)), launches((1.0, 1.1, 1.2, 1.0))
    assert steady.columns[3:5] == ["spread of rounds", "spread of launches"]
    assert float(steady.rows[0][4].rstrip("%")) < 1 < float(restless.rows[0][4].rstrip("%"))
    assert (steady.rows[0][-1], restless.rows[0][-1]) == ("unchanged", "inconclusive")
    # It is every second launch that is compared, not every second round of the same processes.
    assert launches((1.0, 1.2, 1.0, 1.2)).rows[0][-1] == "FALSE ALARM"
    # Launches that differ by a tenth each are not told from a slowdown of a tenth by one of them a side.
    assert restless.rows[0][6] == "more than 100%"


def test_nothing_measured_is_no_row():
    assert aa.aa_table([failed()], Rule()).rows == []


def test_doctor_measures_this_machine(monkeypatch):
    monkeypatch.setattr(aa, "LENGTHS_CPU", (256,))
    monkeypatch.setattr(aa, "LAUNCHES", 2)
    done = CliRunner().invoke(app, ["doctor", "--aa", "--rounds", "6"])
    assert done.exit_code == 0, done.output
    for word in ("spread", "launches", "dense", "flashprefill", "A/A"):
        assert word in done.stdout
