"""ruler@files: three forms of sets that others have generated."""

import json

import pytest

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites.ruler.files import RulerFiles
from fp_bench.suites.ruler.hermetic.suite import Ruler
from fp_bench.suites.ruler.tasks import TASKS
from tests.suites.tokenizers import Words


def ours(task, count=3):
    return list(Ruler().samples(task, 2048, range(count), Words(), seed=0, reserved=0))


def read(path, task, length=2048, indices=(0, 2)):
    suite = RulerFiles.from_options({"path": str(path)})
    return list(suite.samples(task, length, indices, Words(), seed=0, reserved=0))


def lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def nvidia_row(sample, length=2000):
    return {
        "index": 7,
        "input": sample.context + sample.question,
        "outputs": list(sample.answers),
        "length": length,
        "answer_prefix": sample.answer_prefix,
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("folder", ["", "2048", "2048/data"])
def test_nvidia_folders_give_the_same_samples_back(task, folder, tmp_path):
    samples = ours(task)
    lines(tmp_path / folder / task / "validation.jsonl", map(nvidia_row, samples))
    assert read(tmp_path, task) == [samples[0], samples[2]]


def test_a_set_of_another_length_is_refused(tmp_path):
    lines(tmp_path / "vt" / "validation.jsonl", map(nvidia_row, ours("vt")))
    with pytest.raises(UsageError, match="samples of 2000 tokens, not 8192"):
        read(tmp_path, "vt", 8192)
    with pytest.raises(UsageError, match="samples of 2000 tokens, not 1024"):
        read(tmp_path, "vt", 1024)


@pytest.mark.parametrize("answers", [[], [""], ["12", " "], ""])
def test_an_empty_answer_is_refused(answers, tmp_path):
    lines(tmp_path / "vt" / "validation.jsonl", [nvidia_row(ours("vt")[0]) | {"outputs": answers}])
    with pytest.raises(UnavailableError, match=r"validation.jsonl: sample 0 of vt has an empty answer: \['?"):
        read(tmp_path, "vt", 2048, [0])


def test_helmet_rows_become_helmets_prompts(tmp_path):
    row = {"context": "One {of} 1.", "query": "a-b", "type_needle_v": "number", "outputs": ["1"], "index": 0}
    lines(tmp_path / "niah_mk_2" / "validation_4096.jsonl", [row])
    (sample,) = read(tmp_path, "niah_multikey_2", 4096, [0])
    assert sample.text == (
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the number afterwards.\nOne {of} 1.\nWhat is the special magic number for a-b mentioned in the provided text?"
        "\nThe special magic number for a-b mentioned in the provided text is"
    )
    assert (sample.answers, sample.max_new_tokens) == (("1",), 50)
    row = {"context": "1. a", "example": "solved", "answer": ["a"], "query": ""}
    lines(tmp_path / "cwe" / "validation_4096.jsonl", [row])
    (sample,) = read(tmp_path, "cwe", 4096, [0])
    assert sample.text.startswith("solved\n\nBelow is a numbered list")
    assert sample.text.endswith("in the above list?\nAnswer: The top 10 words that appear most often in the list are:")
    assert sample.max_new_tokens == 100
    lines(tmp_path / "fwe" / "validation_4096.jsonl", [{"context": "... x", "answer": ["x"]}])
    assert "coded words.\n... x\nQuestion" in read(tmp_path, "fwe", 4096, [0])[0].text


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("place", ["", "2048"])
def test_kvpress_rows_of_all_tasks_in_one_file(kind, place, tmp_path, monkeypatch):
    samples = {task: ours(task) for task in ("vt", "qa_1")}
    rows = [
        {
            "context": sample.context,
            "question": sample.question,
            "answer_prefix": sample.answer_prefix,
            "answer": list(sample.answers),
            "task": task,
            "max_new_tokens": str(sample.max_new_tokens),
        }
        for task in samples
        for sample in samples[task]
    ]
    file = tmp_path / place / f"test.{kind}"
    if kind == "jsonl":
        lines(file, rows)
    else:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
        file.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(file)
    for task, expected in samples.items():
        assert read(tmp_path, task) == [expected[0], expected[2]]
        assert read(file, task, indices=[1]) == expected[1:2]
    with pytest.raises(UsageError, match="cwe has no sample 0; ask for fewer"):
        read(tmp_path, "cwe")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"index": 0}\n', "sample 0 of vt has no field 'context'; fields: index"),
        ('{"input": "x"}\n', "has no field 'outputs'"),
        ("[1]\n", "validation.jsonl:1 is no JSON object"),
        ('{"input": "x", "outputs": ["y"], "length": 2048}\n{"inp', "validation.jsonl:2 is no JSON"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_broken_rows_are_one_line(content, said, tmp_path):
    (tmp_path / "vt").mkdir()
    (tmp_path / "vt" / "validation.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnavailableError, match=said) as caught:
        read(tmp_path, "vt", indices=[0, 1])
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="needs path=FOLDER"):
        read("", "vt")
    with pytest.raises(UnavailableError, match="absent is neither a folder nor a file"):
        read(tmp_path / "absent", "vt")
    with pytest.raises(UnavailableError, match=r"has neither vt/validation\.jsonl"):
        read(tmp_path, "vt")
    lines(tmp_path / "vt" / "validation.jsonl", map(nvidia_row, ours("vt")))
    with pytest.raises(UsageError, match="vt has no sample 3; ask for fewer"):
        read(tmp_path, "vt", indices=[2, 3])
