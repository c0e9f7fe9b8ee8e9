"""``needle``, ``needle@gkamradt`` and ``needle@minference``: the same grid with different words."""

import math
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from fp_bench.suites.fit import Draft, Prompt, Stream, longest_prompt
from fp_bench.suites.needle import haystack
from fp_bench.suites.needle.templates import (
    GKAMRADT_NEEDLE,
    GKAMRADT_QUESTION,
    GKAMRADT_SYSTEM,
    MINFERENCE_CITIES,
    MINFERENCE_NEEDLE,
    MINFERENCE_OPENING,
    MINFERENCE_QUESTION,
)
from fp_bench.suites.probe import text as probe
from fp_bench.suites.ruler.nvidia.sources import fingerprint
from fp_bench.suites.sample import Sample
from fp_bench.suites.scoring import all_of, exact
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

TASK = "needle"


class Hidden(NamedTuple):
    """A needle and how it is asked for."""

    needle: str
    """With the space or line breaks around it."""
    opening: str
    """Before the haystack."""
    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Needles that earlier turns ask for; they lie at even depths."""
    turns: tuple[tuple[str, str], ...] = ()
    """Those turns, without the haystack before the first one."""


class GridParams(SuiteParams):
    """The depths and the haystack."""

    depths: int = Field(10, ge=1, le=1000)
    """Number of depths, from the start of the haystack to its end; samples take them in turn."""
    spacing: Literal["linear", "sigmoid"] = "linear"
    """Even spacing, or denser towards both ends."""
    haystack: str = ""
    """A text file, a folder of .txt, or JSON lines with ``text``; empty: our prose."""


class Grid(Suite):
    """Needles at depths x lengths: sample i lies at depth i modulo the depths; each round has another haystack."""

    name: ClassVar[str] = "needle"
    tasks: ClassVar[tuple[str, ...]] = (TASK,)
    max_new_tokens: ClassVar[int]
    Params: ClassVar[type[SuiteParams]] = GridParams
    params: GridParams

    @abstractmethod
    def hide(self, draw: random.Random) -> Hidden:
        """Draw a needle and its question."""

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`.

        Raises:
            UsageError: a length too short.
            UnavailableError: a haystack that cannot be read.
        """
        self.check_tasks([task])
        grid = depths(self.params.depths, self.params.spacing)
        run = f"{self.full_name()} {self.version} {seed}"
        suite = self.full_name()
        for index in indices:
            turn, place = divmod(index, len(grid))
            text = random.Random(f"{run} haystack {turn}")
            filling = Stream(haystack.sentences(self._given, text, from_start=turn == 0))
            hidden = self.hide(random.Random(f"{run} {length} {index}"))
            draft = _draft(hidden, grid[place], filling)
            # A turn takes no more than a whole template does.
            limit = length - reserved * (1 + len(hidden.turns)) - self.max_new_tokens
            _, prompt = longest_prompt([draft], tokenizer, limit=limit, length=length, suite=suite, task=task)
            turns = [(prompt.context + hidden.turns[0][0], hidden.turns[0][1])] if hidden.turns else []
            yield Sample(
                id=self.sample_id(task, length, index),
                task=task,
                length=length,
                context="" if turns else prompt.context,
                question=hidden.question,
                turns=(*turns, *hidden.turns[1:]),
                answer_prefix=prompt.answer_prefix,
                answers=draft.answers,
                max_new_tokens=self.max_new_tokens,
                depth=grid[place],
            )

    def score(self, sample: Sample, prediction: str) -> float:
        """Return the share of the answers found in the prediction."""
        return all_of(prediction, sample.answers)

    def provenance(self, task: str) -> dict[str, str]:
        """Return a hash of the user's haystack."""
        del task
        return {"haystack": self._fingerprint} if self.params.haystack else {}

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.params.haystack)

    @cached_property
    def _given(self) -> list[str]:
        return haystack.read(self.params.haystack, self.full_name())


def _draft(hidden: Hidden, depth: float, filling: Stream) -> Draft:
    """Draft a needle between the sentences of a haystack."""

    def write(units: int) -> Prompt:
        around = filling.first(units)
        placed = [(depth, hidden.needle)]
        placed += [((number + 0.5) / len(hidden.others), needle) for number, needle in enumerate(hidden.others)]
        text, start = "", 0
        for share, needle in sorted(placed):
            place = int(share * (len(around) + 1))
            text += " ".join(around[start:place]) + needle
            start = place
        text += " ".join(around[start:])
        earlier = "".join(question + answer for question, answer in hidden.turns)
        return Prompt(hidden.opening + text.strip(" "), earlier + hidden.question, hidden.answer_prefix)

    return Draft(write, hidden.answers)


class NeedleParams(GridParams):
    """The grid, and what is right."""

    match: Literal["substring", "exact"] = "substring"
    """substring: the number anywhere in the prediction; exact: the first line is only the number."""
    turns: int = Field(1, ge=1, le=32)
    """Number of questions, each in its own turn for its own needle; the prompt answers all but the last."""


class Needle(Grid):
    """A number in the probe's wording, which the embedded model can read, in our prose or a user's text."""

    max_new_tokens: ClassVar[int] = 32
    Params: ClassVar[type[SuiteParams]] = NeedleParams
    params: NeedleParams

    def hide(self, draw: random.Random) -> Hidden:
        """Draw a key and a number of seven digits for each turn."""
        keys = probe.keys(draw)
        (key, value), *others = [(next(keys), probe.number(draw)) for _ in range(self.params.turns)]
        question, answer_prefix = probe.ask(key)
        return Hidden(
            f"{probe.needle(key, value)} ",
            probe.OPENING,
            question,
            answer_prefix,
            (value,),
            others=tuple(f"{probe.needle(*each)} " for each in others),
            turns=tuple(_answered(*each) for each in others),
        )

    def score(self, sample: Sample, prediction: str) -> float:
        """Return 1 if the prediction contains, or is, the number."""
        return exact(prediction, sample.answers) if self.params.match == "exact" else super().score(sample, prediction)


def _answered(key: str, value: str) -> tuple[str, str]:
    """Return a turn that asks for a number, and gets it."""
    question, answer_prefix = probe.ask(key)
    return question, f"{answer_prefix} {value}."


class GkamradtParams(GridParams):
    """The grid with as many depths as upstream."""

    depths: int = Field(35, ge=1, le=1000)
    """Number of depths, from the start of the haystack to its end; samples take them in turn."""


class Gkamradt(Grid):
    """The sandwich in Dolores Park, scored by three phrases instead of a judge; its three messages are one turn."""

    variant: ClassVar[str] = "gkamradt"
    max_new_tokens: ClassVar[int] = 300
    Params: ClassVar[type[SuiteParams]] = GkamradtParams

    def hide(self, draw: random.Random) -> Hidden:
        """Return the one needle."""
        del draw
        return Hidden(
            needle=GKAMRADT_NEEDLE,
            opening=f"{GKAMRADT_SYSTEM}\n\n",
            question=f"\n\n{GKAMRADT_QUESTION}",
            answer_prefix="",
            answers=("eat a sandwich", "Dolores Park", "sunny day"),
        )


class MInferenceNeedle(Grid):
    """The number of a city, in the wording of MInference's evaluation, without a chat template."""

    variant: ClassVar[str] = "minference"
    untemplated: ClassVar[frozenset[str]] = frozenset({TASK})
    max_new_tokens: ClassVar[int] = 32

    def hide(self, draw: random.Random) -> Hidden:
        """Draw a city and a number of seven digits."""
        city, value = draw.choice(MINFERENCE_CITIES), str(draw.randrange(10**6, 10**7))
        return Hidden(
            needle=MINFERENCE_NEEDLE.format(city=city, rnd_number=value),
            opening=MINFERENCE_OPENING,
            question=MINFERENCE_QUESTION.format(city=city),
            answer_prefix="",
            answers=(value,),
        )


def depths(count: int, spacing: Literal["linear", "sigmoid"]) -> list[float]:
    """Return depths as shares of the haystack, ascending from 0 to 1, in whole percent or its thousandths.

    Source: gkamradt/LLMTest_NeedleInAHaystack, whose sigmoid descends between its ends: the same depths.
    """
    percents = [100 * place / max(1, count - 1) for place in range(count)]
    if spacing == "linear":
        return [round(percent) / 100 for percent in percents]
    return [
        percent / 100 if percent in (0, 100) else round(100 / (1 + math.exp((50 - percent) / 10)), 3) / 100
        for percent in percents
    ]
