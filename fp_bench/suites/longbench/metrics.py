"""LongBench's metrics of one prediction against one answer; each returns a share between 0 and 1.

Source: THUDM/LongBench ``LongBench/metrics.py``, commit 2e00731f. Two of its surprises are kept:
ROUGE-L compares sets of words, and an empty sentence counts as one empty word.
"""

import logging
import re
from collections.abc import Sequence

from fp_bench.suites.scoring import f1, signs, words

_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"(?:Paragraph |段落)(\d+)")
NO_CODE = ("`", "#", "//")
"""A line with any of these is a comment or markup."""


def qa_f1(prediction: str, answer: str) -> float:
    """Return the F1 of English words."""
    return f1(words(prediction), words(answer))


def qa_f1_zh(prediction: str, answer: str) -> float:
    """Return the F1 of Chinese words, split by jieba."""
    predicted, right = ([word for token in _cut(text) if (word := signs(token))] for text in (prediction, answer))
    return f1(predicted, right)


def rouge_l(prediction: str, answer: str) -> float:
    """Return the F1 of ROUGE-L as ``rouge`` 1.0.1 on PyPI has it: the share of words in common subsequences.

    Each sentence of the answer is compared with each of the prediction; the words of their longest common subsequences
    are one set. Upstream returns 0 for sentence pairs of about a thousand steps, where recursion ends;
    this does not.
    """
    predicted, right = _sentences(prediction), _sentences(answer)
    if not predicted or not right:
        return 0.0
    shared = {word for ours in right for theirs in predicted for word in _common_words(ours, theirs)}
    recall = len(shared) / len({word for sentence in right for word in sentence})
    precision = len(shared) / len({word for sentence in predicted for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def rouge_l_zh(prediction: str, answer: str) -> float:
    """Return ROUGE-L of Chinese texts, split into words by jieba."""
    return rouge_l(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return 1 over the number of class names in the prediction, if the right one is among them.

    Names that are part of the right one are not counted. Upstream removes them from its list while iterating, so of two
    in a row the second stays.
    """
    named = [name for name in classes if name in prediction]
    for name in named:  # the list that is changed, as upstream
        if name in answer and name != answer:
            named.remove(name)
    return 1 / len(named) if answer in named else 0.0


def retrieval(prediction: str, answer: str) -> float:
    """Return the share of the numbers in the prediction that are the paragraph's, ``Paragraph 3`` or ``段落3``."""
    (number, *_) = _PARAGRAPH.findall(answer)
    return count(prediction, number)


def count(prediction: str, answer: str) -> float:
    """Return the share of the numbers in the prediction that are the answer."""
    numbers = _NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def code_similarity(prediction: str, answer: str) -> float:
    """Return the similarity in whole percent of the first line of code and the answer.

    `rapidfuzz` rounded is what ``fuzzywuzzy`` with ``python-Levenshtein`` returns.
    """
    from rapidfuzz import fuzz

    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(sign in line for sign in NO_CODE)), "")
    return round(fuzz.ratio(line, answer)) / 100


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _common_words(x: Sequence[str], y: Sequence[str]) -> set[str]:
    """Return the words of the longest common subsequence found by upstream's backtracking."""
    table = [[0] * (len(y) + 1)]
    for word in x:
        above, row = table[-1], [0]
        for j, other in enumerate(y):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        table.append(row)
    found, i, j = set(), len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            found.add(x[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def _cut(text: str) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text))
