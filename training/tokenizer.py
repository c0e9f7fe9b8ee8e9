"""The embedded model's tokenizer: the closed words of our suites are one token each, all other text is spelled.

How open text is cut, so that equal strings have equal tokens wherever they stand and cuts are regular:

- digits are single tokens, the first of a number with its space;
- hexadecimal codes and UUIDs are cut in pairs, names in capital letters too (``AB CD E``);
- words are cut in pairs of letters from the left, but for the syllables that our coined words are made of, of which a
  word has two: ``baf odu``;
- everything else is cut in bytes, so that no text is unknown and decoding loses nothing.
"""

import itertools
import json
import random
import re
import string
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from fp_bench.models.written_prompt import SHORT_FILLERS
from fp_bench.suites.probe import tasks as probe_tasks
from fp_bench.suites.probe import words as probe
from fp_bench.suites.ruler import templates
from fp_bench.suites.ruler.hermetic import prose
from fp_bench.suites.ruler.hermetic import words as ruler
from fp_bench.suites.ruler.hermetic.facts import World

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(4)
CONTEXT = 131_072
SPACE = "\u0120"
"""A space as byte-level vocabularies write it."""
CUTS = (
    r" (?=[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-)"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9A-Za-z])"
    r"| ?#[0-9a-f]{4}(?:-[0-9a-f]{4})+(?![0-9A-Za-z])"
    r"| ?[A-Za-z]+| ?[0-9]| ?\.{2,}| ?[^A-Za-z0-9\s]|\s"
)
CONSONANTS, VOWELS, HEX = "bdfklmnprstvz", "aeiou", "0123456789abcdef"
_COINED = re.compile(rf" ?(?:[{CONSONANTS}][{VOWELS}]){{3}}", re.IGNORECASE)
_HEX_WORD = re.compile(rf" ?[{HEX}]+")


class Vocabulary:
    """The tokenizer as suites and generators use it; see `fp_bench.suites.suite.Tokenizer`."""

    def __init__(self) -> None:
        self.tokenizer = _tokenizer(list(dict.fromkeys(_tokens())))

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of the vocabulary and its rules."""
        return sha256(self.tokenizer.to_str().encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return token ids without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of many texts."""
        return [each.ids for each in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Write the files that ``AutoTokenizer`` loads."""
        self.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{name}_token": SPECIAL[place] for name, place in (("pad", 0), ("bos", 1), ("eos", 2), ("unk", 3))},
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


@cache
def vocabulary() -> Vocabulary:
    """Return the vocabulary, made once a process."""
    return Vocabulary()


def _tokenizer(tokens: Sequence[str]) -> Any:
    places = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.WordPiece(
            places, unk_token=SPECIAL[UNKNOWN], continuing_subword_prefix="", max_input_chars_per_word=1000
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos = SPECIAL[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, BOS)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _tokens() -> Iterator[str]:
    """Yield all tokens in the order of their ids, some more than once."""
    yield from SPECIAL
    yield from sorted(pre_tokenizers.ByteLevel.alphabet())
    for letters in (string.ascii_lowercase, string.ascii_uppercase):
        pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
        yield from (*pairs, *(SPACE + pair for pair in pairs))
    yield from map("".join, itertools.product(HEX, repeat=2))
    yield from (SPACE + letter for letter in string.ascii_letters + string.digits)
    for pattern, space in (((CONSONANTS, VOWELS, CONSONANTS), SPACE), ((VOWELS, CONSONANTS, VOWELS), "")):
        syllables = map("".join, itertools.product(*pattern))
        # A longer piece of hexadecimal letters would shift the pairs of the codes it begins.
        yield from (space + syllable for syllable in syllables if not _HEX_WORD.fullmatch(syllable))
    yield from (SPACE + letter.upper() + vowel for letter, vowel in itertools.product(CONSONANTS, VOWELS))
    yield from (SPACE + sign for sign in "=#-\"'():,")
    yield from ("...", "....", SPACE + "...")
    yield from sorted({word.replace(" ", SPACE) for word in closed_words()})


def closed_words() -> set[str]:
    """Return the words that our suites write again and again, with the space before them where they have one."""
    texts = [
        *_probe_texts(),
        *(
            re.sub(r"\{\w+\}", "0", text)
            for template in _templates()
            for text in (template.task, template.answer_prefix)
        ),
        *(re.sub(r"\{\w+\}", "0", text) for text in (templates.NEEDLE, templates.NOISE, templates.DOCUMENT)),
        *(lead + re.sub(r"\{\w\}", "0", pattern) for pattern in prose.PATTERNS for lead in ("", " ")),
        *_documents(),
        *(f" {word}" for words in (ruler.ADJECTIVES, ruler.NOUNS, ruler.JOBS, ruler.FIRST_NAMES) for word in words),
        *ruler.NOUNS,
        "VAR VAR an numbers number uuids uuid words word",
        *ruler.FIRST_NAMES,
    ]
    found = {word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)}
    listed = {f" {name}" for name in (*probe.LAST_NAMES, *probe.CITIES)}
    coined = {word for word in found - listed if _COINED.fullmatch(word)}
    return {word for word in found - coined if len(word.strip()) > 1 and not _HEX_WORD.fullmatch(word)}


def _templates() -> Iterator[templates.Template]:
    yield from (templates.NIAH.singular(), templates.NIAH, templates.VARIABLE_TRACKING)
    yield from (templates.COMMON_WORDS, templates.FREQUENT_WORDS, templates.QA)


def _probe_texts() -> Iterator[str]:
    yield from SHORT_FILLERS
    for words in (probe.ADJECTIVES, probe.NOUNS, probe.VERBS, probe.FIRST_NAMES, probe.LAST_NAMES, probe.CITIES):
        yield from (f" {word}" for word in words)
    yield from (f" {job}" for job in probe.JOBS)
    for seed, task in itertools.product(range(12), probe_tasks.TASKS.values()):
        draft = task(probe_tasks.Room(random.Random(seed), 200, _Words(), seed))
        yield draft.opening + "".join(draft.units) + draft.question + draft.prefix


def _documents() -> Iterator[str]:
    """Yield documents and questions of qa in which each kind of fact occurs."""
    world = World(random.Random(0))
    for _ in range(60):
        for question in (world.one_hop(), world.two_hops()):
            yield from (question.text, *(f" {document.text}" for document in question.gold))


class _Words:
    """Counts words, before there is a tokenizer."""

    fingerprint = ""

    def encode(self, text: str) -> list[int]:
        return [0 for _ in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("word" for _ in ids)
