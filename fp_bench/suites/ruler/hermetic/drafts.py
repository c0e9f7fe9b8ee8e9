"""A draft of each of the thirteen tasks."""

import itertools
import random
import string
from collections.abc import Callable, Iterator, Sequence

from fp_bench.suites.fit import Draft, Prompt, Stream
from fp_bench.suites.ruler import templates
from fp_bench.suites.ruler.hermetic import prose, words
from fp_bench.suites.ruler.hermetic.draft import Draw, placed
from fp_bench.suites.ruler.hermetic.facts import Document, World
from fp_bench.suites.ruler.tasks import NEEDLES, Kind, Needles, chain, numbered_list
from fp_bench.suites.ruler.templates import NOISE
from fp_bench.suites.ruler.zeta import ANSWERS, DOTS, LETTERS, coded_text, vocabulary_size

CHAIN = 5
EXAMPLE_NOISE = 10
COMMON = 10


def draft(task: str, draw: Draw, limit: int) -> list[Draft]:
    """Draft a sample.

    Args:
        task: which task.
        draw: the sample's random numbers.
        limit: tokens that the prompt may take.

    Returns:
        The draft, then a replacement if even its smallest prompt does not fit.
    """
    if task in NEEDLES:
        return [niah(NEEDLES[task], draw)]
    if task == "cwe":
        return [common_words(draw, 40, (10, 3), (30, 3)), common_words(draw, 20, (3, 1), (6, 1))]
    if task == "vt":
        return [variable_tracking(draw)]
    return [frequent_words(draw, limit) if task == "fwe" else qa(draw, hops=1 if task == "qa_1" else 2)]


_KINDS: dict[Kind, Callable[[random.Random], Iterator[str]]] = {
    "words": words.keys,
    "numbers": words.numbers,
    "uuids": words.uuids,
}


def niah(needles: Needles, draw: Draw) -> Draft:
    """Draft a needle task; all keys and values differ."""
    all_keys, all_values = _KINDS[needles.keys](draw.stream("keys")), _KINDS[needles.values](draw.stream("values"))
    hidden = {
        key: list(itertools.islice(all_values, needles.values_per_key))
        for key in itertools.islice(all_keys, needles.key_count)
    }
    keys = list(hidden)
    asked = keys[: needles.queries]
    answers = tuple(value for key in asked for value in hidden[key])
    order = draw.stream("order")
    depths = draw.depths(len(answers))
    order.shuffle(depths)
    depths += [order.random() for _ in keys[needles.queries :]]
    lines = [needles.sentence(key, value) for key in keys for value in hidden[key]]
    if needles.haystack == "essay":
        filling = Stream(prose.sentences(draw.stream("prose")))
    elif needles.haystack == "noise":
        filling = Stream(itertools.repeat(NOISE))
    else:
        filling = Stream(map(needles.sentence, all_keys, all_values))

    def write(units: int) -> Prompt:
        between = " " if needles.haystack == "essay" else "\n"
        context = between.join(placed(filling.first(units), list(zip(depths, lines, strict=True))))
        return needles.prompt(context, asked)

    return Draft(write, answers, least=len(lines))


def variable_tracking(draw: Draw) -> Draft:
    """Draft variable tracking: a chain of five variables in noise, after a solved example."""
    values = draw.stream("values")
    value, example_value = (str(number) for number in values.sample(range(10000, 99999), 2))

    def written(names: Sequence[str], value: str, depths: list[float], units: int, before: str = "") -> Prompt:
        lines = placed([NOISE] * units, list(zip(depths, chain(names, value), strict=True)))
        return templates.VARIABLE_TRACKING.fill("\n".join(lines), before=before, query=value, num_v=CHAIN)

    def names(purpose: str, length: int) -> tuple[str, ...]:
        return tuple(itertools.islice(words.letters(draw.stream(purpose), length, string.ascii_uppercase), CHAIN))

    shown = names("example", 3)
    anywhere = sorted(values.random() for _ in shown)
    solved = written(shown, example_value, anywhere, EXAMPLE_NOISE).text + " ".join(shown) + "\n\n"
    answers, depths = names("names", 5), draw.depths(CHAIN)
    return Draft(lambda units: written(answers, value, depths, units, before=solved), answers)


def common_words(draw: Draw, fewest: int, in_example: tuple[int, int], asked: tuple[int, int]) -> Draft:
    """Draft common words: ten words that occur more often than the others, after a solved example.

    Args:
        draw: the sample's random numbers.
        fewest: different words of the example, and at least of the list.
        in_example: repetitions of a common word and of another one in the example.
        asked: the same in the list.
    """
    coined = words.coined(draw.stream("words"))
    example, pool = list(itertools.islice(coined, fewest)), Stream(coined)

    def listed(chosen: list[str], times: tuple[int, int]) -> str:
        numbered = chosen[:COMMON] * times[0] + chosen[COMMON:] * times[1]
        draw.stream("order").shuffle(numbered)
        return numbered_list(numbered)

    shown = templates.COMMON_WORDS.fill(listed(example, in_example)).text
    solved = f"{shown} {numbered_list(example[:COMMON])}\n"

    def write(units: int) -> Prompt:
        return templates.COMMON_WORDS.fill(listed(pool.first(units), asked), before=solved)

    return Draft(write, tuple(pool.first(COMMON)), least=fewest)


def frequent_words(draw: Draw, limit: int) -> Draft:
    """Draft frequent words: coded words with zeta frequencies; the question asks for ranks two to four."""
    size = max(ANSWERS.stop, vocabulary_size(limit))
    ranked = list(itertools.islice(words.letters(draw.stream("words"), LETTERS, string.ascii_lowercase), size))
    ranked[0] = DOTS

    def write(units: int) -> Prompt:
        coded = coded_text(ranked, units)
        draw.stream("order").shuffle(coded)
        return templates.FREQUENT_WORDS.fill(" ".join(coded))

    return Draft(write, tuple(ranked[ANSWERS]), least=100)


def qa(draw: Draw, hops: int) -> Draft:
    """Draft a question about one document, or about two linked ones."""
    world = World(draw.stream("facts"))
    question = world.one_hop() if hops == 1 else world.two_hops()
    gold = list(question.gold)
    draw.stream("order").shuffle(gold)
    others = world.people() if hops == 1 else world.companies_and_founders()
    documents: list[Document] = []
    depths = draw.depths(hops)

    def filling(units: int) -> list[str]:
        """Return documents with a total number of sentences; the last one may be shorter."""
        texts, place = [], 0
        while units > 0:
            if place == len(documents):
                documents.append(next(others))
            document = Document(documents[place].title, documents[place].sentences[:units])
            texts.append(shown(document))
            units -= len(document.sentences)
            place += 1
        return texts

    def shown(document: Document) -> str:
        return document.text if hops == 1 else f"{document.title}\n{document.text}"

    def write(units: int) -> Prompt:
        texts = placed(filling(units), list(zip(depths, map(shown, gold), strict=True)))
        numbered = (templates.DOCUMENT.format(i=i, document=text) for i, text in enumerate(texts, start=1))
        return templates.QA.fill("\n\n".join(numbered), query=question.text)

    return Draft(write, (question.answer,))
