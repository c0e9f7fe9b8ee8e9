"""InfiniteBench's metrics and prompts on worked examples, by hand from upstream's definition."""

import pytest

from fp_bench.suites.infinitebench.metrics import LENIENT, METRICS
from fp_bench.suites.infinitebench.suite import InfiniteBench
from fp_bench.suites.infinitebench.templates import PROMPTS
from tests.suites.data_rows import row

WORKED = [
    ("passkey", " is 71432. Then 5", ["71432"], 1),
    ("passkey", " is 7143 2", ["71432"], 0),
    ("number_string", "11222 or 3", ["11222"], 1),
    ("number_string", "none", ["11222"], 0),
    ("kv_retrieval", '{"key": "d-9f"}.', ["d-9f"], 1),
    ("kv_retrieval", "d-9f0", ["d-9f"], 0),
    ("longdialogue_qa_eng", "It is Freddy, I think", ["FRED", "FREDDY"], 1),
    ("longdialogue_qa_eng", "Freddys", ["FRED", "FREDDY"], 0),
    ("longbook_sum_eng", "the cat sat", ["the cat sat"], 1),
    ("longbook_sum_eng", "a b", ["c d"], 0),
    ("longbook_choice_eng", "C. sencha", ["sencha", "C"], 1),
    ("longbook_choice_eng", "B, no, C", ["sencha", "C"], 0),  # the first letter counts
    ("longbook_choice_eng", "sencha", ["sencha", "C"], 1),
    ("longbook_choice_eng", "the answer is: C", ["sencha", "C"], 1),
    ("longbook_choice_eng", "the answer is B or C", ["sencha", "C"], 0),
    ("longbook_choice_eng", "so I say C", ["sencha", "C"], 1),
    ("longbook_choice_eng", "the answer is", ["sencha", "C"], 0),
    ("longbook_qa_eng", "The answer is: New York City.", ["paris", "new york"], 4 / 7),
    ("longbook_qa_chn", "绿茶，好", ["绿茶很好"], 6 / 7),  # three signs of three and of four
    ("math_find", "is 12.7", ["12"], 1),  # digits after the point of a whole one do not count
    ("math_find", "1.5", ["1.5"], 1),
    ("math_find", "-", ["12"], 0),
    ("math_calc", "[4, 7, 9, 1]", ["4", "7", "8", "1"], 0.5),  # those before the first that is wrong
    ("math_calc", "", ["4"], 0),
    ("code_run", "the value is: -17.", ["-17"], 1),
    ("code_run", "-17 or so", ["-17"], 0),
    ("code_debug", "B: sort", ["sort", "B"], 1),
    ("code_debug", "The answer is: B", ["sort", "B"], 1),
    ("code_debug", "it is: `sort`", ["sort", "B"], 1),
    ("code_debug", "it is:sort", ["sort", "B"], 0),  # a sign after the words is skipped
    ("code_debug", "answer: sort", ["sort", "B"], 1),
    ("code_debug", "B", ["sort", "B"], 0),
]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1), ("(B)", 1), ("The answer is B", 1), ("B: sort", 1), ("`sort` has the bug", 1), ("A function: B", 1),
        ("C", 0), ("A. add, not B", 0), ("resort", 0), ("", 0),
    ],
)  # fmt: skip
def test_a_bug_named_in_any_form_counts_in_the_lenient_reading(prediction, expected):
    assert LENIENT["code_debug"](prediction, ["sort", "B"]) == expected


@pytest.mark.parametrize(("task", "prediction", "answers", "expected"), WORKED)
def test_a_metric_is_its_definition(task, prediction, answers, expected):
    assert METRICS[task](prediction, answers) == pytest.approx(expected)


def test_every_task_has_a_worked_example_of_right_and_of_wrong():
    for task in InfiniteBench.tasks:
        scores = {expected for name, _, _, expected in WORKED if name == task}
        assert scores - {0}, task


@pytest.mark.parametrize("task", PROMPTS)
def test_no_field_of_a_prompt_is_left_open_and_braces_of_the_text_stay(task):
    asked = InfiniteBench().ask(task, row(InfiniteBench, task))
    assert "{river}" in asked.prompt
    assert "{" not in asked.prompt.replace("{river}", "")


def test_prompts_made_of_the_input():
    suite = InfiniteBench()
    assert "a function called func_3 in" in suite.ask("code_run", row(InfiniteBench, "code_run")).prompt
    assert suite.ask("code_run", row(InfiniteBench, "code_run")).prompt.endswith("The value of func_3(-5) is")
    found = suite.ask("math_find", row(InfiniteBench, "math_find"))
    assert found.prompt.startswith("What is the smallest number in the following list?\n\n")
    assert found.answers == ("12",)
    choice = suite.ask("longbook_choice_eng", row(InfiniteBench, "longbook_choice_eng"))
    assert "A. oolong\nB. assam\nC. sencha\nD. matcha\n" in choice.prompt
    assert choice.answers == ("sencha", "C")
    with pytest.raises(ValueError, match=r"no .* in its input"):
        suite.ask("code_run", row(InfiniteBench, "code_run") | {"input": "compute it"})


def test_tasks_that_minference_leaves_out_run_when_named():
    assert InfiniteBench.left_out == {"math_calc", "code_run"}
    assert InfiniteBench.max_new_tokens["math_calc"] == 30_000
