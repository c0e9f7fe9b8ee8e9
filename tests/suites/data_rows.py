"""Made-up rows with the fields of LongBench and InfiniteBench, as files in a folder, and predictions that are right."""

import json

from fp_bench.suites.infinitebench.suite import WITH_OPTIONS, InfiniteBench
from fp_bench.suites.longbench.suite import LongBench, LongBenchE
from fp_bench.suites.longbench.tasks import DATA_SETS
from fp_bench.suites.longbench.v2 import LongBenchV2

SUITES = (LongBench, LongBenchE, LongBenchV2, InfiniteBench)
CASES = [(suite, task) for suite in SUITES for task in suite.tasks]
ROWS = 3
TEXT = "The {river} is wide and long. " * 40
ENGLISH, CHINESE = "Green tea", "绿茶很好喝"
OPTIONS = ["oolong", "assam", "sencha", "matcha"]
ANSWERS = {
    "passage_count": ["3"],
    "passage_retrieval_en": ["Paragraph 3"],
    "passage_retrieval_zh": ["段落3"],
    "lcc": ["    return a + b"],
    "repobench-p": ["    return a + b"],
    "trec": ["Food"],
    "lsht": ["体育"],
}
CLASSES = {"trec": ["Food", "Person"], "lsht": ["体育", "财经"]}
INFINITE = {
    "passkey": ("What is the pass key?", ["71432"]),
    "number_string": ("What is the sequence?", ["11222"]),
    "kv_retrieval": ('Key: "a1"\nThe value is', "d-9f"),
    "longdialogue_qa_eng": ("", ["FRED", "FREDDY"]),
    "longbook_sum_eng": ("", [ENGLISH]),
    "longbook_choice_eng": ("Which tea?", ["sencha"]),
    "longbook_qa_eng": ("Which tea?", [ENGLISH, "tea"]),
    "longbook_qa_chn": ("什么茶？", [CHINESE]),
    "math_find": ("The smallest number of the list is", 12),
    "math_calc": ("", [4, 7, 2]),
    "code_run": ("Please compute func_3(-5). func_3(-5)", -17),
    "code_debug": ("", ["sencha"]),
}


def longbench_row(task, number=0):
    """A row of one of LongBench's 21 data sets."""
    chinese = DATA_SETS[task].metric.endswith("_zh")
    return {
        "input": f"Question {number}?",
        "context": TEXT,
        "answers": ANSWERS.get(task, [CHINESE if chinese else ENGLISH, "another"]),
        "length": 4000 * (1 + number),
        "dataset": task,
        "language": "zh" if chinese else "en",
        "all_classes": CLASSES.get(task),
        "_id": f"{task}{number}",
    }


def row(suite, task, number=0):
    """A row of a task of any of the suites."""
    if suite is LongBenchV2:
        choices = {f"choice_{letter}": f" {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)}
        where = {"domain": "d", "sub_domain": "s", "difficulty": "hard", "length": "short"}
        return {"_id": "x", **where, "question": " Which $DOC$? ", **choices, "answer": "C", "context": TEXT}
    if suite is InfiniteBench:
        given, answer = INFINITE[task]
        options = OPTIONS if task in WITH_OPTIONS else []
        return {"id": number, "context": TEXT, "input": given, "answer": answer, "options": options}
    return longbench_row(task, number)


def write(folder, suite):
    """Write the files of a suite into a folder, and return it."""
    folder.mkdir(exist_ok=True)
    for task in suite.tasks:
        rows = [row(suite, task, number) for number in range(ROWS)]
        name = suite().file_name(task)
        if suite is LongBenchV2:
            (folder / f"{name}.json").write_text(json.dumps(rows))
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def right(sample):
    """Return a prediction that answers a sample of a suite."""
    if sample.task == "choice":
        return f"The correct answer is ({sample.answers[0]})."
    if sample.task in WITH_OPTIONS:
        return f"{sample.answers[1]}. It is."
    if sample.task == "math_calc":
        return "[4, 7, 2]"
    return f"{sample.answers[0]}\nand so on" if sample.task in ("trec", "lsht") else sample.answers[0]
