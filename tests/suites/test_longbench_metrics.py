"""LongBench's metrics on worked examples: by hand from their definition, or what upstream's own code returned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.suites.longbench import metrics
from fp_bench.suites.longbench.tasks import DATA_SETS, best_score, length_range
from fp_bench.suites.longbench.v2 import answer
from fp_bench.suites.scoring import f1, signs, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S. is a well-known country", ["us", "is", "wellknown", "country"]),  # removed, not replaced
        ("An  apple\na day", ["apple", "day"]),
        ("A, the; an!", []),
        ("theatre", ["theatre"]),
    ],
)
def test_english_words_are_squads(text, expected):
    assert words(text) == expected


def test_chinese_signs_are_without_punctuation_and_spaces():
    assert signs("今天，天气 很好。A!") == "今天天气很好a"
    assert signs("《书》") == "《书"  # upstream's list lacks the first


@pytest.mark.parametrize(
    ("prediction", "right", "expected"),
    [
        ("The answer is: New York City.", "new york", 4 / 7),
        ("new york", "New York!", 1),
        ("the a an", "the", 0),
        ("", "x", 0),
        ("b b c", "b c c", 2 / 3),  # of three and three, b once and c once
    ],
)
def test_qa_f1(prediction, right, expected):
    assert metrics.qa_f1(prediction, right) == pytest.approx(expected)


def test_qa_f1_zh_compares_words():
    assert metrics.qa_f1_zh("我喜欢，绿茶。", "我喜欢绿茶") == 1
    assert metrics.qa_f1_zh("明天下雨", "我喜欢绿茶") == 0
    assert metrics.qa_f1_zh("我喜欢喝绿茶", "我喜欢绿茶") == pytest.approx(6 / 7)  # three words of four and of three


@pytest.mark.parametrize(
    ("prediction", "right", "expected"),
    [
        ("the cat sat on the mat .", "the cat was on the mat .", 0.8),
        ("a a a b", "a b", 1.0),  # sets of words
        ("The cat", "the cat", 0.5),  # case counts
        ("a b. c d", "c d. a b", 1.0),  # each sentence with each
        ("a b c", "c b a", 1 / 3),
        ("", "a", 0.0),
        ("...", "a", 0.0),
        ("a", "", 0.0),
    ],
)
def test_rouge_l(prediction, right, expected):
    assert metrics.rouge_l(prediction, right) == pytest.approx(expected, abs=1e-6)


def test_rouge_l_of_a_sentence_of_a_thousand_words_is_had():
    long = " ".join(f"w{number}" for number in range(1010))
    assert metrics.rouge_l(long, long) == pytest.approx(1, abs=1e-6)


def test_rouge_l_zh_compares_words():
    assert metrics.rouge_l_zh("今天天气很好", "今天天气不错") == pytest.approx(0.4, abs=1e-6)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_rouge_l_of_one_sentence_is_at_most_what_words_have_in_common(right, predicted):
    score = metrics.rouge_l(" ".join(predicted), " ".join(right))
    common, all_words = set(right) & set(predicted), len(set(right)) + len(set(predicted))
    assert bool(score) == bool(common)
    assert score <= 2 * len(common) / all_words + 1e-9
    assert metrics.rouge_l(" ".join(right), " ".join(right)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "right", "classes", "expected"),
    [
        ("It is Food", "Food", ["Food", "Person"], 1),
        ("Food or Person", "Food", ["Food", "Person"], 1 / 2),
        ("food", "Food", ["Food"], 0),
        ("Person", "Food", ["Food", "Person"], 0),
        ("Foodstuff", "Foodstuff", ["Food", "Foodstuff"], 1),  # a part of the right one is not counted
        ("Foodstuff", "Foodstuff", ["Foo", "Food", "Foodstuff"], 1 / 2),  # of two in a row the second is
        ("", "Food", ["Food"], 0),
    ],
)
def test_classification(prediction, right, classes, expected):
    assert metrics.classification(prediction, right, classes) == expected


@pytest.mark.parametrize(
    ("prediction", "expected"), [("Paragraph 15", 1), ("15 or 3", 0.5), ("Paragraph 1", 0), ("none", 0), ("15, 15", 1)]
)
def test_retrieval_and_count_are_shares_of_the_numbers(prediction, expected):
    assert metrics.retrieval(prediction, "Paragraph 15") == expected
    assert metrics.retrieval(prediction, "段落15") == expected
    assert metrics.count(prediction, "15") == expected


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("\n\n    return a+b\nfoo", 0.93),
        ("# a comment\n`code`\n    return a + b", 1),
        ("// a comment", 0),
        ("", 0),
        ("# c\n\n    return a + b", 0),  # an empty line counts as code
    ],
)
def test_code_similarity_is_of_the_first_line_of_code(prediction, expected):
    assert metrics.code_similarity(prediction, "    return a + b") == expected


@pytest.mark.parametrize("task", ["triviaqa", "qasper"])
def test_the_first_line_counts_where_upstream_says_so(task):
    one_line = best_score(task, "\nParis\nand the rest of it", ["Paris"], [])
    assert one_line == (1 if task == "triviaqa" else pytest.approx(1 / 3))


def test_the_best_answer_counts():
    assert best_score("qasper", "Green tea", ["black coffee", "green tea", "tea"], []) == 1


def test_ranges_of_length_and_the_tables_totals():
    assert [length_range(length) for length in (0, 3999, 4000, 7999, 8000)] == ["0-4k", "0-4k", "4-8k", "4-8k", "8k+"]
    assert len({data.category for data in DATA_SETS.values()}) == 6


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("The correct answer is (B).", "B"),
        ("**The correct answer is (B)**", "B"),
        ("The correct answer is C", "C"),
        ("The correct answer is A. Or: The correct answer is (D)", "D"),  # the one in parentheses first
        ("the correct answer is (B)", None),
        ("The correct answer is (E)", None),
        ("", None),
    ],
)
def test_version_2_reads_a_letter(prediction, letter):
    assert answer(prediction) == letter


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_f1_is_symmetric_and_1_for_equal_bags_alone(x, y):
    assert f1(x, y) == f1(y, x)
    assert (f1(x, y) == 1) == (bool(x) and sorted(x) == sorted(y))
