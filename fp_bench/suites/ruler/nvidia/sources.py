"""Data of NVIDIA's generators: essays, SQuAD, HotpotQA and a long word list.

None of it is shipped. A source is a file, or ``hub`` for a pinned revision through `datasets`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from fp_bench.errors import UnavailableError, unread
from fp_bench.suites import hub
from fp_bench.suites.hub import Repository
from fp_bench.suites.ruler.nvidia.qa import Library, QaPair

T = TypeVar("T")

HUB = "hub"
ESSAYS = Repository("baber/paul_graham_essays", "792d672b77d1a67720f7e9820d646358fc18792e")
"""Essays of lm-evaluation-harness; NVIDIA's own, with other texts and order, are on no hub."""
SQUAD = Repository("rajpurkar/squad_v2", "3ffb306f725f7d2ce8394bc1873b24868140c412")
HOTPOTQA = Repository("namlh2004/hotpotqa", "7e54db4656209750ff487f6fdf8e39a66dba136b")
HOTPOTQA_FILE = "hotpot_dev_distractor_v1.json"


def fingerprint(source: str) -> str:
    """Return a hash of a file's or folder's content, or the source itself if it is not a file."""
    path = Path(source)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return source
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def essay_words(task: str, source: str) -> list[str]:
    """Return the words of the essays.

    Args:
        task: for messages.
        source: NVIDIA's ``PaulGrahamEssays.json``, a text file, a folder of ``.txt`` files, or ``hub``.

    Raises:
        UnavailableError: no source, or one that cannot be read.
    """
    _require(task, source, "essays", "PaulGrahamEssays.json of NVIDIA/RULER's download_paulgraham_essay.py")
    if source == HUB:
        text = " ".join(row["text"] for row in hub.load(ESSAYS, "train", _owner(task)))
    elif Path(source).is_dir():
        text = "".join(_read(task, file) for file in sorted(Path(source).glob("*.txt")))
    elif source.endswith(".json"):
        text = _parsed(task, source, lambda data: str(data["text"]))
    else:
        text = _read(task, Path(source))
    if not text.strip():
        raise UnavailableError(f"ruler@nvidia: {task}: essays={source} has no text")
    return re.sub(r"\s+", " ", text).split(" ")


def squad(task: str, source: str) -> Library:
    """Read SQuAD 2.0's development set: ``dev-v2.0.json``, or ``hub``.

    Raises:
        UnavailableError: no source, or one that cannot be read.
    """
    _require(task, source, "squad", "dev-v2.0.json of SQuAD 2.0")
    if source == HUB:
        return _squad(_articles(hub.load(SQUAD, "validation", _owner(task))))
    return _parsed(task, source, lambda data: _squad(data["data"]))


def hotpotqa(task: str, source: str) -> Library:
    """Read HotpotQA's distractor development set: ``hotpot_dev_distractor_v1.json``, or ``hub``.

    Raises:
        UnavailableError: no source, or one that cannot be read.
    """
    _require(task, source, "hotpotqa", f"{HOTPOTQA_FILE} of HotpotQA")
    if source == HUB:
        source = str(hub.fetch(HOTPOTQA, HOTPOTQA_FILE, _owner(task)))
    return _parsed(task, source, _hotpotqa)


def english_words(task: str, source: str) -> list[str]:
    """Read NVIDIA's ``english_words.json``, for prompts with more words than wonderwords has.

    Raises:
        UnavailableError: no source, or one that cannot be read.
    """
    if not source:
        raise UnavailableError(
            f"ruler@nvidia: {task} at this length needs more words than wonderwords has; give "
            f"english_words=FILE, english_words.json of NVIDIA/RULER (Git LFS)"
        )
    return _parsed(task, source, lambda data: [str(word) for word in data.values()])


def punkt_sentences(task: str) -> Callable[[str], list[str]]:
    """Return NLTK's sentence splitter.

    Raises:
        UnavailableError: NLTK or its data is missing.
    """
    try:
        from nltk.tokenize import sent_tokenize

        sent_tokenize("One. Two.")
    except (ImportError, LookupError):
        raise UnavailableError(
            f"ruler@nvidia: {task} cuts essays with NLTK's punkt_tab, which is not here; pip install nltk and "
            f"python -m nltk.downloader punkt_tab, or sentences=simple for our own cuts"
        ) from None
    return lambda text: list(sent_tokenize(text))


def simple_sentences(text: str) -> list[str]:
    """Split after ``.``, ``!`` or ``?`` and white space, unlike NVIDIA."""
    return re.split(r"(?<=[.!?])\s+", text)


def _squad(articles: Sequence[Mapping[str, Any]]) -> Library:
    texts = [[str(paragraph["context"]) for paragraph in article["paragraphs"]] for article in articles]
    documents = sorted({text for paragraphs in texts for text in paragraphs})
    place = {text: i for i, text in enumerate(documents)}
    questions = []
    for article, paragraphs in zip(articles, texts, strict=True):
        for paragraph in article["paragraphs"]:
            own = place[paragraph["context"]]
            near = tuple(place[text] for text in paragraphs if place[text] != own)
            questions += [
                QaPair(asked["question"], tuple(answer["text"] for answer in asked["answers"]), (own,), near)
                for asked in paragraph["qas"]
                if not asked["is_impossible"]
            ]
    return Library(documents, questions)


def _articles(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Restore the articles and paragraphs of the original file from the hub's rows, one per question."""
    return [
        {
            "paragraphs": [
                {
                    "context": context,
                    "qas": [
                        {
                            "question": row["question"],
                            "answers": [{"text": text} for text in row["answers"]["text"]],
                            "is_impossible": not row["answers"]["text"],
                        }
                        for row in asked
                    ],
                }
                for context, asked in groupby(article, key=lambda row: row["context"])
            ]
        }
        for _, article in groupby(rows, key=lambda row: row["title"])
    ]


def _hotpotqa(data: Sequence[Mapping[str, Any]]) -> Library:
    given = [[f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]] for row in data]
    documents = sorted({text for texts in given for text in texts})
    place = {text: i for i, text in enumerate(documents)}
    questions = [
        QaPair(row["question"], (row["answer"],), tuple(place[text] for text in texts))
        for row, texts in zip(data, given, strict=True)
    ]
    return Library(documents, questions)


def _owner(task: str) -> str:
    return f"ruler@nvidia: {task}"


def _require(task: str, source: str, option: str, what: str) -> None:
    if not source:
        raise UnavailableError(f"ruler@nvidia: {task} needs {what}; give {option}=FILE, or {option}=hub to fetch it")


def _read(task: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"ruler@nvidia: {task}: {path} cannot be read: {unread(error)}") from None


def _parsed(task: str, source: str, use: Callable[[Any], T]) -> T:
    """Parse a JSON file and use it.

    Raises:
        UnavailableError: it cannot be read, or ``use`` does not accept it.
    """
    try:
        return use(json.loads(_read(task, Path(source))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"ruler@nvidia: {task}: {source} is not the file that is asked for ({reason})") from None
