"""The word lists of the wonderwords package, read without importing it; versions differ in a few nouns."""

import hashlib
import importlib.util
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import overload

from fp_bench.errors import UnavailableError

PACKAGE = "wonderwords"


class WordLists:
    """Nouns, adjectives and verbs of one version of wonderwords.

    Args:
        nouns: in any order.
        adjectives: in any order.
        verbs: in any order.
        source: the version, or the folder.
    """

    def __init__(self, nouns: Iterable[str], adjectives: Iterable[str], verbs: Iterable[str], source: str) -> None:
        self._nouns = sorted(set(nouns))
        self._adjectives = sorted(set(adjectives))
        self._verbs = sorted(set(verbs))
        self.source = source

    @classmethod
    def read(cls, folder: Path, source: str) -> "WordLists":
        """Read ``nounlist.txt``, ``adjectivelist.txt`` and ``verblist.txt``.

        Raises:
            UnavailableError: a list is missing or unreadable.
        """
        nouns, adjectives, verbs = (_read(folder / f"{kind}list.txt") for kind in ("noun", "adjective", "verb"))
        return cls(nouns, adjectives, verbs, source)

    @classmethod
    def installed(cls) -> "WordLists":
        """Read the lists of the installed package.

        Raises:
            UnavailableError: it is not installed.
        """
        try:
            found = importlib.util.find_spec(PACKAGE)
            release = version(PACKAGE)
        except PackageNotFoundError:
            found = None
        if found is None or not found.origin:
            raise UnavailableError(
                "ruler@nvidia draws its keys and words from wonderwords, which is not installed; "
                "pip install 'fp_bench[suites]', or give wonderwords=FOLDER with its word lists"
            )
        return cls.read(Path(found.origin).parent / "assets", release)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all words."""
        text = "\n".join(["\t".join(words) for words in (self._nouns, self._adjectives, self._verbs)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def all(self) -> list[str]:
        """All words, in alphabetical order."""
        return sorted({*self._nouns, *self._adjectives, *self._verbs})

    @cached_property
    def pairs(self) -> "Pairs":
        """All ``adjective-noun`` keys, in alphabetical order."""
        return Pairs(self._adjectives, self._nouns)


def _read(path: Path) -> list[str]:
    try:
        return [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"ruler@nvidia: {path} cannot be read as a word list: {error}") from None


class Pairs(Sequence[str]):
    """Each adjective with each noun in alphabetical order, without storing the six million keys.

    Keys are in the order of their adjectives, except where one with its hyphen begins another (blue-, blue-eyed-):
    such adjectives form a group, which is expanded when one of its keys is read.

    Args:
        adjectives: in alphabetical order, each once.
        nouns: in alphabetical order, each once.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        self._nouns = nouns
        self._groups: list[list[str]] = []
        for head in sorted(f"{adjective}-" for adjective in adjectives):
            if self._groups and head.startswith(self._groups[-1][0]):
                self._groups[-1].append(head)
            else:
                self._groups.append([head])
        self._written = {
            place: sorted({head + noun for head in group for noun in nouns})
            for place, group in enumerate(self._groups)
            if len(group) > 1
        }
        sizes = (len(self._written.get(place, nouns)) for place in range(len(self._groups)))
        self._starts = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return the key at a place."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        group = bisect_right(self._starts, place) - 1
        rest = place - self._starts[group]
        written = self._written.get(group)
        return written[rest] if written else self._groups[group][0] + self._nouns[rest]
