"""``ruler`` as a suite."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fp_bench.suites.cache import SampleCache
from fp_bench.suites.fit import longest_prompt
from fp_bench.suites.ruler import tasks
from fp_bench.suites.ruler.hermetic.draft import Draw
from fp_bench.suites.ruler.hermetic.drafts import draft
from fp_bench.suites.ruler.tasks import MAX_NEW_TOKENS, Written
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, Tokenizer

CACHED_FROM = 65_536
"""Shortest prompt worth caching."""


class Ruler(Suite):
    """RULER's thirteen tasks in its wording, from our own words, prose and facts; needs nothing."""

    name: ClassVar[str] = "ruler"
    tasks: ClassVar[tuple[str, ...]] = tasks.TASKS

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`."""
        self.check_tasks([task])
        cache = SampleCache(self, task, length, tokenizer, seed, reserved, {}) if length >= CACHED_FROM else None
        for index in indices:
            sample = cache.get(index) if cache else None
            if sample is None:
                sample = self._write(task, length, index, tokenizer, seed, reserved)
                if cache:
                    cache.put(index, sample)
            yield sample

    def score(self, sample: Sample, prediction: str) -> float:
        """Return RULER's score; see `tasks.score`."""
        return tasks.score(sample, prediction)

    def _write(self, task: str, length: int, index: int, tokenizer: Tokenizer, seed: int, reserved: int) -> Sample:
        limit = length - reserved - MAX_NEW_TOKENS[task]
        draw = Draw(f"ruler {self.version} {task} {length} {seed}", index)
        drafts = draft(task, draw, limit)
        drafted, prompt = longest_prompt(drafts, tokenizer, limit=limit, length=length, suite=self.name, task=task)
        return tasks.sample_of(task, length, index, Written(prompt, drafted.answers))
