import random

import pytest

from tests.soak.kill_resume import accuracy_run, identities, kill_at_random, latency_run, undisturbed

RUNS = {
    "latency": latency_run(methods="dense", lens="128", rounds=40),
    "accuracy": accuracy_run(methods="dense", lens="300", samples=6, workers=1),
}


@pytest.mark.slow
@pytest.mark.parametrize(("job", "kills"), [("latency", 2), ("accuracy", 1)])
def test_kills_while_records_are_written_lose_nothing(tmp_path, job, kills):
    run, draw = RUNS[job], random.Random(0)
    for _ in range(kills):
        killed, _code, said, left_behind = kill_at_random(run, tmp_path, draw, longest=None)
        assert killed, said
        assert not left_behind
    kept = identities(tmp_path)
    whole, _ = undisturbed(run, tmp_path)
    assert kept.total() < whole.total() == len(whole) == run.whole
    assert kept <= whole
