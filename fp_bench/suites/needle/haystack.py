"""The haystack as an endless sequence of sentences: our prose, or a user's text."""

import random
import textwrap
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from fp_bench.errors import UnavailableError, unread
from fp_bench.suites.rows import rows
from fp_bench.suites.ruler.hermetic import prose
from fp_bench.suites.ruler.nvidia.sources import simple_sentences

LONGEST = 400
"""Characters of a sentence; a longer one is cut."""


def read(source: str, owner: str) -> list[str]:
    """Return the sentences of a text file, of the .txt files in a folder, or of JSON lines with a field ``text``.

    Args:
        source: the file or folder; empty for none.
        owner: the suite, for messages.

    Raises:
        UnavailableError: it cannot be read, or is empty.
    """
    if not source:
        return []
    path = Path(source).expanduser()
    try:
        if path.suffix == ".jsonl":
            text = "\n".join(str(row["text"]) for row in rows(path, owner))
        else:
            files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
            text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"{owner}: haystack={source} cannot be read: {unread(error)}") from None
    except KeyError:
        raise UnavailableError(f"{owner}: haystack={source}: a row has no field 'text'") from None
    found = [piece for sentence in simple_sentences(text) for piece in textwrap.wrap(sentence, LONGEST)]
    if not found:
        raise UnavailableError(f"{owner}: haystack={source} has no text")
    return found


def sentences(given: Sequence[str], draw: random.Random, *, from_start: bool) -> Iterator[str]:
    """Yield sentences endlessly.

    Args:
        given: sentences to repeat; none: our prose.
        draw: random numbers, for the start and for prose.
        from_start: begin with the first one.
    """
    if not given:
        return prose.sentences(draw)
    return islice(cycle(given), 0 if from_start else draw.randrange(len(given)), None)
