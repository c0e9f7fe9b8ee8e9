"""Training texts in the wording of RULER's tasks: that of our ``ruler`` and of ``ruler@nvidia``, which share it.

A text has one question, as the suites' prompts have, or many of the same form, each with its answer: then it teaches
more. Answers are written so that each next token can be found in the text:

- several values in the order in which they stand there; for several keys, each key again before its value;
- of a question that takes two documents, first the founder's name, which leads to the second one;
- words that were counted in any order.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from fp_bench.suites.ruler import templates
from fp_bench.suites.ruler.hermetic.facts import World
from fp_bench.suites.ruler.tasks import Kind, Needles
from fp_bench.suites.ruler.zeta import ANSWERS, coded_text, vocabulary_size
from training.lexicon import BLANK
from training.page import Answer, Page, TooShortError, size
from training.pen import Pen
from training.ragged import Ids, Places, Ragged
from training.tokenizer import CONTEXT

SEVERAL = 4
"""Values of a key, or keys of a question, where there are several."""
WITH_EXAMPLE = 1024
"""Tokens from which variable tracking and common words have their solved example."""
MOST_KEYS = 2000
"""In a haystack of other text."""
CHAIN = 5
MOST_CHAINS = 60
COMMON = 10
TOKENS_A_LINK, TOKENS_A_CHAIN_ASKED = 14, 60
TOKENS_A_TITLE, TOKENS_A_FACT_ASKED = 10, 56
"""About; of a title at most."""


def needles(pen: Pen, page: Page) -> None:
    """Write one of the eight needle tasks, or something between them."""
    haystack = ("noise", "essay", "needle")[pen.draw.choice(3, p=(0.2, 0.45, 0.35))]
    keys: Kind = "uuids" if pen.chance(0.25) else "words"
    values: Kind = "uuids" if pen.chance(0.7 if keys == "uuids" else 0.25) else "numbers"
    form = ("one", "values", "queries")[pen.draw.choice(3, p=(0.6, 0.2, 0.2))]
    if form == "queries" and "uuids" in (keys, values):
        form = "one"  # written out, the answer would be longer than RULER lets it be
    task = Needles(
        haystack,  # type: ignore[arg-type]
        keys,
        values,
        values_per_key=SEVERAL if form == "values" else 1,
        queries=SEVERAL if form == "queries" else 1,
    )
    hide(pen, page, task, spelled=pen.chance(0.4))


def hide(pen: Pen, page: Page, task: Needles, *, spelled: bool, key_count: int | None = None) -> None:
    """Write a needle task.

    Args:
        pen: writes it.
        page: where.
        task: haystack, keys, values, and how many at a time.
        spelled: keys of words that are in no list.
        key_count: keys of a text; None draws how many.
    """
    lexicon = pen.lexicon
    essay = task.haystack == "essay"
    prompt = task.prompt(BLANK, [BLANK] * task.queries)
    asks = prompt.question + prompt.answer_prefix
    states = lexicon.phrase(" " * essay + task.sentence(BLANK, BLANK) + "\n" * (not essay))
    page.text([lexicon.ids(prompt.context.removesuffix(BLANK))])

    keys, values = _keys(pen, task, task.queries, spelled), _values(pen, task, task.values_per_key)
    a_line = size_of(states(keys[0], values[0]))
    a_question = size_of(lexicon.phrase(asks)(*keys, *keys)) + len(_found(pen, [(key, values) for key in keys]).ids)
    questions = min(pen.questions(page), max(1, page.room // 2 // a_question))
    room = page.room - questions * a_question
    most = max(1, room // a_line // task.values_per_key)
    count = most if task.haystack == "needle" else pen.log_uniform(min(most * 3 // 4, MOST_KEYS))
    keys = _keys(pen, task, max(count, task.queries) if key_count is None else key_count, spelled)
    # Of keys with several values some have one, so that the number is read and not assumed.
    several = [1 if key_count is None and pen.chance(0.3) else task.values_per_key for _ in keys]
    owner = pen.draw.permutation(np.repeat(np.arange(len(keys)), several)).tolist()
    held: dict[int, list[Ids]] = {}
    lines: list[list[Ids]] = []
    for key, value in zip(owner, _values(pen, task, len(owner)), strict=False):
        line = states(keys[key], value)
        room -= size_of(line)
        if room < 0 and len(lines) >= task.queries * task.values_per_key:
            break
        held.setdefault(key, []).append(value)
        lines.append(line)

    left = sorted(pen.draw.permutation(list(held)).tolist(), key=lambda key: -len(held[key]))
    for number in range(questions):
        asked, left = left[: task.queries], left[task.queries :]
        if len(asked) < task.queries:
            break
        ask = lexicon.phrase(asks if number or essay else asks.removeprefix("\n"))(*(keys[key] for key in asked * 2))
        if not page.ask(ask, _found(pen, [(keys[key], held[key]) for key in asked]), keep=sum(map(size_of, lines))):
            break
    if task.haystack == "needle":
        page.text(part for line in lines for part in line)
    elif essay:
        pen.scattered(page, lexicon.essay, lines, lexicon.essay_start)
    else:
        pen.scattered(page, lexicon.noise, lines)


def _keys(pen: Pen, task: Needles, count: int, spelled: bool) -> list[Ids]:
    if task.keys == "uuids":
        return pen.lexicon.uuids(pen.draw, count)
    keys: list[Ids] = []
    while len(keys) < count and len(keys) < 100_000:
        keys += pen.lexicon.keys(pen.draw, count + count // 8 + 4, spelled=spelled)
    return keys[:count]


def _values(pen: Pen, task: Needles, count: int) -> list[Ids]:
    if task.values == "uuids":
        return pen.lexicon.uuids(pen.draw, count)
    return pen.lexicon.numbers(pen.draw, count, 10**6, 10**7)


def _found(pen: Pen, found: list[tuple[Ids, list[Ids]]]) -> Answer:
    """Return the values of one key, or each of several keys with its value."""
    lexicon = pen.lexicon
    parts: list[Ids] = []
    if len(found) == 1:
        for value in found[0][1]:
            parts += (value, lexicon.comma)
    else:
        restates = lexicon.phrase(f" {BLANK} is: {BLANK},")
        for key, values in found:
            parts += restates(key, values[0])
    parts[-1] = lexicon.dot
    return Answer.of(*parts)


def variable_tracking(pen: Pen, page: Page) -> None:
    """Write a chain of five variables as RULER does, or several chains of two to six."""
    lexicon, draw = pen.lexicon, pen.draw
    values = lexicon.numbers(draw, MOST_CHAINS + 1, 10_000, 99_999)
    opening, question = templates.VARIABLE_TRACKING.task.split("{context}")
    question += templates.VARIABLE_TRACKING.answer_prefix
    asks = question.replace("{num_v}", BLANK).replace("{query}", BLANK)
    if page.length >= WITH_EXAMPLE:
        noise = 10 if page.length > WITH_EXAMPLE else 3
        page.include(_solved_chain(pen, lexicon.ids(opening), asks.removeprefix("\n"), values[-1], noise))
    page.text([lexicon.ids(opening)])
    several = pen.chance(0.5)
    length = int(draw.integers(2, 7)) if several else CHAIN
    most = min(MOST_CHAINS, page.room // 2 // (TOKENS_A_LINK * length + TOKENS_A_CHAIN_ASKED))
    count = (most if pen.chance(0.3) else pen.log_uniform(most)) if several else 1
    names = pen.choose(lexicon.variables[5], count * length)
    chains = [names[start : start + length] for start in range(0, len(names), length)]
    lines = [iter(linked(pen, chain, value)) for chain, value in zip(chains, values, strict=False)]
    turns = draw.permutation(np.repeat(np.arange(count), length)).tolist()
    inserts = [next(lines[turn]) for turn in turns]
    for which in range(min(count, pen.questions(page))):
        prompt = lexicon.phrase(asks if which else asks.removeprefix("\n"))(
            values[which], lexicon.number(length), values[which]
        )
        if not page.ask(prompt, Answer.of(*chains[which]), keep=sum(map(size_of, inserts))):
            break
    pen.scattered(page, lexicon.noise, inserts)


def _solved_chain(pen: Pen, opening: Ids, asks: str, value: Ids, noise: int) -> Page:
    """Return the example: a chain of short names and its answer, spaced as our suite or as NVIDIA's spaces it."""
    lexicon = pen.lexicon
    names = pen.choose(lexicon.variables[3], CHAIN)
    inserts = linked(pen, names, value)
    example = Page(len(opening) + sum(map(size_of, inserts)) + noise * len(lexicon.noise[0]))
    example.text([opening])
    pen.scattered(example, lexicon.noise, inserts)
    example.length = CONTEXT
    prompt = lexicon.phrase(asks if pen.chance(0.3) else asks.removesuffix(" "))(value, lexicon.number(CHAIN), value)
    example.text([*prompt, Answer.of(*names), lexicon.line, lexicon.line])
    return example


def linked(pen: Pen, names: list[Ids], value: Ids) -> list[list[Ids]]:
    """Return the lines of a chain; see `fp_bench.suites.ruler.tasks.chain`."""
    begins = pen.lexicon.phrase(f"VAR {BLANK} = {BLANK}\n")
    goes_on = pen.lexicon.phrase(f"VAR {BLANK} = VAR {BLANK} \n")
    return [begins(names[0], value), *(goes_on(name, source) for source, name in pairwise(names))]


def common_words(pen: Pen, page: Page) -> None:
    """Write common words: ten words several times as often as the others; in short texts fewer."""
    lexicon, draw = pen.lexicon, pen.draw
    words = lexicon.coined if pen.chance(0.55) else lexicon.spelled
    order = draw.permutation(len(words))
    opening, question = templates.COMMON_WORDS.task.split("{context}")
    question += templates.COMMON_WORDS.answer_prefix
    common, fewest = int(draw.integers(2, 6)), 0
    times = int(draw.integers(4, 8)), 1
    if page.length >= WITH_EXAMPLE:
        full = page.length >= 4096
        common, fewest = COMMON, 40 if full else 20
        shown, order = order[:fewest], order[fewest:]
        listed = _listed(pen, words, shown, common, (10, 3) if full else (3, 1))
        page.text([lexicon.ids(opening), listed, lexicon.ids(question), _numbered(pen, words, shown[:common])])
        page.text([lexicon.line])
        usual = (30, 3) if full else (6, 1)
        times = usual if pen.chance(0.75) else ((20, 2), (12, 1), (8, 1))[int(draw.integers(3))]
    page.text([lexicon.ids(opening)])
    if not page.ask([lexicon.ids(question)], _numbered(pen, words, draw.permutation(order[:common]))):
        raise TooShortError
    others, room = page.room // times[1] // 8, page.room
    for tried in range(8):
        listed = _listed(pen, words, order[: common + others], common, times)
        if len(listed) <= room and tried >= 2:
            page.text([listed])
            return
        a_word = len(listed) / (common * times[0] / times[1] + others)
        others += int((room * (1 - 0.002 * tried) - len(listed)) / a_word)
        if others < 2:
            break
    raise TooShortError


def _listed(pen: Pen, words: Ragged, chosen: Places, common: int, times: tuple[int, int]) -> Ids:
    """Return the numbered list: the first ``common`` words so often, the others so often."""
    items = np.concatenate([np.repeat(chosen[:common], times[0]), np.repeat(chosen[common:], times[1])])
    pen.draw.shuffle(items)
    places = pen.lexicon.places
    if len(items) > len(places):
        raise TooShortError
    numbered = np.stack([np.arange(len(items)), items + len(places)], axis=1)
    return (places + words).joined(numbered.ravel())


def _numbered(pen: Pen, words: Ragged, chosen: Places) -> Answer:
    numbers = [pen.lexicon.spaced_places[place] for place in range(len(chosen))]
    return Answer.any_order([words[int(word)] for word in chosen], numbers)


def frequent_words(pen: Pen, page: Page) -> None:
    """Write frequent words: coded words with zeta frequencies, of which ranks two to four are asked."""
    lexicon, draw = pen.lexicon, pen.draw
    opening, question = templates.FREQUENT_WORDS.task.split("{context}")
    page.text([lexicon.ids(opening.removesuffix(" "))])
    ranks = max(6, int(vocabulary_size(page.length) * draw.uniform(0.8, 1.2)))
    ranked = pen.draw.permutation(len(lexicon.coded))[:ranks]
    answers = [lexicon.coded[int(word)] for word in draw.permutation(ranked[ANSWERS])]
    if not page.ask([lexicon.ids(question + templates.FREQUENT_WORDS.answer_prefix)], Answer.any_order(answers)):
        raise TooShortError
    pieces = lexicon.coded + Ragged([lexicon.dots.tolist()])
    ranked[0] = len(pieces) - 1
    total = page.room
    while True:
        text = coded_text(ranked.tolist(), total)
        taken = int(pieces.size[text].sum())
        if taken <= page.room:
            break
        total = min(total - 1, int(total * page.room / taken * 1.002))
    if text.count(int(ranked[3])) < 2 or text.count(int(ranked[3])) == text.count(int(ranked[4])):
        raise TooShortError
    page.text([pieces.joined(draw.permutation(text))])


def documents(pen: Pen, page: Page) -> None:
    """Write documents about people, or about companies and their founders, and questions on them."""
    lexicon, world = pen.lexicon, World(pen.python)
    hops = 1 if pen.chance(0.4) else 2
    opening, question = templates.QA.task.split("{context}")
    asks = lexicon.phrase((question + templates.QA.answer_prefix).replace("{query}", BLANK))
    page.text([lexicon.ids(opening)])

    most = pen.questions(page)
    texts: list[Ids] = []
    about: list[tuple[str, str]] = []

    def fill(room: int) -> int:
        """Write documents into the room, and return the tokens that they take."""
        taken = 0
        while True:
            written, query, answer = _one_hop(world) if hops == 1 else _two_hops(world)
            ids = [lexicon.ids(text) for text in written]
            taken += (cost := size_of(ids) + TOKENS_A_TITLE * len(ids))
            if taken > room:
                return taken - cost
            texts.extend(ids)
            about.append((query, answer))

    needed = fill(page.room - min(page.room // 2, TOKENS_A_FACT_ASKED * most))
    for which in pen.order(len(about))[:most]:
        query, answer = about[which]
        if not page.ask(asks(lexicon.ids(f" {query}")), Answer.of(lexicon.ids(answer)), keep=needed):
            break
    fill(page.room - needed)
    pen.python.shuffle(texts)
    for number, text in enumerate(texts, start=1):
        page.text([lexicon.ids("\n\n" * (number > 1) + f"Document {number}:\n"), text])


def _one_hop(world: World) -> tuple[list[str], str, str]:
    who = world.person()
    document, fact = world.about(who)
    return [document.text], fact.question.format(who=who), f" {fact.answer}."


def _two_hops(world: World) -> tuple[list[str], str, str]:
    first, company, founder = world.company()
    second, fact = world.about(founder)
    query = fact.question.format(who=f"the founder of {company}")
    return [f"{each.title}\n{each.text}" for each in (first, second)], query, f" {founder}. {fact.answer}."


def size_of(parts: Iterable[Ids | Answer]) -> int:
    """Return the tokens of parts."""
    return sum(map(size, parts))
