"""The texts that the study of a pretrained model reads.

``python -m benchmarks.texts mixed.txt BOOK...`` writes novels, in the order given, and Python source in turns;
``--source 5000000`` takes more source, for texts of many long pieces. The source is the standard library of the Python
that runs this (3.11 for what is published). ``python -m benchmarks.texts retrieval.txt --tokenizer MODEL --length 32k``
writes RULER's prompts of that length with their answers, one after the other. A record holds a hash of the text.
"""

import argparse
import sysconfig
from pathlib import Path

from transformers import AutoTokenizer

from fp_bench.models.prompter import Prompter
from fp_bench.sizes import parse_length
from fp_bench.suites.ruler.hermetic.suite import Ruler

TURN = 65536
"""Characters."""
SOURCE = 2_400_000
"""Characters of Python source."""
RETRIEVAL = ("niah_multikey_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe")
"""Tasks of RULER, one prompt each: six pieces of its length and a remainder."""


def mixed(prose: str, source: str) -> str:
    """Return both texts in turns, from their starts to their ends."""
    ends = range(0, max(len(prose), len(source)), TURN)
    return "".join(text[start : start + TURN] for start in ends for text in (prose, source))


def standard_library(length: int) -> str:
    """Return the first characters of the standard library's modules, by name, one after the other."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "".join(module.read_text() for module in modules)[:length]


def retrieval(tokenizer: Prompter, length: int) -> str:
    """Return one prompt of ``length`` tokens and its answers for each of `RETRIEVAL`."""
    ruler = Ruler()
    parts = []
    for task in RETRIEVAL:
        (sample,) = ruler.samples(task, length, [0], tokenizer, seed=0, reserved=0)
        parts.append(f"{sample.text} {', '.join(sample.answers)}.\n\n")
    return "".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("books", type=Path, nargs="*")
    parser.add_argument("--source", type=int, default=SOURCE, help="characters of Python source")
    parser.add_argument("--tokenizer", help="folder of a model, for RULER's prompts")
    parser.add_argument("--length", type=parse_length, default=32768, help="tokens of one of them")
    asked = parser.parse_args()
    if bool(asked.tokenizer) == bool(asked.books):
        parser.error("name either books or --tokenizer")
    if asked.tokenizer:
        written = retrieval(Prompter(AutoTokenizer.from_pretrained(asked.tokenizer), chat=False), asked.length)
    else:
        written = mixed("".join(book.read_text() for book in asked.books), standard_library(asked.source))
    asked.target.write_text(written)
