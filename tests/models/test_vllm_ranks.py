"""What ``tests.soak.vllm_ranks`` says of tokens; its engines need two GPUs."""

import sys
from pathlib import Path

import pytest

from tests.soak import vllm_ranks
from tests.soak.vllm_ranks import ENGINES, Answer, compare, compared, read, table, write, wrong

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "h200" / "vllm-ranks"


def answer(*steps):
    """Each step: the chosen token, and tokens with their log-probabilities."""
    return Answer(2048, [chosen for chosen, _ in steps], [[*known.items()] for _, known in steps])


BASE = answer((7, {7: -0.1, 8: -3.0}), (5, {5: -1.0, 6: -1.1}), (9, {9: -0.2, 4: -2.0}))
NEAR = answer((7, {7: -0.1, 8: -3.0}), (6, {6: -0.9, 5: -1.1}), (3, {3: -0.1, 2: -4.0}))
OTHER = answer((8, {8: -0.5, 7: -1.5}), (5, {5: -1.0, 6: -1.1}), (9, {9: -0.2, 4: -2.0}))
THIRD = answer((7, {7: -0.1, 8: -3.0}), (1, {1: -1.0, 5: -1.0}), (9, {9: -0.2, 4: -2.0}))
BELOW = answer((7, {7: -0.1, 8: -3.0}), (4, {6: -1.0, 5: -1.0, 4: -1.0}), (9, {9: -0.2, 4: -2.0}))
KNOWN = answer((7, {7: -0.1, 8: -3.0}), (5, {6: -1.0, 4: -1.1, 5: -1.1}), (9, {9: -0.2, 4: -2.0}))


@pytest.mark.parametrize(
    ("one", "other", "equal", "gap"),
    [
        (BASE, BASE, 3, None),
        (BASE, NEAR, 1, 0.2),  # what follows a difference is not compared
        (NEAR, BASE, 1, 0.2),
        (BASE, OTHER, 0, 2.9),
        (BASE, THIRD, 1, float("inf")),
        (BELOW, KNOWN, 1, 0.1),
    ],
)
def test_answers_are_equal_up_to_the_first_difference(one, other, equal, gap):
    found = compare(one, other)
    assert found.equal == equal
    assert found.gap == (gap if gap is None else pytest.approx(gap))


def answers(**changed):
    """All engines, which answer alike except those named."""
    return {name: [changed.get(name, BASE)] for name in ENGINES}


def test_sparse_engines_are_compared_with_each_other_alone():
    pairs = list(compared(answers()))
    assert len(pairs) == 7
    assert [pair for pair in pairs if "sparse1" in pair or "sparse2" in pair] == [("sparse1", "sparse2")]


@pytest.mark.parametrize(
    ("changed", "code"), [({}, 0), ({"all2": NEAR}, 0), ({"sparse2": OTHER}, 1), ({"own2": THIRD}, 1)]
)
def test_only_a_real_difference_fails(changed, code, tmp_path, monkeypatch, capsys):
    write(tmp_path / "tokens.json", answers(**changed))
    monkeypatch.setattr(sys, "argv", ["vllm_ranks", "--table", str(tmp_path / "tokens.json")])
    with pytest.raises(SystemExit) as done:
        vllm_ranks.main()
    assert done.value.code == code
    assert ("fine" in capsys.readouterr().out) == (code == 0)


def test_a_difference_names_its_engines_and_its_place():
    (problem,) = wrong(compared(answers(sparse2=OTHER)))
    assert problem == "sparse1 and sparse2 differ at 2048 after 0 tokens, gap 2.900"


VLLM = """
import os
from types import SimpleNamespace

class LLM:
    def __init__(self, model, **options):
        self.plug_in = options.get("attention_backend") == "CUSTOM"
        self.sparse = os.environ["FPBENCH_METHOD"] == "flashprefill:alpha=0.5"
        if options["tensor_parallel_size"] == 2 and model == "too-large":
            raise RuntimeError("no second GPU")

    def generate(self, prompts, sampling, **_):
        print("answered", self.plug_in, len(prompts[0]))
        chosen = 3 if self.sparse else 2
        steps = [{chosen: SimpleNamespace(logprob=-0.5), 9: SimpleNamespace(logprob=-2.5)}]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[chosen], logprobs=steps)])]

SamplingParams = SimpleNamespace
TokensPrompt = lambda prompt_token_ids: prompt_token_ids
"""


@pytest.mark.parametrize(("model", "code"), [("small", False), ("too-large", "own2: exit 1")])
def test_each_engine_runs_in_a_process_of_its_own(model, code, tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setattr(vllm_ranks, "prompts", lambda *_: [[1] * 5, [1] * 7])
    words = [model, "text.txt", "--alpha", "0.5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["vllm_ranks", *words])
    with pytest.raises(SystemExit) as done:
        vllm_ranks.main()
    if code:
        assert str(done.value.code).startswith(code)
        assert "no second GPU" in str(done.value.code)
        return
    assert done.value.code == code
    found = read(tmp_path / "out" / "tokens.json")
    assert {name: [(each.length, each.tokens) for each in each_of] for name, each_of in found.items()} == {
        name: [(length, [3 if "sparse" in name else 2]) for length in (5, 7)] for name in ENGINES
    }
    assert (tmp_path / "out" / "own1.log").read_text().startswith("answered False 5")
    assert (tmp_path / "out" / "table.md").read_text().startswith("| engines")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published records are in the repository alone")
def test_the_published_table_is_of_the_published_tokens():
    rows = compared(read(PUBLISHED / "tokens.json"))
    assert (PUBLISHED / "table.md").read_text() == f"{table(rows)}\n"
    assert wrong(rows) == []
