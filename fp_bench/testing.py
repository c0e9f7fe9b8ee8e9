"""Rules of every method and every suite, as checks that a third party runs in its own tests.

``check_method(MyMethod)`` and ``check_suite(MySuite)`` raise AssertionError with one line at the first rule that does
not hold, and return the rules that could not be checked here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch

from fp_bench.errors import UsageError
from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.definition import Truth, allowed
from fp_bench.jobs.latency.measure import Effort, check, measure
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.kernels.attention.reference import attention
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.registry import Spec
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, Tokenizer

LENGTHS = ((256, 256), (397, 397), (1, 1), (130, 400))
"""Queries and keys: whole blocks, an odd length, one token, and the last chunk of a longer prompt."""
BATCH, Q_HEADS, KV_HEADS = 2, 4, 2
RESERVED = 7
"""Tokens that a chat template might take."""
UNKNOWN = "no_such_name"
ONE_SAMPLE = Effort(rounds=1, samples=1, warm_up_seconds=0.0)


class ByteTokenizer:
    """One token per byte, for tests without a model."""

    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of bytes; an incomplete character becomes a question mark."""
        return bytes(ids).decode(errors="replace")


def check_method(
    method: type[Method],
    options: Mapping[str, Any] | None = None,
    *,
    everything: Mapping[str, Any] | None = None,
    head_dim: int = 64,
    device: str | torch.device | None = None,
) -> list[str]:
    """Check a method on small calls: odd lengths, a chunk, grouped heads, strides and dtypes.

    Each call is computed or refused with one line. The selection is causal and ascending; the output has the shape and
    dtype of the queries, equals exact attention over the selection, is the same each time, and leaves its inputs
    unchanged. All this holds for a timed call on changing inputs. With ``everything`` it equals dense attention. On a
    GPU nothing waits for the device.

    Args:
        method: the class.
        options: ``key=value`` parameters to check it with.
        everything: parameters with which it drops nothing.
        head_dim: of the calls.
        device: to run on; None is the GPU if there is one.

    Returns:
        The rules that were not checked and why, one line each.

    Raises:
        AssertionError: the first rule that does not hold.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    built = method.from_options(options or {})
    _check_naming(method, built.label, lambda spec: method.from_options(spec.options).method_hash == built.method_hash)
    whole = method.from_options({**(options or {}), **everything}) if everything is not None else None
    unchecked = []
    computed = 0
    for call in _calls(head_dim, place):
        what = f"{method.name}: {_described(call)}"
        reason = built.unsupported(call)
        if reason is not None:
            assert len(reason.splitlines()) == 1, f"{what}: refused with {reason!r}; give one line that says why"
            unchecked.append(f"{what}: refused: {reason}")
            continue
        _check_call(built, call, what)
        if whole is not None:
            _check_whole(whole, call, what)
        computed += 1
    assert computed, f"{method.name} refuses every call of head_dim {head_dim}; the last: {reason}"
    if whole is None:
        unchecked.append(f"{method.name}: equal to dense attention when it keeps everything: no such parameters given")
    if place.type != "cuda":
        unchecked.append(f"{method.name}: no host sync: only a GPU shows it")
    return unchecked


def check_suite(
    suite: type[Suite],
    options: Mapping[str, Any] | None = None,
    *,
    length: int = 2048,
    samples: int = 3,
    tokenizer: Tokenizer | None = None,
    right: Callable[[Sample], str] = lambda sample: " ".join(sample.answers),
) -> list[str]:
    """Check the samples of every task of a suite, and its scores.

    Samples have the ids of `sample_id`, fit their length, and are the same in every process and whichever others
    are requested. The right answer scores 1, an empty one 0, anything else between. UsageError if impossible.

    Args:
        suite: the class.
        options: ``key=value`` parameters to check it with.
        length: of the samples, in tokens.
        samples: of each task; at most as many as it has.
        tokenizer: counts tokens; bytes by default.
        right: writes a prediction that is right; by default all answers of the sample.

    Returns:
        The rules that were not checked and why, one line each.

    Raises:
        AssertionError: the first rule that does not hold.
    """
    built = suite.from_options(options or {})
    _check_naming(suite, built.label, lambda spec: suite.from_options(spec.options).label == built.label)
    tasks = suite.tasks
    assert len(set(tasks)) == len(tasks) > 0, f"{suite.name}: its tasks are {tasks}; name each once"
    strangers = (suite.left_out | suite.untemplated) - set(tasks)
    assert not strangers, f"{suite.name}: left_out and untemplated name tasks it does not have: {sorted(strangers)}"
    tokens = tokenizer or ByteTokenizer()
    _check_refused(built, UNKNOWN, length, tokens, "an unknown task")
    unchecked = []
    for task in tasks:
        count = min(samples, available) if (available := built.available(task)) is not None else samples
        found = _written(built, task, length, range(count), tokens)
        _check_samples(built, task, length, found, tokens)
        again = _written(suite.from_options(options or {}), task, length, range(count), tokens)
        assert again == found, f"{built.label}: {task}: another suite of the same parameters writes other samples"
        last = _written(built, task, length, [count - 1], tokens)
        assert last == found[-1:], f"{built.label}: {task}: sample {count - 1} depends on which others are asked for"
        _check_refused(built, task, 1, tokens, "a length of 1")
        if not all(sample.answers for sample in found):
            unchecked.append(f"{built.label}: {task}: scores: it has samples without answers")
            continue
        for sample in found:
            _check_scores(built, sample, right(sample))
    return unchecked


def _check_naming(cls: type[Method] | type[Suite], label: str, same: Callable[[Spec], bool]) -> None:
    """Check that a label gives the same thing again, and that unknown parameters are refused."""
    name = cls.name
    assert not set(name) & set(":,@ "), f"the name {name!r} may hold no colon, comma, @ or space"
    assert same(Spec.parse(label)), f"{name}: its label {label!r} gives something else on the command line"
    try:
        cls.from_options({UNKNOWN: "1"})
    except UsageError:
        return
    raise AssertionError(f"{name} takes the unknown parameter {UNKNOWN!r}; derive its Params from ours")


def _calls(head_dim: int, device: torch.device) -> Iterator[AttentionCall]:
    """Yield calls with random inputs; the heads of one call lie apart in memory, as after a fused projection."""
    dtypes = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float32, torch.float16)
    for (q_len, kv_len), dtype in [*product(LENGTHS, dtypes[:1]), (LENGTHS[1], dtypes[1])]:
        draw = torch.Generator().manual_seed(kv_len)
        fused = torch.randn(BATCH, kv_len, Q_HEADS + 2 * KV_HEADS, head_dim, generator=draw).to(device, dtype)
        q, k, v = fused[:, kv_len - q_len :, :Q_HEADS], fused[:, :, Q_HEADS:-KV_HEADS], fused[:, :, -KV_HEADS:]
        yield AttentionCall(q, k, v, scale=1.5 * head_dim**-0.5, layer=1, layers=3)


def _described(call: AttentionCall) -> str:
    return f"{call.q_len} queries, {call.kv_len} keys, {str(call.q.dtype).removeprefix('torch.')}"


@torch.no_grad()
def _check_call(method: Method, call: AttentionCall, what: str) -> None:
    before = [tensor.clone() for tensor in (call.q, call.k, call.v)]
    index = method.select(call)
    if index is not None:
        _check_selection(index, call, what)
    first, second = method(call), method(call)
    for name, tensor, old in zip("qkv", (call.q, call.k, call.v), before, strict=True):
        assert torch.equal(tensor, old), f"{what}: it writes into {name}"
    try:
        measure(check(method, call, _truth(call), WallClock()), ONE_SAMPLE, WallClock())
    except IncorrectError as error:
        raise AssertionError(f"{what}: {error}") from None
    assert torch.equal(first, second), f"{what}: two calls give different outputs"
    if call.q.is_cuda:
        _check_no_sync(method, call, what)


def _truth(call: AttentionCall) -> Truth:
    """Return exact dense attention of every query."""
    every = torch.arange(call.q_len)
    return Truth(call, every, every[:1])


def _check_selection(index: Selection, call: AttentionCall, what: str) -> None:
    assert (index.q_len, index.kv_len) == (call.q_len, call.kv_len), f"{what}: the selection is of another length"
    if isinstance(index, BlockIndex):
        _check_lists(index, call, what)
    density = index.density()
    shape = (call.batch, call.q_heads)
    assert density.shape == shape, f"{what}: densities are {list(density.shape)}; they must be {list(shape)}"
    assert ((density >= 0) & (density <= 1)).all(), f"{what}: a density is not between 0 and 1"


def _check_lists(index: BlockIndex, call: AttentionCall, what: str) -> None:
    shape = (call.batch, call.q_heads // index.packed, index.grid.rows)
    assert index.counts.shape == shape, f"{what}: counts are {list(index.counts.shape)}; they must be {list(shape)}"
    most = index.grid.diagonals(index.counts.device) + 1
    within = (index.counts >= 0) & (index.counts <= most)
    assert within.all(), f"{what}: a list is longer than the blocks that its queries may read"
    listed = torch.arange(index.blocks.shape[-1], device=index.counts.device) < index.counts[..., None]
    blocks = index.blocks.long()
    causal = (blocks >= 0) & (blocks < most[:, None])
    assert causal[listed].all(), f"{what}: a list names a block that its queries may not read"
    ascending = blocks[..., 1:] > blocks[..., :-1]
    assert ascending[listed[..., 1:]].all(), f"{what}: a list is not ascending"


@torch.no_grad()
def _check_whole(method: Method, call: AttentionCall, what: str) -> None:
    exact = attention(call.q, call.k, call.v, scale=call.scale).out
    error = torch.linalg.vector_norm(method(call).float() - exact) / torch.linalg.vector_norm(exact)
    limit, _ = allowed(method, call.q.dtype)
    assert error <= limit, (
        f"{what}: keeping everything, it is {error:.2g} off dense attention; the limit is {limit:.2g}"
    )


@torch.no_grad()
def _check_no_sync(method: Method, call: AttentionCall, what: str) -> None:
    """Check that nothing waits for the GPU; compilation and tuning happened in earlier calls."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(call)
    except RuntimeError as error:
        raise AssertionError(f"{what}: the host waits for the GPU: {str(error).splitlines()[0]}") from None
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _written(suite: Suite, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer) -> list[Sample]:
    return list(suite.samples(task, length, indices, tokenizer, seed=0, reserved=RESERVED))


def _check_samples(suite: Suite, task: str, length: int, found: list[Sample], tokenizer: Tokenizer) -> None:
    where = f"{suite.label}: {task}"
    wanted = [suite.sample_id(task, length, index) for index in range(len(found))]
    ids = [sample.id for sample in found]
    assert ids == wanted, f"{where}: its ids are {ids}; sample_id says {wanted}"
    assert len(set(ids)) == len(ids), f"{where}: its ids {ids} are not unique"
    for sample in found:
        asked = (sample.task, sample.length)
        assert asked == (task, length), f"{sample.id} is of task and length {asked}; asked were {(task, length)}"
        taken = len(tokenizer.encode(sample.text)) + RESERVED + sample.max_new_tokens
        assert taken <= length, f"{sample.id}: prompt, answer and {RESERVED} reserved tokens take {taken} of {length}"


def _check_scores(suite: Suite, sample: Sample, prediction: str) -> None:
    where = f"{sample.id}: the score of"
    for text, wanted in ((prediction, 1.0), ("", 0.0)):
        score = suite.score(sample, text)
        assert abs(score - wanted) < 1e-6, f"{where} {text[:80]!r} is {score}; it should be {wanted:g}"
    score = suite.score(sample, "Lorem ipsum\n7 (B)")
    assert 0 <= score <= 1, f"{where} some text is {score}; it should be between 0 and 1"


def _check_refused(suite: Suite, task: str, length: int, tokenizer: Tokenizer, what: str) -> None:
    message = None
    try:
        _written(suite, task, length, [0], tokenizer)
    except UsageError as error:
        message = str(error)
    assert message is not None, f"{suite.label}: {what} should be a UsageError"
    assert len(message.splitlines()) == 1, f"{suite.label}: {what} is refused with {message!r}; give one line"
