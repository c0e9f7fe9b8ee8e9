"""Short exercises that nearly every token of is asked: to find what follows something, and what stands before it.

The second is what variable tracking needs at each step of a chain (``VAR Y = VAR X``: from X to Y), and what the
prototype never learnt from chains alone.
"""

import numpy as np

from training.page import Answer, Page
from training.pen import Pen
from training.ragged import Ids
from training.ruler_pages import linked, size_of

BETWEEN, AFTER = (" =", " is", ":", " -"), (",", ".", "\n")


def pairs(pen: Pen, page: Page) -> None:
    """Write pairs of words or names, and ask for the second of each, or for the first of each."""
    lexicon, draw = pen.lexicon, pen.draw
    kinds = (lexicon.coined, lexicon.spelled, lexicon.coded, lexicon.variables[5], lexicon.adjectives)
    known, sought = (kinds[int(kind)] for kind in draw.integers(len(kinds), size=2))
    between = lexicon.ids(BETWEEN[int(draw.integers(len(BETWEEN)))])
    after = lexicon.ids(AFTER[int(draw.integers(len(AFTER)))])
    backward = pen.chance(0.5)
    most, left = page.room // 8, page.room
    keys, values = pen.choose(known, most), [sought[int(i)] for i in draw.integers(len(sought), size=most)]
    lines: list[list[Ids]] = []
    for key, value in zip(keys, values, strict=True):
        line = [value, between, key, after] if backward else [key, between, value, after]
        left -= 2 * size_of(line)  # as much again where it is asked
        if left < 0:
            break
        lines.append(line)
    page.text(part for line in lines for part in line)
    for which in pen.order(len(lines)):
        asked = [keys[which]] if backward else [keys[which], between]
        if not page.ask(asked, Answer.of(values[which])):
            break


def links(pen: Pen, page: Page) -> None:
    """Write chains of variables, and ask for the variable after each."""
    lexicon, draw = pen.lexicon, pen.draw
    length = int(draw.integers(2, 6))
    count = max(1, page.room * 2 // 3 // (11 * length))
    names = pen.choose(lexicon.variables[5], count * length)
    chains = [names[start : start + length] for start in range(0, len(names), length)]
    values = lexicon.numbers(draw, count, 10_000, 99_999)
    told = [iter(linked(pen, chain, value)) for chain, value in zip(chains, values, strict=True)]
    turns = draw.permutation(np.repeat(np.arange(count), length)).tolist()
    page.text(part for turn in turns for part in next(told[turn]))
    steps = [(chain[at], chain[at + 1]) for chain in chains for at in range(length - 1)]
    for which in pen.order(len(steps)):
        source, name = steps[which]
        if not page.ask([source], Answer.of(name)):
            break
