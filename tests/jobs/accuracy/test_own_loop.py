"""The job's KL, against a loop over transformers that shares no code with the package."""

import pytest
import torch

from benchmarks.own_loop import divergences
from fp_bench.methods.registry import Spec
from fp_bench.models.embedded import path
from tests.jobs.accuracy.test_job import records_of, request

SENTENCES = "The quick brown fox jumps over the lazy dog. The magic number for maple is 4821. We walk on, and on. "


def test_an_independent_loop_finds_the_same_divergence(tmp_path):
    text = "".join(f"{number}: {SENTENCES}" for number in range(80))
    (tmp_path / "text.txt").write_text(text)
    suites = [Spec("fidelity", {"text": str(tmp_path / "text.txt")})]
    methods = [Spec("flashprefill", {"alpha": "0.9"})]
    asked = request(suites=suites, tasks=None, methods=methods, lens=[1500], samples=1)
    (record,) = records_of(tmp_path / "run", asked)
    assert record.kl > 0.001
    (independent,) = divergences(str(path()), text, 1500, 1, 0.9, torch.float32)
    assert record.kl == pytest.approx(independent, rel=0.01)
