"""Written prompts: exactly as long as asked, in words the embedded model knows, and it answers them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fp_bench.errors import UsageError
from fp_bench.models import embedded
from fp_bench.models.load import load_model
from fp_bench.models.written_prompt import needle_prompt

TOKENIZER = AutoTokenizer.from_pretrained(embedded.path())


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(180, 3000), seed=st.integers(0, 5))
def test_prompt_has_exactly_the_tokens_asked(tokens: int, seed: int) -> None:
    prompt = needle_prompt(TOKENIZER, tokens, seed)
    assert len(TOKENIZER(prompt.text).input_ids) == tokens


def test_prompt_comes_from_its_seed() -> None:
    assert needle_prompt(TOKENIZER, 1000, 1) == needle_prompt(TOKENIZER, 1000, 1)
    assert needle_prompt(TOKENIZER, 1000, 1) != needle_prompt(TOKENIZER, 1000, 2)


def test_prompt_holds_every_kind_of_sentence_and_one_answer() -> None:
    prompt = needle_prompt(TOKENIZER, 4000, 0)
    for kind in (" Recall that the magic number", "\nDocument 1:", " lives in ", " works as a ", " owns a "):
        assert kind in prompt.text
    assert prompt.text.count(prompt.answer) == 1
    assert prompt.text.rindex("Question:") > prompt.text.index(prompt.answer)


def test_nearly_all_words_are_whole_tokens() -> None:
    text = needle_prompt(TOKENIZER, 4000, 0).text
    words = [word for word in text.split(" ") if word.isalpha()]
    assert len(words) > 2000
    whole = sum(len(TOKENIZER(f" {word}", add_special_tokens=False).input_ids) == 1 for word in words)
    assert whole > 0.99 * len(words)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match="prompt of 100 tokens is too short"):
        needle_prompt(TOKENIZER, 100, 0)


def test_the_embedded_model_answers() -> None:
    model, tokenizer = load_model("embedded", device=torch.device("cpu"), dtype=torch.float32)
    for seed in range(3):
        prompt = needle_prompt(tokenizer, 1000, seed)
        ids = tokenizer(prompt.text, return_tensors="pt").input_ids
        answer = tokenizer(prompt.answer, add_special_tokens=False).input_ids
        out = model.generate(ids, max_new_tokens=len(answer), do_sample=False, pad_token_id=0)
        assert out[0, ids.shape[1] :].tolist() == answer
