"""A sample's text as input of a model: chat template, special tokens, token ids."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.models.thoughts import Marks, marks_of
from fp_bench.suites.sample import Sample

Turns = Sequence[tuple[str, str]]

NOTHING = "\x00"
"""Placeholder of the user's text, to count the tokens that a template adds."""
TODAY = date(2024, 7, 26)
"""What templates that write the date write, so that a prompt is the same on every day."""
DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
"""Where a template asks for it. transformers 5.24 passes no functions to templates."""


@dataclass(frozen=True)
class Prompter:
    """A Hugging Face tokenizer for suites and the accuracy job.

    Args:
        tokenizer: the tokenizer.
        chat: whether prompts go through its chat template: the prompt is the user's turn, and the answer prefix
            begins the assistant's.
        reasons: whether the model thinks before it answers; an answer prefix is then left out.
        marks: what stands around thoughts; None where that is not known.
    """

    tokenizer: Any
    chat: bool
    reasons: bool = False
    marks: Marks | None = None

    @property
    def identity(self) -> str:
        """Hash of the `fingerprint`, and of the chat template if prompts use it."""
        if not self.chat:
            return self.fingerprint
        dated = f" {TODAY}" if "strftime_now" in self._template else ""
        return hashlib.sha256(f"{self.fingerprint} {self._template}{dated}".encode()).hexdigest()[:12]

    @property
    def _template(self) -> str:
        return json.dumps(self.tokenizer.chat_template, sort_keys=True)  # a text, or several by name

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and of the tokens of a few awkward strings."""
        probes = [self.encode(text) for text in ("Hello, world!\n\n  12345", " naïve  façade", "#1a2b-3c4d.")]
        facts = [type(self.tokenizer).__name__, len(self.tokenizer), sorted(self.tokenizer.get_vocab().items()), probes]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def encode(self, text: str) -> list[int]:
        """Return token ids without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, without special tokens unless they are asked for."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def reserved(self) -> int:
        """Number of tokens that `prompt_ids` adds to those of the text."""
        return len(self.prompt_ids(NOTHING, "")) - len(self.encode(NOTHING))

    def ids_of(self, sample: Sample) -> list[int]:
        """Return the ids of a sample's prompt; see `prompt_ids`."""
        return self.prompt_ids(sample.context + sample.question, sample.answer_prefix, sample.turns)

    def prompt_ids(self, text: str, answer_prefix: str, turns: Turns = ()) -> list[int]:
        """Return the ids of a whole prompt.

        A chat template writes its own special tokens, so the tokenizer adds none to it.

        Args:
            text: context and question.
            answer_prefix: start of the answer.
            turns: earlier turns, as in `Sample`.
        """
        if self.chat:
            return self.encode(self.prompt_text(text, answer_prefix, turns))
        text = "".join(user + assistant for user, assistant in turns) + text
        ids: list[int] = self.tokenizer(text + answer_prefix, verbose=False).input_ids
        eos = self.tokenizer.eos_token_id
        # Some tokenizers end every text with a special token, but a prompt must be continued.
        return ids[:-1] if len(ids) > 1 and ids[-1] == eos and self.encode(text)[-1:] != [eos] else ids

    def prompt_text(self, text: str, answer_prefix: str, turns: Turns = ()) -> str:
        """Return a whole prompt as a chat template writes it; see `prompt_ids`."""
        return self._conversation(text, turns) + ("" if self.reasons else self.closing + answer_prefix)

    @cached_property
    def closing(self) -> str:
        """What is put after the template, which ends within a thought or asks for one, so that none is written."""
        if self.marks is None or self.reasons or not self.reasons_anyway:
            return ""
        return ("" if self.marks.open(self._around[1]) else self.marks.opening) + self.marks.closing

    @cached_property
    def reasons_anyway(self) -> bool:
        """Whether the template has a thought written though none is asked for."""
        return self.marks is not None and self.marks.reasons_anyway(*self._around)

    def answer(self, ids: Sequence[int]) -> str | None:
        """Return the answer within the tokens that a model wrote; None where its thought has no end."""
        if not self.reasons or self.marks is None:
            return self.decode(ids)
        found = self.marks.answer(self._around[1], self.decode(ids, special=True))
        # Marks may be special tokens, and so may what ends an answer.
        return None if found is None else self.decode(self.encode(found)).strip()

    @cached_property
    def _around(self) -> tuple[str, str]:
        """What the template writes before the user's text, and after it."""
        before, _, after = self._conversation(NOTHING).partition(NOTHING)
        return before, after

    def _conversation(self, text: str, turns: Turns = ()) -> str:
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        try:
            found: str = self.tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                # Variables of some templates; others ignore them.
                enable_thinking=self.reasons,
                thinking=self.reasons,
                chat_template=DATE.sub(
                    lambda asked: repr(TODAY.strftime(asked[2])), self.tokenizer.get_chat_template()
                ),
            )
        except Exception as error:  # templates are programs, and may raise anything
            raise UnavailableError(f"the chat template fails: {' '.join(str(error).split())}") from None
        return found


def prompter(tokenizer: Any, chat: str, reasoning: str = "off", thought_end: str | None = None) -> Prompter:
    """Return the prompter that ``--chat`` and ``--reasoning`` ask for.

    Args:
        tokenizer: a Hugging Face tokenizer.
        chat: ``auto`` uses a chat template if there is one, ``on`` requires it, ``off`` uses none.
        reasoning: ``auto`` lets a model think whose template asks for it in any case, ``on`` every one that can,
            ``off`` none: a thought that the template begins is closed at once.
        thought_end: regular expression of what ends a thought; None is what the template knows.

    Raises:
        UsageError: ``on`` without a template that can do it, or another word.
    """
    has = getattr(tokenizer, "chat_template", None) is not None
    for option, word in (("chat", chat), ("reasoning", reasoning)):
        if word not in ("auto", "on", "off"):
            raise UsageError(f"--{option} {word!r} is unknown; write auto, on or off")
    if chat == "on" and not has:
        raise UsageError("--chat on: this model's tokenizer has no chat template; write --chat off")
    found = Prompter(tokenizer, has and chat != "off")
    if found.chat:
        given = Marks.given(thought_end) if thought_end is not None else None
        found = replace(found, marks=given or marks_of(found._template))
    if reasoning == "on" and found.marks is None:
        if found.chat:
            raise UsageError(
                "--reasoning on: this model's chat template has no known thought; give --thought-end, or write "
                "--reasoning off"
            )
        raise UsageError("--reasoning on needs a chat template, and none is used here; write --reasoning off")
    return replace(found, reasons=reasoning == "on" or (reasoning == "auto" and found.reasons_anyway))
