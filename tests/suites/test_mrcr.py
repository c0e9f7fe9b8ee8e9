"""MRCR: which of the equal requests is asked for, where they lie, and what counts."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UsageError
from fp_bench.suites.mrcr import NEEDLES, ORDINALS, Mrcr
from tests.suites.tokenizers import Bytes, Words

SUITE, BYTES, WORDS = Mrcr(), Bytes(), Words()
ASKED = re.compile(r"Write (\w{10}) and after it, word for word, the (\w+) (.+) about the (\w+) that is in")


def write(task, length, indices, tokenizer=WORDS, seed=0):
    return list(SUITE.samples(task, length, indices, tokenizer, seed=seed, reserved=3))


@settings(max_examples=20)
@given(
    task=st.sampled_from(list(NEEDLES)),
    length=st.integers(6000, 9000),
    index=st.integers(0, 40),
    tokenizer=st.sampled_from([BYTES, WORDS]),
)
def test_the_answer_is_the_nth_of_the_equal_requests_and_lies_at_its_depth(task, length, index, tokenizer):
    (sample,) = write(task, length, [index], tokenizer)
    assert 0.9 * length < len(tokenizer.encode(sample.text)) + 3 + SUITE.max_new_tokens <= length
    code, ordinal, form, topic = ASKED.search(sample.question).groups()
    equal = re.findall(rf"User: Write a {form} about the {topic}\.\n\nAssistant: (.*)\n", sample.context)
    assert len(equal) == NEEDLES[task]
    text = equal[ORDINALS.index(ordinal)]
    assert sample.answers == (f"{code} {text}",)
    assert len(tokenizer.encode(sample.answers[0])) <= SUITE.max_new_tokens
    assert sample.context.count(text) == 1
    assert sample.context.index(text) / len(sample.context) == pytest.approx(sample.depth, abs=0.2)
    others = re.findall(r"User: Write a (.+) about the (\w+)\.", sample.context)
    assert (form, topic) not in [other for other in others if other != (form, topic)]
    assert sum(other[0] == form for other in others) > len(equal)


def test_samples_do_not_depend_on_which_are_asked_for():
    together = write("needles_4", 4000, range(4))
    assert write("needles_4", 4000, [2]) == [together[2]]
    assert {sample.depth for sample in together} == {sample.depth for sample in write("needles_4", 5000, range(4))}
    assert write("needles_4", 4000, range(4), seed=1) != together


def test_a_score_needs_the_code_and_is_the_likeness_of_the_rest():
    (sample,) = write("needles_2", 4000, [1])
    code, text = sample.answers[0].split(" ", 1)
    assert SUITE.score(sample, f"\n{sample.answers[0]}") == 1.0
    assert SUITE.score(sample, f"{code}{text}") == 1.0
    assert SUITE.score(sample, text) == 0.0
    assert SUITE.score(sample, f"Here it is: {code} {text}") == 0.0
    half = SUITE.score(sample, f"{code} {text[: len(text) // 2]}")
    assert half == pytest.approx(2 / 3, abs=0.01)
    (other,) = write("needles_2", 4000, [0])
    assert SUITE.score(sample, f"{code} {other.answers[0].split(' ', 1)[1]}") < half


def test_too_short_a_length_says_how_long_it_must_be():
    with pytest.raises(UsageError, match=r"length 500 is too short for needles_8; its shortest .* take \d+"):
        write("needles_8", 500, [0])
