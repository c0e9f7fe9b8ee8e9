import random

import pytest

from tests.soak.kill_resume import JOBS, Outcome, soak

KILLS = [
    ("parent", "FULL"),
    ("worker", "KILL"),
    ("parent", "KILL"),
    ("server", "TERM"),
    ("worker", "STOP"),
    ("parent", "INT"),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("job", "places"), [("latency", 1), ("accuracy", 2), ("ttft", 1)])
def test_whatever_ends_a_run_nothing_is_lost_or_twice_or_left(tmp_path, job, places):
    outcome = Outcome()
    soak(JOBS[job](places), KILLS, random.Random(0), tmp_path, outcome, job)
    assert outcome.kills.total() == len(KILLS)
    assert outcome.wrong == []
