"""The prompt of a record made again: from its suite, its seed and its model's tokenizer."""

from functools import cache

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.jobs.request import AccuracyRequest, read_command
from fp_bench.models.load import model_facts
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.records.record import AccuracyRecord
from fp_bench.suites.registry import create_suite
from fp_bench.suites.sample import Sample


class Prompts:
    """Makes prompts again; each model's tokenizer is read once."""

    def __init__(self) -> None:
        self._prompter = cache(_prompter)

    def sample(self, record: AccuracyRecord) -> Sample:
        """Return the sample that a record answers.

        Raises:
            UsageError: the record has no command that says how, or the prompt of today is not the one that was read.
            UnavailableError: the model's tokenizer or the suite's data is not here.
        """
        asked = read_command(record.command or "")
        if not isinstance(asked, AccuracyRequest) or not asked.samples:
            raise UsageError(f"{record.sample_id}: its command asks for no sample")
        (spec,) = asked.suites
        suite = create_suite(spec)
        if suite.version != record.suite_version:
            raise UsageError(f"{spec} was of version {record.suite_version}, and is of version {suite.version} now")
        raw = record.task in suite.untemplated
        chat, reasoning = ("off", "off") if raw else (asked.chat, asked.reasoning)
        prompts = self._prompter(asked.model, chat, reasoning, asked.thought_end)
        written = suite.samples(
            record.task, record.seq_len, [asked.samples - 1], prompts, seed=record.seed, reserved=prompts.reserved
        )
        sample = next(written, None)
        if sample is None or sample.id != record.sample_id:
            raise UnavailableError(f"{spec} gives no sample {record.sample_id}")
        tokens = len(prompts.prompt_ids(sample.context + sample.question, sample.answer_prefix))
        if record.prompt_tokens not in (None, tokens):
            raise UsageError(f"made again it has {tokens} tokens, in the run it had {record.prompt_tokens}")
        return sample


def _prompter(model: str, chat: str, reasoning: str, thought_end: str | None) -> Prompter:
    return prompter(model_facts(model).tokenizer, chat, reasoning, thought_end)
