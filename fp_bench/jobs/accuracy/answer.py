"""One prompt through a model with a method: its answer, or its next-token distributions against dense attention's."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fp_bench.errors import UsageError
from fp_bench.jobs.failures import IncorrectError

COMPARED_POSITIONS = 256
"""Positions of a text at which next-token distributions are compared, evenly spaced over its second half."""
NOT_FINITE = "the logits are not all finite"
PARTS = 16
"""Number of runs of neighbouring positions whose means a record keeps."""


class NextTokens(NamedTuple):
    """A model's predictions at some positions of a text."""

    logits: Tensor
    """``[positions, vocabulary]`` in float32."""
    truth: Tensor
    """``[positions]``: the text's next tokens."""


class Likeness(NamedTuple):
    """Next-token distributions against dense attention's, by position: ``[positions]`` each."""

    agreement: Tensor
    """1 if the most likely token is the same, else 0."""
    kl: Tensor
    """Kullback-Leibler divergence from dense attention's, nats."""
    nll: Tensor
    """Negative log-likelihood of the text's next token, nats."""
    nll_difference: Tensor
    """The same minus dense attention's, nats."""


@torch.no_grad()
def greedy(model: Any, ids: Tensor, max_new_tokens: int, stop: Iterable[int], least: int = 0) -> list[int]:
    """Return the new tokens of greedy decoding, without the first stop token.

    Args:
        model: a causal language model.
        ids: the prompt, ``[1, length]``, on the model's device.
        max_new_tokens: limit of new tokens.
        stop: tokens that end an answer.
        least: fewest tokens of an answer.

    Raises:
        IncorrectError: logits that are not finite.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    stops = sorted(set(stop))
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=least,
        do_sample=False,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
    )
    with _own_settings(model, settings):
        checks = LogitsProcessorList([_checked])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), logits_processor=checks)
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return next((new[:place] for place, token in enumerate(new) if token in stops), new)


def _checked(_ids: Tensor, logits: Tensor) -> Tensor:
    # A token that must not come yet is at minus infinity.
    if not bool((logits < torch.inf).all()):
        raise IncorrectError(NOT_FINITE)
    return logits


@contextmanager
def _own_settings(model: Any, settings: Any) -> Iterator[None]:
    """Ignore a model's own settings, e.g. repetition penalties, which transformers would merge with ours."""
    before, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = before


def stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer, by the model's generation settings and its tokenizer."""
    named = [getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id]
    return {
        int(token) for entry in named for token in (entry if isinstance(entry, list) else [entry]) if token is not None
    }


@torch.no_grad()
def next_tokens(model: Any, ids: Tensor) -> NextTokens:
    """Return a model's predictions at positions spread over the second half of a text, without its last one.

    Args:
        model: a causal language model.
        ids: the text, ``[1, length]``, of at least two tokens.
    """
    length = ids.shape[1]
    first = min(length // 2, length - 2)
    count = min(COMPARED_POSITIONS, length - 1 - first)
    positions = torch.linspace(first, length - 2, count).round().long().to(ids.device)
    logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=positions).logits
    return NextTokens(logits[0].float(), ids[0, positions + 1])


def likeness(ours: NextTokens, dense: NextTokens) -> Likeness:
    """Compare a model's predictions on a text with those of dense attention.

    Raises:
        IncorrectError: logits that are not finite.
    """
    if not (ours.logits.isfinite().all() and dense.logits.isfinite().all()):
        raise IncorrectError(NOT_FINITE)
    mine, theirs = ours.logits.log_softmax(-1), dense.logits.log_softmax(-1)
    # Rounding makes the divergence of equal distributions slightly negative.
    kl = (theirs.exp() * (theirs - mine)).sum(-1).clamp(min=0.0)
    nll, before = (-rows.gather(-1, dense.truth[:, None])[:, 0] for rows in (mine, theirs))
    return Likeness((mine.argmax(-1) == theirs.argmax(-1)).float(), kl, nll, nll - before)


def by_part(values: Tensor) -> list[float]:
    """Return the means of `PARTS` runs of neighbouring positions; of fewer positions, each one."""
    return [float(f"{part.mean():.5g}") for part in values.tensor_split(min(PARTS, len(values)))]


def check_length(prompt: int, new: int, limit: int, positions: int | None) -> None:
    """Refuse a prompt that does not fit.

    Args:
        prompt: its tokens.
        new: largest number of answer tokens.
        limit: largest number of both.
        positions: largest number that the model reads; None if unknown.

    Raises:
        UsageError: too long for either.
    """
    if prompt + new > limit:
        raise UsageError(f"prompt too long: {prompt} tokens and {new} new ones exceed length {limit}")
    if positions is not None and prompt + new > positions:
        raise UsageError(
            f"prompt too long: {prompt} tokens and {new} new ones exceed the model's {positions} positions"
        )
