import threading

import pytest

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.jobs.failures import IncorrectError, failure
from fp_bench.jobs.openai import client
from fp_bench.jobs.openai.client import Client, ServerError
from fp_bench.jobs.openai.servers import SERVED, Load, Server
from fp_bench.models.load import EMBEDDED, model_facts
from tests.jobs.openai.scripted import Says, refuses, scripted


@pytest.fixture(scope="module")
def tokenizer():
    return model_facts(EMBEDDED).tokenizer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0, 0.0))


def ask(script, tokenizer, **more):
    """Return the answer of a server, and what it was asked."""
    with scripted(script) as server:
        return Client(Server(SERVED, server.url), "toy", tokenizer).complete([5, 6, 7], 4, **more), server


def test_it_asks_for_greedy_completions_of_token_ids(tokenizer, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-mine")
    found, server = ask(Says((" one", " two")), tokenizer, stop=["\n"])
    assert (found.text, found.prompt_tokens, found.new_tokens, len(found.seconds)) == (" one two", 3, 2, 2)
    assert len(found.gaps) == 1
    assert found.per_token == pytest.approx(found.gaps[0])
    (asked,) = server.asked
    assert asked["prompt"] == [5, 6, 7]
    assert asked["stop"] == ["\n"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"], asked["stream"]) == ("toy", 0, 4, True)
    assert server.keys == ["Bearer of-mine"]
    assert server.paths == ["/v1/completions"]


PAGE = Says(kind="text/html", body="<html>welcome</html>")


@pytest.mark.parametrize(
    ("says", "kind", "words", "times"),
    [
        (PAGE, UnavailableError, "answers text/html, no stream of completions; is the path right", 1),
        (Says(kind="application/json", body="{}"), UnavailableError, "answers application/json, no stream", 1),
        (refuses(401, "no key"), UnavailableError, "answers 401: no key; the key is taken from OPENAI_API_KEY", 1),
        (refuses(404, "no model toy"), UnavailableError, "answers 404: no model toy; the model asked for is toy", 1),
        (Says(status=404, kind="text/html", body="<p>"), UnavailableError, "answers 404: text/html", 1),
        (refuses(429, "slow down"), UnavailableError, "answers 429: slow down", 4),
        (refuses(503, ""), UnavailableError, "answers 503", 4),
        (refuses(400, "too long"), UnsupportedError, "answers 400: too long", 1),
        (refuses(500, "it broke"), ServerError, "answers 500: it broke", 1),
        (Says(finish=None), ServerError, "broke off after 1 pieces of text, without a reason to finish", 1),
        (Says(body="data: {not json\n\n"), ServerError, "broke off after 0 pieces of text: JSONDecodeError", 1),
        (Says(body="data: [1]\n\n"), ServerError, "broke off after 0 pieces", 1),
        (Says(body='data: {"error": {"message": "cache is full"}}\n\n'), ServerError, "cache is full", 1),
        (Says(prompt_tokens=2), IncorrectError, "the server read 2 tokens, the prompt has 3", 1),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(says, kind, words, times, tokenizer):
    with scripted(says) as server:
        with pytest.raises(kind, match=words) as error:
            Client(Server(SERVED, server.url), "toy", tokenizer).complete([5, 6, 7], 4)
        assert "\n" not in failure(error.value).reason
        assert len(server.asked) == times


def test_it_asks_again_only_where_nothing_was_generated(tokenizer):
    answers = iter([refuses(429, "later"), refuses(503, "later"), Says()])
    found, server = ask(lambda _: next(answers), tokenizer)
    assert found.text == "yes"
    assert len(server.asked) == 3


def test_a_server_that_is_gone_is_unavailable(tokenizer):
    with scripted(Says()) as server:
        pass
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{server.server_port}/v1/completions is not reached"):
        Client(Server(SERVED, server.url), "toy", tokenizer).open()


def test_a_server_of_texts_gets_the_text_of_the_tokens(tokenizer):
    def texts_only(asked):
        return Says() if isinstance(asked["prompt"], str) else refuses(422, "prompt must be a string")

    text = "The magic number is 5.\n"
    with scripted(texts_only) as server:
        asks = Client(Server(SERVED, server.url, "its name"), "toy", tokenizer)
        asks.open()
        asks.complete(tokenizer(text).input_ids, 4)
        assert [asked["prompt"] for asked in server.asked[1:]] == ["The", text]
        assert {asked["model"] for asked in server.asked} == {"its name"}
        assert "ignore_eos" not in server.asked[-1]
        whole = tokenizer(" number").input_ids
        parts = [token for letter in " number" for token in tokenizer.encode(letter, add_special_tokens=False)]
        assert parts != whole
        with pytest.raises(UnsupportedError, match="no text is cut into the tokens of this prompt"):
            asks.complete(parts, 4)


def test_so_many_requests_are_at_the_server_at_once(tokenizer):
    three = threading.Barrier(3)  # opens when three are there
    with scripted(Says(("a", "b"), wait=lambda: three.wait(60))) as server:
        asks = Client(Server(SERVED, server.url), "toy", tokenizer)
        found, seconds = asks.under_load([[1, 2]] * 6, 2, Load(3), 0)
        assert server.most == 3
        assert len(found) == len(server.asked) == 6
        assert seconds > 0
        assert all(asked["ignore_eos"] for asked in server.asked)


def test_a_load_that_is_refused_says_how_much_of_it(tokenizer):
    with scripted(lambda asked: refuses(429, "full") if asked["prompt"] == [2] else Says()) as server:
        asks = Client(Server(SERVED, server.url), "toy", tokenizer)
        assert len(asks.under_load([[1], [1]], 2, Load(rate=1000), 0)[0]) == 2
        with pytest.raises(UnavailableError, match=r"2 of 3 requests failed, the first: .* answers 429: full"):
            asks.under_load([[1], [2], [2]], 2, Load(rate=1000), 0)
        assert len(server.asked) == 5
