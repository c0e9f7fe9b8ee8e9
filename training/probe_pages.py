"""Training texts in the wording of the probe's tasks."""

import numpy as np

from fp_bench.suites.probe import text as probe_text
from fp_bench.suites.probe import words
from fp_bench.suites.probe.text import OPENING, Person
from training.lexicon import BLANK
from training.page import Answer, Page, TooShortError
from training.pen import Pen
from training.ragged import Ids
from training.ruler_pages import MOST_KEYS, size_of

KINDS = ("number", "code")
FEWEST_A_DOCUMENT, TOKENS_A_QUESTION = 28, 44
"""About."""


def needles(pen: Pen, page: Page) -> None:
    """Write needles with one or several values, some of them stated again, and questions on them."""
    lexicon, draw = pen.lexicon, pen.draw
    kind = KINDS[int(pen.chance(0.2))]
    most_values = 4 if pen.chance(0.4) else 1
    restated = float(draw.choice((0, 0.3, 0.8))) if most_values == 1 else 0.0
    page.text([lexicon.ids(OPENING)])
    states = lexicon.phrase(probe_text.needle(BLANK, BLANK, kind))
    recalls = lexicon.phrase(probe_text.recall(BLANK, BLANK, kind).removesuffix(f" {BLANK}."))
    one, several = map(lexicon.phrase, _asks(kind))

    questions = min(pen.questions(page), max(1, page.room // 2 // TOKENS_A_QUESTION))
    room = page.room - questions * TOKENS_A_QUESTION
    nothing_else = pen.chance(0.3)
    most = max(1, room // 16)
    count = most if nothing_else else pen.log_uniform(min(most * 3 // 4, MOST_KEYS))
    keys = lexicon.probe_keys(draw, count + count // 8 + 4)
    numbers = [1 if pen.chance(0.3) else int(draw.integers(2, most_values + 1)) for _ in keys] if most_values > 1 else 1
    owner = draw.permutation(np.repeat(np.arange(len(keys)), numbers)).tolist()
    values = lexicon.codes(draw, len(owner), 3) if kind == "code" else lexicon.digits_of(draw, len(owner), 7)
    held: dict[int, list[Ids]] = {}
    inserts: list[list[Ids | Answer]] = []
    for key, value in zip(owner[: count * most_values], values, strict=False):
        insert: list[Ids | Answer] = [*states(keys[key], value)]
        if restated and held and pen.chance(restated):
            again = list(held)[int(draw.integers(len(held)))]
            insert += [*recalls(keys[again]), Answer.of(held[again][0], lexicon.dot)]
        room -= size_of(insert)
        if room < 0 and held:
            break
        held.setdefault(key, []).append(value)
        inserts.append(insert)

    needed = sum(map(size_of, inserts))
    for key in sorted(draw.permutation(list(held)).tolist(), key=lambda key: -len(held[key]))[:questions]:
        parts = [part for value in held[key] for part in (value, lexicon.comma)]
        asks = one if len(held[key]) == 1 else several
        if not page.ask(asks(keys[key], keys[key]), Answer.of(*parts[:-1], lexicon.dot), keep=needed):
            break
    if nothing_else:
        page.text(part for insert in inserts for part in insert)
    else:
        pen.scattered(page, lexicon.filler, inserts)


def _asks(kind: str) -> tuple[str, str]:
    return (
        f"\n\nQuestion: What is the magic {kind} for {BLANK} in the text above?\n"
        f"Answer: The magic {kind} for {BLANK} is",
        f"\n\nQuestion: What are all the magic {kind}s for {BLANK} in the text above?\n"
        f"Answer: All the magic {kind}s for {BLANK} are",
    )


def question_first(pen: Pen, page: Page) -> None:
    """Write needles after the question, which names the key of one of them."""
    lexicon, draw = pen.lexicon, pen.draw
    count = min(4, max(1, page.length // 100))
    keys = lexicon.probe_keys(draw, 24)[:count]  # enough that some are left without the held-out ones
    values = lexicon.digits_of(draw, len(keys), 7)
    states = lexicon.phrase(probe_text.needle(BLANK, BLANK))
    opens = lexicon.phrase(f"{OPENING}Question: What is the magic number for {BLANK} in the text below?\n")
    page.text(opens(keys[0]))
    prompt = [lexicon.ids("\n\nAnswer: The magic number is")]
    if not page.ask(prompt, Answer.of(values[0], lexicon.dot)):
        raise TooShortError
    pen.scattered(page, lexicon.filler, [states(keys[which], values[which]) for which in pen.order(len(keys))])


def documents(pen: Pen, page: Page) -> None:
    """Write documents about people, and questions on their facts, on whom a fact is true of, and on both in turn."""
    lexicon = pen.lexicon
    page.text([lexicon.ids(OPENING)])
    questions = min(pen.questions(page), max(1, page.room // 2 // TOKENS_A_QUESTION))
    room = page.room - questions * TOKENS_A_QUESTION
    people = _people(pen, max(1, room // FEWEST_A_DOCUMENT))
    texts = [probe_text.document(pen.python, count, person) for count, person in enumerate(people, start=1)]
    ids = [np.array(each, dtype=np.int16) for each in lexicon.vocabulary.encode_all(texts)]
    shown = max(1, int(np.searchsorted(np.cumsum([len(each) for each in ids]), room, side="right")))
    for which in pen.order(shown)[:questions]:
        question, prefix, answer = _about(pen, people[which])
        prompt = lexicon.ids(f"\n\nQuestion: {question}\nAnswer: {prefix}")
        if not page.ask([prompt], Answer.of(lexicon.ids(f" {answer}.")), keep=size_of(ids[:shown])):
            break
    page.text(ids[:shown])


def _about(pen: Pen, person: Person) -> tuple[str, str, str]:
    """Return a question on a person, what the answer begins with, and the answer; see `probe.tasks`."""
    kind = int(pen.draw.integers(5))
    lives = f"The person living in {person.home} is"
    if kind == 3:
        return f"Who lives in {person.home}?", lives, person.name
    if kind == 4:
        question = f"What work does the person living in {person.home} do?"
        return question, lives, f"{person.name}. {person.name} works as a {person.job}"
    return (
        (f"In which city does {person.name} live?", f"{person.name} lives in", person.home),
        (f"What work does {person.name} do?", f"{person.name} works as a", person.job),
        (f"What does {person.name} own?", f"{person.name} owns a", person.thing),
    )[kind]


def _people(pen: Pen, count: int) -> list[Person]:
    """Return people of different names and homes."""
    draw = pen.python
    names, homes = (
        list(dict.fromkeys(f"{draw.choice(first)} {draw.choice(last)}" for _ in range(count + count // 4 + 8)))
        for first, last in ((words.FIRST_NAMES, words.LAST_NAMES), (words.CITIES, words.CITIES))
    )
    return [
        Person(name, home, draw.choice(words.JOBS), f"{draw.choice(words.ADJECTIVES)} {draw.choice(words.NOUNS)}")
        for name, home in zip(names, homes, strict=False)
    ][:count]
