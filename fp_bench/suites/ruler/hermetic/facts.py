"""Documents about people and companies that do not exist, and questions that one or two of them answer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from fp_bench.suites.ruler.hermetic.words import ADJECTIVES, ANIMALS, FIRST_NAMES, JOBS, NOUNS, coined, with_articles


@dataclass(frozen=True)
class Document:
    """A title and sentences about it."""

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as a paragraph."""
        return " ".join(self.sentences)


@dataclass(frozen=True)
class Fact:
    """A sentence about a person, and a question that it answers; ``{who}`` is the person in both."""

    sentence: str
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the documents that give it, in order of reasoning."""

    text: str
    answer: str
    gold: tuple[Document, ...]


class World:
    """Invents people and companies with different names.

    Args:
        draw: random numbers.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._names = coined(draw)

    def name(self) -> str:
        """Return a unique name."""
        return next(self._names).capitalize()

    def person(self) -> str:
        """Return the full name of a new person."""
        return f"{self._draw.choice(FIRST_NAMES)} {self.name()}"

    def facts(self) -> list[Fact]:
        """Return facts about someone, in random order; names in them are new."""
        draw, animal, year = self._draw, self._draw.choice(ANIMALS), self._draw.randrange(1700, 1990)
        town, teacher, pet, house, book = self.name(), self.person(), self.name(), self.name(), self.name()
        prize = f"{draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"
        facts = [
            Fact(f"{{who}} was born in {town} in {year}.", "In which town was {who} born?", town),
            Fact(f"{{who}} studied under {teacher}.", "Who taught {who}?", teacher),
            Fact(f"{{who}} kept a {animal} called {pet}.", f"What was the {animal} of {{who}} called?", pet),
            Fact(f"{{who}} lived in a house on {house} Street.", "On which street did {who} live?", house),
            Fact(f"{{who}} wrote a book called {book}.", "Which book did {who} write?", book),
            Fact(f"{{who}} worked as a {(job := draw.choice(JOBS))}.", "What was the profession of {who}?", job),
            Fact(f"{{who}} won the prize of the {prize}.", "Which prize did {who} win?", prize),
        ]
        draw.shuffle(facts)
        return facts[: draw.randint(4, len(facts))]

    def about(self, who: str) -> tuple[Document, Fact]:
        """Return a document about a person, and one of the facts in it."""
        facts = self.facts()
        sentences = tuple(with_articles(fact.sentence.format(who=who)) for fact in facts)
        return Document(who, sentences), self._draw.choice(facts)

    def company(self) -> tuple[Document, str, str]:
        """Return a document about a company, the company and its founder."""
        draw, company, founder = self._draw, f"{self.name()} {self._draw.choice(('Works', 'Brothers'))}", self.person()
        sentences = [
            f"{company} was founded by {founder}.",
            f"{company} makes parts for a {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}.",
            f"{company} has {draw.randrange(12, 5000)} employees.",
            f"{company} has its office in {self.name()}.",
        ]
        draw.shuffle(sentences)
        return Document(company, tuple(map(with_articles, sentences))), company, founder

    def one_hop(self) -> Question:
        """Return a question about a person."""
        who = self.person()
        document, fact = self.about(who)
        return Question(fact.question.format(who=who), fact.answer, (document,))

    def two_hops(self) -> Question:
        """Return a question about the founder of a company, which needs a document of each."""
        first, company, founder = self.company()
        second, fact = self.about(founder)
        return Question(fact.question.format(who=f"the founder of {company}"), fact.answer, (first, second))

    def people(self) -> Iterator[Document]:
        """Yield documents about people endlessly."""
        while True:
            yield self.about(self.person())[0]

    def companies_and_founders(self) -> Iterator[Document]:
        """Yield documents about companies and, some time after each, most of their founders."""
        founders: list[str] = []
        while True:
            if len(founders) < 4 or self._draw.random() < 0.5:
                document, _, founder = self.company()
                founders.append(founder)
                yield document
            else:
                yield self.about(founders.pop(self._draw.randrange(len(founders))))[0]
