import gzip
import json
import multiprocessing
from dataclasses import replace

import pytest

from fp_bench.suites.cache import SampleCache, cache_folder
from fp_bench.suites.ruler.hermetic.suite import Ruler
from fp_bench.suites.sample import Sample
from tests.suites.tokenizers import Bytes, Words

SAMPLE = Sample("vt/4096/0", "vt", 4096, "context é\n", "question", " prefix", ("a", "b"), 30)


def opened(tokenizer=None, seed=0, reserved=0, data=None, length=4096):
    return SampleCache(Ruler(), "vt", length, tokenizer or Words(), seed, reserved, data or {})


def test_a_sample_is_read_as_it_was_written():
    assert opened().get(0) is None
    opened().put(0, SAMPLE)
    assert opened().get(0) == SAMPLE
    assert opened().get(1) is None


@pytest.mark.parametrize(
    "other", [{"tokenizer": Bytes()}, {"seed": 1}, {"reserved": 1}, {"data": {"words": "x"}}, {"length": 8192}]
)
def test_what_makes_other_samples_is_kept_apart(other):
    opened().put(0, SAMPLE)
    assert opened(**other).get(0) is None


def test_a_new_version_of_the_suite_begins_anew(monkeypatch):
    opened().put(0, SAMPLE)
    monkeypatch.setattr(Ruler, "version", Ruler.version + 1)
    assert opened().get(0) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no JSON", mtime=0),
        gzip.compress(b"[]", mtime=0),
        gzip.compress(json.dumps({"id": 1}).encode(), mtime=0),
        gzip.compress(json.dumps({"answers": []}).encode(), mtime=0),
    ],
)
def test_a_broken_file_is_as_if_absent_and_written_again(content, cache):
    opened().put(0, SAMPLE)
    (file,) = cache.rglob("*.gz")
    whole = file.read_bytes()
    for broken in (content, whole[:-5], whole[:10] + b"\x00\x00" + whole[12:]):
        file.write_bytes(broken)
        assert opened().get(0) is None
    opened().put(0, SAMPLE)
    assert opened().get(0) == SAMPLE


def test_a_folder_that_takes_no_files_is_done_without(cache):
    cache.write_text("not a folder")
    opened().put(0, SAMPLE)
    assert opened().get(0) is None


def _write(_):
    for index in range(20):
        opened().put(index, replace(SAMPLE, id=f"vt/4096/{index}"))


def test_workers_that_write_the_same_samples_do_no_harm(cache):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_write, range(4))
    assert [opened().get(index).id for index in range(20)] == [f"vt/4096/{index}" for index in range(20)]
    assert len([file for file in cache.rglob("*") if file.is_file()]) == 20


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("FP_BENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fp_bench"
