"""One question of a suite: the row schema that all suites share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A prompt in its three parts, and what a right answer is.

    Without a chat template a model reads ``context + question + answer_prefix``. With one, context and question are
    the user's turn and the prefix begins the assistant's.
    """

    id: str
    """Unique within a suite, variant and seed, the same for every model and method, e.g. ``vt/4096/0``."""
    task: str
    length: int
    """Tokens that the prompt and the answer may take together."""
    context: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    """What to find in the prediction; empty: the next-token distributions are compared with dense attention's."""
    max_new_tokens: int

    @property
    def text(self) -> str:
        """The prompt without a chat template."""
        return self.context + self.question + self.answer_prefix
