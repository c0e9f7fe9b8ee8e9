"""One question of a suite: the row schema that all suites share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A prompt in three parts, and its right answers.

    Without a chat template a model reads ``context + question + answer_prefix``. With one, context and question are
    the user's turn and the prefix begins the assistant's.
    """

    id: str
    """Unique within a suite, variant and seed, the same for every model and method, e.g. ``vt/4096/0``."""
    task: str
    length: int
    """Limit of tokens of prompt and answer together."""
    context: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    """Texts to find in the prediction; empty: next-token distributions are compared with dense attention's."""
    max_new_tokens: int
    choices: tuple[str, ...] = ()
    """All classes of a classification, for metrics that need them."""
    stop: tuple[str, ...] = ()
    """Texts whose last token also ends an answer, unless it comes first."""
    depth: float | None = None
    """Position of the answer in the context, 0 (start) to 1 (end); None if none was chosen."""
    groups: tuple[str, ...] = ()
    """Kinds of question with their own mean: a category, a length, a difficulty."""
    cut_tokens: int = 0
    """Tokens removed from the middle of the prompt to make it fit."""
    turns: tuple[tuple[str, str], ...] = ()
    """Earlier turns of the conversation: the user's text and the assistant's answer."""

    @property
    def text(self) -> str:
        """The prompt without a chat template."""
        earlier = "".join(user + assistant for user, assistant in self.turns)
        return earlier + self.context + self.question + self.answer_prefix
