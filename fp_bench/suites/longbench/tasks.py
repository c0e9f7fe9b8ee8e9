"""LongBench's 21 data sets: the question, new tokens and score of each.

Source: THUDM/LongBench ``LongBench/{pred,eval}.py`` and ``config/dataset2maxlen.json``, commit 2e00731f.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fp_bench.suites.longbench import metrics

Metric = Literal["qa_f1", "qa_f1_zh", "rouge_l", "rouge_l_zh", "classification", "retrieval", "count", "code"]

SINGLE, MULTI, SUMMARY, FEW_SHOT, SYNTHETIC, CODE = (
    "single-document QA",
    "multi-document QA",
    "summarization",
    "few-shot learning",
    "synthetic",
    "code",
)


class DataSet(NamedTuple):
    """One data set."""

    category: str
    max_new_tokens: int
    metric: Metric


DATA_SETS = {
    "narrativeqa": DataSet(SINGLE, 128, "qa_f1"),
    "qasper": DataSet(SINGLE, 128, "qa_f1"),
    "multifieldqa_en": DataSet(SINGLE, 64, "qa_f1"),
    "multifieldqa_zh": DataSet(SINGLE, 64, "qa_f1_zh"),
    "hotpotqa": DataSet(MULTI, 32, "qa_f1"),
    "2wikimqa": DataSet(MULTI, 32, "qa_f1"),
    "musique": DataSet(MULTI, 32, "qa_f1"),
    "dureader": DataSet(MULTI, 128, "rouge_l_zh"),
    "gov_report": DataSet(SUMMARY, 512, "rouge_l"),
    "qmsum": DataSet(SUMMARY, 512, "rouge_l"),
    "multi_news": DataSet(SUMMARY, 512, "rouge_l"),
    "vcsum": DataSet(SUMMARY, 512, "rouge_l_zh"),
    "trec": DataSet(FEW_SHOT, 64, "classification"),
    "triviaqa": DataSet(FEW_SHOT, 32, "qa_f1"),
    "samsum": DataSet(FEW_SHOT, 128, "rouge_l"),
    "lsht": DataSet(FEW_SHOT, 64, "classification"),
    "passage_count": DataSet(SYNTHETIC, 32, "count"),
    "passage_retrieval_en": DataSet(SYNTHETIC, 32, "retrieval"),
    "passage_retrieval_zh": DataSet(SYNTHETIC, 32, "retrieval"),
    "lcc": DataSet(CODE, 64, "code"),
    "repobench-p": DataSet(CODE, 64, "code"),
}
IN_E = (
    "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "gov_report", "multi_news", "trec", "triviaqa", "samsum",
    "passage_count", "passage_retrieval_en", "lcc", "repobench-p",
)  # fmt: skip
"""The data sets of LongBench-E."""
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
"""Data sets in which only the first line of a prediction counts."""
UNTEMPLATED = FIRST_LINE | {"lcc", "repobench-p"}
"""Data sets without a chat template (upstream's ``pred.py``)."""
STOP = {"samsum": ("\n",)}
"""Models continue with another dialogue after the first line."""
PACKAGES = {
    name: "jieba" if data.metric.endswith("_zh") else "rapidfuzz"
    for name, data in DATA_SETS.items()
    if data.metric.endswith("_zh") or data.metric == "code"
}
EDGES = {"0-4k": 4000, "4-8k": 8000}
"""Lengths in words that end the first two of LongBench-E's three ranges."""


def length_range(length: int) -> str:
    """Return LongBench-E's range of a length in words."""
    return next((name for name, end in EDGES.items() if length < end), "8k+")


def best_score(task: str, prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
    """Return the best score of a prediction over the answers.

    Args:
        task: the data set.
        prediction: what the model wrote.
        answers: the right answers.
        classes: names of a classification; other metrics ignore them.
    """
    if task in FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    return max(_one(DATA_SETS[task].metric, prediction, answer, classes) for answer in answers)


def _one(metric: Metric, prediction: str, answer: str, classes: Sequence[str]) -> float:
    if metric == "classification":
        return metrics.classification(prediction, answer, classes)
    return {
        "qa_f1": metrics.qa_f1,
        "qa_f1_zh": metrics.qa_f1_zh,
        "rouge_l": metrics.rouge_l,
        "rouge_l_zh": metrics.rouge_l_zh,
        "retrieval": metrics.retrieval,
        "count": metrics.count,
        "code": metrics.code_similarity,
    }[metric](prediction, answer)
