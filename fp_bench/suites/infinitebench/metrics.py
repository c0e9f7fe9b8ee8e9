"""InfiniteBench's metric of each task; each returns a share between 0 and 1.

Source: OpenBMB/InfiniteBench ``src/compute_scores.py``, commit 88b3daa6; of ``longdialogue_qa_eng`` the later fix, by
which any of the answers may be right (issue 18).
"""

import re
from collections.abc import Callable, Sequence

from fp_bench.suites.scoring import f1, signs, words

_INTEGER = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_SENTENCE_SIGNS = "\n:\"'.,?!{}"
LETTERS = "ABCD"


def first_integer(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the first number is the answer (``passkey``, ``number_string``)."""
    found = _INTEGER.search(prediction)
    return float(found is not None and found[0] == answers[0])


def a_word(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the answer is a word of the prediction (``kv_retrieval``)."""
    return float(answers[0] in _spaced(prediction, _SENTENCE_SIGNS).split())


def a_name(prediction: str, answers: Sequence[str]) -> float:
    """Return whether an answer, in capitals, is a word of the prediction (``longdialogue_qa_eng``)."""
    found = _spaced(prediction, _SENTENCE_SIGNS).upper().split()
    return float(any(answer in found for answer in answers))


def summary(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of ROUGE-Lsum (``longbook_sum_eng``)."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeLsum"]).score_multi(answers, prediction)["rougeLsum"].fmeasure)


def choice(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the option is named (``longbook_choice_eng``).

    The first letter of the prediction counts, then the text after words like "answer is", then the first word that is a
    letter of an option.

    Args:
        prediction: what the model wrote.
        answers: text and letter of the right option.
    """
    prediction = prediction.strip()
    if prediction and prediction[0] in LETTERS:
        return float(prediction[0] in answers)
    if prediction in answers:
        return 1.0
    text = re.sub(" +", " ", _spaced(prediction, "\n\"'.,?!{}"))
    named = _after(text, ("answer is:", "answer:", "answer is", "option is"))
    if named is not None:
        return float(named.startswith(tuple(answers)))
    letter = next((word for word in text.split() if word in LETTERS), None)
    return float(letter in answers)


def bug(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the option is named (``code_debug``): ``B.`` or ``B:`` at once, or after words like "answer is:".

    Args:
        prediction: what the model wrote.
        answers: name of the function and letter of the right option.
    """
    name, letter = answers
    prediction = prediction.strip()
    if prediction.startswith((f"{letter}.", f"{letter}:")):
        return 1.0
    text = re.sub(" +", " ", re.sub("[Oo]ption", " ", _spaced(prediction, "\n`'\"-*")))
    named = _after(text, ("answer is:", "is:", "answer:"))
    return float(named is not None and named.startswith((letter, name)))


def named_bug(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the option is named in any form (``code_debug``): ``(B)``, ``The answer is B``, or by its name.

    The first option letter or function name that is a word of its own counts; `bug` scores these forms 0.

    Args:
        prediction: what the model wrote.
        answers: name of the function and letter of the right option.
    """
    name, letter = answers
    found = re.search(rf"\b(?:[{LETTERS}]|{re.escape(name)})\b", re.sub(r"\bA(?= [a-z])", "", prediction))
    return float(found is not None and found[0] in (letter, name))


def number(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the first number is the answer; digits after the point of a whole one do not count."""
    found = _NUMBER.search(prediction)
    if found is None:
        return 0.0
    value = float(found[0])
    return float((int(value) if answers[0].isdigit() else value) == float(answers[0]))


def running_values(prediction: str, answers: Sequence[str]) -> float:
    """Return the share of right values before the first wrong one (``math_calc``)."""
    right = 0
    for found, answer in zip(_INTEGER.findall(prediction), answers, strict=False):
        if int(found) != int(answer):
            break
        right += 1
    return right / len(answers)


def returned_value(prediction: str, answers: Sequence[str]) -> float:
    """Return whether the last word is the answer, a whole number (``code_run``)."""
    found = _spaced(prediction, "\n.`'\":").split()
    try:
        return float(int(found[-1]) == int(answers[0]))
    except (IndexError, ValueError):
        return 0.0


def words_f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 of words (``longbook_qa_eng``)."""
    return max(f1(words(prediction), words(answer)) for answer in answers)


def signs_f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 of signs (``longbook_qa_chn``)."""
    return max(f1(signs(prediction), signs(answer)) for answer in answers)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "passkey": first_integer,
    "number_string": first_integer,
    "kv_retrieval": a_word,
    "longdialogue_qa_eng": a_name,
    "longbook_sum_eng": summary,
    "longbook_choice_eng": choice,
    "longbook_qa_eng": words_f1,
    "longbook_qa_chn": signs_f1,
    "math_find": number,
    "math_calc": running_values,
    "code_run": returned_value,
    "code_debug": bug,
}


LENIENT: dict[str, Callable[[str, Sequence[str]], float]] = {"code_debug": named_bug}
"""More tolerant scores, next to the published metrics."""


def _spaced(text: str, signs: str) -> str:
    """Return a text with punctuation replaced by spaces."""
    return text.translate(dict.fromkeys(map(ord, signs), " "))


def _after(text: str, openings: Sequence[str]) -> str | None:
    """Return the text after the first opening found and one more character; None without one."""
    for opening in openings:
        if opening in text:
            return text[text.index(opening) + len(opening) + 1 :]
    return None
