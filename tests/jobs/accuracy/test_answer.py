from math import log

import pytest
import torch
from transformers import GenerationConfig

from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy.answer import NextTokens, by_part, check_length, greedy, likeness, next_tokens, stop_tokens
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
    found = next_tokens(model, ids)
    assert found.logits.shape == (149, model.config.vocab_size)
    assert found.truth.tolist() == ids[0, 151:].tolist()  # the last position has nothing to be right about
    same = likeness(found, found)
    assert (same.agreement.min(), same.kl.max(), same.nll_difference.abs().max()) == (1.0, 0.0, 0.0)
    other = likeness(NextTokens(found.logits.roll(1, dims=-1), found.truth), found)
    assert other.agreement.max() == 0.0
    assert other.kl.mean() > 1.0


def test_likelihood_is_of_the_tokens_that_the_text_goes_on_with(embedded):
    model, words = embedded
    ids = torch.tensor([Prompter(words, chat=False).encode("The magic number for maple is 4821. We walk on. " * 8)])
    found = next_tokens(model, ids)
    assert found.truth.tolist() == ids[0, ids.shape[1] // 2 + 1 :].tolist()
    labels = ids.clone()
    labels[:, : ids.shape[1] // 2 + 1] = -100
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss
    assert likeness(found, found).nll.mean() == pytest.approx(float(expected), rel=1e-5)


def test_kl_and_likelihood_are_the_textbook_ones():
    ours, theirs = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    truth = torch.tensor([1])
    found = likeness(NextTokens(ours, truth), NextTokens(theirs, truth))
    assert float(found.kl) == pytest.approx(0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5), rel=1e-5)
    assert float(found.nll) == pytest.approx(-log(0.5))
    assert float(found.nll_difference) == pytest.approx(log(0.75) - log(0.5), rel=1e-5)


def test_parts_are_runs_of_neighbours_in_order():
    assert by_part(torch.arange(32.0))[:2] == [0.5, 2.5]
    assert by_part(torch.tensor([1.0, 3.0])) == [1.0, 3.0]


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
    logits, truth = torch.randn(4, 10), torch.arange(4)
    broken = NextTokens(logits.clone(), truth)
    broken.logits[2, 3] = bad
    logits = NextTokens(logits, truth)
    for pair in ((broken, logits), (logits, broken)):
        with pytest.raises(IncorrectError, match="not all finite"):
            likeness(*pair)
