"""Fidelity: no questions, only a text; next-token distributions are compared with dense attention's on it."""

import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from fp_bench.errors import UnavailableError, UsageError, unread
from fp_bench.suites.probe.text import OPENING, filler, keys, needle, number, recall
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer


class Fidelity(Suite):
    """Distance of a method's next-token distributions from dense attention's, on any text."""

    name: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 2
    tasks: ClassVar[tuple[str, ...]] = ("text",)
    compared: ClassVar[bool] = True
    untemplated: ClassVar[frozenset[str]] = frozenset(tasks)

    class Params(SuiteParams):
        """Which text."""

        text: str | None = Field(None)
        """A text file, cut into samples from its start; none: sentences of the probe."""

    params: Params

    @classmethod
    def of_file(cls, path: str | None) -> "Fidelity":
        """Return the suite on a text file, or on generated sentences."""
        return cls(cls.Params(text=path))

    def facts(self) -> dict[str, Any]:
        """Return the parameters and the file's content, because another text is another question."""
        path = self.params.text
        content = {"content": sha256(_read(path).encode()).hexdigest()[:12]} if path else {}
        return super().facts() | content

    def text(self) -> str:
        """Return the file's text, empty without one.

        Raises:
            UnavailableError: it cannot be read.
        """
        return _read(self.params.text) if self.params.text else ""

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Cut the text; see `Suite.samples`. Sample i is the i-th piece of a file, or a separate text.

        Raises:
            UsageError: a length too short, or a file with fewer tokens than the samples take.
            UnavailableError: a file that cannot be read.
        """
        self.check_tasks([task])
        room = length - reserved
        if room < 2:
            raise UsageError(f"fidelity: length {length} is too short; at least {reserved + 2}")
        ids = tokenizer.encode(self.text())
        for index in indices:
            if self.params.text:
                piece = tokenizer.decode(ids[index * room : (index + 1) * room])
                if (index + 1) * room > len(ids):
                    raise UsageError(
                        f"fidelity: {self.params.text} has {len(ids)} tokens; {index + 1} samples of {length} take "
                        f"{(index + 1) * room}: ask for fewer, or shorter ones"
                    )
            else:
                piece = _written(random.Random(f"fidelity {self.version} {length} {seed} {index}"), room, tokenizer)
            yield Sample(
                id=self.sample_id(task, length, index),
                task=task,
                length=length,
                context=_shortened(piece, room, tokenizer),
                question="",
                answer_prefix="",
                answers=(),
                max_new_tokens=0,
            )

    def score(self, sample: Sample, prediction: str) -> float:
        """Raise, because there is no answer; distributions are compared."""
        del prediction
        raise UsageError(f"{sample.id} has no answer; its next-token distributions are compared")


def _read(path: str) -> str:
    try:
        if Path(path).exists() and not Path(path).is_file():  # a folder, or what never ends
            raise OSError("it is no file")
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"text file {path} cannot be read: {unread(error)}") from None


def _written(draw: random.Random, room: int, tokenizer: Tokenizer) -> str:
    """Return at least ``room`` tokens of needles, recalls of them and filler sentences."""
    unused = keys(draw)
    known: list[tuple[str, str]] = []
    parts, tokens = [OPENING], len(tokenizer.encode(OPENING))
    while tokens < room:
        kind = draw.choices(("filler", "needle", "recall"), (6, 2, 1))[0]
        if kind == "needle" and (key := next(unused, None)) is not None:
            known.append((key, number(draw)))
            part = needle(*known[-1])
        else:
            part = recall(*draw.choice(known)) if kind == "recall" and known else filler(draw)
        parts.append(part)
        tokens += len(tokenizer.encode(part))
    return "".join(parts)


def _shortened(text: str, room: int, tokenizer: Tokenizer) -> str:
    """Cut a text to at most ``room`` tokens, also if decoding and encoding changes their number."""
    ids = tokenizer.encode(text)
    keep = room
    while len(ids) > room:
        text = tokenizer.decode(ids[:keep])
        ids = tokenizer.encode(text)
        keep -= 1
    return text
