from tests.soak.kill_resume import soak


def test_three_kills_lose_nothing(tmp_path):
    outcome = soak(3, seed=1, base=tmp_path)
    assert outcome.fine, outcome
    assert outcome.kills == 3
