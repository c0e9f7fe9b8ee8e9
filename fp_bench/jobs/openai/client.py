"""Greedy completions of a served model, streamed: their text, and when each piece of it came.

It asks ``/completions``: a prompt is read there as it was written here, where ``/chat/completions`` puts the server's
own template around it. Prompts are token ids; a server that takes none is sent the text which these are cut from.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import httpx

from fp_bench.errors import UnavailableError, UnsupportedError, said
from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.openai.servers import Load, Server

KEY = "OPENAI_API_KEY"
"""Environment variable of the key that servers may want; no option and no record holds it."""
CONNECT_SECONDS = 10.0
KEPT_SECONDS = 2.0
"""That an idle connection is kept; servers close theirs after 5."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds before a request is sent again, of which nothing was generated."""
REFUSED, BUSY, UNKNOWN, UNTAKEN = (401, 403), (429, 502, 503, 504), (404, 405), (400, 413, 422)
"""Status codes: no key, later, no such model or path, not in this form."""
PROBE = "The"


class ServerError(RuntimeError):
    """A server failed in the middle of an answer."""


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    seconds: list[float]
    """When each piece of text came, since the request was sent; servers mostly send a token a piece."""
    prompt_tokens: int | None
    """That the server read; None where it does not say."""
    new_tokens: int

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces: inter-token latency, as vLLM's bench takes it."""
        return [after - before for before, after in zip(self.seconds, self.seconds[1:], strict=False)]

    @property
    def per_token(self) -> float | None:
        """Seconds a token after the first one; None of a single token."""
        later = self.new_tokens - 1
        return (self.seconds[-1] - self.seconds[0]) / later if later > 0 and len(self.seconds) > 1 else None


class Client:
    """One model at one server.

    Args:
        server: where.
        model: its name there, where the server has no other for it.
        tokenizer: the model's.
    """

    def __init__(self, server: Server, model: str, tokenizer: Any) -> None:
        self._url = f"{server.url}/completions"
        self._model = server.model or model
        self._tokenizer = tokenizer
        self._takes_ids = True
        key = os.environ.get(KEY)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # who hangs is ended with this process
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_SECONDS),
        )
        self._loop = asyncio.Runner()

    def open(self) -> None:
        """Ask for one token, and see which prompts the server takes.

        Raises:
            UnavailableError: it is not there, wants a key, has no such model, or is no such server.
            UnsupportedError: it takes no such request.
        """
        prompt = self._tokenizer(PROBE).input_ids
        try:
            self.complete(prompt, 1)
        except UnsupportedError:
            self._takes_ids = False
            self.complete(prompt, 1)

    def complete(self, prompt: Sequence[int], new: int, stop: Sequence[str] = ()) -> Completion:
        """Answer a prompt.

        Args:
            prompt: its token ids.
            new: tokens at most.
            stop: texts that end the answer, and are no part of it.

        Raises:
            UnavailableError: the server is not there, wants a key, or has no room.
            UnsupportedError: it does not take the request.
            IncorrectError: it read another prompt.
            ServerError: it failed, or broke off in the middle.
        """
        found = self._loop.run(self._patiently(self._body(prompt, new, stop=stop)))
        if found.prompt_tokens not in (None, len(prompt)):
            raise IncorrectError(f"the server read {found.prompt_tokens} tokens, the prompt has {len(prompt)}")
        return found

    def under_load(
        self, prompts: Sequence[Sequence[int]], new: int, load: Load, seed: int
    ) -> tuple[list[Completion], float]:
        """Answer prompts, some at once or as they arrive; return the answers, and the seconds that all took.

        Args:
            prompts: token ids of each.
            new: tokens of each answer; fewer where the server ends earlier.
            load: how many at once, or a second.
            seed: of the times of arrival.

        Raises:
            UnavailableError: as `complete`, of any of them; none is sent again.
            UnsupportedError: as `complete`.
            ServerError: as `complete`.
        """
        bodies = [self._body(prompt, new, exact=False, whole=True) for prompt in prompts]
        return self._loop.run(self._loaded(bodies, load, random.Random(seed)))

    def _body(
        self, prompt: Sequence[int], new: int, *, stop: Sequence[str] = (), exact: bool = True, whole: bool = False
    ) -> bytes:
        """Return a request.

        Greedy whatever the server's settings of the model say; transformers makes its penalty of repetition from the
        penalty of frequency.
        """
        asked: dict[str, Any] = {
            "model": self._model,
            "prompt": list(prompt) if self._takes_ids else self._text(prompt, exact),
            "max_tokens": new,
            "temperature": 0,
            "frequency_penalty": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._takes_ids:  # no part of OpenAI's protocol, as prompts of ids almost are
            asked |= {"repetition_penalty": 1.0, "ignore_eos": whole, "skip_special_tokens": False}
        return json.dumps(asked | ({"stop": list(stop)} if stop else {})).encode()

    def _text(self, prompt: Sequence[int], exact: bool) -> str:
        """Return the text that a tokenizer at the server cuts into a prompt; it adds special tokens there.

        Raises:
            UnsupportedError: there is none, and it has to be exact.
        """
        text: str = self._tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for form in (text, text.removeprefix(self._tokenizer.bos_token or "")):
            if self._tokenizer(form).input_ids == list(prompt):
                return form
        if exact:
            raise UnsupportedError("the server takes text alone, and no text is cut into the tokens of this prompt")
        return text

    async def _loaded(self, bodies: Sequence[bytes], load: Load, draw: random.Random) -> tuple[list[Completion], float]:
        room = asyncio.Semaphore(load.concurrency or len(bodies))
        due = 0.0

        async def one(body: bytes, after: float) -> Completion:
            await asyncio.sleep(after)
            async with room:
                return await self._answer(body)

        asked = []
        for body in bodies:
            asked.append(one(body, due))
            due += draw.expovariate(load.rate) if load.rate else 0.0
        started = perf_counter()
        found = await asyncio.gather(*asked, return_exceptions=True)
        seconds = perf_counter() - started
        if failed := [answer for answer in found if isinstance(answer, BaseException)]:
            first = failed[0]
            raise type(first)(f"{len(failed)} of {len(found)} requests failed, the first: {said(first)}") from None
        return [answer for answer in found if isinstance(answer, Completion)], seconds

    async def _patiently(self, body: bytes) -> Completion:
        """Answer, and ask again where the server is busy or not there: nothing was generated then."""
        for pause in PAUSES:
            try:
                return await self._answer(body)
            except BusyError:
                await asyncio.sleep(pause)
        return await self._answer(body)

    async def _answer(self, body: bytes) -> Completion:
        text, seconds, usage, ended = "", list[float](), dict[str, Any](), False
        started = perf_counter()
        try:
            async for event in self._events(body):
                for choice in event.get("choices") or ():
                    if piece := choice.get("text"):
                        seconds.append(perf_counter() - started)
                        text += piece
                    ended |= choice.get("finish_reason") is not None
                usage = event.get("usage") or usage
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise BusyError(f"{self._url} is not reached: {said(error) or type(error).__name__}") from None
        except (httpx.HTTPError, json.JSONDecodeError, AttributeError, TypeError) as error:
            why = f"{type(error).__name__}: {said(error)}"
            raise ServerError(f"{self._url} broke off after {len(seconds)} pieces of text: {why}") from None
        if not ended:
            raise ServerError(f"{self._url} broke off after {len(seconds)} pieces of text, without a reason to finish")
        return Completion(text, seconds, usage.get("prompt_tokens"), usage.get("completion_tokens") or len(seconds))

    async def _events(self, body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Yield what a server sends, event by event."""
        headers = {"Content-Type": "application/json"}
        async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
            kind = response.headers.get("content-type", "nothing").partition(";")[0]
            if response.status_code != 200:
                self._refuse(response.status_code, _message(await response.aread(), kind))
            if kind != "text/event-stream":
                raise UnavailableError(f"{self._url} answers {kind}, no stream of completions; is the path right?")
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                event = json.loads(data)
                if error := event.get("error"):
                    raise ServerError(f"{self._url}: {error.get('message') if isinstance(error, dict) else error}")
                yield event

    def _refuse(self, code: int, message: str) -> None:
        says = f"{self._url} answers {code}{message and f': {message}'}"
        if code in REFUSED:
            raise UnavailableError(f"{says}; the key is taken from {KEY}")
        if code in BUSY:
            raise BusyError(says)
        if code in UNKNOWN:
            raise UnavailableError(f"{says}; the model asked for is {self._model}")
        raise UnsupportedError(says) if code in UNTAKEN else ServerError(says)


class BusyError(UnavailableError):
    """A server that has generated nothing, and may if it is asked again."""


def _message(body: bytes, kind: str) -> str:
    """Return what a server says of an error, in a line; nothing of a page."""
    try:
        found = json.loads(body)
        error = found.get("error") or found.get("detail") or found.get("message") or ""
        return " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())
    except (ValueError, AttributeError):
        return kind
