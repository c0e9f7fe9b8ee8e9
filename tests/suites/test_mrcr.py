"""MRCR: which of the equal requests is asked for, where they lie, and what counts."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites.mrcr import NEEDLES, ORDINALS, Mrcr, OpenAiMrcr
from fp_bench.testing import check_suite
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


CODE = "aYooSG8CQg"


def row(turns, needles=2, **changed):
    """A made-up row of openai/mrcr whose second poem about tapirs is asked for."""
    messages = []
    for number in range(turns):
        topic = "poem about tapirs" if number in (1, turns - 2) else f"letter about rock {number}"
        messages.append({"role": "user", "content": f"write a {topic}"})
        messages.append({"role": "assistant", "content": f"Text {number} of a {topic}. " * 6})
    asked = 2 * (turns - 2) + 1
    answer = CODE + messages[asked]["content"]
    messages.append({"role": "user", "content": f"Prepend {CODE} to the 2nd (1 indexed) poem about tapirs."})
    found = {
        "prompt": json.dumps(messages),
        "answer": answer,
        "random_string_to_prepend": CODE,
        "n_needles": needles,
        "desired_msg_index": asked,
        "total_messages": len(messages),
        "n_chars": sum(len(message["content"]) for message in messages),
    }
    return found | changed


@pytest.fixture
def openai(tmp_path):
    """A folder with two files: for 2 needles conversations of three lengths."""
    for name, rows in {
        "2needle/2needle_0": [row(20), row(40), row(22), row(6)],
        "2needle/2needle_1": [row(21), row(20, needles=4), row(400)],
    }.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return tmp_path


def read(folder, task, length, indices, tokenizer=WORDS):
    suite = OpenAiMrcr.from_options({"path": str(folder)})
    return list(suite.samples(task, length, indices, tokenizer, seed=0, reserved=3))


def test_conversations_of_a_length_are_read_from_openais_files(openai):
    samples = read(openai, "needles_2", 1600, [0, 1, 2])
    assert [sample.text.count("\nUser: ") for sample in samples] == [21, 23, 22]
    assert read(openai, "needles_2", 1600, [2]) == samples[2:]
    assert len(read(openai, "needles_4", 1600, [0])) == 1
    with pytest.raises(UsageError, match="needles_2 at length 1600 has no sample 3; ask for fewer"):
        read(openai, "needles_2", 1600, [3])
    for sample in samples:
        taken = len(WORDS.encode(sample.text)) + 3 + sample.max_new_tokens
        assert 800 < taken <= 1600
        assert sample.question == (f"\nUser: Prepend {CODE} to the 2nd (1 indexed) poem about tapirs.\n\nAssistant:")
        (answer,) = sample.answers
        text = answer.removeprefix(f"{CODE} ")
        assert sample.context.index(text) / len(sample.context) == pytest.approx(sample.depth, abs=0.1)
        suite = OpenAiMrcr()
        assert suite.score(sample, f"{CODE}{text}") == 1.0
        assert suite.score(sample, text) == 0.0


def test_openais_suite_conforms_and_knows_its_files(openai):
    (openai / "all.jsonl").write_text("".join(json.dumps(row(50, n)) + "\n" for n in (2, 4, 8) for _ in range(4)))
    assert check_suite(OpenAiMrcr, {"path": str(openai / "all.jsonl")}, length=15_000) == []
    before = OpenAiMrcr.from_options({"path": str(openai)}).provenance("needles_2")
    (openai / "all.jsonl").write_text("")
    assert OpenAiMrcr.from_options({"path": str(openai)}).provenance("needles_2") != before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (None, "needs OpenAI's data; give mrcr@openai:path=FOLDER"),
        ({}, "has no .parquet or .jsonl files"),
        ({"prompt": "[]"}, "not of the data set's form: ValueError"),
        ({"prompt": '[{"text": 1}]'}, "not of the data set's form: KeyError: 'role'"),
        ({"answer": "no code"}, "the answer does not begin with the code"),
        ({"random_string_to_prepend": None}, "not of the data set's form: TypeError"),
        ({"n_chars": "many"}, "not of the data set's form: ValueError"),
    ],
)
def test_what_is_not_openais_data_is_one_line(tmp_path, changed, words):
    if changed:
        (tmp_path / "a.jsonl").write_text(json.dumps(row(20) | changed) + "\n")
    suite = OpenAiMrcr.from_options({} if changed is None else {"path": str(tmp_path)})
    samples = suite.samples("needles_2", 1600, [0], WORDS, seed=0, reserved=3)
    with pytest.raises(UnavailableError, match=words) as error:
        next(samples)
    assert "\n" not in str(error.value)
