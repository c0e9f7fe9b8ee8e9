"""Prompts of chat families, and what of their replies is the answer.

`chat_families.json` holds prompts that the families' own templates gave, as trl (Apache-2.0) ships them; the templates
are not copied here, and are read from trl where it is installed.
"""

import json
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from fp_bench.errors import UsageError
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.models.thoughts import CHANNELS, THINK, THOUGHT_CHANNEL, Marks, marks_of
from tests.jobs.accuracy.models import tokenizer

FAMILIES = json.loads(Path(__file__).with_name("chat_families.json").read_text())
MARKS = {"gptoss": CHANNELS, "gemma4": THOUGHT_CHANNEL}
ASKED, PREFIX = "Which number?", " Answer: It is"
OPEN = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}{% endfor %}"
    "{{ '<|assistant|><think>\n' }}"
)
"""Thinks whatever it is asked, as DeepSeek-R1's."""
ASKS = OPEN.replace("{{ '<s>' }}", "{{ '<s>Write <think> {Thought} </think> {Solution}' }}").replace(
    "<think>\n' }}", "' }}"
)
"""Asks for a thought before the user's turn, as Phi-4-reasoning's."""


def reads_of(template, reasoning="auto", thought_end=None, words=None):
    words = words or tokenizer(chat=False)
    words.chat_template = template
    return prompter(words, "on", reasoning, thought_end)


def template_of(family):
    trl = find_spec("trl")
    if trl is None:
        pytest.skip("trl, which has the families' chat templates, is not installed: pip install --no-deps trl")
    (folder,) = trl.submodule_search_locations
    template = Path(folder, "chat_templates", f"{family}.jinja").read_text()
    if sha256(template.encode()).hexdigest() != FAMILIES[family]["sha256"]:
        pytest.skip(f"trl's template of {family} is not the one that the prompts here were made with")
    return template


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reasoning", ["off", "on"])
def test_a_familys_own_template_writes_the_golden_prompt(family, reasoning):
    template = template_of(family)
    golden = FAMILIES[family]
    if golden[reasoning] is None:
        with pytest.raises(UsageError, match="has no known thought; give --thought-end"):
            reads_of(template, reasoning)
        return
    reads = reads_of(template, reasoning)
    assert reads.prompt_text(ASKED, PREFIX) == golden[reasoning]
    automatic = reads_of(template)
    assert automatic.reasons == (golden["auto"] == "on")
    assert automatic.prompt_text(ASKED, PREFIX) == golden[golden["auto"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_golden_prompt_has_its_answer_prefix_within_a_thought(family):
    golden, marks = FAMILIES[family], MARKS.get(family, THINK)
    before, prefix, after = golden["off"].rpartition(PREFIX)
    assert (prefix, after) == (PREFIX, "")
    assert not marks.open(before)
    assert PREFIX not in (golden["on"] or "")


def test_a_template_that_always_opens_a_thought_reasons_or_has_it_closed():
    automatic, off = reads_of(OPEN), reads_of(OPEN, "off")
    assert automatic.prompt_text(ASKED, PREFIX) == f"<s><|user|>{ASKED}<|assistant|><think>\n"
    assert off.prompt_text(ASKED, PREFIX) == f"<s><|user|>{ASKED}<|assistant|><think>\n\n</think>\n\n{PREFIX}"


def test_a_template_that_asks_for_a_thought_reasons_or_has_an_empty_one():
    automatic, off = reads_of(ASKS), reads_of(ASKS, "off")
    assert automatic.reasons
    assert automatic.prompt_text(ASKED, PREFIX).endswith("<|assistant|>")
    assert off.prompt_text(ASKED, PREFIX).endswith(f"<|assistant|><think>\n</think>\n\n{PREFIX}")


def test_earlier_turns_are_turns_of_the_template_and_plain_text_without_one():
    turns = [("Which one?", "It is 1."), ("And then?", "It is 2.")]
    both = "<s><|user|>Which one?<|assistant|>It is 1.<|user|>And then?<|assistant|>It is 2."
    assert reads_of(OPEN).prompt_text(ASKED, PREFIX, turns) == f"{both}<|user|>{ASKED}<|assistant|><think>\n"
    raw = Prompter(tokenizer(chat=False), chat=False)
    assert raw.decode(raw.prompt_ids(ASKED, PREFIX, turns)) == f"Which one?It is 1.And then?It is 2.{ASKED}{PREFIX}"


def test_what_is_added_to_a_prompt_is_reserved():
    for reasoning in ("on", "off"):
        reads = reads_of(OPEN, reasoning)
        assert reads.reserved == len(reads.prompt_ids(ASKED, "")) - len(reads.encode(ASKED))


def test_a_template_that_writes_the_date_gives_one_prompt_on_all_days():
    dated = OPEN.replace("<s>", "<s>' + strftime_now('%d %b %Y') + '")
    assert reads_of(dated).prompt_text(ASKED, "").startswith("<s>26 Jul 2024<|user|>")


def test_marks_are_known_by_the_template():
    assert marks_of("{{ '<|im_start|>assistant' }}") is None
    assert marks_of(OPEN) == THINK
    assert prompter(tokenizer(chat=True), "on", "auto").marks is None


@pytest.mark.parametrize(
    ("marks", "begun", "reply", "answer"),
    [
        (THINK, "<|assistant|><think>\n", "It is 7</think>8", "8"),
        (THINK, "<|assistant|><think>\n", "It is 7", None),
        (THINK, "<|assistant|>\n", "<think>It is 7", None),
        (THINK, "<|assistant|>\n", "<think>It is 7</think>", ""),
        (THINK, "<|assistant|>\n", "<think>It is 7</think>8<think>or 9</think>10", "10"),
        (THINK, "<|assistant|>\n", "<think>It is 7</think>8<think>or 9", None),
        (THINK, "<|assistant|>\n", "<think>It is 7</think>8</think>9", "9"),
        (THINK, "<|assistant|>\n", "It is 8", "It is 8"),
        (CHANNELS, "<|start|>assistant", "<|channel|>analysis<|message|>It is 7", None),
        (CHANNELS, "<|start|>assistant", "<|channel|>analysis<|message|>It is 7<|end|><|start|>assistant", None),
        (
            CHANNELS,
            "<|start|>assistant",
            "<|channel|>analysis<|message|>7<|end|><|start|>assistant<|channel|>commentary<|message|>7<|end|>"
            "<|start|>assistant<|channel|>final<|message|>8",
            "8",
        ),
        (CHANNELS, "<|start|>assistant", "<|channel|>final <|constrain|>json<|message|>8", "8"),
        (CHANNELS, "<|start|>assistant", "It is 7", None),
        (THOUGHT_CHANNEL, "<|turn>model\n", "<|channel>thought\nIt is 7<channel|>8", "8"),
        (THOUGHT_CHANNEL, "<|turn>model\n", "<|channel>thought\nIt is 7", None),
        (Marks.given(r"Final answer:|\\boxed"), "Assistant:", "It is 7. Final answer: 8", " 8"),
        (Marks.given(r"Final answer:|\\boxed"), "Assistant:", "It is 7.", None),
    ],
)
def test_the_answer_is_what_follows_the_last_thought(marks, begun, reply, answer):
    assert marks.answer(begun, reply) == answer


def test_special_tokens_of_a_reply_mark_its_thought_and_are_no_part_of_the_answer():
    words = tokenizer(chat=False)
    words.add_tokens(["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"], special_tokens=True)
    reads = reads_of("{{ messages[0].content + '<|start|>assistant' }}{# <|channel|> #}", words=words)
    reply = "<|channel|>analysis<|message|>7<|end|><|start|>assistant<|channel|>final<|message|>It is 8.<|return|>"
    assert reads.answer(reads.encode(reply)) == "It is 8."
    assert reads.answer(reads.encode(reply[:40])) is None


def test_without_reasoning_all_of_a_reply_is_the_answer():
    reads = Prompter(tokenizer(chat=False), chat=False)
    assert reads.answer(reads.encode("<think>It is 7")) == "<think>It is 7"


@pytest.mark.parametrize(
    ("chat", "options", "message"),
    [
        (True, ("on", "maybe"), "--reasoning 'maybe' is unknown; write auto, on or off"),
        (True, ("on", "on"), "has no known thought; give --thought-end"),
        (False, ("auto", "on"), "needs a chat template, and none is used here; write --reasoning off"),
        (True, ("on", "auto", "("), r"--thought-end '\(' is not a regular expression: missing \)"),
    ],
)
def test_bad_options_are_one_line(chat, options, message):
    with pytest.raises(UsageError, match=message):
        prompter(tokenizer(chat=chat), *options)
