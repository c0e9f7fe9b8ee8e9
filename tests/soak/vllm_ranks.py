"""One rank of vLLM against two: ``python -m tests.soak.vllm_ranks MODEL TEXT [--alpha 0.0292] [--out FOLDER]``.

Six engines in processes of their own, on two GPUs: vLLM's own attention, and the plug-in's FlashPrefill that keeps
everything and that is sparse, each on one rank and on two. Each answers six prompts of 2K to 24K tokens of TEXT, one
after the other, greedily. Where two engines that compute the same choose different tokens, the best two must be a
near-tie. The sparse ones are compared with each other alone. ``--table FOLDER/tokens.json`` prints the table again.
About five minutes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

LENS = (2048, 4096, 8192, 12288, 16384, 24576)
NEW = 32
NEAR = 0.25
"""Largest gap between the best two log-probabilities that may turn with the order of sums in bf16."""
PART = 100_000
"""Characters that are tokenized at once."""
SUMS = {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0", "NCCL_NVLS_ENABLE": "0"}
"""Ranks are summed by NCCL, without NVLink's multicast."""
SECONDS = 300
"""After which an engine has failed."""
ENGINES = {f"{kind}{ranks}": (kind, ranks) for kind in ("own", "all", "sparse") for ranks in (1, 2)}
"""All but the sparse ones compute the same."""


class Answer(NamedTuple):
    """Tokens after one prompt, and at each place the log-probabilities of the best two and of the chosen one."""

    length: int
    tokens: list[int]
    best: list[list[tuple[int, float]]]

    def gap(self, place: int, other: int) -> float:
        """Return how far below the best one a token or the chosen one lies; infinite if it is not known."""
        known = dict(self.best[place])
        return max(known.values()) - min(known[self.tokens[place]], known.get(other, float("-inf")))


class Compared(NamedTuple):
    """Two answers: equal tokens before the first difference, and there the larger gap between an engine's best two.

    The gap is infinite where one chose what is not among the other's best two, and None where all tokens are equal.
    """

    length: int
    equal: int
    gap: float | None

    def __str__(self) -> str:
        return f"{self.equal}" if self.gap is None else f"{self.equal} ({self.gap:.3f})"


def compare(one: Answer, other: Answer) -> Compared:
    """Compare two answers to one prompt."""
    for place, (ours, theirs) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        if ours != theirs:
            return Compared(one.length, place, max(one.gap(place, theirs), other.gap(place, ours)))
    return Compared(one.length, len(one.tokens), None)


def compared(answers: dict[str, list[Answer]]) -> dict[tuple[str, str], list[Compared]]:
    """Compare each two engines that compute the same."""
    return {
        (one, other): [compare(*both) for both in zip(answers[one], answers[other], strict=True)]
        for one, other in combinations(answers, 2)
        if ("sparse" in one) == ("sparse" in other)
    }


def table(rows: dict[tuple[str, str], list[Compared]]) -> str:
    """Return the table, in Markdown."""
    lens = [found.length for found in next(iter(rows.values()))]
    lines = [f"| engines | equal | {' | '.join(map(str, lens))} |", "| :-- |" + " --: |" * (len(lens) + 1)]
    for (one, other), found in rows.items():
        equal = f"{sum(each.equal for each in found)} of {NEW * len(found)}"
        lines.append(f"| {one}, {other} | {equal} | {' | '.join(map(str, found))} |")
    return "\n".join(lines)


def wrong(rows: dict[tuple[str, str], list[Compared]]) -> list[str]:
    """Return where tokens differ that are no near-tie."""
    return [
        f"{one} and {other} differ at {found.length} after {found.equal} tokens, gap {found.gap:.3f}"
        for (one, other), each in rows.items()
        for found in each
        if found.gap is not None and found.gap > NEAR
    ]


def read(path: Path) -> dict[str, list[Answer]]:
    """Return the answers of engines."""
    return {name: [Answer(**each) for each in found] for name, found in json.loads(path.read_text()).items()}


def write(path: Path, answers: dict[str, list[Answer]]) -> None:
    """Write them, a line for each engine."""
    lines = [
        f"{json.dumps(name)}:{json.dumps([each._asdict() for each in found], separators=(',', ':'))}"
        for name, found in answers.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def prompts(model: str, text: Path) -> list[list[int]]:
    """Return prompts of `LENS`, one after the other in the text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    content = text.read_text(errors="replace")[: 10 * sum(LENS)]
    parts = (content[at : at + PART] for at in range(0, len(content), PART))
    ids = [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
    if len(ids) < sum(LENS):
        sys.exit(f"{text} has {len(ids)} tokens; prompts need {sum(LENS)}")
    return [ids[sum(LENS[:number]) : sum(LENS[: number + 1])] for number in range(len(LENS))]


def run(model: str, name: str, asked: Path, out: Path) -> None:
    """Answer all prompts in an engine, in this process."""
    from vllm import LLM, SamplingParams, TokensPrompt

    kind, ranks = ENGINES[name]
    llm: Any = LLM(
        model,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=32768,
        max_num_batched_tokens=32768,
        max_num_seqs=4,
        seed=0,
        tensor_parallel_size=ranks,
        disable_custom_all_reduce=True,
        gpu_memory_utilization=0.2,
        kv_cache_memory_bytes=4 << 30,
        enforce_eager=True,
        enable_prefix_caching=False,
        **({} if kind == "own" else {"attention_backend": "CUSTOM"}),
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True, detokenize=False, logprobs=2)
    answers = []
    for ids in json.loads(asked.read_text()):  # one at a time, so that batches do not differ
        (result,) = llm.generate([TokensPrompt(prompt_token_ids=ids)], greedy, use_tqdm=False)
        output = result.outputs[0]
        best = [[(token, found.logprob) for token, found in step.items()] for step in output.logprobs]
        answers.append(Answer(len(ids), list(output.token_ids), best))
    write(out, {name: answers})
    sys.stdout.flush()
    os._exit(0)  # vLLM's own end may take long; whoever started this ends the ranks


def started(model: str, name: str, alpha: float, asked: Path, folder: Path) -> list[Answer]:
    """Return what an engine answers in a process of its own."""
    kind, ranks = ENGINES[name]
    method = {"own": "dense", "all": "flashprefill:alpha=0", "sparse": f"flashprefill:alpha={alpha}"}[kind]
    chosen = {"FPBENCH_METHOD": method, "FPBENCH_REQUIRE_METHOD": "1", **SUMS}
    if ranks == 1:
        chosen["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    (out := folder / f"{name}.json").unlink(missing_ok=True)
    words = ["-m", "tests.soak.vllm_ranks", model, str(asked), "--engine", name, "--out", str(out)]
    with (said := folder / f"{name}.log").open("w") as log:
        engine = subprocess.Popen(
            [sys.executable, *words], env=os.environ | chosen, stdout=log, stderr=log, start_new_session=True
        )
        try:
            engine.wait(SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name}: no end after {SECONDS} s", flush=True)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)  # ranks that it left behind
            engine.wait()
    if engine.returncode != 0:
        sys.exit(f"{name}: exit {engine.returncode}\n{said.read_text()[-2000:]}")
    print(f"{name}: {ranks} ranks, {'vLLM' if kind == 'own' else method}", flush=True)
    return read(out)[name]


def main() -> None:
    """Compare; exit 1 where tokens differ that are no near-tie."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.vllm_ranks")
    parser.add_argument("model", nargs="?", help="folder of a model")
    parser.add_argument("text", nargs="?", type=Path, help="a text of 70,000 tokens")
    parser.add_argument("--alpha", type=float, default=0.0292, help="of the sparse engines")
    parser.add_argument("--out", type=Path, help="keep tokens.json, table.md and the engines' logs there")
    parser.add_argument("--table", type=Path, help="print the table of a tokens.json, and run nothing")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.engine:
        run(asked.model, asked.engine, asked.text, asked.out)
        return
    if asked.table:
        answers = read(asked.table)
    elif asked.text is None:
        parser.error("give a model and a text, or --table")
    else:
        with tempfile.TemporaryDirectory() as base:
            folder = asked.out or Path(base)
            folder.mkdir(parents=True, exist_ok=True)
            (ids := Path(base) / "prompts.json").write_text(json.dumps(prompts(asked.model, asked.text)))
            answers = {name: started(asked.model, name, asked.alpha, ids, folder) for name in ENGINES}
            write(folder / "tokens.json", answers)
            (folder / "table.md").write_text(f"{table(compared(answers))}\n")
    rows = compared(answers)
    problems = wrong(rows)
    print(table(rows), *(problems or ["fine"]), sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
