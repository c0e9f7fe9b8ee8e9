import pytest

from fp_bench.suites.scoring import all_of, any_of, printable


@pytest.mark.parametrize(
    ("prediction", "answers", "share_of_all", "any_at_all"),
    [
        ("1234567.", ["1234567"], 1, 1),
        ("1234567, 7654321", ["1234567", "7654321", "1111111", "2222222"], 0.5, 1),
        ("the answer is PARIS", ["Paris", "City of Paris"], 0.5, 1),
        ("no idea", ["Paris"], 0, 0),
        ("", ["Paris", "Rome"], 0, 0),
        ("concatenate", ["cat"], 1, 1),  # a substring is enough, as in RULER
    ],
)
def test_shares_of_answers(prediction, answers, share_of_all, any_at_all):
    assert all_of(prediction, answers) == share_of_all
    assert any_of(prediction, answers) == any_at_all


def test_no_answers_is_no_score():
    for metric in (all_of, any_of):
        with pytest.raises(ValueError, match="no answers"):
            metric("x", [])


@pytest.mark.parametrize(
    ("prediction", "read"),
    [
        ("  a b\n", "a b"),
        ("\x00a\x07b\x1f", "a\nb"),
        ("a\tb\r\nc", "a\nb\n\nc"),
        ("\x01 ", ""),
        ("", ""),
        ("é\x7f", "é\x7f"),
    ],
)
def test_control_characters_become_line_breaks(prediction, read):
    assert printable(prediction) == read


def test_a_control_character_inside_an_answer_breaks_it():
    assert all_of(printable("12\x00345"), ["12345"]) == 0
