"""The accuracy job's worker with the model behind a server: prompts are written here, tokens are chosen there."""

from types import SimpleNamespace
from typing import Any

from fp_bench.jobs.accuracy.worker import ModelWorker, Reply
from fp_bench.jobs.openai.client import Client
from fp_bench.models.load import model_facts, model_source
from fp_bench.models.prompter import Prompter
from fp_bench.suites.sample import Sample


class ServedModelWorker(ModelWorker):
    """The client of one server, which answers samples; what its attention computes is not seen."""

    _client: Client
    _untemplated: Prompter

    def _load_model(self) -> None:
        asked = self._setup.request
        (label,) = self._setup.methods
        facts = model_facts(asked.model)
        self._positions = facts.positions
        self._read(facts.tokenizer)
        server = next(server for server in asked.servers if str(server.label) == label)
        self._client = Client(server, str(model_source(asked.model)), facts.tokenizer)
        self._client.open()

    def _method(self, label: str) -> Any:
        return SimpleNamespace(name=label)

    def _reply(self, sample: Sample, method: Any, prompt: list[int], stop: set[int]) -> Reply:
        del method
        # The server knows which tokens end an answer; these are those of the sample, where they are asked for.
        ends = sample.stop if stop else ()
        found = self._client.complete(prompt, sample.max_new_tokens, ends)
        text = min((found.text.partition(end)[0] for end in ends), key=len, default=found.text)
        # It came as text; what is made of an answer is made of its tokens.
        return Reply(None, self._untemplated.encode(text))
