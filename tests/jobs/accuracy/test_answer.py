import pytest
import torch
from transformers import GenerationConfig

from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy.answer import check_length, greedy, likeness, next_token_logits, stop_tokens
from fp_bench.jobs.failures import IncorrectError
from fp_bench.models.load import load_model
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.suites.fidelity import Fidelity
from fp_bench.suites.probe.suite import Probe
from tests.jobs.accuracy.models import tokenizer


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded", device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.slow
def test_the_embedded_model_answers_every_task_of_the_probe(embedded):
    model, words = embedded
    suite, reads = Probe(), Prompter(words, chat=False)
    for task in suite.tasks:
        for sample in suite.samples(task, 2048, range(1), reads, seed=3, reserved=reads.reserved):
            ids = torch.tensor([reads.prompt_ids(sample.context + sample.question, sample.answer_prefix)])
            new = greedy(model, ids, sample.max_new_tokens, stop_tokens(model, words))
            assert len(new) < sample.max_new_tokens  # it stopped by itself
            assert suite.score(sample, reads.decode(new)) == 1.0, (task, reads.decode(new), sample.answers)


def test_an_answer_may_have_to_begin_before_it_can_end(embedded):
    model, words = embedded
    ids = torch.tensor([Prompter(words, chat=False).prompt_ids("The magic number", "")])
    (first,) = greedy(model, ids, 1, [])
    assert greedy(model, ids, 3, [first]) == []
    (begun, *_) = greedy(model, ids, 3, [first], least=1)
    assert begun != first


def test_distributions_are_like_themselves_and_unlike_others(embedded):
    model, words = embedded
    reads = Prompter(words, chat=False)
    (sample,) = Fidelity().samples("text", 300, [0], reads, seed=0, reserved=reads.reserved)
    ids = torch.tensor([reads.prompt_ids(sample.context, "")])
    logits = next_token_logits(model, ids)
    assert logits.shape == (150, model.config.vocab_size)
    assert likeness(logits, logits) == (1.0, 0.0)
    other = likeness(logits.roll(1, dims=-1), logits)
    assert other.agreement == 0.0
    assert other.kl > 1.0


def test_kl_is_the_textbook_one():
    ours, theirs = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.25 * torch.log(torch.tensor(0.5)) + 0.75 * torch.log(torch.tensor(1.5))
    assert likeness(ours, theirs).kl == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("prompt", "limit", "positions"), [(950, 1000, None), (900, 1000, 940)])
def test_a_prompt_that_does_not_fit_is_refused(prompt, limit, positions):
    with pytest.raises(UsageError, match="prompt too long"):
        check_length(prompt, 64, limit, positions)
    check_length(900, 64, 1000, 964)


def test_a_chat_template_is_applied_once_with_the_prefix_after_the_assistants_header():
    reads = prompter(tokenizer(chat=True), "auto")
    text = reads.tokenizer.decode(reads.prompt_ids("context question?", " The answer is"), skip_special_tokens=False)
    assert text == "<s><|user|>\ncontext question?<|end|>\n<|assistant|>\n The answer is"
    assert text.count("<s>") == 1
    assert reads.reserved == len(reads.prompt_ids("context", "")) - len(reads.encode("context"))


def test_chat_is_chosen_by_the_template_and_the_option():
    assert not prompter(tokenizer(chat=False), "auto").chat
    assert not prompter(tokenizer(chat=True), "off").chat
    with pytest.raises(UsageError, match="no chat template"):
        prompter(tokenizer(chat=False), "on")
    with pytest.raises(UsageError, match="'maybe' is unknown"):
        prompter(tokenizer(chat=True), "maybe")


@pytest.mark.parametrize("changed", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}])
def test_greedy_leaves_out_what_a_model_would_do_to_its_logits(embedded, changed):
    model, words = embedded
    ids = torch.tensor([Prompter(words, chat=False).prompt_ids("one two three one two three one two three one", "")])
    plain = greedy(model, ids, 8, [])
    before = model.generation_config
    model.generation_config = GenerationConfig(**before.to_dict() | changed)
    try:
        assert greedy(model, ids, 8, []) == plain
        assert getattr(model.generation_config, next(iter(changed))) == next(iter(changed.values()))
        settings = GenerationConfig(**changed, max_new_tokens=8, pad_token_id=0)
        own = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings, eos_token_id=None)
        assert own[0, ids.shape[1] :].tolist() != plain  # it would have mattered
    finally:
        model.generation_config = before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_like_nothing(bad):
    logits = torch.randn(4, 10)
    broken = logits.clone()
    broken[2, 3] = bad
    for pair in ((broken, logits), (logits, broken)):
        with pytest.raises(IncorrectError, match="not all finite"):
            likeness(*pair)
