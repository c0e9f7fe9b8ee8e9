"""``ruler@nvidia`` as a suite: the generator and the data of each task."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from fp_bench.suites.cache import SampleCache
from fp_bench.suites.ruler import tasks
from fp_bench.suites.ruler.nvidia import common_words, frequent_words, niah, qa, sources, variable_tracking
from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import Budget
from fp_bench.suites.ruler.nvidia.wonderwords import WordLists
from fp_bench.suites.ruler.tasks import MAX_NEW_TOKENS, NEEDLES, Written
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer


class NvidiaParams(SuiteParams):
    """Data for seven of the tasks."""

    essays: str = ""
    """Haystack of five needle tasks: NVIDIA's ``PaulGrahamEssays.json``, a text file, a folder of .txt, or ``hub``."""
    squad: str = ""
    """Documents of qa_1: ``dev-v2.0.json`` of SQuAD 2.0, or ``hub``."""
    hotpotqa: str = ""
    """Documents of qa_2: ``hotpot_dev_distractor_v1.json``, or ``hub``."""
    english_words: str = ""
    """``english_words.json`` of NVIDIA/RULER, for cwe from about 128K on."""
    wonderwords: str = ""
    """A folder with wonderwords' word lists; empty: those of the installed version."""
    sentences: Literal["punkt", "simple"] = "punkt"
    """Splits essays into sentences: punkt is NLTK's, as for NVIDIA; simple is our own rule, which needs nothing."""


class NvidiaRuler(Suite):
    """RULER's thirteen tasks, byte for byte like NVIDIA's generators, whose data was made with seed 42."""

    name: ClassVar[str] = "ruler"
    variant: ClassVar[str] = "nvidia"
    tasks: ClassVar[tuple[str, ...]] = tasks.TASKS
    needs: ClassVar[str] = "wonderwords; essays=, squad=, hotpotqa= (a file, or hub) for seven of its tasks"
    Params: ClassVar[type[SuiteParams]] = NvidiaParams
    params: NvidiaParams

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`. All samples before an index are drawn once to reach it."""
        self.check_tasks([task])
        budget = Budget(task, length, reserved, MAX_NEW_TOKENS[task], count=lambda text: len(tokenizer.encode(text)))
        cache = SampleCache(self, task, length, tokenizer, seed, reserved, self._data(task))
        drawn: Iterator[tuple[int, Written]] | None = None
        for index in indices:
            sample = cache.get(index)
            if sample is None:
                drawn = drawn or enumerate(self._generate(task, budget, Dice(seed)))
                for place, written in drawn:
                    sample = tasks.sample_of(task, length, place, written)
                    cache.put(place, sample)
                    if place == index:
                        break
            assert sample is not None  # generators do not end
            yield sample

    def score(self, sample: Sample, prediction: str) -> float:
        """Return RULER's score; see `tasks.score`."""
        return tasks.score(sample, prediction)

    def provenance(self, task: str) -> dict[str, str]:
        """Return versions and hashes of the data of a task's samples.

        Raises:
            UnavailableError: the device is missing.
        """
        return {"generator": "NVIDIA/RULER c3f5e3b4", **self._data(task)}

    @cached_property
    def _words(self) -> WordLists:
        if self.params.wonderwords:
            return WordLists.read(Path(self.params.wonderwords), self.params.wonderwords)
        return WordLists.installed()

    def _data(self, task: str) -> dict[str, str]:
        """Return the identity of a task's data."""
        data = {}
        needles = NEEDLES.get(task)
        if task == "cwe" or (needles and needles.keys == "words"):
            data = {"wonderwords": self._words.source, "words": self._words.fingerprint}
        for option in _needed(task):
            data[option] = sources.fingerprint(getattr(self.params, option))
        if needles and needles.haystack == "essay":
            data["sentences"] = self.params.sentences
        return data

    def _generate(self, task: str, budget: Budget, dice: Dice) -> Iterator[Written]:
        if task in NEEDLES:
            return self._niah(task, budget, dice)
        if task == "vt":
            return variable_tracking.generate(dice, budget)
        if task == "cwe":
            return common_words.generate(
                dice, budget, self._words.all, lambda: sources.english_words(task, self.params.english_words)
            )
        if task == "fwe":
            return frequent_words.generate(dice, budget)
        if task == "qa_1":
            return qa.generate(dice, budget, sources.squad(task, self.params.squad))
        return qa.generate(dice, budget, sources.hotpotqa(task, self.params.hotpotqa))

    def _niah(self, task: str, budget: Budget, dice: Dice) -> Iterator[Written]:
        needles = NEEDLES[task]
        words: Sequence[str] = self._words.pairs if needles.keys == "words" else []
        if needles.haystack != "essay":
            return niah.generate(needles, dice, budget, words)
        essay = sources.essay_words(task, self.params.essays)
        simple = self.params.sentences == "simple"
        return niah.generate(
            needles, dice, budget, words, essay, sources.simple_sentences if simple else sources.punkt_sentences(task)
        )


def _needed(task: str) -> tuple[str, ...]:
    if task in NEEDLES:
        return ("essays",) if NEEDLES[task].haystack == "essay" else ()
    return {"cwe": ("english_words",), "qa_1": ("squad",), "qa_2": ("hotpotqa",)}.get(task, ())
