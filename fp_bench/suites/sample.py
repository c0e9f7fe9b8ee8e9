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
    choices: tuple[str, ...] = ()
    """What a right answer is one of, where the metric asks for it."""
    stop: tuple[str, ...] = ()
    """Texts whose last token ends an answer too, unless it is the first of it."""
    depth: float | None = None
    """Where in the context the answer stands, 0 (start) to 1 (end); None where no place was chosen."""
    groups: tuple[str, ...] = ()
    """Kinds of question that it is one of, each with a mean of its own: a category, a length, a difficulty."""
    cut_tokens: int = 0
    """Tokens left out of the middle of the prompt, so that it fits."""

    @property
    def text(self) -> str:
        """The prompt without a chat template."""
        return self.context + self.question + self.answer_prefix
