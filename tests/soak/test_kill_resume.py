import random

from tests.soak.kill_resume import Run, identities, kill_at_random, undisturbed

RUN = Run(methods="dense", lens="128", rounds=40)


def test_three_kills_while_records_are_written_lose_nothing(tmp_path):
    draw = random.Random(0)
    for _ in range(3):
        killed, _code, said, left_behind = kill_at_random(RUN, tmp_path, draw, longest=None)
        assert killed, said
        assert not left_behind
    kept = identities(tmp_path)
    whole, _ = undisturbed(RUN, tmp_path)
    assert kept.total() < whole.total() == len(whole) == RUN.whole
    assert kept <= whole
