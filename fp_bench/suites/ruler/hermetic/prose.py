"""Essay-like prose, sentence by sentence, without meaning."""

import random
from collections.abc import Iterator, Sequence

from fp_bench.suites.ruler.hermetic.words import ADJECTIVES, JOBS, NOUNS, with_articles

PATTERNS = """
Most people who plan a {a} {n} forget how long the {m} takes.
I used to believe that a {n} had to be {a}, and I was wrong for years.
The hardest part of building a {n} is deciding what it should not do.
A {j} once told me that every {n} begins as a {a} {m}.
If you look closely at a {a} {n}, you see that nobody designed it.
There are two ways to judge a {n}, and the {a} one is usually faster.
When the {m} is {a}, the rest follows almost by itself.
It took us {c} days to learn that the {n} was too {a}.
What looks like talent in a {j} is often patience with a {a} {n}.
You can explain a {n} to anyone, but a {a} {m} has to be seen.
The best work I know came from people who kept a {n} small.
Some of the {c} letters I received asked about the {a} {n}.
Nothing teaches a {j} more than one {a} winter with a broken {n}.
That is why the {n} in the old town still has a {a} door.
People call a {n} {a} when they mean that it surprised them.
In the {a} years nobody asked whether the {n} paid for itself.
A good {j} spends more time on the {m} than on the {n}.
We measured the {n} {c} times and argued about each result.
The {a} answer is that a {n} needs an owner who cares about it.
Later I found the same mistake in a {a} {m} and in myself.
Ask any {j} about the {n} and you will hear about the {m} instead.
It is easier to start with a {a} {n} than to repair a famous one.
Of the {c} ideas on that list, only the {a} {m} survived.
By the time the {n} was finished, everyone wanted a {a} one.
Rules for a {n} are cheap, and habits around a {m} are not.
Half of the {n} was made by a {j} who never saw the other half.
The town kept its {a} {n} because moving it would have cost more.
Whoever writes about a {m} should first have carried one.
A {n} grows {a} in the same way that a path does, by being used.
Small doubts about the {n} are worth more than {a} praise.
Every summer the {j} paints the {m} in a slightly more {a} shade.
On page {c} there is a drawing of the {a} {n} and of nothing else.
""".strip().splitlines()


def sentences(draw: random.Random, patterns: Sequence[str] = PATTERNS) -> Iterator[str]:
    """Yield sentences endlessly."""
    while True:
        yield with_articles(
            draw.choice(patterns).format(
                a=draw.choice(ADJECTIVES),
                n=draw.choice(NOUNS),
                m=draw.choice(NOUNS),
                j=draw.choice(JOBS),
                c=draw.randrange(11, 1000),
            )
        )
