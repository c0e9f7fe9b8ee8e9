"""The worker process of the accuracy job: it holds the model and answers samples with several methods."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from fp_bench.jobs.accuracy.answer import (
    Likeness,
    NextTokens,
    by_part,
    check_length,
    greedy,
    likeness,
    next_tokens,
    stop_tokens,
)
from fp_bench.jobs.failures import Answer, attempt
from fp_bench.jobs.held import HeldPrefill
from fp_bench.jobs.machine import parse_dtype, use_device
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.methods.base import Method
from fp_bench.methods.dense import Dense
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.calls import CallCounts
from fp_bench.models.load import load_model
from fp_bench.models.loading.silence import no_progress_bars
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.models.spec import positions
from fp_bench.records.environment import check_code
from fp_bench.records.record import Fields
from fp_bench.suites.registry import create_suite
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite

Stripe = tuple[str, str, int]
"""Name of a suite, task and length; samples of one stripe come in order of their numbers."""


THOUGHT_KEPT = 400
"""Letters of the end of a thought that a record keeps."""
KNOWN_BYTES = 2**29
"""Of dense predictions that a worker keeps: three samples of a model with 150,000 tokens."""


class Expected(NamedTuple):
    """`NextTokens` as arrays, because tensors would travel through shared memory, which outlives a killed process."""

    logits: "np.ndarray[Any, Any]"
    truth: "np.ndarray[Any, Any]"
    kernels: Mapping[str, str]
    """Of dense attention that computed them."""


class Predicted(NamedTuple):
    """What a model predicts on a prompt with dense attention."""

    tokens: NextTokens
    kernels: Mapping[str, str]
    """Of dense attention that computed it."""


@dataclass(frozen=True)
class Setup:
    """The facts of a run that a worker needs."""

    request: AccuracyRequest
    methods: Mapping[str, Spec]
    """Specs by label."""
    device: str
    threads: int | None
    """Threads of the process; None: torch's default."""
    code_version: str
    share: float = 1.0
    """Share of the device's memory, for an engine that reserves it."""
    stripes: Mapping[Stripe, Sequence[int]] = field(default_factory=dict)
    """Numbers of the samples that this worker will answer."""


@dataclass(frozen=True)
class Reply:
    """A model's output for one prompt, and counts of its attention calls."""

    counts: CallCounts | None
    """None where a server does not show it."""
    tokens: list[int] | None = None
    likeness: Likeness | None = None
    """For a sample without answers, instead of tokens."""


class ModelWorker:
    """A model in this process that answers samples.

    A failed sample or method gives a `Failure`; the process can continue unless the device is lost.
    """

    IMPORTS: ClassVar = ("fp_bench.models.loading.imports",)

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._device = torch.device(setup.device)
        self._methods: dict[str, Method] = {}
        self._suites: dict[str, Suite] = {}
        self._streams: dict[Stripe, Iterator[Sample]] = {}
        self._sample: tuple[Stripe, int, Sample] | None = None
        self._kernels = DenseKernels()
        self._expected: Predicted | None = None
        self._known: dict[bytes, Predicted] = {}
        """Dense predictions on the host by a hash of the prompt, the oldest first: runs on one model share prompts."""
        self._model: Any = None
        self._prompter: Prompter | None = None
        self._untemplated: Prompter | None = None
        self._stop: set[int] = set()
        self._positions: int | None = None
        self._loaded = False

    def load(self) -> Answer[None]:
        """Load the model, unless it is there."""
        return Answer(None) if self._loaded else attempt(self._load, self._device)

    def go_on(self, setup: Setup) -> None:
        """Take what another run asks of the same model; only the model and what it predicts stay."""
        self._setup = setup
        self._sample = self._expected = None
        for last in (self._methods, self._suites, self._streams):
            last.clear()

    def answer(
        self,
        stripe: Stripe,
        number: int,
        label: str,
        decided: Mapping[str, str],
        expected: Expected | None = None,
    ) -> Answer[Fields]:
        """Answer one sample with one method; return what its record says of the answer.

        Args:
            stripe: suite, task and length.
            number: of the sample; within a stripe they ascend.
            label: of the method.
            decided: kernels of dense attention that the run has decided on (`DenseKernels`).
            expected: result of another worker's `expected` for a compared sample; None: computed here.
        """

        def answer() -> Fields:
            self._follow(decided)
            sample = self._sample_of(stripe, number)
            if expected is not None:
                logits, truth = (torch.from_numpy(part).to(self._device) for part in expected[:2])
                self._expected = Predicted(NextTokens(logits, truth), {})
            return self._answer(sample, stripe[0], label)

        return attempt(answer, self._device)

    def expected(self, stripe: Stripe, number: int, decided: Mapping[str, str]) -> Answer[Expected]:
        """Return the model's predictions on a sample with dense attention: `NextTokens` for another process."""

        def expect() -> Expected:
            self._follow(decided)
            ids = self._prompt(self._sample_of(stripe, number), stripe[0])
            logits, truth = self._dense(torch.tensor([ids], device=self._model.device))
            return Expected(logits.cpu().numpy(), truth.cpu().numpy(), self._kernels.used)

        return attempt(expect, self._device)

    def _follow(self, decided: Mapping[str, str]) -> None:
        """Take the run's kernels of dense attention; predictions of others are forgotten."""
        if self._kernels.follow(decided):
            self._expected = None
            self._known.clear()

    def _load(self) -> None:
        setup = self._setup
        check_code(setup.code_version)
        use_device(self._device, setup.threads)
        self._load_model()
        self._loaded = True

    def _load_model(self) -> None:
        asked = self._setup.request
        no_progress_bars()
        self._model, tokenizer = load_model(
            asked.model, device=self._device, dtype=parse_dtype(asked.dtype), spread=asked.spread
        )
        self._read(tokenizer)
        self._stop = stop_tokens(self._model, tokenizer)
        config = self._model.config.get_text_config()
        self._positions = positions(config)

    def _read(self, tokenizer: Any) -> None:
        """Take a tokenizer, with which prompts are written and answers are read."""
        asked = self._setup.request
        self._prompter = prompter(tokenizer, asked.chat, asked.reasoning, asked.thought_end)
        self._untemplated = prompter(tokenizer, "off")

    def _sample_of(self, stripe: Stripe, number: int) -> Sample:
        """Return a sample, which successive methods share."""
        if self._sample is not None and self._sample[:2] == (stripe, number):
            return self._sample[2]
        self._sample, self._expected = None, None
        suite, task, length = stripe
        prompts = self._prompter_of(suite, task)
        wanted = self._suite(suite).sample_id(task, length, number)
        for _ in range(2):
            if stripe not in self._streams:
                foreseen = self._setup.stripes.get(stripe, [])
                numbers = sorted({number, *(other for other in foreseen if other > number)})
                self._streams[stripe] = self._suite(suite).samples(
                    task,
                    length,
                    numbers,
                    prompts,
                    seed=self._setup.request.seed,
                    reserved=prompts.reserved,
                )
            found = next((sample for sample in self._streams[stripe] if sample.id == wanted), None)
            if found is not None:
                if prompts.reasons:
                    more = self._setup.request.thinking_tokens or 0
                    found = replace(found, length=found.length + more, max_new_tokens=found.max_new_tokens + more)
                self._sample = (stripe, number, found)
                return found
            del self._streams[stripe]  # it has passed the number, or broke off when it raised
        raise RuntimeError(f"{suite} gives no sample {wanted}")

    def _suite(self, name: str) -> Suite:
        if name not in self._suites:
            spec = next(spec for spec in self._setup.request.suites if str(spec) == name)
            self._suites[name] = create_suite(spec)
        return self._suites[name]

    def _prompter_of(self, suite: str, task: str) -> Prompter:
        """Return the object that writes the prompts of a task."""
        found = self._untemplated if task in self._suite(suite).untemplated else self._prompter
        assert found is not None
        return found

    def _method(self, label: str) -> Method:
        if label not in self._methods:
            self._methods[label] = create_method(self._setup.methods[label], self._setup.request.backend)
        return self._methods[label]

    def _prompt(self, sample: Sample, suite: str) -> list[int]:
        """Return the tokens of a prompt."""
        prompts = self._prompter_of(suite, sample.task)
        prompt = prompts.ids_of(sample)
        check_length(len(prompt), sample.max_new_tokens, sample.length, self._positions)
        return prompt

    def _answer(self, sample: Sample, suite: str, label: str) -> Fields:
        started = time.perf_counter()
        prompts, prompt = self._prompter_of(suite, sample.task), self._prompt(sample, suite)
        method = self._method(label)
        # A thought may hold what ends an answer.
        stop = self._stop | {prompts.encode(text)[-1] for text in ([] if prompts.reasons else sample.stop)}
        reply = self._reply(sample, method, prompt, stop)
        found: Fields
        if reply.likeness is not None:
            found = {"prediction": None, "new_tokens": 0, **_compared(reply.likeness)}
        else:
            found = self._scored(sample, self._suite(suite), prompts, reply.tokens or [])
        return {
            **found,
            "answers": list(sample.answers),
            "depth": sample.depth,
            "groups": list(sample.groups) or None,
            "templated": prompts.chat,
            "cut_tokens": sample.cut_tokens,
            "provenance": self._suite(suite).provenance(sample.task) or None,
            "prompt_tokens": len(prompt),
            **({} if reply.counts is None else reply.counts.fields(method.name)),
            "dense_kernels": self._kernels.used or None,
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _scored(self, sample: Sample, suite: Suite, prompts: Prompter, tokens: list[int]) -> Fields:
        """Return the fields of an answer that say what a model wrote, and how right it is."""
        answer = prompts.answer(tokens)
        prediction = answer or ""
        found: Fields = {"new_tokens": len(tokens)}
        if prompts.reasons:
            for text in sample.stop:
                prediction = prediction.partition(text)[0]
            written = prompts.decode(tokens)
            thought = written[: written.rfind(prediction)]
            found |= {"thought": thought[-THOUGHT_KEPT:], "thought_cut": answer is None}
        return found | {
            "score": 0.0 if answer is None else suite.score(sample, prediction),
            "lenient_score": suite.lenient_score(sample, prediction),
            "prediction": prediction,
        }

    def _reply(self, sample: Sample, method: Method, prompt: list[int], stop: set[int]) -> "Reply":
        """Return the model's new tokens or, for a sample without answers, its distributions against dense."""
        ids = torch.tensor([prompt], device=self._model.device)
        held = secrets.randbelow(self._model.config.get_text_config().num_hidden_layers)
        with HeldPrefill(
            self._model,
            method,
            held,
            dense_layers=self._setup.request.dense,
            measure_selection=True,
            kernels=self._kernels,
        ) as prefill:
            if sample.answers:
                least = 1 if sample.stop else 0
                tokens = greedy(self._model, ids, sample.max_new_tokens, stop, least=least)
                prefill.counts.check_reached()
                return Reply(prefill.counts, tokens)
            like = likeness(next_tokens(self._model, ids), self._dense(ids))
        prefill.counts.check_reached()
        return Reply(prefill.counts, likeness=like)

    def _dense(self, ids: torch.Tensor) -> NextTokens:
        """Return the model's predictions on the current sample with dense attention, computed once."""
        if self._expected is None:
            prompt = sha256(ids.cpu().numpy().tobytes()).digest()
            if (known := self._known.get(prompt)) is not None:
                self._expected = known._replace(tokens=NextTokens(*(part.to(ids.device) for part in known.tokens)))
            else:
                used, self._kernels.used = self._kernels.used, {}
                with SparsePrefill(self._model, Dense(), kernels=self._kernels):
                    self._expected = Predicted(next_tokens(self._model, ids), self._kernels.used)
                self._kernels.used = used
                self._know(prompt, self._expected)
        self._kernels.used |= self._expected.kernels
        return self._expected.tokens

    def _know(self, prompt: bytes, found: Predicted) -> None:
        """Keep predictions; the oldest go where all of them take more than `KNOWN_BYTES`."""
        self._known[prompt] = found._replace(tokens=NextTokens(*(part.cpu() for part in found.tokens)))
        while len(self._known) > 1 and sum(each.tokens.logits.nbytes for each in self._known.values()) > KNOWN_BYTES:
            del self._known[next(iter(self._known))]


def _compared(like: Likeness) -> Fields:
    """Return the fields of an answer that compare distributions with dense attention's."""
    return {
        "score": float(like.agreement.mean()),
        "kl": float(like.kl.mean()),
        "nll": float(like.nll.mean()),
        "nll_difference": float(like.nll_difference.mean()),
        "agreement_by_part": by_part(like.agreement),
        "kl_by_part": by_part(like.kl),
        "nll_difference_by_part": by_part(like.nll_difference),
    }
