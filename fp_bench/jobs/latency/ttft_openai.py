"""Time to first token of a served model: what a worker process does that sends one server its requests."""

from uuid import uuid4

from fp_bench.inputs.source import Shape
from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.measure import Effort
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.jobs.latency.ttft import first_token_times
from fp_bench.jobs.latency.worker import Found, Setup, StepWorker
from fp_bench.jobs.openai.client import Client, Completion
from fp_bench.jobs.openai.servers import Load
from fp_bench.models.load import model_config, model_facts, model_source
from fp_bench.models.written_prompt import some_tokens
from fp_bench.records.environment import check_code
from fp_bench.records.record import Fields

NEW_TOKENS = 64
"""Of each answer, where the server does not end it earlier."""
FRESH_TOKENS = 8
"""First ones of each prompt, of which no other has the same."""
MISREAD = 0.01
"""Share by which the length that a server reads may differ: where it takes text, a prompt that was cut off ends between
two tokens of it."""


def served_times(answers: list[Completion], seconds: float) -> Fields:
    """Return what a record says of one round's times, as vLLM's bench defines them."""
    return first_token_times(WallClock(), [answer.seconds[0] * 1e3 for answer in answers]) | {
        "itl_ms": _milliseconds([gap for answer in answers for gap in answer.gaps]),
        "tpot_ms": _milliseconds([time for answer in answers if (time := answer.per_token) is not None]),
        "request_throughput": round(len(answers) / seconds, 4),
    }


class ServedWorker(StepWorker):
    """The client of one server.

    Time to first token is from sending a request to the first piece of text: the network, a queue there, and making
    tokens of text where the server takes no token ids are in it. Every prompt begins with tokens that no other begins
    with, since servers keep the attention of what prompts have in common.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client: Client | None = None
        self._ids: list[int] = []

    def release(self, everything: bool = True) -> None:
        """Give nothing back: the memory is the server's."""

    def _forget(self) -> None:
        """Keep the client: a request that failed breaks nothing here."""

    def _load(self) -> None:
        setup = self._setup
        check_code(setup.code_version)
        if self._client is None:
            (server,) = (server for server in setup.request.servers if server.label == setup.spec)
            self._tokenizer = model_facts(setup.model).tokenizer
            client = Client(server, str(model_source(setup.model)), self._tokenizer)
            client.open()
            self._client = client

    def _check(self, shape: Shape, _layer: int) -> Found:
        setup, vocabulary = self._setup, model_config(self._setup.model).vocab_size
        self._ids = some_tokens(
            self._tokenizer, shape.seq_len, setup.request.seed, vocabulary=vocabulary, text=setup.text()
        )
        self._answers(1, Load(1))
        return Found({"backend": "server"})

    def _measure(self, effort: Effort) -> Fields:
        assert effort.samples is not None
        assert effort.load is not None
        return served_times(*self._answers(effort.samples, effort.load))

    def _answers(self, count: int, load: Load) -> tuple[list[Completion], float]:
        if self._client is None:
            raise RuntimeError("check comes after load")
        prompts = [self._fresh() for _ in range(count)]
        answers, seconds = self._client.under_load(prompts, NEW_TOKENS, load, self._setup.request.seed)
        for answer in answers:
            read = answer.prompt_tokens or len(self._ids)
            if abs(read - len(self._ids)) > max(1, MISREAD * len(self._ids)):
                raise IncorrectError(f"the server read {read} tokens, the prompt has {len(self._ids)}")
            if not answer.seconds:
                raise IncorrectError("an answer has no text, so there is no first token")
        return answers, seconds

    def _fresh(self) -> list[int]:
        first: list[int] = self._tokenizer(uuid4().hex).input_ids[:FRESH_TOKENS]
        return first + self._ids[len(first) :]


def _milliseconds(seconds: list[float]) -> list[float]:
    return [round(each * 1e3, 4) for each in seconds]
