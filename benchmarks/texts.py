"""The text that the study of a pretrained model reads: novels and Python source in turns.

``python -m benchmarks.texts mixed.txt BOOK...`` with the books in the order of their names. The source is the
standard library of the Python that runs this (3.11 for what is published); a record holds a hash of the text.
"""

import sys
import sysconfig
from pathlib import Path

TURN = 65536
"""Characters."""
SOURCE = 2_400_000
"""Characters of Python source."""


def mixed(prose: str, source: str) -> str:
    """Return both texts in turns, from their starts to their ends."""
    ends = range(0, max(len(prose), len(source)), TURN)
    return "".join(text[start : start + TURN] for start in ends for text in (prose, source))


def standard_library() -> str:
    """Return the first modules of the standard library, by name, one after the other."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "".join(module.read_text() for module in modules)[:SOURCE]


if __name__ == "__main__":
    target, *books = map(Path, sys.argv[1:])
    target.write_text(mixed("".join(book.read_text() for book in books), standard_library()))
