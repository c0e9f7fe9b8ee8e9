"""``mrcr`` and ``mrcr@openai``: equal requests in a long conversation, of whose answers one is to be repeated.

The task is that of openai/mrcr on the Hugging Face hub, which follows Gemini's (arXiv 2409.12640). Texts are ours, or
OpenAI's from files.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from fp_bench.errors import UnavailableError
from fp_bench.suites.fit import GOLDEN, Draft, Prompt, Stream, fitted_sample
from fp_bench.suites.rows import Row, numbered, rows
from fp_bench.suites.ruler.hermetic import prose
from fp_bench.suites.ruler.hermetic.words import NOUNS, letters
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

NEEDLES = {"needles_2": 2, "needles_4": 4, "needles_8": 8}
"""Equal requests of each task."""
FORMS = ("advert", "diary entry", "eulogy", "fable", "letter", "news report", "poem", "review", "riddle", "speech")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
OPENING = "Below is a conversation. Read it, then do what the last user asks.\n"
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
SENTENCES = 3
"""Of an answer in the conversation."""


class Mrcr(Suite):
    """Two, four or eight equal requests among others like them: the n-th answer is to be repeated, after a code."""

    name: ClassVar[str] = "mrcr"
    tasks: ClassVar[tuple[str, ...]] = tuple(NEEDLES)
    max_new_tokens: ClassVar[int] = 320

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`.

        Raises:
            UsageError: a length too short.
        """
        self.check_tasks([task])
        for index in indices:
            draw = random.Random(f"{self.name} {self.version} {task} {length} {seed} {index}")
            draft, depth = _draft(draw, NEEDLES[task], index)
            new = self.max_new_tokens
            yield fitted_sample(self, task, length, index, draft, tokenizer, reserved=reserved, new=new, depth=depth)

    def score(self, sample: Sample, prediction: str) -> float:
        """Return how like the answer a prediction is that begins with the code, by ``difflib``; 0 without the code."""
        (answer,) = sample.answers
        code, found = answer.split(" ", 1)[0], prediction.strip()
        if not found.startswith(code):
            return 0.0
        ratio = SequenceMatcher(None, found.removeprefix(code).strip(), answer.removeprefix(code).strip()).ratio()
        return float(ratio)


class MrcrParams(SuiteParams):
    """OpenAI's data."""

    path: str = ""
    """A folder with the files of openai/mrcr, also below it, or one of them: parquet or JSON lines."""


class OpenAiMrcr(Mrcr):
    """OpenAI's conversations, those of more than half the length; as a transcript in one turn."""

    variant: ClassVar[str] = "openai"
    needs: ClassVar[str] = "path=FOLDER with the files of openai/mrcr"
    Params: ClassVar[type[SuiteParams]] = MrcrParams
    params: MrcrParams
    spare_tokens: ClassVar[int] = 64
    """New tokens beyond those of the answer."""

    def samples(
        self,
        task: str,
        length: int,
        indices: Sequence[int],
        tokenizer: Tokenizer,
        *,
        seed: int,  # noqa: ARG002
        reserved: int,
    ) -> Iterator[Sample]:
        """Read samples in the order of the files; see `Suite.samples`.

        Raises:
            UsageError: fewer samples of this length than requested.
            UnavailableError: missing data, or rows of another form.
        """
        self.check_tasks([task])
        owner = f"{self.full_name()}: {task} at length {length}"
        yield from (sample for _, sample in numbered(self._fitting(task, length, tokenizer, reserved), indices, owner))

    def provenance(self, task: str) -> dict[str, str]:
        """Return a hash of the files."""
        del task
        return {"data": self._hash}

    def _fitting(self, task: str, length: int, tokenizer: Tokenizer, reserved: int) -> Iterator[Sample]:
        """Yield the rows of a task that fit the length but not its half."""
        number = 0
        for file in self._files:
            for row in rows(file, self.full_name()):
                sample = self._sample(file, task, length, number, row, tokenizer)
                if sample is None:
                    continue
                taken = len(tokenizer.encode(sample.text)) + reserved + sample.max_new_tokens
                if length / 2 < taken <= length:
                    number += 1
                    yield sample

    def _sample(self, file: Path, task: str, length: int, number: int, row: Row, tokenizer: Tokenizer) -> Sample | None:
        """Return a row; None if it is of another task, or certainly of another length."""
        try:
            if int(row["n_needles"]) != NEEDLES[task] or not length / 8 < int(row["n_chars"]) < length * 16:
                return None
            *earlier, last = json.loads(row["prompt"])
            code, answer = row["random_string_to_prepend"], row["answer"]
            text = answer.removeprefix(code)
            if text == answer or not code:
                raise ValueError("the answer does not begin with the code")
            return Sample(
                id=self.sample_id(task, length, number),
                task=task,
                length=length,
                context=OPENING + "".join(map(_message, earlier)),
                question=f"{_message(last)}\nAssistant:",
                answer_prefix="",
                answers=(f"{code} {text.strip()}",),
                max_new_tokens=len(tokenizer.encode(answer)) + self.spare_tokens,
                depth=min(1.0, int(row["desired_msg_index"]) / max(1, len(earlier))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}; its fields: {', '.join(sorted(row))}"
            raise UnavailableError(
                f"{self.full_name()}: {file}: a row is not of the data set's form: {reason}"
            ) from None

    @cached_property
    def _files(self) -> list[Path]:
        place = Path(self.params.path).expanduser()
        if not self.params.path:
            raise UnavailableError(f"{self.full_name()} needs OpenAI's data; give {self.full_name()}:path=FOLDER")
        found = [place] if place.is_file() else sorted([*place.rglob("*.parquet"), *place.rglob("*.jsonl")])
        if not found:
            raise UnavailableError(f"{self.full_name()}: {place} has no .parquet or .jsonl files")
        return found

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
        return digest.hexdigest()[:16]


def _message(message: Any) -> str:
    return f"\n{message['role'].capitalize()}: {message['content']}\n"


def _draft(draw: random.Random, needles: int, index: int) -> tuple[Draft, float]:
    """Draft a conversation; return it, and the depth of what is asked for."""
    form, topic = draw.choice(FORMS), draw.choice(NOUNS)
    code = next(letters(draw, 10, ALPHABET))
    texts = prose.sentences(random.Random(draw.random()))
    wanted = [" ".join(islice(texts, SENTENCES)) for _ in range(needles)]
    asked = index % needles
    shift = index * GOLDEN % 1
    depths = [(number + shift) / needles for number in range(needles)]
    others = Stream(_others(random.Random(draw.random()), form, topic))

    def write(units: int) -> Prompt:
        around = others.first(units)
        # From the last one on, so that places before it stay what they are.
        for depth, text in reversed(list(zip(depths, wanted, strict=True))):
            around.insert(int(depth * (units + 1)), _turn(form, topic, text))
        question = (
            f"\nUser: Write {code} and after it, word for word, the {ORDINALS[asked]} {form} about the {topic} that is "
            "in this conversation. Write nothing else.\n\nAssistant:"
        )
        return Prompt(OPENING + "".join(around), question, "")

    return Draft(write, (f"{code} {wanted[asked]}",)), depths[asked]


def _turn(form: str, topic: str, text: str) -> str:
    return f"\nUser: Write a {form} about the {topic}.\n\nAssistant: {text}\n"


def _others(draw: random.Random, form: str, topic: str) -> Iterator[str]:
    """Yield turns without end that ask for something else: half of them for the same form, or about the same topic."""
    texts = prose.sentences(draw)
    while True:
        kind = draw.randrange(4)
        found = form if kind == 0 else draw.choice(FORMS), topic if kind == 1 else draw.choice(NOUNS)
        if found != (form, topic):
            yield _turn(*found, " ".join(islice(texts, SENTENCES)))
