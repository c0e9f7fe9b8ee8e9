"""ruler: hermetic samples that fit, on three tokenizers."""

import re
import statistics
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp_bench.errors import UsageError
from fp_bench.methods.registry import Spec
from fp_bench.suites.registry import create_suite
from fp_bench.suites.ruler.hermetic.suite import CACHED_FROM, Ruler
from fp_bench.suites.ruler.tasks import MAX_NEW_TOKENS, TASKS
from tests.suites.tokenizers import Bytes, Words

each_task = pytest.mark.parametrize("task", TASKS)


def written(task, length=4096, indices=range(3), tokenizer=None, seed=0, reserved=0):
    tokenizer = tokenizer or Words()
    return list(Ruler().samples(task, length, indices, tokenizer, seed=seed, reserved=reserved))


def taken(sample, tokenizer, reserved=0):
    return len(tokenizer.encode(sample.text)) + sample.max_new_tokens + reserved


def haystack(sample):
    """Return what is asked about, without a solved example."""
    return sample.context.rsplit("Below is a numbered", 1)[-1].rsplit("Memorize and track", 1)[-1]


@pytest.mark.parametrize("length", [4096, 16384])
def test_samples_fill_their_length_and_never_exceed_it(tokenizer, length):
    shares = []
    for task in TASKS:
        for sample in written(task, length, range(2), tokenizer, reserved=20):
            share = taken(sample, tokenizer, reserved=20) / length
            assert 0.95 <= share <= 1, (task, share)
            shares.append(share)
    assert statistics.mean(shares) >= 0.97


@given(
    task=st.sampled_from(TASKS),
    length=st.integers(3000, 9000),
    index=st.integers(0, 1000),
    seed=st.integers(0, 2**64),
    reserved=st.integers(0, 300),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_length_is_kept(task, length, index, seed, reserved):
    for tokenizer in (Words(), Bytes()):
        (sample,) = written(task, length, [index], tokenizer, seed, reserved)
        assert taken(sample, tokenizer, reserved) <= length
        assert sample.id == f"{task}/{length}/{index}"
        assert sample.max_new_tokens == MAX_NEW_TOKENS[task]


@each_task
def test_a_sample_depends_on_its_own_number_alone(task):
    alone = written(task, indices=[7])
    assert alone == written(task, indices=range(5, 9))[2:3]
    assert alone != written(task, indices=[8])
    assert alone[0].text != written(task, indices=[7], seed=1)[0].text


@each_task
def test_answers_lie_in_the_context_and_not_in_what_asks_for_them(task):
    for sample in written(task):
        suite = Ruler()
        assert all(answer in haystack(sample) for answer in sample.answers)
        assert len(set(sample.answers)) == len(sample.answers)
        assert suite.score(sample, sample.question + sample.answer_prefix) == 0
        assert suite.score(sample, "") == 0
        assert suite.score(sample, " \n" + "\t".join(sample.answers).upper()) == 1
        # Substrings are all that RULER looks for: who passes the prompt along gets full marks.
        assert suite.score(sample, sample.text) == 1


@each_task
def test_too_short_a_length_is_one_line(task):
    with pytest.raises(UsageError, match=f"length 100 is too short for {task}; its shortest prompt and answer take"):
        written(task, 100)


def test_an_unknown_task_gets_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'niah_single_"):
        written("niah_single")


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_2", "niah_multikey_3", "qa_1"])
def test_what_is_asked_for_lies_at_all_depths_evenly(task):
    depths = []
    for sample in written(task, 4096, range(16)):
        titles = re.findall(r"Document \d+:\n(\w+ \w+)", sample.context)
        sought = next((who for who in titles if who in sample.question), f"{sample.answers[0]}.")
        depths.append(sample.context.index(sought) / len(sample.context))
    assert max(after - before for before, after in pairwise([0, *sorted(depths), 1])) < 0.2


def test_needles_have_keys_and_values_of_their_own():
    (sample,) = written("niah_multikey_2", 8192, [0])
    needles = re.findall(r"for (\S+) is: (\S+)\.", sample.context)
    assert len({key for key, _ in needles}) == len({value for _, value in needles}) == len(needles) > 300
    (asked,) = re.findall(r"for (\S+) mentioned", sample.question)
    assert dict(needles)[asked] == sample.answers[0]


def test_several_values_and_several_keys():
    (values,) = written("niah_multivalue", indices=[0])
    assert len(set(re.findall(r"numbers for (\S+) is", values.context))) == 1
    assert values.question.startswith("\nWhat are all the special magic numbers for ")
    (queries,) = written("niah_multiquery", indices=[0])
    assert re.fullmatch(r"\nWhat are all the .* for \S+, \S+, \S+, and \S+ mentioned in .*\?", queries.question)
    found = dict(re.findall(r"for (\S+) is: (\S+)\.", queries.context))
    asked = re.search(r"for (.*) mentioned", queries.question).group(1).replace("and ", "").split(", ")
    assert tuple(found[key] for key in asked) == queries.answers


def test_the_chain_of_variables_is_in_order():
    (sample,) = written("vt", indices=[0])
    lines = re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)", haystack(sample), re.MULTILINE)
    assert tuple(name for name, _ in lines) == sample.answers
    assert [source for _, source in lines[1:]] == list(sample.answers[:-1])
    assert f"value {lines[0][1]} in" in sample.question


@pytest.mark.parametrize(("tokenizer", "times"), [(Words(), (30, 3)), (Bytes(), (6, 1))])
def test_common_words_are_common(tokenizer, times):
    (sample,) = written("cwe", 4096, [0], tokenizer)
    counts = Counter(re.findall(r"\d+\. (\w+)", haystack(sample)))
    assert {word for word, count in counts.items() if count == times[0]} == set(sample.answers)
    assert {count for word, count in counts.items() if word not in sample.answers} == {times[1]}


def test_frequent_words_are_the_most_frequent_after_the_dots():
    (sample,) = written("fwe", indices=[0])
    coded = sample.context.split("coded words. ")[-1].split()
    assert tuple(word for word, _ in Counter(coded).most_common(4)) == ("...", *sample.answers)


def test_two_hops_take_two_documents():
    for sample in written("qa_2", 4096, range(6)):
        company = re.search(r"founder of (\w+ \w+)", sample.question).group(1)
        founder = re.search(rf"{company} was founded by (\w+ \w+)\.", sample.context).group(1)
        document = re.search(rf"\n{founder}\n(.*)", sample.context).group(1)
        assert sample.answers[0] in document
        assert founder not in sample.question


def test_long_prompts_come_from_the_cache_short_ones_do_not(cache, monkeypatch):
    written("fwe", 4096)
    assert not cache.exists()
    before = written("niah_multikey_3", CACHED_FROM, [1, 3])
    assert len(list(cache.rglob("*.gz"))) == 2
    monkeypatch.setattr(Ruler, "_write", None)
    assert written("niah_multikey_3", CACHED_FROM, [1, 3]) == before


def test_the_command_line_knows_all_three():
    for name in ("ruler", "ruler@nvidia", "ruler@files"):
        suite = create_suite(Spec(name))
        assert suite.full_name() == name
        assert suite.tasks == TASKS
