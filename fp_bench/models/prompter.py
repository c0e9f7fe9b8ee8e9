"""A sample's text as a model reads it: chat template, special tokens, token ids."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fp_bench.errors import UnavailableError, UsageError

NOTHING = "\x00"
"""Stands for the user's text where only what a template adds is of interest."""


@dataclass(frozen=True)
class Prompter:
    """A Hugging Face tokenizer as suites and the accuracy job use it.

    Args:
        tokenizer: the tokenizer.
        chat: whether prompts go through its chat template: the prompt is the user's turn, and the answer prefix
            begins the assistant's.
    """

    tokenizer: Any
    chat: bool

    @property
    def identity(self) -> str:
        """Twelve hex digits of the `fingerprint`, and of the chat template where prompts go through it."""
        if not self.chat:
            return self.fingerprint
        template = json.dumps(self.tokenizer.chat_template, sort_keys=True)  # a text, or several by name
        return hashlib.sha256(f"{self.fingerprint} {template}".encode()).hexdigest()[:12]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of the vocabulary and how a few awkward strings are cut."""
        probes = [self.encode(text) for text in ("Hello, world!\n\n  12345", " naïve  façade", "#1a2b-3c4d.")]
        facts = [type(self.tokenizer).__name__, len(self.tokenizer), sorted(self.tokenizer.get_vocab().items()), probes]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def encode(self, text: str) -> list[int]:
        """Return token ids without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def reserved(self) -> int:
        """Tokens that `prompt_ids` adds to those of the text."""
        return len(self.prompt_ids(NOTHING, "")) - len(self.encode(NOTHING))

    def prompt_ids(self, text: str, answer_prefix: str) -> list[int]:
        """Return the ids of a whole prompt.

        A chat template writes its own special tokens, so the tokenizer adds none to it.

        Args:
            text: context and question.
            answer_prefix: what the answer begins with.
        """
        if self.chat:
            return self.encode(self._user_turn(text) + answer_prefix)
        ids: list[int] = self.tokenizer(text + answer_prefix, verbose=False).input_ids
        eos = self.tokenizer.eos_token_id
        # Some tokenizers close every text; a prompt is to be continued.
        return ids[:-1] if len(ids) > 1 and ids[-1] == eos and self.encode(text)[-1:] != [eos] else ids

    def _user_turn(self, text: str) -> str:
        try:
            turn: str = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # a variable of some templates; others ignore it
            )
        except Exception as error:  # templates are programs, and may raise anything
            raise UnavailableError(f"the chat template fails: {' '.join(str(error).split())}") from None
        return turn


def prompter(tokenizer: Any, chat: str) -> Prompter:
    """Return the prompter that ``--chat`` asks for.

    Args:
        tokenizer: a Hugging Face tokenizer.
        chat: ``auto`` uses a chat template if there is one, ``on`` requires it, ``off`` uses none.

    Raises:
        UsageError: ``on`` without a template, or another word.
    """
    has = getattr(tokenizer, "chat_template", None) is not None
    if chat not in ("auto", "on", "off"):
        raise UsageError(f"--chat {chat!r} is unknown; write auto, on or off")
    if chat == "on" and not has:
        raise UsageError("--chat on: this model's tokenizer has no chat template; write --chat off")
    return Prompter(tokenizer, has and chat != "off")
