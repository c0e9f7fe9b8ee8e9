"""``helmet``: the value of a key in a JSON object, and classification by many examples.

These are the tasks of HELMET (arXiv 2410.02694) that need no documents; its needles are RULER's. Words are ours.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import cycle, product
from math import ceil, sqrt
from pathlib import Path
from typing import ClassVar

from fp_bench.errors import UnavailableError
from fp_bench.suites.fit import GOLDEN, Draft, Prompt, Stream, fitted_sample
from fp_bench.suites.rows import rows
from fp_bench.suites.ruler.hermetic.words import ADJECTIVES, NOUNS, uuids, with_articles
from fp_bench.suites.ruler.nvidia.sources import fingerprint
from fp_bench.suites.sample import Sample
from fp_bench.suites.scoring import all_of, exact
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

JSON, GIVEN = "json_kv", "icl_texts"
CLASSES = {"icl_6": 6, "icl_50": 50, "icl_68": 68, "icl_77": 77, "icl_151": 151}
"""Classes of HELMET's five data sets: TREC coarse and fine, NLU, BANKING77, CLINC150."""
NEW_TOKENS = {JSON: 100}
LABEL_TOKENS = 20
DEMONSTRATED = (0.25, 0.75)
"""Depths of the two keys whose values the question gives."""

KEY_QUESTION = "\n\nEach key of the JSON object above has a value. Give the value of the last key.\n\n"
LABEL_OPENING = (
    "Each text below has a label, which is a number. Find out from these examples what has which label, then give the "
    'last text its label. Write "label: NUMBER" and nothing else.\n\n'
)
ACTIONS = (
    ("buy {}", "pay for {}", "get {} from a shop"),
    ("sell {}", "find a buyer for {}", "trade {} for money"),
    ("repair {}", "fix {}", "get {} to work again"),
    ("clean {}", "wash {}", "get the dirt off {}"),
    ("paint {}", "give {} another colour", "put a coat of varnish on {}"),
    ("insure {}", "take out a policy for {}", "cover {} against damage"),
    ("borrow {}", "have {} for a few days", "take {} on loan"),
    ("send {} back", "return {}", "give {} back to the seller"),
    ("photograph {}", "take a picture of {}", "make a portrait of {}"),
    ("move {}", "carry {} to another place", "put {} somewhere else"),
    ("measure {}", "find out how big {} is", "take the dimensions of {}"),
    ("hide {}", "keep {} out of sight", "put {} where nobody looks"),
    ("describe {}", "say what {} looks like", "write a few lines about {}"),
)
"""What a text is about, each in three wordings."""
FRAMES = (
    "How do I {}?", "I would like to {}.", "Could you help me to {}?", "My sister wants to {}.",
    "What does it cost to {}?", "Who is able to {}?", "We tried to {}, without success.", "Is it time to {}?",
    "Remind me to {}.", "They told us to {}.",
)  # fmt: skip


class Texts(ABC):
    """Texts of classes, to be given as examples."""

    @abstractmethod
    def classes(self, draw: random.Random) -> Sequence[Iterator[str]]:
        """Return for each class its texts in random order, without end; its first text comes only once."""


class Written(Texts):
    """Our own texts: a class is what somebody wants to do with which thing; others share either.

    Args:
        count: number of classes.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def classes(self, draw: random.Random) -> Sequence[Iterator[str]]:
        """Draw classes, and return the texts of each; see `Texts.classes`."""
        rows = min(len(ACTIONS), ceil(sqrt(self._count * 13 / 12)))
        actions, things = draw.sample(ACTIONS, rows), draw.sample(NOUNS, ceil(self._count / rows))
        about = draw.sample(list(product(actions, things)), self._count)
        return [_texts(random.Random(draw.random()), *each) for each in about]


def _texts(draw: random.Random, wordings: Sequence[str], thing: str) -> Iterator[str]:
    """Yield texts of a class: an action in one of its wordings, a thing with any adjective, in any frame."""
    first = None
    while True:
        what = draw.choice(wordings).format(f"{draw.choice(('the', 'my', 'a'))} {draw.choice(ADJECTIVES)} {thing}")
        text = with_articles(draw.choice(FRAMES).format(what))
        if text != first:
            first = first or text
            yield text


class Given(Texts):
    """A user's texts.

    Args:
        by_class: texts of each class, at least two.
    """

    def __init__(self, by_class: Mapping[str, Sequence[str]]) -> None:
        self._by_class = by_class

    def classes(self, draw: random.Random) -> Sequence[Iterator[str]]:
        """Return the texts of each class, again and again but for the first; see `Texts.classes`."""
        return [_again(draw.sample(texts, len(texts))) for texts in self._by_class.values()]


def _again(texts: Sequence[str]) -> Iterator[str]:
    yield texts[0]
    yield from cycle(texts[1:])


class HelmetParams(SuiteParams):
    """A user's texts."""

    texts: str = ""
    """Texts for icl_texts: JSON lines, JSON or parquet with `text` and `label`."""


class Helmet(Suite):
    """A key's value in a JSON object, and texts that many examples label with numbers."""

    name: ClassVar[str] = "helmet"
    tasks: ClassVar[tuple[str, ...]] = (JSON, *CLASSES, GIVEN)
    left_out: ClassVar[frozenset[str]] = frozenset({GIVEN})
    Params: ClassVar[type[SuiteParams]] = HelmetParams
    params: HelmetParams

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`.

        Raises:
            UsageError: a length too short.
            UnavailableError: texts that are not given, or cannot be read.
        """
        self.check_tasks([task])
        new = NEW_TOKENS.get(task, LABEL_TOKENS)
        for index in indices:
            draw = random.Random(f"{self.name} {self.version} {task} {length} {seed} {index}")
            depth = index * GOLDEN % 1 if task == JSON else None
            draft = _lookup(draw, depth) if depth is not None else _labels(draw, self._texts(task), index)
            stop = () if task == JSON else ("\n",)
            yield fitted_sample(
                self, task, length, index, draft, tokenizer, reserved=reserved, new=new, stop=stop, depth=depth
            )

    def score(self, sample: Sample, prediction: str) -> float:
        """Return 1 if the value is in the prediction, or if the first line is the label, with or without the word."""
        if sample.task == JSON:
            return all_of(prediction, sample.answers)
        return exact(prediction.strip().removeprefix("label:"), sample.answers)

    def provenance(self, task: str) -> dict[str, str]:
        """Return a hash of the user's texts."""
        return {"texts": fingerprint(self.params.texts)} if task == GIVEN else {}

    def _texts(self, task: str) -> Texts:
        return Written(CLASSES[task]) if task in CLASSES else self._given

    @cached_property
    def _given(self) -> Given:
        owner = f"{self.full_name()}: {GIVEN}"
        if not self.params.texts:
            raise UnavailableError(f"{owner} needs texts; give helmet:texts=FILE with rows of text and label")
        found: dict[str, dict[str, None]] = {}
        for number, row in enumerate(rows(Path(self.params.texts).expanduser(), owner), 1):
            if not (isinstance(row.get("text"), str) and "label" in row):
                raise UnavailableError(f"{owner}: {self.params.texts}: row {number} has no text and label")
            found.setdefault(str(row["label"]), {})[" ".join(row["text"].split())] = None
        by_class = {label: list(texts) for label, texts in sorted(found.items()) if len(texts) > 1}
        if len(by_class) < 2:
            raise UnavailableError(f"{owner}: {self.params.texts} has no two labels with two texts each")
        return Given(by_class)


def _lookup(draw: random.Random, depth: float) -> Draft:
    """Draft a JSON object with a key at a depth, for whose value the question asks after giving those of two others."""
    ids = uuids(random.Random(draw.random()))
    first, second, asked = ((next(ids), next(ids)) for _ in range(3))
    others = Stream(f'"{key}": "{next(ids)}"' for key in ids)
    placed = sorted([*zip(DEMONSTRATED, (first, second), strict=True), (depth, asked)])

    def write(units: int) -> Prompt:
        lines = others.first(units)
        for share, (key, value) in reversed(placed):  # from the last one on, so that places before it stay
            lines.insert(int(share * (units + 1)), f'"{key}": "{value}"')
        given = "".join(f"Key: {key}\nValue: {value}\n\n" for key, value in (first, second))
        return Prompt("{" + ",\n ".join(lines) + "}", f"{KEY_QUESTION}{given}Key: {asked[0]}", "\nValue:")

    return Draft(write, (asked[1],))


def _labels(draw: random.Random, texts: Texts, index: int) -> Draft:
    """Draft labelled examples, equally many of each class, and a text of another; labels are numbers drawn anew."""
    classes = texts.classes(draw)
    labels = draw.sample(range(len(classes)), len(classes))
    asked = (draw.randrange(len(classes)) + index) % len(classes)
    wanted = [next(texts) for texts in classes][asked]
    examples = Stream(_examples(random.Random(draw.random()), classes, labels))

    def write(units: int) -> Prompt:
        return Prompt(LABEL_OPENING + "\n\n".join(examples.first(units)), f"\n\n{wanted}", "\nlabel:")

    return Draft(write, (str(labels[asked]),), least=len(classes))


def _examples(draw: random.Random, classes: Sequence[Iterator[str]], labels: Sequence[int]) -> Iterator[str]:
    """Yield examples without end: one of each class in random order, then again."""
    while True:
        for each in draw.sample(range(len(classes)), len(classes)):
            yield f"{next(classes[each])}\nlabel: {labels[each]}"
