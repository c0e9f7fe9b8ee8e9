"""HELMET's tasks: what is in the prompt, which answer is right, and golden texts."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites.helmet import ACTIONS, CLASSES, LABEL_OPENING, Helmet
from fp_bench.testing import check_suite
from tests.suites.tokenizers import Bytes, Words

SUITE, BYTES, WORDS = Helmet(), Bytes(), Words()


def write(task, length, indices, tokenizer=WORDS, seed=0, suite=SUITE):
    return list(suite.samples(task, length, indices, tokenizer, seed=seed, reserved=3))


@settings(max_examples=20)
@given(length=st.integers(1500, 6000), index=st.integers(0, 40), tokenizer=st.sampled_from([BYTES, WORDS]))
def test_the_object_is_json_and_holds_the_key_at_its_depth(length, index, tokenizer):
    (sample,) = write("json_kv", length, [index], tokenizer)
    assert 0.85 * length < len(tokenizer.encode(sample.text)) + 3 + 100 <= length
    found = json.loads(sample.context)
    *demonstrated, asked = re.findall(r"Key: (\S+)", sample.question)
    assert sample.answers == (found[asked],)
    assert re.findall(r"Value: (\S+)", sample.question) == [found[key] for key in demonstrated]
    assert len({asked, *demonstrated}) == 3
    assert list(found).index(asked) / len(found) == pytest.approx(sample.depth, abs=0.25)
    assert sample.text.endswith("\nValue:")


def examples(sample):
    shown = sample.context.removeprefix(LABEL_OPENING).split("\n\n")
    return [(text, label) for text, _, label in (each.partition("\nlabel: ") for each in shown)]


def about(text):
    """Return the action and the thing of one of our texts."""
    thing = r"(?:the|my|an?) \w+ (\w+)"
    ((action, found),) = {
        (number, found[1])
        for number, wordings in enumerate(ACTIONS)
        for wording in wordings
        if (found := re.search(wording.format(thing) + "[.,?]", text))
    }
    return action, found


@settings(max_examples=15)
@given(task=st.sampled_from(list(CLASSES)), index=st.integers(0, 40), seed=st.integers(0, 3))
def test_examples_are_balanced_and_the_last_text_has_the_label_of_its_like(task, index, seed):
    (sample,) = write(task, 5000, [index], seed=seed)
    shown = examples(sample)
    counts = Counter(label for _, label in shown)
    assert set(map(int, counts)) == set(range(CLASSES[task]))
    assert max(counts.values()) - min(counts.values()) <= 1
    asked = sample.question.strip()
    assert asked not in [text for text, _ in shown]
    assert sample.answers == ({about(text): label for text, label in shown}[about(asked)],)
    assert sample.stop == ("\n",)


def test_a_class_is_one_action_with_one_thing_and_others_share_either():
    (sample,) = write("icl_50", 6000, [3])
    kinds = {}
    for text, label in examples(sample):
        kinds.setdefault(label, set()).add(about(text))
    assert all(len(found) == 1 for found in kinds.values())
    found = set().union(*kinds.values())
    assert len(found) == 50
    assert (len({action for action, _ in found}), len({thing for _, thing in found})) == (8, 7)


def test_samples_do_not_depend_on_which_are_asked_for():
    together = write("icl_6", 1500, range(4))
    assert write("icl_6", 1500, [2]) == [together[2]]
    assert write("icl_6", 1500, range(4), seed=1) != together
    assert len({sample.answers for sample in write("icl_6", 1500, range(12))}) > 2


def test_what_counts_as_right():
    (value,) = write("json_kv", 1500, [0])
    assert SUITE.score(value, f" {value.answers[0]}\n\nKey: next") == 1.0
    assert SUITE.score(value, value.answers[0][:-1]) == 0.0
    (text,) = write("icl_6", 1500, [0])
    (label,) = text.answers
    wrong = str(int(label) + 1)
    for right in (f" {label}", f"label: {label}", f"{label}.\nlabel: {wrong}"):
        assert SUITE.score(text, right) == 1.0
    for other in (wrong, f"{label}0", f"the label is {label}", ""):
        assert SUITE.score(text, other) == 0.0


def test_golden_texts():
    for task, golden in json.loads((Path(__file__).parent / "golden_helmet.json").read_text()).items():
        (sample,) = write(task, golden["length"], [1])
        assert sample.text == golden["text"]
        assert list(sample.answers) == golden["answers"]


def test_the_users_texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"text": f"{label} number {n}", "label": label} for label in ("cats", "dogs", "owls") for n in range(9)]
    rows.append({"text": "one alone", "label": "newts"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = Helmet.from_options({"texts": str(file)})
    for sample in write("icl_texts", 900, range(5), suite=suite):
        shown = examples(sample)
        label_of = {text.split()[0]: label for text, label in shown}
        assert sorted(label_of) == ["cats", "dogs", "owls"]
        assert sorted(label_of.values()) == ["0", "1", "2"]
        asked = sample.question.strip()
        assert sample.answers == (label_of[asked.split()[0]],)
        assert asked not in [text for text, _ in shown]
        assert len(shown) > 27
    assert check_suite(Helmet, {"texts": str(file)}, length=12_000) == []
    assert suite.provenance("icl_texts")["texts"] != str(file)
    assert suite.provenance("icl_6") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "needs texts; give helmet:texts=FILE"),
        ('{"text": "a", "label": 1}\n', "no two labels with two texts"),
        ('{"text": "a"}\n', "row 1 has no text and label"),
        ('{"text": 3, "label": 1}\n', "row 1 has no text and label"),
        ("x\n", "is no JSON"),
    ],
)
def test_texts_that_are_none_are_one_line(tmp_path, content, words):
    options = {}
    if content is not None:
        (tmp_path / "t.jsonl").write_text(content)
        options = {"texts": str(tmp_path / "t.jsonl")}
    with pytest.raises(UnavailableError, match=words) as error:
        write("icl_texts", 900, [0], suite=Helmet.from_options(options))
    assert "\n" not in str(error.value)


def test_too_short_a_length_says_how_long_it_must_be():
    with pytest.raises(UsageError, match=r"length 1000 is too short for icl_151; its shortest .* take \d+"):
        write("icl_151", 1000, [0])
