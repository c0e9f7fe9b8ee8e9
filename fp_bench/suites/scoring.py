"""Metrics of predictions, as pure functions; each returns a share between 0 and 1."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
_CHINESE_PUNCTUATION = frozenset(
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
"""LongBench's and InfiniteBench's list, without ``《``."""


def printable(prediction: str) -> str:
    """Return a prediction in RULER's form: stripped, control characters as line breaks.

    Source: NVIDIA/RULER ``scripts/eval/evaluate.py``.
    """
    return _CONTROL.sub("\n", prediction.strip()).strip()


def all_of(prediction: str, answers: Sequence[str]) -> float:
    """Return the share of the answers that occur in the prediction, ignoring case (RULER's ``all``).

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to look for")
    return sum(answer.lower() in prediction.lower() for answer in answers) / len(answers)


def any_of(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if at least one answer occurs in the prediction, ignoring case (RULER's ``part``).

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to look for")
    return float(any(answer.lower() in prediction.lower() for answer in answers))


def exact(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the first line of the prediction is an answer, ignoring case and a full stop."""
    line = prediction.strip().partition("\n")[0].strip(" .").lower()
    return float(any(line == answer.lower() for answer in answers))


def words(text: str) -> list[str]:
    """Return the words of an English text in SQuAD's normal form.

    Lower case; punctuation removed, not replaced; then without articles.
    """
    kept = "".join(sign for sign in text.lower() if sign not in _PUNCTUATION)
    return _ARTICLES.sub(" ", kept).split()


def signs(text: str) -> str:
    """Return a Chinese text in LongBench's normal form: lower case, without punctuation and white space."""
    kept = (sign for sign in text.lower() if sign not in _PUNCTUATION and sign not in _CHINESE_PUNCTUATION)
    return "".join("".join(kept).split())


def f1(predicted: Sequence[str], right: Sequence[str]) -> float:
    """Return the F1 of two bags of tokens; 0 if they share none."""
    shared = sum((Counter(predicted) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(right)
    return 2 * precision * recall / (precision + recall)
