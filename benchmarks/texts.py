"""The text that the study of a pretrained model reads: novels and Python source in turns.

``python -m benchmarks.texts mixed.txt BOOK...`` with the books in the order of their names;
``--source 5000000`` takes more source, for texts of many long pieces. The source is the standard library of the Python
that runs this (3.11 for what is published); a record holds a hash of the text.
"""

import argparse
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


def standard_library(length: int) -> str:
    """Return the first characters of the standard library's modules, by name, one after the other."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "".join(module.read_text() for module in modules)[:length]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("books", type=Path, nargs="+")
    parser.add_argument("--source", type=int, default=SOURCE, help="characters of Python source")
    asked = parser.parse_args()
    asked.target.write_text(mixed("".join(book.read_text() for book in asked.books), standard_library(asked.source)))
