"""Suites that read data sets: every task of LongBench, LongBench-E, LongBench v2 and InfiniteBench."""

import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites import data_suite
from fp_bench.suites.data_suite import without_middle
from fp_bench.suites.infinitebench.suite import InfiniteBench
from fp_bench.suites.longbench.suite import LongBench, LongBenchE
from fp_bench.suites.longbench.v2 import LongBenchV2
from tests.suites.data_rows import CASES, ROWS, SUITES, right, row, write
from tests.suites.tokenizers import Bytes

BYTES = Bytes()
ROOM = {"math_calc": 60_000}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of files for each suite."""
    return {suite: write(tmp_path_factory.mktemp("data") / suite.full_name(), suite) for suite in SUITES}


def read(suite, task, place, length=None, indices=range(ROWS), **options):
    opened = suite.from_options({"path": str(place)} | options)
    length = length or ROOM.get(task, 4000)
    return list(opened.samples(task, length, indices, BYTES, seed=0, reserved=5))


@pytest.mark.parametrize(("suite", "task"), CASES, ids=[f"{suite.full_name()}-{task}" for suite, task in CASES])
def test_a_task_is_read_fits_its_length_and_is_scored(suite, task, folders):
    samples = read(suite, task, folders[suite])
    assert [sample.id for sample in samples] == [suite.sample_id(task, samples[0].length, n) for n in range(ROWS)]
    opened = suite.from_options({"path": str(folders[suite])})
    assert opened.available(task) == ROWS
    for sample in samples:
        assert len(BYTES.encode(sample.text)) + 5 + sample.max_new_tokens <= sample.length
        assert "The {river} is wide" in sample.text
        assert opened.score(sample, right(sample)) == pytest.approx(1, abs=1e-6)
        assert opened.score(sample, "") == 0
    assert read(suite, task, folders[suite], indices=[2]) == samples[2:]
    (whole,) = read(suite, task, folders[suite], ROOM.get(task, 4000) + 10_000, [0])
    assert whole.cut_tokens == 0
    (cut,) = read(suite, task, folders[suite], suite.max_new_tokens[task] + 400, [0])
    assert cut.cut_tokens > 0


def test_the_issues_counts_of_tasks():
    assert [len(suite.tasks) for suite in SUITES] == [21, 13, 1, 12]


@given(text=st.text(max_size=300), keep=st.integers(2, 200), spare=st.integers(0, 5))
def test_a_long_prompt_loses_its_middle_and_fits(text, keep, spare):
    found, cut = without_middle(text, keep, keep + spare, BYTES)
    ids = BYTES.encode(text)
    assert len(BYTES.encode(found)) <= keep + spare
    if len(ids) <= keep:
        assert (found, cut) == (text, 0)
    else:
        half = (len(ids) - cut) // 2
        assert found == BYTES.decode(ids[:half]) + BYTES.decode(ids[len(ids) - half :])
        if text.isascii():  # nothing is encoded as more than it came from
            assert half == keep // 2


def test_a_prompt_may_be_cut_earlier_than_the_length_says(folders):
    (sample,) = read(LongBench, "qasper", folders[LongBench], 4000, [0], max_prompt="500")
    assert len(sample.text) == 500
    with pytest.raises(
        UsageError, match="length 600 is too short for prompts of 500 tokens and the answer; at least 6"
    ):
        read(LongBench, "qasper", folders[LongBench], 600, max_prompt="500")


@pytest.mark.parametrize("form", ["data folder", "zip", "the zip's folder", "json", "parquet", "the file"])
def test_data_may_lie_in_other_forms(form, folders, tmp_path):
    expected = read(LongBench, "qasper", folders[LongBench])
    file = folders[LongBench] / "qasper.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    place = tmp_path / "place"
    (place / "data").mkdir(parents=True)
    if form == "data folder":
        (place / "data" / file.name).write_bytes(file.read_bytes())
    elif form in ("zip", "the zip's folder"):
        with zipfile.ZipFile(place / "data.zip", "w") as archive:
            archive.write(file, "data/qasper.jsonl")
        place = place / "data.zip" if form == "zip" else place
    elif form == "json":
        (place / "qasper.json").write_text(json.dumps(rows))
    elif form == "parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(place / "qasper.parquet")
    else:
        place = file
    assert read(LongBench, "qasper", place) == expected
    assert LongBench.from_options({"path": str(place)}).available("qasper") == ROWS


@pytest.mark.parametrize("suite", SUITES)
def test_offline_without_data_is_one_line_that_says_what_to_do(suite, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match=rf"{suite.repository.name} cannot be fetched from the hub: ") as caught:
        suite().available(suite.tasks[0])
    assert f"put its files in a folder, and give {suite.full_name()}:path=FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert suite().provenance(suite.tasks[0])["data"].endswith(suite.repository.revision)


def test_what_is_not_in_the_folder_is_one_line(tmp_path):
    with pytest.raises(UnavailableError, match=r"has no qasper\.jsonl; put it there, or name other tasks"):
        read(LongBench, "qasper", tmp_path)
    (tmp_path / "qasper.jsonl").write_text('{"context": "a"}\n')
    with pytest.raises(
        UnavailableError, match=r"sample 0 is not of the data set's form: KeyError: 'input'; .* context"
    ):
        read(LongBench, "qasper", tmp_path, indices=[0])
    (tmp_path / "qasper.jsonl").write_text("no JSON\n")
    with pytest.raises(UnavailableError, match=r"qasper\.jsonl:1 is no JSON"):
        read(LongBench, "qasper", tmp_path, indices=[0])
    (tmp_path / "qasper.jsonl").write_text(json.dumps(row(LongBench, "qasper")) + "\n")
    with pytest.raises(UsageError, match="qasper has no sample 2; ask for fewer"):
        read(LongBench, "qasper", tmp_path, indices=[0, 2])
    with pytest.raises(UsageError, match="longbench has no task 'qasperr'"):
        read(LongBench, "qasperr", tmp_path)


@pytest.mark.parametrize(
    ("suite", "task", "package"),
    [
        (LongBench, "vcsum", "jieba"),
        (LongBenchE, "lcc", "rapidfuzz"),
        (InfiniteBench, "longbook_sum_eng", "rouge_score"),
    ],
)
def test_a_missing_package_is_one_line(suite, task, package, folders, monkeypatch):
    monkeypatch.setattr(data_suite, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UnavailableError, match=rf"{task} is scored with {package}, not installed; pip install"):
        read(suite, task, folders[suite])


def test_groups_are_the_benchmarks(folders):
    ranges = [sample.groups for sample in read(LongBenchE, "qasper", folders[LongBenchE])]
    assert ranges == [("single-document QA", name) for name in ("4-8k", "8k+", "8k+")]
    assert read(LongBench, "lcc", folders[LongBench])[0].groups == ("code",)
    assert read(LongBenchV2, "choice", folders[LongBenchV2])[0].groups == ("hard", "short")


def test_a_users_file_is_named_with_its_hash(folders):
    opened = LongBench.from_options({"path": str(folders[LongBench])})
    assert opened.provenance("qasper")["data"].startswith("qasper.jsonl ")
    assert opened.provenance("qasper") != opened.provenance("hotpotqa")
