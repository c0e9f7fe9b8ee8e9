"""Needle in a haystack: where the needle lies, what stands around it, and what counts as found."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites.needle.suite import Gkamradt, MInferenceNeedle, Needle, depths
from fp_bench.suites.needle.templates import GKAMRADT_NEEDLE, MINFERENCE_CITIES
from tests.suites.tokenizers import Bytes, Words

SUITES = (Needle, Gkamradt, MInferenceNeedle)
BYTES, WORDS = Bytes(), Words()
HAYSTACK = [f"Sentence {number} says nothing." for number in range(40)]


def write(suite, length, indices, tokenizer=WORDS, *, seed=0, reserved=1, **options):
    found = suite.from_options(options).samples("needle", length, indices, tokenizer, seed=seed, reserved=reserved)
    return list(found)


def sides(sample):
    """The haystack before and after the needle."""
    context = sample.context.split("\n", 1)[1]
    pattern = re.escape(GKAMRADT_NEEDLE) if "sandwich" in context else r"(\n| )?The (special )?magic [^.\n]*[.\n] ?"
    found = re.search(pattern, context)
    return context[: found.start()].strip(), context[found.end() :].strip()


@settings(max_examples=40)
@given(
    suite=st.sampled_from(SUITES),
    length=st.integers(1500, 5000),
    index=st.integers(0, 80),
    seed=st.integers(0, 3),
    tokenizer=st.sampled_from([BYTES, WORDS]),
)
def test_a_prompt_fits_its_length_and_the_needle_lies_at_its_depth(suite, length, index, seed, tokenizer):
    (sample,) = write(suite, length, [index], tokenizer, seed=seed, reserved=3)
    used = len(tokenizer.encode(sample.text)) + 3 + sample.max_new_tokens
    assert 0.9 * length < used <= length
    grid = depths(35 if suite is Gkamradt else 10, "linear")
    assert sample.depth == grid[index % len(grid)]
    before, after = map(len, sides(sample))
    assert before / (before + after) == pytest.approx(sample.depth, abs=0.12)
    assert all(sample.context.count(answer) == 1 for answer in sample.answers)
    assert suite().score(sample, f" It is {' and '.join(sample.answers).upper()}.") == 1
    assert suite().score(sample, "") == 0


@pytest.mark.parametrize("suite", SUITES)
def test_samples_do_not_depend_on_which_are_asked_for(suite):
    together = write(suite, 1500, range(5))
    assert write(suite, 1500, [3]) == [together[3]]
    assert len({sample.id for sample in together}) == 5
    assert write(suite, 1500, range(5), seed=1) != together


def test_a_round_has_one_haystack_at_all_depths_and_the_next_another():
    first, second, later = write(Needle, 1200, [0, 4, 5], depths=5)
    assert (first.depth, second.depth, later.depth) == (0, 1, 0)
    assert sides(first)[1][:200] == sides(second)[0][:200] != sides(later)[1][:200]


def test_depths_are_upstreams():
    assert depths(5, "linear") == [0, 0.25, 0.5, 0.75, 1]
    assert depths(1, "linear") == [0]
    # 0, 1.8, 4.7, ... as gkamradt's logistic function gives them, in ascending order.
    assert [round(100 * depth, 1) for depth in depths(11, "sigmoid")] == [
        0, 1.8, 4.7, 11.9, 26.9, 50, 73.1, 88.1, 95.3, 98.2, 100,
    ]  # fmt: skip
    assert len(set(depths(35, "linear"))) == 35


def test_the_wording_is_upstreams():
    (sample,) = write(Gkamradt, 1500, [17])
    assert sample.context.startswith("You are a helpful AI bot that answers questions for a user. Keep your response")
    assert "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park" in sample.context
    assert sample.question == (
        "\n\nWhat is the best thing to do in San Francisco? Don't give information outside the document or repeat "
        "your findings"
    )
    (sample,) = write(MInferenceNeedle, 1500, [5])
    (city,) = re.findall(r"\nThe special magic (.+) number is: \d{7}\n", sample.context)
    assert sample.question.startswith(f"\n\nQuestion: What is the special magic {city} number? Don't give")
    assert sample.question.endswith(" Keep your response short and direct. Answer: ")
    assert MInferenceNeedle.untemplated == {"needle"}
    assert len(MINFERENCE_CITIES) == 100


def test_a_sandwich_is_scored_by_its_three_phrases():
    (sample,) = write(Gkamradt, 1500, [0])
    assert Gkamradt().score(sample, "Eat a Sandwich in dolores park") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "substring", "exact"),
    [(" {}.\nAnd more", 1, 1), ("{}", 1, 1), ("It is {}.", 1, 0), ("{}0", 1, 0), ("", 0, 0)],
)
def test_a_number_is_found_or_said_alone(prediction, substring, exact):
    (sample,) = write(Needle, 1500, [0])
    said = prediction.format(*sample.answers)
    assert Needle().score(sample, said) == substring
    assert Needle.from_options({"match": "exact"}).score(sample, said) == exact


@pytest.mark.parametrize("kind", ["file.txt", "folder", "file.jsonl"])
def test_a_haystack_of_the_users_is_repeated_in_its_order(kind, tmp_path):
    place = tmp_path / kind
    if kind == "folder":
        place.mkdir()
        (place / "b.txt").write_text(" ".join(HAYSTACK[20:]))
        (place / "a.txt").write_text(" ".join(HAYSTACK[:20]))
    elif kind == "file.jsonl":
        place.write_text("".join(json.dumps({"text": line}) + "\n" for line in HAYSTACK))
    else:
        place.write_text(" ".join(HAYSTACK))
    suite = Needle.from_options({"haystack": str(place), "depths": "2"})
    first, last = suite.samples("needle", 1500, [0, 1], WORDS, seed=0, reserved=0)
    assert sides(first)[1].startswith(f"{HAYSTACK[0]} {HAYSTACK[1]}")
    assert f"{HAYSTACK[-1]} {HAYSTACK[0]}" in sides(last)[0]
    assert suite.provenance("needle")["haystack"]
    assert Needle().provenance("needle") == {}


@pytest.mark.parametrize("content", [None, "", b"\xff\xfe\x00", '{"words": 1}\n'])
def test_a_haystack_that_cannot_be_had_is_one_line(content, tmp_path):
    file = tmp_path / ("hay.jsonl" if isinstance(content, str) and content else "hay.txt")
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnavailableError, match="haystack=") as caught:
        write(Needle, 1500, [0], haystack=str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suite", SUITES)
def test_too_short_a_length_says_what_it_takes(suite):
    with pytest.raises(
        UsageError, match=r"length 60 is too short for needle; its shortest prompt and answer take \d+"
    ) as caught:
        write(suite, 60, [0])
    least = int(re.search(r"take (\d+)", str(caught.value))[1])
    assert write(suite, least, [0])


@pytest.mark.parametrize("options", [{"depths": "0"}, {"spacing": "log"}, {"match": "judge"}])
def test_parameters_out_of_their_limits_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Needle.from_options(options)


@settings(max_examples=20)
@given(turns=st.integers(2, 6), index=st.integers(0, 30), tokenizer=st.sampled_from([BYTES, WORDS]))
def test_earlier_turns_ask_for_other_needles_and_have_their_answers(turns, index, tokenizer):
    (sample,) = write(Needle, 4000, [index], tokenizer, turns=str(turns), reserved=9)
    assert 0.85 * 4000 < len(tokenizer.encode(sample.text)) + 9 * turns + 32 <= 4000
    assert len(sample.turns) == turns - 1
    haystack, rest = sample.text.split("\n\nQuestion: ", 1)
    numbers = re.findall(r"The magic number for (.*?) is (\d{7})\.", haystack)
    assert len(numbers) == turns
    asked = re.findall(r"What is the magic number for (.*?) in the text above\?", "Question: " + rest)
    assert sorted(asked) == sorted(key for key, _ in numbers)
    for (_, answer), key in zip(sample.turns, asked, strict=False):
        assert answer.endswith(f"The magic number for {key} is {dict(numbers)[key]}.")
    assert sample.answers == (dict(numbers)[asked[-1]],)
    assert sample.answers[0] not in rest
    place = haystack.index(sample.answers[0]) / len(haystack)
    assert place == pytest.approx(sample.depth, abs=0.12)
