"""Generates a record's prompt again from its suite, seed and model's tokenizer."""

from functools import cache

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.jobs.request import AccuracyRequest, read_command
from fp_bench.models.load import model_facts
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.records.record import AccuracyRecord
from fp_bench.suites.registry import create_suite
from fp_bench.suites.sample import Sample


def sample_of(record: AccuracyRecord) -> Sample:
    """Return the sample that a record answers; each model's tokenizer is read once.

    Raises:
        UsageError: the record has no command, or the generated prompt is not that of the run.
        UnavailableError: the model's tokenizer or the suite's data is missing.
    """
    asked = read_command(record.command or "")
    if not isinstance(asked, AccuracyRequest) or not asked.samples:
        raise UsageError(f"{record.sample_id}: its command has no sample")
    (spec,) = asked.suites
    suite = create_suite(spec)
    if suite.version != record.suite_version:
        raise UsageError(f"{spec} had version {record.suite_version} and now has version {suite.version}")
    raw = record.task in suite.untemplated
    chat, reasoning = ("off", "off") if raw else (asked.chat, asked.reasoning)
    prompts = _prompter(asked.model, chat, reasoning, asked.thought_end)
    written = suite.samples(
        record.task, record.seq_len, [asked.samples - 1], prompts, seed=record.seed, reserved=prompts.reserved
    )
    sample = next(written, None)
    if sample is None or sample.id != record.sample_id:
        raise UnavailableError(f"{spec} gives no sample {record.sample_id}")
    tokens = len(prompts.ids_of(sample))
    if record.prompt_tokens not in (None, tokens):
        raise UsageError(f"generated again it has {tokens} tokens; in the run it had {record.prompt_tokens}")
    return sample


@cache
def _prompter(model: str, chat: str, reasoning: str, thought_end: str | None) -> Prompter:
    return prompter(model_facts(model).tokenizer, chat, reasoning, thought_end)
