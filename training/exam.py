"""How many of the suites' own samples a model would answer without a mistake, while it is trained.

The samples come from the suites as text and are cut by the tokenizer, so nothing of the training texts is in them. The
right answer is given token by token and each token must be the likeliest: what greedy decoding would then write. Where
any order is right, another order than the one given might be written; so this is near the suite's score, not the same.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.methods.registry import Spec
from fp_bench.sizes import format_length
from fp_bench.suites.registry import create_suite
from fp_bench.suites.sample import Sample
from training.curriculum import NO_CHOICE
from training.model import Retriever
from training.page import CHOICES, Answer
from training.ragged import Ids
from training.tokenizer import BOS, Vocabulary, vocabulary

SUITES = ("ruler", "probe", "ruler@nvidia")
OFFLINE = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")
"""Tasks of ``ruler@nvidia`` that need no download."""
SEED = 7919


class Paper(NamedTuple):
    """A prompt with its right answer."""

    ids: Ids
    begin: int
    """Where the answer begins."""
    right: np.ndarray
    """The tokens that are right at each place of the answer, ``[places, CHOICES]``, filled with `NO_CHOICE`."""


@dataclass(frozen=True)
class Exam(Dataset):  # type: ignore[type-arg]
    """Papers, task by task.

    Args:
        counts: samples of a task by length.
        suites: names of suites.
    """

    counts: Mapping[int, int]
    suites: Sequence[str] = SUITES

    def __len__(self) -> int:
        return len(self._parts())

    def __getitem__(self, place: int) -> tuple[str, int, list[Paper]]:
        """Return a task's name, the length and its papers; none where the task cannot be written here."""
        suite_name, task, length = self._parts()[place]
        suite = create_suite(Spec(suite_name))
        name = task if suite_name == "ruler" else f"{suite_name}/{task}"
        try:
            samples = suite.samples(task, length, range(self.counts[length]), vocabulary(), seed=SEED, reserved=1)
            return name, length, [paper(sample, vocabulary()) for sample in samples]
        except (UnavailableError, UsageError):
            return name, length, []

    def _parts(self) -> list[tuple[str, str, int]]:
        return [
            (suite, task, length)
            for length in sorted(self.counts)
            for suite in self.suites
            for task in (OFFLINE if suite == "ruler@nvidia" else create_suite(Spec(suite)).tasks)
        ]


def paper(sample: Sample, words: Vocabulary) -> Paper:
    """Return a suite's sample with its answer as it is taught."""
    prompt, answer = [BOS, *words.encode(sample.text)], answer_to(sample, words)
    right = np.full((len(answer.ids), CHOICES), NO_CHOICE, dtype=np.int16)
    right[:, 0] = answer.ids
    for place, choices in answer.choices:
        right[place, : len(choices)] = choices
    return Paper(np.concatenate([np.array(prompt, dtype=np.int16), answer.ids]), len(prompt), right)


def answer_to(sample: Sample, words: Vocabulary) -> Answer:
    """Return the answer to a sample in the form that is taught; see `ruler_pages` and `probe_pages`."""

    def ids(text: str) -> Ids:
        return np.array(words.encode(text), dtype=np.int16)

    answers, task = sample.answers, sample.task
    if task == "vt":
        return Answer.of(*(ids(f" {name}") for name in answers))
    if task in ("cwe", "fwe"):
        places = [ids(f" {place}.") for place in range(1, len(answers) + 1)]
        return Answer.any_order([ids(f" {word}") for word in answers], places if task == "cwe" else None)
    if task == "niah_multiquery":
        keys = [re.findall(rf"for (\S+) is: {value}\.", sample.context)[0] for value in answers]
        return Answer(ids("".join(f" {key} is: {value}," for key, value in zip(keys, answers, strict=True))[:-1] + "."))
    if task == "qa_2":
        company = re.findall(r"founder of (\w+ \w+)", sample.question)[0]
        founder = re.findall(rf"{company} was founded by (\w+ \w+)\.", sample.context)[0]
        return Answer(ids(f" {founder}. {answers[0]}."))
    in_order = sorted(answers, key=sample.context.find)
    return Answer(ids(" " + ", ".join(in_order) + "."))


class Mark(NamedTuple):
    """What was right of a task."""

    whole: float
    """Share of the answers without a mistake."""
    tokens: float
    """Share of their tokens."""
    papers: int


@torch.no_grad()
def marks(model: Retriever, exam: Exam, workers: int) -> dict[tuple[str, int], Mark]:
    """Mark all papers; returns marks by task and length."""
    device = next(model.parameters()).device
    found: dict[tuple[str, int], Mark] = {}
    loader = DataLoader(exam, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    for name, length, papers in loader:
        right: list[np.ndarray] = []
        for each in papers:
            ids = torch.from_numpy(each.ids.astype(np.int64)).to(device)
            hidden = model(ids[None, :-1], compiled=False)[each.begin - 1 :]
            written = model.logits(hidden).argmax(-1).cpu().numpy()
            right.append((each.right == written[:, None]).any(1))
        if right:
            tokens = float(np.concatenate(right).mean())
            found[name, length] = Mark(float(np.mean([each.all() for each in right])), tokens, len(right))
    return found


def _as_it_is(item: object) -> object:
    return item


def table(found: Mapping[tuple[str, int], Mark]) -> str:
    """Return marks as text: whole answers / tokens, in percent."""
    lengths = sorted({length for _, length in found})
    rows: dict[str, list[str]] = defaultdict(list)
    names = list(dict.fromkeys(name for name, _ in found))
    for name in names:
        rows[name] = [_cell(found.get((name, length))) for length in lengths]
    ruler = [name for name in names if "/" not in name]
    means = [_mean(found[name, length].whole for name in ruler if (name, length) in found) for length in lengths]
    counts = [max(mark.papers for (_, at), mark in found.items() if at == length) for length in lengths]
    head = [f"{format_length(length)} (n={count})" for length, count in zip(lengths, counts, strict=True)]
    lines = [("task", head), *rows.items(), ("mean of ruler", means)]
    return "\n".join(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells) for name, cells in lines)


def _cell(mark: Mark | None) -> str:
    return "-" if mark is None else f"{100 * mark.whole:.0f} / {100 * mark.tokens:.0f}"


def _mean(shares: Iterable[float]) -> str:
    listed = list(shares)
    return f"{100 * sum(listed) / len(listed):.1f}" if listed else "-"
