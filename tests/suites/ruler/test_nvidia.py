"""ruler@nvidia: the same bytes as NVIDIA's generators."""

import hashlib
import json
import random
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.methods.registry import Spec
from fp_bench.suites.registry import create_suite
from fp_bench.suites.ruler.nvidia import sources
from fp_bench.suites.ruler.nvidia.suite import NvidiaRuler
from fp_bench.suites.ruler.nvidia.wonderwords import Pairs, WordLists
from tests.suites.ruler import made_up
from tests.suites.tokenizers import Words

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())["vectors"]
GOLDEN_MADE_UP = json.loads((HERE / "golden_made_up.json").read_text())
DROPPED_NOUNS = {"abortion", "brocolli", "idiot", "pray"}
"""What wonderwords 2.2.0 has and 3.0.1 has not; nothing else differs."""

try:
    INSTALLED = version("wonderwords")
except PackageNotFoundError:
    INSTALLED = None
needs_words = pytest.mark.skipif(
    INSTALLED not in ("2.2.0", "3.0.1"), reason="needs the word lists of wonderwords: pip install wonderwords==3.0.1"
)


@pytest.fixture
def word_lists(tmp_path):
    """Return a function that gives the folder with the word lists of a version."""

    def folder(wanted):
        assets = Path(__import__("wonderwords").__file__).parent / "assets"
        target = tmp_path / wanted
        target.mkdir()
        for name in ("nounlist.txt", "adjectivelist.txt", "verblist.txt"):
            words = set((assets / name).read_text(encoding="utf-8").splitlines())
            if name == "nounlist.txt":
                words = words | DROPPED_NOUNS if wanted == "2.2.0" else words - DROPPED_NOUNS
            (target / name).write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")
        return str(target)

    return folder


@pytest.fixture
def made_up_data(tmp_path):
    return made_up.write(tmp_path)


def written(suite, task, length, indices=range(3), reserved=0, seed=42):
    return list(suite.samples(task, length, indices, Words(), seed=seed, reserved=reserved))


def digest(sample):
    return hashlib.sha256(sample.text.encode()).hexdigest()


@needs_words
@pytest.mark.parametrize(
    "vector", GOLDEN, ids=lambda vector: f"{vector['task']}-{vector['max_seq_length']}-{vector['wonderwords']}"
)
def test_golden_vectors(vector, word_lists):
    suite = NvidiaRuler.from_options({"wonderwords": word_lists(vector["wonderwords"])})
    samples = written(suite, vector["task"], vector["max_seq_length"])
    for sample, golden in zip(samples, vector["samples"], strict=True):
        assert digest(sample) == golden["sha256"]
        assert list(sample.answers) == golden["outputs"]
        assert len(sample.text) == golden["chars"]
        assert len(Words().encode(sample.text)) + sample.max_new_tokens == golden["length"]


@needs_words
@pytest.mark.parametrize(
    "vector", GOLDEN_MADE_UP, ids=lambda vector: f"{vector['task']}-{vector['length']}-{vector['seed']}"
)
def test_all_thirteen_tasks_on_made_up_data(vector, word_lists, made_up_data):
    suite = NvidiaRuler.from_options({"wonderwords": word_lists("3.0.1"), **made_up_data})
    samples = written(suite, vector["task"], vector["length"], reserved=vector["reserved"], seed=vector["seed"])
    assert [digest(sample) for sample in samples] == vector["sha256"]
    assert [list(sample.answers) for sample in samples] == vector["answers"]


def test_the_installed_word_lists_are_used_and_named():
    if INSTALLED is None:
        pytest.skip("wonderwords is not installed")
    named = create_suite(Spec("ruler@nvidia")).provenance("cwe")
    assert named["wonderwords"] == INSTALLED
    assert named["words"] == WordLists.installed().fingerprint
    assert "wonderwords" not in create_suite(Spec("ruler@nvidia")).provenance("vt")


def test_without_wonderwords_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match=r"pip install 'fp_bench\[suites\]'"):
        written(NvidiaRuler(), "cwe", 4096)
    assert len(written(NvidiaRuler(), "niah_multikey_3", 4096)) == 3


def test_a_sample_does_not_depend_on_which_others_are_asked_for(cache):
    assert written(NvidiaRuler(), "vt", 4096, [2, 5]) == [
        written(NvidiaRuler(), "vt", 4096, range(6))[i] for i in (2, 5)
    ]
    for file in cache.rglob("*.gz"):
        file.unlink()
    assert written(NvidiaRuler(), "vt", 4096, [5]) == written(NvidiaRuler(), "vt", 4096, range(6))[5:]


def test_what_was_drawn_before_is_read_from_the_cache(monkeypatch):
    before = written(NvidiaRuler(), "fwe", 2048)
    monkeypatch.setattr(NvidiaRuler, "_generate", None)
    assert written(NvidiaRuler(), "fwe", 2048, [0, 2]) == [before[0], before[2]]


def test_global_random_numbers_are_left_alone():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    written(NvidiaRuler(), "vt", 4096)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("task", ["niah_multikey_3", "vt", "fwe"])
@pytest.mark.parametrize("length", [1, 64, 190])
def test_an_endless_loop_of_the_original_is_a_usage_error(task, length):
    with pytest.raises(UsageError, match=f"{task} does not fit length {length} "):
        written(NvidiaRuler(), task, length)


def test_a_seed_that_numpy_refuses():
    with pytest.raises(UsageError, match="seed -1 is not between 0 and 4294967295"):
        written(NvidiaRuler(), "vt", 4096, seed=-1)


@needs_words
@pytest.mark.parametrize(
    ("task", "option"), [("niah_single_2", "essays"), ("qa_1", "squad"), ("qa_2", "hotpotqa"), ("cwe", "english_words")]
)
def test_missing_data_is_one_line_with_the_task_and_the_option(task, option, tmp_path):
    with pytest.raises(UnavailableError, match=f"{task}.*{option}=FILE") as caught:
        written(NvidiaRuler(), task, 131072 if task == "cwe" else 4096)
    assert "\n" not in str(caught.value)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"no": 1}')
    for path in (wrong, tmp_path / "absent.json"):
        if option == "english_words" and path == wrong:
            continue
        with pytest.raises(UnavailableError, match=f"{task}: .*{path.name}") as caught:
            written(NvidiaRuler.from_options({option: str(path)}), task, 131072 if task == "cwe" else 4096)
        assert "\n" not in str(caught.value)


def test_more_questions_than_there_are(made_up_data):
    suite = NvidiaRuler.from_options(made_up_data)
    with pytest.raises(UsageError, match="qa_2: the data has 30 questions"):
        written(suite, "qa_2", 4096, [30])


def test_essays_may_be_a_text_or_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("three\n\nfour")
    (tmp_path / "a.txt").write_text("one  two\n")
    assert sources.essay_words("niah", str(tmp_path)) == ["one", "two", "three", "four"]
    assert sources.essay_words("niah", str(tmp_path / "b.txt")) == ["three", "four"]


def test_the_hub_gives_squad_as_the_file_does(made_up_data, monkeypatch):
    articles = json.loads(Path(made_up_data["squad"]).read_text())["data"]
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [] if asked["is_impossible"] else [answer["text"] for answer in asked["answers"]]},
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    asked_for = []
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: asked_for.append((a, k)) or rows)
    assert sources.squad("qa_1", "hub") == sources.squad("qa_1", made_up_data["squad"])
    assert asked_for == [((sources.SQUAD[0],), {"revision": sources.SQUAD[1], "split": "validation"})]


def test_a_folder_named_as_a_data_set_of_the_hub_is_not_taken_for_it(monkeypatch, tmp_path):
    (tmp_path / "rajpurkar" / "squad_v2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match="qa_1: rajpurkar/squad_v2 of the hub cannot be read where a folder"):
        sources.squad("qa_1", "hub")


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def refuse(*_args, **_options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(UnavailableError, match=r"qa_1: rajpurkar/squad_v2 cannot be fetched from the hub: no route$"):
        sources.squad("qa_1", "hub")


heads = st.sets(st.text("ab-", min_size=1, max_size=4), min_size=1, max_size=6)


@given(adjectives=heads, nouns=heads)
def test_pairs_are_all_keys_in_order(adjectives, nouns):
    pairs = Pairs(sorted(adjectives), sorted(nouns))
    assert list(pairs) == sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})
