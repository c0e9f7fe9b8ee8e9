"""Training texts are what the tokenizer makes of the suites' own wording, for every task."""

import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from fp_bench.methods.registry import Spec
from fp_bench.suites.probe import text as probe_text
from fp_bench.suites.registry import create_suite
from fp_bench.suites.ruler import templates
from fp_bench.suites.ruler.hermetic import prose
from fp_bench.suites.ruler.tasks import NEEDLES, chain, numbered_list
from training import probe_pages, ruler_pages
from training.curriculum import WRITERS, Curriculum
from training.exam import answer_to, paper
from training.lexicon import Lexicon
from training.page import Answer, Page, TooShortError
from training.pen import Pen
from training.tokenizer import EOS, UNKNOWN, vocabulary


@cache
def tokenizer():
    return vocabulary()


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon(tokenizer(), 0, pool=3000)


class OneQuestion(Pen):
    """Writes texts as suites do."""

    def questions(self, page):  # noqa: ARG002
        return 1


def written(write, lexicon, seed, length=1024, pen=OneQuestion):
    """Return the ids of a text without its end, the text, and where its last answer begins."""
    for attempt in range(20):
        page = Page(length)
        try:
            write(pen(lexicon, np.random.default_rng([seed, attempt])), page)
            ids, answers = page.finished()
        except TooShortError:
            continue
        assert len(ids) <= length
        begin, last = answers[-1]
        assert ids[-1] == EOS
        assert begin + len(last.ids) == len(ids)
        return ids.tolist(), tokenizer().decode(ids[:begin].tolist()), begin
    raise AssertionError("too short")


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("length", [256, 700, 2048])
def test_ids_are_what_the_tokenizer_makes_of_the_text(name, length, lexicon):
    for seed in range(6):
        ids, _, _ = written(WRITERS[name][0], lexicon, seed, length, pen=Pen)
        read = [token for token in ids if token != EOS]
        assert UNKNOWN not in read
        assert tokenizer().encode(tokenizer().decode(read)) == read


@pytest.mark.parametrize("task", list(NEEDLES))
@pytest.mark.parametrize("spelled", [False, True])
def test_needle_texts_are_rulers(task, spelled, lexicon):
    needles = NEEDLES[task]

    def write(pen, page):
        ruler_pages.hide(pen, page, needles, spelled=spelled, key_count=needles.key_count * 4)

    ids, text, begin = written(write, lexicon, 1)
    assert tokenizer().encode(text) == ids[:begin]
    template = needles.template
    opening = template.task.split("{context}")[0]
    kind = needles.values if template == templates.NIAH else needles.values.removesuffix("s")
    opening = opening.format(type_needle_v=kind)
    assert text.startswith(opening)
    asked = re.findall(r" for (\S+(?:, \S+)*(?:, and \S+)?) mentioned in the provided text", text)
    assert len(asked) == 2
    keys = re.split(r", and |, ", asked[0])
    assert len(keys) == needles.queries
    context = text[len(opening) : text.rindex("\nWhat ")]
    assert needles.prompt(context, keys).text == text
    stated = dict.fromkeys(keys, 0)
    between = " " if needles.haystack == "essay" else "\n"
    for key, value in re.findall(r"for (\S+) is: (\S+)\.", context):
        line = needles.sentence(key, value)
        assert line + between in context + between
        context = context.replace(line, "", 1)
        if key in stated:
            stated[key] += 1
    assert set(stated.values()) == {needles.values_per_key}
    rest = [line for line in re.split(r"(?<=\.) +|\n", context) if line.strip()]
    if needles.haystack == "essay":
        patterns = [re.sub(r"\\{\w\\}", r"[\\w-]+", re.escape(p)) for p in prose.PATTERNS]
        patterns = [re.sub(r"\b([Aa])\\ ", r"\1n?\\ ", p) for p in patterns]
        assert all(any(re.fullmatch(pattern, line) for pattern in patterns) for line in rest), rest
    else:
        assert set(rest) <= set(templates.NOISE.replace(". ", ".\n").splitlines())
        assert needles.haystack == "noise" or not rest


def test_variable_tracking_is_rulers(lexicon):
    seen = set()
    for seed in range(24):
        ids, text, begin = written(ruler_pages.variable_tracking, lexicon, seed, 2048)
        assert tokenizer().encode(text) == ids[:begin]
        parts = text.split(templates.VARIABLE_TRACKING.task.split("\n\n")[0])
        assert len(parts) == 3, "an example, then what is asked"
        for part, end in zip(parts[1:], (r"\n\n", ""), strict=True):
            context = part[2 : part.index("\nQuestion")]
            statements = dict(re.findall(r"VAR (\w+) = (.*)\n", context + "\n"))
            value = re.findall(r"value (\d+) in", part)[0]
            names = [next(name for name, source in statements.items() if source == value)]
            while followers := [name for name, source in statements.items() if source == f"VAR {names[-1]} "]:
                names += followers
            lines = chain(names, value)
            assert all(line in context.split("\n") for line in lines)
            places = [context.index(line) for line in lines]
            assert all(first < second for first, second in pairwise(places))
            others = [line for line in context.split("\n") if not line.startswith("VAR")]
            assert set(others) <= {templates.NOISE, ""}
            prompt = templates.VARIABLE_TRACKING.fill(context, query=value, num_v=len(names)).text
            shown = templates.VARIABLE_TRACKING.task.split("\n\n")[0] + part
            assert re.fullmatch(re.escape(prompt) + (f" ?{' '.join(names)}{end}" if end else ""), shown)
            seen.add((len(statements), len(names)))
        learnt = tokenizer().decode(ids[begin:]).split()
        assert learnt == names
    assert (5, 5) in seen
    assert len(seen) > 3


def test_common_words_are_rulers(lexicon):
    ids, text, begin = written(ruler_pages.common_words, lexicon, 0, 4096)
    assert tokenizer().encode(text) == ids[:begin]
    opening, question = templates.COMMON_WORDS.task.split("{context}")
    _, example, asked = text.split(opening)
    for part in (example, asked):
        listed, _, answer = part.partition(question + templates.COMMON_WORDS.answer_prefix)
        words = re.findall(r"\d+\. (\w+)", listed)
        assert numbered_list(words) == listed
        counts = {word: words.count(word) for word in words}
        common = sorted(words, key=lambda word: -counts[word])[: 10 * counts[max(counts, key=counts.get)]]
        told = answer if part is example else tokenizer().decode(ids[begin:])
        answers = re.findall(r"\d+\. (\w+)", told)
        assert told == f" {numbered_list(answers)}" + ("\n" if part is example else "")
        assert set(answers) == set(common)
        assert len(answers) == 10


def test_frequent_words_are_rulers(lexicon):
    ids, text, begin = written(ruler_pages.frequent_words, lexicon, 0, 4096)
    assert tokenizer().encode(text) == ids[:begin]
    opening, question = templates.FREQUENT_WORDS.task.split("{context}")
    context = text[len(opening) : text.index(question)]
    assert templates.FREQUENT_WORDS.fill(context).text == text
    words = context.split(" ")
    ranked = sorted(set(words), key=lambda word: -words.count(word))
    assert ranked[0] == "..."
    assert set(tokenizer().decode(ids[begin:]).split()) == set(ranked[1:4])


def test_documents_are_rulers(lexicon):
    hops = set()
    for seed in range(6):
        ids, text, begin = written(ruler_pages.documents, lexicon, seed, 2048)
        assert tokenizer().encode(text) == ids[:begin]
        opening, question = templates.QA.task.split("{context}")
        query = text[text.rindex("Question: ") + 10 : -len(" Answer:")]
        context = text[len(opening) : text.rindex(question.replace("{query}", query))]
        assert templates.QA.fill(context, query=query).text == text
        documents = context.split("\n\n")
        assert [each.split("\n")[0] for each in documents] == [f"Document {i + 1}:" for i in range(len(documents))]
        answer = tokenizer().decode(ids[begin:])
        assert answer.rstrip(".").split(". ")[-1].strip() in context
        hops.add("founder of" in query)
    assert hops == {True, False}


def test_probe_texts_are_the_probes(lexicon):
    for write in (probe_pages.needles, probe_pages.question_first, probe_pages.documents):
        for seed in range(8):
            ids, text, begin = written(write, lexicon, seed, 700)
            assert tokenizer().encode(text) == ids[:begin]
            assert text.startswith(probe_text.OPENING)
            assert re.search(r"\n\n(Question: .*\?\n)?Answer: [^\n]*$", text)
            for key, kind, value in re.findall(r" The magic (\w+) for (\w+ \w+) is ([#\w-]+)\.", text.split("\n\n")[0]):
                assert probe_text.needle(kind, value, key) in text


def test_a_question_first_needs_no_more_keys_than_are_left(lexicon, monkeypatch):
    two = lexicon.probe_keys(np.random.default_rng(0), 8)[:2]
    monkeypatch.setattr(Lexicon, "probe_keys", lambda *_: two)
    _, text, _ = written(probe_pages.question_first, lexicon, 0)
    assert len(re.findall("The magic number for", text)) == 2


@pytest.mark.parametrize("suite", ["ruler", "probe", "ruler@nvidia"])
def test_the_samples_of_every_task_have_an_answer_as_it_is_taught(suite):
    suite = create_suite(Spec(suite))
    offline = [task for task in suite.tasks if suite.variant == "" or not task.startswith(("qa", "niah"))]
    for task in offline:
        for sample in suite.samples(task, 4096 if suite.variant else 2048, [0], tokenizer(), seed=3, reserved=1):
            answer = answer_to(sample, tokenizer())
            text = tokenizer().decode(answer.ids.tolist())
            assert suite.score(sample, text) == 1.0, (task, text)
            assert len(answer.ids) < sample.max_new_tokens
            assert paper(sample, tokenizer()).ids.tolist()[1:] == [
                *tokenizer().encode(sample.text),
                *answer.ids.tolist(),
            ]


def test_a_batch_comes_from_its_step_alone(lexicon):
    curriculum = Curriculum(tokens=2048, pool=3000)
    first, again, other = (curriculum.batch(step, lexicon) for step in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.ids, other.ids)
    assert first.weights.sum() == pytest.approx(1, abs=1e-5)
    targets = first.ids.reshape(-1)[first.places + 1]
    assert (first.choices[np.arange(len(first.rows))] == targets[first.rows][:, None]).any(1).all()


def test_any_order_is_right():
    ids = [np.array(word, dtype=np.int16) for word in ([5, 6], [5, 7], [8, 9])]
    answer = Answer.any_order(ids)
    assert answer.ids.tolist() == [5, 6, 5, 7, 8, 9]
    assert answer.choices == [(0, [5, 8]), (1, [6, 7]), (2, [5, 8])]


def test_words_of_the_suites_are_whole_and_others_are_spelled():
    assert len(tokenizer()) < 7000
    for text in (" gentle-harbor", " Greta", " lives in", " VAR", " One", "One", " terrier"):
        assert len(tokenizer().encode(text)) == len(re.findall(r" ?\w+|-", text))
    for text, tokens in (
        (" katepi", 2),
        (" VAR ABCDE =", 5),
        (" 1234567", 7),
        (" xqkzpw", 3),
        ("  naïve ü 日本\n", None),
    ):
        ids = tokenizer().encode(text)
        assert tokenizer().decode(ids) == text
        assert tokens in (None, len(ids))
    uuid = "8f14e45f-ceea-467f-9575-6c0b7cd0f1d2"
    assert tokenizer().encode(f" {uuid}")[1:] == tokenizer().encode(uuid)
    assert len(tokenizer().encode(uuid)) == 20
