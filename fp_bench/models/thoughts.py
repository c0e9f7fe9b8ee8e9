"""Thoughts that models write before they answer: what marks them, and what of a reply is the answer."""

import re
from dataclasses import dataclass
from typing import Self

from fp_bench.errors import UsageError


@dataclass(frozen=True)
class Marks:
    """What a family of models puts around a thought."""

    name: str
    """What ends a thought, as reports write it."""
    begins: str
    """Regular expression of what begins one."""
    ends: str
    """Regular expression of what ends one."""
    opening: str = ""
    """What begins one, as text."""
    closing: str = ""
    """What ends one at once, as text."""

    @classmethod
    def given(cls, ends: str) -> Self:
        """Return the marks of a model whose replies are thoughts until a regular expression matches.

        Raises:
            UsageError: it is no regular expression.
        """
        try:
            re.compile(ends)
        except re.error as error:
            raise UsageError(f"--thought-end {ends!r} is not a regular expression: {error}") from None
        return cls(ends, begins=r"\A", ends=ends)

    def open(self, text: str) -> bool:
        """Return whether a text ends within a thought."""
        begun, ended = (_last(pattern, text) for pattern in (self.begins, self.ends))
        return begun > ended

    def reasons_anyway(self, before: str, after: str) -> bool:
        """Return whether a prompt that asks for no thought has one all the same.

        Args:
            before: what a chat template writes before the user's text, where some ask for thoughts.
            after: what it writes after it, where some begin one.
        """
        asks = _last(self.begins, before) >= 0 and max(_last(self.begins, after), _last(self.ends, after)) < 0
        return asks or self.open(after)

    def answer(self, begun: str, reply: str) -> str | None:
        """Return what follows the last thought of a reply; None where that has no end.

        Args:
            begun: what a chat template writes after the user's text.
            reply: what the model wrote after it.
        """
        text = begun + reply
        return None if self.open(text) else text[max(len(begun), _last(self.ends, text)) :]


def _last(pattern: str, text: str) -> int:
    """Return where the last match of a pattern ends; -1 where there is none."""
    return max((match.end() for match in re.finditer(pattern, text)), default=-1)


CHANNELS = Marks(
    "the final channel",
    # A reply is a thought from the role's header on, unless it begins in the final channel.
    begins=r"<\|start\|>assistant(?!<\|channel\|>final)",
    ends=r"<\|channel\|>final[^<]*(<\|constrain\|>[^<]*)?<\|message\|>",
    closing="<|channel|>final<|message|>",
)
"""gpt-oss."""
THOUGHT_CHANNEL = Marks("<channel|>", r"<\|channel>", r"<channel\|>", "<|channel>thought\n", "<channel|>")
"""Gemma 4."""
THINK = Marks("</think>", "<think>", "</think>", "<think>", "\n</think>\n\n")
"""Qwen3, DeepSeek, GLM, Nemotron, Phi-4-reasoning and others."""


def marks_of(template: str) -> Marks | None:
    """Return the marks that a chat template knows; None where it knows none of ours."""
    known = {"<|channel|>": CHANNELS, "<channel|>": THOUGHT_CHANNEL, "think>": THINK}
    return next((marks for sign, marks in known.items() if sign in template), None)
