"""How long a run may take: counted by hand on small configurations, and beside what published runs took."""

import re
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, Qwen2_5_VLConfig, Qwen3MoeConfig

from fp_bench.cli.terminal import show_accuracy_plan, show_plan
from fp_bench.errors import UnavailableError
from fp_bench.jobs import cost
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.cost import answer_seconds, cell_seconds, prefill_flop, start_seconds, total, weights_in_use
from fp_bench.jobs.failures import yardstick
from fp_bench.jobs.latency.measure import Effort
from fp_bench.jobs.latency.plan import make_plan as make_latency_plan
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.request import LatencyRequest
from fp_bench.records.reading import read_records
from tests.jobs.accuracy.test_job import request

PUBLISHED = Path(__file__).parents[2] / "results/h100"


def seconds(model, prompts, written=True):
    return answer_seconds(model, prompts, Machine.here(), torch.float32, methods=1, written=written)


SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
ATTENTION = 32 * 16 * (4 + 2 + 2 + 4)
NORMS = 2 * 32


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_without_embeddings(tied):
    config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
    assert weights_in_use(config) == 2 * (ATTENTION + 3 * 32 * 48 + NORMS) + 32


def test_of_experts_only_those_that_a_token_is_sent_to_count():
    config = Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    )
    router, head_norms = 32 * 8, 2 * 16
    assert weights_in_use(config) == 2 * (ATTENTION + 2 * 3 * 32 * 24 + router + head_norms + NORMS) + 32


def test_a_prefill_multiplies_weights_by_tokens_and_heads_by_causal_pairs():
    config = LlamaConfig(**SIZES)
    pairs = 5 * 6 // 2
    assert prefill_flop(config, 1000.0, 5) == (2 * 1000 * 5, 4 * pairs * 2 * 4 * 16)


@pytest.mark.parametrize("config", [MambaConfig(), Qwen2_5_VLConfig()])
def test_of_models_that_the_arithmetic_is_not_about_there_is_no_estimate(config, tmp_path, capsys):
    config.save_pretrained(tmp_path)
    assert seconds(str(tmp_path), {512: 1}) is None
    show_accuracy_plan(make_plan(request()), None, devices=1)
    said = capsys.readouterr().err
    assert "cost: not estimated" in said
    assert "at the rate of" not in said


def test_seconds_grow_with_the_prompts(monkeypatch):
    monkeypatch.setattr(cost, "_seconds_per_flop", lambda *_: 1e-11)
    few, many = (seconds("embedded", prompts) for prompts in ({512: 1}, {512: 500, 2048: 500}))
    assert all(0 < 2 * one < other for one, other in zip(few, many, strict=True))


def test_what_is_compared_writes_nothing(monkeypatch):
    monkeypatch.setattr(cost, "_seconds_per_flop", lambda *_: 1e-11)
    assert seconds("embedded", {512: 9}, written=False).most < seconds("embedded", {512: 9}).most


RUNS = ("all-256k", "rivals", "twice-a", "given-density", "vllm-ttft")
"""On one H100."""


@pytest.mark.parametrize("name", RUNS)
def test_published_times_took_what_is_foretold(name):
    """Foretold from dense attention as it was measured; the checks of the first length lie before its records."""
    records = [record for record in read_records(PUBLISHED / name).records if record.kind == "latency"]
    model = records[0].engine != "operator"
    groups = {}
    for record in records:
        groups.setdefault((record.seq_len, record.layer, record.input), []).append(record)
    found = [start_seconds(len({record.label for record in records}), model=model)]
    for (tokens, *_), group in groups.items():
        dense_call = min(record.median_ms for record in group if record.method == "dense" and record.median_ms) / 1e3
        one = {len(record.samples_ms or ()) for record in group if record.samples_ms} == {1}
        effort = Effort(max(record.round for record in group) + 1, samples=1 if one else None)
        methods = {record.label: record.method for record in group}.values()
        found += [
            cell_seconds(effort, tokens, dense_call, dense=method == "dense", gpu=True, model=model)
            for method in methods
        ]
    least, most = total(found)
    times = [datetime.fromisoformat(record.time).timestamp() for record in records]
    assert least - 10 < max(times) - min(times) < most


@pytest.mark.parametrize("name", ["needle", "ruler-128k", "two-gpus"])
def test_published_answers_took_what_is_foretold(name, monkeypatch):
    monkeypatch.setattr(cost, "_seconds_per_flop", lambda *_: 1 / 650e12)
    gpu = replace(Machine.here(), gpu="NVIDIA H100")
    records = read_records(PUBLISHED / name).records
    prompts = Counter(record.seq_len for record in records)
    methods = len({record.label for record in records})
    least, most = answer_seconds("embedded", prompts, gpu, torch.bfloat16, methods=methods, written=True)
    assert least < sum(record.seconds or 0 for record in records) < most


def test_the_plan_says_from_when_to_when(capsys):
    asked = LatencyRequest.parse({"lens": "256", "methods": "dense", "rounds": 3})
    show_plan(make_latency_plan(asked))
    assert re.search(r"3 records, processes started anew 2 times, about \d+ s to \d+ s$", capsys.readouterr().err, re.M)
    show_accuracy_plan(make_plan(request()), cost.Range(20.0, 600.0), devices=2)
    assert "cost: about 10 s to 5 min on 2 devices" in capsys.readouterr().err


def test_a_launch_more_takes_another_check_and_another_start():
    one, three = (
        cell_seconds(Effort(6, launches), 4096, 0.01, dense=True, gpu=True, model=False) for launches in (1, 3)
    )
    assert three.least - one.least == pytest.approx(2 * (cost.STARTING[0] + cost.CHECKING[0] + 2 * 0.005))
    assert three.most > one.most + 2 * cost.STARTING[1]


def test_a_device_without_memory_is_told_in_one_line():
    with pytest.raises(UnavailableError, match="cpu has no memory left for planning"), yardstick(torch.device("cpu")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), yardstick(torch.device("cpu")):
        raise RuntimeError("something else")
