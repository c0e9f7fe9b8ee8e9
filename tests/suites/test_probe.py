import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UsageError
from fp_bench.suites.probe.suite import MAX_NEW_TOKENS, SHORTEST, Probe
from tests.suites.tokenizers import Embedded, Words

SUITE = Probe()
EMBEDDED, WORDS = Embedded(), Words()


def write(task, length, indices, tokenizer=EMBEDDED, seed=0, reserved=1):
    return list(SUITE.samples(task, length, indices, tokenizer, seed=seed, reserved=reserved))


@settings(max_examples=40)
@given(
    task=st.sampled_from(SUITE.tasks),
    length=st.integers(SHORTEST + 100, 3000),
    index=st.integers(0, 50),
    seed=st.integers(0, 3),
    tokenizer=st.sampled_from([EMBEDDED, WORDS]),
)
def test_a_prompt_fits_its_length_and_holds_its_answers(task, length, index, seed, tokenizer):
    if task == "restated":  # its eight keys and what is said of them again take nearly 400 tokens
        length = max(length, 450)
    (sample,) = write(task, length, [index], tokenizer, seed, reserved=20)
    tokens = len(tokenizer.encode(sample.text))
    assert tokens + 20 + MAX_NEW_TOKENS <= length
    for answer in sample.answers:
        # A two-hop answer is put together from two facts; the rest is said in so many words.
        parts = answer.split(". ") if task == "two_hop" else [answer]
        assert all(part in sample.context for part in parts)
        assert answer not in sample.answer_prefix
    assert SUITE.score(sample, f" {', '.join(sample.answers)}.") == 1.0
    assert SUITE.score(sample, "") == 0.0


@pytest.mark.parametrize("index", range(8))
def test_a_length_near_the_shortest_is_kept_or_refused_in_one_line(index):
    for length in range(SHORTEST + 20, 420, 4):
        try:
            (sample,) = write("restated", length, [index], reserved=20)
        except UsageError as refusal:
            words = str(refusal).split()
            assert words[:6] == ["probe:", "length", str(length), "is", "too", "short"]
            assert int(words[-1]) > length
        else:
            assert len(EMBEDDED.encode(sample.text)) + 20 + MAX_NEW_TOKENS <= length


@pytest.mark.parametrize("task", SUITE.tasks)
def test_long_prompts_are_nearly_full(task):
    (sample,) = write(task, 8192, [0])
    assert len(EMBEDDED.encode(sample.text)) + 1 + MAX_NEW_TOKENS > 0.985 * 8192


@pytest.mark.parametrize("task", SUITE.tasks)
def test_a_sample_comes_from_its_number_and_seed_alone(task):
    few, many = write(task, 600, [2]), write(task, 600, range(4))
    assert few == [many[2]]
    assert len({sample.context for sample in many}) == 4
    assert write(task, 600, [2], seed=1)[0].context != few[0].context


def test_single_needles_lie_at_depths_that_cover_the_text():
    depths = sorted(
        sample.context.index(sample.answers[0]) / len(sample.context)
        for sample in write("needle_number", 2000, range(20))
    )
    gaps = [b - a for a, b in zip([0.0, *depths], [*depths, 1.0], strict=True)]
    assert max(gaps) < 0.12


def test_a_length_without_room_is_one_line():
    with pytest.raises(UsageError, match="length 200 is too short for fact; at least 266"):
        write("fact", 200, [0], reserved=10)
